//! Both ends of the block protocol, against a peer that writes anything into the ring's page.

use std::time::Duration;

use xen_blkif::back::{self, Attach, Limits, Statistics};
use xen_blkif::protocol::{Abi, SECTOR_SIZE};
use xen_blkif::ramdisk::RamDisk;
use xen_blkif::{BlockDevice, Geometry, front};
use xen_hal::{Access, Clock, EventChannels, GrantRef, Pages, Port, PortNumber};
use xen_ring::LentPage;
use xenstore_client::Error;
use xenstore_client::xenbus::Failure;

use super::disturb::{INDICES, Input, Slots, disturb, map, state};
use crate::{Domain, SimGrant, Toolstack, Xen};

const DEVICE: u32 = 51712;
/// Where words of slots are, and how large their bytes are: most fields of a request are small.
const SLOTS: Slots = Slots { size: 112, count: 32, below: [8, 12, 2, 1] };

/// blkback, against a guest that asks for anything.
pub fn blkback(data: &[u8]) {
    let mut input = Input(data);
    let xen = Xen::new(u64::from(input.byte()));
    let abi = if input.byte() & 1 == 0 { Abi::X86_64 } else { Abi::X86_32 };
    let toolstack = xen.toolstack();
    let (guest, server) = (xen.domain(), xen.domain());
    let (store, memory) = (server.store(), server.clone());
    let disk = RamDisk::new(server.clone(), 64).expect("memory for 64 sectors");
    let served = disk.clone();
    server
        .spawn(async move {
            let open = async |_: &Attach| Ok::<_, Failure>(served.clone());
            let ended = |_: &Attach, _: Statistics| {};
            let limits = Limits { in_flight: 16 << 10, ..Limits::default() };
            drop(back::serve(&store, memory.clone(), memory.clone(), memory, limits, open, ended).await);
        })
        .detach();
    let (own, peer) = (guest.clone(), server.id());
    let (ring, data, port) = xen.run(async move {
        let lend = |access| {
            let mut page = LentPage::<SimGrant>::new(own.alloc_page().expect("a page"));
            page.lend(&own, peer, access).expect("a grant");
            page
        };
        let (ring, data) = (lend(Access::ReadWrite), [lend(Access::ReadWrite), lend(Access::ReadOnly)]);
        for index in [1, 3] {
            ring.store(INDICES[index], 1);
        }
        let port = own.alloc_unbound(peer).expect("a port");
        let connect = async {
            let store = own.store();
            toolstack.attach_with("vbd", own.id(), peer, DEVICE, &[("mode", "w")]).await?;
            let (front, back) = Toolstack::paths("vbd", own.id(), peer, DEVICE);
            state(&store, &back, 2).await?;
            store.set(&format!("{front}/ring-ref"), &ring.reference().expect("it is lent")).await?;
            store.set(&format!("{front}/event-channel"), &port.number()).await?;
            store.set(&format!("{front}/protocol"), abi.name()).await?;
            store.set(&format!("{front}/state"), &3_u32).await?;
            state(&store, &back, 4).await
        };
        connect.await.expect("the store works");
        (ring, data, port)
    });
    let references = [data[0].reference(), data[1].reference()].map(|reference| reference.expect("it is lent"));
    disturb(&xen, &mut input, &[&ring], SLOTS, &port, &references);
    drop((ring, data, port));
    xen.end();
}

/// blkfront, against a backend that answers anything.
pub fn blkfront(data: &[u8]) {
    let mut input = Input(data);
    let xen = Xen::new(u64::from(input.byte()));
    let toolstack = xen.toolstack();
    let (guest, server) = (xen.domain(), xen.domain());
    let offers = [
        ("sectors", input.word() % 3000),
        ("sector-size", 512 << (input.byte() % 4)),
        ("info", u32::from(input.byte() % 8)),
        ("feature-max-indirect-segments", input.word() % 600),
        ("feature-persistent", u32::from(input.byte() % 2)),
        ("feature-flush-cache", u32::from(input.byte() % 2)),
        ("feature-barrier", u32::from(input.byte() % 2)),
        ("feature-discard", u32::from(input.byte() % 2)),
    ];
    let (own, peer) = (server.clone(), guest.id());
    let made = xen.run({
        let guest = guest.clone();
        async move {
            toolstack.attach_with("vbd", peer, own.id(), DEVICE, &[]).await?;
            start_users(&guest);
            let store = own.store();
            let (front, back) = Toolstack::paths("vbd", peer, own.id(), DEVICE);
            store.set(&format!("{back}/state"), &2_u32).await?;
            state(&store, &front, 3).await?;
            let reference: GrantRef = store.read_as(&format!("{front}/ring-ref")).await?;
            let port: PortNumber = store.read_as(&format!("{front}/event-channel")).await?;
            for (key, value) in offers {
                store.set(&format!("{back}/{key}"), &value).await?;
            }
            store.set(&format!("{back}/state"), &4_u32).await?;
            Ok::<_, Error>((map(&own, peer, reference), own.bind_interdomain(peer, port).expect("a port")))
        }
    });
    let (ring, port) = made.expect("the store works");
    disturb(&xen, &mut input, &[&ring], SLOTS, &port, &[GrantRef(8), GrantRef(9)]);
    drop((ring, port));
    xen.end();
}

/// Some who use the disk, and some who give up.
fn start_users(guest: &Domain) {
    let store = guest.store();
    let path = format!("device/vbd/{DEVICE}");
    let options = front::Options::default();
    let (disk, runner) = front::connect(&store, guest.clone(), guest.clone(), guest.clone(), &path, options);
    guest.spawn(async move { drop(runner.await) }).detach();
    for index in 0..4_u64 {
        let (disk, clock) = (disk.clone(), guest.clone());
        guest
            .spawn(async move {
                for turn in 0..20_u64 {
                    let Geometry { sectors, sector_size, .. } = disk.geometry();
                    let mut bytes = vec![turn as u8; (1 << (index * 3)) * sector_size.max(512) as usize];
                    let sector = (turn * 8) % sectors.max(1) / 8 * 8;
                    match turn % 5 {
                        0 | 1 => drop(disk.read_bytes(sector, &mut bytes).await),
                        2 => drop(disk.write_bytes(sector, &bytes).await),
                        3 => drop(disk.flush().await),
                        _ => drop(disk.discard(sector, (bytes.len() / SECTOR_SIZE) as u64, false).await),
                    }
                    clock.sleep(Duration::from_micros(10)).await;
                }
            })
            .detach();
    }
}

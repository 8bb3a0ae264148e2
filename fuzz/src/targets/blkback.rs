//! blkback, against a guest that asks for anything.

use xen_blkif::back::{self, Attach, Limits, Statistics};
use xen_blkif::protocol::Abi;
use xen_blkif::ramdisk::RamDisk;
use xen_hal::{Access, EventChannels, Port};
use xen_sim::{Toolstack, Xen};
use xenstore_client::xenbus::Failure;

use crate::disturb::{BLOCK_SLOTS, INDICES, disturb};
use crate::input::Input;
use crate::peer::{lend, state};

const DEVICE: u32 = 51712;

pub(super) const SHORT: u32 = 300;

pub(super) fn seeds() -> Vec<Vec<u8>> {
    Vec::new()
}

pub(super) fn run(data: &[u8]) {
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
        let lend = |access| lend(&own, peer, access);
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
    disturb(&xen, &mut input, &[&ring], BLOCK_SLOTS, &port, &references);
    drop((ring, data, port));
    xen.end();
}

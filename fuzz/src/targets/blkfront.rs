//! blkfront, against a backend that answers anything.

use std::time::Duration;

use xen_blkif::protocol::SECTOR_SIZE;
use xen_blkif::{BlockDevice, Geometry, front};
use xen_hal::{Clock, EventChannels, GrantRef, PortNumber};
use xen_sim::{Domain, Xen};

use crate::disturb::{BLOCK_SLOTS, disturb};
use crate::input::Input;
use crate::peer::{attach, map, read, until_state, write};
use crate::second::second_processor;

const DEVICE: u32 = 51712;

pub(super) const SHORT: u32 = 60;

pub(super) fn seeds() -> Vec<Vec<u8>> {
    Vec::new()
}

pub(super) fn run(data: &[u8]) {
    let mut input = Input(data);
    let xen = Xen::new(u64::from(input.byte()));
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
    let (front, back) = attach(&xen, "vbd", (&guest, &server), DEVICE, &[]);
    start_users(&guest);
    let write = |key: &str, value: u32| write(&xen, server.id(), &format!("{back}/{key}"), value);
    write("state", 2);
    until_state(&xen, &front, 3);
    let reference = GrantRef(read(&xen, &format!("{front}/ring-ref")).expect("it is written"));
    let port = PortNumber(read(&xen, &format!("{front}/event-channel")).expect("it is written"));
    for (key, value) in offers {
        write(key, value);
    }
    write("state", 4);
    let (ring, port) =
        (map(&server, guest.id(), reference), server.bind_interdomain(guest.id(), port).expect("a port"));
    second_processor(&server, &mut input);
    disturb(&xen, &mut input, &[&ring], BLOCK_SLOTS, &port, &[GrantRef(8), GrantRef(9)]);
    server.one_processor();
    drop((ring, port));
    xen.check_budgets();
    xen.end();
}

/// Some who use the disk, and some who give up.
fn start_users(guest: &Domain) {
    let store = guest.store();
    let path = format!("device/vbd/{DEVICE}");
    let options = front::Options::default();
    let (disk, runner) = front::connect(&store, guest.clone(), &path, options);
    guest.spawn(async move { drop(runner.await) }).detach();
    for index in 0..4_u64 {
        let (disk, clock) = (disk.clone(), guest.clone());
        guest
            .spawn(async move {
                // One buffer for all turns: to fill up to 2 MiB anew for each took most of the target's time.
                let mut bytes = Vec::new();
                for turn in 0..20_u64 {
                    let Geometry { sectors, sector_size, .. } = disk.geometry();
                    bytes.resize((1 << (index * 3)) * sector_size.max(512) as usize, turn as u8);
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

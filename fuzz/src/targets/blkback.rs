//! blkback, against a guest that asks for anything.

use std::fmt::Display;

use xen_blkif::back::{self, Attachment, Limits, Statistics};
use xen_blkif::protocol::Abi;
use xen_blkif::ramdisk::RamDisk;
use xen_hal::{Access, EventChannels, Port};
use xen_sim::Xen;
use xenbus::Failure;

use crate::disturb::{BLOCK_SLOTS, INDICES, disturb};
use crate::input::Input;
use crate::peer::{attach, grant_page, until_state, write};
use crate::second::second_processor;

const DEVICE: u32 = 51712;

pub(super) const SHORT: u32 = 60;

pub(super) fn seeds() -> Vec<Vec<u8>> {
    Vec::new()
}

pub(super) fn run(data: &[u8]) {
    let mut input = Input(data);
    let xen = Xen::new(u64::from(input.byte()));
    let abi = if input.byte() & 1 == 0 { Abi::X86_64 } else { Abi::X86_32 };
    let (guest, server) = (xen.domain(), xen.domain());
    let (store, memory) = (server.store(), server.clone());
    let disk = RamDisk::new(server.clone(), 64).expect("memory for 64 sectors");
    let served = disk.clone();
    server
        .spawn(async move {
            let open = async |_: &Attachment| Ok::<_, Failure>(served.clone());
            let ended = |_: &Attachment, _: Statistics| {};
            let limits = Limits::default().with_in_flight(16 << 10);
            drop(back::serve(&store, memory, limits, open, ended).await);
        })
        .detach();
    let (front, back) = attach(&xen, "vbd", (&guest, &server), DEVICE, &[("mode", "w")]);
    let grant = |access| grant_page(&guest, server.id(), access);
    let (ring, data) = (grant(Access::ReadWrite), [grant(Access::ReadWrite), grant(Access::ReadOnly)]);
    for index in [1, 3] {
        ring.store(INDICES[index], 1);
    }
    let port = guest.alloc_unbound(server.id()).expect("a port");
    until_state(&xen, &back, 2);
    let write = |key: &str, value: &dyn Display| write(&xen, guest.id(), &format!("{front}/{key}"), value);
    write("ring-ref", &ring.reference().expect("it is granted").0);
    write("event-channel", &port.number().0);
    write("protocol", &abi.name());
    write("state", &3);
    until_state(&xen, &back, 4);
    let references = [data[0].reference(), data[1].reference()].map(|reference| reference.expect("it is granted"));
    second_processor(&guest, &mut input);
    disturb(&xen, &mut input, &[&ring], BLOCK_SLOTS, &port, &references);
    guest.one_processor();
    drop((ring, data, port));
    xen.check_budgets();
    xen.end();
}

//! netback, against a guest that sends and asks for anything.

use xen_hal::Access;
use xen_netif::back::{Checksum, Packet};
use xen_sim::Xen;

use crate::disturb::{TX_SLOTS, disturb};
use crate::input::Input;
use crate::net::{Guest, connect};
use crate::peer::grant_page;
use crate::second::second_processor;

pub(super) const SHORT: u32 = 60;

pub(super) fn seeds() -> Vec<Vec<u8>> {
    // Index by index, and slot by slot: packets of one slot and of two.
    let one = [0, 0, 2, 0, 0, 0, 0x08, 0, 0, 1, 2, 0, 1, 2, 0, 0, 0, 60, 0, 0x81];
    vec![[&[0, 0x7f, 0], &one[..]].concat(), [&[1, 3, 0], &one[..], &one[..], &[0x90, 5]].concat()]
}

pub(super) fn run(data: &[u8]) {
    let mut input = Input(data);
    let xen = Xen::new(u64::from(input.byte()));
    // What comes is sent back, also as if its checksum was blank.
    let packets = |packet: Packet| vec![Packet { checksum: Checksum::Blank, ..packet.clone() }, packet];
    let features = input.byte();
    let Guest { domain, server, tx, rx, port } = connect(&xen, features, packets);
    let data = [Access::ReadWrite, Access::ReadOnly].map(|access| grant_page(&domain, server.id(), access));
    second_processor(&domain, &mut input);
    // Something that looks like a packet, as far as it goes.
    for (page, bytes) in data.iter().zip([&[0x45_u8, 0, 0, 60][..], &[0x60, 0, 0, 0, 0, 40, 6]]) {
        page.write(14, bytes);
        page.write(12, if bytes[0] == 0x45 { &[8, 0] } else { &[0x86, 0xdd] });
        page.write(23, &[6]);
    }
    let references = [data[0].reference(), data[1].reference()].map(|reference| reference.expect("it is granted"));
    disturb(&xen, &mut input, &[&tx, &rx], TX_SLOTS, &port, &references);
    domain.one_processor();
    drop((tx, rx, data, port));
    xen.check_budgets();
    xen.end();
}

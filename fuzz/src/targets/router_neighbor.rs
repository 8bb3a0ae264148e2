//! A client's ARP packets and neighbour discovery on a gate's port.

use std::net::{Ipv4Addr, Ipv6Addr};

use sarab_router::services::advertise::solicits_router;
use sarab_router::services::neighbor::{Answer, Client, arp, neighbor};
use sarab_router::services::{GATE_MAC, Mac};

use crate::input::Input;

pub(super) const SHORT: u32 = 20_000;

const MAC: Mac = [0, 0x16, 0x3e, 0, 0, 1];
const V4: Ipv4Addr = Ipv4Addr::new(10, 137, 0, 7);
const V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 7);
const CLIENT: Client<'static> = Client { mac: MAC, v4: &[V4], v6: &[V6] };

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let ask = |sender: Ipv4Addr, target: u8| {
        [&[0, 0, 1, 8, 0, 6, 4, 0, 1][..], &MAC, &sender.octets(), &[0; 6], &[10, 137, 0, target]].concat()
    };
    let mac = [&[1, 1][..], &MAC].concat();
    let message = |kind: u8, from: Ipv6Addr, target: u16, options: &[u8]| {
        let target = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, target).octets();
        [&[1][..], &from.octets(), &[kind, 0, 0, 0, 0, 0, 0, 0], &target, options].concat()
    };
    vec![
        ask(V4, 1),
        ask(Ipv4Addr::UNSPECIFIED, 7),
        ask(Ipv4Addr::UNSPECIFIED, 8),
        message(135, V6, 8, &mac),
        message(135, Ipv6Addr::UNSPECIFIED, 8, &[]),
        message(136, V6, 7, &[&[2, 1][..], &MAC].concat()),
        [&[1][..], &V6.octets(), &[133, 0, 0, 0, 0, 0, 0, 0], &mac].concat(),
        [&[1][..], &V6.octets(), &[134, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &mac].concat(),
    ]
}

pub(super) fn run(data: &[u8]) {
    let mut input = Input(data);
    let frame = match input.byte() % 3 {
        0 => [&[0xff; 6][..], &MAC, &[8, 6], input.0].concat(),
        1 => discovery(input.0),
        _ => input.0.to_vec(),
    };
    match arp(&frame, GATE_MAC, &CLIENT) {
        Answer::Reply(reply) => {
            assert_eq!((reply.len(), &reply[..12]), (42, &[MAC, GATE_MAC].concat()[..]));
            // It is the gate's MAC that has the address that was asked for, which is not the client's.
            assert_eq!((&reply[22..28], &reply[28..32]), (&GATE_MAC[..], &frame[38..42]));
            assert_ne!(reply[28..32], V4.octets());
        }
        Answer::Spoofed(spoof) => drop(spoof.to_string()),
        Answer::Nothing => {}
    }
    match neighbor(&frame, GATE_MAC, &CLIENT) {
        Answer::Reply(reply) => {
            assert_eq!((reply.len(), &reply[..12], reply[54]), (86, &[MAC, GATE_MAC].concat()[..], 136));
            assert_eq!((&reply[22..38], &reply[62..78]), (&frame[62..78], &frame[62..78]));
            assert!(reply[62..78] != V6.octets() && frame[54] == 135);
            assert_eq!(solicits_router(&frame, GATE_MAC, &CLIENT), Ok(false));
        }
        Answer::Spoofed(spoof) => drop(spoof.to_string()),
        Answer::Nothing => {}
    }
    if solicits_router(&frame, GATE_MAC, &CLIENT) == Ok(true) {
        assert_eq!((frame[54], &frame[6..12]), (133, &MAC[..]));
    }
}

/// A message of ICMPv6 to all nodes, behind its sender's address, with its right sum.
fn discovery(bytes: &[u8]) -> Vec<u8> {
    let (from, message) = bytes.split_at(bytes.len().min(16));
    let mut frame = [&[0x33, 0x33, 0, 0, 0, 1][..], &MAC, &[0x86, 0xdd, 0x60, 0, 0, 0]].concat();
    frame.extend((message.len() as u16).to_be_bytes());
    frame.extend([58, 255]);
    frame.extend(from);
    frame.resize(38, 0);
    frame.extend(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).octets());
    frame.extend(message);
    if frame.len() >= 58 {
        frame[56..58].fill(0);
        let words = frame[22..].chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0)));
        let mut sum = words.sum::<u32>() + 58 + (frame.len() - 54) as u32;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        frame[56..58].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    }
    frame
}

//! A client's frames to a gate's DHCP server.

use std::net::Ipv4Addr;

use sarab_router::services::dhcp::{Offer, Response, is_request, respond};

use crate::input::Input;

pub(super) const SHORT: u32 = 20_000;

const MAC: [u8; 6] = [0, 0x16, 0x3e, 0, 0, 1];
const GATE: Ipv4Addr = Ipv4Addr::new(10, 137, 0, 1);
const ADDRESS: [u8; 4] = [10, 137, 0, 7];

pub(super) fn seeds() -> Vec<Vec<u8>> {
    // What is offered, the client's own address, flags, then options.
    let message = |offer: u8, own: u8, options: &[u8]| [&[offer, own, 0], options].concat();
    vec![
        message(0, 0, &[53, 1, 1, 55, 4, 1, 3, 6, 121, 255]),
        message(3, 0, &[53, 1, 3, 50, 4, 10, 137, 0, 7, 54, 4, 10, 137, 0, 1, 61, 2, 0, 1, 57, 2, 5, 220, 255]),
        message(7, 1, &[53, 1, 3, 255]),
        message(1, 1, &[53, 1, 8, 255]),
        message(1, 1, &[53, 1, 7, 52, 1, 3, 255]),
        message(1, 0, &[53, 1, 4, 50, 4, 10, 137, 0, 7, 255]),
        message(0x80, 0, &[]),
    ]
}

pub(super) fn run(data: &[u8]) {
    let mut input = Input(data);
    let kind = input.byte();
    let mut offer = Offer::new(MAC, ADDRESS.into(), if kind & 1 == 0 { 32 } else { 24 }, GATE);
    if kind & 2 != 0 {
        offer.name_servers = vec![GATE; usize::from(kind >> 2 & 15) * 5];
        (offer.domain, offer.host_name, offer.mtu) = (Some("lan.example".into()), Some("mail".into()), Some(1400));
    }
    let frame = if kind & 0x80 == 0 { frame(&mut input) } else { input.0.to_vec() };
    let response = respond(&frame, &offer);
    assert!(response == Response::Nothing || is_request(&frame, &offer));
    let Response::Reply(reply) = response else { return };
    assert!(reply.len() <= 14 + 1500 && reply[..6] != [0; 6]);
    assert_eq!(reply[6..14], [&offer.server_mac[..], &[8, 0]].concat());
    let message = &reply[42..];
    assert_eq!((message[0], &message[28..34]), (2, &MAC[..]));
    assert!(message[16..20] == ADDRESS || message[16..20] == [0; 4]);
    // Its options are whole.
    let mut options = &message[240..];
    let mut kinds = Vec::new();
    while let [option, len, rest @ ..] = options
        && *option != 255
    {
        kinds.push((*option, rest[0]));
        options = &rest[usize::from(*len)..];
    }
    assert_eq!(options[0], 255);
    assert!(kinds[0].0 == 53 && matches!(kinds[0].1, 2 | 5 | 6), "{kinds:?}");
    if kinds[0].1 == 6 {
        assert_eq!((&reply[..6], &message[16..20]), (&[0xff; 6][..], &[0; 4][..]));
    }
}

/// The client's message with these options, in all its frames.
fn frame(input: &mut Input<'_>) -> Vec<u8> {
    let (own, flags) = (input.byte(), input.byte());
    let mut message = vec![0; 240];
    message[..4].copy_from_slice(&[1, 1, 6, 0]);
    message[10] = flags & 0x80;
    if own & 1 != 0 {
        message[12..16].copy_from_slice(&ADDRESS);
        message[15] ^= own >> 4;
    }
    message[28..34].copy_from_slice(&MAC);
    // Options may be in the fields of names, too.
    if let Some(more) = input.0.get(20..).filter(|_| flags & 1 != 0) {
        let len = more.len().min(192);
        message[44..44 + len].copy_from_slice(&more[..len]);
    }
    message[236..].copy_from_slice(&[99, 130, 83, 99]);
    message.extend(input.0);
    let len = message.len() as u16;
    let mut frame = [&[0xff; 6][..], &MAC, &[8, 0, 0x45, 0]].concat();
    frame.extend((len + 28).to_be_bytes());
    frame.extend([0, 0, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 0, 68, 0, 67]);
    frame.extend((len + 8).to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(message);
    frame
}

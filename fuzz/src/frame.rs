//! Ethernet frames that are plausible but for what the input changes: tags, IPv4 options, IPv6 extension headers, TCP
//! options, fragments, checksums that are right, blank or neither.

use xen_netif::checksum;
use xen_netif::headers::{Headers, TCP, UDP};

use crate::input::Input;

/// The addresses' bytes, which are never changed: the last of them tells which frame it is.
const ADDRESSES: usize = 12;
/// IPv6 extension headers: hop-by-hop, routing, fragment, destination options, authentication.
const EXTENSIONS: [u8; 5] = [0, 43, 44, 60, 51];

/// What the checksum of TCP or UDP is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Checksum {
    Right,
    Blank,
    Any,
}

/// A frame, which is number `number` of its sender.
pub(crate) fn frame(input: &mut Input<'_>, number: u8) -> (Vec<u8>, Checksum) {
    let kind = input.byte();
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 1, number];
    for tag in 0..(kind >> 1 & 3) % 3 {
        frame.extend(if tag == 0 { [0x81, 0, 0, input.byte()] } else { [0x88, 0xa8, 0, input.byte()] });
    }
    let protocol = [TCP, TCP, UDP, 1][usize::from(kind >> 3 & 3)];
    let transport = transport(input, protocol);
    match kind & 1 {
        0 => ipv4(&mut frame, input, protocol, &transport),
        _ => ipv6(&mut frame, input, protocol, &transport),
    }
    let checksum = checksum_of(&mut frame, kind >> 5 & 3);
    for _ in 0..input.byte().saturating_sub(0xf0) {
        let at = ADDRESSES + usize::from(input.word() as u16) % (frame.len() - ADDRESSES);
        frame[at] = input.byte();
    }
    (frame, checksum)
}

fn checksum_of(frame: &mut [u8], kind: u8) -> Checksum {
    let Some(headers) = Headers::parse(frame) else { return Checksum::Any };
    match kind {
        0 | 1 if checksum::leave_blank(frame, &headers) => Checksum::Blank,
        2 if checksum::complete(frame, &headers) => Checksum::Right,
        _ => Checksum::Any,
    }
}

/// A header and a payload: short ones, and some of many pages.
fn transport(input: &mut Input<'_>, protocol: u8) -> Vec<u8> {
    let size = match input.byte() {
        small @ 0..0xc0 => usize::from(small) * 8,
        _ => usize::from(input.word() as u16),
    };
    let mut bytes: Vec<u8> = Vec::new();
    match protocol {
        TCP => {
            let options = usize::from(input.byte() % 11) * 4;
            let ports = [0, 80, 0, input.byte() % 4];
            bytes.extend(ports);
            bytes.extend([input.word().to_be_bytes(), input.word().to_be_bytes()].concat());
            bytes.extend([(((20 + options) / 4) << 4) as u8, input.byte(), 0xff, 0xff, 0, 0, 0, 0]);
            let option = [2, 4, input.byte(), input.byte()];
            bytes.extend(option.iter().cycle().take(options));
        }
        UDP => {
            bytes.extend([0, 53, 0, 53]);
            bytes.extend(((size + 8) as u16).to_be_bytes());
            bytes.extend([0, 0]);
        }
        _ => bytes.extend([8, 0, 0, 0]),
    }
    bytes.resize(bytes.len() + size, 7);
    // A packet's bytes have 16 bits.
    bytes.truncate(65_000);
    bytes
}

fn ipv4(frame: &mut Vec<u8>, input: &mut Input<'_>, protocol: u8, transport: &[u8]) {
    let options = usize::from(input.byte().saturating_sub(0xf0) % 11) * 4;
    let fragment = if input.byte() > 0xf0 { input.word() as u16 & 0x3fff } else { 0x4000 };
    let total = (20 + options + transport.len()) as u16;
    frame.extend([8, 0, 0x45 + (options / 4) as u8, 0]);
    frame.extend([total.to_be_bytes(), [1, 2], fragment.to_be_bytes()].concat());
    frame.extend([64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    frame.resize(frame.len() + options, 1);
    frame.extend(transport);
    if let Some(headers) = Headers::parse(frame) {
        checksum::complete_ipv4(frame, &headers);
    }
}

fn ipv6(frame: &mut Vec<u8>, input: &mut Input<'_>, protocol: u8, transport: &[u8]) {
    let count = usize::from(input.byte().saturating_sub(0x80) % 12);
    let kinds: Vec<u8> = (0..count).map(|_| EXTENSIONS[usize::from(input.byte()) % EXTENSIONS.len()]).collect();
    let mut extensions = Vec::new();
    for (index, kind) in kinds.iter().enumerate() {
        let next = kinds.get(index + 1).copied().unwrap_or(protocol);
        // Some are as long as they can be.
        let length = match input.byte() {
            255 => 255,
            other => other % 3,
        };
        let length = if *kind == 44 { 0 } else { length };
        extensions.extend([next, length, 0, if *kind == 44 { input.byte() } else { 0 }, 0, 0, 0, 0]);
        extensions.resize(extensions.len() + usize::from(length) * 8, 0);
    }
    extensions.extend(transport);
    extensions.truncate(65_000);
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
    frame.extend((extensions.len() as u16).to_be_bytes());
    frame.extend([kinds.first().copied().unwrap_or(protocol), 64]);
    frame.extend([1; 16]);
    frame.extend([2; 16]);
    frame.extend(extensions);
}

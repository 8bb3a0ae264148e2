//! What routers say of connections' paths, and what is sent then.

use std::time::Duration;

use xen_netif::fuzzing::Paths;
use xen_netif::headers::{Headers, TCP};

use crate::frame::frame;
use crate::input::Input;

pub(super) const SHORT: u32 = 3000;

pub(super) fn seeds() -> Vec<Vec<u8>> {
    // A large segment of either protocol, what a router says of it, and the same segment again.
    let segment = |kind: u8| {
        let end = &[0; 5][usize::from(kind)..];
        [&[0, kind, 0xff, 0, 20, 0, 0, 0, 1][..], &[0, 0, 0, 5, 0, 0, 0, 6, 0x10], end].concat()
    };
    let message = |mtu: u16| [&[2, 0][..], &mtu.to_le_bytes(), &[0; 2], &[0]].concat();
    [0, 1].map(|kind| [segment(kind), message(1400), segment(kind)].concat()).to_vec()
}

pub(super) fn run(data: &[u8]) {
    let mut input = Input(data);
    let mut paths = Paths::default();
    let mut now = Duration::ZERO;
    let mut last = Vec::new();
    while !input.0.is_empty() {
        let kind = input.byte();
        now += Duration::from_secs(u64::from(kind >> 2));
        if kind & 3 == 2 {
            let Some(message) = message(&mut input, &last) else { continue };
            if let Some(headers) = Headers::parse(&message) {
                paths.told(&message, &headers, now);
            }
            continue;
        }
        let (bytes, _) = frame(&mut input, 0);
        let Some(headers) = Headers::parse(&bytes).filter(|headers| headers.protocol == TCP) else { continue };
        if kind & 3 == 1 {
            paths.acknowledged(&bytes, &headers);
            continue;
        }
        if let Some(size) = paths.outgoing(&bytes, &headers, &|| now) {
            let length = headers.tcp_header(&bytes).expect("it was found");
            let whole = headers.transport - headers.ip + length + usize::from(size);
            assert!(whole >= if headers.v6 { 1280 } else { 552 }, "segments of {size} bytes");
        }
        last = bytes;
    }
}

/// A message of a router's that quotes a packet, some of whose bytes the input changes.
fn message(input: &mut Input<'_>, packet: &[u8]) -> Option<Vec<u8>> {
    let headers = Headers::parse(packet)?;
    let quoted = &packet[headers.ip..packet.len().min(headers.transport + 8)];
    let (flags, mtu) = (input.byte(), input.word() as u16);
    let source = headers.addresses(packet);
    let mut icmp = vec![if headers.v6 { 2 } else { 3 }, if headers.v6 { 0 } else { 4 }, 0, 0, 0, 0];
    icmp.extend(mtu.to_be_bytes());
    icmp.extend(quoted);
    for _ in 0..input.byte() & 3 {
        let at = usize::from(input.byte()) % icmp.len();
        icmp[at] = input.byte();
    }
    let len = (icmp.len() as u16).to_be_bytes();
    let mut frame = vec![2; 12];
    let mut summed = Vec::new();
    if headers.v6 {
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, len[0], len[1], 58, 64]);
        frame.extend([&[9; 16], &source[..16]].concat());
        summed.extend([&[9; 16], &source[..16], &[0, 0], &len, &[0, 0, 0, 58]].concat());
    } else {
        let total = (20 + icmp.len() as u16).to_be_bytes();
        frame.extend([8, 0, 0x45, 0, total[0], total[1], 0, 0, 0, 0, 64, 1, 0, 0, 9, 9, 9, 9]);
        frame.extend(&source[..4]);
    }
    if flags & 1 == 0 {
        icmp[2..4].fill(0);
        summed.extend(&icmp);
        let sum: u32 =
            summed.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
        let folded = (sum & 0xffff) + (sum >> 16);
        let folded = (folded & 0xffff) + (folded >> 16);
        icmp[2..4].copy_from_slice(&(!(folded as u16)).to_be_bytes());
    }
    frame.extend(icmp);
    Some(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The seeds get so far that a path is known.
    #[test]
    fn a_message_counts() {
        for seed in seeds() {
            let mut input = Input(&seed);
            let mut paths = Paths::default();
            input.byte();
            let (packet, _) = frame(&mut input, 0);
            let headers = Headers::parse(&packet).unwrap();
            assert_eq!(paths.outgoing(&packet, &headers, &|| Duration::ZERO), None);
            input.byte();
            let message = message(&mut input, &packet).unwrap();
            assert!(paths.told(&message, &Headers::parse(&message).unwrap(), Duration::ZERO));
        }
    }
}

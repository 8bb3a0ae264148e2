//! What hosts and routers of IPv6 send.

use std::net::Ipv6Addr;
use std::time::Duration;

use super::segment::MAC;

pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
pub const OWN: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0xff, 0xfe00, 1);
pub const NET: Ipv6Addr = Ipv6Addr::new(0xfd12, 0, 0, 0, 0, 0, 0, 0);
pub const FAR: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7);
pub const ECHO: u8 = 128;
pub const ECHO_REPLY: u8 = 129;
pub const SOLICITATION: u8 = 133;
pub const NEIGHBOR_SOLICITATION: u8 = 135;
pub const NEIGHBOR_ADVERTISEMENT: u8 = 136;

pub fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// The address of a neighbour, who is `fe80::NUMBER`.
pub fn neighbor(number: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, number.into())
}

pub fn neighbor_mac(number: u8) -> [u8; 6] {
    [2, 0, 0, 0, 9, number]
}

/// The stack's address in a network.
pub fn own(network: Ipv6Addr) -> Ipv6Addr {
    Ipv6Addr::from_bits(network.to_bits() | OWN.to_bits() & u128::from(u64::MAX))
}

/// A message from or by way of a neighbour.
pub fn icmp(by: u8, from: Ipv6Addr, to: Ipv6Addr, hops: u8, message: &[u8]) -> Vec<u8> {
    let mac = if to.is_multicast() { [0x33, 0x33, 0, 0, 0, 1] } else { MAC };
    let mut frame = [&mac[..], &neighbor_mac(by), &[0x86, 0xdd, 0x60, 0, 0, 0]].concat();
    frame.extend((message.len() as u16).to_be_bytes());
    frame.extend([58, hops]);
    frame.extend([from.octets(), to.octets()].concat());
    frame.extend(message);
    let words = frame[22..].chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0)));
    let mut sum = words.sum::<u32>() + 58 + message.len() as u32;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    frame[56..58].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    frame
}

/// An advertisement of the router with this number.
pub fn advertisement(router: u8, lifetime: u16, options: &[Vec<u8>]) -> Vec<u8> {
    let mut message = vec![134, 0, 0, 0, 64, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    message[6..8].copy_from_slice(&lifetime.to_be_bytes());
    message.extend(options.concat());
    icmp(router, neighbor(router), ALL_NODES, 255, &message)
}

pub fn prefix_with(network: Ipv6Addr, len: u8, valid: u32, preferred: u32) -> Vec<u8> {
    let times = [valid.to_be_bytes(), preferred.to_be_bytes(), [0; 4]].concat();
    [&[3, 4, len, 0xc0][..], &times, &network.octets()].concat()
}

pub fn prefix(network: Ipv6Addr) -> Vec<u8> {
    prefix_with(network, 64, 7200, 3600)
}

/// The type of the ICMPv6 message in a frame.
pub fn message_type(frame: &[u8]) -> Option<u8> {
    (frame.get(12..14)? == [0x86, 0xdd] && *frame.get(20)? == 58).then(|| frame.get(54).copied())?
}

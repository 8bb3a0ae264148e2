//! Other hosts on a segment: what they send, and what is sent to them.

use std::net::Ipv4Addr;

use super::segment::MAC;

pub type Mac = [u8; 6];

pub const OWN: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
pub const ALL: Mac = [0xff; 6];

/// A host with a MAC and an address of its own.
pub fn host(number: u16) -> (Mac, Ipv4Addr) {
    let [high, low] = number.to_be_bytes();
    ([2, 0, 0, 9, high, low], Ipv4Addr::new(10, 0, 4 + high, low))
}

pub fn ethernet(to: Mac, from: Mac, protocol: u16, packet: &[u8]) -> Vec<u8> {
    [&to[..], &from, &protocol.to_be_bytes(), packet].concat()
}

/// An ARP packet: a request of `target`, or an answer.
pub fn arp(is_request: bool, to: Mac, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Vec<u8> {
    let kind = if is_request { 1 } else { 2 };
    let packet =
        [&[0, 1, 8, 0, 6, 4, 0, kind][..], &sender.0, &sender.1.octets(), &target.0, &target.1.octets()].concat();
    ethernet(to, sender.0, 0x0806, &packet)
}

/// An ARP packet that the guest has sent.
#[derive(Debug, PartialEq, Eq)]
pub struct Arp {
    pub is_request: bool,
    pub to: Mac,
    pub sender: Ipv4Addr,
    pub target: Ipv4Addr,
}

pub fn parse_arp(frame: &[u8]) -> Option<Arp> {
    let address = |at: usize| Ipv4Addr::from(*frame[at..].first_chunk::<4>().unwrap());
    (frame.get(12..14)? == [8, 6]).then(|| {
        assert_eq!((&frame[6..12], &frame[22..28]), (&MAC[..], &MAC[..]), "the guest's own MAC");
        Arp { is_request: frame[21] == 1, to: *frame.first_chunk().unwrap(), sender: address(28), target: address(38) }
    })
}

fn sum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0)));
    let mut sum = words.sum::<u32>();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

/// An IPv4 packet.
pub fn ipv4(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let len = (20 + payload.len()) as u16;
    let mut packet = [&[0x45, 0][..], &len.to_be_bytes(), &[0, 0, 0, 0, 64, protocol, 0, 0]].concat();
    packet.extend(from.octets());
    packet.extend(to.octets());
    let check = sum(&packet);
    packet[10..12].copy_from_slice(&check);
    packet.extend(payload);
    packet
}

/// A ping from an address to the guest's, by way of a neighbour.
pub fn ping(by: Mac, from: Ipv4Addr, number: u16) -> Vec<u8> {
    let mut message = vec![8, 0, 0, 0, 0, 1];
    message.extend(number.to_be_bytes());
    let check = sum(&message);
    message[2..4].copy_from_slice(&check);
    ethernet(MAC, by, 0x0800, &ipv4(from, OWN, 1, &message))
}

/// A ping's answer: the MAC and the address that it goes to, and its number.
pub fn parse_pong(frame: &[u8]) -> Option<(Mac, Ipv4Addr, u16)> {
    let is_pong = frame.get(12..14)? == [8, 0] && *frame.get(23)? == 1 && *frame.get(34)? == 0;
    is_pong.then(|| {
        let number = u16::from_be_bytes([frame[40], frame[41]]);
        (*frame.first_chunk().unwrap(), Ipv4Addr::from(*frame[30..].first_chunk::<4>().unwrap()), number)
    })
}

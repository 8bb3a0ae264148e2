//! Frames that are sent to clients, and what is read of those that they send. The formats are smoltcp's.

use alloc::vec;
use alloc::vec::Vec;
use core::net::{Ipv4Addr, Ipv6Addr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, Icmpv6Packet, IpProtocol, Ipv4Packet, Ipv4Repr, Ipv6Packet,
    Ipv6Repr, UdpPacket, UdpRepr,
};

use super::Mac;

pub(super) const ETHERNET: usize = 14;
pub(super) const BROADCAST: Mac = [0xff; 6];
pub(super) const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const IPV6: usize = 40;

/// Writes an Ethernet header.
pub(super) fn header(frame: &mut [u8], from: Mac, to: Mac, protocol: EthernetProtocol) {
    let mut frame = EthernetFrame::new_unchecked(frame);
    frame.set_src_addr(EthernetAddress(from));
    frame.set_dst_addr(EthernetAddress(to));
    frame.set_ethertype(protocol);
}

/// A frame of one kind: who has sent it, whom to, and what is in it.
pub(super) fn parse(frame: &[u8], protocol: EthernetProtocol) -> Option<(Mac, Mac, &[u8])> {
    let frame = EthernetFrame::new_checked(frame).ok()?;
    (frame.ethertype() == protocol).then(|| (frame.src_addr().0, frame.dst_addr().0, frame.payload()))
}

/// One end of a datagram.
#[derive(Clone, Copy)]
pub(super) struct End {
    pub(super) mac: Mac,
    pub(super) address: Ipv4Addr,
    pub(super) port: u16,
}

/// A datagram in a frame.
pub(super) fn datagram(from: End, to: End, payload: &[u8]) -> Vec<u8> {
    let udp = UdpRepr { src_port: from.port, dst_port: to.port };
    let ip = Ipv4Repr {
        src_addr: from.address,
        dst_addr: to.address,
        next_header: IpProtocol::Udp,
        payload_len: udp.header_len() + payload.len(),
        hop_limit: 64,
    };
    let checksums = ChecksumCapabilities::default();
    let mut bytes = vec![0; ETHERNET + ip.buffer_len() + ip.payload_len];
    header(&mut bytes, from.mac, to.mac, EthernetProtocol::Ipv4);
    let mut packet = Ipv4Packet::new_unchecked(&mut bytes[ETHERNET..]);
    ip.emit(&mut packet, &checksums);
    let mut packet = UdpPacket::new_unchecked(packet.payload_mut());
    let write = |bytes: &mut [u8]| bytes.copy_from_slice(payload);
    udp.emit(&mut packet, &from.address.into(), &to.address.into(), payload.len(), write, &checksums);
    bytes
}

/// The datagram to a port in an IPv4 packet: where it was sent to, and its payload. Its checksum is not looked at: between
/// domains it may be open.
pub(super) fn parse_datagram(packet: &[u8], port: u16) -> Option<(Ipv4Addr, &[u8])> {
    let packet = Ipv4Packet::new_checked(packet).ok()?;
    if packet.version() != 4
        || packet.next_header() != IpProtocol::Udp
        || packet.more_frags()
        || packet.frag_offset() != 0
    {
        return None;
    }
    let to = packet.dst_addr();
    let udp = UdpPacket::new_checked(packet.payload()).ok()?;
    (udp.dst_port() == port).then(|| (to, udp.payload()))
}

/// A message of neighbour discovery that was received, with its options checked for their lengths.
pub(super) struct Discovery<'a> {
    pub(super) mac: Mac,
    pub(super) from: Ipv6Addr,
    pub(super) kind: u8,
    message: &'a [u8],
}

pub(super) const ROUTER_SOLICITATION: u8 = 133;
pub(super) const ROUTER_ADVERTISEMENT: u8 = 134;
pub(super) const NEIGHBOR_SOLICITATION: u8 = 135;
pub(super) const NEIGHBOR_ADVERTISEMENT: u8 = 136;
/// Options with the link-layer address of a message's source, and of its target.
pub(super) const SOURCE_MAC: u8 = 1;
pub(super) const TARGET_MAC: u8 = 2;

impl<'a> Discovery<'a> {
    /// `None` for what is not a valid message (RFC 4861, 6.1 and 7.1).
    pub(super) fn parse(frame: &'a [u8]) -> Option<Discovery<'a>> {
        let (mac, _, packet) = parse(frame, EthernetProtocol::Ipv6)?;
        let packet = Ipv6Packet::new_checked(packet).ok()?;
        // Whoever is not on the link cannot send with this hop limit.
        if packet.version() != 6 || packet.next_header() != IpProtocol::Icmpv6 || packet.hop_limit() != 255 {
            return None;
        }
        let (from, to) = (packet.src_addr(), packet.dst_addr());
        let message = packet.payload();
        let icmp = Icmpv6Packet::new_checked(message).ok()?;
        if message[1] != 0 || !icmp.verify_checksum(&from, &to) {
            return None;
        }
        let discovery = Discovery { mac, from, kind: message[0], message };
        let mut rest = message.get(discovery.options_at()?..)?;
        while !rest.is_empty() {
            let len = usize::from(*rest.get(1)?) * 8;
            if len == 0 {
                return None;
            }
            rest = rest.get(len..)?;
        }
        Some(discovery)
    }

    /// The address that a solicitation or an advertisement of a neighbour is about.
    pub(super) fn target(&self) -> Ipv6Addr {
        self.message[8..].first_chunk::<16>().map_or(Ipv6Addr::UNSPECIFIED, |bytes| Ipv6Addr::from(*bytes))
    }

    /// The MAC in the first option of a kind.
    pub(super) fn option(&self, kind: u8) -> Option<Mac> {
        let mut rest = self.message.get(self.options_at()?..)?;
        while let [found, units, ..] = rest {
            if *found == kind {
                return rest.get(2..8)?.first_chunk().copied();
            }
            rest = rest.get(usize::from(*units).max(1) * 8..)?;
        }
        None
    }

    fn options_at(&self) -> Option<usize> {
        match self.kind {
            ROUTER_SOLICITATION => Some(8),
            ROUTER_ADVERTISEMENT => Some(16),
            NEIGHBOR_SOLICITATION | NEIGHBOR_ADVERTISEMENT => Some(24),
            _ => None,
        }
    }
}

/// A message of ICMPv6 in a frame, its checksum filled in.
pub(super) fn icmpv6(from: (Mac, Ipv6Addr), to: (Mac, Ipv6Addr), message: &[u8]) -> Vec<u8> {
    let ip = Ipv6Repr {
        src_addr: from.1,
        dst_addr: to.1,
        next_header: IpProtocol::Icmpv6,
        payload_len: message.len(),
        hop_limit: 255,
    };
    let mut bytes = vec![0; ETHERNET + IPV6 + message.len()];
    header(&mut bytes, from.0, to.0, EthernetProtocol::Ipv6);
    ip.emit(&mut Ipv6Packet::new_unchecked(&mut bytes[ETHERNET..]));
    let payload = &mut bytes[ETHERNET + IPV6..];
    payload.copy_from_slice(message);
    Icmpv6Packet::new_unchecked(payload).fill_checksum(&from.1, &to.1);
    bytes
}

/// An option of neighbour discovery with a MAC.
pub(super) fn mac_option(kind: u8, mac: Mac) -> [u8; 8] {
    let [a, b, c, d, e, f] = mac;
    [kind, 1, a, b, c, d, e, f]
}

/// The MAC of a multicast group (RFC 2464, section 7).
pub(super) fn group(address: Ipv6Addr) -> Mac {
    let [.., a, b, c, d] = address.octets();
    [0x33, 0x33, a, b, c, d]
}

/// The identifier of an interface by its MAC (RFC 4291, appendix A).
pub(super) fn eui64(mac: Mac) -> u64 {
    let [a, b, c, d, e, f] = mac;
    u64::from_be_bytes([a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

/// The link-local address of a MAC.
pub(super) fn link_local(mac: Mac) -> Ipv6Addr {
    Ipv6Addr::from_bits(0xfe80 << 112 | u128::from(eui64(mac)))
}

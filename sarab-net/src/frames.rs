//! The frames that this host sends of its own accord, and what is read of those that come. The formats are smoltcp's.

use alloc::vec;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, Icmpv6Message, Icmpv6Packet,
    Icmpv6Repr, IpProtocol, Ipv4Packet, Ipv4Repr, Ipv6Packet, Ipv6Repr, NdiscNeighborFlags, NdiscOption,
    NdiscOptionRepr, NdiscRepr, UdpPacket, UdpRepr,
};

use crate::neighbors::Mac;

pub(crate) const ETHERNET: usize = 14;
pub(crate) const BROADCAST: Mac = [0xff; 6];
/// The longest frame that asks for a neighbour.
pub(crate) const MAX_REQUEST: usize = 86;

pub(crate) const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// An ARP packet that was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arp {
    pub(crate) is_request: bool,
    pub(crate) sender: (Mac, Ipv4Addr),
    pub(crate) target: Ipv4Addr,
}

/// The ARP packet behind an Ethernet header, where it is one of Ethernet and IPv4 and its sender can be a host.
pub(crate) fn parse_arp(packet: &[u8]) -> Option<Arp> {
    let ArpRepr::EthernetIpv4 {
        operation, source_hardware_addr: mac, source_protocol_addr, target_protocol_addr, ..
    } = ArpRepr::parse(&ArpPacket::new_checked(packet).ok()?).ok()?
    else {
        return None;
    };
    let is_request = match operation {
        ArpOperation::Request => true,
        ArpOperation::Reply => false,
        ArpOperation::Unknown(_) => return None,
    };
    let sender = (mac.0, source_protocol_addr);
    is_host_mac(mac.0).then_some(Arp { is_request, sender, target: target_protocol_addr })
}

pub(crate) fn is_host_mac(mac: Mac) -> bool {
    mac[0] & 1 == 0 && mac != [0; 6]
}

/// An ARP request of `target`, or an answer, as a frame.
pub(crate) fn arp(is_request: bool, sender: (Mac, Ipv4Addr), to: Mac, target: (Mac, Ipv4Addr)) -> Vec<u8> {
    let packet = ArpRepr::EthernetIpv4 {
        operation: if is_request { ArpOperation::Request } else { ArpOperation::Reply },
        source_hardware_addr: EthernetAddress(sender.0),
        source_protocol_addr: sender.1,
        target_hardware_addr: EthernetAddress(target.0),
        target_protocol_addr: target.1,
    };
    let mut bytes = vec![0; ETHERNET + packet.buffer_len()];
    header(&mut bytes, sender.0, to, EthernetProtocol::Arp);
    packet.emit(&mut ArpPacket::new_unchecked(&mut bytes[ETHERNET..]));
    bytes
}

/// Writes an Ethernet header.
pub(crate) fn header(frame: &mut [u8], from: Mac, to: Mac, protocol: EthernetProtocol) {
    let mut frame = EthernetFrame::new_unchecked(frame);
    frame.set_src_addr(EthernetAddress(from));
    frame.set_dst_addr(EthernetAddress(to));
    frame.set_ethertype(protocol);
}

/// A message of neighbour discovery that was received and is good (RFC 4861, section 7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Discovery {
    Solicitation {
        from: Ipv6Addr,
        target: Ipv6Addr,
        mac: Option<Mac>,
    },
    Advertisement {
        target: Ipv6Addr,
        mac: Option<Mac>,
        solicited: bool,
        overrides: bool,
    },
    /// A router's: its own MAC, where it is told.
    Router {
        from: Ipv6Addr,
        mac: Option<Mac>,
    },
    /// Not for the stack, and nothing to be done.
    Nothing,
}

/// What neighbour discovery an IPv6 packet has; `None` where it is another packet.
pub(crate) fn parse_discovery(packet: &[u8]) -> Option<Discovery> {
    let packet = Ipv6Packet::new_checked(packet).ok()?;
    if packet.next_header() != IpProtocol::Icmpv6 {
        return None;
    }
    let message = Icmpv6Packet::new_checked(packet.payload()).ok()?;
    let kind = message.msg_type();
    let (from, to) = (packet.src_addr(), packet.dst_addr());
    if !matches!(
        kind,
        Icmpv6Message::RouterSolicit
            | Icmpv6Message::RouterAdvert
            | Icmpv6Message::NeighborSolicit
            | Icmpv6Message::NeighborAdvert
            | Icmpv6Message::Redirect
    ) {
        return None;
    }
    // Whoever is not on the link cannot send with this hop limit.
    if packet.hop_limit() != 255 || message.msg_code() != 0 || !message.verify_checksum(&from, &to) {
        return Some(Discovery::Nothing);
    }
    Some(discovery(kind, from, to, &message).unwrap_or(Discovery::Nothing))
}

fn discovery(kind: Icmpv6Message, from: Ipv6Addr, to: Ipv6Addr, message: &Icmpv6Packet<&[u8]>) -> Option<Discovery> {
    let mac = link_address(message.payload(), kind == Icmpv6Message::NeighborAdvert)?;
    match kind {
        Icmpv6Message::NeighborSolicit => {
            let target = message.target_addr();
            // Who has no address yet asks the group, and has no address to tell.
            let is_good = !from.is_unspecified() || (to.is_multicast() && mac.is_none());
            (is_good && !target.is_multicast()).then_some(Discovery::Solicitation { from, target, mac })
        }
        Icmpv6Message::NeighborAdvert => {
            let (target, flags) = (message.target_addr(), message.neighbor_flags());
            let solicited = flags.contains(NdiscNeighborFlags::SOLICITED);
            let overrides = flags.contains(NdiscNeighborFlags::OVERRIDE);
            let is_bad = target.is_multicast() || solicited && to.is_multicast();
            (!is_bad).then_some(Discovery::Advertisement { target, mac, solicited, overrides })
        }
        Icmpv6Message::RouterAdvert => Some(Discovery::Router { from, mac }),
        _ => None,
    }
}

/// The link-layer address option of a message, of its sender or of its target. `None` where an option is none.
fn link_address(mut options: &[u8], of_target: bool) -> Option<Option<Mac>> {
    let mut found = None;
    while !options.is_empty() {
        let option = NdiscOption::new_checked(options).ok()?;
        options = options.get(usize::from(option.data_len()) * 8..)?;
        let address = match NdiscOptionRepr::parse(&option) {
            Ok(NdiscOptionRepr::SourceLinkLayerAddr(address)) if !of_target => address,
            Ok(NdiscOptionRepr::TargetLinkLayerAddr(address)) if of_target => address,
            _ => continue,
        };
        found = address.as_bytes().first_chunk::<6>().copied().filter(|mac| is_host_mac(*mac));
    }
    Some(found)
}

/// The group that an address's owner is in (RFC 4291, section 2.7.1).
fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    Ipv6Addr::from_bits(0xff02_0000_0000_0000_0000_0001_ff00_0000 | address.to_bits() & 0xff_ffff)
}

fn group(address: Ipv6Addr) -> Mac {
    let [.., a, b, c, d] = address.octets();
    [0x33, 0x33, a, b, c, d]
}

fn icmpv6(mac: Mac, to_mac: Mac, from: Ipv6Addr, to: Ipv6Addr, message: NdiscRepr<'_>) -> Vec<u8> {
    let message = Icmpv6Repr::Ndisc(message);
    let ip = Ipv6Repr {
        src_addr: from,
        dst_addr: to,
        next_header: IpProtocol::Icmpv6,
        payload_len: message.buffer_len(),
        hop_limit: 255,
    };
    let mut bytes = vec![0; ETHERNET + ip.buffer_len() + message.buffer_len()];
    header(&mut bytes, mac, to_mac, EthernetProtocol::Ipv6);
    let mut packet = Ipv6Packet::new_unchecked(&mut bytes[ETHERNET..]);
    ip.emit(&mut packet);
    let mut packet = Icmpv6Packet::new_unchecked(packet.payload_mut());
    message.emit(&from, &to, &mut packet, &ChecksumCapabilities::default());
    bytes
}

/// Asks for `target`, of one neighbour or of all; from no address, whether anybody has it already.
pub(crate) fn solicit_neighbor(mac: Mac, from: Ipv6Addr, target: Ipv6Addr, to: Option<Mac>) -> Vec<u8> {
    let lladdr = (!from.is_unspecified()).then(|| EthernetAddress(mac).into());
    let message = NdiscRepr::NeighborSolicit { target_addr: target, lladdr };
    match to {
        Some(to) => icmpv6(mac, to, from, target, message),
        None => icmpv6(mac, group(solicited_node(target)), from, solicited_node(target), message),
    }
}

/// Tells a neighbour, or all of them, that `target` is this host's.
pub(crate) fn advertise_neighbor(mac: Mac, target: Ipv6Addr, to: Option<(Mac, Ipv6Addr)>) -> Vec<u8> {
    let flags = match to {
        Some(_) => NdiscNeighborFlags::SOLICITED | NdiscNeighborFlags::OVERRIDE,
        None => NdiscNeighborFlags::OVERRIDE,
    };
    let message = NdiscRepr::NeighborAdvert { flags, target_addr: target, lladdr: Some(EthernetAddress(mac).into()) };
    let (to_mac, to) = to.unwrap_or((group(ALL_NODES), ALL_NODES));
    icmpv6(mac, to_mac, target, to, message)
}

/// A datagram, as an IP packet with room for an Ethernet header before it.
pub(crate) fn datagram(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), payload: &[u8]) -> Vec<u8> {
    let udp = UdpRepr { src_port: from.1, dst_port: to.1 };
    let ip = Ipv4Repr {
        src_addr: from.0,
        dst_addr: to.0,
        next_header: IpProtocol::Udp,
        payload_len: udp.header_len() + payload.len(),
        hop_limit: 64,
    };
    let checksums = ChecksumCapabilities::default();
    let mut bytes = vec![0; ETHERNET + ip.buffer_len() + ip.payload_len];
    let mut packet = Ipv4Packet::new_unchecked(&mut bytes[ETHERNET..]);
    ip.emit(&mut packet, &checksums);
    let mut packet = UdpPacket::new_unchecked(packet.payload_mut());
    let write = |bytes: &mut [u8]| bytes.copy_from_slice(payload);
    udp.emit(&mut packet, &from.0.into(), &to.0.into(), payload.len(), write, &checksums);
    bytes
}

/// The datagram of an IPv4 packet that is whole: its addresses, ports and payload.
pub(crate) fn parse_datagram(packet: &[u8]) -> Option<(Ipv4Addr, Ipv4Addr, [u16; 2], &[u8])> {
    let packet = Ipv4Packet::new_checked(packet).ok()?;
    if packet.next_header() != IpProtocol::Udp || packet.more_frags() || packet.frag_offset() != 0 {
        return None;
    }
    let (from, to) = (packet.src_addr(), packet.dst_addr());
    let udp = UdpPacket::new_checked(packet.payload()).ok()?;
    Some((from, to, [udp.src_port(), udp.dst_port()], udp.payload()))
}

/// Where an IP packet goes to, and its protocol's number in Ethernet frames.
#[inline]
pub(crate) fn destination(packet: &[u8]) -> Option<(IpAddr, EthernetProtocol)> {
    match packet.first()? >> 4 {
        4 => Some((IpAddr::V4(Ipv4Addr::from(*packet.get(16..)?.first_chunk::<4>()?)), EthernetProtocol::Ipv4)),
        6 => Some((IpAddr::V6(Ipv6Addr::from(*packet.get(24..)?.first_chunk::<16>()?)), EthernetProtocol::Ipv6)),
        _ => None,
    }
}

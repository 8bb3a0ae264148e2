//! Messages of a router's own: why a packet went no further (RFC 792, RFC 4443; RFC 1812, section 4.3), and resets of TCP.

use alloc::vec;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    Icmpv4DstUnreachable, Icmpv4Packet, Icmpv4TimeExceeded, Icmpv6DstUnreachable, Icmpv6Packet, Icmpv6TimeExceeded,
    IpAddress, IpProtocol, IpRepr, Ipv4Repr, Ipv6Repr, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber,
};
use xen_netif::headers::ETHERNET;

use crate::packet::{Transport, View, tcp_flags};

/// Why a packet went no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It is longer than the next link takes, which is so many bytes.
    TooBig(u16),
    /// It has passed too many routers.
    TimeExceeded,
    /// A rule forbids it.
    Prohibited,
    /// There is no way to its destination.
    NoRoute,
}

/// Most bytes of a message: RFC 1812, section 4.3.2.3, and RFC 4443, section 2.4 c.
const MAX_V4: usize = 576;
const MAX_V6: usize = 1280;
const TTL: u8 = 64;

/// Whether routers tell of such a packet at all (RFC 1122, section 3.2.2).
pub fn may_tell(view: &View) -> bool {
    let is_group = match view.destination {
        IpAddr::V4(address) => address.is_multicast() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_multicast(),
    };
    let is_nobody = match view.source {
        IpAddr::V4(address) => address.is_unspecified() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_unspecified(),
    };
    !is_group && !is_nobody && !view.is_icmp_error() && view.fragment.is_none_or(|fragment| fragment.is_first)
}

/// A frame, but for its Ethernet header, that tells a packet's sender why it went no further. `None` where nobody is told,
/// or `from` is of the other family.
pub fn error(frame: &[u8], view: &View, from: IpAddr, reason: Reason) -> Option<Vec<u8>> {
    if !may_tell(view) {
        return None;
    }
    let packet = &frame[view.headers.ip..view.headers.end];
    match (from, view.source) {
        (IpAddr::V4(from), IpAddr::V4(to)) => Some(error_v4(packet, from, to, reason)),
        (IpAddr::V6(_), IpAddr::V6(_)) => Some(error_v6(packet, from, view.source, reason)),
        _ => None,
    }
}

fn error_v4(packet: &[u8], from: Ipv4Addr, to: Ipv4Addr, reason: Reason) -> Vec<u8> {
    let quoted = &packet[..packet.len().min(MAX_V4 - 28)];
    let mut message = vec![0; 8 + quoted.len()];
    message[8..].copy_from_slice(quoted);
    let (kind, code) = match reason {
        Reason::TooBig(mtu) => {
            message[6..8].copy_from_slice(&mtu.to_be_bytes());
            (3, u8::from(Icmpv4DstUnreachable::FragRequired))
        }
        Reason::TimeExceeded => (11, u8::from(Icmpv4TimeExceeded::TtlExpired)),
        Reason::Prohibited => (3, u8::from(Icmpv4DstUnreachable::CommProhibited)),
        Reason::NoRoute => (3, u8::from(Icmpv4DstUnreachable::NetUnreachable)),
    };
    (message[0], message[1]) = (kind, code);
    Icmpv4Packet::new_unchecked(&mut message).fill_checksum();
    datagram(from.into(), to.into(), IpProtocol::Icmp, &message)
}

fn error_v6(packet: &[u8], from: IpAddr, to: IpAddr, reason: Reason) -> Vec<u8> {
    let (IpAddr::V6(own), IpAddr::V6(other)) = (from, to) else { return Vec::new() };
    let quoted = &packet[..packet.len().min(MAX_V6 - 48)];
    let mut message = vec![0; 8 + quoted.len()];
    message[8..].copy_from_slice(quoted);
    let (kind, code) = match reason {
        Reason::TooBig(mtu) => {
            message[4..8].copy_from_slice(&u32::from(mtu).to_be_bytes());
            (2, 0)
        }
        Reason::TimeExceeded => (3, u8::from(Icmpv6TimeExceeded::HopLimitExceeded)),
        Reason::Prohibited => (1, u8::from(Icmpv6DstUnreachable::AdminProhibit)),
        Reason::NoRoute => (1, u8::from(Icmpv6DstUnreachable::NoRoute)),
    };
    (message[0], message[1]) = (kind, code);
    Icmpv6Packet::new_unchecked(&mut message).fill_checksum(&own, &other);
    datagram(from, to, IpProtocol::Icmpv6, &message)
}

/// A frame, but for its Ethernet header, with an IP packet of this payload.
pub(crate) fn datagram(from: IpAddr, to: IpAddr, protocol: IpProtocol, payload: &[u8]) -> Vec<u8> {
    let repr = match (from, to) {
        (IpAddr::V4(src_addr), IpAddr::V4(dst_addr)) => IpRepr::Ipv4(Ipv4Repr {
            src_addr,
            dst_addr,
            next_header: protocol,
            payload_len: payload.len(),
            hop_limit: TTL,
        }),
        (IpAddr::V6(src_addr), IpAddr::V6(dst_addr)) => IpRepr::Ipv6(Ipv6Repr {
            src_addr,
            dst_addr,
            next_header: protocol,
            payload_len: payload.len(),
            hop_limit: TTL,
        }),
        _ => return Vec::new(),
    };
    let mut frame = vec![0; ETHERNET + repr.buffer_len()];
    repr.emit(&mut frame[ETHERNET..], &ChecksumCapabilities::default());
    let at = frame.len() - payload.len();
    frame[at..].copy_from_slice(payload);
    frame[12..14].copy_from_slice(&if from.is_ipv4() { [0x08, 0x00] } else { [0x86, 0xdd] });
    frame
}

/// A frame, but for its Ethernet header, that resets the connection that a segment belongs to (RFC 9293, section 3.10.7.1).
pub fn reset(view: &View) -> Option<Vec<u8>> {
    let Transport::Tcp { ports: [source, destination], flags, sequence, acknowledgement, len, .. } = view.transport
    else {
        return None;
    };
    if flags & tcp_flags::RST != 0 {
        return None;
    }
    let has_ack = flags & tcp_flags::ACK != 0;
    let repr = TcpRepr {
        src_port: destination,
        dst_port: source,
        control: TcpControl::Rst,
        seq_number: TcpSeqNumber(if has_ack { acknowledgement as i32 } else { 0 }),
        ack_number: (!has_ack).then(|| TcpSeqNumber(sequence.wrapping_add(len) as i32)),
        window_len: 0,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload: &[],
    };
    let mut segment = vec![0; repr.buffer_len()];
    let (from, to) = (IpAddress::from(view.destination), IpAddress::from(view.source));
    repr.emit(&mut TcpPacket::new_unchecked(&mut segment), &from, &to, &ChecksumCapabilities::default());
    Some(datagram(view.destination, view.source, IpProtocol::Tcp, &segment))
}

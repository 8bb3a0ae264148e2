//! Packets that leave: translated, cut where they have to be, or answered.

use alloc::vec;
use core::net::IpAddr;
use core::time::Duration;

use sarab_net::Way;
use xen_netif::Buffer;
use xen_netif::back::{Checksum, Packet};
use xen_netif::checksum;
use xen_netif::headers::{ETHERNET, Headers, TCP};
use xen_netif::segment::Segmenter;

use super::{Drop, Output, Router};
use crate::InterfaceId;
use crate::flows::{Class, Direction, FlowId, Protocol, Tuple};
use crate::icmp::{self, Reason};
use crate::interface::Role;
use crate::packet::{Transport, View, tcp_flags};
use crate::policy::{Policy, Side};
use crate::related::{self, Quoted};
use crate::rewrite;
use crate::tcp::Segment;

/// Packets that leave.
impl<P: Policy> Router<P> {
    /// Passes on a packet of a flow.
    #[inline]
    pub(super) fn forward(
        &mut self,
        id: FlowId,
        direction: Direction,
        mut packet: Packet,
        view: &View,
        now: Duration,
        output: &mut impl Output,
    ) -> Result<(), Drop> {
        let flow = self.flows.get_mut(id).ok_or(Drop::NoFlow)?;
        let from = flow.interfaces[direction as usize];
        let to = flow.interfaces[direction.other() as usize];
        let endpoints = flow.tuples[direction.other() as usize].inverse().endpoints;
        let arrived = flow.tuples[direction as usize].endpoints;
        let is_local = to == InterfaceId::LOCAL || from == InterfaceId::LOCAL;
        if view.ttl <= 1 && !is_local {
            self.tell(from, &packet, view, Reason::TimeExceeded, now, output);
            return Err(Drop::TimeExceeded);
        }
        let mtu = self.interfaces.get(to.0.into()).ok_or(Drop::NoRoute)?.mtu;
        let cut = match fit(&mut packet, view, mtu) {
            Fit::Whole => None,
            Fit::Pieces => Some(mtu),
            Fit::TooBig => {
                self.tell(from, &packet, view, Reason::TooBig(mtu), now, output);
                return Err(Drop::TooBig);
            }
        };
        let flow = self.flows.get_mut(id).ok_or(Drop::NoFlow)?;
        if let Protocol::Tcp(tcp) = &mut flow.protocol
            && let Some(segment) = segment(&packet.bytes, view)
            && !tcp.advance(direction, &segment)
        {
            return Err(Drop::NoFlow);
        }
        flow.packets[direction as usize] += 1;
        flow.bytes[direction as usize] += view.packet_len() as u64;
        flow.is_answered |= direction == Direction::Reply;
        let class = class(&flow.protocol, &flow.tuples[0], flow.is_answered);
        self.flows.touch(id, class, now);
        if endpoints != arrived {
            rewrite::translate(&mut packet.bytes, view, packet.checksum, &endpoints);
        }
        if !is_local {
            rewrite::decrement_ttl(&mut packet.bytes, view);
        }
        self.statistics.forwarded += 1;
        self.statistics.forwarded_bytes += view.packet_len() as u64;
        match cut {
            None => self.send(to, packet, endpoints.destination, now, output),
            Some(mtu) => self.send_fragments(to, packet, &view.headers, endpoints.destination, mtu, now, output),
        }
    }

    #[cold]
    #[allow(clippy::too_many_arguments)]
    pub(super) fn send_fragments(
        &mut self,
        to: InterfaceId,
        mut packet: Packet,
        headers: &Headers,
        destination: IpAddr,
        mtu: u16,
        now: Duration,
        output: &mut impl Output,
    ) -> Result<(), Drop> {
        if packet.checksum == Checksum::Blank && !checksum::complete(&mut packet.bytes, headers) {
            return Err(Drop::Checksum);
        }
        let cut = Segmenter::fragments(&packet.bytes, headers, mtu).ok_or(Drop::TooBig)?;
        for index in 0..cut.count() {
            let mut piece = vec![0; cut.len(index)];
            cut.write(&packet.bytes, index, &mut piece);
            self.send(to, piece.into(), destination, now, output)?;
        }
        Ok(())
    }

    /// Sends a packet to an address behind an interface.
    #[inline]
    pub(super) fn send(
        &mut self,
        to: InterfaceId,
        mut packet: Packet,
        destination: IpAddr,
        now: Duration,
        output: &mut impl Output,
    ) -> Result<(), Drop> {
        let interface = self.interfaces.get_mut(to.0.into()).ok_or(Drop::NoRoute)?;
        let header = packet.bytes.first_chunk_mut::<12>().ok_or(Drop::Malformed)?;
        match &mut interface.role {
            Role::Client(client) => {
                header[..6].copy_from_slice(&client.settings.mac);
                header[6..].copy_from_slice(&client.settings.gate_mac);
                if let Some(alias) = client.settings.alias {
                    alias.leave(&mut packet)?;
                }
            }
            Role::Local => {
                // Its stack does not look.
                let is_good = packet.checksum != Checksum::Present
                    || Headers::parse(&packet.bytes).is_some_and(|headers| checksum::is_valid(&packet.bytes, &headers));
                if !is_good {
                    return Err(Drop::Checksum);
                }
            }
            Role::Uplink(uplink) => match uplink.link.way(destination, now) {
                Way::Mac(mac) => {
                    header[..6].copy_from_slice(&mac);
                    header[6..].copy_from_slice(&uplink.link.mac());
                }
                Way::Unknown(neighbor) => {
                    let waiting = complete(packet).ok_or(Drop::Unresolved)?;
                    uplink.link.wait(neighbor, &waiting[ETHERNET..], now);
                    self.flush(to, output);
                    return Ok(());
                }
                Way::None => return Err(Drop::NoRoute),
            },
        }
        output.send(to, packet);
        Ok(())
    }

    /// Tells a packet's sender why it goes no further, but not too often.
    #[cold]
    pub(super) fn tell(
        &mut self,
        from: InterfaceId,
        packet: &Packet,
        view: &View,
        reason: Reason,
        now: Duration,
        output: &mut impl Output,
    ) {
        let Some(interface) = self.interfaces.get_mut(from.0.into()) else { return };
        let v6 = view.headers.v6;
        let own = match &interface.role {
            Role::Local => Some(view.destination),
            Role::Uplink(uplink) => uplink.address(v6),
            Role::Client(client) => client.gateway(v6),
        };
        let Some(own) = own else { return };
        if !icmp::may_tell(view) || !interface.tells.take(now) {
            return;
        }
        if let Some(frame) = icmp::error(&packet.bytes, view, own, reason) {
            self.statistics.told += 1;
            // Nobody is told of it where there is no way back.
            let _ = self.send(from, frame.into(), view.source, now, output);
        }
    }

    /// Tells a packet's sender that it is forbidden: TCP by a reset, others by ICMP.
    #[cold]
    pub(super) fn reject(
        &mut self,
        from: InterfaceId,
        packet: &Packet,
        view: &View,
        now: Duration,
        output: &mut impl Output,
    ) {
        if view.headers.protocol != TCP {
            return self.tell(from, packet, view, Reason::Prohibited, now, output);
        }
        let Some(interface) = self.interfaces.get_mut(from.0.into()) else { return };
        if !interface.tells.take(now) {
            return;
        }
        if let Some(frame) = icmp::reset(view) {
            self.statistics.told += 1;
            let _ = self.send(from, frame.into(), view.source, now, output);
        }
    }

    /// A message about a packet of a flow.
    #[cold]
    pub(super) fn related(
        &mut self,
        from: InterfaceId,
        mut packet: Packet,
        view: &View,
        now: Duration,
        output: &mut impl Output,
    ) -> Result<(), Drop> {
        const REDIRECT: u8 = 5;
        const SOURCE_QUENCH: u8 = 4;
        if let Transport::Icmp { kind: REDIRECT | SOURCE_QUENCH, .. } = view.transport
            && !view.headers.v6
        {
            return Err(Drop::NotRouted);
        }
        if view.fragment.is_some() || view.ttl <= 1 {
            return Err(Drop::NotRouted);
        }
        if packet.checksum != Checksum::Valid && !related::is_intact(&packet.bytes, view) {
            return Err(Drop::Checksum);
        }
        let quoted = Quoted::parse(&packet.bytes, view).ok_or(Drop::Malformed)?;
        // It left as the inverse of what answers it.
        let (id, answers) = self.flows.find(&quoted.tuple.inverse()).ok_or(Drop::NoFlow)?;
        let flow = self.flows.get(id).ok_or(Drop::NoFlow)?;
        let sent = answers.other();
        if flow.interfaces[answers as usize] != from {
            return Err(Drop::NoFlow);
        }
        let to = flow.interfaces[sent as usize];
        let arrived = flow.tuples[sent as usize].endpoints;
        // A host inside is seen with the address that its flow has.
        let is_end = view.source == quoted.tuple.endpoints.destination;
        let is_inside = self.side(from) == Some(Side::Inside);
        let as_seen = if is_end || is_inside { arrived.destination } else { view.source };
        related::restore(&mut packet.bytes, view, &quoted, &arrived, as_seen);
        packet.checksum = Checksum::Valid;
        rewrite::decrement_ttl(&mut packet.bytes, view);
        self.statistics.forwarded += 1;
        self.statistics.forwarded_bytes += view.packet_len() as u64;
        self.send(to, packet, arrived.source, now, output)
    }
}

enum Fit {
    Whole,
    Pieces,
    TooBig,
}

/// Whether a packet fits a link, for its segments if it is a large one.
#[inline]
fn fit(packet: &mut Packet, view: &View, mtu: u16) -> Fit {
    let mtu = usize::from(mtu);
    if let Some((_, size)) = &mut packet.gso {
        let Some(length) = view.headers.tcp_header(&packet.bytes) else { return Fit::TooBig };
        let headers = view.headers.transport - view.headers.ip + length;
        if headers + usize::from(*size) <= mtu {
            return Fit::Whole;
        }
        // Segments that nobody minds to be smaller.
        if view.dont_fragment || mtu <= headers + 8 {
            return Fit::TooBig;
        }
        *size = (mtu - headers) as u16;
        return Fit::Whole;
    }
    match view.packet_len() <= mtu {
        true => Fit::Whole,
        false if view.dont_fragment => Fit::TooBig,
        false => Fit::Pieces,
    }
}

/// A packet that nothing is left open of, to be kept for a while; of a large one its first segment.
#[cold]
fn complete(packet: Packet) -> Option<Buffer> {
    let mut bytes = packet.bytes;
    if packet.checksum != Checksum::Blank && packet.gso.is_none() {
        return Some(bytes);
    }
    let headers = Headers::parse(&bytes)?;
    if let Some((_, size)) = packet.gso {
        let cut = Segmenter::segments(&bytes, &headers, size)?;
        let mut piece = vec![0; cut.len(0)];
        cut.write(&bytes, 0, &mut piece);
        return Some(piece.into());
    }
    checksum::complete(&mut bytes, &headers).then_some(bytes)
}

pub(super) fn segment(frame: &[u8], view: &View) -> Option<Segment> {
    let Transport::Tcp { flags, sequence, acknowledgement, window, .. } = view.transport else { return None };
    let scale = if flags & tcp_flags::SYN != 0 { window_scale(frame, &view.headers) } else { None };
    Some(Segment { flags, sequence, acknowledgement, window, scale })
}

/// The window scale option (RFC 7323, section 2.2).
fn window_scale(frame: &[u8], headers: &Headers) -> Option<u8> {
    let length = headers.tcp_header(frame)?;
    let mut options = frame.get(headers.transport + 20..headers.transport + length)?;
    while let [kind, rest @ ..] = options {
        match (kind, rest) {
            (0, _) => return None,
            (1, _) => options = rest,
            (3, [3, scale, ..]) => return Some(*scale),
            (_, [len, ..]) if *len >= 2 => options = options.get(usize::from(*len)..)?,
            _ => return None,
        }
    }
    None
}

pub(super) fn class(protocol: &Protocol, tuple: &Tuple, is_answered: bool) -> Class {
    const DNS: u16 = 53;
    match (protocol, tuple.protocol) {
        (Protocol::Tcp(tcp), _) => tcp.class(),
        (_, xen_netif::headers::UDP) if tuple.endpoints.destination_port == DNS => Class::UdpShort,
        (_, xen_netif::headers::UDP) => {
            if is_answered {
                Class::Udp
            } else {
                Class::UdpNew
            }
        }
        (_, crate::packet::ICMP | crate::packet::ICMPV6) => Class::Icmp,
        _ => Class::Other,
    }
}

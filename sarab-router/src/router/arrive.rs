//! Frames that arrive: whose they are, and which flow they belong to.

use core::net::IpAddr;
use core::time::Duration;

use xen_netif::back::Packet;
use xen_netif::headers::{ETHERNET, Headers};

use super::{Drop, DropRecord, Output, Router};
use crate::InterfaceId;
use crate::flows::{Direction, FlowId, Protocol, Tuple};
use crate::fragments::Whole;
use crate::interface::{Client, Role};
use crate::packet::{Transport, View, tcp_flags};
use crate::policy::Policy;
use crate::rewrite::Endpoints;

const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
/// Drops that are remembered for whoever looks.
const MAX_RECORDS: usize = 64;

/// Frames that arrive.
impl<P: Policy> Router<P> {
    /// Takes a frame that an interface has received. To the router's own stack's an Ethernet header belongs as well, whose
    /// addresses do not matter.
    pub fn receive(&mut self, from: InterfaceId, packet: Packet, now: Duration, output: &mut impl Output) {
        let mut packet = packet;
        match self.enter(from, &mut packet, now, output) {
            Ok(Some(view)) => {
                if let Err(reason) = self.route(from, packet, &view, now, output) {
                    self.record(from, Some(Tuple::of(&view)), reason);
                }
            }
            Ok(None) => {}
            Err(reason) => self.record(from, None, reason),
        }
    }

    pub(super) fn record(&mut self, from: InterfaceId, tuple: Option<Tuple>, reason: Drop) {
        self.statistics.dropped[reason as usize] += 1;
        if let Some(interface) = self.interfaces.get_mut(from.0.into()) {
            interface.dropped += 1;
        }
        if self.records.len() < MAX_RECORDS {
            self.records.push_back(DropRecord { reason, from, tuple });
        }
    }

    /// Whether a frame is a packet to be routed, from where it says that it is.
    #[inline]
    pub(super) fn enter(
        &mut self,
        from: InterfaceId,
        packet: &mut Packet,
        now: Duration,
        output: &mut impl Output,
    ) -> Result<Option<View>, Drop> {
        let interface = self.interfaces.get_mut(from.0.into()).ok_or(Drop::NotRouted)?;
        let view = match &mut interface.role {
            Role::Local => View::parse(&packet.bytes)?,
            Role::Client(client) => {
                let Some(view) = client_frame(client, from, &packet.bytes, output)? else { return Ok(None) };
                if let Transport::Icmp { .. } = view.transport
                    && let Some(bucket) = &mut client.bounds.icmp
                    && !bucket.take(now)
                {
                    return Err(Drop::Rate);
                }
                match client.settings.alias {
                    Some(alias) => alias.arrive(packet, view)?,
                    None => view,
                }
            }
            Role::Uplink(uplink) => {
                let Some(range) = uplink.link.ingress(&packet.bytes, || now) else {
                    self.flush(from, output);
                    self.refresh_uplink(from);
                    return Ok(None);
                };
                if packet.bytes[0] & 1 != 0 {
                    return Err(Drop::NotRouted);
                }
                if range.start != ETHERNET {
                    // A priority alone.
                    packet.bytes.remove(ETHERNET - 2..range.start - 2);
                }
                let view = View::parse(&packet.bytes)?;
                let is_inside = self.clients.contains_key(&view.source) || self.own.contains(&view.source);
                if is_inside || self.is_inside(view.source) {
                    return Err(Drop::Spoofed);
                }
                view
            }
        };
        let is_group = match view.destination {
            IpAddr::V4(address) => address.is_multicast() || address.is_broadcast(),
            IpAddr::V6(address) => address.is_multicast(),
        };
        let is_link_local = |address: IpAddr| match address {
            IpAddr::V4(address) => address.is_link_local(),
            IpAddr::V6(address) => address.is_unicast_link_local(),
        };
        // RFC 4291, section 2.5.6; RFC 3927, section 2.7: to the router itself, perhaps.
        if is_group
            || ((is_link_local(view.source) || is_link_local(view.destination))
                && !self.own.contains(&view.destination))
        {
            return Err(Drop::NotRouted);
        }
        Ok(Some(view))
    }

    pub(super) fn route(
        &mut self,
        from: InterfaceId,
        packet: Packet,
        view: &View,
        now: Duration,
        output: &mut impl Output,
    ) -> Result<(), Drop> {
        if view.is_icmp_error() {
            return self.related(from, packet, view, now, output);
        }
        let mut tuple = Tuple::of(view);
        let whole = view.fragment.map(|fragment| Whole {
            from,
            source: view.source,
            destination: view.destination,
            protocol: view.headers.protocol,
            id: fragment.id,
        });
        if let (Some(whole), Some(fragment)) = (whole, view.fragment)
            && !fragment.is_first
        {
            match self.fragments.find(&whole) {
                Some(first) => tuple = first,
                None => {
                    self.fragments.hold(whole, packet, now);
                    return Ok(());
                }
            }
            let (id, direction) = self.flows.find(&tuple).ok_or(Drop::NoFlow)?;
            return self.forward(id, direction, packet, view, now, output);
        }
        let found = self.flows.find(&tuple).filter(|found| !self.begins_again(found.0, view));
        let (id, direction) = match found {
            Some((id, direction)) => {
                if self.flows.get(id).is_some_and(|flow| flow.interfaces[direction as usize] != from) {
                    return Err(Drop::NoFlow);
                }
                (id, direction)
            }
            None => (self.begin(from, &packet, view, tuple, now, output)?, Direction::Original),
        };
        let forwarded = self.forward(id, direction, packet, view, now, output);
        if let Some(whole) = whole
            && forwarded.is_ok()
        {
            for held in self.fragments.first(whole, tuple, now) {
                // It was looked at when it came.
                if let Ok(view) = View::parse(&held.bytes)
                    && let Err(reason) = self.forward(id, direction, held, &view, now, output)
                {
                    self.record(from, Some(tuple), reason);
                }
            }
        }
        forwarded
    }

    /// Whether a SYN begins another connection of the ports of one that is over, which is forgotten then.
    pub(super) fn begins_again(&mut self, id: FlowId, view: &View) -> bool {
        let Transport::Tcp { flags, .. } = view.transport else { return false };
        let is_over = flags & (tcp_flags::SYN | tcp_flags::ACK) == tcp_flags::SYN
            && self.flows.get(id).is_some_and(|flow| matches!(flow.protocol, Protocol::Tcp(tcp) if tcp.is_over()));
        if is_over {
            self.flows.remove(id);
        }
        is_over
    }
}

/// What of a client's frame is to be routed: nothing of what it asks of a router, and nothing under another's name.
fn client_frame(
    client: &Client,
    from: InterfaceId,
    frame: &[u8],
    output: &mut impl Output,
) -> Result<Option<View>, Drop> {
    const DHCP_SERVER: u16 = 67;
    const DHCP_CLIENT: u16 = 68;
    let header: &[u8; ETHERNET] = frame.first_chunk().ok_or(Drop::Malformed)?;
    if header[6..12] != client.settings.mac {
        return Err(Drop::Spoofed);
    }
    let is_group = header[0] & 1 != 0;
    if !is_group && header[..6] != client.settings.gate_mac {
        return Err(Drop::NotRouted);
    }
    match [header[12], header[13]] {
        ETHERTYPE_ARP => {
            output.control(from, frame);
            return Ok(None);
        }
        ETHERTYPE_IPV4 | ETHERTYPE_IPV6 => {}
        _ => return Err(Drop::NotRouted),
    }
    let is_discovery = header[12..14] == ETHERTYPE_IPV6
        && Headers::parse(frame).is_some_and(|headers| {
            headers.protocol == crate::packet::ICMPV6
                && frame[headers.transport..headers.end].first().is_some_and(|kind| (133..=137).contains(kind))
        });
    if is_discovery {
        output.control(from, frame);
        return Ok(None);
    }
    // A client that asks for its address has none yet.
    if header[12..14] == ETHERTYPE_IPV4
        && let Some(headers) = Headers::parse(frame)
        && headers.protocol == xen_netif::headers::UDP
        && !headers.fragment
        && let Some([a, b, c, d]) = frame.get(headers.transport..).and_then(<[u8]>::first_chunk::<4>)
    {
        match (u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d])) {
            (DHCP_CLIENT, DHCP_SERVER) => {
                output.control(from, frame);
                return Ok(None);
            }
            // It is no server for others.
            (DHCP_SERVER, DHCP_CLIENT) => return Err(Drop::Spoofed),
            _ => {}
        }
    }
    let view = View::parse(frame)?;
    if !client.sends_as(view.source) {
        return Err(Drop::Spoofed);
    }
    match is_group {
        true => Err(Drop::NotRouted),
        false => Ok(Some(view)),
    }
}

impl Tuple {
    /// What a packet's flow is found by.
    pub fn of(view: &View) -> Tuple {
        let [source_port, destination_port] = view.ports();
        let (source, destination) = (view.source, view.destination);
        Tuple {
            protocol: view.headers.protocol,
            endpoints: Endpoints { source, destination, source_port, destination_port },
        }
    }
}

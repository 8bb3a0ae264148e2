//! Flows that begin: where they lead, whether they may, and what they are translated to.

use core::net::IpAddr;
use core::time::Duration;

use xen_netif::back::Packet;

use super::leave::{class, segment};
use super::{Drop, Output, Router};
use crate::InterfaceId;
use crate::flows::{FlowId, Full, Protocol, Tuple};
use crate::icmp::Reason;
use crate::interface::{Client, Interface, Role};
use crate::packet::{Transport, View, tcp_flags};
use crate::policy::{NewFlow, Policy, Side, Verdict};
use crate::rewrite::Endpoints;
use crate::tcp::Tcp;

/// Flows that begin.
impl<P: Policy> Router<P> {
    #[cold]
    pub(super) fn begin(
        &mut self,
        from: InterfaceId,
        packet: &Packet,
        view: &View,
        tuple: Tuple,
        now: Duration,
        output: &mut impl Output,
    ) -> Result<FlowId, Drop> {
        let from_side = self.side(from).ok_or(Drop::NotRouted)?;
        if !can_begin(view, from_side) {
            return Err(Drop::NoFlow);
        }
        if let Some(Interface { role: Role::Client(client), .. }) = self.interfaces.get_mut(from.0.into())
            && let Some(bucket) = &mut client.bounds.begins
            && !bucket.take(now)
        {
            return Err(Drop::Rate);
        }
        let Endpoints { source, destination: asked, source_port, destination_port: asked_port } = tuple.endpoints;
        let is_gateway = |client: &Client| client.gateway(asked.is_ipv6()) == Some(asked);
        let is_own = self.own.contains(&asked) || self.client(from).is_some_and(is_gateway);
        let translated = match from_side {
            Side::Gate => None,
            Side::Inside | Side::Outside => {
                let is_outer = is_own && self.is_outside(asked);
                self.nat.destination(from_side, is_outer, tuple.protocol, asked, asked_port)
            }
        };
        let (destination, port) = translated.unwrap_or((asked, asked_port));
        let to = self.way(from_side, destination, is_own && translated.is_none());
        let Some(to) = to else {
            if from_side == Side::Inside {
                self.tell(from, packet, view, Reason::NoRoute, now, output);
            }
            return Err(Drop::NoRoute);
        };
        // A client needs no router to itself.
        if to == from {
            return Err(Drop::NoRoute);
        }
        if view.ttl <= 1 && to != InterfaceId::LOCAL && from != InterfaceId::LOCAL {
            self.tell(from, packet, view, Reason::TimeExceeded, now, output);
            return Err(Drop::TimeExceeded);
        }
        let to_side = self.side(to).ok_or(Drop::NoRoute)?;
        let (has_ports, icmp) = match view.transport {
            Transport::Tcp { .. } | Transport::Udp { .. } => (true, None),
            Transport::Icmp { kind, code, .. } => (false, Some((kind, code))),
            Transport::Other => (false, None),
        };
        let new = NewFlow {
            from: (from_side, from),
            to: (to_side, to),
            protocol: tuple.protocol,
            source,
            destination,
            original_destination: asked,
            source_port: has_ports.then_some(source_port),
            destination_port: has_ports.then_some(port),
            icmp,
            is_published: translated.is_some(),
        };
        let verdict = self.policy.judge(&new);
        if let Some(rule) = verdict.rule() {
            self.policy.count(rule, view.packet_len());
        }
        let rule = match verdict {
            Verdict::Accept(rule) => rule,
            Verdict::Drop(_) => return Err(Drop::Forbidden),
            Verdict::Reject(_) => {
                self.reject(from, packet, view, now, output);
                return Err(Drop::Forbidden);
            }
            Verdict::Prohibit(_) => {
                self.tell(from, packet, view, Reason::Prohibited, now, output);
                return Err(Drop::Forbidden);
            }
        };
        let there = if to == InterfaceId::LOCAL { self.local[usize::from(source.is_ipv6())] } else { destination };
        let (outer, outer_port) = self.source(&new, tuple, (from, to), there, port)?;
        let reply = Tuple {
            protocol: tuple.protocol,
            endpoints: Endpoints { source: there, destination: outer, source_port: port, destination_port: outer_port },
        };
        // Only where translations overlap: both would claim the same packets.
        if self.flows.find(&reply).is_some() {
            return Err(Drop::NoPort);
        }
        let protocol = match segment(&packet.bytes, view) {
            Some(segment) => Protocol::Tcp(Tcp::new(&segment)),
            None => Protocol::Other,
        };
        let class = class(&protocol, &tuple, false);
        let id = self.flows.insert([tuple, reply], [from, to], protocol, class, now).map_err(|full| match full {
            Full::Table => Drop::TableFull,
            Full::Owner => Drop::ClientLimit,
        })?;
        if let Some(flow) = self.flows.get_mut(id) {
            flow.rule = rule;
        }
        self.statistics.flows += 1;
        Ok(id)
    }

    /// Whether an address of the router's own is one that others see outside.
    pub(super) fn is_outside(&self, address: IpAddr) -> bool {
        self.interfaces.iter().any(|(_, interface)| match &interface.role {
            Role::Uplink(uplink) => uplink.address(address.is_ipv6()) == Some(address),
            _ => false,
        })
    }

    /// Where packets for an address go.
    pub(super) fn way(&self, from: Side, destination: IpAddr, is_own: bool) -> Option<InterfaceId> {
        if is_own {
            return (from != Side::Gate).then_some(InterfaceId::LOCAL);
        }
        if let Some(client) = self.owner(destination) {
            return Some(client);
        }
        // Nothing goes from one uplink to another, or outside for somebody who would be inside.
        if from == Side::Outside || self.is_inside(destination) {
            return None;
        }
        let routes = self.interfaces.iter().filter_map(|(id, interface)| match &interface.role {
            Role::Uplink(uplink) if uplink.link.is_up() => {
                Some((uplink.link.route_to(destination)?, InterfaceId(id as u16)))
            }
            _ => None,
        });
        // Of equal ones the first.
        routes.max_by_key(|(prefix, id)| (*prefix, core::cmp::Reverse(*id))).map(|(_, id)| id)
    }

    /// What a flow's source is seen as.
    pub(super) fn source(
        &mut self,
        new: &NewFlow,
        tuple: Tuple,
        (_, to): (InterfaceId, InterfaceId),
        there: IpAddr,
        port: u16,
    ) -> Result<(IpAddr, u16), Drop> {
        let Endpoints { source, destination: asked, source_port, .. } = tuple.endpoints;
        let v6 = source.is_ipv6();
        let Some(interface) = self.interfaces.get(to.0.into()) else { return Err(Drop::NoRoute) };
        let outer = match (&interface.role, new.from.0) {
            (Role::Local, _) => return Ok((source, source_port)),
            (Role::Uplink(uplink), Side::Gate) => uplink.address(v6).ok_or(Drop::NoAddress)?,
            (Role::Uplink(uplink), _) => match self.nat.outer(source) {
                Some(outer) => return Ok((outer, source_port)),
                None if self.nat.masquerades(v6) => uplink.address(v6).ok_or(Drop::NoAddress)?,
                None => return Ok((source, source_port)),
            },
            (Role::Client(client), Side::Gate) => client.gateway(v6).ok_or(Drop::NoAddress)?,
            // RFC 4787, REQ-9: who comes back in by an address outside is seen with that one.
            (Role::Client(_), Side::Inside) if new.is_published => self.nat.outer(source).unwrap_or(asked),
            (Role::Client(_), _) => return Ok((source, source_port)),
        };
        let protocol = tuple.protocol;
        let flows = &self.flows;
        let is_free = |outer_port: u16| {
            let reply = Tuple {
                protocol,
                endpoints: Endpoints {
                    source: there,
                    destination: outer,
                    source_port: port,
                    destination_port: outer_port,
                },
            };
            flows.find(&reply).is_none()
        };
        let has_ports = new.source_port.is_some() || new.icmp.is_some();
        if !has_ports {
            return if is_free(0) { Ok((outer, 0)) } else { Err(Drop::NoPort) };
        }
        let inner = (protocol, source, source_port);
        let found = self.flows.mappings.allocate(inner, outer, &mut self.random, is_free);
        Ok((outer, found.ok_or(Drop::NoPort)?))
    }
}

/// Whether a packet can be a flow's first.
fn can_begin(view: &View, from: Side) -> bool {
    use tcp_flags::{ACK, RST, SYN};
    match view.transport {
        Transport::Tcp { flags, .. } if flags & RST != 0 => false,
        Transport::Tcp { flags, .. } if flags & SYN != 0 => flags & ACK == 0,
        // Connections of clients that are older than this router are taken over, as in Linux.
        Transport::Tcp { .. } => from == Side::Inside,
        Transport::Udp { .. } => true,
        Transport::Icmp { .. } => view.is_query(),
        Transport::Other => view.fragment.is_none_or(|fragment| fragment.is_first),
    }
}

//! Packets from one interface to another.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;
use core::net::IpAddr;
use core::time::Duration;

use hashbrown::{HashMap, HashSet};
use sarab_net::{Config, IpCidr, Link, News, Way};
use siphasher::sip::SipHasher13;
use slab::Slab;
use xen_netif::back::{Checksum, Packet};
use xen_netif::checksum;
use xen_netif::headers::{ETHERNET, Headers, TCP};
use xen_netif::segment::Segmenter;

use crate::flows::{Class, Direction, Flow, FlowId, Flows, Full, Protocol, Tuple};
use crate::fragments::{Fragments, Whole};
use crate::icmp::{self, Reason};
use crate::interface::{
    Bounds, Client, ClientLimits, ClientSettings, Interface, InterfaceId, Role, Uplink, UplinkSettings,
};
use crate::nat::Nat;
use crate::packet::{Malformed, Transport, View, tcp_flags};
use crate::policy::{NewFlow, Policy, Side, Verdict};
use crate::related::{self, Quoted};
use crate::rewrite::{self, Endpoints};
use crate::tcp::{Segment, Tcp};

const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
/// The most that a stack of the router's own takes at once.
const LOCAL_MTU: u16 = 65535;
/// Drops that are remembered for whoever looks.
const MAX_RECORDS: usize = 64;
/// Flows that are forgotten in one go.
const EXPIRE_AT_ONCE: usize = 256;

/// Takes what the router sends.
pub trait Output {
    /// Sends a frame on an interface. To the router's [own stack](InterfaceId::LOCAL) its Ethernet header says nothing.
    fn send(&mut self, to: InterfaceId, packet: Packet);

    /// A client asks for something that is not forwarded: its frame is of ARP, of neighbour discovery, or for a DHCP server.
    fn control(&mut self, from: InterfaceId, frame: &[u8]);
}

/// How a router is made.
pub struct Settings {
    /// Most flows at once.
    pub flows: usize,
    /// The addresses of the router's own stack, which nobody else sees.
    pub local: [IpAddr; 2],
    /// Random numbers that nobody can guess.
    pub random: Box<dyn FnMut() -> u64>,
}

/// Why a packet was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum Drop {
    /// Its sender's MAC or address is not the interface's.
    Spoofed,
    /// It is no packet that anyone passes on.
    Malformed,
    /// It is for another MAC, a group, or of a protocol that is not routed.
    NotRouted,
    /// It belongs to no flow and begins none.
    NoFlow,
    /// A rule says so, or the policy.
    Forbidden,
    /// There is no route, or no client has the address.
    NoRoute,
    /// There is no address to be seen with outside.
    NoAddress,
    /// All ports outside are in use.
    NoPort,
    /// There are as many flows as there may be.
    TableFull,
    /// Its client has as many flows as it may have.
    ClientLimit,
    /// Its client begins flows too fast.
    Rate,
    /// It has passed too many routers.
    TimeExceeded,
    /// The next link takes no packet that large.
    TooBig,
    /// The neighbour does not answer, and it is a large one that does not wait.
    Unresolved,
    /// A checksum that cannot be completed, or is wrong where it counts.
    Checksum,
}

impl Drop {
    /// All of them.
    pub const ALL: [Drop; 15] = [
        Drop::Spoofed,
        Drop::Malformed,
        Drop::NotRouted,
        Drop::NoFlow,
        Drop::Forbidden,
        Drop::NoRoute,
        Drop::NoAddress,
        Drop::NoPort,
        Drop::TableFull,
        Drop::ClientLimit,
        Drop::Rate,
        Drop::TimeExceeded,
        Drop::TooBig,
        Drop::Unresolved,
        Drop::Checksum,
    ];

    /// A word for it, as in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Drop::Spoofed => "spoofed",
            Drop::Malformed => "malformed",
            Drop::NotRouted => "not_routed",
            Drop::NoFlow => "no_flow",
            Drop::Forbidden => "forbidden",
            Drop::NoRoute => "no_route",
            Drop::NoAddress => "no_address",
            Drop::NoPort => "no_port",
            Drop::TableFull => "table_full",
            Drop::ClientLimit => "client_limit",
            Drop::Rate => "rate",
            Drop::TimeExceeded => "time_exceeded",
            Drop::TooBig => "too_big",
            Drop::Unresolved => "unresolved",
            Drop::Checksum => "checksum",
        }
    }
}

impl From<Malformed> for Drop {
    fn from(_: Malformed) -> Drop {
        Drop::Malformed
    }
}

/// A packet that was dropped.
#[derive(Clone, Copy, Debug)]
pub struct DropRecord {
    /// Why.
    pub reason: Drop,
    /// Where it came from.
    pub from: InterfaceId,
    /// What it was, if that much is known.
    pub tuple: Option<Tuple>,
}

/// What a router has done.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Statistics {
    /// Packets that were passed on, each however large.
    pub forwarded: u64,
    /// Their bytes.
    pub forwarded_bytes: u64,
    /// Flows that have begun.
    pub flows: u64,
    /// Messages of ICMP and resets that were sent.
    pub told: u64,
    /// Packets that were dropped, by [`Drop`].
    pub dropped: [u64; Drop::ALL.len()],
}

type Set<T> = HashSet<T, core::hash::BuildHasherDefault<SipHasher13>>;
type Map<K, V> = HashMap<K, V, core::hash::BuildHasherDefault<SipHasher13>>;

/// A router. Frames that arrive go in with [`receive`](Router::receive), and what is to be sent comes out at the
/// [`Output`].
pub struct Router<P> {
    interfaces: Slab<Interface>,
    flows: Flows,
    fragments: Fragments,
    policy: P,
    nat: Nat,
    local: [IpAddr; 2],
    /// Addresses of the router's own: of all uplinks, and of clients' gateways.
    own: Set<IpAddr>,
    /// Who has which address inside.
    clients: Map<IpAddr, Vec<InterfaceId>>,
    limits: ClientLimits,
    /// Networks whose addresses are clients' and the router's alone.
    inside: Vec<IpCidr>,
    random: Box<dyn FnMut() -> u64>,
    records: VecDeque<DropRecord>,
    statistics: Statistics,
}

impl<P: Policy> Router<P> {
    /// A router with no interfaces but its own stack's.
    pub fn new(settings: Settings, policy: P, nat: Nat) -> Router<P> {
        let Settings { flows, local, mut random } = settings;
        let keys = (random(), random());
        let mut interfaces = Slab::new();
        interfaces.insert(Interface::new(Role::Local, LOCAL_MTU));
        Router {
            interfaces,
            flows: Flows::new(flows, keys),
            fragments: Fragments::default(),
            policy,
            nat,
            local,
            own: Set::default(),
            clients: Map::default(),
            limits: ClientLimits::default(),
            inside: Vec::new(),
            random,
            records: VecDeque::new(),
            statistics: Statistics::default(),
        }
    }

    /// What it has done.
    pub fn statistics(&self) -> Statistics {
        self.statistics
    }

    /// Its flows.
    pub fn flows(&self) -> &Flows {
        &self.flows
    }

    /// Its policy.
    pub fn policy(&self) -> &P {
        &self.policy
    }

    /// The addresses of the router's own.
    pub fn is_own(&self, address: IpAddr) -> bool {
        self.own.contains(&address)
    }

    /// Whether a client has an address.
    pub fn has_client(&self, address: IpAddr) -> bool {
        self.clients.contains_key(&address)
    }

    /// Counts a frame that was [not forwarded](Output::control), and whose sender says that it is somebody else.
    pub fn count_spoofed(&mut self, from: InterfaceId) {
        self.record(from, None, Drop::Spoofed);
    }

    /// Packets that were dropped since the last call, but for those that were too many.
    pub fn take_records(&mut self) -> impl Iterator<Item = DropRecord> + '_ {
        self.records.drain(..)
    }

    /// Networks whose addresses are clients' and the router's alone: nobody outside has one, whether a client does or not.
    pub fn set_inside(&mut self, networks: Vec<IpCidr>) {
        self.inside = networks;
    }

    fn is_inside(&self, address: IpAddr) -> bool {
        self.inside.iter().any(|network| network.contains_addr(&address.into()))
    }

    /// What each client may do.
    pub fn set_limits(&mut self, limits: ClientLimits) {
        self.flows.set_limit(limits.flows.unwrap_or(usize::MAX));
        self.limits = limits;
        for (_, interface) in &mut self.interfaces {
            if let Role::Client(client) = &mut interface.role {
                client.bounds = Bounds::new(&limits);
            }
        }
    }

    /// Has it another policy and other translations from now on. Flows that may not begin now are forgotten; the others are
    /// kept. How many are forgotten.
    pub fn set_policy(&mut self, policy: P, nat: Nat) -> usize {
        let is_other = nat != self.nat;
        (self.policy, self.nat) = (policy, nat);
        self.refresh();
        self.judge_again(is_other)
    }

    /// Judges all flows again, whose rules may have changed with the names in them. How many are forgotten.
    pub fn judge_again(&mut self, with_translations: bool) -> usize {
        let mut flows = core::mem::replace(&mut self.flows, Flows::new(0, (0, 0)));
        let count = flows.retain(|flow| {
            let Some(new) = self.new_flow_of(flow) else { return false };
            (!with_translations || self.is_translated_right(flow, &new))
                && matches!(self.policy.judge(&new), Verdict::Accept(_))
        });
        self.flows = flows;
        count
    }

    fn is_translated_right(&self, flow: &Flow, new: &NewFlow) -> bool {
        let Tuple { protocol, endpoints } = flow.tuples[0];
        if new.from.0 == Side::Gate || new.to.0 == Side::Gate {
            return true;
        }
        let is_outer = self.own.contains(&endpoints.destination);
        let now = self.nat.destination(is_outer, protocol, endpoints.destination, endpoints.destination_port);
        let now = now.unwrap_or((endpoints.destination, endpoints.destination_port));
        let reply = flow.tuples[1].endpoints;
        if now != (reply.source, reply.source_port) {
            return false;
        }
        let is_translated = reply.destination != endpoints.source;
        let wanted = new.to.0 == Side::Outside
            && (self.nat.masquerades(endpoints.source.is_ipv6()) || self.nat.outer(endpoints.source).is_some());
        is_translated == wanted || new.to.0 == Side::Inside
    }

    /// As it was when it began.
    fn new_flow_of(&self, flow: &Flow) -> Option<NewFlow> {
        let [from, to] = flow.interfaces;
        let (original, reply) = (flow.tuples[0], flow.tuples[1].endpoints);
        let has_ports = matches!(original.protocol, TCP | xen_netif::headers::UDP);
        let is_local = to == InterfaceId::LOCAL;
        let destination = if is_local { original.endpoints.destination } else { reply.source };
        let port = if is_local { original.endpoints.destination_port } else { reply.source_port };
        let echo = if original.endpoints.source.is_ipv4() { (8, 0) } else { (128, 0) };
        Some(NewFlow {
            from: (self.side(from)?, from),
            to: (self.side(to)?, to),
            protocol: original.protocol,
            source: original.endpoints.source,
            destination,
            source_port: has_ports.then_some(original.endpoints.source_port),
            destination_port: has_ports.then_some(port),
            icmp: matches!(original.protocol, crate::packet::ICMP | crate::packet::ICMPV6).then_some(echo),
            is_published: !is_local && destination != original.endpoints.destination,
        })
    }

    fn side(&self, interface: InterfaceId) -> Option<Side> {
        Some(match &self.interfaces.get(interface.0.into())?.role {
            Role::Local => Side::Gate,
            Role::Uplink(_) => Side::Outside,
            Role::Client(_) => Side::Inside,
        })
    }
}

/// Interfaces.
impl<P: Policy> Router<P> {
    /// Adds an uplink, which is down.
    pub fn add_uplink(&mut self, settings: UplinkSettings) -> InterfaceId {
        let UplinkSettings { mac, config, mtu } = settings;
        let link = Link::new(mac, config, (self.random)());
        let role = Role::Uplink(Box::new(Uplink { link, known: sarab_net::Addresses::default() }));
        let id = InterfaceId(self.interfaces.insert(Interface::new(role, mtu)) as u16);
        self.refresh();
        id
    }

    /// Adds a client.
    pub fn add_client(&mut self, settings: ClientSettings) -> InterfaceId {
        let mtu = settings.mtu;
        let client = Client { settings, is_up: false, bounds: Bounds::new(&self.limits) };
        let id = InterfaceId(self.interfaces.insert(Interface::new(Role::Client(client), mtu)) as u16);
        self.refresh();
        id
    }

    /// Removes an interface, with its flows.
    pub fn remove(&mut self, interface: InterfaceId) {
        if interface == InterfaceId::LOCAL || self.interfaces.try_remove(interface.0.into()).is_none() {
            return;
        }
        self.flows.retain(|flow| !flow.interfaces.contains(&interface));
        self.refresh();
    }

    /// An uplink's link, to be looked at.
    pub fn link(&self, interface: InterfaceId) -> Option<&Link> {
        match &self.interfaces.get(interface.0.into())?.role {
            Role::Uplink(uplink) => Some(&uplink.link),
            _ => None,
        }
    }

    /// A client.
    pub fn client(&self, interface: InterfaceId) -> Option<&Client> {
        match &self.interfaces.get(interface.0.into())?.role {
            Role::Client(client) => Some(client),
            _ => None,
        }
    }

    /// All clients.
    pub fn clients(&self) -> impl Iterator<Item = (InterfaceId, &Client)> {
        self.interfaces.iter().filter_map(|(id, interface)| match &interface.role {
            Role::Client(client) => Some((InterfaceId(id as u16), client)),
            _ => None,
        })
    }

    /// Packets of an interface that were dropped.
    pub fn dropped(&self, interface: InterfaceId) -> u64 {
        self.interfaces.get(interface.0.into()).map_or(0, |interface| interface.dropped)
    }

    /// A client's addresses and gateways are others from now on. Flows of addresses that it has lost are forgotten.
    pub fn set_client(&mut self, interface: InterfaceId, settings: ClientSettings) {
        let Some(own) = self.interfaces.get_mut(interface.0.into()) else { return };
        own.mtu = settings.mtu;
        let Role::Client(client) = &mut own.role else { return };
        let before = core::mem::replace(&mut client.settings, settings);
        let lost: Vec<IpAddr> = before.addresses.into_iter().filter(|address| !client.has(*address)).collect();
        if !lost.is_empty() {
            self.flows.retain(|flow| {
                let inside = [flow.tuples[0].endpoints.source, flow.tuples[1].endpoints.source];
                !(0..2).any(|end| flow.interfaces[end] == interface && lost.contains(&inside[end]))
            });
        }
        self.refresh();
    }

    /// Whether a client is connected.
    pub fn set_client_up(&mut self, interface: InterfaceId, is_up: bool) {
        if let Some(Interface { role: Role::Client(client), .. }) = self.interfaces.get_mut(interface.0.into()) {
            client.is_up = is_up;
        }
    }

    /// The state of an uplink's device.
    pub fn set_uplink(&mut self, interface: InterfaceId, mac: sarab_net::Mac, is_up: bool, mtu: u16, now: Duration) {
        if let Some(own) = self.interfaces.get_mut(interface.0.into())
            && let Role::Uplink(uplink) = &mut own.role
        {
            own.mtu = mtu;
            uplink.link.device(mac, is_up, now);
        }
        self.refresh_uplink(interface);
    }

    /// Has an uplink come by its addresses in another way.
    pub fn configure_uplink(&mut self, interface: InterfaceId, config: Config, now: Duration) {
        if let Some(Interface { role: Role::Uplink(uplink), .. }) = self.interfaces.get_mut(interface.0.into()) {
            uplink.link.configure(config, now);
        }
        self.refresh_uplink(interface);
    }

    /// Has an uplink tell everybody of its addresses, as after a restore.
    pub fn announce(&mut self, interface: InterfaceId, now: Duration) {
        if let Some(Interface { role: Role::Uplink(uplink), .. }) = self.interfaces.get_mut(interface.0.into()) {
            uplink.link.announce(now);
        }
    }

    /// What an administrator is to know of an uplink.
    pub fn news(&mut self, interface: InterfaceId) -> Option<News> {
        match &mut self.interfaces.get_mut(interface.0.into())?.role {
            Role::Uplink(uplink) => uplink.link.news(),
            _ => None,
        }
    }

    /// An uplink's addresses may have changed.
    fn refresh_uplink(&mut self, interface: InterfaceId) {
        let Some(Interface { role: Role::Uplink(uplink), .. }) = self.interfaces.get_mut(interface.0.into()) else {
            return;
        };
        if *uplink.link.addresses() == uplink.known {
            return;
        }
        let before = core::mem::replace(&mut uplink.known, uplink.link.addresses().clone());
        let lost: Vec<IpAddr> = before
            .iter()
            .map(|cidr| IpAddr::from(cidr.address()))
            .filter(|address| uplink.known.iter().all(|cidr| IpAddr::from(cidr.address()) != *address))
            .collect();
        if !lost.is_empty() {
            self.flows.retain(|flow| {
                let here = [flow.tuples[0].endpoints.destination, flow.tuples[1].endpoints.destination];
                !(0..2).any(|end| flow.interfaces[end] == interface && lost.contains(&here[end]))
            });
        }
        self.refresh();
    }

    /// Who has which address.
    fn refresh(&mut self) {
        self.own.clear();
        self.clients.clear();
        let proxied: Vec<IpAddr> = self.nat.outers().collect();
        for (id, interface) in &mut self.interfaces {
            match &mut interface.role {
                Role::Local => {}
                Role::Uplink(uplink) => {
                    self.own.extend(uplink.link.addresses().iter().map(|cidr| IpAddr::from(cidr.address())));
                    self.own.extend(uplink.link.addresses().link_local.map(IpAddr::V6));
                    uplink.link.set_proxied(proxied.clone());
                }
                Role::Client(client) => {
                    self.own.extend(client.gateway(false).into_iter().chain(client.gateway(true)));
                    for address in &client.settings.addresses {
                        self.clients.entry(*address).or_default().push(InterfaceId(id as u16));
                    }
                }
            }
        }
    }

    /// Who has an address now: of several who is connected, and of these the latest.
    fn owner(&self, address: IpAddr) -> Option<InterfaceId> {
        let all = self.clients.get(&address)?;
        let is_up = |id: &&InterfaceId| self.client(**id).is_some_and(|client| client.is_up);
        all.iter().rev().find(is_up).or(all.last()).copied()
    }
}

/// Time.
impl<P: Policy> Router<P> {
    /// Does what is due.
    pub fn poll(&mut self, now: Duration, output: &mut impl Output) {
        self.flows.expire(now, EXPIRE_AT_ONCE);
        self.fragments.expire(now);
        let uplinks: Vec<InterfaceId> = self.uplinks().collect();
        for id in uplinks {
            if let Some(Interface { role: Role::Uplink(uplink), .. }) = self.interfaces.get_mut(id.0.into()) {
                uplink.link.poll(now);
            }
            self.flush(id, output);
            self.refresh_uplink(id);
        }
    }

    /// When something is due.
    pub fn next(&self) -> Option<Duration> {
        let links = self.interfaces.iter().filter_map(|(_, interface)| match &interface.role {
            Role::Uplink(uplink) => uplink.link.next(),
            _ => None,
        });
        links.chain(self.flows.next()).chain(self.fragments.next()).min()
    }

    fn uplinks(&self) -> impl Iterator<Item = InterfaceId> + '_ {
        self.interfaces
            .iter()
            .filter(|(_, interface)| matches!(interface.role, Role::Uplink(_)))
            .map(|(id, _)| InterfaceId(id as u16))
    }

    /// Sends a link's own frames.
    fn flush(&mut self, id: InterfaceId, output: &mut impl Output) {
        if let Some(Interface { role: Role::Uplink(uplink), .. }) = self.interfaces.get_mut(id.0.into()) {
            while let Some(frame) = uplink.link.pop() {
                output.send(id, frame.into());
            }
        }
    }
}

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

    fn record(&mut self, from: InterfaceId, tuple: Option<Tuple>, reason: Drop) {
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
    fn enter(
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
                view
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
                    packet.bytes.drain(ETHERNET - 2..range.start - 2);
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

    fn route(
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
    fn begins_again(&mut self, id: FlowId, view: &View) -> bool {
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
    if !client.has(view.source) {
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

/// Flows that begin.
impl<P: Policy> Router<P> {
    #[cold]
    fn begin(
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
        let is_own = self.own.contains(&asked);
        let translated = match from_side {
            Side::Gate => None,
            Side::Inside | Side::Outside => {
                let is_outer = is_own && self.is_outside(asked);
                self.nat.destination(is_outer, tuple.protocol, asked, asked_port)
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
    fn is_outside(&self, address: IpAddr) -> bool {
        self.interfaces.iter().any(|(_, interface)| match &interface.role {
            Role::Uplink(uplink) => uplink.address(address.is_ipv6()) == Some(address),
            _ => false,
        })
    }

    /// Where packets for an address go.
    fn way(&self, from: Side, destination: IpAddr, is_own: bool) -> Option<InterfaceId> {
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
    fn source(
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

fn segment(frame: &[u8], view: &View) -> Option<Segment> {
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

fn class(protocol: &Protocol, tuple: &Tuple, is_answered: bool) -> Class {
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

/// Packets that leave.
impl<P: Policy> Router<P> {
    /// Passes on a packet of a flow.
    #[inline]
    fn forward(
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
    fn send_fragments(
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
    fn send(
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
    fn tell(
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
    fn reject(&mut self, from: InterfaceId, packet: &Packet, view: &View, now: Duration, output: &mut impl Output) {
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
    fn related(
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
fn complete(packet: Packet) -> Option<Vec<u8>> {
    let mut bytes = packet.bytes;
    if packet.checksum != Checksum::Blank && packet.gso.is_none() {
        return Some(bytes);
    }
    let headers = Headers::parse(&bytes)?;
    if let Some((_, size)) = packet.gso {
        let cut = Segmenter::segments(&bytes, &headers, size)?;
        let mut piece = vec![0; cut.len(0)];
        cut.write(&bytes, 0, &mut piece);
        return Some(piece);
    }
    checksum::complete(&mut bytes, &headers).then_some(bytes)
}

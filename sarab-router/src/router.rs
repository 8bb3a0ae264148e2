//! Packets from one interface to another.

mod arrive;
mod begin;
mod interfaces;
mod leave;

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::net::IpAddr;

use hashbrown::{HashMap, HashSet};
use sarab_net::IpCidr;
use siphasher::sip::SipHasher13;
use slab::Slab;
use xen_netif::back::Packet;
use xen_netif::headers::{TCP, UDP};

use crate::InterfaceId;
use crate::flows::{Flow, Flows, Tuple};
use crate::fragments::Fragments;
use crate::interface::{Bounds, ClientLimits, Interface, Role};
use crate::nat::Nat;
use crate::packet::{ICMP, ICMPV6, Malformed};
use crate::policy::{NewFlow, Policy, Side, Verdict};

/// The most that a stack of the router's own takes at once.
const LOCAL_MTU: u16 = 65535;

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
    /// Flows to somebody outside who has had one are forgotten.
    pub fn set_inside(&mut self, networks: Vec<IpCidr>) {
        self.inside = networks;
        let mut flows = core::mem::replace(&mut self.flows, Flows::new(0, (0, 0)));
        flows.retain(|flow| {
            let is_outside = |end: usize| self.side(flow.interfaces[end]) == Some(Side::Outside);
            (0..2).all(|end| !is_outside(end) || !self.is_inside(flow.tuples[end].endpoints.source))
        });
        self.flows = flows;
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
        let (asked, port) = (endpoints.destination, endpoints.destination_port);
        let now = self.nat.destination(new.from.0, is_outer, protocol, asked, port);
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
        let has_ports = matches!(original.protocol, TCP | UDP);
        let is_local = to == InterfaceId::LOCAL;
        let destination = if is_local { original.endpoints.destination } else { reply.source };
        let port = if is_local { original.endpoints.destination_port } else { reply.source_port };
        // See `View::ports`.
        let query = (original.endpoints.destination_port as u8, 0);
        Some(NewFlow {
            from: (self.side(from)?, from),
            to: (self.side(to)?, to),
            protocol: original.protocol,
            source: original.endpoints.source,
            destination,
            original_destination: original.endpoints.destination,
            source_port: has_ports.then_some(original.endpoints.source_port),
            destination_port: has_ports.then_some(port),
            icmp: matches!(original.protocol, ICMP | ICMPV6).then_some(query),
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

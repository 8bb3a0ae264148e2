//! Which addresses stand for which.

use alloc::vec::Vec;
use core::net::IpAddr;
use core::ops::RangeInclusive;

use hashbrown::HashMap;
use siphasher::sip::SipHasher13;
use xen_netif::headers::{TCP, UDP};

use crate::flows::{Flow, Tuple};
use crate::policy::Side;

/// Ports of the router's own addresses that are a client's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// IP's number of the protocol.
    pub protocol: u8,
    /// The address, or all of the router's that are outside.
    pub outer: Option<IpAddr>,
    /// The ports there.
    pub ports: RangeInclusive<u16>,
    /// The client's address.
    pub to: IpAddr,
    /// The port there that is the first one's.
    pub to_port: u16,
}

/// An address outside that is a client's, both ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Map {
    /// The address outside.
    pub outer: IpAddr,
    /// The client's.
    pub inner: IpAddr,
}

/// A service outside that clients reach by another address: a name server by one that stays while the server changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// The address that clients know.
    pub address: IpAddr,
    /// The port, of TCP and UDP, there as here.
    pub port: u16,
    /// The server's address.
    pub to: IpAddr,
}

/// Which addresses stand for which.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nat {
    /// Whether clients are seen outside with the router's IPv4 address.
    pub masquerade_v4: bool,
    /// Whether clients are seen outside with the router's IPv6 address (NAT66).
    pub masquerade_v6: bool,
    /// The first that matches counts.
    pub publish: Vec<Publish>,
    /// One to one.
    pub map: Vec<Map>,
    /// For what clients send.
    pub redirect: Vec<Redirect>,
}

impl Nat {
    /// Where a packet goes that goes elsewhere than to the address that it has.
    pub(crate) fn destination(
        &self,
        from: Side,
        is_outer: bool,
        protocol: u8,
        to: IpAddr,
        port: u16,
    ) -> Option<(IpAddr, u16)> {
        let redirected = self.redirect.iter().filter(|_| from == Side::Inside && matches!(protocol, TCP | UDP));
        let mut redirected = redirected.filter(|redirect| redirect.address == to && redirect.port == port);
        if let Some(redirect) = redirected.find(|redirect| redirect.to.is_ipv4() == to.is_ipv4()) {
            return Some((redirect.to, port));
        }
        let published = self.publish.iter().find(|publish| {
            publish.protocol == protocol
                && publish.ports.contains(&port)
                && publish.to.is_ipv4() == to.is_ipv4()
                && publish.outer.map_or(is_outer, |outer| outer == to)
        });
        if let Some(publish) = published {
            return Some((publish.to, publish.to_port.wrapping_add(port - publish.ports.start())));
        }
        let map = self.map.iter().find(|map| map.outer == to && map.inner.is_ipv4() == to.is_ipv4())?;
        Some((map.inner, port))
    }

    /// The address outside of a client that has one for itself.
    pub(crate) fn outer(&self, inner: IpAddr) -> Option<IpAddr> {
        let is_right = |map: &&Map| map.inner == inner && map.outer.is_ipv4() == inner.is_ipv4();
        self.map.iter().find(is_right).map(|map| map.outer)
    }

    /// Whether clients share the router's address of this family.
    pub(crate) fn masquerades(&self, v6: bool) -> bool {
        if v6 { self.masquerade_v6 } else { self.masquerade_v4 }
    }

    /// Addresses besides its own that the router has to answer for outside.
    pub(crate) fn outers(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.publish.iter().filter_map(|publish| publish.outer).chain(self.map.iter().map(|map| map.outer))
    }
}

/// An address and a port, of a protocol.
type Endpoint = (u8, IpAddr, u16);

#[derive(Clone, Copy)]
struct Mapping {
    inner: Endpoint,
    flows: u32,
}

type Table<V> = HashMap<Endpoint, V, core::hash::BuildHasherDefault<SipHasher13>>;

/// Which of the router's ports stand for which of the clients': each for one at a time, whomever it talks to (RFC 4787,
/// REQ-1 and REQ-3).
#[derive(Default)]
pub(crate) struct Mappings {
    /// By the endpoint outside.
    outer: Table<Mapping>,
    /// By the endpoint inside and the address outside: the port there.
    inner: HashMap<(Endpoint, IpAddr), u16, core::hash::BuildHasherDefault<SipHasher13>>,
}

/// How many ports are tried.
const ATTEMPTS: usize = 128;

impl Mappings {
    /// The port outside for a client's port: the one that it has already, its own number, or one that nobody can guess
    /// (RFC 6056, algorithm 1, with as many attempts as make a free one likely).
    pub(crate) fn allocate(
        &self,
        inner: Endpoint,
        outer: IpAddr,
        random: &mut dyn FnMut() -> u64,
        is_free: impl Fn(u16) -> bool,
    ) -> Option<u16> {
        let (protocol, _, port) = inner;
        if let Some(known) = self.inner.get(&(inner, outer)) {
            return is_free(*known).then_some(*known);
        }
        let is_unused = |port: u16| !self.outer.contains_key(&(protocol, outer, port)) && is_free(port);
        if is_unused(port) {
            return Some(port);
        }
        // RFC 4787, REQ-3: a well-known port stays one where it can.
        let range: RangeInclusive<u16> = if (1..1024).contains(&port) { 512..=1023 } else { 1024..=65535 };
        let size = u64::from(range.end() - range.start()) + 1;
        let mut candidates = core::iter::repeat_with(|| range.start() + (random() % size) as u16).take(ATTEMPTS);
        candidates.find(|port| is_unused(*port))
    }

    fn of(tuples: &[Tuple; 2]) -> Option<(Endpoint, Endpoint)> {
        let [original, reply] = tuples;
        let inner = (original.protocol, original.endpoints.source, original.endpoints.source_port);
        let outer = (reply.protocol, reply.endpoints.destination, reply.endpoints.destination_port);
        (inner != outer).then_some((inner, outer))
    }

    pub(crate) fn add(&mut self, tuples: &[Tuple; 2]) {
        let Some((inner, outer)) = Mappings::of(tuples) else { return };
        self.outer.entry(outer).or_insert(Mapping { inner, flows: 0 }).flows += 1;
        self.inner.insert((inner, outer.1), outer.2);
    }

    pub(crate) fn remove(&mut self, flow: &Flow) {
        let Some((_, outer)) = Mappings::of(&flow.tuples) else { return };
        let Some(mapping) = self.outer.get_mut(&outer) else { return };
        mapping.flows -= 1;
        if mapping.flows == 0 {
            let inner = mapping.inner;
            self.outer.remove(&outer);
            self.inner.remove(&(inner, outer.1));
        }
    }
}

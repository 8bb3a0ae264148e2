//! What a router is connected to.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sarab_net::{Addresses, Config, Link, Mac};

use crate::alias::Alias;
use crate::bucket::Bucket;

/// An interface of a router.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InterfaceId(pub(crate) u16);

impl InterfaceId {
    /// The router's own stack.
    pub const LOCAL: InterfaceId = InterfaceId(0);

    /// Its number: small, and used again after it is gone.
    pub fn number(self) -> u16 {
        self.0
    }
}

/// An interface to a network that others run.
#[derive(Clone, Debug)]
pub struct UplinkSettings {
    /// Its MAC.
    pub mac: Mac,
    /// How it comes by its addresses.
    pub config: Config,
    /// Most bytes of an IP packet.
    pub mtu: u16,
}

/// A client's interface.
#[derive(Clone, Debug)]
pub struct ClientSettings {
    /// The client's MAC: what it sends under another is dropped.
    pub mac: Mac,
    /// The router's, as the client sees it.
    pub gate_mac: Mac,
    /// The client's addresses: what it sends under another is dropped.
    pub addresses: Vec<IpAddr>,
    /// The router's address, as the client sees it.
    pub gateway_v4: Option<Ipv4Addr>,
    /// The router's address, as the client sees it.
    pub gateway_v6: Option<Ipv6Addr>,
    /// Most bytes of an IP packet.
    pub mtu: u16,
    /// An address that it has in its own eyes. Its `gateway_v4` is one in its own eyes, too, then.
    pub alias: Option<Alias>,
}

/// A client's interface, and what is known of it.
pub struct Client {
    /// What was said of it.
    pub settings: ClientSettings,
    /// Whether it is connected: of several with one address the one that is has it.
    pub is_up: bool,
    pub(crate) bounds: Bounds,
}

/// What each client may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientLimits {
    /// Flows at once.
    pub flows: Option<usize>,
    /// Flows that it begins in a second, and twice as many at once.
    pub new_flows: Option<u32>,
    /// Packets of ICMP in a second, and twice as many at once.
    pub icmp: Option<u32>,
}

/// How much of that a client has used.
pub(crate) struct Bounds {
    pub(crate) begins: Option<Bucket>,
    pub(crate) icmp: Option<Bucket>,
}

impl Bounds {
    pub(crate) fn new(limits: &ClientLimits) -> Bounds {
        let bucket = |rate: u32| Bucket::new(rate.saturating_mul(2), rate);
        Bounds { begins: limits.new_flows.map(bucket), icmp: limits.icmp.map(bucket) }
    }
}

impl Client {
    pub(crate) fn has(&self, address: IpAddr) -> bool {
        self.settings.addresses.contains(&address)
    }

    /// Whether it may send under an address.
    pub(crate) fn sends_as(&self, address: IpAddr) -> bool {
        match self.settings.alias {
            Some(alias) if address == alias.visible => true,
            Some(alias) if address == alias.actual => false,
            _ => self.has(address),
        }
    }

    pub(crate) fn gateway(&self, v6: bool) -> Option<IpAddr> {
        match v6 {
            false => self.settings.gateway_v4.map(IpAddr::V4),
            true => self.settings.gateway_v6.map(IpAddr::V6),
        }
    }
}

pub(crate) struct Uplink {
    pub(crate) link: Link,
    /// As the router has taken note of them.
    pub(crate) known: Addresses,
}

impl Uplink {
    pub(crate) fn address(&self, v6: bool) -> Option<IpAddr> {
        let addresses = self.link.addresses();
        match v6 {
            false => addresses.ipv4.map(|address| IpAddr::V4(address.address())),
            true => addresses.ipv6.map(|address| IpAddr::V6(address.address())),
        }
    }
}

pub(crate) enum Role {
    Local,
    Uplink(Box<Uplink>),
    Client(Client),
}

pub(crate) struct Interface {
    pub(crate) role: Role,
    pub(crate) mtu: u16,
    /// Bounds what the router tells of packets that came here.
    pub(crate) tells: Bucket,
    pub(crate) dropped: u64,
}

impl Interface {
    pub(crate) fn new(role: Role, mtu: u16) -> Interface {
        Interface { role, mtu, tells: Bucket::new(50, 100), dropped: 0 }
    }
}

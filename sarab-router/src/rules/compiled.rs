//! A rule in the form that is quick to compare with a packet.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::net::IpAddr;

use sarab_net::IpCidr;

use super::config::Host;
use super::names::{NameId, Names};
use super::prefix;
use super::rule::{Family, Place, Rule};
use super::set::{ClientIdentity, Query, Zone};

/// What of a rule has to be looked up or computed once.
#[derive(Clone, Debug)]
pub(super) struct Compiled {
    from: Side,
    to: Side,
    has_ports: bool,
}

#[derive(Clone, Copy, Debug)]
struct Side {
    inside: bool,
    outside: bool,
    gate: bool,
    addresses: Addresses,
}

#[derive(Clone, Copy, Debug)]
enum Addresses {
    Any,
    V4 { network: u32, mask: u32 },
    V6 { network: u128, mask: u128 },
    Host(usize),
    Name(NameId),
}

/// How a host is recognized.
#[derive(Clone, Debug)]
pub(super) struct HostMatch {
    mac: [u8; 6],
    addresses: Box<[IpAddr]>,
}

/// What rules refer to.
pub(super) struct Context<'a> {
    pub(super) clients: &'a [IpCidr],
    pub(super) hosts: &'a [Host],
    /// Sorted.
    pub(super) names: &'a [Box<str>],
}

impl HostMatch {
    pub(super) fn new(host: &Host) -> Self {
        HostMatch { mac: host.mac, addresses: host.addresses.as_slice().into() }
    }
}

impl Context<'_> {
    pub(super) fn compile(&self, rule: &Rule) -> Compiled {
        Compiled {
            from: self.side(rule.from.as_ref().unwrap_or(&Place::Inside)),
            to: self.side(&rule.to),
            has_ports: !rule.from_ports.is_any() || !rule.to_ports.is_any(),
        }
    }

    fn side(&self, place: &Place) -> Side {
        let inside = Side { inside: true, outside: false, gate: false, addresses: Addresses::Any };
        let outside = Side { inside: false, outside: true, ..inside };
        let both = Side { outside: true, ..inside };
        match place {
            Place::Any => both,
            Place::Inside => inside,
            Place::Outside => outside,
            Place::Gate => Side { inside: false, gate: true, ..inside },
            Place::Network(network) => {
                let is_inside = self.clients.iter().any(|clients| prefix::of(clients).contains_subnet(network));
                Side { outside: !is_inside, addresses: Addresses::network(network), ..both }
            }
            // A host that is not found, or a name, cannot be: both were looked for before.
            Place::Host(name) => {
                let index = self.hosts.iter().position(|host| host.name == *name).unwrap_or(usize::MAX);
                Side { addresses: Addresses::Host(index), ..inside }
            }
            Place::Name(name) => {
                let index = self.names.binary_search(name).ok().and_then(|index| u32::try_from(index).ok());
                Side { addresses: Addresses::Name(NameId(index.unwrap_or(u32::MAX))), ..outside }
            }
        }
    }
}

impl Addresses {
    fn network(network: &IpCidr) -> Addresses {
        let len = network.prefix_len();
        match network.address().into() {
            IpAddr::V4(address) => Addresses::V4 { network: address.to_bits(), mask: prefix::mask_v4(len) },
            IpAddr::V6(address) => Addresses::V6 { network: address.to_bits(), mask: prefix::mask_v6(len) },
        }
    }
}

impl Compiled {
    /// Whether a packet matches the rule that this was made of.
    #[inline]
    pub(super) fn matches(&self, rule: &Rule, query: &Query<'_>, hosts: &[HostMatch], names: &impl Names) -> bool {
        let family = Family::of(query.destination);
        rule.protocol.is_none_or(|protocol| protocol.matches(query.protocol, family))
            && (!self.has_ports
                || (rule.to_ports.contains(query.destination_port) && rule.from_ports.contains(query.source_port)))
            && rule.icmp.is_none_or(|wanted| query.icmp.is_some_and(|(kind, code)| wanted.matches(family, kind, code)))
            && self.to.matches(query.to, query.destination, query.receiver, hosts, names)
            && self.from.matches(query.from, query.source, query.sender, hosts, names)
    }
}

impl Side {
    #[inline]
    fn matches(
        &self,
        zone: Zone,
        address: IpAddr,
        client: Option<&ClientIdentity<'_>>,
        hosts: &[HostMatch],
        names: &impl Names,
    ) -> bool {
        let is_in_zone = match zone {
            Zone::Inside => self.inside,
            Zone::Outside => self.outside,
            Zone::Gate => self.gate,
        };
        is_in_zone
            && match (self.addresses, address) {
                (Addresses::Any, _) => true,
                (Addresses::V4 { network, mask }, IpAddr::V4(address)) => address.to_bits() & mask == network,
                (Addresses::V6 { network, mask }, IpAddr::V6(address)) => address.to_bits() & mask == network,
                (Addresses::V4 { .. } | Addresses::V6 { .. }, _) => false,
                (Addresses::Host(index), _) => hosts.get(index).is_some_and(|host| {
                    client.is_some_and(|client| client.mac == host.mac) || host.addresses.contains(&address)
                }),
                (Addresses::Name(name), _) => names.lookup(name).contains(&address),
            }
    }
}

/// The names of rules, sorted, each once.
pub(super) fn names<'a>(rules: impl Iterator<Item = &'a Rule>) -> Vec<Box<str>> {
    let mut names = Vec::new();
    for rule in rules {
        for place in rule.from.iter().chain([&rule.to]) {
            if let Place::Name(name) = place {
                names.push(name.clone());
            }
        }
    }
    names.sort_unstable();
    names.dedup();
    names
}

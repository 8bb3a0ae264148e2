//! Where packets go next.

use alloc::vec::Vec;
use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smoltcp::wire::{IpCidr, Ipv4Cidr, Ipv6Cidr};

/// A way to a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The network.
    pub network: IpCidr,
    /// The router behind which it is; `None` where its hosts are on the link. A router is on the link whatever the
    /// addresses are.
    pub gateway: Option<IpAddr>,
}

impl Route {
    /// A network on the link.
    pub fn on_link(network: impl Into<IpCidr>) -> Route {
        Route { network: network.into(), gateway: None }
    }

    /// A network behind a router.
    pub fn via(network: impl Into<IpCidr>, gateway: impl Into<IpAddr>) -> Route {
        Route { network: network.into(), gateway: Some(gateway.into()) }
    }

    /// Everything, behind a router.
    pub fn default_via(gateway: impl Into<IpAddr>) -> Route {
        let gateway = gateway.into();
        match gateway {
            IpAddr::V4(_) => Route::via(Ipv4Cidr::new(Ipv4Addr::UNSPECIFIED, 0), gateway),
            IpAddr::V6(_) => Route::via(Ipv6Cidr::new(Ipv6Addr::UNSPECIFIED, 0), gateway),
        }
    }

    /// Whether it is for all that no other route is for.
    pub fn is_default(&self) -> bool {
        self.network.prefix_len() == 0
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is_default() {
            true => f.write_str("default")?,
            false => write!(f, "{}", self.network)?,
        }
        match self.gateway {
            Some(gateway) => write!(f, " via {gateway}"),
            None => f.write_str(" on the link"),
        }
    }
}

/// Where a packet goes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hop {
    /// A neighbour with this address.
    Neighbor(IpAddr),
    /// All neighbours, or those of a group.
    Group([u8; 6]),
    /// No route leads there.
    None,
}

#[derive(Default)]
pub(crate) struct Routes {
    /// The longest prefix first.
    all: Vec<Route>,
    /// Directed broadcast addresses of the networks on the link.
    broadcasts: Vec<Ipv4Addr>,
}

impl Routes {
    pub(crate) fn new(mut all: Vec<Route>) -> Routes {
        // Of equal ones the first stands.
        all.sort_by_key(|route| core::cmp::Reverse(route.network.prefix_len()));
        let broadcasts = all.iter().filter(|route| route.gateway.is_none()).filter_map(|route| match route.network {
            IpCidr::Ipv4(network) => network.broadcast(),
            IpCidr::Ipv6(_) => None,
        });
        Routes { broadcasts: broadcasts.collect(), all }
    }

    pub(crate) fn as_slice(&self) -> &[Route] {
        &self.all
    }

    pub(crate) fn next_hop(&self, to: IpAddr) -> Hop {
        match to {
            IpAddr::V4(to) if to.is_broadcast() || self.broadcasts.contains(&to) => return Hop::Group([0xff; 6]),
            IpAddr::V4(to) if to.is_multicast() => {
                let [_, b, c, d] = to.octets();
                return Hop::Group([1, 0, 0x5e, b & 0x7f, c, d]);
            }
            IpAddr::V6(to) if to.is_multicast() => {
                let [.., a, b, c, d] = to.octets();
                return Hop::Group([0x33, 0x33, a, b, c, d]);
            }
            _ => {}
        }
        let route = self.all.iter().find(|route| route.network.contains_addr(&to.into()));
        route.map_or(Hop::None, |route| Hop::Neighbor(route.gateway.unwrap_or(to)))
    }

    /// The length of the longest prefix of a route to a host's address.
    pub(crate) fn prefix_to(&self, to: IpAddr) -> Option<u8> {
        let route = self.all.iter().find(|route| route.network.contains_addr(&to.into()))?;
        // Nobody's host has it (RFC 2644).
        let is_group = matches!(self.next_hop(to), Hop::Group(_));
        (!is_group).then_some(route.network.prefix_len())
    }

    /// Whether an address is one that this host may meet on the link.
    pub(crate) fn is_on_link(&self, address: IpAddr) -> bool {
        self.next_hop(address) == Hop::Neighbor(address) || self.all.iter().any(|route| route.gateway == Some(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn net(text: &str) -> IpCidr {
        let (address, len) = text.split_once('/').unwrap();
        IpCidr::new(ip(address).into(), len.parse().unwrap())
    }

    #[test]
    fn the_longest_prefix_goes_first() {
        let routes = Routes::new(alloc::vec![
            Route::default_via(ip("10.0.0.1")),
            Route::on_link(net("10.0.0.0/24")),
            Route::via(net("10.1.0.0/16"), ip("10.0.0.2")),
            Route::via(net("10.1.2.0/24"), ip("10.0.0.3")),
            Route::default_via(ip("fe80::1")),
            Route::on_link(net("fe80::/64")),
        ]);
        for (to, hop) in [
            ("10.0.0.7", "10.0.0.7"),
            ("10.1.9.9", "10.0.0.2"),
            ("10.1.2.9", "10.0.0.3"),
            ("192.0.2.1", "10.0.0.1"),
            ("2001:db8::1", "fe80::1"),
            ("fe80::7", "fe80::7"),
        ] {
            assert_eq!(routes.next_hop(ip(to)), Hop::Neighbor(ip(hop)), "{to}");
        }
        assert_eq!(routes.next_hop(ip("10.0.0.255")), Hop::Group([0xff; 6]));
        assert_eq!(routes.next_hop(ip("255.255.255.255")), Hop::Group([0xff; 6]));
        assert_eq!(routes.next_hop(ip("224.128.1.2")), Hop::Group([1, 0, 0x5e, 0, 1, 2]));
        assert_eq!(routes.next_hop(ip("ff02::1:2")), Hop::Group([0x33, 0x33, 0, 1, 0, 2]));
        assert!(routes.is_on_link(ip("10.0.0.9")) && routes.is_on_link(ip("10.0.0.2")));
        assert!(!routes.is_on_link(ip("192.0.2.1")));
    }

    #[test]
    fn a_router_outside_is_a_neighbour() {
        let routes = Routes::new(alloc::vec![Route::on_link(net("10.137.0.5/32")), Route::default_via(ip("10.0.0.1"))]);
        assert_eq!(routes.next_hop(ip("10.0.0.1")), Hop::Neighbor(ip("10.0.0.1")));
        assert_eq!(routes.next_hop(ip("8.8.8.8")), Hop::Neighbor(ip("10.0.0.1")));
        assert!(routes.is_on_link(ip("10.0.0.1")));
        assert_eq!(Routes::default().next_hop(ip("10.0.0.1")), Hop::None);
    }
}

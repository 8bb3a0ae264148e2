//! What addresses an interface is to have.

use alloc::vec::Vec;
use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smoltcp::wire::{IpCidr, Ipv4Cidr, Ipv6Cidr};

use crate::neighbors::Mac;
use crate::routes::Route;

/// What addresses an interface is to have, and how it comes by them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Of IPv4.
    pub ipv4: Ipv4,
    /// Of IPv6. The link-local address is there whatever this says.
    pub ipv6: Ipv6,
    /// Routes beside those to the networks of the addresses, and those that DHCP servers and routers tell.
    pub routes: Vec<Route>,
    /// Name servers. Where there are none, those that the network tells of are asked.
    pub name_servers: Vec<IpAddr>,
    /// Neighbours whose MAC is known for good: nobody is asked, and nobody can say otherwise.
    pub neighbors: Vec<(IpAddr, Mac)>,
}

/// How an interface comes by an address of IPv4.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ipv4 {
    /// It has none.
    None,
    /// A DHCP server gives one.
    #[default]
    Dhcp,
    /// This one. The prefix may be of 32 bits, with a router outside.
    Static(Ipv4Cidr),
}

/// How an interface comes by an address of IPv6.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ipv6 {
    /// It has the link-local one alone.
    #[default]
    None,
    /// Routers advertise a network (RFC 4862).
    Auto,
    /// This one.
    Static(Ipv6Cidr),
}

impl Config {
    /// One address of IPv4.
    pub fn static_v4(address: Ipv4Cidr) -> Config {
        Config { ipv4: Ipv4::Static(address), ..Config::default() }
    }

    /// Whether some address is to be there, or to come.
    pub(crate) fn asks_for_any(&self) -> bool {
        self.ipv4 != Ipv4::None || self.ipv6 != Ipv6::None
    }
}

/// What an interface has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Addresses {
    /// Its address of IPv4.
    pub ipv4: Option<Ipv4Cidr>,
    /// Its address of IPv6 beside the link-local one.
    pub ipv6: Option<Ipv6Cidr>,
    /// The address of IPv6 on the link.
    pub link_local: Option<Ipv6Addr>,
    /// All routes, those to its networks too.
    pub routes: Vec<Route>,
    /// Name servers, in the order in which they are asked.
    pub name_servers: Vec<IpAddr>,
}

impl Addresses {
    /// Whether there is an address beyond the link-local one.
    pub fn is_configured(&self) -> bool {
        self.ipv4.is_some() || self.ipv6.is_some()
    }

    /// The addresses with their prefixes, but for the link-local one.
    pub fn iter(&self) -> impl Iterator<Item = IpCidr> + '_ {
        let ipv4 = self.ipv4.map(IpCidr::from);
        ipv4.into_iter().chain(self.ipv6.map(IpCidr::from))
    }

    /// The router for everything else, of IPv4.
    pub fn gateway_v4(&self) -> Option<Ipv4Addr> {
        self.routes.iter().filter(|route| route.is_default()).find_map(|route| match route.gateway {
            Some(IpAddr::V4(gateway)) => Some(gateway),
            _ => None,
        })
    }

    /// The router for everything else, of IPv6.
    pub fn gateway_v6(&self) -> Option<Ipv6Addr> {
        self.routes.iter().filter(|route| route.is_default()).find_map(|route| match route.gateway {
            Some(IpAddr::V6(gateway)) => Some(gateway),
            _ => None,
        })
    }
}

/// `10.0.0.2/24, gateway 10.0.0.1, fd00::2/64`
impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.is_configured() {
            return f.write_str("no address");
        }
        if let Some(address) = self.ipv4 {
            write!(f, "{address}")?;
            if let Some(gateway) = self.gateway_v4() {
                write!(f, ", gateway {gateway}")?;
            }
        }
        if let Some(address) = self.ipv6 {
            write!(f, "{}{address}", if self.ipv4.is_some() { ", " } else { "" })?;
            if let Some(gateway) = self.gateway_v6() {
                write!(f, ", gateway {gateway}")?;
            }
        }
        Ok(())
    }
}

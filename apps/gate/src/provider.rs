//! What a host says of its guests' networks, where it says it apart from the rules.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sarab_router::Alias;

/// It takes the place of the rules' networks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Provider {
    /// The gate's address, as clients see it.
    pub gateway_v4: Option<Ipv4Addr>,
    pub gateway_v6: Option<Ipv6Addr>,
    /// Whom clients ask for names.
    pub name_servers: Vec<IpAddr>,
    /// Clients that know themselves by another address, by the one that others know.
    pub mapped: BTreeMap<Ipv4Addr, Mapped>,
}

/// What a client believes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapped {
    pub address: Ipv4Addr,
    pub gateway: Ipv4Addr,
}

impl Provider {
    /// The addresses that count of those that the toolstack gives a client: the first of each family.
    pub fn first_of_each(addresses: &[IpAddr]) -> Vec<IpAddr> {
        let v4 = addresses.iter().find(|address| address.is_ipv4());
        let v6 = addresses.iter().find(|address| address.is_ipv6());
        v4.into_iter().chain(v6).copied().collect()
    }

    /// What a client with these addresses believes to have.
    pub fn mapped(&self, addresses: &[IpAddr]) -> Option<(Alias, Ipv4Addr)> {
        let actual = addresses.iter().find_map(|address| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        })?;
        let mapped = self.mapped.get(&actual)?;
        Some((Alias { visible: mapped.address, actual }, mapped.gateway))
    }
}

//! Arithmetic of prefixes.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sarab_net::IpCidr;

/// An address without the bits behind the prefix.
pub(super) fn network(address: IpAddr, len: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => Ipv4Addr::from_bits(address.to_bits() & mask_v4(len)).into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & mask_v6(len)).into(),
    }
}

pub(super) fn mask_v4(len: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(len.min(32))).unwrap_or(0)
}

pub(super) fn mask_v6(len: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(len.min(128))).unwrap_or(0)
}

pub(super) fn contains(prefix: &IpCidr, address: IpAddr) -> bool {
    prefix.contains_addr(&address.into())
}

/// The network that an address with its prefix length is in.
pub(super) fn of(address: &IpCidr) -> IpCidr {
    IpCidr::new(network(address.address().into(), address.prefix_len()).into(), address.prefix_len())
}

/// Whether two networks share an address.
pub(super) fn overlap(one: &IpCidr, other: &IpCidr) -> bool {
    one.contains_addr(&other.address()) || other.contains_addr(&one.address())
}

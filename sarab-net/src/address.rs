//! Which addresses can be a host's.

use core::net::{Ipv4Addr, Ipv6Addr};

use smoltcp::wire::Ipv4Cidr;

/// Whether an address with its prefix can be one host's in its network.
pub fn is_host(cidr: Ipv4Cidr) -> bool {
    let (address, hosts) = (cidr.address().to_bits(), u32::MAX.checked_shr(cidr.prefix_len().into()).unwrap_or(0));
    // Networks of two addresses and of one have neither a broadcast address nor one of their own.
    let is_all = hosts > 1 && (address & hosts == hosts || address & hosts == 0);
    is_unicast(cidr.address()) && !is_all
}

/// Whether an address can be a host's in some network.
pub fn is_unicast(address: Ipv4Addr) -> bool {
    // 0.0.0.0/8 and 240.0.0.0/4 are no host's (RFC 6890).
    let first = address.octets()[0];
    first != 0 && first < 224 && !address.is_loopback()
}

/// Whether an IPv6 address can be a host's.
pub fn is_unicast_v6(address: Ipv6Addr) -> bool {
    !address.is_unspecified() && !address.is_multicast() && !address.is_loopback()
}

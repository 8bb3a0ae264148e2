//! Addresses, prefixes, ports and names.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sarab_net::{IpCidr, is_unicast, is_unicast_v6};

use super::cursor::{At, Cursor, Fault, Token};
use crate::rules::error::ErrorKind;
use crate::rules::prefix;
use crate::rules::rule::{Family, Place, PortRange, Ports};

const PORT: &str = "a port or a range such as 80 or 8000-8010";
const ADDRESS: &str = "an address such as 10.0.1.9 or fd00:1::9";
const PREFIX: &str = "a network such as 10.0.1.0/24 or fd00:1::/64";
const PLACE: &str = "`any`, `inside`, `outside`, `gate`, an address, a network, a host's name or a DNS name";
const DNS_NAME: &str = "a DNS name such as example.org";
const HOST_NAME: &str = "a host's name of letters, digits and hyphens, with a letter first, such as web";
/// What names of hosts would be confused with.
const RESERVED: [&str; 8] = ["any", "inside", "outside", "gate", "domain", "port", "from", "to"];

/// A number without sign, or leading zeros that others read as octal.
pub(super) fn number<T: core::str::FromStr>(text: &str) -> Option<T> {
    let is_decimal = text.bytes().all(|byte| byte.is_ascii_digit()) && (text.len() == 1 || !text.starts_with('0'));
    text.parse().ok().filter(|_| is_decimal)
}

pub(super) fn address(cursor: &mut Cursor<'_>) -> Result<At<IpAddr>, Fault> {
    let token = cursor.next(ADDRESS)?;
    let address: IpAddr = token.text.parse().map_err(|_| token.expected(ADDRESS))?;
    Ok(token.at(unicast(token, address)?))
}

fn unicast(token: Token<'_>, address: IpAddr) -> Result<IpAddr, Fault> {
    let is_unicast = match address {
        IpAddr::V4(address) => is_unicast(address),
        // Addresses of IPv4 in IPv6 are in no packet (RFC 4291, 2.5.5.2).
        IpAddr::V6(address) => is_unicast_v6(address) && address.to_ipv4_mapped().is_none(),
    };
    if is_unicast { Ok(address) } else { Err(token.fault(ErrorKind::NotUnicast { address })) }
}

/// An address with its prefix length, whatever both are.
fn cidr(token: Token<'_>, expected: &'static str) -> Result<(IpAddr, u8), Fault> {
    let (address, len) = token.text.split_once('/').ok_or_else(|| token.expected(expected))?;
    let address: IpAddr = address.parse().map_err(|_| token.expected(expected))?;
    let max = Family::of(address).bits();
    let len = number(len).filter(|len| *len <= max);
    Ok((address, len.ok_or_else(|| token.fault(ErrorKind::PrefixLength { min: 0, max }))?))
}

/// The gate's own address in a network of clients.
pub(super) fn gate_address(cursor: &mut Cursor<'_>) -> Result<At<IpCidr>, Fault> {
    const EXPECTED: &str = "the gate's address with its prefix length, such as 10.0.1.1/24 or fd00:1::1/64";
    let token = cursor.next(EXPECTED)?;
    let (address, len) = cidr(token, EXPECTED)?;
    let (min, max) = match Family::of(address) {
        Family::V4 => (8, 30),
        Family::V6 => (16, 126),
    };
    if !(min..=max).contains(&len) {
        return Err(token.fault(ErrorKind::PrefixLength { min, max }));
    }
    unicast(token, address)?;
    let is_all = match address {
        IpAddr::V4(address) => address.to_bits() | (u32::MAX << (32 - len)) == u32::MAX,
        IpAddr::V6(_) => false,
    };
    // The first address of an IPv6 network is that of all its routers (RFC 4291, 2.6.1).
    if is_all || prefix::network(address, len) == address {
        let example = match prefix::network(address, len) {
            IpAddr::V4(network) => Ipv4Addr::from_bits(network.to_bits() | 1).into(),
            IpAddr::V6(network) => Ipv6Addr::from_bits(network.to_bits() | 1).into(),
        };
        return Err(token.fault(ErrorKind::NotAHost { address, example }));
    }
    Ok(token.at(IpCidr::new(address.into(), len)))
}

/// One end of a rule.
pub(super) fn place(cursor: &mut Cursor<'_>) -> Result<At<Place>, Fault> {
    let token = cursor.next(PLACE)?;
    let place = match token.text {
        "any" => Place::Any,
        "inside" => Place::Inside,
        "outside" => Place::Outside,
        "gate" => Place::Gate,
        text if text.contains('/') => Place::Network(network(token)?),
        text if text.contains(':') || looks_like_v4(text) => {
            let address: IpAddr = text.parse().map_err(|_| token.expected(ADDRESS))?;
            Place::Network(IpCidr::new(address.into(), Family::of(address).bits()))
        }
        text if text.contains('.') => Place::Name(dns_name(token)?),
        _ => Place::Host(host_name(token, PLACE)?),
    };
    Ok(token.at(place))
}

/// Whether this can be no name, as no top-level domain is a number (RFC 3696, 2).
fn looks_like_v4(text: &str) -> bool {
    text.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()))
}

fn network(token: Token<'_>) -> Result<IpCidr, Fault> {
    let (address, len) = cidr(token, PREFIX)?;
    let network = IpCidr::new(prefix::network(address, len).into(), len);
    match prefix::network(address, len) == address {
        true => Ok(network),
        false => Err(token.fault(ErrorKind::HostBits { address, network })),
    }
}

fn is_label(label: &str) -> bool {
    let is_inside = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    // RFC 1123, 2.1.
    (1..=63).contains(&label.len()) && label.bytes().all(is_inside) && !label.starts_with('-') && !label.ends_with('-')
}

/// A name with at least one dot.
pub(super) fn dns_name(token: Token<'_>) -> Result<Box<str>, Fault> {
    let is_name = token.text.len() <= 253 && token.text.contains('.') && token.text.split('.').all(is_label);
    match is_name && !looks_like_v4(token.text) {
        true => Ok(token.text.to_ascii_lowercase().into()),
        false => Err(token.expected(DNS_NAME)),
    }
}

/// A domain, which can be one label.
pub(super) fn domain(cursor: &mut Cursor<'_>) -> Result<At<Box<str>>, Fault> {
    const EXPECTED: &str = "a domain such as example.internal";
    let token = cursor.next(EXPECTED)?;
    let is_name = token.text.len() <= 253 && token.text.split('.').all(is_label) && !looks_like_v4(token.text);
    if is_name { Ok(token.at(token.text.to_ascii_lowercase().into())) } else { Err(token.expected(EXPECTED)) }
}

/// The name of a `host` statement.
pub(super) fn new_host_name(cursor: &mut Cursor<'_>) -> Result<At<Box<str>>, Fault> {
    let token = cursor.next(HOST_NAME)?;
    Ok(token.at(host_name(token, HOST_NAME)?))
}

pub(super) fn host_name(token: Token<'_>, expected: &'static str) -> Result<Box<str>, Fault> {
    let name = token.text.to_ascii_lowercase();
    let is_name = is_label(&name) && name.starts_with(|first: char| first.is_ascii_alphabetic());
    match is_name && !RESERVED.contains(&name.as_str()) {
        true => Ok(name.into()),
        false => Err(token.expected(expected)),
    }
}

/// A MAC of one host.
pub(super) fn mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts.next().filter(|part| part.len() == 2 && !part.starts_with('+'))?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    (parts.next().is_none() && mac[0] & 1 == 0 && mac != [0; 6]).then_some(mac)
}

pub(super) fn port_range(cursor: &mut Cursor<'_>) -> Result<At<PortRange>, Fault> {
    let token = cursor.next(PORT)?;
    let (first, last) = token.text.split_once('-').unwrap_or((token.text, token.text));
    let port = |text| number::<u16>(text).filter(|port| *port != 0).ok_or_else(|| token.expected(PORT));
    let (first, last) = (port(first)?, port(last)?);
    match first <= last {
        true => Ok(token.at(PortRange { first, last })),
        false => Err(token.fault(ErrorKind::RangeReversed { first, last })),
    }
}

/// Ports and ranges with commas between them.
pub(super) fn ports(cursor: &mut Cursor<'_>) -> Result<Ports, Fault> {
    let mut ranges = Vec::new();
    loop {
        ranges.push(port_range(cursor)?.value);
        if cursor.take(",").is_none() {
            return Ok(Ports::new(ranges));
        }
    }
}

//! Names that the gate itself knows: those of its clients, under the domain that clients search in, and back from their
//! addresses.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use domain::base::iana::{Class, Rcode};
use domain::base::name::{Label, NameBuilder};
use domain::base::{MessageBuilder, Name, Rtype, Serial, Ttl};
use domain::rdata::{A, Aaaa, Ptr, Soa};

use super::message::{Body, Query};

/// How long clients remember a local name: others may have it soon.
const TTL: Ttl = Ttl::from_secs(10);

type DnsName = Name<Vec<u8>>;

/// Why something cannot be a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameError {
    name: Box<str>,
    reason: &'static str,
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is no host name: {}", self.name, self.reason)
    }
}

impl core::error::Error for NameError {}

/// The names of clients and their addresses.
///
/// With a domain, the gate alone knows what is in it: other names there do not exist. A client's name without the domain is
/// answered too.
///
/// # Examples
///
/// ```
/// use sarab_router::services::dns::Names;
///
/// let mut names = Names::default();
/// names.set_domain(Some("lan.example")).unwrap();
/// names.insert("mail", &[[10, 0, 0, 7].into()]).unwrap();
/// assert_eq!(names.insert("a b", &[]).unwrap_err().to_string(), "\"a b\" is no host name: letters, digits, '-' and '_' are allowed");
/// ```
#[derive(Clone, Debug, Default)]
pub struct Names {
    domain: Option<DnsName>,
    hosts: BTreeMap<String, Vec<IpAddr>>,
    reverse: BTreeMap<IpAddr, String>,
}

/// The lower case of a label, where it can be a host's.
fn label(text: &str) -> Result<String, NameError> {
    let invalid = |reason| Err(NameError { name: text.chars().take(64).collect::<String>().into(), reason });
    if text.is_empty() {
        return invalid("it is empty, or has an empty part");
    }
    if text.len() > 63 {
        return invalid("a part of it is longer than 63 characters");
    }
    if text.bytes().any(|byte| !(byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))) {
        return invalid("letters, digits, '-' and '_' are allowed");
    }
    Ok(text.to_ascii_lowercase())
}

impl Names {
    /// The domain of all names, such as `lan.example`.
    ///
    /// # Errors
    ///
    /// It is no name, or so long that no host's would fit before it.
    pub fn set_domain(&mut self, domain: Option<&str>) -> Result<(), NameError> {
        self.domain = domain.map(parse_domain).transpose()?;
        Ok(())
    }

    /// A client's name and its addresses, in place of those that it had.
    ///
    /// # Errors
    ///
    /// It is no name of one part.
    pub fn insert(&mut self, host: &str, addresses: &[IpAddr]) -> Result<(), NameError> {
        let host = label(host)?;
        self.remove(&host);
        for address in addresses {
            self.reverse.insert(*address, host.clone());
        }
        self.hosts.insert(host, addresses.into());
        Ok(())
    }

    /// Forgets a client's name.
    pub fn remove(&mut self, host: &str) {
        let host = host.to_ascii_lowercase();
        for address in self.hosts.remove(&host).unwrap_or_default() {
            if self.reverse.get(&address) == Some(&host) {
                self.reverse.remove(&address);
            }
        }
    }

    /// The answer to a question, where it is about a name that the gate knows.
    pub(super) fn answer(&self, query: &Query) -> Option<Body> {
        let name = DnsName::from_octets(query.key.name().to_vec()).ok()?;
        let found = match reverse(&name) {
            Some(address) => Found::Reverse(self.full(self.reverse.get(&address)?)?),
            None => self.find(&name)?,
        };
        self.write(&name, Rtype::from_int(query.rtype()), &found, query)
    }

    fn find(&self, name: &DnsName) -> Option<Found<'_>> {
        let mut labels = name.iter();
        let first = labels.next()?;
        let host = || core::str::from_utf8(first.as_slice()).ok().and_then(|host| self.hosts.get(host));
        let is_single = name.label_count() == 2;
        match &self.domain {
            Some(domain) if name == domain => Some(Found::Nothing),
            Some(domain) if name.ends_with(domain) => {
                let is_direct = name.label_count() == domain.label_count() + 1;
                Some(host().filter(|_| is_direct).map_or(Found::NoName, |addresses| Found::Host(addresses)))
            }
            _ if is_single => host().map(|addresses| Found::Host(addresses)),
            _ => None,
        }
    }

    /// A host's name with the domain.
    fn full(&self, host: &str) -> Option<DnsName> {
        let mut builder = NameBuilder::new_vec();
        builder.append_label(host.as_bytes()).ok()?;
        match &self.domain {
            Some(domain) => builder.append_origin(domain).ok(),
            None => builder.into_name().ok(),
        }
    }

    /// `None` only where something does not fit into a message, and then nobody says anything.
    fn write(&self, name: &DnsName, rtype: Rtype, found: &Found<'_>, query: &Query) -> Option<Body> {
        let mut builder = MessageBuilder::new_vec();
        if matches!(found, Found::NoName) {
            builder.header_mut().set_rcode(Rcode::NXDOMAIN);
        }
        let mut builder = builder.question();
        builder.push((name, rtype, Class::IN)).ok()?;
        let mut builder = builder.answer();
        match found {
            Found::Host(addresses) => {
                for address in *addresses {
                    match address {
                        IpAddr::V4(address) if rtype == Rtype::A => {
                            builder.push((name, Class::IN, TTL, A::new(*address))).ok()?;
                        }
                        IpAddr::V6(address) if rtype == Rtype::AAAA => {
                            builder.push((name, Class::IN, TTL, Aaaa::new(*address))).ok()?;
                        }
                        _ => {}
                    }
                }
            }
            Found::Reverse(host) if rtype == Rtype::PTR => {
                builder.push((name, Class::IN, TTL, Ptr::new(host))).ok()?;
            }
            _ => {}
        }
        let is_empty = builder.counts().ancount() == 0;
        let mut builder = builder.authority();
        // Without a zone's record clients do not remember that nothing is there (RFC 2308).
        if let Some(domain) = self.domain.as_ref().filter(|_| is_empty) {
            let soa = Soa::new(domain, domain, Serial(1), TTL, TTL, TTL, TTL);
            builder.push((domain, Class::IN, TTL, soa)).ok()?;
        }
        let body = Body::new(&builder.finish(), &query.key)?;
        Some(Body { is_authoritative: true, ..body })
    }
}

enum Found<'a> {
    Host(&'a [IpAddr]),
    Reverse(DnsName),
    /// A name without a record.
    Nothing,
    NoName,
}

fn parse_domain(text: &str) -> Result<DnsName, NameError> {
    let invalid = |reason| NameError { name: text.chars().take(64).collect::<String>().into(), reason };
    let mut builder = NameBuilder::new_vec();
    for part in text.strip_suffix('.').unwrap_or(text).split('.') {
        let label = label(part)?;
        builder.append_label(label.as_bytes()).map_err(|_| invalid("it is longer than 253 characters"))?;
    }
    let name = builder.into_name().map_err(|_| invalid("it is longer than 253 characters"))?;
    if name.len() > 190 { Err(invalid("no host's name fits before it")) } else { Ok(name) }
}

/// The address that a name of `in-addr.arpa` or `ip6.arpa` is about (RFC 1035, section 3.5; RFC 3596, section 2.5).
fn reverse(name: &DnsName) -> Option<IpAddr> {
    let labels: Vec<&Label> = name.iter().collect();
    let text = |at: usize| labels.get(at).and_then(|label| core::str::from_utf8(label.as_slice()).ok());
    match labels.len() {
        7 if text(4) == Some("in-addr") && text(5) == Some("arpa") => {
            let mut octets = [0; 4];
            for (at, octet) in octets.iter_mut().rev().enumerate() {
                *octet = text(at)?.parse().ok()?;
            }
            Some(Ipv4Addr::from(octets).into())
        }
        35 if text(32) == Some("ip6") && text(33) == Some("arpa") => {
            let mut bits = 0;
            for at in (0..32).rev() {
                let digit = text(at).filter(|digit| digit.len() == 1)?;
                bits = bits << 4 | u128::from_str_radix(digit, 16).ok()?;
            }
            Some(Ipv6Addr::from_bits(bits).into())
        }
        _ => None,
    }
}

//! From text to rules.

use alloc::string::String;
use alloc::vec::Vec;
use core::net::{Ipv4Addr, Ipv6Addr};
use core::ops::RangeInclusive;

use super::{Action, Destination, Protocol, Rule, RuleError, RuleProblem, Rules};

/// Bytes of a host's name, at most (RFC 1035).
const MAX_NAME: usize = 253;
const DNS_PORT: u16 = 53;

pub(super) fn rules<K, V>(is_ipv6: bool, entries: impl IntoIterator<Item = (K, V)>) -> Result<Rules, RuleError>
where
    K: AsRef<str>,
    V: AsRef<[u8]>,
{
    let (mut policy, mut rules) = (None, Vec::new());
    for (key, value) in entries {
        let key = key.as_ref();
        let fail = |problem| RuleError { key: key.into(), problem };
        let text = str::from_utf8(value.as_ref()).map_err(|_| fail(RuleProblem::NotText))?;
        if key == "policy" {
            if policy.replace(action("policy", text).map_err(fail)?).is_some() {
                return Err(fail(RuleProblem::DuplicateEntry));
            }
        } else {
            let number = number(key).ok_or_else(|| fail(RuleProblem::UnknownEntry))?;
            rules.push((number, rule(number, text, is_ipv6).map_err(fail)?));
        }
    }
    let Some(policy) = policy else {
        return Err(RuleError { key: "policy".into(), problem: RuleProblem::NoPolicy });
    };
    rules.sort_by_key(|(number, _)| *number);
    if let Some([(number, _), ..]) = rules.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        let key = alloc::format!("{number:04}").into();
        return Err(RuleError { key, problem: RuleProblem::DuplicateEntry });
    }
    Ok(Rules { rules: rules.into_iter().filter_map(|(_, rule)| rule).collect(), policy })
}

fn number(key: &str) -> Option<u16> {
    match key.len() == 4 && key.bytes().all(|byte| byte.is_ascii_digit()) {
        true => key.parse().ok(),
        false => None,
    }
}

/// The options of one rule, as they were found.
#[derive(Default)]
struct Options {
    action: Option<Action>,
    protocol: Option<Protocol>,
    destination: Option<Destination>,
    ports: Option<RangeInclusive<u16>>,
    icmp_type: Option<u8>,
    to_dns_servers: Option<()>,
}

/// `None` where the rule is for nothing: DNS, but not at its port.
fn rule(number: u16, text: &str, is_ipv6: bool) -> Result<Option<Rule>, RuleProblem> {
    let mut options = Options::default();
    for part in text.split(' ') {
        let (name, value) = match part.split_once('=') {
            Some((name, value)) if !value.contains('=') => (name, value),
            _ => return Err(RuleProblem::NotAnOption(part.into())),
        };
        match name {
            "action" => once("action", &mut options.action, action("action", value)?)?,
            "proto" => once("proto", &mut options.protocol, protocol(value)?)?,
            "dst4" if is_ipv6 => return Err(RuleProblem::OtherFamily("dst4")),
            "dst6" if !is_ipv6 => return Err(RuleProblem::OtherFamily("dst6")),
            "dst4" => once("destination", &mut options.destination, network4(value)?)?,
            "dst6" => once("destination", &mut options.destination, network6(value)?)?,
            "dsthost" => once("destination", &mut options.destination, host(value)?)?,
            "dstports" => once("dstports", &mut options.ports, ports(value)?)?,
            "icmptype" => {
                let expected = "a number up to 255";
                let number = decimal(value).ok_or_else(|| bad("icmptype", value, expected))?;
                once("icmptype", &mut options.icmp_type, number)?;
            }
            "specialtarget" if value == "dns" => once("specialtarget", &mut options.to_dns_servers, ())?,
            "specialtarget" => return Err(bad("specialtarget", value, "dns")),
            other => return Err(RuleProblem::UnknownOption(other.into())),
        }
    }
    options.finish(number)
}

impl Options {
    fn finish(self, number: u16) -> Result<Option<Rule>, RuleProblem> {
        let action = self.action.ok_or(RuleProblem::NoAction)?;
        let to_dns_servers = self.to_dns_servers.is_some();
        let has_ports = self.ports.is_some() || to_dns_servers;
        let named = if to_dns_servers { "specialtarget=dns" } else { "dstports" };
        let protocol = match (self.protocol, has_ports, self.icmp_type.is_some()) {
            (_, true, true) => return Err(RuleProblem::Contradiction("icmptype", named)),
            (Some(Protocol::Icmp), true, _) => return Err(RuleProblem::Contradiction("proto=icmp", named)),
            (Some(Protocol::Tcp | Protocol::Udp), _, true) => {
                return Err(RuleProblem::Contradiction("icmptype", "proto other than icmp"));
            }
            (None, true, _) => Protocol::TcpAndUdp,
            (None, _, true) => Protocol::Icmp,
            (protocol, ..) => protocol.unwrap_or(Protocol::Any),
        };
        let ports = match self.ports {
            Some(ports) if to_dns_servers && ports != (DNS_PORT..=DNS_PORT) => return Ok(None),
            None if to_dns_servers => Some(DNS_PORT..=DNS_PORT),
            ports => ports,
        };
        let destination = self.destination.unwrap_or(Destination::Any);
        Ok(Some(Rule { number, action, protocol, destination, to_dns_servers, ports, icmp_type: self.icmp_type }))
    }
}

fn once<T>(option: &'static str, place: &mut Option<T>, value: T) -> Result<(), RuleProblem> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(RuleProblem::Duplicate(option)),
    }
}

fn bad(option: &'static str, value: &str, expected: &'static str) -> RuleProblem {
    RuleProblem::BadValue { option, value: value.into(), expected }
}

fn action(option: &'static str, value: &str) -> Result<Action, RuleProblem> {
    match value {
        "accept" => Ok(Action::Accept),
        "drop" => Ok(Action::Drop),
        _ => Err(bad(option, value, "accept or drop")),
    }
}

fn protocol(value: &str) -> Result<Protocol, RuleProblem> {
    match value {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        "icmp" => Ok(Protocol::Icmp),
        _ => Err(bad("proto", value, "tcp, udp or icmp")),
    }
}

fn network4(value: &str) -> Result<Destination, RuleProblem> {
    let network = || {
        let (address, bits) = network::<Ipv4Addr>(value, 32)?;
        let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
        Some(Destination::Network4(Ipv4Addr::from_bits(address.to_bits() & mask), bits))
    };
    network().ok_or_else(|| bad("dst4", value, "an IPv4 address, with or without /BITS"))
}

fn network6(value: &str) -> Result<Destination, RuleProblem> {
    let network = || {
        let (address, bits) = network::<Ipv6Addr>(value, 128)?;
        let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
        Some(Destination::Network6(Ipv6Addr::from_bits(address.to_bits() & mask), bits))
    };
    network().ok_or_else(|| bad("dst6", value, "an IPv6 address, with or without /BITS"))
}

fn network<A: core::str::FromStr>(value: &str, max_bits: u8) -> Option<(A, u8)> {
    let (address, bits) = match value.split_once('/') {
        Some((address, bits)) => (address, decimal(bits).filter(|bits| *bits <= max_bits)?),
        None => (value, max_bits),
    };
    Some((address.parse().ok()?, bits))
}

fn host(value: &str) -> Result<Destination, RuleProblem> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let is_name = |name: &str| {
        let name = name.strip_suffix('.').unwrap_or(name);
        name.len() <= MAX_NAME
            && name.split('.').all(|label| (1..=63).contains(&label.len()) && label.bytes().all(allowed))
    };
    match is_name(value) {
        true => Ok(Destination::Host(String::from(value))),
        false => Err(bad("dsthost", value, "a host's name")),
    }
}

fn ports(value: &str) -> Result<RangeInclusive<u16>, RuleProblem> {
    let range = || {
        let (first, last) = value.split_once('-').unwrap_or((value, value));
        let (first, last) = (decimal(first)?, decimal(last)?);
        (first <= last).then_some(first..=last)
    };
    range().ok_or_else(|| bad("dstports", value, "PORT or FIRST-LAST"))
}

/// Digits alone: no sign.
fn decimal<N: core::str::FromStr>(text: &str) -> Option<N> {
    match text.bytes().all(|byte| byte.is_ascii_digit()) {
        true => text.parse().ok(),
        false => None,
    }
}

//! A rule as it is written.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use core::net::IpAddr;

use sarab_net::IpCidr;

use super::icmp::IcmpType;

/// What happens to a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It passes.
    Accept,
    /// Its packets are discarded, and the sender is not told.
    Drop,
    /// Its packets are discarded, and the sender gets a TCP reset or an ICMP error.
    Reject,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::Accept => "accept",
            Verdict::Drop => "drop",
            Verdict::Reject => "reject",
        })
    }
}

/// A rule. All that it says must hold for a packet to match it.
///
/// It is displayed in its canonical form, without its line's end. Parsing that gives the same rule.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rule {
    /// What happens to what it matches.
    pub action: Verdict,
    /// The protocol; all of them if there is none.
    pub protocol: Option<Protocol>,
    /// The type of an ICMP message.
    pub icmp: Option<IcmpType>,
    /// Where packets come from. If the rule does not say: from clients, and in a client's block from that client.
    pub from: Option<Place>,
    /// The source port; any if there is none here.
    pub from_ports: Ports,
    /// Where packets go.
    pub to: Place,
    /// The destination port; any if there is none here.
    pub to_ports: Ports,
}

impl Rule {
    /// The one family of addresses that it can match, if what it says decides that.
    pub fn family(&self) -> Option<Family> {
        let of_protocol = match self.protocol {
            Some(Protocol::Icmp4) => Some(Family::V4),
            Some(Protocol::Icmp6) => Some(Family::V6),
            _ => None,
        };
        of_protocol.or_else(|| self.from.as_ref().and_then(Place::family)).or_else(|| self.to.family())
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.action)?;
        if let Some(protocol) = self.protocol {
            write!(f, " {protocol}")?;
        }
        if let Some(icmp) = self.icmp {
            f.write_str(" type ")?;
            icmp.write(f, self.family())?;
        }
        if let Some(from) = &self.from {
            write!(f, " from {from}{}", self.from_ports)?;
        }
        if self.to != Place::Any || !self.to_ports.is_any() {
            write!(f, " to {}{}", self.to, self.to_ports)?;
        }
        Ok(())
    }
}

/// One end of what a rule matches. The gate itself is meant by [`Place::Gate`] alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Any client and any uplink.
    Any,
    /// Any client.
    Inside,
    /// Any uplink.
    Outside,
    /// The gate itself.
    Gate,
    /// The addresses of a network, or one address. Those of a `clients` network are inside: packets from an uplink that
    /// carry such a source do not match.
    Network(IpCidr),
    /// A host of the configuration, by its MAC or its addresses.
    Host(Box<str>),
    /// The addresses of a DNS name, in lower case. They are outside, whatever a DNS server says.
    Name(Box<str>),
}

impl Place {
    fn family(&self) -> Option<Family> {
        match self {
            Place::Network(network) => Some(Family::of(network.address().into())),
            _ => None,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Any => f.write_str("any"),
            Place::Inside => f.write_str("inside"),
            Place::Outside => f.write_str("outside"),
            Place::Gate => f.write_str("gate"),
            Place::Network(network) if network.prefix_len() == Family::of(network.address().into()).bits() => {
                write!(f, "{}", network.address())
            }
            Place::Network(network) => write!(f, "{network}"),
            Place::Host(name) | Place::Name(name) => f.write_str(name),
        }
    }
}

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    pub fn of(address: IpAddr) -> Family {
        match address {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        }
    }

    /// How many bits an address has.
    pub(super) fn bits(self) -> u8 {
        match self {
            Family::V4 => 32,
            Family::V6 => 128,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        })
    }
}

/// A protocol on top of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP in packets of IPv4, and ICMPv6 in those of IPv6.
    Icmp,
    /// ICMP, of IPv4.
    Icmp4,
    /// ICMPv6.
    Icmp6,
    /// Another, by its number (IANA's "Assigned Internet Protocol Numbers").
    Other(u8),
}

impl Protocol {
    /// ICMP's number.
    pub(super) const ICMP4: u8 = 1;
    /// ICMPv6's number.
    pub(super) const ICMP6: u8 = 58;

    /// Whether packets of this number and family are of it.
    pub(super) fn matches(self, number: u8, family: Family) -> bool {
        match self {
            Protocol::Tcp => number == Transport::Tcp.number(),
            Protocol::Udp => number == Transport::Udp.number(),
            Protocol::Icmp => Protocol::Icmp4.matches(number, family) || Protocol::Icmp6.matches(number, family),
            Protocol::Icmp4 => number == Self::ICMP4 && family == Family::V4,
            Protocol::Icmp6 => number == Self::ICMP6 && family == Family::V6,
            Protocol::Other(other) => number == other,
        }
    }

    pub(super) fn from_number(number: u8) -> Protocol {
        match number {
            6 => Protocol::Tcp,
            17 => Protocol::Udp,
            Self::ICMP4 => Protocol::Icmp4,
            Self::ICMP6 => Protocol::Icmp6,
            other => Protocol::Other(other),
        }
    }

    pub(super) fn has_ports(self) -> bool {
        matches!(self, Protocol::Tcp | Protocol::Udp)
    }

    pub(super) fn is_icmp(self) -> bool {
        matches!(self, Protocol::Icmp | Protocol::Icmp4 | Protocol::Icmp6)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Protocol::Tcp => f.write_str("tcp"),
            Protocol::Udp => f.write_str("udp"),
            Protocol::Icmp => f.write_str("icmp"),
            Protocol::Icmp4 => f.write_str("icmp4"),
            Protocol::Icmp6 => f.write_str("icmp6"),
            Protocol::Other(number) => write!(f, "protocol {number}"),
        }
    }
}

/// A protocol that has ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Transport {
    /// Its number in a packet.
    pub fn number(self) -> u8 {
        match self {
            Transport::Tcp => 6,
            Transport::Udp => 17,
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
        })
    }
}

/// Ports that follow each other: at least one, and never port 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    /// The first.
    pub first: u16,
    /// The last, not below the first.
    pub last: u16,
}

impl PortRange {
    /// How many ports these are.
    pub fn count(self) -> u32 {
        u32::from(self.last.saturating_sub(self.first)) + 1
    }

    /// Whether this is one of them.
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }

    /// Whether a port is in both.
    pub(super) fn overlaps(self, other: PortRange) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first == self.last {
            true => write!(f, "{}", self.first),
            false => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

/// The ports of a rule: any, or those of some ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ports(Vec<PortRange>);

impl Ports {
    /// Sorts and joins ranges. None are any port.
    pub(super) fn new(mut ranges: Vec<PortRange>) -> Ports {
        ranges.sort_unstable_by_key(|range| range.first);
        let mut joined: Vec<PortRange> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match joined.last_mut() {
                Some(last) if u32::from(range.first) <= u32::from(last.last) + 1 => {
                    last.last = last.last.max(range.last)
                }
                _ => joined.push(range),
            }
        }
        Ports(joined)
    }

    /// Whether these are all ports, and packets without ports too.
    pub fn is_any(&self) -> bool {
        self.0.is_empty()
    }

    /// The ranges in ascending order, with others between them; empty if any port is meant.
    pub fn ranges(&self) -> &[PortRange] {
        &self.0
    }

    /// Whether a packet with this port, or with none, is meant.
    pub fn contains(&self, port: Option<u16>) -> bool {
        let is_in = |port| {
            self.0.get(self.0.partition_point(|range| range.last < port)).is_some_and(|range| range.first <= port)
        };
        self.is_any() || port.is_some_and(is_in)
    }

    /// Whether all that `other` means is meant.
    pub(super) fn covers(&self, other: &Ports) -> bool {
        let covers_range = |range: &PortRange| self.0.iter().any(|o| o.first <= range.first && range.last <= o.last);
        self.is_any() || (!other.is_any() && other.0.iter().all(covers_range))
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, range) in self.0.iter().enumerate() {
            write!(f, "{}{range}", if index == 0 { " port " } else { "," })?;
        }
        Ok(())
    }
}

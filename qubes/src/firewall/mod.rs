//! The firewall's rules of a qube, as dom0 writes them to QubesDB for whoever routes its packets.
//!
//! Reference: `qubesagent/firewall.py` of qubes-core-agent-linux, which drops everything that a qube sends if it cannot read
//! one of its rules. [`Rules::parse`] fails where that does, and where it would ask nftables for what cannot be.

mod parse;
#[cfg(test)]
mod tests;

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::ops::RangeInclusive;

/// The rules for what comes from one address. The first that matches decides; if none does, the policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// In the order in which they are asked.
    pub rules: Vec<Rule>,
    /// What happens to all else.
    pub policy: Action,
}

/// One rule: everything in it has to match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its number.
    pub number: u16,
    /// What happens to packets that match.
    pub action: Action,
    /// Which protocols it is for.
    pub protocol: Protocol,
    /// Where packets go.
    pub destination: Destination,
    /// Only where they go to one of the DNS servers that qubes are given. `ports` says 53 then.
    pub to_dns_servers: bool,
    /// The port that they go to: of TCP and UDP only.
    pub ports: Option<RangeInclusive<u16>>,
    /// The type of an ICMP message, or an ICMPv6 message from an IPv6 address.
    pub icmp_type: Option<u8>,
}

/// What a rule says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Let it pass.
    Accept,
    /// Drop it. Linux tells the sender that this is prohibited by an administrator.
    Drop,
}

/// The protocols that a rule is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// All.
    Any,
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// Both: the rule names ports, or DNS, and no protocol.
    TcpAndUdp,
    /// ICMP, or ICMPv6 from an IPv6 address.
    Icmp,
}

/// The destination that a rule is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// All.
    Any,
    /// Addresses that begin with so many bits of this one, whose other bits are 0.
    Network4(Ipv4Addr, u8),
    /// As [`Network4`](Destination::Network4).
    Network6(Ipv6Addr, u8),
    /// The addresses of a name. Linux looks them up when it loads the rules.
    Host(String),
}

impl Rules {
    /// Reads the entries below `/qubes-firewall/ADDRESS/`, in any order: `policy`, and rules by four digits, which may have
    /// gaps. `address` is that of the qube.
    ///
    /// Of `expire=` and `comment=` Linux's agent knows nothing: dom0 keeps both to itself. Here too they are unknown options.
    ///
    /// # Errors
    ///
    /// Where one of them makes no sense, or there is no policy. Nothing of the qube may pass then.
    ///
    /// # Examples
    ///
    /// ```
    /// use qubes::firewall::{Action, Protocol, Rules};
    ///
    /// let entries = [("policy", "drop"), ("0000", "action=accept dstports=80-81"), ("0007", "action=drop proto=icmp")];
    /// let rules = Rules::parse("10.137.0.5".parse().unwrap(), entries).unwrap();
    /// assert_eq!((rules.rules.len(), rules.policy), (2, Action::Drop));
    /// assert_eq!((rules.rules[0].protocol, rules.rules[0].ports.clone()), (Protocol::TcpAndUdp, Some(80..=81)));
    ///
    /// let error = Rules::parse("10.137.0.5".parse().unwrap(), [("policy", "drop"), ("0000", "action=accept color=red")]);
    /// assert_eq!(error.unwrap_err().to_string(), "rule 0000: unknown option \"color\"");
    /// ```
    pub fn parse<K, V>(address: IpAddr, entries: impl IntoIterator<Item = (K, V)>) -> Result<Rules, RuleError>
    where
        K: AsRef<str>,
        V: AsRef<[u8]>,
    {
        parse::rules(address.is_ipv6(), entries)
    }

    /// What counts where the rules cannot be read.
    pub fn drop_all() -> Rules {
        Rules { rules: Vec::new(), policy: Action::Drop }
    }
}

/// Why rules cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleError {
    /// The entry: `policy`, or the number of a rule.
    pub key: Box<str>,
    /// What is wrong with it.
    pub problem: RuleProblem,
}

/// What is wrong with an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RuleProblem {
    /// There is no policy.
    NoPolicy,
    /// The entry is neither a policy nor a rule: its name is not four digits.
    UnknownEntry,
    /// There are two of the name.
    DuplicateEntry,
    /// The value is not UTF-8.
    NotText,
    /// No `action=`.
    NoAction,
    /// Something between two spaces is not `OPTION=VALUE`.
    NotAnOption(Box<str>),
    /// An option that is not known.
    UnknownOption(Box<str>),
    /// An option is there twice, or there is more than one destination.
    Duplicate(&'static str),
    /// A value cannot be read.
    BadValue {
        /// The option.
        option: &'static str,
        /// Its value.
        value: Box<str>,
        /// What could be there.
        expected: &'static str,
    },
    /// Two options cannot be in one rule.
    Contradiction(&'static str, &'static str),
    /// The option is for addresses of the other family.
    OtherFamily(&'static str),
}

impl fmt::Display for RuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use xenstore_client::printable;
        match &*self.key {
            "policy" => f.write_str("policy: ")?,
            key => write!(f, "rule {}: ", printable(key))?,
        }
        match &self.problem {
            RuleProblem::NoPolicy => f.write_str("missing; accept or drop is needed"),
            RuleProblem::UnknownEntry => f.write_str("its name is not four digits"),
            RuleProblem::DuplicateEntry => f.write_str("there is another of this number"),
            RuleProblem::NotText => f.write_str("not UTF-8"),
            RuleProblem::NoAction => f.write_str("no action; action=accept or action=drop is needed"),
            RuleProblem::NotAnOption(found) => write!(f, "\"{}\" is not OPTION=VALUE", printable(found)),
            RuleProblem::UnknownOption(name) => write!(f, "unknown option \"{}\"", printable(name)),
            RuleProblem::Duplicate(option) => write!(f, "more than one {option}"),
            RuleProblem::BadValue { option, value, expected } => {
                write!(f, "{option}=\"{}\": expected {expected}", printable(value))
            }
            RuleProblem::Contradiction(one, other) => write!(f, "{one} and {other} cannot be in one rule"),
            RuleProblem::OtherFamily(option) => write!(f, "{option} in the rules of an address of the other family"),
        }
    }
}

impl core::error::Error for RuleError {}

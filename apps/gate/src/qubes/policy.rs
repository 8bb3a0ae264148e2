//! What Qubes OS lets pass: the rules of each client's address, and what sys-firewall's Linux does without rules
//! (`network/qubes-ipv4.nft` and `qubesagent/firewall.py` of qubes-core-agent-linux).

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::net::IpAddr;

use sarab::qubes::firewall::{Action, Destination, Protocol, Rule, Rules};
use sarab_router::packet::{ICMP, ICMPV6};
use sarab_router::rules::{Family, NameTable};
use sarab_router::{NewFlow, Side, Verdict};

const TCP: u8 = 6;
const UDP: u8 = 17;

/// The rules of all clients.
#[derive(Default)]
pub struct Table {
    pub rules: BTreeMap<IpAddr, Rules>,
    /// Name servers that qubes are given, and those that they stand for.
    pub name_servers: Vec<IpAddr>,
    /// Whether clients may reach each other where the sender's rules allow it.
    pub between_clients: bool,
}

impl Table {
    /// Whether a flow may begin.
    pub fn judge(&self, flow: &NewFlow, names: &NameTable) -> Verdict {
        let is_icmp = matches!(flow.protocol, ICMP | ICMPV6);
        match (flow.from.0, flow.to.0) {
            (Side::Gate, _) => Verdict::Accept(None),
            (Side::Inside, Side::Gate) if is_icmp => Verdict::Accept(None),
            (Side::Inside, Side::Gate) => Verdict::Prohibit(None),
            (Side::Inside, Side::Outside) => self.by_rules(flow, names),
            (Side::Inside, Side::Inside) if self.between_clients => self.by_rules(flow, names),
            (Side::Inside, Side::Inside) | (Side::Outside, _) => Verdict::Drop(None),
        }
    }

    fn by_rules(&self, flow: &NewFlow, names: &NameTable) -> Verdict {
        // One whose rules have not come yet.
        let Some(rules) = self.rules.get(&flow.source) else { return Verdict::Drop(None) };
        let first = rules.rules.iter().find(|rule| self.matches(rule, flow, names));
        match first.map_or(rules.policy, |rule| rule.action) {
            Action::Accept => Verdict::Accept(None),
            Action::Drop => Verdict::Prohibit(None),
        }
    }

    fn matches(&self, rule: &Rule, flow: &NewFlow, names: &NameTable) -> bool {
        let is_protocol = match rule.protocol {
            Protocol::Any => true,
            Protocol::Tcp => flow.protocol == TCP,
            Protocol::Udp => flow.protocol == UDP,
            Protocol::TcpAndUdp => matches!(flow.protocol, TCP | UDP),
            Protocol::Icmp => matches!(flow.protocol, ICMP | ICMPV6),
        };
        // A question to a name server that stands for another: rules are about the one that was asked.
        let is_redirected = flow.is_published && flow.to.0 == Side::Outside;
        let to = if is_redirected { flow.original_destination } else { flow.destination };
        let is_destination = match (&rule.destination, to) {
            (Destination::Any, _) => true,
            (Destination::Network4(network, bits), IpAddr::V4(to)) => {
                (network.to_bits() ^ to.to_bits()).leading_zeros() >= u32::from(*bits)
            }
            (Destination::Network6(network, bits), IpAddr::V6(to)) => {
                (network.to_bits() ^ to.to_bits()).leading_zeros() >= u32::from(*bits)
            }
            (Destination::Host(name), to) => {
                // Until the name's addresses are known, any destination may be one of them.
                let may_be = rule.action == Action::Drop && !names.is_known(name, Family::of(to));
                may_be || names.addresses(name).contains(&to)
            }
            _ => false,
        };
        let is_port =
            rule.ports.as_ref().is_none_or(|ports| flow.destination_port.is_some_and(|port| ports.contains(&port)));
        let is_kind = rule.icmp_type.is_none_or(|kind| flow.icmp.is_some_and(|(own, _)| own == kind));
        let is_server = !rule.to_dns_servers || is_redirected || self.name_servers.contains(&to);
        is_protocol && is_destination && is_port && is_kind && is_server
    }

    /// All names in rules, sorted.
    pub fn names(&self) -> Vec<Box<str>> {
        let all = self.rules.values().flat_map(Table::names_of);
        all.collect::<BTreeSet<&str>>().into_iter().map(Box::from).collect()
    }

    /// The names in rules.
    pub fn names_of(rules: &Rules) -> impl Iterator<Item = &str> {
        rules.rules.iter().filter_map(|rule| match &rule.destination {
            Destination::Host(name) => Some(&**name),
            _ => None,
        })
    }
}

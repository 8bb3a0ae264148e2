//! All rules of a text, and what they say about a packet.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::fmt;
use core::net::IpAddr;
use core::ops::Range;

use super::compiled::{Compiled, HostMatch};
use super::config::Mac;
use super::names::Names;
use super::rule::{Rule, Verdict};

/// Where a packet comes from or goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zone {
    /// A client.
    Inside,
    /// An uplink.
    Outside,
    /// The gate itself.
    Gate,
}

/// Who a client is. The gate knows it from the device that a packet has come through, not from the packet.
#[derive(Clone, Copy, Debug)]
pub struct ClientIdentity<'a> {
    /// The addresses that the client may use.
    pub addresses: &'a [IpAddr],
    /// Its MAC. By it, a host of the configuration is found.
    pub mac: [u8; 6],
    /// Its domain.
    pub domain: Option<u16>,
}

/// The first packet of a flow, with the addresses and ports that clients and servers have: after the translation of its
/// destination (published ports, maps), and before that of its source (masquerading, maps).
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// Where it comes from.
    pub from: Zone,
    /// Where it goes.
    pub to: Zone,
    /// The client that has sent it, if it comes from inside.
    pub sender: Option<&'a ClientIdentity<'a>>,
    /// The client that it is for, if it goes inside.
    pub receiver: Option<&'a ClientIdentity<'a>>,
    /// The protocol's number: that of the last header, in IPv6.
    pub protocol: u8,
    /// Its source.
    pub source: IpAddr,
    /// Its destination, of the same family.
    pub destination: IpAddr,
    /// Its source port. None if the protocol has no ports, or the packet is a fragment without them.
    pub source_port: Option<u16>,
    /// Its destination port. None as above.
    pub destination_port: Option<u16>,
    /// An ICMP message's type and code.
    pub icmp: Option<(u8, u8)>,
}

/// The number of a rule among those of one text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleId(pub(super) u32);

impl RuleId {
    /// That of this number.
    pub fn new(number: u32) -> RuleId {
        RuleId(number)
    }

    /// The number, from 0, in the order of the text's rules.
    pub fn number(self) -> u32 {
        self.0
    }
}

/// What the rules say about a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What happens to it. None: it is for the gate or from an uplink, and no rule is about it. Then the gate's own services
    /// are reachable for clients, what is published is reachable for all, and the rest is dropped.
    pub verdict: Option<Verdict>,
    /// The rule that has matched. None with a verdict: a policy has decided.
    pub rule: Option<RuleId>,
}

/// The rules of a text, in the order in which they are tried: those of clients' blocks, then those for all.
///
/// They are displayed as the canonical text of their lines.
#[derive(Clone, Debug)]
pub struct Rules {
    pub(super) rules: Vec<Rule>,
    /// As many.
    pub(super) lines: Vec<usize>,
    /// As many.
    pub(super) compiled: Vec<Compiled>,
    pub(super) hosts: Vec<HostMatch>,
    pub(super) names: Vec<Box<str>>,
    pub(super) blocks: Vec<Block>,
    /// The block of each client that has one.
    pub(super) of_client: BTreeMap<ClientKey, usize>,
    pub(super) policy: Verdict,
}

/// Rules about one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) client: ClientSelector,
    pub(super) policy: Option<Verdict>,
    pub(super) rules: Range<usize>,
}

/// Whom a block is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ClientSelector {
    Address(IpAddr),
    Mac([u8; 6]),
    Domain(u16),
    Host(Box<str>),
}

/// The same, with a host's MAC in place of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ClientKey {
    Address(IpAddr),
    Mac([u8; 6]),
    Domain(u16),
}

/// Which of a packet's two clients a block is of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Sender,
    Receiver,
}

impl Default for Rules {
    fn default() -> Self {
        Rules {
            rules: Vec::new(),
            lines: Vec::new(),
            compiled: Vec::new(),
            hosts: Vec::new(),
            names: Vec::new(),
            blocks: Vec::new(),
            of_client: BTreeMap::new(),
            policy: Verdict::Accept,
        }
    }
}

impl Rules {
    /// What the rules say about a flow.
    ///
    /// The sender's block and the receiver's are asked first. If both speak, both have to accept. If neither does, the rules for
    /// all are asked, then the policy, which is about what clients send to anybody but the gate.
    pub fn evaluate(&self, query: &Query<'_>, names: &impl Names) -> Outcome {
        let of_sender = query.sender.and_then(|client| self.of_blocks(client, Role::Sender, query, names));
        let of_receiver = query.receiver.and_then(|client| self.of_blocks(client, Role::Receiver, query, names));
        if let Some(outcome) =
            of_sender.filter(|outcome| outcome.verdict != Some(Verdict::Accept) || of_receiver.is_none())
        {
            return outcome;
        }
        if let Some(outcome) = of_receiver {
            return outcome;
        }
        let for_all = self.for_all();
        match self.first(for_all, None, query, names) {
            Some(outcome) => outcome,
            None => Outcome { verdict: policy_is_about(query).then_some(self.policy), rule: None },
        }
    }

    /// The names to resolve, of which the first has [`NameId`](super::NameId) 0. Each is there once.
    pub fn names(&self) -> &[Box<str>] {
        &self.names
    }

    /// The rule of this number; none if it is another text's.
    pub fn get(&self, id: RuleId) -> Option<&Rule> {
        self.rules.get(id.0 as usize)
    }

    /// The line of a rule, from 1.
    pub fn line(&self, id: RuleId) -> Option<usize> {
        self.lines.get(id.0 as usize).copied()
    }

    /// All rules in their order.
    pub fn iter(&self) -> impl Iterator<Item = (RuleId, &Rule)> {
        (0..).map(RuleId).zip(&self.rules)
    }

    /// What happens to what clients send to anybody but the gate, if no rule is about it.
    pub fn policy(&self) -> Verdict {
        self.policy
    }

    /// The client of whose block a rule is, as it is written; none if the rule is for all.
    pub fn client_of(&self, id: RuleId) -> Option<impl fmt::Display + '_> {
        self.blocks.iter().find(|block| block.rules.contains(&(id.0 as usize))).map(|block| &block.client)
    }

    fn for_all(&self) -> Range<usize> {
        self.blocks.last().map_or(0, |block| block.rules.end)..self.rules.len()
    }

    /// What the blocks of a client say, in the order of the text.
    fn of_blocks(
        &self,
        client: &ClientIdentity<'_>,
        role: Role,
        query: &Query<'_>,
        names: &impl Names,
    ) -> Option<Outcome> {
        if self.of_client.is_empty() {
            return None;
        }
        let mut policy = None;
        let mut next = 0;
        while let Some((index, block)) = self.next_block(client, next) {
            let outcome = self.first(block.rules.clone(), Some(role), query, names);
            if outcome.is_some() {
                return outcome;
            }
            policy = policy.or(block.policy);
            next = index + 1;
        }
        let verdict = policy.filter(|_| role == Role::Sender && policy_is_about(query));
        verdict.map(|verdict| Outcome { verdict: Some(verdict), rule: None })
    }

    /// The client's first block of this number or a higher one.
    fn next_block(&self, client: &ClientIdentity<'_>, from: usize) -> Option<(usize, &Block)> {
        let own = [Some(ClientKey::Mac(client.mac)), client.domain.map(ClientKey::Domain)];
        let keys = client.addresses.iter().map(|address| ClientKey::Address(*address)).chain(own.into_iter().flatten());
        let index = keys.filter_map(|key| self.of_client.get(&key).copied()).filter(|index| *index >= from).min()?;
        Some((index, self.blocks.get(index)?))
    }

    /// The first of these rules that matches. Without `from`, a block's rule is about what its client sends.
    fn first(&self, range: Range<usize>, role: Option<Role>, query: &Query<'_>, names: &impl Names) -> Option<Outcome> {
        let (rules, compiled) = (self.rules.get(range.clone())?, self.compiled.get(range.clone())?);
        let is_for = |rule: &Rule| role.is_none_or(|role| rule.from.is_some() == (role == Role::Receiver));
        let matches =
            |(rule, compiled): (&Rule, &Compiled)| compiled.matches(rule, query, &self.hosts, names) && is_for(rule);
        let index = rules.iter().zip(compiled).position(matches)?;
        let id = u32::try_from(range.start + index).ok()?;
        Some(Outcome { verdict: Some(rules[index].action), rule: Some(RuleId(id)) })
    }
}

/// Whether policies are about it.
fn policy_is_about(query: &Query<'_>) -> bool {
    query.from == Zone::Inside && query.to != Zone::Gate
}

impl PartialEq for Rules {
    /// Lines do not count.
    fn eq(&self, other: &Self) -> bool {
        self.rules == other.rules && self.blocks == other.blocks && self.policy == other.policy
    }
}

impl fmt::Display for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "policy {}", self.policy)?;
        for rule in self.rules.iter().skip(self.for_all().start) {
            writeln!(f, "{rule}")?;
        }
        for block in &self.blocks {
            writeln!(f, "client {} {{", block.client)?;
            if let Some(policy) = block.policy {
                writeln!(f, "  policy {policy}")?;
            }
            for rule in self.rules.get(block.rules.clone()).unwrap_or_default() {
                writeln!(f, "  {rule}")?;
            }
            writeln!(f, "}}")?;
        }
        Ok(())
    }
}

impl fmt::Display for ClientSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientSelector::Address(address) => write!(f, "{address}"),
            ClientSelector::Mac(mac) => write!(f, "{}", Mac(*mac)),
            ClientSelector::Domain(domain) => write!(f, "domain {domain}"),
            ClientSelector::Host(name) => f.write_str(name),
        }
    }
}

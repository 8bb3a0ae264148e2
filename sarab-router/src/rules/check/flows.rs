//! Rules and the blocks of clients.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::net::IpAddr;

use super::Findings;
use super::hosts::Known;
use crate::rules::compiled::{self, Context, HostMatch};
use crate::rules::diagnostic::Span;
use crate::rules::error::ErrorKind;
use crate::rules::parse::{Draft, RuleLine};
use crate::rules::rule::{Family, Place, Protocol, Rule, Verdict};
use crate::rules::set::{Block, ClientKey, ClientSelector, Rules};
use crate::rules::warning::WarningKind;
use crate::rules::{MAX_NAMES, MAX_RULES};

pub(super) fn rules(draft: &Draft, known: &Known, findings: &mut Findings) -> Rules {
    let of_blocks = draft.blocks.iter().flat_map(|block| &block.rules);
    let lines: Vec<&RuleLine> = of_blocks.chain(&draft.rules).collect();
    if let Some(line) = lines.get(MAX_RULES) {
        findings.fault(line.span, ErrorKind::TooManyRules);
        return Rules::default();
    }
    for line in &lines {
        check_place(line.rule.from.as_ref(), line.from, known, findings);
        check_place(Some(&line.rule.to), line.to, known, findings);
    }
    let names = compiled::names(lines.iter().map(|line| &line.rule));
    if let (true, Some(last)) = (names.len() > MAX_NAMES, lines.iter().rfind(|line| has_name(&line.rule))) {
        findings.fault(last.span, ErrorKind::TooManyNames);
    }
    let (mut blocks, mut of_client, mut first_lines) = (Vec::new(), BTreeMap::new(), Vec::new());
    let mut start = 0;
    for block in &draft.blocks {
        block.rules.iter().for_each(|line| check_in_block(line, &block.client.value, findings));
        let end = start + block.rules.len();
        if let Some(key) = key(&block.client.value, block.client.span, known, findings) {
            if let Some(first) = of_client.get(&key).and_then(|index: &usize| first_lines.get(*index)) {
                findings.fault(block.client.span, ErrorKind::DuplicateClient { line: *first });
            }
            of_client.entry(key).or_insert(blocks.len());
        }
        first_lines.push(block.client.span.line);
        blocks.push(Block {
            client: block.client.value.clone(),
            policy: block.policy.as_ref().map(|policy| policy.value),
            rules: start..end,
        });
        // Rules with `from` and those without are about other packets there.
        for is_from in [false, true] {
            warn_unreachable(block.rules.iter().filter(|line| line.rule.from.is_some() == is_from), findings);
        }
        start = end;
    }
    warn_unreachable(draft.rules.iter(), findings);

    let rules: Vec<Rule> = lines.iter().map(|line| line.rule.clone()).collect();
    let context = Context { clients: &known.clients, hosts: &known.hosts, names: &names };
    Rules {
        compiled: rules.iter().map(|rule| context.compile(rule)).collect(),
        rules,
        lines: lines.iter().map(|line| line.span.line).collect(),
        hosts: known.hosts.iter().map(HostMatch::new).collect(),
        names,
        blocks,
        of_client,
        policy: draft.policy.as_ref().map_or(Verdict::Accept, |policy| policy.value),
    }
}

fn has_name(rule: &Rule) -> bool {
    rule.from.iter().chain([&rule.to]).any(|place| matches!(place, Place::Name(_)))
}

/// The one address that a place is.
fn address(place: &Place) -> Option<IpAddr> {
    match place {
        Place::Network(network) => {
            let address = network.address().into();
            (network.prefix_len() == Family::of(address).bits()).then_some(address)
        }
        _ => None,
    }
}

fn check_place(place: Option<&Place>, span: Option<Span>, known: &Known, findings: &mut Findings) {
    let (Some(place), Some(span)) = (place, span) else { return };
    if let Place::Host(name) = place
        && known.host(name).is_none()
    {
        findings.fault(span, known.unknown(name));
    }
    if let Some(address) = address(place).filter(|address| known.is_gate(*address)) {
        findings.fault(span, ErrorKind::GateAddress { address });
    }
}

fn check_in_block(line: &RuleLine, client: &ClientSelector, findings: &mut Findings) {
    let (Some(from), Some(span)) = (&line.rule.from, line.from) else { return };
    let is_itself = match (from, client) {
        (Place::Host(name), ClientSelector::Host(client)) => name == client,
        (place, ClientSelector::Address(client)) => address(place) == Some(*client),
        _ => false,
    };
    if is_itself {
        findings.fault(span, ErrorKind::FromItself);
    }
    if let (Place::Gate, Some(span)) = (&line.rule.to, line.to) {
        findings.fault(span, ErrorKind::NeverMatches);
    }
}

fn key(client: &ClientSelector, span: Span, known: &Known, findings: &mut Findings) -> Option<ClientKey> {
    match client {
        ClientSelector::Address(address) if known.is_gate(*address) => {
            findings.fault(span, ErrorKind::GateAddress { address: *address });
            None
        }
        ClientSelector::Address(address) => Some(ClientKey::Address(*address)),
        ClientSelector::Mac(mac) => Some(ClientKey::Mac(*mac)),
        ClientSelector::Domain(domain) => Some(ClientKey::Domain(*domain)),
        ClientSelector::Host(name) => match known.host(name) {
            Some(host) => Some(ClientKey::Mac(host.mac)),
            None => {
                findings.fault(span, known.unknown(name));
                None
            }
        },
    }
}

fn warn_unreachable<'a>(lines: impl Iterator<Item = &'a RuleLine>, findings: &mut Findings) {
    let mut before: Vec<&RuleLine> = Vec::new();
    for line in lines {
        match before.iter().find(|earlier| covers(&earlier.rule, &line.rule)) {
            Some(earlier) => findings.warn(line.span, WarningKind::Unreachable { line: earlier.span.line }),
            // What the unreachable cover, the earlier rule covers too.
            None => before.push(line),
        }
    }
}

/// Whether one rule surely matches all that another does.
fn covers(one: &Rule, other: &Rule) -> bool {
    let from = |rule: &Rule| rule.from.clone().unwrap_or(Place::Inside);
    let protocol = match (one.protocol, other.protocol) {
        (None, _) => true,
        (Some(Protocol::Icmp), Some(other)) => other.is_icmp(),
        (own, other) => own == other,
    };
    let icmp = match (one.icmp, other.icmp) {
        (None, _) => true,
        (Some(own), Some(other)) => own.covers(other),
        (Some(_), None) => false,
    };
    protocol
        && icmp
        && place_covers(&from(one), &from(other))
        && place_covers(&one.to, &other.to)
        && one.from_ports.covers(&other.from_ports)
        && one.to_ports.covers(&other.to_ports)
}

fn place_covers(one: &Place, other: &Place) -> bool {
    match (one, other) {
        (Place::Any, other) => *other != Place::Gate,
        (Place::Inside, Place::Host(_)) | (Place::Outside, Place::Name(_)) => true,
        (Place::Network(own), Place::Network(other)) => own.contains_subnet(other),
        (own, other) => own == other,
    }
}

//! Published ports and maps.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::net::IpAddr;

use super::hosts::Known;
use super::{Findings, client};
use crate::rules::config::{Map, Publish, Target};
use crate::rules::error::ErrorKind;
use crate::rules::parse::cursor::At;
use crate::rules::parse::{Draft, PublishLine};
use crate::rules::rule::Family;

/// What is published on one address comes first.
pub(super) fn publish(draft: &Draft, known: &Known, findings: &mut Findings) -> Vec<Publish> {
    let mut all: Vec<(usize, Publish)> = Vec::new();
    for line in &draft.publish {
        let Some(publish) = one(line, known, findings) else { continue };
        if let Some((line_before, before)) = all.iter().find(|(_, before)| collide(before, &publish)) {
            let Publish { transport, ports, .. } = *before;
            findings.fault(line.ports.span, ErrorKind::DuplicatePublish { transport, ports, line: *line_before });
        }
        all.push((line.ports.span.line, publish));
    }
    let mut all: Vec<Publish> = all.into_iter().map(|(_, publish)| publish).collect();
    all.sort_by_key(|publish| publish.on.is_none());
    all
}

fn one(line: &PublishLine, known: &Known, findings: &mut Findings) -> Option<Publish> {
    let span = line.to.span;
    let on = line.on.as_ref().map(|on| on.value);
    let family = on.map(Family::of);
    let is_wanted = |other: Family| family.is_none_or(|family| family == other);
    let (v4, v6) = match &line.to.value {
        Target::Address(address) => {
            let second = Family::of(*address);
            if let Some(first) = family.filter(|family| *family != second) {
                findings.fault(span, ErrorKind::Families { first, second });
                return None;
            }
            client(&At { value: *address, span }, known, findings);
            match *address {
                IpAddr::V4(address) => (Some(address), None),
                IpAddr::V6(address) => (None, Some(address)),
            }
        }
        Target::Host(name) => {
            let Some(host) = known.host(name) else {
                findings.fault(span, known.unknown(name));
                return None;
            };
            let (v4, v6) = (host.v4().filter(|_| is_wanted(Family::V4)), host.v6().filter(|_| is_wanted(Family::V6)));
            if v4.is_none() && v6.is_none() {
                findings.fault(span, ErrorKind::HostWithout { name: name.clone(), family });
                return None;
            }
            (v4, v6)
        }
    };
    let to_ports = line.to_ports.as_ref().unwrap_or(&line.ports);
    let (published, target) = (line.ports.value.count(), to_ports.value.count());
    if published != target {
        findings.fault(to_ports.span, ErrorKind::RangeLengths { published, target });
    }
    Some(Publish {
        transport: line.transport,
        ports: line.ports.value,
        on,
        to: line.to.value.clone(),
        v4,
        v6,
        to_ports: to_ports.value,
    })
}

/// Whether a packet could be for both. What is published on one address takes precedence over what is on all.
fn collide(one: &Publish, other: &Publish) -> bool {
    let share_family = (one.v4.is_some() && other.v4.is_some()) || (one.v6.is_some() && other.v6.is_some());
    one.transport == other.transport && one.on == other.on && share_family && one.ports.overlaps(other.ports)
}

pub(super) fn maps(draft: &Draft, known: &Known, findings: &mut Findings) -> Vec<Map> {
    let published: BTreeMap<IpAddr, usize> =
        draft.publish.iter().rev().filter_map(|line| line.on.as_ref()).map(|on| (on.value, on.span.line)).collect();
    let (mut outsides, mut insides) = (BTreeMap::new(), BTreeMap::new());
    for line in &draft.maps {
        let (first, second) = (Family::of(line.outside.value), Family::of(line.inside.value));
        if first != second {
            findings.fault(line.inside.span, ErrorKind::Families { first, second });
        }
        if known.is_gate(line.outside.value) {
            findings.fault(line.outside.span, ErrorKind::GateAddress { address: line.outside.value });
        }
        client(&line.inside, known, findings);
        for (at, seen) in [(&line.outside, &mut outsides), (&line.inside, &mut insides)] {
            if let Some(first) = seen.insert(at.value, at.span.line) {
                findings.fault(at.span, ErrorKind::DuplicateMap { address: at.value, line: first });
            }
        }
        if let Some(published) = published.get(&line.outside.value) {
            let (address, line_of) = (line.outside.value, *published);
            findings.fault(line.outside.span, ErrorKind::MappedAndPublished { address, line: line_of });
        }
    }
    draft.maps.iter().map(|line| Map { outside: line.outside.value, inside: line.inside.value }).collect()
}

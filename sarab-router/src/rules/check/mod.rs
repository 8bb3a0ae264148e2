//! From statements to a configuration: what needs more than a line.

mod flows;
mod hosts;
mod nat;

use alloc::vec::Vec;
use core::net::IpAddr;

use self::hosts::Known;
use super::config::{Config, Limits};
use super::diagnostic::{Diagnostic, Errors, Span};
use super::error::ErrorKind;
use super::parse::cursor::{At, Fault};
use super::warning::WarningKind;
use super::{MAX_TEXT, parse};

/// What the checks find.
#[derive(Default)]
struct Findings {
    faults: Vec<Fault>,
    warnings: Vec<(Span, WarningKind)>,
}

impl Findings {
    fn fault(&mut self, span: Span, kind: ErrorKind) {
        self.faults.push(Fault { span, kind });
    }

    fn warn(&mut self, span: Span, kind: WarningKind) {
        self.warnings.push((span, kind));
    }
}

/// Reads and checks a text.
pub(super) fn config(text: &str) -> Result<Config, Errors> {
    if text.len() > MAX_TEXT {
        let kind = ErrorKind::TextTooLong { bytes: text.len() };
        return Err(errors(text, Vec::from([Fault { span: Span { line: 1, column: 1, width: 1 }, kind }])));
    }
    let (draft, faults) = parse::parse(text);
    let mut findings = Findings { faults, ..Findings::default() };
    let known = Known::new(&draft, &mut findings);
    let publish = nat::publish(&draft, &known, &mut findings);
    let maps = nat::maps(&draft, &known, &mut findings);
    let rules = flows::rules(&draft, &known, &mut findings);
    if !findings.faults.is_empty() {
        return Err(errors(text, findings.faults));
    }
    findings.warnings.sort_by_key(|(span, _)| (span.line, span.column));
    let warnings = findings.warnings.into_iter().take(Errors::MAX);
    Ok(Config {
        clients: known.clients,
        hosts: known.hosts,
        search: draft.search.map(value),
        masquerade: draft.masquerade.map(value).unwrap_or_default(),
        publish,
        maps,
        limits: Limits { flows: draft.flows.map(value), new_flows: draft.rate.map(value), icmp: draft.icmp.map(value) },
        log_drops: draft.log_drops.is_some_and(value),
        rules,
        warnings: warnings.map(|(span, kind)| Diagnostic::new(text, span, kind)).collect(),
    })
}

fn errors(text: &str, mut faults: Vec<Fault>) -> Errors {
    faults.sort_by_key(|fault| (fault.span.line, fault.span.column));
    let omitted = faults.len().saturating_sub(Errors::MAX);
    let shown = faults.into_iter().take(Errors::MAX);
    Errors { errors: shown.map(|fault| Diagnostic::new(text, fault.span, fault.kind)).collect(), omitted }
}

fn value<T>(at: At<T>) -> T {
    at.value
}

/// What is wrong with the address of a client that something leads to.
fn client(address: &At<IpAddr>, known: &Known, findings: &mut Findings) {
    let At { value: address, span } = *address;
    if known.is_gate(address) {
        findings.fault(span, ErrorKind::GateAddress { address });
    } else if !known.is_client(address) {
        findings.warn(span, WarningKind::TargetOutside { address });
    }
}

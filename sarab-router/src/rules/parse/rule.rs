//! The line of a rule.

use super::cursor::{At, Cursor, Fault, Token};
use super::values;
use crate::rules::diagnostic::Span;
use crate::rules::error::ErrorKind;
use crate::rules::icmp::IcmpType;
use crate::rules::rule::{Family, Place, Ports, Protocol, Rule, Verdict};

/// A rule with the places of what is checked once all lines are known.
#[derive(Debug)]
pub(in crate::rules) struct RuleLine {
    pub(in crate::rules) rule: Rule,
    pub(in crate::rules) span: Span,
    pub(in crate::rules) from: Option<Span>,
    pub(in crate::rules) to: Option<Span>,
}

/// What can follow in a rule, from each point on.
const AFTER_ACTION: &str =
    "a protocol (tcp, udp, icmp, icmp4, icmp6, protocol NUMBER), `from`, `to`, `port` or the end of the line";
const AFTER_ICMP: &str = "`type`, `from`, `to` or the end of the line";
const AFTER_TYPE: &str = "`code`, `from`, `to` or the end of the line";
const AFTER_FROM: &str = "`port`, `to` or the end of the line";
const AFTER_TO: &str = "`port` or the end of the line";
const AFTER_PORTS: &str = "`,`, `to` or the end of the line";
const AFTER_LAST_PORTS: &str = "`,` or the end of the line";
const PROTOCOL_NUMBER: &str = "a protocol's number from 0 to 255";
const ICMP_TYPE: &str = "an ICMP type such as echo-request, or its number from 0 to 255";
const ICMP_CODE: &str = "an ICMP code's number from 0 to 255";

/// The verdict of this name.
pub(super) fn verdict(word: &str) -> Option<Verdict> {
    match word {
        "accept" => Some(Verdict::Accept),
        "drop" => Some(Verdict::Drop),
        "reject" => Some(Verdict::Reject),
        _ => None,
    }
}

/// What follows the action.
pub(super) fn rule(action: Verdict, cursor: &mut Cursor<'_>) -> Result<RuleLine, Fault> {
    let protocol = protocol(cursor)?;
    let kind = match cursor.take("type") {
        Some(token) if !protocol.is_some_and(Protocol::is_icmp) => return Err(token.fault(ErrorKind::TypeWithoutIcmp)),
        Some(_) => Some(TypeWords::parse(cursor)?),
        None => None,
    };
    let mut expected = match (protocol, &kind) {
        (_, Some(_)) => AFTER_TYPE,
        (Some(protocol), None) if protocol.is_icmp() => AFTER_ICMP,
        (Some(_), None) => "`from`, `to`, `port` or the end of the line",
        (None, None) => AFTER_ACTION,
    };

    let mut line = RuleLine {
        rule: Rule {
            action,
            protocol,
            icmp: None,
            from: None,
            from_ports: Ports::default(),
            to: Place::Any,
            to_ports: Ports::default(),
        },
        span: cursor.whole(),
        from: None,
        to: None,
    };
    if cursor.take("from").is_some() {
        let from = values::place(cursor)?;
        same_family(line.rule.family(), &from)?;
        (line.rule.from, line.from) = (Some(from.value), Some(from.span));
        expected = AFTER_FROM;
        if let Some(ports) = ports(protocol, cursor)? {
            line.rule.from_ports = ports;
            expected = AFTER_PORTS;
        }
    }
    if cursor.take("to").is_some() {
        let to = values::place(cursor)?;
        same_family(line.rule.family(), &to)?;
        (line.rule.to, line.to) = (to.value, Some(to.span));
        expected = AFTER_TO;
    }
    // Ports behind `from` are the source's, unless `to` has come.
    if (line.to.is_some() || line.from.is_none())
        && let Some(ports) = ports(protocol, cursor)?
    {
        line.rule.to_ports = ports;
        expected = AFTER_LAST_PORTS;
    }
    cursor.finish(expected)?;
    if let Some(kind) = kind {
        line.rule.icmp = Some(kind.resolve(line.rule.family())?);
    }
    Ok(line)
}

fn protocol(cursor: &mut Cursor<'_>) -> Result<Option<Protocol>, Fault> {
    let Some(token) = cursor.peek() else { return Ok(None) };
    let protocol = match token.text {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "icmp" => Protocol::Icmp,
        "icmp4" => Protocol::Icmp4,
        "icmp6" => Protocol::Icmp6,
        "protocol" => {
            cursor.take("protocol");
            let token = cursor.next(PROTOCOL_NUMBER)?;
            let number = values::number(token.text).ok_or_else(|| token.expected(PROTOCOL_NUMBER))?;
            return Ok(Some(Protocol::from_number(number)));
        }
        _ => return Ok(None),
    };
    cursor.take(token.text);
    Ok(Some(protocol))
}

/// `port` and what follows it, if it comes next.
fn ports(protocol: Option<Protocol>, cursor: &mut Cursor<'_>) -> Result<Option<Ports>, Fault> {
    match cursor.take("port") {
        Some(token) if !protocol.is_some_and(Protocol::has_ports) => Err(token.fault(ErrorKind::PortsWithoutProtocol)),
        Some(_) => Ok(Some(values::ports(cursor)?)),
        None => Ok(None),
    }
}

fn same_family(first: Option<Family>, place: &At<Place>) -> Result<(), Fault> {
    let Place::Network(network) = &place.value else { return Ok(()) };
    let second = Family::of(network.address().into());
    match first {
        Some(first) if first != second => Err(Fault { span: place.span, kind: ErrorKind::Families { first, second } }),
        _ => Ok(()),
    }
}

/// A type and a code, whose meaning depends on the addresses behind them.
struct TypeWords<'a> {
    kind: Token<'a>,
    code: Option<(Token<'a>, u8)>,
}

impl<'a> TypeWords<'a> {
    fn parse(cursor: &mut Cursor<'a>) -> Result<Self, Fault> {
        let kind = cursor.next(ICMP_TYPE)?;
        let code = match cursor.take("code") {
            Some(_) => {
                let token = cursor.next(ICMP_CODE)?;
                Some((token, values::number(token.text).ok_or_else(|| token.expected(ICMP_CODE))?))
            }
            None => None,
        };
        Ok(TypeWords { kind, code })
    }

    fn resolve(self, family: Option<Family>) -> Result<IcmpType, Fault> {
        let needs_family = |token: Token<'_>| token.fault(ErrorKind::IcmpNumberNeedsFamily);
        let mut found = match values::number::<u8>(self.kind.text) {
            Some(number) => IcmpType::numbered(number, family.ok_or_else(|| needs_family(self.kind))?),
            None => IcmpType::named(self.kind.text, family).ok_or_else(|| self.kind.expected(ICMP_TYPE))?,
        };
        if let (false, Some(family)) = (found.exists(), family) {
            return Err(self.kind.fault(ErrorKind::IcmpTypeNotOf { family }));
        }
        if let Some((token, code)) = self.code {
            family.ok_or_else(|| needs_family(token))?;
            found.code = Some(code);
        }
        Ok(found)
    }
}

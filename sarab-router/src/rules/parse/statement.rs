//! The lines of all statements except rules.

use alloc::vec::Vec;

use super::cursor::{At, Cursor, Fault, Token};
use super::{Draft, HostLine, MapLine, PublishLine, once, rule, values};
use crate::rules::config::{Masquerade, Target};
use crate::rules::rule::{Transport, Verdict};
use crate::rules::set::ClientSelector;

/// What reads the rest of a statement.
type Parse = fn(&mut Draft, Token<'_>, &mut Cursor<'_>) -> Result<(), Fault>;

/// The statements that are about the whole gate.
pub(super) const KINDS: [(&str, Parse); 8] = [
    ("clients", clients),
    ("search", search),
    ("host", host),
    ("masquerade", masquerade),
    ("publish", publish),
    ("map", map),
    ("limit", limit),
    ("log", log),
];

const END: &str = "the end of the line";
const MAC: &str = "a client's MAC such as 00:16:3e:01:02:03";
const CLIENT: &str = "a client: its address, its MAC, `domain NUMBER` or a host's name";
/// The first number that is no domain's (`DOMID_FIRST_RESERVED` in xen/include/public/xen.h).
const RESERVED_DOMAINS: u16 = 0x7ff0;

/// The statement whose name is one letter away from a word.
pub(super) fn similar(word: &str) -> Option<&'static str> {
    let names = KINDS.iter().map(|(name, _)| *name).chain(["accept", "drop", "reject", "policy", "client"]);
    names.into_iter().find(|name| is_similar(word, name))
}

/// Whether one letter more, less, another, or two that are exchanged make one word of the other.
pub(in crate::rules) fn is_similar(one: &str, other: &str) -> bool {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    let start = one.iter().zip(other).take_while(|(a, b)| a == b).count();
    let (one, other) = (&one[start..], &other[start..]);
    let end = one.iter().rev().zip(other.iter().rev()).take_while(|(a, b)| a == b).count();
    match (&one[..one.len() - end], &other[..other.len() - end]) {
        ([_], []) | ([], [_]) | ([_], [_]) => start + end > 1,
        ([a, b], [c, d]) => a == d && b == c,
        _ => false,
    }
}

fn clients(draft: &mut Draft, _: Token<'_>, cursor: &mut Cursor<'_>) -> Result<(), Fault> {
    let address = values::gate_address(cursor)?;
    cursor.finish(END)?;
    draft.clients.push(address);
    Ok(())
}

fn search(draft: &mut Draft, first: Token<'_>, cursor: &mut Cursor<'_>) -> Result<(), Fault> {
    let domain = values::domain(cursor)?;
    cursor.finish(END)?;
    once("search", &mut draft.search, first.at(domain.value))
}

fn host(draft: &mut Draft, _: Token<'_>, cursor: &mut Cursor<'_>) -> Result<(), Fault> {
    let token = cursor.next(MAC)?;
    let mac = token.at(values::mac(token.text).ok_or_else(|| token.expected(MAC))?);
    let name = values::new_host_name(cursor)?;
    let mut addresses = Vec::new();
    while cursor.peek().is_some() {
        addresses.push(values::address(cursor)?);
    }
    draft.hosts.push(HostLine { mac, name, addresses });
    Ok(())
}

fn masquerade(draft: &mut Draft, first: Token<'_>, cursor: &mut Cursor<'_>) -> Result<(), Fault> {
    const EXPECTED: &str = "`v4`, `v6`, `off` or the end of the line";
    let masquerade = match cursor.peek() {
        None => Masquerade { v4: true, v6: true },
        Some(token) => {
            cursor.take(token.text);
            match token.text {
                "off" => Masquerade { v4: false, v6: false },
                "v4" => Masquerade { v4: true, v6: false },
                "v6" => Masquerade { v4: false, v6: true },
                _ => return Err(token.expected(EXPECTED)),
            }
        }
    };
    cursor.finish(END)?;
    once("masquerade", &mut draft.masquerade, first.at(masquerade))
}

fn publish(draft: &mut Draft, _: Token<'_>, cursor: &mut Cursor<'_>) -> Result<(), Fault> {
    const TRANSPORT: &str = "`tcp` or `udp`";
    let token = cursor.next(TRANSPORT)?;
    let transport = match token.text {
        "tcp" => Transport::Tcp,
        "udp" => Transport::Udp,
        _ => return Err(token.expected(TRANSPORT)),
    };
    let ports = values::port_range(cursor)?;
    let on = match cursor.take("on") {
        Some(_) => Some(values::address(cursor)?),
        None => None,
    };
    cursor.words(&["to"], if on.is_some() { "`to`" } else { "`on` or `to`" })?;
    let to = target(cursor)?;
    let to_ports = match cursor.take("port") {
        Some(_) => Some(values::port_range(cursor)?),
        None => None,
    };
    cursor.finish(if to_ports.is_some() { END } else { "`port` or the end of the line" })?;
    draft.publish.push(PublishLine { transport, ports, on, to, to_ports });
    Ok(())
}

fn target(cursor: &mut Cursor<'_>) -> Result<At<Target>, Fault> {
    const TARGET: &str = "a client's address or a host's name";
    match cursor.peek() {
        Some(token) if token.text.contains(['.', ':']) => {
            let address = values::address(cursor)?;
            Ok(token.at(Target::Address(address.value)))
        }
        _ => {
            let token = cursor.next(TARGET)?;
            Ok(token.at(Target::Host(values::host_name(token, TARGET)?)))
        }
    }
}

fn map(draft: &mut Draft, _: Token<'_>, cursor: &mut Cursor<'_>) -> Result<(), Fault> {
    let outside = values::address(cursor)?;
    cursor.words(&["to"], "`to`")?;
    let inside = values::address(cursor)?;
    cursor.finish(END)?;
    draft.maps.push(MapLine { outside, inside });
    Ok(())
}

fn limit(draft: &mut Draft, first: Token<'_>, cursor: &mut Cursor<'_>) -> Result<(), Fault> {
    const WHAT: &str = "`flows`, `rate` or `icmp`";
    const COUNT: &str = "a number from 1 to 1000000";
    let what = cursor.next(WHAT)?;
    let (name, place, words, expected): (_, _, &[&str], _) = match what.text {
        "flows" => ("limit flows", &mut draft.flows, &["per", "client"], "`per client`"),
        "rate" => (
            "limit rate",
            &mut draft.rate,
            &["new", "flows", "per", "second", "per", "client"],
            "`new flows per second per client`",
        ),
        "icmp" => ("limit icmp", &mut draft.icmp, &["per", "second", "per", "client"], "`per second per client`"),
        _ => return Err(what.expected(WHAT)),
    };
    let token = cursor.next(COUNT)?;
    let count = values::number(token.text).filter(|count| (1..=1_000_000).contains(count));
    let count = count.ok_or_else(|| token.expected(COUNT))?;
    cursor.words(words, expected)?;
    cursor.finish(END)?;
    once(name, place, first.at(count))
}

fn log(draft: &mut Draft, first: Token<'_>, cursor: &mut Cursor<'_>) -> Result<(), Fault> {
    const WHAT: &str = "`drops` or `off`";
    let token = cursor.next(WHAT)?;
    let drops = match token.text {
        "drops" => true,
        "off" => false,
        _ => return Err(token.expected(WHAT)),
    };
    cursor.finish(END)?;
    once("log", &mut draft.log_drops, first.at(drops))
}

pub(super) fn policy(first: Token<'_>, cursor: &mut Cursor<'_>) -> Result<At<Verdict>, Fault> {
    const VERDICT: &str = "`accept`, `drop` or `reject`";
    let token = cursor.next(VERDICT)?;
    let verdict = rule::verdict(token.text).ok_or_else(|| token.expected(VERDICT))?;
    cursor.finish(END)?;
    Ok(first.at(verdict))
}

/// Whom a block is about.
pub(super) fn client(cursor: &mut Cursor<'_>) -> Result<At<ClientSelector>, Fault> {
    const DOMAIN: &str = "a domain's number from 0 to 32751";
    if cursor.take("domain").is_some() {
        let token = cursor.next(DOMAIN)?;
        let domain = values::number(token.text).filter(|domain| *domain < RESERVED_DOMAINS);
        return Ok(token.at(ClientSelector::Domain(domain.ok_or_else(|| token.expected(DOMAIN))?)));
    }
    match cursor.peek() {
        Some(token) if token.text.contains(['.', ':']) => match values::mac(token.text) {
            Some(mac) => {
                cursor.take(token.text);
                Ok(token.at(ClientSelector::Mac(mac)))
            }
            None => Ok(token.at(ClientSelector::Address(values::address(cursor)?.value))),
        },
        _ => {
            let token = cursor.next(CLIENT)?;
            Ok(token.at(ClientSelector::Host(values::host_name(token, CLIENT)?)))
        }
    }
}

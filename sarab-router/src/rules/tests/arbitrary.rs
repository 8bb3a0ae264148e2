//! Any text, and any configuration that has a canonical one.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use proptest::prelude::*;

use super::super::{Config, Diagnostic};

/// Statements of which each is right, most of them together. `%` stands for a number that is different in each line.
pub(super) const STATEMENTS: [&str; 12] = [
    "clients 10.0.1.1/24",
    "clients fd00:1::1/64",
    "search example.internal",
    "masquerade v6",
    "log drops",
    "policy drop",
    "limit flows % per client",
    "limit icmp % per second per client",
    "host 00:16:3e:01:02:03 web 10.0.1.9 fd00:1::9",
    "publish tcp % to 10.0.1.77 port 80",
    "publish udp % on 203.0.113.5 to web",
    "map 198.51.100.% to 10.0.1.%",
];

/// The words of the language, and what comes near to them.
const WORDS: &[&str] = &[
    "accept",
    "drop",
    "reject",
    "policy",
    "client",
    "clients",
    "host",
    "publish",
    "map",
    "limit",
    "log",
    "search",
    "masquerade",
    "tcp",
    "udp",
    "icmp",
    "icmp4",
    "icmp6",
    "protocol",
    "type",
    "code",
    "from",
    "to",
    "port",
    "on",
    "per",
    "second",
    "flows",
    "rate",
    "new",
    "drops",
    "off",
    "v4",
    "any",
    "inside",
    "outside",
    "gate",
    "web",
    "db",
    "domain",
    "echo-request",
    "redirect",
    "10.0.1.1/24",
    "10.0.1.9",
    "10.0.1.0/24",
    "fd00:1::1/64",
    "fd00:1::9",
    "::/0",
    "203.0.113.5",
    "example.org",
    "0",
    "7",
    "80",
    "443",
    "8000-8010",
    "9-8",
    "65536",
    "99999999999999999999",
    "00:16:3e:01:02:03",
    ",",
    "{",
    "}",
    "#",
    "é",
    "\t",
    "\r",
    "\0",
    "\u{2028}",
    "-",
    "/",
    ":",
    ".",
    "1.",
    "1/",
    ":::",
    "a..b",
];

fn any_text() -> impl Strategy<Value = String> {
    let word = prop_oneof![8 => prop::sample::select(WORDS).prop_map(String::from), 1 => "\\PC{0,6}"];
    let separator = prop::sample::select(&[" ", " ", " ", "\n", "\n", "", "\u{a0}", "\r\n"][..]);
    let soup = prop::collection::vec((word, separator), 0..80)
        .prop_map(|words| words.into_iter().flat_map(|(word, separator)| [word, separator.into()]).collect());
    prop_oneof![4 => soup, 1 => any::<String>()]
}

/// A place is one of the text, or right behind a line of it.
fn assert_inside<K>(text: &str, diagnostic: &Diagnostic<K>) {
    let span = diagnostic.span;
    let line = text.split('\n').nth(span.line - 1).unwrap_or_else(|| panic!("{span:?} is not in {text:?}"));
    let len = line.chars().count();
    let end = span.column - 1 + span.width;
    assert!(span.column >= 1 && span.width >= 1, "{span:?}");
    assert!(end <= len || (span.column - 1 <= len && span.width == 1), "{span:?} is not in {line:?}");
}

fn host() -> impl Strategy<Value = String> {
    let place = prop::sample::select(
        &["any", "inside", "outside", "web", "db", "example.org", "a.b", "10.0.1.0/24", "192.0.2.1", "0.0.0.0/0"][..],
    );
    place.prop_map(String::from)
}

fn ports() -> impl Strategy<Value = String> {
    let range = (1..=65535_u16, 0..5_u16, any::<bool>()).prop_map(|(first, more, is_range)| match is_range {
        true => format!("{first}-{}", first.saturating_add(more)),
        false => format!("{first}"),
    });
    prop::collection::vec(range, 1..5).prop_map(|ranges| format!(" port {}", ranges.join(", ")))
}

/// A rule's line.
pub(super) fn rule() -> impl Strategy<Value = String> {
    let action = prop::sample::select(&["accept", "drop", "reject"][..]);
    let with_ports = (
        prop::sample::select(&["tcp", "udp"][..]),
        prop::option::of((host(), prop::option::of(ports()))),
        prop::option::of(host()),
        prop::option::of(ports()),
    )
        .prop_map(|(protocol, from, to, ports)| {
            let mut text = String::from(protocol);
            if let Some((from, ports)) = from {
                text += &format!(" from {from}{}", ports.unwrap_or_default());
            }
            // Ports behind `from` would be the source's.
            text + &format!(" to {}{}", to.as_deref().unwrap_or("any"), ports.unwrap_or_default())
        });
    let without = (
        prop::sample::select(
            &[
                "",
                "icmp",
                "icmp4",
                "icmp type echo-request",
                "icmp4 type 3 code 1",
                "icmp4 type 200",
                "icmp type time-exceeded",
                "protocol 47",
                "icmp type packet-too-big",
                "icmp type 8 code 0",
            ][..],
        ),
        prop::option::of(host()),
        prop::option::of(host()),
    )
        .prop_map(|(protocol, from, to)| {
            let from = from.map(|from| format!(" from {from}")).unwrap_or_default();
            let to = match protocol.contains("type 8") {
                // The number needs a family.
                true => " to 192.0.2.0/24".into(),
                false => to.map(|to| format!(" to {to}")).unwrap_or_default(),
            };
            format!("{protocol}{from}{to}")
        });
    (action, prop_oneof![with_ports, without])
        // ICMPv6's type alone does not go with addresses of IPv4.
        .prop_filter("IPv4 has no packet-too-big", |(_, rest)| !(rest.contains("too-big") && rest.contains("0.")))
        .prop_map(|(action, rest)| format!("{action} {rest}"))
}

/// A right text.
pub(super) fn text() -> impl Strategy<Value = String> {
    let statements = prop::sample::subsequence(STATEMENTS.to_vec(), 0..=STATEMENTS.len()).prop_shuffle();
    let policy = prop::option::of(prop::sample::select(&["policy drop", "policy accept", "policy reject"][..]));
    let client = prop::sample::subsequence(["web", "10.0.1.5", "domain 5", "00:16:3e:00:00:05", "db"].to_vec(), 0..=4);
    let block = (prop::collection::vec(rule(), 0..4), policy);
    (statements, prop::collection::vec(rule(), 0..8), client, prop::collection::vec(block, 4)).prop_map(
        |(statements, rules, clients, blocks)| {
            let mut lines: Vec<String> = Vec::new();
            // What rules and hosts refer to.
            lines.push("host 00:16:3e:00:00:05 db".into());
            for (index, statement) in statements.iter().enumerate() {
                lines.push(statement.replace('%', &(100 + index).to_string()));
            }
            for needed in [STATEMENTS[0], STATEMENTS[1], STATEMENTS[8]] {
                if !statements.contains(&needed) {
                    lines.push(needed.into());
                }
            }
            for (client, (rules, policy)) in clients.iter().zip(blocks) {
                // These two are one client.
                if *client == "db" && clients.contains(&"00:16:3e:00:00:05") {
                    continue;
                }
                lines.push(format!("client {client} {{"));
                lines.extend(policy.map(String::from));
                // A client sends nothing to itself.
                lines.extend(rules.into_iter().filter(|rule| !rule.contains(&format!("from {client}"))));
                lines.push("}".into());
            }
            lines.extend(rules);
            lines.join("\n")
        },
    )
}

proptest! {
    #[test]
    fn any_text_is_read_or_its_errors_are_in_it(text in any_text()) {
        match Config::parse(&text) {
            Ok(config) => {
                config.warnings.iter().for_each(|warning| assert_inside(&text, warning));
                let canonical = config.to_string();
                prop_assert_eq!(super::parsed(&canonical), config, "{}", canonical);
            }
            Err(errors) => {
                prop_assert!(errors.iter().count() > 0);
                errors.iter().for_each(|error| assert_inside(&text, error));
                prop_assert!(errors.to_string().starts_with("gate.rules:"));
            }
        }
    }

    #[test]
    fn the_canonical_text_of_any_configuration_is_read_as_it(text in text()) {
        let config = super::parsed(&text);
        let canonical = config.to_string();
        let again = super::parsed(&canonical);
        prop_assert_eq!(&again, &config, "{}", canonical);
        prop_assert_eq!(again.to_string(), canonical);
        prop_assert_eq!(again.rules.names(), config.rules.names());
    }
}

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::IpAddr;

use proptest::prelude::*;

use super::{Action, Destination, Protocol, Rule, RuleError, Rules};

const V4: &str = "10.137.0.5";
const V6: &str = "fd09:24ef:4179::a89:5";

fn parse(address: &str, entries: &[(&str, &str)]) -> Result<Rules, RuleError> {
    Rules::parse(address.parse::<IpAddr>().unwrap(), entries.iter().copied())
}

/// The only rule of an address, which has a policy.
fn rule(address: &str, text: &str) -> Result<Rule, String> {
    let rules = parse(address, &[("policy", "drop"), ("0000", text)]).map_err(|error| error.to_string())?;
    rules.rules.into_iter().next().ok_or_else(|| "skipped".into())
}

#[test]
fn what_dom0_writes() {
    let rules = parse(
        V4,
        &[
            ("0010", "action=accept"),
            ("policy", "accept"),
            ("0000", "action=accept proto=tcp dst4=192.0.2.77/24 dstports=80-443"),
            ("0003", "action=drop dsthost=qubes-os.org proto=icmp icmptype=8"),
            ("0002", "action=accept specialtarget=dns"),
        ],
    )
    .unwrap();
    assert_eq!(rules.policy, Action::Accept);
    let numbers: Vec<u16> = rules.rules.iter().map(|rule| rule.number).collect();
    assert_eq!(numbers, [0, 2, 3, 10]);
    let [web, dns, ping, all] = &rules.rules[..] else { panic!("four rules") };
    assert_eq!((web.action, web.protocol, web.ports.clone()), (Action::Accept, Protocol::Tcp, Some(80..=443)));
    assert_eq!(web.destination, Destination::Network4("192.0.2.0".parse().unwrap(), 24));
    assert_eq!((dns.to_dns_servers, dns.protocol, dns.ports.clone()), (true, Protocol::TcpAndUdp, Some(53..=53)));
    assert_eq!((ping.action, ping.protocol, ping.icmp_type), (Action::Drop, Protocol::Icmp, Some(8)));
    assert_eq!(ping.destination, Destination::Host("qubes-os.org".into()));
    assert_eq!((all.protocol, &all.destination, all.to_dns_servers), (Protocol::Any, &Destination::Any, false));
}

#[test]
fn networks_of_both_families() {
    let to = |address, text| rule(address, text).unwrap().destination;
    assert_eq!(to(V4, "action=drop dst4=0.0.0.0/0"), Destination::Network4("0.0.0.0".parse().unwrap(), 0));
    assert_eq!(to(V4, "action=drop dst4=1.2.3.4"), Destination::Network4("1.2.3.4".parse().unwrap(), 32));
    assert_eq!(to(V6, "action=drop dst6=2001:db8::1/32"), Destination::Network6("2001:db8::".parse().unwrap(), 32));
    assert_eq!(to(V6, "action=drop dst6=::/0"), Destination::Network6("::".parse().unwrap(), 0));
    assert_eq!(to(V6, "dst6=::1 action=drop"), Destination::Network6("::1".parse().unwrap(), 128));
}

#[test]
fn ports_and_protocols() {
    let of = |text: &str| rule(V4, text).map(|rule| (rule.protocol, rule.ports));
    assert_eq!(of("action=accept dstports=22-22"), Ok((Protocol::TcpAndUdp, Some(22..=22))));
    assert_eq!(of("action=accept dstports=22 proto=udp"), Ok((Protocol::Udp, Some(22..=22))));
    assert_eq!(of("action=accept dstports=0-65535"), Ok((Protocol::TcpAndUdp, Some(0..=65535))));
    assert_eq!(of("action=accept icmptype=0"), Ok((Protocol::Icmp, None)));
    assert_eq!(of("action=accept proto=udp specialtarget=dns"), Ok((Protocol::Udp, Some(53..=53))));
    // Not to DNS at all: Linux leaves it out.
    assert_eq!(of("action=accept specialtarget=dns dstports=53-53"), Ok((Protocol::TcpAndUdp, Some(53..=53))));
    assert_eq!(of("action=accept specialtarget=dns dstports=53-54"), Err("skipped".into()));
    assert_eq!(of("action=accept specialtarget=dns dstports=80"), Err("skipped".into()));
}

/// Where Linux's agent gives up, or asks nftables for what cannot be, nothing may pass; and the reason names the rule.
#[test]
fn what_cannot_be_says_why() {
    for (text, expected) in [
        ("", "\"\" is not OPTION=VALUE"),
        ("action=accept ", "\"\" is not OPTION=VALUE"),
        ("action=accept  proto=tcp", "\"\" is not OPTION=VALUE"),
        ("action", "\"action\" is not OPTION=VALUE"),
        ("action=accept=drop", "\"action=accept=drop\" is not OPTION=VALUE"),
        ("proto=tcp", "no action; action=accept or action=drop is needed"),
        ("action=reject", "action=\"reject\": expected accept or drop"),
        ("action=accept action=accept", "more than one action"),
        ("action=accept expire=1700000000", "unknown option \"expire\""),
        ("action=accept comment=office", "unknown option \"comment\""),
        ("action=accept srcports=1-2", "unknown option \"srcports\""),
        ("action=accept \u{1b}[31m=1", "unknown option \"\\u{1b}[31m\""),
        ("action=accept proto=sctp", "proto=\"sctp\": expected tcp, udp or icmp"),
        ("action=accept dst6=::1", "dst6 in the rules of an address of the other family"),
        ("action=accept dst4=1.2.3", "dst4=\"1.2.3\": expected an IPv4 address, with or without /BITS"),
        ("action=accept dst4=1.2.3.4/33", "dst4=\"1.2.3.4/33\": expected an IPv4 address, with or without /BITS"),
        ("action=accept dst4=1.2.3.4/+8", "dst4=\"1.2.3.4/+8\": expected an IPv4 address, with or without /BITS"),
        ("action=accept dst4=1.2.3.4 dsthost=a.b", "more than one destination"),
        ("action=accept dsthost=", "dsthost=\"\": expected a host's name"),
        ("action=accept dsthost=a..b", "dsthost=\"a..b\": expected a host's name"),
        ("action=accept dsthost=a;b", "dsthost=\"a;b\": expected a host's name"),
        ("action=accept dstports=", "dstports=\"\": expected PORT or FIRST-LAST"),
        ("action=accept dstports=5-", "dstports=\"5-\": expected PORT or FIRST-LAST"),
        ("action=accept dstports=5-4", "dstports=\"5-4\": expected PORT or FIRST-LAST"),
        ("action=accept dstports=65536", "dstports=\"65536\": expected PORT or FIRST-LAST"),
        ("action=accept dstports=1-2-3", "dstports=\"1-2-3\": expected PORT or FIRST-LAST"),
        ("action=accept icmptype=256", "icmptype=\"256\": expected a number up to 255"),
        ("action=accept proto=tcp icmptype=8", "icmptype and proto other than icmp cannot be in one rule"),
        ("action=accept proto=icmp dstports=1", "proto=icmp and dstports cannot be in one rule"),
        ("action=accept icmptype=8 dstports=1", "icmptype and dstports cannot be in one rule"),
        ("action=accept proto=icmp specialtarget=dns", "proto=icmp and specialtarget=dns cannot be in one rule"),
        ("action=accept specialtarget=http", "specialtarget=\"http\": expected dns"),
    ] {
        assert_eq!(rule(V4, text), Err(format!("rule 0000: {expected}")), "{text}");
    }
    assert_eq!(
        rule(V6, "action=drop dst4=1.2.3.4").unwrap_err(),
        "rule 0000: dst4 in the rules of an address of the other family"
    );
}

#[test]
fn entries_that_are_no_rules() {
    let error = |entries: &[(&str, &str)]| parse(V4, entries).unwrap_err().to_string();
    assert_eq!(error(&[]), "policy: missing; accept or drop is needed");
    assert_eq!(error(&[("0000", "action=accept")]), "policy: missing; accept or drop is needed");
    assert_eq!(error(&[("policy", "ask")]), "policy: policy=\"ask\": expected accept or drop");
    for key in ["", "1", "00001", "+001", "abcd", "0000/x", "००००"] {
        let expected = format!("rule {}: its name is not four digits", xenstore_client::printable(key));
        assert_eq!(error(&[("policy", "drop"), (key, "action=accept")]), expected);
    }
    let twice = [("policy", "drop"), ("0001", "action=accept"), ("0001", "action=drop")];
    assert_eq!(error(&twice), "rule 0001: there is another of this number");
    assert_eq!(error(&[("policy", "drop"), ("policy", "drop")]), "policy: there is another of this number");
    let not_text = [("policy", &b"drop"[..]), ("0000", &b"action=\xff"[..])];
    let error = Rules::parse(V4.parse().unwrap(), not_text).unwrap_err();
    assert_eq!(error.to_string(), "rule 0000: not UTF-8");
}

/// Writes a rule as dom0 does.
fn written(rule: &Rule) -> String {
    let mut text = String::from(match rule.action {
        Action::Accept => "action=accept",
        Action::Drop => "action=drop",
    });
    match rule.protocol {
        Protocol::Tcp => text += " proto=tcp",
        Protocol::Udp => text += " proto=udp",
        Protocol::Icmp => text += " proto=icmp",
        Protocol::Any | Protocol::TcpAndUdp => {}
    }
    match &rule.destination {
        Destination::Any => {}
        Destination::Network4(address, bits) => text += &format!(" dst4={address}/{bits}"),
        Destination::Network6(address, bits) => text += &format!(" dst6={address}/{bits}"),
        Destination::Host(name) => text += &format!(" dsthost={name}"),
    }
    if let Some(ports) = &rule.ports {
        text += &format!(" dstports={}-{}", ports.start(), ports.end());
    }
    if let Some(icmp_type) = rule.icmp_type {
        text += &format!(" icmptype={icmp_type}");
    }
    if rule.to_dns_servers {
        text += " specialtarget=dns";
    }
    text
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let destination = prop_oneof![
        Just(Destination::Any),
        (any::<u32>(), 0..=32_u8).prop_map(|(address, bits)| {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            Destination::Network4((address & mask).into(), bits)
        }),
        "[a-z]{1,20}\\.[a-z]{2,5}".prop_map(Destination::Host),
    ];
    let protocol = prop_oneof![
        Just((Protocol::Any, None, None)),
        (any::<u16>(), any::<u16>()).prop_map(|(one, other)| (
            Protocol::TcpAndUdp,
            Some(one.min(other)..=one.max(other)),
            None
        )),
        any::<u16>().prop_map(|port| (Protocol::Tcp, Some(port..=port), None)),
        Just((Protocol::Udp, None, None)),
        any::<u8>().prop_map(|icmp| (Protocol::Icmp, None, Some(icmp))),
    ];
    (0..10_000_u16, any::<bool>(), destination, protocol).prop_map(|(number, accept, destination, protocol)| Rule {
        number,
        action: if accept { Action::Accept } else { Action::Drop },
        destination,
        protocol: protocol.0,
        ports: protocol.1,
        icmp_type: protocol.2,
        to_dns_servers: false,
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read(rules in prop::collection::btree_map(0..10_000_u16, any_rule(), 0..20)) {
        let rules: Vec<Rule> = rules.into_iter().map(|(number, rule)| Rule { number, ..rule }).collect();
        let mut entries: Vec<_> = rules.iter().map(|rule| (format!("{:04}", rule.number), written(rule))).collect();
        entries.push(("policy".into(), "drop".into()));
        entries.reverse();
        let read = Rules::parse(V4.parse().unwrap(), entries).unwrap();
        prop_assert_eq!(read, Rules { rules, policy: Action::Drop });
    }

    #[test]
    fn any_text_is_read_or_refused(text in "[a-z0-9=. -]{0,40}|.{0,40}", key in "[0-9]{4}|.{0,6}") {
        let entries = [("policy", "accept"), (&key, &text)];
        for address in [V4, V6] {
            if let Err(error) = Rules::parse(address.parse().unwrap(), entries) {
                prop_assert!(!error.to_string().contains(|character: char| character.is_control()));
            }
        }
    }
}

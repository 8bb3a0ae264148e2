//! The text of a gate's rules, and packets that are judged by it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use sarab_router::rules::{ClientIdentity, Config, Counters, Diagnostic, Family, MAX_TEXT, NameTable, Query, Zone};

use crate::input::Input;

pub(super) const SHORT: u32 = 8000;

/// What of the input is packets.
const PACKETS: usize = 16;

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let texts = [
        "clients 10.0.1.1/24\nclients fd00:1::1/64\nsearch a.b\nhost 00:16:3e:01:02:03 web 10.0.1.9 fd00:1::9\nmasquerade v4\n\
         publish tcp 8080 to web port 80\npublish udp 50-51 on 203.0.113.5 to 10.0.1.3\nmap 203.0.113.9 to 10.0.1.9\n",
        "limit flows 1000 per client\nlimit rate 200 new flows per second per client\nlimit icmp 5 per second per client\n\
         log drops\npolicy drop\naccept tcp from 10.0.1.0/24 to any port 80,443\naccept tcp to example.org port 443\n",
        "drop icmp type echo-request\naccept icmp4 type 3 code 4 to gate\nreject protocol 47 from outside to inside\n\
         client 10.0.1.5 {\n  policy drop\n  accept tcp to 192.0.2.0/24 port 1-1024\n}\nclient domain 7 {\n  drop\n}\n",
        "drop tcp\naccept tcp to any port htt\nclient web {\nclient {\n}\n}\nfoo",
    ];
    texts.map(|text| [&[3; PACKETS], text.as_bytes()].concat()).to_vec()
}

pub(super) fn run(data: &[u8]) {
    let (packets, text) = data.split_at(data.len().min(PACKETS));
    let text = String::from_utf8_lossy(text);
    let config = match Config::parse(&text) {
        Ok(config) => config,
        Err(errors) => {
            assert!(errors.iter().count() > 0);
            errors.iter().for_each(|error| inside(&text, error));
            assert!(errors.to_string().starts_with("gate.rules:"));
            return;
        }
    };
    config.warnings.iter().for_each(|warning| inside(&text, warning));
    let canonical = config.to_string();
    if canonical.len() > MAX_TEXT {
        return;
    }
    let again = Config::parse(&canonical).unwrap_or_else(|errors| panic!("{canonical}\n{errors}"));
    assert_eq!(again, config, "{canonical}");

    let mut names = NameTable::default();
    names.reload(config.rules.names(), Duration::ZERO);
    let mut asked = Vec::new();
    while let Some(question) = names.due(Duration::ZERO) {
        asked.push((question.name.to_owned(), question.family));
    }
    assert_eq!(asked.len(), 2 * config.rules.names().len());
    let mut input = Input(packets);
    let mut counters = Counters::default();
    counters.reload(&config.rules);
    while !input.0.is_empty() {
        judge(&config, &again, &mut input, &mut names, &asked, &mut counters);
    }
}

/// A packet has one verdict, whichever of the two texts is asked.
fn judge(
    config: &Config,
    again: &Config,
    input: &mut Input<'_>,
    names: &mut NameTable,
    asked: &[(String, Family)],
    counters: &mut Counters,
) {
    let kind = input.byte();
    let zone = |bits: u8| [Zone::Inside, Zone::Outside, Zone::Gate, Zone::Inside][usize::from(bits & 3)];
    let mut address = || match kind & 0x40 {
        0 => IpAddr::V4(Ipv4Addr::new(10, 0, 1, input.byte())),
        _ => IpAddr::V6(Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, input.byte().into())),
    };
    let (source, destination) = (address(), address());
    let client = ClientIdentity { addresses: &[source], mac: [0, 0x16, 0x3e, 1, 2, 3], domain: Some(7) };
    let port = (kind & 0x80 == 0).then_some(u16::from(input.byte()));
    if let Some((name, family)) = asked.first() {
        names.resolved(name, *family, &[destination], Duration::from_secs(60), Duration::ZERO);
    }
    let query = Query {
        from: zone(kind),
        to: zone(kind >> 2),
        sender: (zone(kind) == Zone::Inside).then_some(&client),
        receiver: None,
        protocol: [1, 6, 17, 58][usize::from(kind >> 4 & 3)],
        source,
        destination,
        source_port: port,
        destination_port: port,
        icmp: port.map(|port| (port as u8, 0)),
    };
    let outcome = config.rules.evaluate(&query, &*names);
    assert_eq!(outcome, again.rules.evaluate(&query, &*names), "{query:?}");
    if let Some(rule) = outcome.rule {
        assert_eq!(config.rules.get(rule).map(|rule| rule.action), outcome.verdict);
        let before = counters.get(rule).flows;
        counters.add_flow(rule, 60);
        counters.reload(&again.rules);
        assert_eq!(counters.get(rule).flows, before + 1);
    }
}

/// What is reported is a place of the text, or right behind one of its lines.
fn inside<K: std::fmt::Debug>(text: &str, diagnostic: &Diagnostic<K>) {
    let span = diagnostic.span;
    let line = text.split('\n').nth(span.line - 1).unwrap_or_else(|| panic!("{diagnostic:?}"));
    let len = line.chars().count();
    assert!(span.column > 0 && span.width > 0 && span.column <= len + 1, "{diagnostic:?}");
    assert!(span.column + span.width <= len + 1 || span.width == 1, "{diagnostic:?}");
}

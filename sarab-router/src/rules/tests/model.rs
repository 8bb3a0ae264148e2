//! A slow evaluation, written from the description of the language, and the fast one: they agree about any packet.

use alloc::string::ToString;
use alloc::vec::Vec;
use core::net::IpAddr;

use proptest::prelude::*;

use super::super::{
    ClientIdentity, Config, Family, IcmpType, NameId, Names, Place, Protocol, Query, Rule, Verdict, Zone,
};
use super::arbitrary::text;
use super::{ip, parsed};

/// All names, with the same addresses.
struct Same(Vec<IpAddr>);

impl Names for Same {
    fn lookup(&self, _: NameId) -> &[IpAddr] {
        &self.0
    }
}

struct Model<'a> {
    config: &'a Config,
    query: &'a Query<'a>,
    names: &'a Same,
}

impl Model<'_> {
    fn evaluate(&self) -> Option<Verdict> {
        let sent = self.query.sender.and_then(|client| self.of_client(client, true));
        let received = self.query.receiver.and_then(|client| self.of_client(client, false));
        let spoken: Vec<Verdict> = [sent, received].into_iter().flatten().collect();
        if let Some(verdict) = spoken.iter().find(|verdict| **verdict != Verdict::Accept).or(spoken.first()) {
            return Some(*verdict);
        }
        let rules = &self.config.rules;
        let for_all = rules.iter().filter(|(id, _)| rules.client_of(*id).is_none());
        let found = for_all.map(|(_, rule)| rule).find(|rule| self.matches(rule));
        found.map(|rule| rule.action).or(self.is_sent_out().then_some(rules.policy()))
    }

    fn is_sent_out(&self) -> bool {
        self.query.from == Zone::Inside && self.query.to != Zone::Gate
    }

    fn of_client(&self, client: &ClientIdentity<'_>, is_sender: bool) -> Option<Verdict> {
        // The text's blocks, from the text.
        let canonical = self.config.rules.to_string();
        let mut policy = None;
        for block in canonical.split("client ").skip(1) {
            let (selector, _) = block.split_once(" {").expect("a block");
            if !self.is_client(selector, client) {
                continue;
            }
            let lines = block.lines().skip(1).take_while(|line| *line != "}").map(str::trim);
            for line in lines {
                if let Some(word) = line.strip_prefix("policy ") {
                    policy = policy.or(Some(word.to_string()));
                    continue;
                }
                let same = |rule: &&Rule| rule.to_string() == line;
                let (_, rule) = self.config.rules.iter().find(|(_, rule)| same(rule)).expect("a rule of the text");
                if rule.from.is_none() == is_sender && self.matches(rule) {
                    return Some(rule.action);
                }
            }
        }
        let policy = policy.filter(|_| is_sender && self.is_sent_out())?;
        [Verdict::Accept, Verdict::Drop, Verdict::Reject].into_iter().find(|verdict| verdict.to_string() == policy)
    }

    fn is_client(&self, selector: &str, client: &ClientIdentity<'_>) -> bool {
        let mac = client.mac.map(|byte| alloc::format!("{byte:02x}")).join(":");
        selector == mac
            || client.addresses.iter().any(|address| address.to_string() == selector)
            || client.domain.is_some_and(|domain| alloc::format!("domain {domain}") == selector)
            || self.config.host(selector).is_some_and(|host| host.mac == client.mac)
    }

    fn matches(&self, rule: &Rule) -> bool {
        let query = self.query;
        let family = Family::of(query.source);
        let is_v4 = family == Family::V4;
        let protocol = match rule.protocol {
            None => true,
            Some(Protocol::Tcp) => query.protocol == 6,
            Some(Protocol::Udp) => query.protocol == 17,
            Some(Protocol::Icmp) => query.protocol == if is_v4 { 1 } else { 58 },
            Some(Protocol::Icmp4) => is_v4 && query.protocol == 1,
            Some(Protocol::Icmp6) => !is_v4 && query.protocol == 58,
            Some(Protocol::Other(number)) => query.protocol == number,
        };
        let icmp = match (rule.icmp, query.icmp) {
            (None, _) => true,
            (Some(IcmpType { v4, v6, code }), Some((kind, own))) => {
                (if is_v4 { v4 } else { v6 }) == Some(kind) && (code.is_none() || code == Some(own))
            }
            (Some(_), None) => false,
        };
        let from = rule.from.clone().unwrap_or(Place::Inside);
        let port = |ports: &super::super::Ports, port: Option<u16>| match (ports.ranges(), port) {
            ([], _) => true,
            (_, None) => false,
            (ranges, Some(port)) => ranges.iter().any(|range| range.first <= port && port <= range.last),
        };
        protocol
            && icmp
            && port(&rule.from_ports, query.source_port)
            && port(&rule.to_ports, query.destination_port)
            && self.is_at(&from, query.from, query.source, query.sender)
            && self.is_at(&rule.to, query.to, query.destination, query.receiver)
    }

    fn is_at(&self, place: &Place, zone: Zone, address: IpAddr, client: Option<&ClientIdentity<'_>>) -> bool {
        match place {
            Place::Gate => zone == Zone::Gate,
            _ if zone == Zone::Gate => false,
            Place::Any => true,
            Place::Inside => zone == Zone::Inside,
            Place::Outside => zone == Zone::Outside,
            Place::Network(network) => {
                let is_of_clients = self.config.clients.iter().any(|clients| clients.contains_addr(&network.address()));
                let is_narrow = self.config.clients.iter().any(|clients| clients.prefix_len() <= network.prefix_len());
                let (own, other) = (bits(network.address().into()), bits(address));
                let is_in = own.len() == other.len()
                    && own[..network.prefix_len().into()] == other[..network.prefix_len().into()];
                is_in && (zone == Zone::Inside || !(is_of_clients && is_narrow))
            }
            Place::Host(name) => {
                let host = self.config.host(name).expect("a host of the text");
                zone == Zone::Inside
                    && (host.addresses.contains(&address) || client.is_some_and(|client| client.mac == host.mac))
            }
            Place::Name(_) => zone == Zone::Outside && self.names.0.contains(&address),
        }
    }
}

fn bits(address: IpAddr) -> Vec<bool> {
    let octets: Vec<u8> = match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    octets.iter().flat_map(|octet| (0..8).rev().map(move |bit| octet >> bit & 1 == 1)).collect()
}

const V4: [&str; 5] = ["10.0.1.5", "10.0.1.9", "192.0.2.1", "192.0.2.7", "10.0.1.1"];
const V6: [&str; 4] = ["fd00:1::5", "fd00:1::9", "2001:db8::1", "fd00:1::1"];

prop_compose! {
    /// A packet without its clients.
    fn packet()(
        from in prop::sample::select(&[Zone::Inside, Zone::Inside, Zone::Outside, Zone::Gate][..]),
        to in prop::sample::select(&[Zone::Inside, Zone::Outside, Zone::Outside, Zone::Gate][..]),
        protocol in prop::sample::select(&[1_u8, 6, 17, 47, 58][..]),
        is_v4 in prop::bool::weighted(0.7),
        source in 0..20_usize,
        destination in 0..20_usize,
        ports in prop::option::weighted(0.9, (1..=65535_u16, prop_oneof![1..=65535_u16, Just(80), Just(443)])),
        icmp in (prop::sample::select(&[0_u8, 2, 3, 8, 11, 128, 129, 200][..]), 0..3_u8),
    ) -> Query<'static> {
        let address = |index: usize| if is_v4 { ip(V4[index % V4.len()]) } else { ip(V6[index % V6.len()]) };
        let ports = ports.filter(|_| protocol == 6 || protocol == 17);
        Query {
            from,
            to,
            sender: None,
            receiver: None,
            protocol,
            source: address(source),
            destination: address(destination),
            source_port: ports.map(|(source, _)| source),
            destination_port: ports.map(|(_, destination)| destination),
            icmp: (protocol == 1 || protocol == 58).then_some(icmp),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn the_model_agrees(
        text in text(),
        packets in prop::collection::vec((packet(), any::<bool>(), any::<bool>()), 1..20),
        known in prop::sample::subsequence(["192.0.2.1", "10.0.1.9", "2001:db8::1"].to_vec(), 0..=3),
    ) {
        let config = parsed(&text);
        let names = Same(known.into_iter().map(ip).collect());
        for (packet, is_five, is_web) in packets {
            let sender = ClientIdentity {
                addresses: &[packet.source],
                mac: if is_web { [0, 0x16, 0x3e, 1, 2, 3] } else { [0, 0x16, 0x3e, 0, 0, 5] },
                domain: is_five.then_some(5),
            };
            let receiver = ClientIdentity {
                addresses: &[packet.destination],
                mac: if is_web { [0, 0x16, 0x3e, 0, 0, 5] } else { [0, 0x16, 0x3e, 0, 0, 6] },
                domain: Some(6),
            };
            let query = Query {
                sender: (packet.from == Zone::Inside).then_some(&sender),
                receiver: (packet.to == Zone::Inside).then_some(&receiver),
                ..packet
            };
            let outcome = config.rules.evaluate(&query, &names);
            let model = Model { config: &config, query: &query, names: &names };
            prop_assert_eq!(outcome.verdict, model.evaluate(), "{:?}", query);
            if let Some(rule) = outcome.rule {
                prop_assert_eq!(config.rules.get(rule).map(|rule| rule.action), outcome.verdict);
            }
        }
    }
}

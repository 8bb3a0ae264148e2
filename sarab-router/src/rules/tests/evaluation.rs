//! Rules and packets, and what follows.

use alloc::vec::Vec;

use core::net::IpAddr;

use super::super::{ClientIdentity, NameId, Names, Outcome, Query, RuleId, Verdict, Zone};
use super::{ip, parsed};
use Verdict::{Accept, Drop, Reject};
use Zone::{Gate, Inside, Outside};

/// What each text begins with: two hosts, of which the second one has no fixed address.
const BEFORE: &str = "clients 10.0.1.1/24\nclients fd00:1::1/64\n\
                      host 00:16:3e:00:00:09 web 10.0.1.9 fd00:1::9\nhost 00:16:3e:00:00:08 db\n";
const TCP: u8 = 6;
const UDP: u8 = 17;

/// A packet: zones, protocol, addresses, destination port. ICMP has type and code in place of ports.
type Packet = (Zone, Zone, u8, &'static str, &'static str, u16);

const OUT: Packet = (Inside, Outside, TCP, "10.0.1.5", "192.0.2.1", 80);
const OUT6: Packet = (Inside, Outside, TCP, "fd00:1::5", "2001:db8::1", 80);
const IN: Packet = (Outside, Inside, TCP, "192.0.2.1", "10.0.1.9", 22);
const ACROSS: Packet = (Inside, Inside, TCP, "10.0.1.5", "10.0.1.9", 80);
const DNS: Packet = (Inside, Gate, UDP, "10.0.1.5", "10.0.1.1", 53);
const OWN: Packet = (Gate, Outside, UDP, "203.0.113.5", "192.0.2.1", 53);
const PING: Packet = (Inside, Outside, 1, "10.0.1.5", "192.0.2.1", 0x0800);
const PING6: Packet = (Inside, Outside, 58, "fd00:1::5", "2001:db8::1", 0x8000);
const PONG: Packet = (Inside, Outside, 1, "10.0.1.5", "192.0.2.1", 0);
const PING_GATE: Packet = (Inside, Gate, 1, "10.0.1.5", "10.0.1.1", 0x0800);

fn to(packet: Packet, destination: &'static str) -> Packet {
    let (from, to, protocol, source, _, port) = packet;
    (from, to, protocol, source, destination, port)
}

fn source(packet: Packet, source: &'static str) -> Packet {
    let (from, to, protocol, _, destination, port) = packet;
    (from, to, protocol, source, destination, port)
}

fn port(packet: Packet, port: u16) -> Packet {
    let (from, to, protocol, source, destination, _) = packet;
    (from, to, protocol, source, destination, port)
}

fn protocol(packet: Packet, protocol: u8) -> Packet {
    let (from, to, _, source, destination, port) = packet;
    (from, to, protocol, source, destination, port)
}

/// Names whose first one is known.
struct Known(Vec<IpAddr>);

impl Names for Known {
    fn lookup(&self, name: NameId) -> &[IpAddr] {
        if name == NameId(0) { &self.0 } else { &[] }
    }
}

/// The client that an address is of: its last byte is also that of its MAC, and the number of its domain.
fn with_client<T>(address: IpAddr, zone: Zone, run: impl FnOnce(Option<&ClientIdentity<'_>>) -> T) -> T {
    let last = match address {
        IpAddr::V4(address) => address.octets()[3],
        IpAddr::V6(address) => address.octets()[15],
    };
    let identity =
        ClientIdentity { addresses: &[address], mac: [0, 0x16, 0x3e, 0, 0, last], domain: Some(last.into()) };
    run((zone == Inside).then_some(&identity))
}

fn evaluate(text: &str, (from, to, protocol, source, destination, port): Packet) -> Outcome {
    let rules = parsed(&alloc::format!("{BEFORE}{text}")).rules;
    let names = Known(Vec::from([ip("192.0.2.1"), ip("2001:db8::1"), ip("10.0.1.9")]));
    let (source, destination) = (ip(source), ip(destination));
    let is_icmp = protocol == 1 || protocol == 58;
    let has_ports = protocol == TCP || protocol == UDP;
    with_client(source, from, |sender| {
        with_client(destination, to, |receiver| {
            let query = Query {
                from,
                to,
                sender,
                receiver,
                protocol,
                source,
                destination,
                source_port: has_ports.then_some(5000),
                destination_port: (has_ports && port != 0).then_some(port),
                icmp: is_icmp.then_some(((port >> 8) as u8, port as u8)),
            };
            rules.evaluate(&query, &names)
        })
    })
}

#[test]
fn table() {
    let table: &[(&str, Packet, Option<Verdict>)] = &[
        // Policies.
        ("", OUT, Some(Accept)),
        ("policy drop", OUT, Some(Drop)),
        ("policy reject", OUT6, Some(Reject)),
        ("policy drop", ACROSS, Some(Drop)),
        ("policy drop", DNS, None),
        ("policy drop", IN, None),
        ("policy accept", IN, None),
        // The first one wins.
        ("drop tcp\naccept", OUT, Some(Drop)),
        ("accept\ndrop tcp", OUT, Some(Accept)),
        // Protocols.
        ("drop tcp", protocol(OUT, UDP), Some(Accept)),
        ("drop udp", protocol(OUT, UDP), Some(Drop)),
        ("drop protocol 47", protocol(OUT, 47), Some(Drop)),
        ("drop protocol 47", protocol(OUT, 50), Some(Accept)),
        ("drop protocol 6", OUT, Some(Drop)),
        // Ports.
        ("drop tcp to any port 80,443", OUT, Some(Drop)),
        ("drop tcp to any port 80,443", port(OUT, 443), Some(Drop)),
        ("drop tcp to any port 80,443", port(OUT, 81), Some(Accept)),
        ("drop tcp to any port 1-1024", port(OUT, 1), Some(Drop)),
        ("drop tcp to any port 1-1024", port(OUT, 1024), Some(Drop)),
        ("drop tcp to any port 1-1024", port(OUT, 1025), Some(Accept)),
        ("drop tcp to any port 1-65535", port(OUT, 0), Some(Accept)),
        ("drop tcp", port(OUT, 0), Some(Drop)),
        ("drop tcp port 80", OUT, Some(Drop)),
        ("drop tcp from any port 5000", OUT, Some(Drop)),
        ("drop tcp from any port 80", OUT, Some(Accept)),
        ("drop tcp from any port 5000 to any port 80", OUT, Some(Drop)),
        ("drop tcp from any port 5000 to any port 81", OUT, Some(Accept)),
        // Networks and addresses.
        ("drop to 192.0.2.0/24", OUT, Some(Drop)),
        ("drop to 192.0.2.2/31", OUT, Some(Accept)),
        ("drop to 192.0.2.1", OUT, Some(Drop)),
        ("drop to 192.0.2.2", OUT, Some(Accept)),
        ("drop to 0.0.0.0/0", OUT, Some(Drop)),
        ("drop to 0.0.0.0/0", OUT6, Some(Accept)),
        ("drop to ::/0", OUT6, Some(Drop)),
        ("drop to ::/0", OUT, Some(Accept)),
        ("drop to 2001:db8::/127", OUT6, Some(Drop)),
        ("drop to 2001:db8::2/127", OUT6, Some(Accept)),
        ("drop from 10.0.1.0/24", OUT, Some(Drop)),
        ("drop from 10.0.1.4", OUT, Some(Accept)),
        // A client's address from an uplink is none.
        ("accept from 10.0.1.0/24", source(IN, "10.0.1.5"), None),
        ("accept from 192.0.2.0/24", IN, Some(Accept)),
        ("accept from 10.0.0.0/8", source(IN, "10.9.9.9"), Some(Accept)),
        // Zones.
        ("drop", IN, None),
        ("drop from outside", IN, Some(Drop)),
        ("drop from any", IN, Some(Drop)),
        ("drop from outside", OUT, Some(Accept)),
        ("drop from inside to inside", ACROSS, Some(Drop)),
        ("drop from inside to inside", OUT, Some(Accept)),
        ("drop to outside", ACROSS, Some(Accept)),
        // The gate is meant by its name alone.
        ("reject udp to any port 53", DNS, None),
        ("drop to 10.0.0.0/8", DNS, None),
        ("drop udp to gate port 53", DNS, Some(Drop)),
        ("drop udp to gate port 53", protocol(DNS, TCP), None),
        ("drop from any", OWN, None),
        ("drop from gate", OWN, Some(Drop)),
        // ICMP.
        ("drop icmp", PING, Some(Drop)),
        ("drop icmp", PING6, Some(Drop)),
        ("drop icmp", OUT, Some(Accept)),
        ("drop icmp4", PING6, Some(Accept)),
        ("drop icmp6", PING6, Some(Drop)),
        ("drop icmp6", PING, Some(Accept)),
        ("drop icmp", protocol(PING, 58), Some(Accept)),
        ("drop icmp type echo-request", PING, Some(Drop)),
        ("drop icmp type echo-request", PING6, Some(Drop)),
        ("drop icmp type echo-request", PONG, Some(Accept)),
        ("drop icmp type echo-reply", PONG, Some(Drop)),
        ("drop icmp4 type 8", PING, Some(Drop)),
        ("drop icmp type 8 to 192.0.2.0/24", PING, Some(Drop)),
        ("drop icmp4 type 8 code 1", PING, Some(Accept)),
        ("drop icmp4 type 8 code 0", PING, Some(Drop)),
        ("drop icmp type packet-too-big", PING, Some(Accept)),
        ("drop icmp type packet-too-big", port(PING6, 0x0200), Some(Drop)),
        ("accept icmp type echo-request to gate", PING_GATE, Some(Accept)),
        ("drop icmp", PING_GATE, None),
        // Hosts: by their addresses and by their MACs.
        ("accept tcp from outside to web port 22", IN, Some(Accept)),
        ("accept tcp from outside to web port 23", IN, None),
        ("accept tcp from outside to web", to(IN, "10.0.1.5"), None),
        ("accept from outside to db", to(IN, "10.0.1.8"), Some(Accept)),
        ("accept from outside to db", to(IN, "10.0.1.7"), None),
        ("drop from db", source(OUT, "10.0.1.8"), Some(Drop)),
        ("drop from web", source(OUT6, "fd00:1::9"), Some(Drop)),
        // Names: those that are known, and only outside.
        ("drop to a.example", OUT, Some(Drop)),
        ("drop to a.example", OUT6, Some(Drop)),
        ("drop to a.example", to(OUT, "192.0.2.2"), Some(Accept)),
        ("drop to a.example", ACROSS, Some(Accept)),
        ("drop to b.example\ndrop from a.example", OUT, Some(Accept)),
        ("accept from a.example to inside", IN, Some(Accept)),
    ];
    for (text, packet, verdict) in table {
        assert_eq!(evaluate(text, *packet).verdict, *verdict, "{text}: {packet:?}");
    }
}

#[test]
fn blocks() {
    let table: &[(&str, Packet, Option<Verdict>)] = &[
        // Before the rules for all, whichever way the client is named.
        ("accept\nclient 10.0.1.5 {\ndrop\n}", OUT, Some(Drop)),
        ("accept\nclient 00:16:3e:00:00:05 {\ndrop\n}", OUT, Some(Drop)),
        ("accept\nclient domain 5 {\ndrop\n}", OUT, Some(Drop)),
        ("accept\nclient web {\ndrop\n}", source(OUT, "10.0.1.9"), Some(Drop)),
        ("accept\nclient db {\ndrop\n}", source(OUT, "10.0.1.8"), Some(Drop)),
        ("accept\nclient web {\ndrop\n}", OUT, Some(Accept)),
        // A block's policy, or the rules for all after it.
        ("drop\nclient domain 5 {\naccept udp\n}", OUT, Some(Drop)),
        ("accept\nclient domain 5 {\npolicy reject\naccept udp\n}", OUT, Some(Reject)),
        ("client domain 5 {\npolicy drop\n}", DNS, None),
        ("client domain 5 {\ndrop udp to gate\n}", DNS, Some(Drop)),
        // Two blocks of one client, in their order.
        ("client domain 5 {\npolicy drop\n}\nclient 10.0.1.5 {\naccept tcp\n}", OUT, Some(Accept)),
        ("client 10.0.1.5 {\naccept tcp\n}\nclient domain 5 {\ndrop\n}", OUT, Some(Accept)),
        ("client 10.0.1.5 {\npolicy reject\n}\nclient domain 5 {\npolicy accept\n}", OUT, Some(Reject)),
        // What is sent to the client.
        ("client web {\ndrop\n}", IN, None),
        ("client web {\npolicy drop\n}", IN, None),
        ("client web {\naccept tcp from outside port 5000\n}", IN, Some(Accept)),
        ("client web {\naccept tcp from outside to any port 22\n}", IN, Some(Accept)),
        ("client web {\naccept tcp from outside to any port 23\n}", IN, None),
        ("client db {\naccept tcp from outside\n}", IN, None),
        // Both clients have to agree.
        ("client domain 5 {\naccept\n}\nclient web {\ndrop from inside\n}", ACROSS, Some(Drop)),
        ("client domain 5 {\nreject\n}\nclient web {\naccept from inside\n}", ACROSS, Some(Reject)),
        ("client domain 5 {\naccept\n}\nclient web {\naccept from inside\n}\ndrop", ACROSS, Some(Accept)),
        ("client web {\naccept from inside\n}\ndrop", ACROSS, Some(Accept)),
        ("client web {\naccept from outside\n}\ndrop", ACROSS, Some(Drop)),
    ];
    for (text, packet, verdict) in table {
        assert_eq!(evaluate(text, *packet).verdict, *verdict, "{text}: {packet:?}");
    }
}

#[test]
fn the_rule_is_named() {
    let text = "policy drop\naccept udp\naccept tcp\nclient domain 9 {\nreject\n}";
    // A block's rules come first.
    assert_eq!(evaluate(text, OUT), Outcome { verdict: Some(Accept), rule: Some(RuleId(2)) });
    assert_eq!(evaluate(text, source(OUT, "10.0.1.9")), Outcome { verdict: Some(Reject), rule: Some(RuleId(0)) });
    assert_eq!(evaluate(text, PING), Outcome { verdict: Some(Drop), rule: None });
    assert_eq!(evaluate(text, IN), Outcome { verdict: None, rule: None });
}

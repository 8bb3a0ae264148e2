//! The firewall's rules of a qube, as dom0 writes them.

use std::net::IpAddr;

use qubes::firewall::{Destination, Protocol, Rules};

pub(super) const SHORT: u32 = 40000;

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let texts = [
        "4policy:drop\n0000:action=accept proto=tcp dst4=192.0.2.0/24 dstports=80-443\n0002:action=accept specialtarget=dns",
        "4policy:accept\n0001:action=drop dsthost=example.org proto=icmp icmptype=8\n0009:action=accept dstports=53",
        "6policy:drop\n0000:action=accept dst6=2001:db8::1/64 proto=udp\n0001:action=drop specialtarget=dns dstports=80",
        "6policy:\n0000:expire=1 comment=x y=z=1",
    ];
    texts.map(|text| text.as_bytes().to_vec()).to_vec()
}

pub(super) fn run(data: &[u8]) {
    let (family, entries) = data.split_at(data.len().min(1));
    let is_ipv6 = family == b"6";
    let address: IpAddr = if is_ipv6 { "fd09::5" } else { "10.137.0.5" }.parse().expect("an address");
    let entries: Vec<(String, &[u8])> = entries
        .split(|byte| *byte == b'\n')
        .map(|line| {
            let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
            let (key, value) = line.split_at(colon);
            (String::from_utf8_lossy(key).into_owned(), value.get(1..).unwrap_or_default())
        })
        .collect();
    let rules = match Rules::parse(address, entries.clone()) {
        Ok(rules) => rules,
        Err(error) => {
            assert!(!error.to_string().contains(char::is_control), "{error}");
            return;
        }
    };
    assert!(entries.iter().any(|(key, _)| key == "policy") && rules.rules.len() < entries.len());
    assert!(rules.rules.is_sorted_by(|one, other| one.number < other.number));
    for rule in &rules.rules {
        let has_ports = matches!(rule.protocol, Protocol::Tcp | Protocol::Udp | Protocol::TcpAndUdp);
        assert!(rule.ports.as_ref().is_none_or(|ports| has_ports && !ports.is_empty()));
        assert!(rule.icmp_type.is_none() || rule.protocol == Protocol::Icmp);
        assert!(!rule.to_dns_servers || rule.ports == Some(53..=53));
        match &rule.destination {
            Destination::Network4(_, bits) => assert!(!is_ipv6 && *bits <= 32),
            Destination::Network6(_, bits) => assert!(is_ipv6 && *bits <= 128),
            Destination::Host(name) => assert!(!name.is_empty() && name.len() <= 254),
            Destination::Any => {}
        }
    }
    // The order in which entries come is of no matter.
    assert_eq!(Rules::parse(address, entries.into_iter().rev()), Ok(rules));
}

//! What statements mean, and their canonical text.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::super::{Config, Limits, Masquerade, PortRange, Target, Transport, Verdict};
use super::{ip, parsed};

/// All that there is.
const TEXT: &str = "\
# where clients get addresses: the gate's own address in each network
clients 10.0.1.1/24
clients fd00:1::1/64
search Example.internal            # optional
host 00:16:3E:01:02:03 Web 10.0.1.9 fd00:1::9
host 00:16:3e:01:02:04 db
masquerade v4
publish tcp 8080 to web port 80
publish udp 5000-5010 to 10.0.1.3
publish tcp 443 on 203.0.113.5 to 10.0.1.4
map 203.0.113.9 to 10.0.1.9
limit flows 1000 per client
limit rate 200 new flows per second per client
limit icmp 50 per second per client
log drops
policy drop

accept tcp from 10.0.1.0/24 to any port 443, 80,81
accept tcp to Example.ORG port 443
reject udp port 55,53
drop icmp type echo-request
drop icmp4 type 3 code 4
drop icmp type 129 to fd00::1
accept icmp type echo-request to gate
accept tcp from outside to WEB port 22
accept udp from any port 53,123 to inside
accept protocol 47 to 192.0.2.1/32
drop protocol 6
client 10.0.1.5 {
  policy drop
  accept tcp to 192.0.2.0/24 port 1-1024
}
client domain 7 {
}
client 00:16:3e:01:02:09 {
  drop
}
client web {
  reject tcp from outside port 53 to any port 22
}
";

const CANONICAL: &str = "\
clients 10.0.1.1/24
clients fd00:1::1/64
search example.internal
host 00:16:3e:01:02:03 web 10.0.1.9 fd00:1::9
host 00:16:3e:01:02:04 db
masquerade v4
publish tcp 443 on 203.0.113.5 to 10.0.1.4
publish tcp 8080 to web port 80
publish udp 5000-5010 to 10.0.1.3
map 203.0.113.9 to 10.0.1.9
limit flows 1000 per client
limit rate 200 new flows per second per client
limit icmp 50 per second per client
log drops
policy drop
accept tcp from 10.0.1.0/24 to any port 80-81,443
accept tcp to example.org port 443
reject udp to any port 53,55
drop icmp type echo-request
drop icmp4 type destination-unreachable code 4
drop icmp type echo-reply to fd00::1
accept icmp type echo-request to gate
accept tcp from outside to web port 22
accept udp from any port 53,123 to inside
accept protocol 47 to 192.0.2.1
drop tcp
client 10.0.1.5 {
  policy drop
  accept tcp to 192.0.2.0/24 port 1-1024
}
client domain 7 {
}
client 00:16:3e:01:02:09 {
  drop
}
client web {
  reject tcp from outside port 53 to any port 22
}
";

#[test]
fn the_canonical_text_is_read_as_the_same() {
    let config = parsed(TEXT);
    assert_eq!(config.to_string(), CANONICAL);
    assert_eq!(parsed(CANONICAL), config);
    assert_eq!(parsed(&TEXT.replace('\n', "\r\n")), config, "lines as Windows ends them");
    assert_eq!(parsed(&Config::default().to_string()), Config::default());
    assert_eq!(parsed(""), Config::default());
}

#[test]
fn every_line_counts() {
    let config = parsed(CANONICAL);
    let lines: Vec<&str> = CANONICAL.lines().collect();
    for left_out in 0..lines.len() {
        let text: String =
            lines.iter().enumerate().filter(|(i, _)| *i != left_out).flat_map(|(_, line)| [*line, "\n"]).collect();
        assert!(Config::parse(&text).is_err() || parsed(&text) != config, "without {:?}", lines[left_out]);
    }
}

#[test]
fn values() {
    let config = parsed(TEXT);
    assert_eq!(config.clients.len(), 2);
    assert_eq!(config.search.as_deref(), Some("example.internal"));
    let web = config.host("web").unwrap();
    assert_eq!(web.mac, [0, 0x16, 0x3e, 1, 2, 3]);
    assert_eq!((web.v4(), web.v6()), (Some([10, 0, 1, 9].into()), Some("fd00:1::9".parse().unwrap())));
    assert_eq!(config.host("db").unwrap().v4(), None);
    assert_eq!(config.masquerade, Masquerade { v4: true, v6: false });
    assert_eq!(config.limits, Limits { flows: Some(1000), new_flows: Some(200), icmp: Some(50) });
    assert!(config.log_drops);
    assert_eq!(config.rules.policy(), Verdict::Drop);
    assert_eq!(config.maps[0].outside, ip("203.0.113.9"));
    assert_eq!(config.rules.names().iter().map(|name| &**name).collect::<Vec<_>>(), ["example.org"]);
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
}

#[test]
fn published_ports() {
    let config = parsed(TEXT);
    let [on_one, to_web, range] = &config.publish[..] else { panic!("{:?}", config.publish) };
    assert_eq!((on_one.on, on_one.v4, on_one.v6), (Some(ip("203.0.113.5")), Some([10, 0, 1, 4].into()), None));
    assert_eq!((to_web.transport, to_web.to.clone()), (Transport::Tcp, Target::Host("web".into())));
    assert_eq!(
        (to_web.v4, to_web.v6),
        (Some([10, 0, 1, 9].into()), Some("fd00:1::9".parse().unwrap())),
        "both families"
    );
    assert_eq!((to_web.port(8080), to_web.port(8081), to_web.port(80)), (Some(80), None, None));
    assert_eq!(range.ports, PortRange { first: 5000, last: 5010 });
    assert_eq!((range.port(5003), range.port(5010), range.port(5011)), (Some(5003), Some(5010), None));
    // The family of the address decides.
    let text = "clients 10.0.1.1/24\nclients fd00:1::1/64\nhost 00:16:3e:01:02:03 web 10.0.1.9 fd00:1::9\n\
                publish tcp 65530-65535 on 2001:db8::1 to web port 1-6";
    let publish = parsed(text).publish.remove(0);
    assert_eq!((publish.v4, publish.v6), (None, Some("fd00:1::9".parse().unwrap())));
    assert_eq!(publish.port(65535), Some(6));
}

#[test]
fn rules_know_their_lines_and_clients() {
    let rules = parsed("drop tcp\nclient domain 7 {\n  accept udp\n}\n").rules;
    let shown: Vec<_> = rules
        .iter()
        .map(|(id, rule)| (rules.line(id), rules.client_of(id).map(|client| client.to_string()), rule.to_string()))
        .collect();
    assert_eq!(
        shown,
        [(Some(3), Some("domain 7".into()), "accept udp".into()), (Some(1), None, "drop tcp".to_string())],
        "in the order in which they are tried"
    );
}

#[test]
fn warnings() {
    for (text, line) in [
        ("drop tcp\naccept tcp to any port 80", Some(1)),
        ("drop tcp to any port 1-1024\naccept tcp to any port 80,443", Some(1)),
        ("drop tcp to any port 1-1024\naccept tcp to any port 80,4430", None),
        ("drop tcp to any port 80\naccept tcp", None),
        ("drop tcp to 10.0.0.0/8\naccept tcp to 10.2.0.0/16 port 1", Some(1)),
        ("drop tcp to 10.2.0.0/16\naccept tcp to 10.0.0.0/8", None),
        ("drop\naccept icmp", Some(1)),
        ("drop\naccept to gate", None),
        ("drop\naccept from outside", None),
        ("drop from any\naccept from outside", Some(1)),
        ("drop icmp\naccept icmp6 type echo-reply", Some(1)),
        ("drop icmp4\naccept icmp", None),
        ("drop icmp type echo-request\naccept icmp4 type echo-request", Some(1)),
        ("drop icmp4 type 3 code 4\naccept icmp4 type 3", None),
        ("drop to outside\naccept to example.org", Some(1)),
        ("drop to example.org\naccept to example.net", None),
        ("drop tcp from any port 53\naccept tcp from any port 54", None),
        ("drop\nclient domain 7 {\naccept\n}", None),
        ("client domain 7 {\ndrop\naccept tcp\n}", Some(2)),
        ("client domain 7 {\ndrop\naccept from inside\n}", None),
    ] {
        let found: Vec<_> = parsed(text).warnings.iter().map(|warning| warning.kind.to_string()).collect();
        let wanted = line.map(|line| {
            alloc::format!("this rule is never reached, as line {line} matches all of it: move it up, or remove it")
        });
        assert_eq!(found, Vec::from_iter(wanted), "{text}");
    }
    let outside = parsed("clients 10.0.1.1/24\npublish tcp 80 to 10.0.2.9");
    assert_eq!(
        outside.warnings[0].to_string(),
        "gate.rules:2:19: warning: 10.0.2.9 is in no network of clients: nothing may answer there\n    \
         publish tcp 80 to 10.0.2.9\n                      ^^^^^^^^"
    );
}

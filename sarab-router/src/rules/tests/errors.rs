//! What a text with errors is answered.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::super::{Config, Errors, MAX_RULES, MAX_TEXT};

/// A text around the line that is wrong, which is line 4.
const BEFORE: &str = "clients 10.0.1.1/24\nclients fd00:1::1/64\nhost 00:16:3e:01:02:03 web 10.0.1.9\n";

/// Lines, the columns of their errors, and what is said about them.
const TABLE: &[(&str, usize, &str)] = &[
    ("accept tcp to any port htt", 24, "expected a port or a range such as 80 or 8000-8010, found `htt`"),
    ("accept tcp to any port", 23, "expected a port or a range such as 80 or 8000-8010, found the end of the line"),
    ("accept tcp to any port 0", 24, "expected a port or a range such as 80 or 8000-8010, found `0`"),
    ("accept tcp to any port 80,", 27, "expected a port or a range such as 80 or 8000-8010, found the end of the line"),
    ("accept tcp to any port 90-80", 24, "this range ends before it begins: write 80-90"),
    ("accept tcp to any port 80 to web", 27, "expected `,` or the end of the line, found `to`"),
    (
        "accept udpp to any",
        8,
        "expected a protocol (tcp, udp, icmp, icmp4, icmp6, protocol NUMBER), `from`, `to`, `port` or the end of the line, found `udpp`",
    ),
    ("accept tcp web", 12, "expected `from`, `to`, `port` or the end of the line, found `web`"),
    ("accept protocol 256", 17, "expected a protocol's number from 0 to 255, found `256`"),
    ("acept tcp to any", 1, "no statement begins with `acept`: did you mean `accept`?"),
    (
        "allow tcp to any",
        1,
        "expected a rule (accept, drop, reject), or clients, search, host, masquerade, publish, map, limit, log, policy or client, found `allow`",
    ),
    ("accept tcp to wbe", 15, "there is no host `wbe`: did you mean `web`?"),
    (
        "accept tcp to example",
        15,
        "there is no host `example`: add `host MAC example ADDRESS`, or write a DNS name with its dots, such as example.example.org",
    ),
    ("accept tcp to ex_ample.org", 15, "expected a DNS name such as example.org, found `ex_ample.org`"),
    ("accept tcp to 10.0.1.300", 15, "expected an address such as 10.0.1.9 or fd00:1::9, found `10.0.1.300`"),
    ("accept tcp to 10.0.1.9/24", 15, "the network is 10.0.1.0/24: write that, or 10.0.1.9 for the one address"),
    ("accept tcp to fd00::5/64", 15, "the network is fd00::/64: write that, or fd00::5 for the one address"),
    ("accept tcp to 10.0.1.0/33", 15, "the prefix length has to be from 0 to 32 here"),
    (
        "accept tcp to 10.0.1.1",
        15,
        "10.0.1.1 is the gate's own address: in rules write `gate`, elsewhere use a client's address",
    ),
    (
        "accept tcp from 10.0.1.0/24 to fd00::/64",
        32,
        "IPv6 does not go with the IPv4 earlier in this line: use one family in a line",
    ),
    ("drop icmp4 to fd00::1", 15, "IPv6 does not go with the IPv4 earlier in this line: use one family in a line"),
    ("drop to any port 53", 13, "only tcp and udp have ports: write one of them behind the rule's first word"),
    ("drop tcp type echo-request", 10, "only ICMP has types: write icmp, icmp4 or icmp6 behind the rule's first word"),
    (
        "drop icmp type 8",
        16,
        "this number has two meanings, in IPv4 and in IPv6: write icmp4 or icmp6, or a type's name alone",
    ),
    (
        "drop icmp type destination-unreachable code 4",
        45,
        "this number has two meanings, in IPv4 and in IPv6: write icmp4 or icmp6, or a type's name alone",
    ),
    ("drop icmp4 type packet-too-big", 17, "IPv4 has no such ICMP type: choose another, or the other family"),
    (
        "drop icmp type ping",
        16,
        "expected an ICMP type such as echo-request, or its number from 0 to 255, found `ping`",
    ),
    (
        "clients 10.0.1.1",
        9,
        "expected the gate's address with its prefix length, such as 10.0.1.1/24 or fd00:1::1/64, found `10.0.1.1`",
    ),
    (
        "clients 10.0.2.0/24",
        9,
        "10.0.2.0 is the network's own or its broadcast address: use another one, such as 10.0.2.1",
    ),
    (
        "clients 10.0.2.255/24",
        9,
        "10.0.2.255 is the network's own or its broadcast address: use another one, such as 10.0.2.1",
    ),
    (
        "clients fd00:2::/64",
        9,
        "fd00:2:: is the network's own or its broadcast address: use another one, such as fd00:2::1",
    ),
    ("clients 10.0.2.1/31", 9, "the prefix length has to be from 8 to 30 here"),
    ("clients 10.0.1.200/25", 9, "this network overlaps with 10.0.1.0/24 of line 1: each needs addresses of its own"),
    ("clients 127.0.0.1/8", 9, "127.0.0.1 is no address of a single host: use a unicast address"),
    ("search ..", 8, "expected a domain such as example.internal, found `..`"),
    ("host 00:16:3e:1:2:3 a 10.0.1.7", 6, "expected a client's MAC such as 00:16:3e:01:02:03, found `00:16:3e:1:2:3`"),
    (
        "host 01:16:3e:01:02:04 a 10.0.1.7",
        6,
        "expected a client's MAC such as 00:16:3e:01:02:03, found `01:16:3e:01:02:04`",
    ),
    ("host 00:16:3e:01:02:03 a 10.0.1.7", 6, "line 3 has a host with this MAC already: join the two lines"),
    ("host 00:16:3e:01:02:04 WEB 10.0.1.7", 24, "line 3 has a host `web` already: choose another name"),
    (
        "host 00:16:3e:01:02:04 gate 10.0.1.7",
        24,
        "expected a host's name of letters, digits and hyphens, with a letter first, such as web, found `gate`",
    ),
    ("host 00:16:3e:01:02:04 a 10.0.1.9", 26, "10.0.1.9 is taken by line 3: choose another address"),
    ("host 00:16:3e:01:02:04 a 10.0.1.1", 26, "10.0.1.1 is taken by line 1: choose another address"),
    ("host 00:16:3e:01:02:04 a fd00:1::7 fd00:1::7", 36, "fd00:1::7 is taken by line 4: choose another address"),
    (
        "host 00:16:3e:01:02:04 a 10.0.2.7",
        26,
        "10.0.2.7 is in no network of clients: change it, or add a `clients` line for its network",
    ),
    (
        "host 00:16:3e:01:02:04 a 10.0.1.255",
        26,
        "10.0.1.255 is the network's own or its broadcast address: use another one, such as 10.0.1.2",
    ),
    ("masquerade v5", 12, "expected `v4`, `v6`, `off` or the end of the line, found `v5`"),
    ("publish icmp 1 to web", 9, "expected `tcp` or `udp`, found `icmp`"),
    ("publish tcp 80 web", 16, "expected `on` or `to`, found `web`"),
    (
        "publish tcp 80 on 203.0.113.5 to fd00:1::9",
        34,
        "IPv6 does not go with the IPv4 earlier in this line: use one family in a line",
    ),
    ("publish tcp 80 on 2001:db8::5 to web", 34, "the host `web` has no IPv6 address: add one to its `host` line"),
    ("publish tcp 80 to wev", 19, "there is no host `wev`: did you mean `web`?"),
    (
        "publish tcp 80 to 10.0.1.1",
        19,
        "10.0.1.1 is the gate's own address: in rules write `gate`, elsewhere use a client's address",
    ),
    ("publish udp 5000-5010 to 10.0.1.3 port 6000-6009", 40, "11 ports cannot go to 10: use ranges of the same length"),
    (
        "map 203.0.113.9 to fd00:1::9",
        20,
        "IPv6 does not go with the IPv4 earlier in this line: use one family in a line",
    ),
    ("map 224.0.0.1 to 10.0.1.9", 5, "224.0.0.1 is no address of a single host: use a unicast address"),
    ("limit flows 0 per client", 13, "expected a number from 1 to 1000000, found `0`"),
    ("limit flows 10 per second", 20, "expected `per client`, found `second`"),
    ("limit rate 10 per second", 15, "expected `new flows per second per client`, found `per`"),
    ("limit icmp 10", 14, "expected `per second per client`, found the end of the line"),
    ("limit bytes 10", 7, "expected `flows`, `rate` or `icmp`, found `bytes`"),
    ("log all", 5, "expected `drops` or `off`, found `all`"),
    ("policy deny", 8, "expected `accept`, `drop` or `reject`, found `deny`"),
    ("}", 1, "no block is open: remove the `}`"),
    ("client web {", 1, "this block has no end: add a `}` in a line of its own"),
    (
        "client",
        7,
        "expected a client: its address, its MAC, `domain NUMBER` or a host's name, found the end of the line",
    ),
];

fn errors(text: &str) -> Errors {
    match Config::parse(text) {
        Ok(config) => panic!("{text:?} is read as {config}"),
        Err(errors) => errors,
    }
}

fn messages(text: &str) -> Vec<String> {
    errors(text).iter().map(|error| format!("{}: {}", error.span.line, error.kind)).collect()
}

#[test]
fn lines_with_one_error() {
    for (line, column, message) in TABLE {
        let found = errors(&format!("{BEFORE}{line}"));
        let error = &found.errors[0];
        assert_eq!(found.errors.len(), 1, "{found}");
        assert_eq!(
            (error.span.line, error.span.column, error.kind.to_string().as_str()),
            (4, *column, *message),
            "{line}"
        );
    }
}

#[test]
fn messages_look_like_a_compilers() {
    assert_eq!(
        errors("policy drop\n\n\t accept tcp \t to any port htt # a comment").to_string(),
        "gate.rules:3:28: expected a port or a range such as 80 or 8000-8010, found `htt`\n    \
         accept tcp   to any port htt # a comment\n                             ^^^"
    );
    assert_eq!(
        errors("accept tcp to\r\npublish").named("/etc/gate").to_string(),
        "/etc/gate:1:14: expected `any`, `inside`, `outside`, `gate`, an address, a network, a host's name or a DNS name, \
         found the end of the line\n    accept tcp to\n                 ^\n\
         /etc/gate:2:8: expected `tcp` or `udp`, found the end of the line\n    publish\n           ^"
    );
}

#[test]
fn long_lines_and_words_are_cut() {
    let text = format!("drop {} {} x", "tcp", "é".repeat(30_000));
    let message = errors(&text).to_string();
    assert!(message.len() < 800, "{} bytes", message.len());
    assert!(message.starts_with("gate.rules:1:10: expected"), "{message}");
    // The mark ends where the excerpt does.
    let [.., excerpt, marks] = message.lines().collect::<Vec<_>>()[..] else { panic!("{message}") };
    assert!(marks.chars().count() <= excerpt.chars().count() + 1, "{message}");
}

#[test]
fn control_characters_do_not_reach_a_terminal() {
    let message = errors("drop \x1b[31m\x07").to_string();
    assert!(message.chars().all(|character| character == '\n' || !character.is_control()), "{message:?}");
}

#[test]
fn several_errors_at_once_in_the_order_of_their_lines() {
    let text = "accept tcp to web\nfoo\nclients 10.0.1.0/24\npolicy drop\npolicy accept\n";
    assert_eq!(
        messages(text).iter().map(|message| &message[..2]).collect::<Vec<_>>(),
        ["1:", "2:", "3:", "5:"],
        "{:?}",
        messages(text)
    );
    let many = errors(&"foo\n".repeat(25));
    assert_eq!(many.iter().count(), Errors::MAX);
    assert!(many.to_string().ends_with("\ngate.rules: 15 more errors"), "{many}");
}

#[test]
fn what_is_said_once() {
    for (text, statement) in [
        ("policy drop\npolicy drop", "policy"),
        ("search a.b\nsearch a.b", "search"),
        ("masquerade\nmasquerade v4", "masquerade"),
        ("log off\nlog drops", "log"),
        ("limit flows 1 per client\nlimit flows 2 per client", "limit flows"),
    ] {
        assert_eq!(messages(text), [format!("2: `{statement}` is said in line 1 already: remove one of them")]);
    }
    // Different limits, and policies of different scopes.
    assert!(Config::parse("limit flows 1 per client\nlimit icmp 2 per second per client").is_ok());
    assert!(Config::parse("policy drop\nclient domain 7 {\npolicy accept\n}").is_ok());
}

#[test]
fn what_is_published_or_mapped_twice() {
    let text = |second: &str| format!("clients 10.0.1.1/24\nclients fd00:1::1/64\n{second}");
    let again = "publish tcp 80-90 to 10.0.1.3\npublish tcp 90 to 10.0.1.4";
    assert_eq!(
        messages(&text(again)),
        ["4: line 3 publishes tcp 80-90 already: remove one of them, or use other ports"]
    );
    for fine in [
        "publish tcp 80 to 10.0.1.3\npublish udp 80 to 10.0.1.4",
        "publish tcp 80 to 10.0.1.3\npublish tcp 81 to 10.0.1.3",
        "publish tcp 80 to 10.0.1.3\npublish tcp 80 to fd00:1::3",
        "publish tcp 80 to 10.0.1.3\npublish tcp 80 on 203.0.113.5 to 10.0.1.4",
        "map 203.0.113.5 to 10.0.1.3\npublish tcp 80 on 203.0.113.6 to 10.0.1.4",
    ] {
        assert!(Config::parse(&text(fine)).is_ok(), "{fine}");
    }
    let mapped = "map 203.0.113.5 to 10.0.1.3\npublish tcp 80 on 203.0.113.5 to 10.0.1.4";
    assert_eq!(
        messages(&text(mapped)),
        ["3: line 4 publishes ports of 203.0.113.5, and a map takes all of them: remove one of the two lines"]
    );
    let twice = "map 203.0.113.5 to 10.0.1.3\nmap 203.0.113.5 to 10.0.1.4\nmap 203.0.113.6 to 10.0.1.3";
    assert_eq!(
        messages(&text(twice)),
        [
            "4: line 3 maps 203.0.113.5 already: remove one of them",
            "5: line 3 maps 10.0.1.3 already: remove one of them"
        ]
    );
}

#[test]
fn blocks() {
    let host = "clients 10.0.1.1/24\nhost 00:16:3e:01:02:03 web 10.0.1.9\n";
    for (text, messages_of_it) in [
        (
            "client web {\n}\nclient 00:16:3e:01:02:03 {\n}",
            "5: this client has a block in line 3 already: put its rules there",
        ),
        ("client web {\nmasquerade\n}", "4: `masquerade` is about the whole gate: move it out of the client's block"),
        (
            "client web {\nclient domain 3 {\n}",
            "4: the block of line 3 is still open: end it with a `}` in a line of its own",
        ),
        (
            "client web {\naccept from web\n}",
            "4: in a client's block, `from` is about what others send to the client: leave it out for what the client sends",
        ),
        (
            "client web {\naccept from outside to gate\n}",
            "4: in a client's block, a rule with `from` is about what others send to the client: move rules about the gate out",
        ),
        ("client wbe {\n}", "3: there is no host `wbe`: did you mean `web`?"),
        ("client domain 32752 {\n}", "3: expected a domain's number from 0 to 32751, found `32752`"),
        ("client web { policy drop\n}", "3: expected the end of the line after `{`, found `policy`"),
        ("client web\n}", "3: expected `{` at the end of the line, found the end of the line"),
        (
            "client 10.0.1.1 {\n}",
            "3: 10.0.1.1 is the gate's own address: in rules write `gate`, elsewhere use a client's address",
        ),
    ] {
        assert_eq!(messages(&format!("{host}{text}")), [messages_of_it], "{text}");
    }
}

#[test]
fn bounds() {
    let long = " ".repeat(MAX_TEXT + 1);
    assert_eq!(messages(&long), ["1: the text has 65537 bytes, and 65536 are the limit: shorten it"]);
    assert!(Config::parse(&long[1..]).is_ok());
    assert!(Config::parse(&"drop\n".repeat(MAX_RULES)).is_ok());
    assert_eq!(
        messages(&"drop\n".repeat(MAX_RULES + 1)),
        ["4097: more than 4096 rules: use prefixes and ranges to have fewer"]
    );
    let names = |count: usize| (0..count).map(|i| format!("drop to n{i}.example.org\n")).collect::<String>();
    assert_eq!(Config::parse(&names(256)).unwrap().rules.names().len(), 256);
    assert_eq!(messages(&names(257)), ["257: more than 256 names to resolve: use prefixes instead"]);
}

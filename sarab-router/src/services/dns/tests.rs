use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::IpAddr;
use core::str::FromStr;
use core::time::Duration;

use domain::base::iana::{Class, Opcode, Rcode};
use domain::base::name::ToName;
use domain::base::{Message, MessageBuilder, Name, ParsedName, Rtype, Serial, StaticCompressor, Ttl};
use domain::rdata::{A, AllRecordData, Cname, Soa, Txt};
use proptest::prelude::*;

use super::message::{Parsed, Query};
use super::*;

type DnsName = Name<Vec<u8>>;

const CLIENT: IpAddr = IpAddr::V4(core::net::Ipv4Addr::new(10, 137, 0, 7));
const OTHER: IpAddr = IpAddr::V4(core::net::Ipv4Addr::new(10, 137, 0, 8));

fn name(text: &str) -> DnsName {
    Name::from_str(text).unwrap()
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// What is asked besides the name and the type.
#[derive(Clone, Copy, Default)]
struct With {
    payload: Option<u16>,
    dnssec_ok: bool,
    checking_disabled: bool,
}

fn ask(id: u16, host: &str, rtype: Rtype, with: With) -> Vec<u8> {
    let mut builder = MessageBuilder::new_vec();
    builder.header_mut().set_id(id);
    builder.header_mut().set_rd(true);
    builder.header_mut().set_cd(with.checking_disabled);
    let mut builder = builder.question();
    builder.push((name(host), rtype, Class::IN)).unwrap();
    let mut builder = builder.additional();
    if with.payload.is_some() || with.dnssec_ok {
        builder
            .opt(|opt| {
                opt.set_udp_payload_size(with.payload.unwrap_or(1232));
                opt.set_dnssec_ok(with.dnssec_ok);
                Ok(())
            })
            .unwrap();
    }
    builder.finish()
}

fn key(host: &str, rtype: Rtype) -> Rc<Key> {
    let Parsed::Query(query) = Query::parse(&ask(0, host, rtype, With::default())) else { panic!("{host}") };
    Rc::new(query.key)
}

/// A server's answer to a question with these addresses, each for so many seconds.
fn addresses(query: &[u8], list: &[([u8; 4], u32)]) -> Vec<u8> {
    let query = Message::from_octets(query).unwrap();
    let builder = MessageBuilder::from_target(StaticCompressor::new(Vec::new())).unwrap();
    let mut builder = builder.start_answer(&query, Rcode::NOERROR).unwrap();
    let owner = query.sole_question().unwrap().into_qname().to_vec();
    for (address, ttl) in list {
        builder.push((&owner, Class::IN, Ttl::from_secs(*ttl), A::new((*address).into()))).unwrap();
    }
    let mut builder = builder.additional();
    builder
        .opt(|opt| {
            opt.set_udp_payload_size(4096);
            Ok(())
        })
        .unwrap();
    builder.finish().into_target()
}

/// There is nothing, by the zone's record.
fn nothing(query: &[u8], rcode: Rcode, ttl: u32, minimum: u32, alias: Option<u32>) -> Vec<u8> {
    let query = Message::from_octets(query).unwrap();
    let mut builder = MessageBuilder::new_vec().start_answer(&query, rcode).unwrap();
    let owner = query.sole_question().unwrap().into_qname().to_vec();
    if let Some(ttl) = alias {
        builder.push((&owner, Class::IN, Ttl::from_secs(ttl), Cname::new(name("other.example")))).unwrap();
    }
    let mut builder = builder.authority();
    let times = Ttl::from_secs(7);
    let soa =
        Soa::new(name("ns.example"), name("root.example"), Serial(1), times, times, times, Ttl::from_secs(minimum));
    builder.push((name("example"), Class::IN, Ttl::from_secs(ttl), soa)).unwrap();
    builder.finish()
}

/// What a message says: id, response code, flags, and its records as text.
#[derive(Debug)]
struct Said {
    id: u16,
    rcode: Rcode,
    truncated: bool,
    authoritative: bool,
    question: String,
    records: Vec<String>,
    opt: Option<(u16, bool)>,
}

fn said(message: &[u8]) -> Said {
    let message = Message::from_octets(message).unwrap();
    let header = message.header();
    assert!(header.qr() && header.ra() && !header.ad());
    let opt = message.opt().map(|opt| (opt.udp_payload_size(), opt.dnssec_ok()));
    let records = message.iter().map(|record| record.unwrap().0).filter(|record| record.rtype() != Rtype::OPT);
    let records = records.map(|record| {
        let record = record.into_any_record::<AllRecordData<_, ParsedName<_>>>().unwrap();
        alloc::format!("{} {} {} {}", record.owner(), record.ttl().as_secs(), record.rtype(), record.data())
    });
    let question = message.first_question().map(|question| question.to_string()).unwrap_or_default();
    Said {
        id: header.id(),
        rcode: header.rcode(),
        truncated: header.tc(),
        authoritative: header.aa(),
        question,
        records: records.collect(),
        opt,
    }
}

fn desk() -> Desk<u32> {
    let mut names = Names::default();
    names.set_domain(Some("Lan.example")).unwrap();
    names.insert("Mail", &[CLIENT, "fd00::7".parse().unwrap()]).unwrap();
    Desk::new(Config::default(), names, (1, 2))
}

impl Desk<u32> {
    fn reply(&mut self, message: &[u8], now: u64) -> Said {
        match self.ask(message, CLIENT, Transport::Udp, 0, secs(now)) {
            Asked::Reply(reply) => said(&reply),
            other => panic!("{other:?}"),
        }
    }

    fn start(&mut self, message: &[u8], path: u32, now: u64) -> Rc<Key> {
        match self.ask(message, CLIENT, Transport::Udp, path, secs(now)) {
            Asked::Start(key) => key,
            other => panic!("{other:?}"),
        }
    }

    /// The servers say this.
    fn server(&mut self, key: &Rc<Key>, answer: impl FnOnce(&[u8]) -> Vec<u8>, now: u64) -> Vec<(u32, Vec<u8>)> {
        let outcome = match read(&answer(&question(9, key, true)), 9, key) {
            Some(Answer::Body(body, seconds)) => Outcome::Found(body, seconds),
            other => panic!("{other:?}"),
        };
        self.finish(key, outcome, secs(now))
    }
}

#[test]
fn an_answer_is_given_to_all_who_wait_and_remembered() {
    let mut desk = desk();
    let query = ask(1, "WWW.example", Rtype::A, With { payload: Some(1232), ..With::default() });
    let key = desk.start(&query, 1, 0);
    assert_eq!(desk.ask(&query, CLIENT, Transport::Udp, 1, secs(0)), Asked::Nothing, "sent once more");
    let plain = ask(2, "www.EXAMPLE", Rtype::A, With::default());
    assert_eq!(desk.ask(&plain, OTHER, Transport::Udp, 2, secs(0)), Asked::Wait);
    assert_eq!(desk.waiting(), (2, 1));
    let replies = desk.server(&key, |query| addresses(query, &[([192, 0, 2, 1], 60), ([192, 0, 2, 2], 50)]), 1);
    assert_eq!((replies.len(), desk.waiting()), (2, (0, 0)));
    let first = said(&replies[0].1);
    assert_eq!((replies[0].0, first.id, first.opt, first.authoritative), (1, 1, Some((1232, false)), false));
    assert_eq!(first.question, "WWW.example.\tA\tIN", "as the client writes it");
    assert_eq!(first.records, ["WWW.example 60 A 192.0.2.1", "WWW.example 50 A 192.0.2.2"]);
    let second = said(&replies[1].1);
    assert_eq!((replies[1].0, second.id, second.opt), (2, 2, None));
    // From the cache, older.
    let later = desk.reply(&plain, 31);
    assert_eq!((later.id, &later.records[1][..]), (2, "www.EXAMPLE 20 A 192.0.2.2"));
    assert!(
        matches!(desk.ask(&plain, CLIENT, Transport::Udp, 0, secs(51)), Asked::Start(_)),
        "it does not hold any more"
    );
    let counters = desk.counters();
    assert_eq!((counters.lookups, counters.shared, counters.cached, counters.udp_queries), (2, 1, 1, 5));
}

#[test]
fn what_dnssec_asks_for_is_kept_apart() {
    let mut desk = desk();
    let with = |dnssec_ok, checking_disabled| With { dnssec_ok, checking_disabled, payload: None };
    for (at, with) in
        [with(false, false), with(true, false), with(false, true), with(true, true)].into_iter().enumerate()
    {
        let query = ask(at as u16, "example", Rtype::A, with);
        let key = desk.start(&query, at as u32, 0);
        let sent = question(1, &key, true);
        let sent = Message::from_octets(&sent[..]).unwrap();
        assert_eq!((sent.opt().unwrap().dnssec_ok(), sent.header().cd()), (with.dnssec_ok, with.checking_disabled));
        assert!(sent.header().rd() && sent.opt().unwrap().udp_payload_size() == 1232);
        desk.server(&key, |query| addresses(query, &[([192, 0, 2, 1], 60)]), 0);
        assert_eq!(desk.reply(&query, 1).opt.map(|opt| opt.1), with.dnssec_ok.then_some(true));
    }
}

#[test]
fn that_nothing_is_there_holds_as_the_zone_says() {
    for (rcode, ttl, minimum, alias, holds) in [
        (Rcode::NXDOMAIN, 100, 60, None, 60),
        (Rcode::NXDOMAIN, 50, 60, None, 50),
        (Rcode::NOERROR, 90_000, 90_000, None, 300),
        (Rcode::NOERROR, 100, 60, Some(20), 20),
        (Rcode::NXDOMAIN, 100, 60, Some(200), 60),
    ] {
        let mut desk = desk();
        let query = ask(1, "www.example", Rtype::A, With::default());
        let key = desk.start(&query, 1, 0);
        let replies = desk.server(&key, |query| nothing(query, rcode, ttl, minimum, alias), 0);
        assert_eq!(said(&replies[0].1).rcode, rcode);
        assert_eq!(desk.reply(&query, holds - 1).rcode, rcode, "{ttl} {minimum} {alias:?}");
        assert!(matches!(desk.ask(&query, CLIENT, Transport::Udp, 0, secs(holds)), Asked::Start(_)));
    }
    // An alias alone, of which the server says no more, is not remembered.
    let key = key("www.example", Rtype::A);
    let message = nothing(&question(9, &key, true), Rcode::NOERROR, 9, 9, Some(60));
    let end = message.len() - message.iter().rev().position(|byte| *byte == 5).unwrap();
    assert!(end > 0 && matches!(read(&message, 9, &key), Some(Answer::Body(_, 9))));
    let mut alias = message.clone();
    (alias[8], alias[9]) = (0, 0);
    assert!(matches!(read(&alias, 9, &key), Some(Answer::Body(_, 0))));
}

#[test]
fn a_failure_is_remembered_for_a_while() {
    let mut desk = desk();
    let query = ask(1, "example", Rtype::A, With::default());
    let key = desk.start(&query, 1, 0);
    let replies = desk.finish(&key, Outcome::Failed(2), secs(10));
    assert_eq!(said(&replies[0].1).rcode, Rcode::SERVFAIL);
    assert_eq!(desk.reply(&query, 14).rcode, Rcode::SERVFAIL);
    desk.start(&query, 1, 15);
    desk.clear_cache();
    assert_eq!((desk.counters().cache_entries, desk.counters().cache_bytes), (0, 0));
}

#[test]
fn long_answers_are_cut_for_datagrams_alone() {
    let mut desk = desk();
    let list: Vec<_> = (0..60).map(|at| ([192, 0, 2, at], 60)).collect();
    let query = ask(1, "example", Rtype::A, With::default());
    let key = desk.start(&query, 1, 0);
    let replies = desk.server(&key, |query| addresses(query, &list), 0);
    let cut = said(&replies[0].1);
    assert!(cut.truncated && cut.records.is_empty() && replies[0].1.len() <= 512);
    let sized = |payload| ask(1, "example", Rtype::A, With { payload: Some(payload), ..With::default() });
    assert!(!desk.reply(&sized(1232), 0).truncated);
    for payload in [0, 512, 900] {
        assert!(desk.reply(&sized(payload), 0).truncated, "{payload}");
    }
    // What does not go through every link is not sent, whatever the client takes.
    let other = ask(1, "other", Rtype::A, With { payload: Some(4096), ..With::default() });
    let key = desk.start(&other, 1, 0);
    let list: Vec<_> = (0..80).map(|at| ([192, 0, 2, at], 60)).collect();
    assert!(said(&desk.server(&key, |query| addresses(query, &list), 0)[0].1).truncated);
    let Asked::Reply(reply) = desk.ask(&query, CLIENT, Transport::Tcp, 0, secs(0)) else { panic!() };
    assert_eq!((said(&reply).records.len(), said(&reply).truncated), (60, false));
    assert_eq!((desk.counters().truncated, desk.counters().tcp_queries), (5, 1));
}

#[test]
fn clients_have_names_both_ways() {
    let mut desk = desk();
    let of = |desk: &mut Desk<u32>, host: &str, rtype| desk.reply(&ask(1, host, rtype, With::default()), 0);
    for (host, rtype, records) in [
        ("mail.LAN.example", Rtype::A, &["mail.lan.example 10 A 10.137.0.7"][..]),
        ("Mail", Rtype::AAAA, &["mail 10 AAAA fd00::7"]),
        ("7.0.137.10.in-addr.arpa", Rtype::PTR, &["7.0.137.10.in-addr.arpa 10 PTR mail.lan.example."]),
        (
            "7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa",
            Rtype::PTR,
            &["7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa 10 PTR mail.lan.example."],
        ),
    ] {
        let said = of(&mut desk, host, rtype);
        assert_eq!(
            (said.rcode, said.authoritative, &said.records[..].iter().map(|x| &x[..]).collect::<Vec<_>>()[..]),
            (Rcode::NOERROR, true, records),
            "{host}"
        );
    }
    for (host, rtype, rcode) in [
        ("mail.lan.example", Rtype::TXT, Rcode::NOERROR),
        ("lan.example", Rtype::A, Rcode::NOERROR),
        ("www.lan.example", Rtype::A, Rcode::NXDOMAIN),
        ("a.mail.lan.example", Rtype::A, Rcode::NXDOMAIN),
        ("mail.mail.lan.example", Rtype::A, Rcode::NXDOMAIN),
    ] {
        let said = of(&mut desk, host, rtype);
        assert_eq!((said.rcode, said.records.len()), (rcode, 1), "{host}: {said:?}");
        assert!(said.records[0].contains(" SOA "), "{said:?}");
    }
    for host in ["www", "8.0.137.10.in-addr.arpa", "notlan.example", "7.0.137.256.in-addr.arpa", "arpa"] {
        assert!(
            matches!(
                desk.ask(&ask(1, host, Rtype::PTR, With::default()), CLIENT, Transport::Udp, 0, secs(0)),
                Asked::Start(_)
            ),
            "{host}"
        );
    }
    desk.names.remove("MAIL");
    assert_eq!(of(&mut desk, "mail.lan.example", Rtype::A).rcode, Rcode::NXDOMAIN);
}

#[test]
fn what_cannot_be_a_name_is_told_why() {
    let mut names = Names::default();
    for (host, reason) in [
        ("", "\"\" is no host name: it is empty, or has an empty part"),
        ("a.b", "\"a.b\" is no host name: letters, digits, '-' and '_' are allowed"),
        (&"a".repeat(64), "a part of it is longer than 63 characters"),
    ] {
        assert!(names.insert(host, &[CLIENT]).unwrap_err().to_string().ends_with(reason));
    }
    assert!(names.set_domain(Some(&"abc.".repeat(62))).is_err());
    assert!(names.set_domain(Some("a..b")).is_err());
    assert!(names.set_domain(None).is_ok());
}

#[test]
fn what_is_not_answered_is_said_so() {
    let good = || ask(7, "example", Rtype::A, With { payload: Some(900), ..With::default() });
    let changed = |at: usize, value: u8| {
        let mut message = good();
        message[at] = value;
        message
    };
    let mut two = good();
    two[5] = 2;
    let version = {
        let mut message = good();
        let at = message.len() - 5;
        message[at] = 1;
        message
    };
    for (what, message, rcode) in [
        ("a status query", changed(2, 0x11), Rcode::NOTIMP),
        ("an update", changed(2, 0x29), Rcode::NOTIMP),
        ("no question", changed(5, 0), Rcode::FORMERR),
        ("two questions", two, Rcode::FORMERR),
        ("a compressed name", changed(12, 0xc0), Rcode::FORMERR),
        ("a record that is cut off", good()[..good().len() - 1].to_vec(), Rcode::FORMERR),
        ("a header alone", good()[..12].to_vec(), Rcode::FORMERR),
        ("a transfer", ask(7, "example", Rtype::AXFR, With::default()), Rcode::REFUSED),
        ("an incremental one", ask(7, "example", Rtype::IXFR, With::default()), Rcode::REFUSED),
        ("the class CH", changed(24, 3), Rcode::REFUSED),
        ("no recursion", changed(2, 0), Rcode::REFUSED),
        ("a new version of EDNS", version, Rcode::NOERROR),
    ] {
        let said = desk().reply(&message, 0);
        assert_eq!((said.id, said.rcode), (7, rcode), "{what}");
        assert!(said.records.is_empty());
    }
    for len in 0..12 {
        assert_eq!(desk().ask(&good()[..len], CLIENT, Transport::Udp, 0, secs(0)), Asked::Nothing);
    }
    assert_eq!(desk().ask(&changed(2, 0x81), CLIENT, Transport::Udp, 0, secs(0)), Asked::Nothing, "an answer");
    let any = desk().reply(&ask(7, "example", Rtype::ANY, With::default()), 0);
    assert_eq!(any.records, ["example 3789 HINFO \"RFC8482\" \"\""]);
    assert_eq!(Opcode::QUERY.to_int(), 0);
}

#[test]
fn no_client_takes_it_all() {
    let config = Config { max_lookups: 5, max_per_client: 3, max_waiting: 6, ..Config::default() };
    let mut desk = Desk::new(config, Names::default(), (1, 2));
    let mut ask_for = |host: u16, client: u8, path: u32| {
        let query = ask(host, &alloc::format!("{host}.example"), Rtype::A, With::default());
        match desk.ask(&query, [10, 0, 0, client].into(), Transport::Udp, path, secs(0)) {
            Asked::Reply(reply) => {
                assert_eq!(said(&reply).rcode, Rcode::SERVFAIL);
                "limit"
            }
            Asked::Start(_) => "start",
            Asked::Wait => "wait",
            Asked::Nothing => "nothing",
        }
    };
    assert_eq!([0, 1, 2, 3].map(|host| ask_for(host, 1, 1)), ["start", "start", "start", "limit"]);
    assert_eq!([3, 4, 5].map(|host| ask_for(host, 2, 2)), ["start", "start", "limit"], "all lookups");
    assert_eq!([0, 1].map(|host| ask_for(host, 3, 3)), ["wait", "limit"], "all who wait");
    assert_eq!((desk.counters.limited, desk.waiting()), (3, (6, 5)));
    for host in 0..5 {
        desk.finish(&key(&alloc::format!("{host}.example"), Rtype::A), Outcome::Failed(2), secs(0));
    }
    assert_eq!(desk.waiting(), (0, 0));
    // They may ask as much as before.
    for host in 10..13 {
        desk.start(&ask(host, &alloc::format!("{host}.example"), Rtype::A, With::default()), 1, 0);
    }
}

#[test]
fn the_cache_is_bounded() {
    let config = Config { cache_bytes: 20_000, ..Config::default() };
    let mut desk = Desk::new(config, Names::default(), (1, 2));
    let hosts = |host: u16| ask(host, &alloc::format!("{host}.example"), Rtype::A, With::default());
    for host in 0..500 {
        let key = desk.start(&hosts(host), 1, 0);
        desk.server(&key, |query| addresses(query, &[([192, 0, 2, 1], 60)]), 0);
        assert_eq!(desk.reply(&hosts(0), 0).rcode, Rcode::NOERROR, "it is in use");
        assert!(desk.counters().cache_bytes <= 20_000);
    }
    assert!((20..100).contains(&desk.counters().cache_entries));
    desk.start(&hosts(1), 1, 0);
}

#[test]
fn answers_to_other_questions_are_none() {
    let key = key("www.example", Rtype::A);
    let sent = question(9, &key, true);
    let good = addresses(&sent, &[([192, 0, 2, 1], 60)]);
    assert!(matches!(read(&good, 9, &key), Some(Answer::Body(_, 60))));
    // The number, a question, another operation, a letter, the type, the class.
    for (at, value) in [(1, 8), (2, 0x01), (2, 0x91), (13, b'x'), (26, 2), (28, 3), (5, 2)] {
        let mut bad = good.clone();
        bad[at] = value;
        assert_eq!(read(&bad, 9, &key), None, "byte {at}");
    }
    let mut other = good.clone();
    other[13] = b'W';
    assert!(matches!(read(&other, 9, &key), Some(Answer::Body(..))), "the case does not count");
    let mut truncated = good.clone();
    truncated[2] |= 2;
    assert_eq!(read(&truncated, 9, &key), Some(Answer::Truncated));
    let mut refused = good.clone();
    refused[3] = 0x85;
    assert_eq!(read(&refused, 9, &key), Some(Answer::Refused(5)));
    assert_eq!(read(&[&[0, 9, 0x81, 0x81][..], &[0; 8]].concat(), 9, &key), Some(Answer::Refused(1)));
    // A response code of EDNS: BADVERS.
    let mut extended = good.clone();
    let at = extended.len() - 6;
    extended[at] = 1;
    assert_eq!(read(&extended, 9, &key), Some(Answer::Refused(1)));
    // A name in the header, which is another's in each message.
    let mut header = good.clone();
    assert_eq!(header[29..31], [0xc0, 12]);
    header[30] = 8;
    assert_eq!(read(&header, 9, &key), Some(Answer::Refused(1)));
    for len in 12..good.len() {
        assert!(!matches!(read(&good[..len], 9, &key), Some(Answer::Body(..))), "{len} bytes");
    }
}

proptest! {
    #[test]
    fn any_questions_and_answers(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        host in "[a-z]{1,9}(\\.[a-z]{1,9}){0,3}",
        text in proptest::collection::vec("[ -~]{0,80}", 0..12),
        rtype in 0_u16..300,
        payload: Option<u16>,
        more in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        let mut query = ask(1, &host, Rtype::from_int(rtype), With { payload, ..With::default() });
        let mut desk = desk();
        for (at, value) in &changes {
            let at = at.index(query.len());
            query[at] = *value;
        }
        query.extend(&more);
        if let Asked::Reply(reply) = desk.ask(&query, CLIENT, Transport::Udp, 0, secs(0)) {
            prop_assert!(Message::from_octets(&reply[..]).unwrap().iter().all(|record| record.is_ok()));
            prop_assert!(reply.len() <= 1232 && reply[..2] == query[..2]);
        }
        let query = ask(1, &host, Rtype::TXT, With { payload, ..With::default() });
        let Asked::Start(key) = desk.ask(&query, OTHER, Transport::Udp, 0, secs(0)) else { return Ok(()) };
        let mut answer = {
            let query = Message::from_octets(&query[..]).unwrap();
            let mut builder = MessageBuilder::new_vec().start_answer(&query, Rcode::NOERROR).unwrap();
            for text in &text {
                let text = Txt::<Vec<u8>>::build_from_slice(text.as_bytes()).unwrap();
                builder.push((name(&host), Class::IN, Ttl::from_secs(9), text)).unwrap();
            }
            builder.finish()
        };
        let kept = answer.len();
        for (at, value) in &changes {
            let at = at.index(kept - 12) + 12;
            answer[at] = *value;
        }
        if let Some(Answer::Body(body, seconds)) = read(&answer, 1, &key) {
            for (_, reply) in desk.finish(&key, Outcome::Found(body, seconds), secs(0)) {
                let reply = Message::from_octets(&reply[..]).unwrap();
                prop_assert!(reply.iter().all(|record| record.is_ok()));
                let own = payload.map_or(512, |payload| payload.clamp(512, 1232));
                prop_assert!(reply.as_slice().len() <= usize::from(own));
                if changes.is_empty() && !reply.header().tc() {
                    prop_assert_eq!(usize::from(reply.header_counts().ancount()), text.len());
                }
            }
        }
    }
}

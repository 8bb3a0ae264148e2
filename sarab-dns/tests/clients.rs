//! What clients may send, and what they get for it.

mod support;

use domain::base::iana::Rcode;
use domain::base::{Message, ParsedName};
use domain::rdata::AllRecordData;
use sarab_dns::{Catalog, Client, Config, Reply, Server, parse_name};
use support::{NOW, TCP, UDP, ask, data, describe, from_text, load, query, server};

const SMALL: &str = "$TTL 60\n@ SOA ns h 1 2 3 4 5\n@ NS ns\nns A 192.0.2.1\n";

fn small() -> Server {
    server([from_text("a.test", SMALL).unwrap().0], "")
}

fn name(text: &str) -> Box<[u8]> {
    parse_name(text).unwrap()
}

fn rcode(answer: &[u8]) -> Rcode {
    Message::from_slice(answer).unwrap().header().rcode()
}

#[test]
fn what_is_no_question() {
    let server = small();
    let whole = query(&name("ns.a.test"), 1, Some(1232), true);
    let mut to = [0; 4096];
    // Answers are not answered, lest two servers talk to each other for ever; nor what has no header.
    let mut answer = whole.clone();
    answer[2] |= 0x80;
    for ignored in [&answer[..], &whole[..11], &[]] {
        assert!(matches!(server.handle(ignored, UDP, NOW, &mut to), Reply::None), "{ignored:?}");
    }
    // What is cut anywhere else is malformed, and so is what has two questions, or two OPT records, or a name that points.
    for len in 12..whole.len() {
        assert_eq!(rcode(&ask(&server, &whole[..len], UDP)), Rcode::FORMERR, "{len} bytes");
    }
    let mut two = whole.clone();
    two[5] = 2;
    let mut twice = [&whole[..], &whole[whole.len() - 11..]].concat();
    twice[11] = 2;
    let pointer = [&whole[..12], &[0xc0, 12, 0, 1, 0, 1][..]].concat();
    for malformed in [two, twice, pointer] {
        assert_eq!(rcode(&ask(&server, &malformed, UDP)), Rcode::FORMERR);
    }
    // Other operations and classes.
    let mut update = whole.clone();
    update[2] = 5 << 3;
    assert_eq!(rcode(&ask(&server, &update, UDP)), Rcode::NOTIMP);
    let mut hesiod = query(&name("ns.a.test"), 1, None, false);
    *hesiod.last_mut().unwrap() = 4;
    assert_eq!(rcode(&ask(&server, &hesiod, UDP)), Rcode::REFUSED);
    // A version of EDNS that there is not: BADVERS has bits in the OPT record.
    let mut later = whole.clone();
    let version = later.len() - 5;
    later[version] = 1;
    let told = ask(&server, &later, UDP);
    let message = Message::from_slice(&told).unwrap();
    assert_eq!(message.opt_rcode().to_int(), 16);
}

#[test]
fn a_network_gets_so_many_answers() {
    let mut catalog = Catalog::new();
    catalog.insert(from_text("a.test", SMALL).unwrap().0.into());
    let server = Server::new(Config::parse("ratelimit 20 slip=2").unwrap(), catalog, 7);
    let count = |prefix: &str, client: Client, cookie: &[u8]| {
        let (mut whole, mut empty) = (0, 0);
        for index in 0..100 {
            // Names that are not there count together.
            let mut query = query(&name(&format!("{prefix}{index}.a.test")), 1, Some(1232), false);
            if !cookie.is_empty() {
                let at = query.len() - 1;
                query[at] = cookie.len() as u8 + 4;
                query.extend_from_slice(&[0, 10, 0, cookie.len() as u8]);
                query.extend_from_slice(cookie);
            }
            let mut to = [0; 4096];
            match server.handle(&query, client, NOW, &mut to) {
                Reply::Answer(len) if to[2] & 2 != 0 => {
                    assert!(len <= query.len(), "no larger than what it answers");
                    empty += 1;
                }
                Reply::Answer(_) => whole += 1,
                Reply::None => {}
                other => panic!("{other:?}"),
            }
        }
        (whole, empty)
    };
    assert_eq!(count("x", UDP, &[]), (20, 40));
    // By TCP nobody is in another's name.
    assert_eq!(count("x", TCP, &[]), (100, 0));
    // Who shows the cookie that it was given is known, too; another one's cookie, or none, is not enough.
    let mut first = query(&name("ns.a.test"), 1, Some(1232), false);
    let at = first.len() - 1;
    first[at] = 12;
    first.extend_from_slice(b"\0\x0a\0\x08abcdefgh");
    let told = ask(&server, &first, UDP);
    let cookie = &told[told.len() - 24..];
    assert_eq!(&cookie[..8], b"abcdefgh");
    assert_eq!(count("x", UDP, cookie), (100, 0));
    let mut wrong = cookie.to_vec();
    wrong[23] ^= 1;
    assert_eq!(count("x", UDP, &wrong), (0, 40 + 10));
}

#[test]
fn who_may_have_a_zone() {
    let config = "key k hmac-sha256 c2VjcmV0\nkey l hmac-sha256 b3RoZXI=\nzone a.test a transfer=192.0.2.0/24 notified-by=192.0.2.9\n\
                  zone b.test b key=k\n";
    let zones = ["a.test", "b.test"].map(|zone| from_text(zone, SMALL).unwrap().0);
    let server = server(zones, config);
    let from = |address: [u8; 4], tcp| Client { address: address.into(), tcp };
    let (inside, outside) = (from([192, 0, 2, 7], true), from([198, 51, 100, 7], true));
    let axfr = |zone: &str| query(&name(zone), 252, None, false);
    let mut to = vec![0; 65_535];
    assert!(matches!(server.handle(&axfr("a.test"), inside, NOW, &mut to), Reply::Transfer(_)));
    assert_eq!(rcode(&ask(&server, &axfr("a.test"), outside)), Rcode::REFUSED);
    assert_eq!(rcode(&ask(&server, &axfr("b.test"), inside)), Rcode::REFUSED);
    assert_eq!(rcode(&ask(&server, &axfr("ns.a.test"), inside)), Rcode::NOTAUTH);
    assert_eq!(rcode(&ask(&server, &axfr("c.test"), inside)), Rcode::NOTAUTH);
    assert_eq!(rcode(&ask(&server, &axfr("a.test"), from([192, 0, 2, 7], false))), Rcode::FORMERR);
    // A notification from who may send one, and from others.
    let mut notify = query(&name("a.test"), 6, None, false);
    notify[2] = 4 << 3;
    assert!(matches!(server.handle(&notify, from([192, 0, 2, 9], false), NOW, &mut to), Reply::Notified(..)));
    assert_eq!(rcode(&ask(&server, &notify, from([192, 0, 2, 8], false))), Rcode::REFUSED);
    // A signature by nobody known: NOTAUTH, with the reason in a TSIG record, which is not signed.
    let mut signed = axfr("b.test");
    signed[11] = 1;
    signed.extend_from_slice(b"\x01x\0\0\xfa\0\xff\0\0\0\0\0\x2d\x0bhmac-sha256\0\0\0\x6b\x49\xd2\0\x01\x2c\0\x10");
    signed.extend_from_slice(&[7; 16]);
    signed.extend_from_slice(&[0xab, 0xcd, 0, 0, 0, 0]);
    let told = ask(&server, &signed, inside);
    assert_eq!(rcode(&told), Rcode::NOTAUTH);
    assert_eq!(told[told.len() - 4..], [0, 17, 0, 0], "BADKEY");
}

#[test]
fn long_chains_end() {
    let mut text = SMALL.to_owned();
    (0..200).for_each(|index| text.push_str(&format!("c{index} CNAME c{}\n", index + 1)));
    text.push_str("*.w CNAME x.y.w\nd DNAME d.d\n");
    // One name with more than fits anywhere.
    (0..5000).for_each(|index| text.push_str(&format!("many A 10.0.{}.{}\n", index / 256, index % 256)));
    let server = server([from_text("a.test", &text).unwrap().0], "");
    for asked in ["c0", "a.w", "x.d"] {
        let told = ask(&server, &query(&name(&format!("{asked}.a.test")), 1, Some(4096), true), UDP);
        let message = Message::from_slice(&told).unwrap();
        // Nothing is there twice.
        describe(&told);
        assert!(told.len() <= 1232 && message.header_counts().ancount() <= 24, "{asked}: {}", describe(&told));
    }
    for client in [UDP, TCP] {
        let told = ask(&server, &query(&name("many.a.test"), 1, Some(65_535), false), client);
        let message = Message::from_slice(&told).unwrap();
        assert!(message.header().tc() && message.header_counts().ancount() == 0);
    }
    // ANY gets one set.
    let told = ask(&server, &query(&name("a.test"), 255, None, false), TCP);
    assert_eq!(Message::from_slice(&told).unwrap().header_counts().ancount(), 1);
}

#[test]
fn a_server_says_who_it_is_where_it_is_to() {
    let chaos = |text: &str| {
        let mut query = query(&name(text), 16, None, false);
        *query.last_mut().unwrap() = 3;
        query
    };
    let silent = small();
    assert_eq!(rcode(&ask(&silent, &chaos("id.server"), UDP)), Rcode::REFUSED);
    let zone = from_text("a.test", SMALL).unwrap().0;
    let server = server([zone], "identity a mirage\nnsid node7\n");
    let told = ask(&server, &chaos("hostname.bind"), UDP);
    assert!(told.ends_with(b"\x08a mirage"));
    assert_eq!(rcode(&ask(&server, &chaos("version.bind"), UDP)), Rcode::REFUSED);
    let mut nsid = query(&name("ns.a.test"), 1, Some(1232), false);
    let at = nsid.len() - 1;
    nsid[at] = 4;
    nsid.extend_from_slice(&[0, 3, 0, 0]);
    assert!(ask(&server, &nsid, UDP).ends_with(b"\0\x03\0\x05node7"));
}

/// All records are transferred, in messages that others can read, SOA first and last.
#[test]
fn a_transfer_has_all_records() {
    for (apex, file) in [("nsec3.test", "signed-nsec3.zone"), ("plain.test", "plain.zone")] {
        let zone = load(apex, &data(file), 333).unwrap().0;
        let records = zone.records();
        let server = server([zone], &format!("zone {apex} {file} transfer=127.0.0.1"));
        let mut to = vec![0; 65_535];
        let Reply::Transfer(mut transfer) = server.handle(&query(&name(apex), 252, None, false), TCP, NOW, &mut to)
        else {
            panic!("no transfer")
        };
        let mut types = Vec::new();
        while let Some(len) = transfer.next(NOW.unix, &mut to) {
            let message = Message::from_slice(&to[..len]).unwrap();
            for record in message.answer().unwrap() {
                let record = record.unwrap().into_any_record::<AllRecordData<_, ParsedName<_>>>().unwrap();
                types.push(record.rtype().to_int());
            }
        }
        assert_eq!((types.len(), types[0], *types.last().unwrap()), (records + 1, 6, 6));
    }
}

//! Questions of clients to a gate's DNS forwarder, and what servers answer.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use domain::base::Message;
use sarab_router::services::dns::{Answer, Asked, Config, Desk, Key, Names, Outcome, Transport, question, read};

use crate::input::Input;

pub(super) const SHORT: u32 = 6_000;

/// What happens: a client asks, a server answers, servers fail, time passes.
const ASK: u8 = 0;
const ANSWER: u8 = 1;
const FAIL: u8 = 2;

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let ask = |host: &[u8], kind: u8, more: &[u8]| {
        let additional = u8::from(!more.is_empty());
        let message = [&[0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, additional][..], host, &[0, 0, kind, 0, 1], more].concat();
        [&[ASK, 1, message.len() as u8][..], &message].concat()
    };
    let edns = [0, 0, 41, 4, 208, 0, 0, 0x80, 0, 0, 0];
    let answer = |flags: u8, counts: [u8; 3], records: &[u8]| {
        let len = records.len() as u8;
        [&[ANSWER, 0x81, flags, counts[0], counts[1], counts[2], len][..], records].concat()
    };
    let start = |kind: u8, len: u8| [0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 60, 0, len];
    let address = [&start(1, 4)[..], &[192, 0, 2, 1]].concat();
    let zone = [&start(6, 24)[..], &[0xc0, 12, 0xc0, 12], &[0; 16], &[0, 0, 0, 99]].concat();
    let www = b"\x03www\x07example";
    let time = [3, 20];
    let then = |parts: &[&[u8]]| parts.concat();
    vec![
        then(&[
            &ask(www, 1, &edns),
            &answer(0x80, [1, 0, 1], &[&address[..], &edns].concat()),
            &time,
            &ask(www, 1, &edns),
        ]),
        then(&[
            &ask(www, 1, &[]),
            &ask(b"\x03WWW\x07example", 1, &[]),
            &answer(0x83, [0, 1, 0], &zone),
            &ask(www, 1, &[]),
        ]),
        then(&[&ask(www, 28, &[]), &[FAIL, 2], &ask(www, 28, &[]), &time, &ask(www, 28, &[])]),
        then(&[&ask(b"\x04mail\x03lan", 1, &[]), &ask(b"\x04none\x03lan", 1, &[]), &ask(b"\x04mail", 255, &edns)]),
        then(&[&ask(b"\x017\x010\x03137\x0210\x07in-addr\x04arpa", 12, &[]), &ask(www, 252, &[])]),
    ]
}

pub(super) fn run(data: &[u8]) {
    let mut input = Input(data);
    let mut names = Names::default();
    names.set_domain(Some("lan")).expect("a good name");
    names.insert("mail", &[[10, 137, 0, 7].into()]).expect("a good name");
    let mut config = Config::default();
    (config.cache_bytes, config.max_lookups, config.max_waiting, config.max_per_client) = (4096, 4, 8, 5);
    let mut desk = Desk::new(config, names, (1, 2));
    let (mut now, mut count) = (Duration::ZERO, 0_u32);
    let mut lookups: VecDeque<Rc<Key>> = VecDeque::new();
    let mut waiting = 0;
    while !input.0.is_empty() {
        match input.byte() % 4 {
            ASK => {
                let (client, len) = (input.byte(), input.byte());
                let message = take(&mut input, len);
                let transport = if client & 0x80 == 0 { Transport::Udp } else { Transport::Tcp };
                count += 1;
                match desk.ask(message, IpAddr::from([10, 0, 0, client & 3]), transport, (count, transport), now) {
                    Asked::Reply(reply) => check(&reply, transport, Some(message)),
                    Asked::Start(key) => {
                        lookups.push_back(key);
                        waiting += 1;
                    }
                    Asked::Wait => waiting += 1,
                    Asked::Nothing => {}
                }
            }
            step @ (ANSWER | FAIL) => {
                let outcome = match lookups.front() {
                    Some(key) if step == ANSWER => answered(&mut input, key),
                    _ => Some(Outcome::Failed(input.byte().into())),
                };
                if let Some((key, outcome)) = outcome.and_then(|outcome| Some((lookups.pop_front()?, outcome))) {
                    let replies = desk.finish(&key, outcome, now);
                    assert!(!replies.is_empty());
                    waiting -= replies.len();
                    replies.iter().for_each(|((_, transport), reply)| check(reply, *transport, None));
                }
            }
            _ => now += Duration::from_secs(input.byte().into()),
        }
        assert_eq!(desk.waiting(), (waiting, lookups.len()));
        assert!(waiting <= 8 && lookups.len() <= 4);
    }
    for key in lookups {
        desk.finish(&key, Outcome::Failed(2), now);
    }
    assert_eq!(desk.waiting(), (0, 0));
}

fn take<'a>(input: &mut Input<'a>, len: u8) -> &'a [u8] {
    let (bytes, rest) = input.0.split_at(input.0.len().min(len.into()));
    input.0 = rest;
    bytes
}

/// A server's message about a question; `None` where it is not one.
fn answered(input: &mut Input<'_>, key: &Key) -> Option<Outcome> {
    let mut message = question(7, key, false);
    (message[2], message[3]) = (input.byte(), input.byte());
    (message[7], message[9], message[11]) = (input.byte(), input.byte(), input.byte());
    let len = input.byte();
    message.extend(take(input, len));
    match read(&message, 7, key)? {
        Answer::Body(body, seconds) => {
            assert!(seconds <= 24 * 60 * 60);
            Some(Outcome::Found(body, seconds))
        }
        Answer::Refused(rcode) => Some(Outcome::Failed(rcode)),
        Answer::Truncated => None,
    }
}

/// A reply is a message whose records can be read, to the question.
fn check(reply: &[u8], transport: Transport, query: Option<&[u8]>) {
    let message = Message::from_octets(reply).expect("it has a header");
    assert!(message.header().qr() && message.iter().all(|record| record.is_ok()), "{reply:?}");
    assert!(message.header_counts().qdcount() <= 1);
    if let Some(query) = query {
        assert_eq!(reply[..2], query[..2]);
    }
    if transport == Transport::Udp {
        assert!(reply.len() <= 1232);
    }
}

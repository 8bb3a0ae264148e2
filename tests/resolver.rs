//! The resolver of a guest, whose DNS server is a task on the other end of its wire.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::rc::Rc;
use std::str::FromStr;
use std::time::Duration;

use domain::base::iana::{Class, Rcode};
use domain::base::{Message, MessageBuilder, Name, Rtype, Ttl};
use domain::rdata::{A, Aaaa, Cname, Soa};
use futures_util::future::{Either, join, join_all, select};
use sarab::network::stack::tcp::TcpSocket;
use sarab::network::stack::udp::{PacketMetadata, UdpMetadata, UdpSocket};
use sarab::network::stack::{ConfigV6, StaticConfigV6};
use sarab::network::{Ipv6, Ipv6Cidr};
use sarab::network::{Network, ResolveError, Resolver, Stack};
use sarab::testing::{End, Guest, check};
use sarab::time::{Instant, Timer};

const SEEDS: u64 = 6;

/// A question that came to the server.
#[derive(Clone, Debug)]
struct Asked {
    name: String,
    rtype: Rtype,
    tcp: bool,
    edns: bool,
    /// Which server.
    v6: bool,
    port: u16,
    message: Vec<u8>,
}

enum Reply {
    Send(Vec<u8>),
    /// From a port that is not the server's.
    Elsewhere(Vec<u8>),
}

use Reply::{Elsewhere, Send};

enum Data {
    V4(u8),
    V6(u16),
    Alias(&'static str),
    /// The zone's own record, with this minimum.
    Zone(u32),
}

use Data::{Alias, V4, V6, Zone};

fn name(text: &str) -> Name<Vec<u8>> {
    Name::from_str(text).unwrap()
}

impl Asked {
    /// An answer with these records: owner, TTL, data.
    fn reply(&self, rcode: Rcode, records: &[(&str, u32, Data)]) -> Vec<u8> {
        let message = Message::from_slice(&self.message).unwrap();
        let mut answer = MessageBuilder::new_vec().start_answer(message, rcode).unwrap();
        for (owner, ttl, data) in records {
            let (owner, ttl) = (name(owner), Ttl::from_secs(*ttl));
            match data {
                V4(last) => answer.push((owner, ttl, A::from_octets(10, 9, 9, *last))).unwrap(),
                V6(last) => answer.push((owner, ttl, Aaaa::new(v6(*last)))).unwrap(),
                Alias(other) => answer.push((owner, ttl, Cname::new(name(other)))).unwrap(),
                Zone(_) => {}
            }
        }
        let mut authority = answer.authority();
        for (owner, ttl, data) in records {
            if let Zone(minimum) = data {
                let any = Ttl::from_secs(7);
                let soa = Soa::new(name("ns"), name("mail"), 1.into(), any, any, any, Ttl::from_secs(*minimum));
                authority.push((name(owner), Ttl::from_secs(*ttl), soa)).unwrap();
            }
        }
        authority.finish()
    }

    fn ok(&self, records: &[(&str, u32, Data)]) -> Vec<Reply> {
        vec![Send(self.reply(Rcode::NOERROR, records))]
    }

    /// Number `last` of addresses of the family that is asked for.
    fn address(&self, ttl: u32, last: u8) -> Vec<Reply> {
        self.ok(&[(&self.name, ttl, self.data(last))])
    }

    fn data(&self, last: u8) -> Data {
        if self.rtype == Rtype::A { V4(last) } else { V6(last.into()) }
    }
}

fn v4(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 9, 9, last)
}

fn v6(last: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, last)
}

/// Both addresses with this number, those of IPv4 first.
fn both(last: u8) -> Result<Vec<IpAddr>, ResolveError> {
    Ok(vec![v4(last).into(), v6(last.into()).into()])
}

fn asked(message: &[u8], tcp: bool, v6: bool, port: u16) -> Option<Asked> {
    let parsed = Message::from_slice(message).ok()?;
    let question = parsed.sole_question().unwrap();
    assert!(parsed.header().rd() && !parsed.header().qr() && question.qclass() == Class::IN);
    let edns = parsed.opt();
    if let Some(edns) = &edns {
        assert_eq!(edns.udp_payload_size(), 1232);
    }
    let name = question.qname().to_string();
    Some(Asked { name, rtype: question.qtype(), tcp, edns: edns.is_some(), v6, port, message: message.to_vec() })
}

/// Answers questions by UDP and TCP for ever.
async fn serve(stack: Stack, log: &RefCell<Vec<Asked>>, answer: impl Fn(&Asked) -> Vec<Reply>) {
    let mut memory = [(); 8].map(|()| vec![0; 4096]);
    let [a, b, c, d, e, f, ..] = &mut memory;
    let mut metadata = [[PacketMetadata::EMPTY; 16]; 4];
    let [m, n, o, p] = &mut metadata;
    let mut socket = UdpSocket::new(stack, m, a, n, b);
    socket.bind(53).unwrap();
    let mut other = UdpSocket::new(stack, o, c, p, d);
    other.bind(54).unwrap();
    let udp = async {
        let mut bytes = vec![0; 4096];
        loop {
            let (len, from) = socket.recv_from(&mut bytes).await.unwrap();
            let v6 = matches!(from.endpoint.addr, sarab::network::stack::IpAddress::Ipv6(_));
            let Some(asked) = asked(&bytes[..len], false, v6, from.endpoint.port) else { continue };
            log.borrow_mut().push(asked.clone());
            let to = UdpMetadata { endpoint: from.endpoint, ..UdpMetadata::from(from.endpoint) };
            for (number, reply) in answer(&asked).into_iter().enumerate() {
                if number % 8 == 7 {
                    Timer::after_millis(1).await;
                }
                match reply {
                    Send(bytes) => socket.send_to(&bytes, to).await.unwrap(),
                    Elsewhere(bytes) => other.send_to(&bytes, to).await.unwrap(),
                }
            }
        }
    };
    let tcp = async {
        let mut socket = TcpSocket::new(stack, e, f);
        loop {
            socket.accept(53).await.unwrap();
            let mut bytes = Vec::new();
            loop {
                let mut part = [0; 512];
                match socket.read(&mut part).await {
                    Ok(len) if len > 0 => bytes.extend(&part[..len]),
                    _ => break,
                }
                while let Some((len, rest)) = bytes.split_first_chunk::<2>()
                    && let Some(message) = rest.get(..u16::from_be_bytes(*len).into())
                {
                    let asked = asked(message, true, false, 0).unwrap();
                    bytes.drain(..2 + asked.message.len());
                    log.borrow_mut().push(asked.clone());
                    for reply in answer(&asked) {
                        let Send(reply) = reply else { continue };
                        let whole = [&(reply.len() as u16).to_be_bytes()[..], &reply].concat();
                        let mut rest = &whole[..];
                        while !rest.is_empty() {
                            let Ok(sent) = socket.write(rest).await else { break };
                            rest = &rest[sent..];
                        }
                    }
                    let _ = socket.flush().await;
                }
            }
            socket.abort();
            let _ = socket.flush().await;
        }
    };
    join(udp, tcp).await;
}

/// What a test has.
struct Bench {
    resolver: Resolver,
    network: Network,
    log: Rc<RefCell<Vec<Asked>>>,
}

impl Bench {
    async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        self.resolver.resolve(name).await
    }

    /// How many questions came since the last look.
    fn questions(&self) -> usize {
        std::mem::take(&mut *self.log.borrow_mut()).len()
    }

    /// The guest has these DNS servers, those of IPv6 with an address of its own.
    async fn set_servers(&self, own: &[[u8; 4]], with_v6: bool) {
        let mut config = self.network.config();
        config.name_servers = own.iter().map(|address| IpAddr::from(*address)).collect();
        if with_v6 {
            config.ipv6 = Ipv6::Static(Ipv6Cidr::new(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2), 64));
            config.name_servers.push(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1).into());
        }
        let expected = config.name_servers.clone();
        self.network.configure(config);
        while self.network.name_servers() != expected {
            self.network.changed().await;
        }
    }
}

fn run(
    name: &str,
    answer: impl Fn(&Asked) -> Vec<Reply> + Copy + Sync + 'static,
    test: impl AsyncFn(&Bench) + Copy + Sync + 'static,
) {
    check(name, SEEDS, move |xen| {
        let log = Rc::<RefCell<Vec<Asked>>>::default();
        let own = log.clone();
        let guest = Guest::new(xen).command_line("ip=10.0.0.2/24 dns=10.0.0.1").network();
        let ended = xen.run(async move {
            let running = guest
                .start(async move |app: sarab::App| {
                    let network = app.network("vif").await?;
                    let bench = Bench { resolver: network.resolver().clone(), network, log: own };
                    test(&bench).await;
                    Ok::<(), sarab::Error>(())
                })
                .await;
            let peer = running.peer::<4>("10.0.0.1/24").await;
            peer.set_config_v6(ConfigV6::Static(StaticConfigV6 {
                address: Ipv6Cidr::new(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1), 64),
                gateway: None,
                dns_servers: Default::default(),
            }));
            let server = std::pin::pin!(serve(peer, &log, answer));
            match select(server, std::pin::pin!(running.ended())).await {
                Either::Left(_) => unreachable!("the server runs for ever"),
                Either::Right((ended, _)) => ended,
            }
        });
        assert_eq!(ended.how(), End::PowerOff, "{}", ended.console());
    });
}

#[test]
fn both_families_are_asked_for_and_remembered_for_their_time() {
    run(
        "answers",
        |asked| asked.address(if asked.rtype == Rtype::A { 60 } else { 100 }, 7),
        async |bench| {
            assert_eq!(bench.resolve("www.example.org").await, both(7));
            let log = std::mem::take(&mut *bench.log.borrow_mut());
            let asked: Vec<_> = log.iter().map(|asked| (&*asked.name, asked.rtype, asked.tcp, asked.edns)).collect();
            let expected = [Rtype::A, Rtype::AAAA].map(|rtype| ("www.example.org", rtype, false, true));
            assert_eq!(asked, expected);
            for other in ["WWW.example.ORG.", "www.example.org"] {
                assert_eq!(bench.resolve(other).await, both(7));
            }
            assert_eq!(bench.questions(), 0);
            Timer::after_secs(70).await;
            assert_eq!(bench.resolve("www.example.org").await, both(7));
            assert_eq!(bench.questions(), 1, "the other family's holds still");
            bench.resolver.clear();
            assert_eq!(bench.resolve("www.example.org").await, both(7));
            assert_eq!(bench.questions(), 2);
        },
    );
}

#[test]
fn an_address_is_its_own_and_nobody_is_asked() {
    run(
        "literals",
        |asked| asked.address(60, 7),
        async |bench| {
            assert_eq!(bench.resolve("10.1.2.3").await, Ok(vec![Ipv4Addr::new(10, 1, 2, 3).into()]));
            assert_eq!(bench.resolve("fd99::7").await, Ok(vec![v6(7).into()]));
            assert!(matches!(bench.resolve("no host").await, Err(ResolveError::InvalidName { .. })));
            bench.set_servers(&[], false).await;
            assert_eq!(bench.resolve("www.example.org").await, Err(ResolveError::NoServer));
            assert_eq!(bench.questions(), 0);
        },
    );
}

#[test]
fn addresses_of_ipv6_come_first_where_the_network_has_it() {
    run(
        "order",
        |asked| asked.address(60, 7),
        async |bench| {
            bench.set_servers(&[[10, 0, 0, 1]], true).await;
            Timer::after_secs(2).await;
            assert_eq!(bench.resolve("www.example.org").await, Ok(vec![v6(7).into(), v4(7).into()]));
        },
    );
}

#[test]
fn aliases_are_followed_in_an_answer_and_with_further_questions() {
    let answer = |asked: &Asked| match &*asked.name {
        // All in one answer, whose shortest time counts.
        "whole.example" => asked.ok(&[
            ("Whole.Example", 600, Alias("b.example")),
            ("b.example", 30, Alias("c.example")),
            ("c.example", 600, asked.data(7)),
            ("c.example", 600, asked.data(8)),
            ("other.example", 600, asked.data(9)),
        ]),
        "part.example" => asked.ok(&[("part.example", 20, Alias("next.example"))]),
        "next.example" => asked.address(600, 5),
        "loop.example" => asked.ok(&[("loop.example", 60, Alias("b.x")), ("b.x", 60, Alias("loop.example"))]),
        // One more alias in each answer.
        "endless.example" => asked.ok(&[("endless.example", 60, Alias("endless.example"))]),
        _ => Vec::new(),
    };
    run("aliases", answer, async |bench| {
        let expected = [v4(7).into(), v4(8).into(), v6(7).into(), v6(8).into()];
        assert_eq!(bench.resolve("whole.example").await, Ok(Vec::from(expected)));
        assert_eq!(bench.questions(), 2);
        Timer::after_secs(31).await;
        assert!(bench.resolve("whole.example").await.is_ok());
        assert_eq!(bench.questions(), 2);
        assert_eq!(bench.resolve("part.example").await, both(5));
        assert_eq!(bench.questions(), 4);
        Timer::after_secs(21).await;
        assert!(bench.resolve("part.example").await.is_ok());
        assert_eq!(bench.questions(), 4);
        for name in ["loop.example", "endless.example"] {
            assert!(bench.resolve(name).await.is_err());
            assert!(bench.questions() <= 16, "{name}");
        }
    });
}

#[test]
fn what_does_not_exist_is_remembered_as_the_zone_says() {
    let answer = |asked: &Asked| match &*asked.name {
        "none.example" => {
            vec![Send(asked.reply(Rcode::NXDOMAIN, &[("example", 1000, Zone(60))]))]
        }
        // However long the zone wants it, and however short.
        "long.example" => vec![Send(asked.reply(Rcode::NXDOMAIN, &[("example", 90_000, Zone(90_000))]))],
        "silent.example" => vec![Send(asked.reply(Rcode::NXDOMAIN, &[]))],
        "empty.example" => asked.ok(&[("example", 60, Zone(1000))]),
        "four.example" if asked.rtype == Rtype::A => asked.address(60, 7),
        "four.example" => asked.ok(&[("example", 60, Zone(1000))]),
        "useless.example" if asked.rtype == Rtype::A => {
            let mut message = asked.reply(Rcode::NOERROR, &[("useless.example", 60, V4(0))]);
            let end = message.len();
            // 0.0.0.0, to which nothing can be sent: at the end is the OPT record, where there is one.
            let at = message.windows(4).rposition(|bytes| bytes == [10, 9, 9, 0]).unwrap();
            assert!(at < end);
            message[at..at + 4].fill(0);
            vec![Send(message)]
        }
        _ => asked.ok(&[]),
    };
    run("negative", answer, async |bench| {
        let none = Err(ResolveError::NoSuchName("none.example".into()));
        for (wait, questions) in [(0, 2), (50, 0), (20, 2)] {
            Timer::after_secs(wait).await;
            assert_eq!(bench.resolve("none.example").await, none);
            assert_eq!(bench.questions(), questions, "after {wait} s");
        }
        for (wait, questions) in [(0, 2), (290, 0), (20, 2)] {
            Timer::after_secs(wait).await;
            assert!(bench.resolve("long.example").await.is_err());
            assert_eq!(bench.questions(), questions, "after {wait} s");
        }
        for _ in 0..2 {
            assert!(bench.resolve("silent.example").await.is_err());
            assert_eq!(bench.questions(), 2, "without a record of the zone nothing is remembered");
        }
        let empty = Err(ResolveError::NoAddress("empty.example".into()));
        for questions in [2, 0] {
            assert_eq!(bench.resolve("empty.example").await, empty);
            assert_eq!(bench.questions(), questions);
        }
        assert_eq!(bench.resolve("four.example").await, Ok(vec![v4(7).into()]));
        assert_eq!(bench.resolve("useless.example").await, Err(ResolveError::NoAddress("useless.example".into())));
    });
}

#[test]
fn what_is_cut_off_is_asked_again_by_tcp() {
    let answer = |asked: &Asked| {
        if asked.tcp {
            let many: Vec<_> = (1..=60).map(|last| (&*asked.name, 60, asked.data(last))).collect();
            return asked.ok(&many);
        }
        let mut message = asked.reply(Rcode::NOERROR, &[]);
        Message::from_octets(&mut message[..]).unwrap().header_mut().set_tc(true);
        vec![Send(message)]
    };
    run("truncated", answer, async |bench| {
        let found = bench.resolve("many.example").await.unwrap();
        assert_eq!((found.len(), found[0], found[16]), (32, v4(1).into(), v6(1).into()), "16 of each family");
        let tcp = bench.log.borrow().iter().filter(|asked| asked.tcp).count();
        assert_eq!((tcp, bench.questions()), (2, 4));
        assert!(bench.resolve("other.example").await.is_ok());
    });
}

#[test]
fn answers_that_are_none_are_ignored() {
    let answer = |asked: &Asked| {
        let forged = asked.reply(Rcode::NOERROR, &[(&asked.name, 600, asked.data(66))]);
        let with = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut message = forged.clone();
            change(&mut message);
            Send(message)
        };
        let good = asked.reply(Rcode::NOERROR, &[(&asked.name, 600, asked.data(7))]);
        vec![
            Elsewhere(forged.clone()),
            with(&|message| message[0] ^= 0x80),
            with(&|message| message[1] ^= 1),
            // No answer at all, another kind of message, another name, type and class.
            with(&|message| message[2] ^= 0x80),
            with(&|message| message[2] ^= 0x08),
            with(&|message| message[13] ^= 1),
            with(&|message| message[12 + asked.name.len() + 3] ^= 0x0f),
            with(&|message| message[12 + asked.name.len() + 5] ^= 2),
            with(&|message| message[5] = 0),
            with(&|message| message[5] = 2),
            with(&|message| message.truncate(11)),
            with(&|message| message.clear()),
            Send(good),
        ]
    };
    run("forged", answer, async |bench| {
        assert_eq!(bench.resolve("www.example.org").await, both(7));
        assert_eq!(bench.questions(), 2);
    });
}

#[test]
fn nobody_can_predict_a_question() {
    run(
        "ports",
        |asked| asked.address(1, 7),
        async |bench| {
            for number in 0..60 {
                bench.resolve(&format!("host-{number}.example")).await.unwrap();
            }
            let log = bench.log.borrow();
            let ids: std::collections::BTreeSet<_> =
                log.iter().map(|asked| [asked.message[0], asked.message[1]]).collect();
            let ports: std::collections::BTreeSet<_> = log.iter().map(|asked| asked.port).collect();
            assert!(ids.len() > 115 && ports.len() > 55, "{} ids, {} ports", ids.len(), ports.len());
            assert!(*ports.first().unwrap() < 16_000 && *ports.last().unwrap() > 48_000, "{ports:?}");
        },
    );
}

/// Somebody who guesses without end leads to a question by TCP, which he cannot answer.
#[test]
fn many_wrong_answers_lead_to_tcp() {
    let answer = |asked: &Asked| {
        if asked.tcp {
            return asked.address(60, 7);
        }
        let mut forged = asked.reply(Rcode::NOERROR, &[(&asked.name, 600, asked.data(66))]);
        forged[0] ^= 0x55;
        (0..80).map(|_| Send(forged.clone())).collect()
    };
    run("guesses", answer, async |bench| {
        assert_eq!(bench.resolve("www.example.org").await, both(7));
    });
}

#[test]
fn a_server_that_fails_or_is_silent_is_followed_by_the_next() {
    for rcode in [Some(Rcode::SERVFAIL), Some(Rcode::REFUSED), Some(Rcode::FORMERR), None] {
        let answer = move |asked: &Asked| match rcode {
            _ if asked.v6 => asked.address(60, 7),
            Some(rcode) => vec![Send(asked.reply(rcode, &[]))],
            None => Vec::new(),
        };
        run("next server", answer, async move |bench| {
            bench.set_servers(&[[10, 0, 0, 1]], true).await;
            Timer::after_secs(2).await;
            // Both are known as neighbours then, of which the stack looks for one in a second.
            assert!(bench.resolve("warm.example").await.is_ok());
            bench.log.borrow_mut().clear();
            let before = Instant::now();
            assert_eq!(bench.resolve("www.example.org").await, Ok(vec![v6(7).into(), v4(7).into()]));
            let took = before.elapsed().as_millis();
            assert_eq!(took >= 900, rcode.is_none(), "{took} ms");
            // One that does not know EDNS is asked without.
            let plain = bench.log.borrow().iter().filter(|asked| !asked.edns).count();
            assert_eq!(plain, if rcode == Some(Rcode::FORMERR) { 2 } else { 0 });
        });
    }
}

#[test]
fn no_server_gives_an_answer() {
    run(
        "refused",
        |asked| vec![Send(asked.reply(Rcode::SERVFAIL, &[]))],
        async |bench| {
            let error = bench.resolve("www.example.org").await.unwrap_err();
            assert_eq!(error.to_string(), "www.example.org: the DNS server 10.0.0.1 says SERVFAIL");
            assert_eq!(bench.questions(), 2, "it would say the same again");
            // Nobody is there.
            bench.set_servers(&[[10, 0, 0, 77], [10, 0, 0, 78]], false).await;
            let before = Instant::now();
            assert_eq!(bench.resolve("a.example").await, Err(ResolveError::TimedOut("a.example".into())));
            assert!((17..19).contains(&before.elapsed().as_secs()), "{} s", before.elapsed().as_secs());
            assert_eq!(bench.questions(), 0);
        },
    );
}

#[test]
fn a_lost_answer_is_asked_for_again() {
    thread_local!(static LOST: RefCell<std::collections::BTreeSet<Vec<u8>>> = RefCell::default());
    // The first question of each family is lost.
    let answer = |asked: &Asked| {
        let key = format!("{} {}", asked.name, asked.rtype).into_bytes();
        if LOST.with_borrow_mut(|lost| lost.insert(key)) { Vec::new() } else { asked.address(60, 7) }
    };
    run("loss", answer, async |bench| {
        LOST.with_borrow_mut(|lost| lost.clear());
        let before = Instant::now();
        assert_eq!(bench.resolve("www.example.org").await, both(7));
        assert_eq!(before.elapsed().as_secs(), 1);
        assert_eq!(bench.questions(), 4);
    });
}

#[test]
fn many_who_ask_for_a_name_share_a_question() {
    run(
        "shared",
        |asked| asked.address(0, 7),
        async |bench| {
            let outcomes = join_all((0..20).map(|_| bench.resolve("www.example.org"))).await;
            assert!(outcomes.iter().all(|outcome| *outcome == both(7)));
            assert_eq!(bench.questions(), 2);
            // What holds for no time is asked for again.
            assert_eq!(bench.resolve("www.example.org").await, both(7));
            assert_eq!(bench.questions(), 2);
            // Different names take their turns: there is one socket.
            let names: Vec<_> = (0..20).map(|number| format!("host-{number}.example")).collect();
            let outcomes = join_all(names.iter().map(|name| bench.resolve(name))).await;
            assert!(outcomes.iter().all(|outcome| *outcome == both(7)));
            // One who gives up leaves it to another.
            {
                let mut first = Box::pin(bench.resolve("given.up"));
                let mut second = Box::pin(bench.resolve("given.up"));
                let waits = futures_util::future::poll_fn(|cx| {
                    assert!(first.as_mut().poll(cx).is_pending() && second.as_mut().poll(cx).is_pending());
                    std::task::Poll::Ready(())
                });
                waits.await;
                drop(first);
                assert_eq!(second.await, both(7));
            }
        },
    );
}

#[test]
fn hostile_answers_harm_nobody() {
    // Every byte of a good answer is changed, one in each.
    let answer = |asked: &Asked| {
        let good = asked.reply(
            Rcode::NOERROR,
            &[(&asked.name, 60, Alias("b.example")), ("b.example", 60, asked.data(7)), ("example", 60, Zone(60))],
        );
        let number: usize = asked.name.trim_start_matches('h').split('.').next().unwrap().parse().unwrap();
        let mut bad = good.clone();
        let at = 12 + number % (bad.len() - 12);
        bad[at] = [0, 0xff, 0xc0, 0x3f, bad[at] ^ 1, 12][number / 7 % 6];
        if number.is_multiple_of(5) {
            bad.truncate(at);
        }
        vec![Send(bad)]
    };
    run("hostile", answer, async |bench| {
        for number in 0..150 {
            let name = format!("h{number}.example");
            match bench.resolve(&name).await {
                Ok(addresses) => assert!(!addresses.is_empty() && addresses.len() <= 32),
                Err(error) => assert!(error.to_string().starts_with(&name), "{error}"),
            }
        }
        let shown = format!("{:?}", bench.resolver);
        assert!(shown.len() < 20_000);
        Timer::after(sarab::time::Duration::from_secs(Duration::from_secs(1).as_secs())).await;
    });
}

//! A DNS forwarder between clients and servers, each with a stack of its own.

mod support;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::pin;
use std::rc::Rc;
use std::str::FromStr;
use std::time::Duration;

use domain::base::iana::{Class, Rcode};
use domain::base::{Message, MessageBuilder, Name, Rtype, Ttl};
use domain::rdata::A;
use embassy_net::tcp::TcpSocket;
use embassy_net::udp::{PacketMetadata, UdpSocket};
use embassy_net::{IpAddress, IpEndpoint, Stack};
use embassy_time::Timer;
use futures_util::future::{Either, join, join_all, select};
use sarab_router::services::dns::{Config, Forwarder};
use support::Network;
use xen_hal::Clock;
use xen_sim::{Domain, Xen, check};

const GATE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

/// What a server does with a question.
#[derive(Clone, Copy, Default)]
enum Does {
    /// It gives so many addresses.
    #[default]
    Answers,
    Nothing,
    Refuses,
    /// It gives them by TCP alone.
    Truncates,
    /// It gives wrong answers before the right one, as somebody who does not see the question.
    Forges(u16),
    /// It does not understand EDNS.
    IsOld,
}

/// A DNS server, and what it was asked.
#[derive(Clone, Default)]
struct Server {
    does: Rc<Cell<Does>>,
    count: Rc<Cell<u8>>,
    asked: Rc<RefCell<Vec<(u16, u16)>>>,
    asked_by_tcp: Rc<Cell<usize>>,
}

impl Server {
    fn answer(&self, query: &[u8], rcode: Rcode) -> Vec<u8> {
        let query = Message::from_octets(query).unwrap();
        let mut builder = MessageBuilder::new_vec().start_answer(&query, rcode).unwrap();
        let owner = query.sole_question().unwrap().into_qname();
        for last in 0..if rcode == Rcode::NOERROR { self.count.get() } else { 0 } {
            let address = A::new(Ipv4Addr::new(192, 0, 2, last));
            builder.push((owner, Class::IN, Ttl::from_secs(60), address)).unwrap();
        }
        builder.finish()
    }

    async fn serve_udp(self, stack: Stack<'static>) {
        let (mut rx_meta, mut tx_meta) = ([PacketMetadata::EMPTY; 64], [PacketMetadata::EMPTY; 256]);
        let (mut rx, mut tx) = (vec![0; 16384], vec![0; 65536]);
        let mut socket = UdpSocket::new(stack, &mut rx_meta, &mut rx, &mut tx_meta, &mut tx);
        socket.bind(53).unwrap();
        let mut query = vec![0; 1500];
        loop {
            let (len, from) = socket.recv_from(&mut query).await.unwrap();
            let query = &query[..len];
            let message = Message::from_octets(query).unwrap();
            self.asked.borrow_mut().push((message.header().id(), from.endpoint.port));
            let mut answer = self.answer(query, Rcode::NOERROR);
            match self.does.get() {
                Does::Answers => {}
                Does::Nothing => continue,
                Does::Refuses => answer = self.answer(query, Rcode::REFUSED),
                Does::Truncates => {
                    answer.truncate(query.len());
                    answer[2] |= 2;
                    answer[6..12].fill(0);
                }
                Does::Forges(count) => {
                    for number in 0..count {
                        let mut forged = answer.clone();
                        let id = message.header().id().wrapping_add(1 + number);
                        forged[..2].copy_from_slice(&id.to_be_bytes());
                        *forged.last_mut().unwrap() = 250;
                        socket.send_to(&forged, from).await.unwrap();
                        Timer::after_millis(1).await;
                    }
                }
                Does::IsOld if message.opt().is_some() => {
                    answer = vec![query[0], query[1], 0x81, 0x81, 0, 0, 0, 0, 0, 0, 0, 0]
                }
                Does::IsOld => {}
            }
            socket.send_to(&answer, from).await.unwrap();
        }
    }

    async fn serve_tcp(self, stack: Stack<'static>) {
        loop {
            let (mut rx, mut tx) = (vec![0; 4096], vec![0; 16384]);
            let mut socket = TcpSocket::new(stack, &mut rx, &mut tx);
            socket.accept(53).await.unwrap();
            let Some(query) = read(&mut socket).await else { continue };
            self.asked_by_tcp.set(self.asked_by_tcp.get() + 1);
            write(&mut socket, &self.answer(&query, Rcode::NOERROR)).await;
            socket.close();
            let _ = socket.flush().await;
        }
    }
}

async fn read(socket: &mut TcpSocket<'_>) -> Option<Vec<u8>> {
    let mut message = Vec::new();
    loop {
        let mut bytes = [0; 1024];
        let len = socket.read(&mut bytes).await.ok().filter(|len| *len > 0)?;
        message.extend(&bytes[..len]);
        if let Some(len) = message.first_chunk().map(|len| usize::from(u16::from_be_bytes(*len)))
            && message.len() >= 2 + len
        {
            return Some(message[2..2 + len].to_vec());
        }
    }
}

async fn write(socket: &mut TcpSocket<'_>, message: &[u8]) {
    let bytes = [&(message.len() as u16).to_be_bytes()[..], message].concat();
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let Ok(sent) = socket.write(rest).await else { return };
        rest = &rest[sent..];
    }
    let _ = socket.flush().await;
}

fn query(id: u16, host: &str) -> Vec<u8> {
    let mut builder = MessageBuilder::new_vec();
    builder.header_mut().set_id(id);
    builder.header_mut().set_rd(true);
    let mut builder = builder.question();
    builder.push((Name::<Vec<u8>>::from_str(host).unwrap(), Rtype::A, Class::IN)).unwrap();
    builder.finish()
}

/// A gate, two servers and two clients.
struct Lan {
    clock: Domain,
    forwarder: Forwarder<'static>,
    servers: [Server; 2],
    clients: [Stack<'static>; 2],
}

/// What a client is told: the code, whether that is all, and how many addresses.
type Told = (Rcode, bool, usize);

fn told(message: &[u8], id: u16) -> Told {
    let message = Message::from_octets(message).unwrap();
    assert_eq!(message.header().id(), id);
    for record in message.answer().unwrap() {
        let record = record.unwrap().into_record::<A>().unwrap().unwrap();
        assert_ne!(record.data().addr().octets()[3], 250, "a forged answer");
    }
    (message.header().rcode(), !message.header().tc(), message.header_counts().ancount().into())
}

impl Lan {
    fn run(xen: &Xen, config: Config, script: impl AsyncFnOnce(Lan) + 'static) {
        let network = Network::default();
        let domains = [(); 5].map(|()| xen.domain());
        let stacks: Vec<_> = domains
            .iter()
            .zip(1..)
            .map(|(domain, last)| network.host(domain, last, xen.seed() + u64::from(last)))
            .collect();
        let servers = [Server::default(), Server::default()];
        for (at, server) in servers.iter().enumerate() {
            server.count.set(2);
            domains[1 + at].spawn(server.clone().serve_udp(stacks[1 + at])).detach();
            domains[1 + at].spawn(server.clone().serve_tcp(stacks[1 + at])).detach();
        }
        let mut random = xen.seed();
        let random = move || {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            random >> 16
        };
        let forwarder = Forwarder::new(stacks[0], config, random);
        forwarder.set_servers(&[[10, 0, 0, 2].into(), [10, 0, 0, 3].into()]);
        let lan = Lan { clock: xen.dom0(), forwarder, servers, clients: [stacks[3], stacks[4]] };
        xen.run(async move { script(lan).await });
    }

    /// Runs the forwarder until the script is over.
    fn serve(xen: &Xen, config: Config, script: impl AsyncFnOnce(&Lan) + 'static) {
        Lan::run(xen, config, async move |lan| {
            let forwarder = lan.forwarder.clone();
            let serve = pin!(forwarder.run());
            match select(serve, pin!(script(&lan))).await {
                Either::Left((outcome, _)) => panic!("{outcome:?}"),
                Either::Right(((), _)) => {}
            }
        });
    }

    /// Asks by UDP, once. `None` where nothing is answered within 20 s.
    async fn ask(&self, client: usize, host: &str) -> Option<Told> {
        self.send(client, 7, query(7, host)).await.map(|message| told(&message, 7))
    }

    async fn send(&self, client: usize, port: u16, message: Vec<u8>) -> Option<Vec<u8>> {
        let (mut rx_meta, mut tx_meta) = ([PacketMetadata::EMPTY; 4], [PacketMetadata::EMPTY; 4]);
        let (mut rx, mut tx) = (vec![0; 4096], vec![0; 4096]);
        let mut socket = UdpSocket::new(self.clients[client], &mut rx_meta, &mut rx, &mut tx_meta, &mut tx);
        socket.bind(5000 + port).unwrap();
        socket.send_to(&message, IpEndpoint::new(IpAddress::Ipv4(GATE), 53)).await.unwrap();
        let mut reply = vec![0; 1500];
        let len = {
            let answer = pin!(socket.recv_from(&mut reply));
            match select(answer, pin!(self.clock.sleep(Duration::from_secs(20)))).await {
                Either::Left((received, _)) => {
                    let (len, from) = received.unwrap();
                    assert_eq!(from.endpoint, IpEndpoint::new(IpAddress::Ipv4(GATE), 53));
                    Some(len)
                }
                Either::Right(_) => None,
            }
        };
        len.map(|len| reply[..len].to_vec())
    }

    async fn ask_by_tcp(&self, client: usize, hosts: &[&str]) -> Vec<Told> {
        let (mut rx, mut tx) = (vec![0; 4096], vec![0; 4096]);
        let mut socket = TcpSocket::new(self.clients[client], &mut rx, &mut tx);
        socket.connect((IpAddress::Ipv4(GATE), 53)).await.unwrap();
        let mut all = Vec::new();
        for (id, host) in (1..).zip(hosts) {
            write(&mut socket, &query(id, host)).await;
            all.push(told(&read(&mut socket).await.unwrap(), id));
        }
        socket.close();
        let _ = socket.flush().await;
        all
    }
}

const ALL: Told = (Rcode::NOERROR, true, 2);
const FAILED: Told = (Rcode::SERVFAIL, true, 0);

#[test]
fn names_are_asked_for_once_and_remembered() {
    check("remembered", 3, |xen| {
        Lan::serve(xen, Config::default(), async |lan| {
            lan.forwarder.names(|names| names.insert("mail", &[IpAddr::V4(GATE)])).unwrap();
            assert_eq!(lan.ask(0, "mail").await, Some((Rcode::NOERROR, true, 1)));
            assert_eq!(lan.ask(0, "www.example").await, Some(ALL));
            assert_eq!(lan.ask(1, "WWW.example").await, Some(ALL));
            assert_eq!(lan.servers[0].asked.borrow().len(), 1);
            lan.clock.sleep(Duration::from_secs(60)).await;
            assert_eq!(lan.ask(1, "www.example").await, Some(ALL));
            assert_eq!(lan.servers[0].asked.borrow().len(), 2, "it held for a minute");
            // Other servers may say something else.
            lan.forwarder.set_servers(&[[10, 0, 0, 3].into()]);
            assert_eq!(lan.ask(1, "www.example").await, Some(ALL));
            assert_eq!(lan.servers[1].asked.borrow().len(), 1);
            let counters = lan.forwarder.counters();
            assert_eq!((counters.udp_queries, counters.local, counters.cached, counters.lookups), (5, 1, 1, 3));
        });
    });
}

#[test]
fn many_who_ask_for_the_same_have_one_question_asked() {
    check("shared", 3, |xen| {
        Lan::serve(xen, Config::default(), async |lan| {
            let asks = (0..20).map(|number| lan.send(number % 2, number as u16, query(7, "www.example")));
            for reply in join_all(asks).await {
                assert_eq!(told(&reply.unwrap(), 7), ALL);
            }
            assert_eq!(lan.servers[0].asked.borrow().len(), 1);
            assert_eq!(lan.forwarder.counters().shared + lan.forwarder.counters().cached, 19);
            // Others have numbers and ports that nobody can guess.
            let hosts: Vec<_> = (0..20).map(|number| format!("{number}.example")).collect();
            let asks = hosts.iter().enumerate().map(|(number, host)| lan.send(0, 100 + number as u16, query(7, host)));
            join_all(asks).await;
            let asked = lan.servers[0].asked.borrow();
            let ids: BTreeSet<_> = asked.iter().map(|asked| asked.0).collect();
            let ports: BTreeSet<_> = asked.iter().map(|asked| asked.1).collect();
            assert!(ids.len() > 18 && ports.len() > 18 && asked.len() == 21, "{asked:?}");
        });
    });
}

#[test]
fn the_next_server_is_asked_where_one_says_nothing() {
    check("silent", 3, |xen| {
        Lan::serve(xen, Config::default(), async |lan| {
            for (does, most) in [(Does::Nothing, 1500), (Does::Refuses, 100)] {
                lan.forwarder.clear_cache();
                lan.forwarder.set_servers(&[[10, 0, 0, 3].into()]);
                lan.forwarder.set_servers(&[[10, 0, 0, 2].into(), [10, 0, 0, 3].into()]);
                lan.servers[0].does.set(does);
                let begin = lan.clock.now();
                assert_eq!(lan.ask(0, "www.example").await, Some(ALL));
                assert!(lan.clock.now() - begin < Duration::from_millis(most));
                // The one that answers is asked first from now on.
                let begin = lan.clock.now();
                assert_eq!(lan.ask(0, "mail.example").await, Some(ALL));
                assert!(lan.clock.now() - begin < Duration::from_millis(100));
            }
        });
    });
}

#[test]
fn where_no_server_answers_clients_are_told_in_time() {
    check("none", 3, |xen| {
        Lan::serve(xen, Config::default(), async |lan| {
            lan.servers.iter().for_each(|server| server.does.set(Does::Nothing));
            let begin = lan.clock.now();
            assert_eq!(lan.ask(0, "www.example").await, Some(FAILED));
            let time = (lan.clock.now() - begin).as_secs();
            assert!((5..=10).contains(&time), "{time} s");
            assert!(lan.forwarder.counters().timeouts >= 4);
            // All refuse.
            lan.servers.iter().for_each(|server| server.does.set(Does::Refuses));
            assert_eq!(lan.ask(0, "mail.example").await, Some((Rcode::REFUSED, true, 0)));
            // There is none.
            lan.forwarder.set_servers(&[]);
            assert_eq!(lan.ask(0, "www.example").await, Some(FAILED));
        });
    });
}

#[test]
fn long_answers_go_by_tcp() {
    check("long", 3, |xen| {
        Lan::serve(xen, Config::default(), async |lan| {
            lan.servers[0].does.set(Does::Truncates);
            lan.servers[0].count.set(200);
            assert_eq!(lan.ask(0, "www.example").await, Some((Rcode::NOERROR, false, 0)));
            assert_eq!(lan.servers[0].asked_by_tcp.get(), 1);
            let expected = (Rcode::NOERROR, true, 200);
            assert_eq!(lan.ask_by_tcp(0, &["www.example", "mail.example"]).await, [expected, expected]);
            assert_eq!((lan.servers[0].asked_by_tcp.get(), lan.forwarder.counters().tcp_queries), (2, 2));
        });
    });
}

#[test]
fn forged_answers_do_not_count() {
    check("forged", 3, |xen| {
        Lan::serve(xen, Config::default(), async |lan| {
            lan.servers[0].does.set(Does::Forges(2));
            assert_eq!(lan.ask(0, "www.example").await, Some(ALL));
            assert_eq!((lan.servers[0].asked_by_tcp.get(), lan.forwarder.counters().wrong), (0, 2));
            // Where somebody tries often, the question is asked by TCP.
            lan.forwarder.set_servers(&[[10, 0, 0, 2].into()]);
            lan.servers[0].does.set(Does::Forges(100));
            assert_eq!(lan.ask(0, "mail.example").await, Some(ALL));
            assert_eq!(lan.servers[0].asked_by_tcp.get(), 1);
            lan.servers[0].does.set(Does::IsOld);
            assert_eq!(lan.ask(0, "old.example").await, Some(ALL));
        });
    });
}

#[test]
fn who_knows_the_question_has_to_be_the_server() {
    check("spied", 3, |xen| {
        Lan::serve(xen, Config::default(), async |lan| {
            lan.servers[0].does.set(Does::Nothing);
            let forge = async {
                lan.clock.sleep(Duration::from_millis(200)).await;
                let (id, port) = lan.servers[0].asked.borrow()[0];
                let mut forged = lan.servers[0].answer(&query(id, "www.example"), Rcode::NOERROR);
                *forged.last_mut().unwrap() = 250;
                let (mut rx_meta, mut tx_meta) = ([PacketMetadata::EMPTY; 1], [PacketMetadata::EMPTY; 1]);
                let (mut rx, mut tx) = ([0; 512], [0; 512]);
                let mut socket = UdpSocket::new(lan.clients[1], &mut rx_meta, &mut rx, &mut tx_meta, &mut tx);
                socket.bind(53).unwrap();
                socket.send_to(&forged, IpEndpoint::new(IpAddress::Ipv4(GATE), port)).await.unwrap();
                socket.flush().await;
            };
            let (told, ()) = join(lan.ask(0, "www.example"), forge).await;
            assert_eq!((told, lan.forwarder.counters().wrong), (Some(ALL), 1));
        });
    });
}

#[test]
fn what_former_servers_say_is_not_remembered() {
    check("former", 3, |xen| {
        Lan::serve(xen, Config::default(), async |lan| {
            lan.servers[0].does.set(Does::Nothing);
            let change = async {
                lan.clock.sleep(Duration::from_millis(200)).await;
                lan.forwarder.set_servers(&[[10, 0, 0, 3].into()]);
            };
            assert_eq!(join(lan.ask(0, "www.example"), change).await, (Some(ALL), ()));
            assert_eq!(lan.ask(0, "www.example").await, Some(ALL));
            assert_eq!(lan.servers[1].asked.borrow().len(), 2);
            assert_eq!(lan.forwarder.counters().cached, 0);
        });
    });
}

#[test]
fn connections_are_few_and_end_when_nothing_comes() {
    check("connections", 3, |xen| {
        Lan::serve(xen, Config::default(), async |lan| {
            let mut buffers = vec![[[0; 512]; 2]; 4];
            let mut sockets = Vec::new();
            for [rx, tx] in &mut buffers {
                let mut socket = TcpSocket::new(lan.clients[0], rx, tx);
                socket.connect((IpAddress::Ipv4(GATE), 53)).await.unwrap();
                sockets.push(socket);
            }
            lan.clock.sleep(Duration::from_secs(1)).await;
            let open = |sockets: &[TcpSocket<'_>]| sockets.iter().filter(|socket| socket.may_recv()).count();
            assert_eq!((open(&sockets), lan.forwarder.counters().connections_refused), (2, 2));
            assert_eq!(lan.ask_by_tcp(1, &["www.example"]).await, [ALL], "another client");
            // A question that never becomes whole does not keep it open.
            for byte in [0, 200, 1, 2, 3, 4] {
                let _ = sockets[0].write(&[byte]).await;
                lan.clock.sleep(Duration::from_secs(2)).await;
            }
            assert_eq!(open(&sockets), 0);
        });
    });
}

#[test]
fn strangers_are_not_answered() {
    check("strangers", 3, |xen| {
        Lan::serve(xen, Config::default(), async |lan| {
            lan.forwarder.serve_only(|address| address == IpAddr::from([10, 0, 0, 4]));
            assert_eq!((lan.ask(0, "www.example").await, lan.ask(1, "www.example").await), (Some(ALL), None));
            let (mut rx, mut tx) = ([0; 512], [0; 512]);
            let mut socket = TcpSocket::new(lan.clients[1], &mut rx, &mut tx);
            socket.connect((IpAddress::Ipv4(GATE), 53)).await.unwrap();
            write(&mut socket, &query(1, "www.example")).await;
            assert_eq!((read(&mut socket).await, lan.forwarder.counters().strangers), (None, 2));
        });
    });
}

#[test]
fn it_can_be_stopped_and_run_again() {
    check("again", 3, |xen| {
        Lan::run(xen, Config::default(), async |lan| {
            lan.servers.iter().for_each(|server| server.does.set(Does::Nothing));
            for turn in 0..3 {
                let stop = lan.clock.sleep(Duration::from_millis(500));
                let asked = pin!(lan.ask(0, "www.example"));
                let stopped = pin!(async {
                    let serve = lan.forwarder.run();
                    assert!(matches!(select(pin!(serve), pin!(stop)).await, Either::Right(_)));
                });
                let Either::Right((_, asked)) = select(asked, stopped).await else { panic!("nobody answers") };
                if turn == 2 {
                    assert_eq!(asked.await, None);
                }
            }
            lan.servers[0].does.set(Does::Answers);
            lan.servers[1].does.set(Does::Answers);
            let serve = pin!(lan.forwarder.run());
            let Either::Right((told, _)) = select(serve, pin!(lan.ask(0, "www.example"))).await else { panic!() };
            assert_eq!(told, Some(ALL));
        });
    });
}

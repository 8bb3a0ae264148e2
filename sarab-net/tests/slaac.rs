//! A stack whose IPv6 address is what routers advertise: `ip6=auto`.

mod support;

use std::cell::RefCell;
use std::net::Ipv6Addr;
use std::rc::Rc;
use std::time::Duration;

use embassy_net::tcp::TcpSocket;
use embassy_net::udp::{PacketMetadata, UdpSocket};
use embassy_net::{IpAddress, Stack};
use futures_util::future::select;
use sarab_net::Config;
use support::config;
use support::segment::Segment;
use support::v6::{
    ALL_NODES, ECHO, ECHO_REPLY, FAR, NEIGHBOR_ADVERTISEMENT, NEIGHBOR_SOLICITATION, NET, OWN, SOLICITATION,
    advertisement, icmp, message_type, neighbor, neighbor_mac, own, prefix, prefix_with, secs,
};
use xen_hal::Clock;
use xen_sim::{Domain, Xen, check};

type Sent = (Duration, Vec<u8>);

/// The network that the stack is on.
#[derive(Clone)]
struct Lan {
    wire: Segment,
    clock: Domain,
    /// What would be on the console.
    said: Rc<RefCell<Vec<String>>>,
    /// What the stack has sent, and when.
    sent: Rc<RefCell<Vec<Sent>>>,
}

impl Lan {
    /// Lets time pass, in which neighbours tell their addresses.
    async fn pass(&self, time: Duration) {
        let end = self.clock.now() + time;
        while self.clock.now() < end {
            self.clock.sleep(Duration::from_millis(10).min(end - self.clock.now())).await;
            while let Some(frame) = self.wire.take() {
                if message_type(&frame) == Some(NEIGHBOR_SOLICITATION) && frame[62..77] == neighbor(0).octets()[..15] {
                    let (from, number) = (Ipv6Addr::from(*frame[22..].first_chunk::<16>().unwrap()), frame[77]);
                    let mut message = vec![NEIGHBOR_ADVERTISEMENT, 0, 0, 0, 0xe0, 0, 0, 0];
                    message.extend(neighbor(number).octets());
                    message.extend([2, 1]);
                    message.extend(neighbor_mac(number));
                    self.wire.deliver(icmp(number, neighbor(number), from, 255, &message));
                }
                self.sent.borrow_mut().push((self.clock.now(), frame));
            }
        }
    }

    /// When the stack has asked for routers.
    fn solicitations(&self) -> Vec<Duration> {
        let sent = self.sent.borrow();
        sent.iter().filter(|(_, frame)| message_type(frame) == Some(SOLICITATION)).map(|(at, _)| *at).collect()
    }

    /// Whether the stack says that an address is its own. (It takes packets for any that ends as one of its own does.)
    async fn finds(&self, address: Ipv6Addr) -> bool {
        self.sent.borrow_mut().clear();
        let nodes = Ipv6Addr::from_bits(0xff02_0000_0000_0000_0000_0001_ff00_0000 | address.to_bits() & 0xff_ffff);
        let mut message = vec![NEIGHBOR_SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
        message.extend(address.octets());
        message.extend([1, 1]);
        message.extend(neighbor_mac(5));
        self.wire.deliver(icmp(5, neighbor(5), nodes, 255, &message));
        self.pass(secs(1)).await;
        self.sent.borrow().iter().any(|(_, frame)| message_type(frame) == Some(NEIGHBOR_ADVERTISEMENT))
    }

    /// Whom the answer to a ping by way of a neighbour goes to, if there is one.
    async fn ping(&self, by: u8, from: Ipv6Addr, to: Ipv6Addr) -> Option<[u8; 6]> {
        self.sent.borrow_mut().clear();
        self.wire.deliver(icmp(by, from, to, 64, &[ECHO, 0, 0, 0, 0, 1, 0, 1, 5, 5]));
        // The first answer only has the stack look for the neighbour.
        self.pass(secs(2)).await;
        self.wire.deliver(icmp(by, from, to, 64, &[ECHO, 0, 0, 0, 0, 1, 0, 2, 5, 5]));
        self.pass(secs(1)).await;
        let sent = self.sent.borrow();
        let mut frames = sent.iter().map(|(_, frame)| frame);
        let answer = frames.find(|frame| {
            message_type(frame) == Some(ECHO_REPLY)
                && frame[22..54] == [to.octets(), from.octets()].concat()
                && frame[60..] == [0, 2, 5, 5]
        })?;
        answer.first_chunk().copied()
    }
}

fn address(stack: Stack<'_>) -> Option<(Ipv6Addr, Option<Ipv6Addr>)> {
    stack.config_v6().map(|config| (config.address.address(), config.gateway))
}

/// Runs `script` beside a stack that is configured as the command line says, by what `App::network` does.
fn run(xen: &Xen, config: Config, script: impl AsyncFnOnce(Lan, Stack<'static>) + 'static) {
    let guest = xen.domain();
    let lan = Lan { wire: Segment::default(), clock: xen.dom0(), said: Rc::default(), sent: Rc::default() };
    let (stack, _) = support::stack(&guest, lan.wire.clone(), config, xen.seed(), &lan.said);
    xen.run(async move { script(lan, stack).await });
}

#[test]
fn without_a_router_there_is_hardly_any_work() {
    check("nobody", 4, |xen| {
        run(xen, config("10.0.0.2/24", "auto"), async |lan, stack| {
            lan.pass(secs(600)).await;
            let asked = lan.solicitations();
            // At 0, 4, 12, 28, 60, 124, 252 and 508 s, or a little off.
            assert!((7..=9).contains(&asked.len()) && asked[0] < secs(1), "{asked:?}");
            let pauses: Vec<_> = asked.windows(2).map(|pair| pair[1] - pair[0]).collect();
            assert!(pauses.windows(2).all(|pair| pair[1] > pair[0] * 3 / 2), "{pauses:?}");
            assert!(lan.wire.polls() < 60, "the stack was polled {} times", lan.wire.polls());
            assert_eq!(address(stack), None);
            assert_eq!(lan.ping(5, neighbor(5), OWN).await, Some(neighbor_mac(5)), "the link-local address is there");
            assert_eq!(*lan.said.borrow(), ["10.0.0.2/24"]);
        });
    });
}

#[test]
fn an_advertisement_of_nothing_stops_no_timer() {
    check("DHCP", 2, |xen| {
        run(xen, config("dhcp", "auto"), async |lan, _| {
            lan.pass(secs(1)).await;
            lan.wire.deliver(advertisement(1, 0, &[]));
            lan.pass(secs(60)).await;
            assert!(discoveries(&lan.sent.borrow()) >= 4, "{}", discoveries(&lan.sent.borrow()));
        });
    });
    check("TCP", 2, |xen| {
        run(xen, config("10.0.0.2/24", "auto"), async |lan, stack| {
            lan.pass(secs(1)).await;
            lan.wire.deliver(advertisement(1, 0, &[]));
            let (mut rx, mut tx) = ([0; 64], [0; 64]);
            let mut socket = TcpSocket::new(stack, &mut rx, &mut tx);
            let connect = std::pin::pin!(socket.connect((IpAddress::Ipv6(neighbor(5)), 80)));
            select(connect, std::pin::pin!(lan.pass(secs(30)))).await;
            let sent = lan.sent.borrow();
            let syns = sent.iter().filter(|(_, frame)| frame[12..14] == [0x86, 0xdd] && frame[20] == 6).count();
            assert!(syns >= 4, "{syns}");
        });
    });
}

/// How many frames ask for a DHCP server.
fn discoveries(sent: &[Sent]) -> usize {
    sent.iter().filter(|(_, frame)| frame[12..14] == [8, 0] && frame[36..38] == [0, 67]).count()
}

#[test]
fn a_life() {
    check("a life", 4, |xen| {
        run(xen, config("10.0.0.2/24", "auto"), async |lan, stack| {
            lan.pass(secs(1)).await;
            lan.wire.deliver(advertisement(1, 1800, &[prefix(NET)]));
            lan.pass(secs(1)).await;
            let home = own(NET);
            assert_eq!(address(stack), Some((home, Some(neighbor(1)))));
            assert_eq!(*lan.said.borrow(), ["10.0.0.2/24", &format!("10.0.0.2/24, {home}/64, gateway fe80::1")]);
            assert_eq!(lan.ping(1, FAR, home).await, Some(neighbor_mac(1)), "by way of the router");
            assert!(lan.finds(home).await && !lan.finds(own(FAR)).await);
            assert_eq!(lan.ping(5, neighbor(5), OWN).await, Some(neighbor_mac(5)), "the link-local address stays");
            let (mut receive, mut send) = ([PacketMetadata::EMPTY; 2], [PacketMetadata::EMPTY; 2]);
            let (mut received, mut sent) = ([0; 256], [0; 256]);
            let mut socket = UdpSocket::new(stack, &mut receive, &mut received, &mut send, &mut sent);
            socket.bind(1000).unwrap();
            socket.send_to(b"hello", (IpAddress::Ipv6(FAR), 7)).await.unwrap();
            lan.pass(secs(1)).await;
            let is_hello = |frame: &[u8]| frame.ends_with(b"hello") && frame[22..38] == home.octets();
            assert!(lan.sent.borrow().iter().any(|(_, frame)| is_hello(frame) && frame[..6] == neighbor_mac(1)));

            // It is renewed for an hour.
            for _ in 0..6 {
                lan.pass(secs(600)).await;
                lan.wire.deliver(advertisement(1, 1800, &[prefix(NET)]));
            }
            assert_eq!(address(stack), Some((home, Some(neighbor(1)))));
            lan.sent.borrow_mut().clear();

            // The router says that it goes; another comes.
            lan.wire.deliver(advertisement(1, 0, &[]));
            lan.pass(secs(2)).await;
            assert_eq!(address(stack), Some((home, None)));
            assert!(!lan.solicitations().is_empty(), "another is asked for");
            lan.wire.deliver(advertisement(2, 1800, &[prefix(NET)]));
            lan.pass(secs(2)).await;
            assert_eq!(address(stack), Some((home, Some(neighbor(2)))));
            assert_eq!(lan.ping(2, FAR, home).await, Some(neighbor_mac(2)));

            // That one is heard of no more.
            lan.pass(secs(1800)).await;
            assert_eq!(address(stack), Some((home, None)));
            lan.pass(secs(7200)).await;
            assert_eq!(address(stack), None);
            assert!(lan.finds(OWN).await && !lan.finds(home).await);
            assert_eq!(lan.ping(5, neighbor(5), OWN).await, Some(neighbor_mac(5)));
            let said = lan.said.borrow();
            assert_eq!(said.last().map(String::as_str), Some("10.0.0.2/24"));
            assert!(said.len() <= 6, "{said:?}");
            assert!(lan.wire.polls() < 500, "the stack was polled {} times", lan.wire.polls());
        });
    });
}

#[test]
fn advertisements_that_are_none_change_nothing() {
    let message = [&[134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0][..], &prefix(NET)].concat();
    let of = |option: Vec<u8>| advertisement(1, 1800, &[option]);
    let mut bad_sum = of(prefix(NET));
    bad_sum[57] ^= 1;
    let mut code = message.clone();
    code[1] = 1;
    let mut options_without_length = message.clone();
    options_without_length.extend([1, 0, 2, 0, 0, 0, 0, 9]);
    let frames = vec![
        icmp(1, neighbor(1), ALL_NODES, 254, &message),
        icmp(1, FAR, ALL_NODES, 255, &message),
        icmp(1, OWN, ALL_NODES, 255, &message),
        icmp(1, neighbor(1), ALL_NODES, 255, &code),
        icmp(1, neighbor(1), ALL_NODES, 255, &options_without_length),
        icmp(1, neighbor(1), ALL_NODES, 255, &message[..47]),
        bad_sum,
        of(prefix_with(NET, 200, 7200, 3600)),
        of(prefix_with(NET, 129, 7200, 3600)),
        of(prefix_with(NET, 48, 7200, 3600)),
        of(prefix_with(NET, 64, 3600, 7200)),
        of(prefix(Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 0, 0))),
        of(prefix(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0))),
        of(prefix(Ipv6Addr::UNSPECIFIED)),
    ];
    check("bad advertisements", 2, move |xen| {
        let frames = frames.clone();
        run(xen, config("10.0.0.2/24", "auto"), async move |lan, stack| {
            for (number, frame) in frames.into_iter().enumerate() {
                lan.wire.deliver(frame);
                lan.pass(secs(2)).await;
                assert_eq!(address(stack), None, "frame {number}");
            }
            lan.wire.deliver(advertisement(1, 1800, &[prefix_with(NET, 200, 7200, 3600), prefix(NET)]));
            lan.pass(secs(2)).await;
            assert_eq!(address(stack), Some((own(NET), Some(neighbor(1)))));
            assert_eq!(lan.ping(1, FAR, own(NET)).await, Some(neighbor_mac(1)));
        });
    });
}

#[test]
fn a_flood_of_advertisements_is_little_work() {
    check("a flood", 2, |xen| {
        run(xen, config("10.0.0.2/24", "auto"), async |lan, stack| {
            lan.pass(secs(1)).await;
            let network = |number: u32| Ipv6Addr::from_bits(NET.to_bits() | u128::from(number) << 64);
            let (mut changes, mut last) = (0, None);
            let begin = lan.clock.now();
            for number in 0..10_000 {
                // The prefix before is not to be used any more: what is worst.
                let old = prefix_with(network(number), 64, 7200, 0);
                let router = (number % 200) as u8;
                lan.wire.deliver(advertisement(router, 1800, &[old, prefix(network(number + 1))]));
                if number % 10 == 9 {
                    lan.pass(Duration::from_millis(10)).await;
                    changes += u64::from(address(stack) != last);
                    last = address(stack);
                }
            }
            let time = (lan.clock.now() - begin).as_secs();
            assert!((2..=time + 2).contains(&changes), "{changes} changes in {time} s");
            let lines = lan.said.borrow().len() as u64;
            assert!(lines <= time / 10 + 2, "{lines} lines in {time} s");
            lan.pass(secs(30)).await;
            assert_eq!(*lan.said.borrow().last().unwrap(), {
                let (address, gateway) = address(stack).unwrap();
                format!("10.0.0.2/24, {address}/64, gateway {}", gateway.unwrap())
            });
            assert_eq!(lan.ping(5, neighbor(5), OWN).await, Some(neighbor_mac(5)), "it is alive");
        });
        assert!(xen.peak_allocation() < 8 << 20, "{}", xen.peak_allocation());
    });
}

#[test]
fn a_link_that_comes_back_has_routers_asked_again() {
    check("a link", 2, |xen| {
        run(xen, config("10.0.0.2/24", "auto"), async |lan, stack| {
            lan.pass(secs(1)).await;
            lan.wire.deliver(advertisement(1, 1800, &[prefix(NET)]));
            lan.pass(secs(10)).await;
            lan.wire.set_link(false);
            lan.sent.borrow_mut().clear();
            lan.pass(secs(100)).await;
            assert_eq!(lan.solicitations(), []);
            lan.wire.set_link(true);
            lan.pass(secs(1)).await;
            assert_eq!(lan.solicitations().len(), 1);
            // It is another network, where another router answers.
            let other = Ipv6Addr::new(0xfd34, 0, 0, 0, 0, 0, 0, 0);
            lan.wire.deliver(advertisement(2, 1800, &[prefix(other)]));
            lan.pass(secs(1)).await;
            assert_eq!(address(stack), Some((own(other), Some(neighbor(2)))));
        });
    });
}

#[test]
fn a_device_without_room_is_waited_for() {
    check("no room", 2, |xen| {
        run(xen, config("10.0.0.2/24", "auto"), async |lan, _| {
            lan.wire.set_room(false);
            lan.pass(secs(60)).await;
            assert!(lan.solicitations().is_empty());
            assert!(lan.wire.polls() < 30, "the stack was polled {} times", lan.wire.polls());
            lan.wire.set_room(true);
            lan.pass(secs(1)).await;
            // The one that waited, and the one that has become due meanwhile.
            assert!((1..=2).contains(&lan.solicitations().len()));
        });
    });
}

#[test]
fn name_servers_are_taken_where_the_command_line_names_none() {
    let servers = || [&[25, 3, 0, 0, 0, 0, 1, 0][..], &FAR.octets()].concat();
    let test = |xen: &Xen, config: Config, expected: &'static [Ipv6Addr]| {
        run(xen, config, async move |lan, stack| {
            lan.pass(secs(1)).await;
            lan.wire.deliver(advertisement(1, 1800, &[prefix(NET), servers()]));
            lan.pass(secs(1)).await;
            assert_eq!(stack.config_v6().unwrap().dns_servers, expected);
        });
    };
    check("no server", 1, |xen| test(xen, config("10.0.0.2/24", "auto"), &[FAR]));
    check("DHCP's", 1, |xen| test(xen, config("dhcp", "auto"), &[FAR]));
    let server = "10.0.0.1".parse().unwrap();
    check("by hand", 1, move |xen| {
        test(xen, Config { name_servers: vec![server], ..config("10.0.0.2/24", "auto") }, &[]);
    });
}

#[test]
fn who_did_not_ask_for_an_address_gets_none() {
    for v6 in ["", "fd00::2/64"] {
        check("not auto", 1, move |xen| {
            run(xen, config("10.0.0.2/24", v6), async |lan, stack| {
                let before = address(stack);
                lan.wire.deliver(advertisement(1, 1800, &[prefix(NET)]));
                lan.pass(secs(60)).await;
                assert_eq!(address(stack), before);
                assert!(lan.solicitations().is_empty());
            });
        });
    }
}

//! A day of leases: a server that loses answers, leaves out options, starts again with other addresses, goes away and comes
//! back, while the link comes and goes.

mod support;

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::time::Duration;

use sarab_net::{Config, Interface};
use support::hosts::{ALL, arp, ethernet, ipv4, parse_arp};
use support::segment::{MAC, Segment};
use xen_hal::Clock;
use xen_sim::{Domain, Xen, check};

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const SERVER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];
const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const DECLINE: u8 = 4;
const ACK: u8 = 5;
const NAK: u8 = 6;

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// A message of the client's.
struct Asked {
    kind: u8,
    number: [u8; 4],
    own: Ipv4Addr,
    requested: Option<Ipv4Addr>,
    server: Option<Ipv4Addr>,
    to_all: bool,
}

fn parse(frame: &[u8]) -> Option<Asked> {
    if frame.get(12..14)? != [8, 0] || frame[23] != 17 || frame.get(34..38)? != [0, 68, 0, 67] {
        return None;
    }
    let message = &frame[42..];
    let address = |bytes: &[u8]| Ipv4Addr::from(*bytes.first_chunk::<4>().unwrap());
    let mut asked = Asked {
        kind: 0,
        number: *message[4..].first_chunk().unwrap(),
        own: address(&message[12..]),
        requested: None,
        server: None,
        to_all: frame[..6] == ALL,
    };
    let mut options = &message[240..];
    while let [kind, len, rest @ ..] = options
        && *kind != 255
    {
        let (value, rest) = rest.split_at(usize::from(*len));
        options = rest;
        match kind {
            50 => asked.requested = Some(address(value)),
            53 => asked.kind = value[0],
            54 => asked.server = Some(address(value)),
            _ => {}
        }
    }
    Some(asked)
}

/// The server, and the link.
#[derive(Clone)]
struct Network {
    wire: Segment,
    clock: Domain,
    interface: Interface,
    said: support::Said,
    /// The address that it leases.
    address: Rc<Cell<Ipv4Addr>>,
    lease: Rc<Cell<u32>>,
    /// When the client is to ask all servers, where that is said.
    rebind: Rc<Cell<Option<u32>>>,
    is_away: Rc<Cell<bool>>,
    /// Options that a renewal leaves out.
    is_short: Rc<Cell<bool>>,
    /// Of a hundred answers so many are lost.
    lost: Rc<Cell<u64>>,
    /// When the lease of the address ends, by address.
    ends: Rc<RefCell<Vec<(Ipv4Addr, Duration)>>>,
    messages: Rc<Cell<u64>>,
    declined: Rc<Cell<u64>>,
    random: Rc<Cell<u64>>,
}

impl Network {
    fn run(xen: &Xen, config: Config, script: impl AsyncFnOnce(Network) + 'static) {
        let guest = xen.domain();
        let (wire, said) = (Segment::default(), support::Said::default());
        let (_, interface) = support::stack(&guest, wire.clone(), config, xen.seed(), &said);
        let network = Network {
            wire,
            clock: xen.dom0(),
            interface,
            said,
            address: Rc::new(Cell::new(Ipv4Addr::new(10, 0, 0, 7))),
            lease: Rc::new(Cell::new(600)),
            rebind: Rc::default(),
            is_away: Rc::default(),
            is_short: Rc::default(),
            lost: Rc::default(),
            ends: Rc::default(),
            messages: Rc::default(),
            declined: Rc::default(),
            random: Rc::new(Cell::new(xen.random(u64::MAX))),
        };
        xen.run(async move { script(network).await });
    }

    fn random(&self, end: u64) -> u64 {
        let next = self.random.get().wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.random.set(next);
        (next >> 33) % end
    }

    fn answer(&self, asked: &Asked) -> Option<Vec<u8>> {
        let address = self.address.get();
        let now = self.clock.now();
        let kind = match asked.kind {
            DISCOVER => OFFER,
            REQUEST if asked.server.is_some_and(|server| server != SERVER) => return None,
            REQUEST => {
                let wanted = asked.requested.unwrap_or(asked.own);
                if wanted == address { ACK } else { NAK }
            }
            DECLINE => {
                self.declined.set(self.declined.get() + 1);
                let [a, b, c, d] = address.octets();
                self.address.set(Ipv4Addr::new(a, b, c, d + 1));
                return None;
            }
            other => panic!("message {other}"),
        };
        let mut message = vec![0; 240];
        message[..4].copy_from_slice(&[2, 1, 6, 0]);
        message[4..8].copy_from_slice(&asked.number);
        message[28..34].copy_from_slice(&MAC);
        message[236..].copy_from_slice(&[99, 130, 83, 99]);
        message.extend([53, 1, kind, 54, 4]);
        message.extend(SERVER.octets());
        if kind != NAK {
            message[16..20].copy_from_slice(&address.octets());
            message.extend([&[51, 4][..], &self.lease.get().to_be_bytes()].concat());
            if let Some(rebind) = self.rebind.get() {
                message.extend([&[59, 4][..], &rebind.to_be_bytes()].concat());
            }
            let is_renewal = !asked.own.is_unspecified();
            if !(is_renewal && self.is_short.get()) {
                message.extend(
                    [&[1, 4, 255, 255, 255, 0, 3, 4][..], &SERVER.octets(), &[6, 4], &SERVER.octets()].concat(),
                );
            }
        }
        if kind == ACK {
            let mut ends = self.ends.borrow_mut();
            ends.retain(|(other, _)| *other != address);
            ends.push((address, now + secs(self.lease.get().into())));
        }
        message.push(255);
        let datagram = [&[0, 67, 0, 68][..], &(8 + message.len() as u16).to_be_bytes(), &[0, 0], &message].concat();
        let to = if kind == NAK { ALL } else { MAC };
        Some(ethernet(to, SERVER_MAC, 0x0800, &ipv4(SERVER, Ipv4Addr::BROADCAST, 17, &datagram)))
    }

    /// Lets time pass, in which the server answers.
    async fn pass(&self, time: Duration) {
        let end = self.clock.now() + time;
        while self.clock.now() < end {
            self.clock.sleep(Duration::from_millis(200).min(end - self.clock.now())).await;
            while let Some(frame) = self.wire.take() {
                if let Some(asked) = parse(&frame) {
                    self.messages.set(self.messages.get() + 1);
                    assert!(asked.to_all || !asked.own.is_unspecified());
                    if self.is_away.get() || self.random(100) < self.lost.get() {
                        continue;
                    }
                    self.answer(&asked).into_iter().for_each(|frame| self.wire.deliver(frame));
                } else if let Some(request) = parse_arp(&frame)
                    && request.is_request
                    && request.target == SERVER
                    && !self.is_away.get()
                {
                    self.wire.deliver(arp(false, MAC, (SERVER_MAC, SERVER), (MAC, request.sender)));
                }
            }
            self.check();
        }
    }

    /// What is never to be: an address whose lease has ended.
    fn check(&self) {
        let Some(own) = self.interface.addresses().ipv4 else { return };
        let ends = self.ends.borrow();
        let end = ends.iter().find(|(address, _)| *address == own.address()).expect("an address of the server's").1;
        // The stack is given another address once a second at most.
        assert!(self.clock.now() <= end + secs(2), "{own} at {:?}, whose lease ended at {end:?}", self.clock.now());
    }

    fn shown(&self) -> String {
        self.interface.addresses().to_string()
    }
}

#[test]
fn a_day() {
    check("a day", 3, |xen| {
        Network::run(xen, support::config("dhcp", ""), async |network| {
            network.lost.set(10);
            network.pass(secs(60)).await;
            assert_eq!(network.shown(), "10.0.0.7/24, gateway 10.0.0.1");
            assert_eq!(network.interface.addresses().name_servers, [IpAddr::V4(SERVER)]);
            // Four hours of renewals, some of which leave out everything but the lease.
            for hour in 0..4 {
                network.is_short.set(hour % 2 == 1);
                network.pass(secs(3600)).await;
                assert_eq!(network.shown(), "10.0.0.7/24, gateway 10.0.0.1");
            }
            assert_eq!(network.said.borrow().len(), 1, "{:?}", network.said.borrow());
            network.is_short.set(false);
            // The server starts again with another range, and refuses the old one.
            network.address.set(Ipv4Addr::new(10, 0, 0, 99));
            network.pass(secs(900)).await;
            assert_eq!(network.shown(), "10.0.0.99/24, gateway 10.0.0.1");
            assert!(
                network
                    .said
                    .borrow()
                    .contains(&"DHCP server 10.0.0.1 refuses 10.0.0.7: asking for another address".into())
            );
            // It is away: for a while that does not matter, then the address is lost.
            network.is_away.set(true);
            network.pass(secs(250)).await;
            assert_eq!(network.shown(), "10.0.0.99/24, gateway 10.0.0.1");
            network.pass(secs(7200)).await;
            assert_eq!(network.shown(), "no address");
            assert!(network.said.borrow().contains(&"the lease of 10.0.0.99 has expired".into()));
            network.is_away.set(false);
            network.address.set(Ipv4Addr::new(10, 0, 0, 100));
            network.pass(secs(120)).await;
            assert_eq!(network.shown(), "10.0.0.100/24, gateway 10.0.0.1");
            // The cable is pulled now and then; sometimes into another network.
            for pull in 0..40 {
                network.wire.set_link(false);
                let away = 1 + network.random(400);
                network.pass(secs(away)).await;
                if pull % 4 == 0 {
                    network.address.set(Ipv4Addr::new(10, 0, 0, 101 + pull));
                }
                network.wire.set_link(true);
                network.pass(secs(60)).await;
                assert_eq!(network.shown(), format!("{}/24, gateway 10.0.0.1", network.address.get()), "pull {pull}");
            }
            // Leases of a few seconds.
            network.lease.set(10);
            network.pass(secs(700)).await;
            let before = network.messages.get();
            network.pass(secs(600)).await;
            let (asked, address) = (network.messages.get() - before, network.address.get());
            assert!((100..=400).contains(&asked), "{asked} messages in 600 s");
            assert_eq!(network.shown(), format!("{address}/24, gateway 10.0.0.1"));
            let (asked, lines) = (network.messages.get(), network.said.borrow().len());
            assert!(asked < 1500 && lines < 150, "{asked} messages, {lines} lines");
        });
    });
}

/// Times that are no whole microseconds, as the clock's are, come up in the end.
#[test]
fn parts_of_seconds_pass() {
    check("thirds", 2, |xen| {
        Network::run(xen, support::config("dhcp", ""), async |network| {
            // The first renewal is after four sevenths of it.
            network.rebind.set(Some(10));
            network.pass(secs(600)).await;
            let asked = network.messages.get();
            assert!((90..=120).contains(&asked), "{asked}");
        });
    });
}

#[test]
fn an_address_that_another_host_has_is_declined() {
    check("declined", 4, |xen| {
        Network::run(xen, support::config("dhcp", ""), async |network| {
            network.pass(Duration::from_millis(400)).await;
            let taken = network.address.get();
            let mac = [2, 0, 0, 0, 0, 0x66];
            network.wire.deliver(arp(false, MAC, (mac, taken), (MAC, Ipv4Addr::UNSPECIFIED)));
            network.pass(Duration::from_millis(600)).await;
            assert_eq!(network.declined.get(), 1);
            network.pass(secs(30)).await;
            assert_eq!(network.shown(), "10.0.0.8/24, gateway 10.0.0.1");
            assert!(network.said.borrow().iter().any(|line| line == "10.0.0.7 is in use by 02:00:00:00:00:66"));
        });
    });
}

#[test]
fn who_is_not_answered_says_so_once() {
    check("no server", 2, |xen| {
        Network::run(xen, support::config("dhcp", ""), async |network| {
            network.is_away.set(true);
            network.pass(secs(3600)).await;
            assert_eq!(*network.said.borrow(), ["no address after 10 s; is there a DHCP server?"]);
            let asked = network.messages.get();
            assert!((50..=75).contains(&asked), "{asked}");
            network.is_away.set(false);
            network.pass(secs(80)).await;
            assert_eq!(network.shown(), "10.0.0.7/24, gateway 10.0.0.1");
        });
    });
}

//! Two TCP/IP stacks, one on netfront and one on netback, and a wire between them that loses and reorders.

mod support;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Context;
use std::time::Duration;

use embassy_net::tcp::TcpSocket;
use embassy_net::udp::{PacketMetadata, UdpSocket};
use embassy_net::{Config, IpAddress, Ipv4Address, Ipv4Cidr, Ipv6Address, Ipv6Cidr, Stack, StackResources};
use embassy_net::{StaticConfigV4, StaticConfigV6};
use embassy_net_driver::{Capabilities, Driver, HardwareAddress, LinkState, RxToken};
use futures_util::future::join;
use pcap_file::pcap::PcapReader;
use xen_hal::Clock;
use xen_netif::back::Limits;
use xen_netif::front::Options;
use xen_netif::headers::{Headers, TCP};
use xen_netif::pcap::Capture;
use xen_sim::{Xen, check};

use support::network::{Bench, bench};

const BACK_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 9];
/// The guest's addresses, and the backend's.
const ADDRESSES: [(Ipv4Address, Ipv6Address); 2] = [
    (Ipv4Address::new(10, 0, 0, 1), Ipv6Address::new(0xfd00, 0, 0, 0, 0, 0, 0, 1)),
    (Ipv4Address::new(10, 0, 0, 2), Ipv6Address::new(0xfd00, 0, 0, 0, 0, 0, 0, 2)),
];

/// A driver whose frames come late, out of order, twice, or not at all.
struct Wire<D> {
    driver: D,
    xen: Xen,
    percent: u64,
    queue: VecDeque<Vec<u8>>,
}

/// Frames that were lost, in all tests.
static LOST: AtomicU64 = AtomicU64::new(0);

struct Received(Vec<u8>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(mut self, read: F) -> R {
        read(&mut self.0)
    }
}

impl<D: Driver> Driver for Wire<D> {
    type RxToken<'a>
        = Received
    where
        Self: 'a;
    type TxToken<'a>
        = D::TxToken<'a>
    where
        Self: 'a;

    fn receive(&mut self, cx: &mut Context<'_>) -> Option<(Received, D::TxToken<'_>)> {
        while self.queue.len() < 4
            && let Some((frame, _)) = self.driver.receive(cx)
        {
            let frame = frame.consume(|bytes| bytes.to_vec());
            if self.xen.random(100) < self.percent {
                LOST.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            if self.xen.random(100) < self.percent {
                self.queue.push_back(frame.clone());
            }
            self.queue.push_back(frame);
        }
        let index = match self.queue.len() {
            0 => return None,
            1.. if self.xen.random(100) >= self.percent => 0,
            len => self.xen.random(len as u64) as usize,
        };
        let token = self.driver.transmit(cx)?;
        Some((Received(self.queue.remove(index).expect("it is in the queue")), token))
    }

    fn transmit(&mut self, cx: &mut Context<'_>) -> Option<D::TxToken<'_>> {
        self.driver.transmit(cx)
    }

    fn link_state(&mut self, cx: &mut Context<'_>) -> LinkState {
        self.driver.link_state(cx)
    }

    fn capabilities(&self) -> Capabilities {
        self.driver.capabilities()
    }

    fn hardware_address(&self) -> HardwareAddress {
        self.driver.hardware_address()
    }
}

/// What the two ends are like.
#[derive(Clone, Copy, Debug)]
struct Case {
    mtu: u16,
    /// Percent of frames that are lost, doubled or out of order.
    percent: u64,
    /// The guest takes and sends large segments.
    large: bool,
    checksums: bool,
    v6: bool,
}

/// Starts a stack; the address's number says which.
fn start<D: Driver + 'static>(domain: &xen_sim::Domain, driver: D, number: usize) -> Stack<'static> {
    let mut config = Config::ipv4_static(StaticConfigV4 {
        address: Ipv4Cidr::new(ADDRESSES[number].0, 24),
        gateway: None,
        dns_servers: Default::default(),
    });
    config.ipv6 = embassy_net::ConfigV6::Static(StaticConfigV6 {
        address: Ipv6Cidr::new(ADDRESSES[number].1, 64),
        gateway: None,
        dns_servers: Default::default(),
    });
    // Small ones, for the test's time.
    let resources = Box::leak(Box::new(StackResources::<4>::new()));
    let cuts = xen_netif::cuts_segments(&driver.capabilities());
    let (stack, mut runner) = embassy_net::new(driver, config, resources, number as u64 + 1);
    stack.set_tcp_segmentation(cuts);
    domain.spawn(async move { runner.run().await }).detach();
    stack
}

/// Both stacks, on a bench that is attached.
async fn stacks(xen: &Xen, bench: &Bench, case: Case, capture: Rc<RefCell<Vec<u8>>>) -> [Stack<'static>; 2] {
    let options = Options::default().with_large_segments(case.large).with_checksums(case.checksums);
    let (interface, port) = bench.connect(options).await;
    let wire = |driver| Wire { driver, xen: xen.clone(), percent: case.percent, queue: VecDeque::new() };
    let clock = bench.front.clone();
    let now = move || Duration::from_secs(1_700_000_000) + clock.now();
    let device = Capture::new(interface.device(), now, move |bytes: &[u8]| capture.borrow_mut().extend(bytes));
    let front = start(&bench.front, wire(device), 0);
    let device = port.device(BACK_MAC, case.mtu);
    let back =
        start(&bench.back, Wire { driver: device, xen: xen.clone(), percent: case.percent, queue: VecDeque::new() }, 1);
    join(front.wait_config_up(), back.wait_config_up()).await;
    [front, back]
}

fn byte(at: usize) -> u8 {
    (at * 31 + at / 251) as u8
}

/// Sends so many bytes, and checks as many that come.
async fn exchange(socket: &mut TcpSocket<'_>, count: usize) {
    let (mut reader, mut writer) = socket.split();
    let send = async {
        let mut at = 0;
        while at < count {
            let bytes: Vec<u8> = (at..count.min(at + 5000)).map(byte).collect();
            at += writer.write(&bytes).await.unwrap();
        }
        writer.flush().await.unwrap();
    };
    let receive = async {
        let mut at = 0;
        let mut bytes = [0; 5000];
        while at < count {
            let len = reader.read(&mut bytes).await.unwrap();
            assert!(len > 0, "closed after {at} of {count} bytes");
            assert!(bytes[..len].iter().enumerate().all(|(index, found)| *found == byte(at + index)), "wrong at {at}");
            at += len;
        }
    };
    join(send, receive).await;
}

fn tcp(case: Case, name: &str, runs: u64) {
    check(&format!("{name}, {case:?}"), runs, move |xen| {
        let bench = bench(xen, Limits::default());
        let own = xen.clone();
        let capture = Rc::<RefCell<Vec<u8>>>::default();
        let written = capture.clone();
        let count = (usize::from(case.mtu) * 60).clamp(20_000, 400_000);
        xen.run(async move {
            bench.attach(&[]).await;
            bench.set_mtu(case.mtu).await;
            let [front, back] = stacks(&own, &bench, case, capture).await;
            let server = async {
                let (mut incoming, mut outgoing) = (vec![0; 65535], vec![0; 65535]);
                let mut socket = TcpSocket::new(front, &mut incoming, &mut outgoing);
                socket.accept(80).await.unwrap();
                exchange(&mut socket, count).await;
            };
            let client = async {
                let (mut incoming, mut outgoing) = (vec![0; 65535], vec![0; 65535]);
                let mut socket = TcpSocket::new(back, &mut incoming, &mut outgoing);
                let (v4, v6) = ADDRESSES[0];
                let address = if case.v6 { IpAddress::Ipv6(v6) } else { IpAddress::Ipv4(v4) };
                socket.connect((address, 80)).await.unwrap();
                exchange(&mut socket, count).await;
            };
            join(server, client).await;
        });
        xen.end();
        look_at(&written.borrow(), case, count);
    });
}

/// What was captured at the guest's end shows what went over the wire.
fn look_at(capture: &[u8], case: Case, count: usize) {
    let mut reader = PcapReader::new(capture).unwrap();
    let (mut segments, mut payload, mut largest, mut last) = (0, 0, 0, Duration::ZERO);
    while let Some(packet) = reader.next_packet() {
        let packet = packet.unwrap();
        assert!(packet.timestamp >= last.max(Duration::from_secs(1_700_000_000)));
        last = packet.timestamp;
        assert_eq!(packet.data.len(), packet.orig_len as usize);
        let Some(headers) = Headers::parse(&packet.data).filter(|headers| headers.protocol == TCP) else { continue };
        let own = headers.end - headers.transport - headers.tcp_header(&packet.data).unwrap();
        segments += 1;
        payload += own;
        largest = largest.max(own);
    }
    assert!(payload >= 2 * count, "{payload} bytes in both directions");
    let mtu = usize::from(case.mtu);
    // Large segments need checksums that are left to the other end.
    match case.large && case.checksums {
        true if mtu < 9000 => assert!(largest > mtu, "{largest} bytes at most in {segments} segments"),
        true => {}
        false => assert!(largest + 40 <= mtu, "{largest} bytes where the MTU is {mtu}"),
    }
}

const PLAIN: Case = Case { mtu: 1500, percent: 0, large: true, checksums: true, v6: false };

#[test]
fn large_segments_at_both_ends() {
    tcp(PLAIN, "both", 20);
    tcp(Case { v6: true, ..PLAIN }, "both", 20);
}

#[test]
fn large_segments_at_one_end_only() {
    tcp(Case { large: false, ..PLAIN }, "one end", 20);
    tcp(Case { large: false, v6: true, ..PLAIN }, "one end", 20);
    tcp(Case { large: false, checksums: false, ..PLAIN }, "one end", 20);
    // Cut by the guest itself, since it makes the checksums.
    tcp(Case { checksums: false, ..PLAIN }, "one end", 20);
}

#[test]
fn loss_and_reordering() {
    for large in [true, false] {
        tcp(Case { percent: 3, large, ..PLAIN }, "loss", 40);
        tcp(Case { percent: 3, large, checksums: false, v6: true, ..PLAIN }, "loss", 40);
    }
    let lost = LOST.load(Ordering::Relaxed);
    assert!(lost > 100, "only {lost} frames were lost");
}

#[test]
fn any_mtu() {
    for mtu in [68, 296, 576, 1280, 4097, 9000, 65_535] {
        for large in [true, false] {
            let v6 = mtu == 9000;
            tcp(Case { mtu, large, v6, percent: u64::from(mtu == 576), ..PLAIN }, "MTU", 8);
        }
    }
}

/// A stranger who sends SYNs in the client's name, and in others', before the connection and all the time: it works, and the
/// guest's segments stay large.
#[test]
fn forged_syns_disturb_nobody() {
    for (large, v6) in [(true, false), (true, true), (false, false)] {
        let case = Case { large, v6, ..PLAIN };
        check(&format!("forged, {case:?}"), 10, move |xen| {
            let bench = bench(xen, Limits::default());
            let own = xen.clone();
            xen.run(async move {
                bench.attach(&[]).await;
                bench.set_mtu(case.mtu).await;
                let [front, back] = stacks(&own, &bench, case, Rc::default()).await;
                let port = bench.ports.borrow()[0].clone();
                let client_port = Rc::new(Cell::new(5000));
                let done = Rc::new(Cell::new(false));
                let server = async {
                    let (mut incoming, mut outgoing) = (vec![0; 65535], vec![0; 65535]);
                    let mut socket = TcpSocket::new(front, &mut incoming, &mut outgoing);
                    socket.accept(80).await.unwrap();
                    exchange(&mut socket, 300_000).await;
                };
                let client = async {
                    // Those before it come first.
                    bench.front.sleep(Duration::from_millis(20)).await;
                    let (mut incoming, mut outgoing) = (vec![0; 65535], vec![0; 65535]);
                    let mut socket = TcpSocket::new(back, &mut incoming, &mut outgoing);
                    let (v4, v6) = ADDRESSES[0];
                    let address = if case.v6 { IpAddress::Ipv6(v6) } else { IpAddress::Ipv4(v4) };
                    socket.connect((address, 80)).await.unwrap();
                    client_port.set(socket.local_endpoint().unwrap().port);
                    exchange(&mut socket, 300_000).await;
                    done.set(true);
                };
                let stranger = async {
                    for index in 0.. {
                        // To another port before: what listens has one socket, which a SYN keeps busy.
                        let (from, to) = match (client_port.get(), index % 2) {
                            (5000, _) => (5000 + index as u16, 81),
                            (port, 0) => (port, 80),
                            (_, _) => (6000 + index as u16, 80),
                        };
                        let _ = port.send(syn(case.v6, from, to, 1000 + index).into());
                        if done.get() {
                            return;
                        }
                        own.dom0().sleep(Duration::from_micros(20)).await;
                    }
                };
                join(stranger, join(server, client)).await;
                let sent = port.statistics();
                assert!(large || sent.from_guest > 200, "{sent:?}");
            });
            xen.end();
        });
    }
}

/// A SYN with the smallest MSS from the client's address.
fn syn(v6: bool, from: u16, to: u16, number: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let ethernet = etherparse::PacketBuilder::ethernet2(BACK_MAC, [0, 0x16, 0x3e, 1, 2, 3]);
    let options = [etherparse::TcpOptionElement::MaximumSegmentSize(88)];
    let [guest, client] = ADDRESSES;
    match v6 {
        true => ethernet.ipv6(client.1.octets(), guest.1.octets(), 64).tcp(from, to, number, 9),
        false => ethernet.ipv4(client.0.octets(), guest.0.octets(), 64).tcp(from, to, number, 9),
    }
    .syn()
    .options(&options)
    .unwrap()
    .write(&mut bytes, &[])
    .unwrap();
    bytes
}

#[test]
fn udp_goes_both_ways() {
    for (checksums, large, v6) in [(true, true, false), (false, true, false), (true, false, true), (false, false, true)]
    {
        check("UDP", 4, move |xen| {
            let bench = bench(xen, Limits::default());
            let own = xen.clone();
            xen.run(async move {
                bench.attach(&[]).await;
                let case = Case { checksums, large, mtu: 9000, ..PLAIN };
                bench.set_mtu(case.mtu).await;
                let [front, back] = stacks(&own, &bench, case, Rc::default()).await;
                let mut memory = [(); 4].map(|()| (vec![PacketMetadata::EMPTY; 8], vec![0; 65535]));
                let [a, b, c, d] = &mut memory;
                let mut at_front = UdpSocket::new(front, &mut a.0, &mut a.1, &mut b.0, &mut b.1);
                let mut at_back = UdpSocket::new(back, &mut c.0, &mut c.1, &mut d.0, &mut d.1);
                at_front.bind(53).unwrap();
                at_back.bind(54).unwrap();
                let (v4_address, v6_address) = ADDRESSES[1];
                let address = if v6 { IpAddress::Ipv6(v6_address) } else { IpAddress::Ipv4(v4_address) };
                // Of one page, and of several.
                for len in [1, 2, 1400, 8900] {
                    let bytes: Vec<u8> = (0..len).map(byte).collect();
                    let mut found = vec![0; 65535];
                    at_front.send_to(&bytes, (address, 54)).await.unwrap();
                    let (count, from) = at_back.recv_from(&mut found).await.unwrap();
                    assert!(found[..count] == bytes, "{len} bytes from the guest");
                    at_back.send_to(&bytes, from.endpoint).await.unwrap();
                    let (count, _) = at_front.recv_from(&mut found).await.unwrap();
                    assert!(found[..count] == bytes, "{len} bytes to the guest");
                }
            });
            xen.end();
        });
    }
}

//! TCP on wide-area paths: pairs of interfaces, and between them a path with a rate, a delay, a queue, losses and
//! reordering, all in virtual time and from a seed. `cargo test --features wan-tests --test wan -- --nocapture` prints
//! what they achieve.
#![cfg(feature = "wan-tests")]
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{self, Device, DeviceCapabilities, Medium};
use smoltcp::socket::tcp;
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, Ipv4Packet, TcpPacket};

const MSS: usize = 1460;
const SECOND: u64 = 1_000_000;

/// splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    fn happens(&mut self, per_million: u64) -> bool {
        self.next() % 1_000_000 < per_million
    }
}

/// A device that cuts TCP segments.
#[derive(Default)]
struct Port {
    received: VecDeque<Vec<u8>>,
    sent: Vec<Vec<u8>>,
}

struct RxToken(Vec<u8>);
struct TxToken<'a>(&'a mut Vec<Vec<u8>>);

impl phy::RxToken for RxToken {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl phy::TxToken for TxToken<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let value = f(&mut frame);
        self.0.push(frame);
        value
    }
}

impl Device for Port {
    type RxToken<'a> = RxToken;
    type TxToken<'a> = TxToken<'a>;

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = 65535;
        capabilities.tcp_segmentation = true;
        capabilities.checksum = phy::ChecksumCapabilities::ignored();
        capabilities
    }

    fn receive(&mut self, _: Instant) -> Option<(RxToken, TxToken<'_>)> {
        let frame = self.received.pop_front()?;
        Some((RxToken(frame), TxToken(&mut self.sent)))
    }

    fn transmit(&mut self, _: Instant) -> Option<TxToken<'_>> {
        Some(TxToken(&mut self.sent))
    }
}

/// The packets of a frame: a SYN's MSS is that of the wire, and data has no more in one.
fn cut(mut frame: Vec<u8>) -> Vec<Vec<u8>> {
    let header = Ipv4Packet::new_unchecked(&frame).header_len() as usize;
    let tcp = TcpPacket::new_unchecked(&frame[header..]);
    let start = header + tcp.header_len() as usize;
    let (number, syn, fin) = (tcp.seq_number(), tcp.syn(), tcp.fin());
    if syn {
        // The first option.
        assert_eq!(frame[header + 20], 2);
        frame[header + 22..header + 24].copy_from_slice(&(MSS as u16).to_be_bytes());
        return vec![frame];
    }
    if frame.len() <= start + MSS {
        return vec![frame];
    }
    let mut packets = Vec::new();
    for at in (start..frame.len()).step_by(MSS) {
        let end = (at + MSS).min(frame.len());
        let mut packet = [&frame[..start], &frame[at..end]].concat();
        let total = packet.len() as u16;
        Ipv4Packet::new_unchecked(&mut packet[..]).set_total_len(total);
        let mut tcp = TcpPacket::new_unchecked(&mut packet[header..]);
        tcp.set_seq_number(number + (at - start));
        tcp.set_fin(fin && end == frame.len());
        packets.push(packet);
    }
    packets
}

/// Sequence number and length of a packet's data.
fn data(packet: &[u8]) -> (u32, usize) {
    let header = Ipv4Packet::new_unchecked(packet).header_len() as usize;
    let tcp = TcpPacket::new_unchecked(&packet[header..]);
    (
        tcp.seq_number().0 as u32,
        packet.len() - header - tcp.header_len() as usize,
    )
}

#[derive(Clone, Copy)]
struct Path {
    /// Bits in a second.
    rate: u64,
    /// In one direction.
    delay: Duration,
    /// Packets that wait for their turn.
    queue: usize,
    /// Of a million packets, and of a million bursts from a device.
    loss: u64,
    burst_loss: u64,
    /// Of a million packets, those that come late by so much, or arrive at once if it is negative.
    reorder: u64,
    reorder_by: i64,
}

const PLAIN: Path = Path {
    rate: 200_000_000,
    delay: Duration::from_millis(25),
    queue: 4000,
    loss: 0,
    burst_loss: 0,
    reorder: 0,
    reorder_by: 0,
};

/// One direction of a path.
#[derive(Default)]
struct Direction {
    leaves: VecDeque<u64>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Statistics {
    /// Frames with data that the stack has handed to its device.
    frames: u64,
    /// Bytes of data in packets.
    sent: u64,
    lost: u64,
    again: u64,
    /// Packets without data.
    bare: u64,
}

struct Node {
    interface: Interface,
    port: Port,
    sockets: SocketSet<'static>,
    socket: SocketHandle,
    /// What it sends, once it may.
    to_send: u64,
    received: u64,
    statistics: Statistics,
    highest: Option<u32>,
    poll_at: u64,
}

impl Node {
    fn new(number: u8, seed: u64, buffer: usize) -> Node {
        let mut port = Port::default();
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut port, Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            addresses
                .push(IpCidr::new(IpAddress::v4(10, 0, 0, number), 24))
                .unwrap();
        });
        let buffer = || tcp::SocketBuffer::new(vec![0; buffer]);
        let mut sockets = SocketSet::new(vec![]);
        let socket = sockets.add(tcp::Socket::new(buffer(), buffer()));
        Node {
            interface,
            port,
            sockets,
            socket,
            to_send: 0,
            received: 0,
            statistics: Statistics::default(),
            highest: None,
            poll_at: 0,
        }
    }

    /// What the stack and the application do at this time.
    fn run(&mut self, now: u64) {
        let time = Instant::from_micros(now as i64);
        let junk = [0x55; 65536];
        loop {
            self.interface.poll(time, &mut self.port, &mut self.sockets);
            let socket = self.sockets.get_mut::<tcp::Socket>(self.socket);
            let mut changed = false;
            while socket.can_recv() {
                self.received += socket.recv(|data| (data.len(), data.len() as u64)).unwrap();
                changed = true;
            }
            while self.to_send > 0 && socket.can_send() {
                let len = (self.to_send as usize).min(junk.len());
                let sent = socket.send_slice(&junk[..len]).unwrap();
                self.to_send -= sent as u64;
                changed = sent > 0;
                if sent < len {
                    break;
                }
            }
            if !changed {
                break;
            }
        }
        let at = self.interface.poll_at(time, &self.sockets);
        self.poll_at = at.map_or(u64::MAX, |at| (at.total_micros() as u64).max(now + 1));
    }
}

/// Pairs of nodes, of which each first one sends to its second one on a path that all share.
struct World {
    nodes: Vec<Node>,
    path: Path,
    directions: [Direction; 2],
    random: Random,
    arrivals: BinaryHeap<Reverse<(u64, u64)>>,
    packets: BTreeMap<u64, (usize, Vec<u8>)>,
    next: u64,
    now: u64,
}

impl World {
    fn new(path: Path, pairs: usize, buffer: usize, seed: u64) -> World {
        let mut nodes: Vec<_> = (0..2 * pairs)
            .map(|index| Node::new(index as u8 + 1, seed * 1000 + index as u64, buffer))
            .collect();
        for index in (1..2 * pairs).step_by(2) {
            let node = &mut nodes[index];
            let socket = node.sockets.get_mut::<tcp::Socket>(node.socket);
            socket.listen(80).unwrap();
        }
        World {
            nodes,
            path,
            directions: Default::default(),
            random: Random(seed),
            arrivals: BinaryHeap::new(),
            packets: BTreeMap::new(),
            next: 0,
            now: 0,
        }
    }

    /// A pair begins.
    fn connect(&mut self, pair: usize, bytes: u64) {
        let node = &mut self.nodes[2 * pair];
        let peer = IpAddress::v4(10, 0, 0, 2 * pair as u8 + 2);
        let socket = node.sockets.get_mut::<tcp::Socket>(node.socket);
        let cx = node.interface.context();
        socket.connect(cx, (peer, 80), 5000 + pair as u16).unwrap();
        node.to_send = bytes;
        node.poll_at = self.now;
    }

    fn transmit(&mut self, from: usize) {
        for frame in std::mem::take(&mut self.nodes[from].port.sent) {
            let burst_lost = self.random.happens(self.path.burst_loss);
            let statistics = &mut self.nodes[from].statistics;
            match data(&frame).1 {
                0 => statistics.bare += 1,
                _ => statistics.frames += 1,
            }
            for packet in cut(frame) {
                self.transmit_packet(from, packet, burst_lost);
            }
        }
    }

    fn transmit_packet(&mut self, from: usize, packet: Vec<u8>, lost: bool) {
        let path = self.path;
        let (number, len) = data(&packet);
        let statistics = &mut self.nodes[from].statistics;
        if len > 0 {
            statistics.sent += len as u64;
            let end = number.wrapping_add(len as u32);
            match self.nodes[from].highest {
                Some(highest) if (end.wrapping_sub(highest) as i32) <= 0 => {
                    self.nodes[from].statistics.again += len as u64;
                }
                _ => self.nodes[from].highest = Some(end),
            }
        }
        let direction = &mut self.directions[from % 2];
        while direction.leaves.front().is_some_and(|&at| at <= self.now) {
            direction.leaves.pop_front();
        }
        let lost = lost | self.random.happens(path.loss) | (direction.leaves.len() >= path.queue);
        if lost {
            self.nodes[from].statistics.lost += len as u64;
            return;
        }
        let before = direction.leaves.back().copied().unwrap_or(0).max(self.now);
        let leaves = before + (packet.len() as u64 + 38) * 8 * SECOND / path.rate;
        direction.leaves.push_back(leaves);
        let mut arrives = leaves + path.delay.total_micros();
        if self.random.happens(path.reorder) {
            arrives = arrives.saturating_add_signed(path.reorder_by).max(leaves);
        }
        self.arrivals.push(Reverse((arrives, self.next)));
        self.packets.insert(self.next, (from ^ 1, packet));
        self.next += 1;
    }

    fn run_until(&mut self, end: u64) {
        loop {
            let arrival = self
                .arrivals
                .peek()
                .map_or(u64::MAX, |&Reverse((at, _))| at);
            let timer = self.nodes.iter().map(|node| node.poll_at).min().unwrap();
            let next = arrival.min(timer);
            if next >= end {
                self.now = end;
                return;
            }
            assert!(next >= self.now);
            self.now = next;
            while let Some(&Reverse((at, number))) = self.arrivals.peek() {
                if at > self.now {
                    break;
                }
                self.arrivals.pop();
                let (to, packet) = self.packets.remove(&number).unwrap();
                self.nodes[to].port.received.push_back(packet);
                self.nodes[to].poll_at = self.now;
            }
            for index in 0..self.nodes.len() {
                if self.nodes[index].poll_at <= self.now {
                    self.nodes[index].run(self.now);
                    self.transmit(index);
                }
            }
        }
    }
}

struct Outcome {
    /// Megabits in a second, of each pair.
    rates: Vec<f64>,
    statistics: Vec<Statistics>,
}

/// So many pairs send for so many seconds; the first few do not count.
fn measure(path: Path, pairs: usize, buffer: usize, seconds: (u64, u64), seed: u64) -> Outcome {
    let mut world = World::new(path, pairs, buffer, seed);
    for pair in 0..pairs {
        world.connect(pair, u64::MAX);
        world.run_until(world.now + 50_000);
    }
    world.run_until(seconds.0 * SECOND);
    let before: Vec<_> = world.nodes.iter().map(|node| node.received).collect();
    world.run_until(seconds.1 * SECOND);
    let rate = |pair: usize| {
        let index = 2 * pair + 1;
        (world.nodes[index].received - before[index]) as f64 * 8.0
            / 1e6
            / (seconds.1 - seconds.0) as f64
    };
    Outcome {
        rates: (0..pairs).map(rate).collect(),
        statistics: (0..pairs)
            .map(|pair| world.nodes[2 * pair].statistics)
            .collect(),
    }
}

/// The mean of several seeds, which is printed.
fn row(name: &str, path: Path, seconds: (u64, u64)) -> (f64, Statistics) {
    let mut rates = Vec::new();
    let mut sum = Statistics::default();
    for seed in 1..=3 {
        let outcome = measure(path, 1, 4 << 20, seconds, seed);
        rates.push(outcome.rates[0]);
        let statistics = outcome.statistics[0];
        sum.sent += statistics.sent;
        sum.lost += statistics.lost;
        sum.again += statistics.again;
    }
    let mean = rates.iter().sum::<f64>() / rates.len() as f64;
    println!(
        "{name:<32} {mean:>7.2} Mbit/s {rates:>7.2?}  lost {} resent {}",
        sum.lost, sum.again
    );
    (mean, sum)
}

/// The rate at which half of a Reno's packets in flight are lost once in a window (Mathis).
fn mathis(path: Path) -> f64 {
    let rtt = path.delay.total_micros() as f64 * 2.0 / 1e6;
    let loss = path.loss as f64 / 1e6;
    MSS as f64 * 8.0 / 1e6 / rtt * 1.22 / loss.sqrt()
}

#[test]
fn long_path() {
    let (rate, statistics) = row("50 ms", PLAIN, (0, 10));
    assert!(rate > 150.0, "{rate}");
    assert_eq!(statistics.again, 0);
}

#[test]
fn growing_buffers() {
    // 64 KiB is 10 Mbit/s here.
    let rate = measure(PLAIN, 1, 1 << 16, (0, 10), 1).rates[0];
    println!("{:<32} {rate:>7.2} Mbit/s", "50 ms, buffers of 64 KiB");
    assert!(rate < 11.0, "{rate}");
    let mut world = World::new(PLAIN, 1, 1 << 16, 1);
    for index in 0..2 {
        let node = &mut world.nodes[index];
        let socket = node.sockets.get_mut::<tcp::Socket>(node.socket);
        socket.abort();
        socket.set_buffer_limits(4 << 20, 4 << 20);
        if index == 1 {
            socket.listen(80).unwrap();
        }
    }
    world.connect(0, u64::MAX);
    world.run_until(10 * SECOND);
    let rate = world.nodes[1].received as f64 * 8.0 / 1e7;
    let capacity = |world: &World, index: usize| {
        let node = &world.nodes[index];
        let socket = node.sockets.get::<tcp::Socket>(node.socket);
        (socket.recv_capacity(), socket.send_capacity())
    };
    println!("{:<32} {rate:>7.2} Mbit/s", "  the same, growing");
    assert!(rate > 150.0, "{rate}");
    let (sender, receiver) = (capacity(&world, 0), capacity(&world, 1));
    assert_eq!((sender.0, receiver.1), (1 << 16, 1 << 16));
    assert!(sender.1 <= 4 << 20 && receiver.0 <= 4 << 20);
}

#[test]
fn losses() {
    for (name, loss) in [
        ("50 ms, 0.01 % loss", 100),
        ("50 ms, 0.1 % loss", 1000),
        ("50 ms, 1 % loss", 10_000),
    ] {
        let path = Path { loss, ..PLAIN };
        let (rate, statistics) = row(name, path, (0, 20));
        println!("{:<32} {:>7.2} Mbit/s", "  of Mathis", mathis(path));
        assert!(rate > mathis(path) / 2.0, "{rate}");
        assert!(statistics.again * 2 < statistics.lost * 3, "{statistics:?}");
    }
}

#[test]
fn lost_bursts() {
    for (name, burst_loss) in [
        ("50 ms, 0.1 % of bursts lost", 1000),
        ("50 ms, 1 % of bursts lost", 10_000),
    ] {
        let (rate, statistics) = row(
            name,
            Path {
                burst_loss,
                ..PLAIN
            },
            (0, 20),
        );
        assert!(rate > 1.0, "{rate}");
        assert!(statistics.again * 2 < statistics.lost * 3, "{statistics:?}");
    }
}

#[test]
fn reordering() {
    for (name, reorder_by) in [
        ("50 ms, 5 % late by 1 ms", 1000),
        ("50 ms, 5 % late by 10 ms", 10_000),
        ("50 ms, 5 % early by 25 ms", -25_000),
    ] {
        let path = Path {
            reorder: 50_000,
            reorder_by,
            ..PLAIN
        };
        let (rate, statistics) = row(name, path, (0, 10));
        assert!(rate > 100.0, "{rate}");
        assert!(statistics.again * 50 < statistics.sent, "{statistics:?}");
    }
}

const BOTTLENECK: Path = Path {
    rate: 20_000_000,
    delay: Duration::from_millis(10),
    queue: 50,
    ..PLAIN
};

#[test]
fn bottleneck() {
    let (rate, statistics) = row("20 Mbit/s, 20 ms, queue of 50", BOTTLENECK, (2, 22));
    // Of the rate, headers take a part.
    assert!(rate > 0.9 * 20.0 * 1460.0 / 1538.0, "{rate}");
    assert!(statistics.again * 2 < statistics.lost * 3, "{statistics:?}");
}

#[test]
fn fairness() {
    for seed in 1..=3 {
        let rates = measure(BOTTLENECK, 2, 1 << 20, (5, 65), seed).rates;
        println!("{:<32} {rates:>7.2?} Mbit/s", "  the same, two connections");
        let fair = (rates[0] + rates[1]) / 2.0;
        assert!(fair * 2.0 > 0.9 * 19.0, "{rates:?}");
        assert!(
            rates.iter().all(|rate| (0.7..1.4).contains(&(rate / fair))),
            "{rates:?}"
        );
    }
}

#[test]
fn short_path() {
    // Large segments, and no more acknowledgments than need be.
    let path = Path {
        rate: 4_000_000_000,
        delay: Duration::from_micros(30),
        ..PLAIN
    };
    for buffer in [1 << 16, 1 << 18, 1 << 20] {
        let mut world = World::new(path, 1, buffer, 1);
        world.connect(0, u64::MAX);
        world.run_until(SECOND / 4);
        let sent = world.nodes[0].statistics;
        let mean = sent.sent / sent.frames;
        let per_ack = sent.sent / world.nodes[1].statistics.bare;
        let rate = world.nodes[1].received as f64 * 8.0 * 4.0 / 1e6;
        println!(
            "60 us, buffers of {:>4} KiB {rate:>13.2} Mbit/s, {mean} bytes in a frame, {per_ack} to an acknowledgment",
            buffer >> 10
        );
        assert!(mean >= (buffer as u64 / 9).min(50_000), "{mean}");
        assert_eq!(sent.again, 0);
    }
}

#[test]
fn everything_arrives() {
    // However bad the path, all comes in the end, and the connection is closed.
    for seed in 1..=20 {
        let path = Path {
            rate: 50_000_000,
            delay: Duration::from_millis(5),
            queue: 30,
            loss: 30_000,
            reorder: 100_000,
            reorder_by: 7000,
            burst_loss: 20_000,
        };
        let mut world = World::new(path, 1, 1 << 16, seed);
        world.connect(0, 2_000_000);
        world.run_until(60 * SECOND);
        assert_eq!(world.nodes[1].received, 2_000_000, "seed {seed}");
        for node in [0, 1] {
            let node = &mut world.nodes[node];
            node.sockets.get_mut::<tcp::Socket>(node.socket).close();
            node.poll_at = world.now;
        }
        world.run_until(120 * SECOND);
        for node in &world.nodes {
            let state = node.sockets.get::<tcp::Socket>(node.socket).state();
            assert!(
                matches!(state, tcp::State::Closed | tcp::State::TimeWait),
                "{state}, seed {seed}"
            );
        }
    }
}

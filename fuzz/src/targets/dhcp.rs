//! DHCP answers and router advertisements, from whoever is on the network, to a stack that asks for its addresses.

use std::net::Ipv6Addr;
use std::time::Duration;

use embassy_net::Stack;
use sarab_net::{Config, Ipv6};

use crate::input::Input;
use crate::stack::{MAC, Network, SERVER, arp_answer, run as run_stack, udp};

pub(super) const SHORT: u32 = 100;

/// Before the options of a DHCP message.
const MESSAGE: usize = 14 + 20 + 8;
const OPTIONS: usize = 240;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// The stack's link-local address.
const OWN: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0x216, 0x3eff, 0xfe01, 0x203);
const PEER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0xff);
/// Time that may pass before the end: leases and prefixes end in it.
const MAX_TIME: Duration = Duration::from_secs(4 * 3600);
/// What is right in the end is found within this.
const TIMEOUT: u64 = 300;
const PAUSES: [u64; 8] = [5, 100, 1000, 5000, 11_000, 61_000, 600_000, 3_700_000];
const LIFETIMES: [u32; 8] = [0, 1, 60, 1800, 7199, 7201, 0x7fff_ffff, u32::MAX];

/// What an input's byte has happen.
const PAUSE: u8 = 0;
const LEASE: u8 = 1;
const ADVERTISEMENT: u8 = 2;
const FRAME: u8 = 3;
const AGAIN: u8 = 4;

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let pause = |pause: u8| vec![PAUSE, pause];
    // What is as usual but for so many options: a kind, what is right, an address, and options.
    let lease = |kind: u8, address: [u8; 4], options: &[u8]| {
        let count = options.len() as u8;
        [&[LEASE, kind, 0][..], &address, &[10, 0, 0, 1, count], options].concat()
    };
    let offer = |address: [u8; 4]| [lease(2, address, &[]), pause(2), lease(5, address, &[])].concat();
    let prefix = |network: u8, len: u8, flags: u8, valid: u8, preferred: u8| [0, network, len, flags, valid, preferred];
    let advertise = |router: u8, lifetime: [u8; 2], options: &[[u8; 6]]| {
        let options = options.concat();
        [&[ADVERTISEMENT, router, 0, lifetime[0], lifetime[1], options.len() as u8 / 6][..], &options].concat()
    };
    let script = |parts: &[Vec<u8>]| parts.concat();
    vec![
        script(&[pause(2), offer([10, 0, 0, 7]), pause(3), pause(6), lease(5, [10, 0, 0, 8], &[]), pause(3)]),
        script(&[pause(2), offer([10, 0, 0, 255]), pause(4), offer([127, 0, 0, 1]), pause(4), offer([10, 0, 0, 7])]),
        script(&[pause(2), offer([10, 0, 0, 7]), pause(5), lease(6, [0; 4], &[]), pause(4)]),
        script(&[pause(2), lease(2, [10, 0, 0, 7], &[3, 4, 0, 0, 0, 0, 51, 4, 0, 0, 0, 0]), pause(2)]),
        script(&[pause(2), advertise(1, [7, 8], &[prefix(1, 64, 0xc0, 3, 2)]), pause(5), pause(6), pause(7)]),
        script(&[
            pause(2),
            advertise(1, [0xff, 0xff], &[prefix(1, 64, 0xc0, 7, 7), [1, 2, 3, 9, 0, 0]]),
            pause(1),
            advertise(2, [0, 9], &[prefix(2, 64, 0x40, 1, 1), prefix(3, 200, 0xc0, 3, 2)]),
            pause(4),
            advertise(1, [0, 0], &[prefix(1, 64, 0xc0, 0, 0)]),
            pause(7),
        ]),
        script(&[advertise(1, [0, 0], &[]), pause(5), advertise(1, [7, 8], &[[2, 3, 0, 0, 0, 0]]), pause(4)]),
    ]
}

pub(super) fn run(data: &[u8]) {
    let bytes = data.to_vec();
    let config = Config { ipv6: Ipv6::Auto, ..Config::default() };
    run_stack(config, async move |network, stack| {
        let mut lan = Lan { network, stack, request: None, last: Vec::new(), solicitations: 0, answers: 0 };
        lan.talk(&bytes).await;
        lan.end().await;
    });
}

/// The network that the stack is on.
struct Lan<'a> {
    network: Network,
    stack: Stack<'a>,
    /// The last request for an address: its number, and its kind.
    request: Option<([u8; 4], u8)>,
    /// What was sent to the stack last.
    last: Vec<u8>,
    solicitations: u64,
    /// To pings.
    answers: u64,
}

impl Lan<'_> {
    fn send(&mut self, frame: Vec<u8>) {
        self.last.clone_from(&frame);
        self.network.send(frame);
    }

    fn hear(&mut self) {
        for frame in self.network.sent() {
            let message_type = frame.get(54).filter(|_| frame[12..14] == [0x86, 0xdd] && frame[20] == 58);
            if let Some(answer) = arp_answer(&frame) {
                self.network.send(answer);
            } else if frame.get(34..38) == Some(&[0, 68, 0, 67]) && frame.len() > MESSAGE + OPTIONS + 2 {
                let number = *frame[MESSAGE + 4..].first_chunk().expect("it is long enough");
                self.request = Some((number, frame[MESSAGE + OPTIONS + 2]));
            } else if message_type == Some(&133) {
                self.solicitations += 1;
            } else if message_type == Some(&129) {
                self.answers += 1;
            } else if message_type == Some(&135) && frame.len() >= 78 && frame[22..38] != [0; 16] {
                let mut message = vec![136, 0, 0, 0, 0x60, 0, 0, 0];
                message.extend(&frame[62..78]);
                message.extend([2, 1]);
                message.extend(SERVER);
                let from = |at: usize| Ipv6Addr::from(*frame[at..].first_chunk::<16>().expect("it is long enough"));
                self.network.send(icmp(from(62), from(22), 255, &message));
            }
        }
    }

    async fn pause(&mut self, time: Duration) {
        for _ in 0..4 {
            self.network.pause(time / 4).await;
            self.hear();
            self.check();
        }
    }

    /// What may not be, whatever has been said.
    fn check(&self) {
        if let Some(config) = self.stack.config_v6() {
            let address = config.address.address();
            assert_eq!(address.to_bits() as u64, OWN.to_bits() as u64, "{address}");
            assert!(!address.is_multicast() && !address.is_unicast_link_local() && address.octets()[..8] != [0; 8]);
            if let Some(gateway) = config.gateway {
                assert!(gateway.is_unicast_link_local() && gateway != OWN, "{gateway}");
            }
        }
        let time = xen_hal::Clock::now(&self.network.clock).as_secs();
        let lines = self.network.said.borrow().len() as u64;
        assert!(lines <= time / 5 + 3, "{lines} lines in {time} s: {:?}", self.network.said.borrow());
        assert!(self.solicitations <= time / 3 + 2, "{} solicitations in {time} s", self.solicitations);
    }

    async fn talk(&mut self, data: &[u8]) {
        let mut input = Input(data);
        let mut left = MAX_TIME;
        self.pause(Duration::from_millis(20)).await;
        while !input.0.is_empty() {
            match input.byte() % 5 {
                LEASE => {
                    let frame = lease(&mut input, self.request);
                    self.send(frame);
                }
                ADVERTISEMENT => {
                    let frame = advertisement(&mut input);
                    self.send(frame);
                }
                FRAME => {
                    let len = usize::from(input.byte());
                    let mut frame = [&MAC[..], &SERVER].concat();
                    frame.extend((0..len).map(|_| input.byte()));
                    self.send(frame);
                }
                AGAIN if !self.last.is_empty() => {
                    let mut frame = self.last.clone();
                    for _ in 0..input.byte() % 4 {
                        let at = usize::from(input.word() as u16) % frame.len();
                        frame[at] = input.byte();
                    }
                    self.send(sum(frame));
                }
                _ => {
                    let time = Duration::from_millis(PAUSES[usize::from(input.byte() % 8)]).min(left);
                    left -= time;
                    self.pause(time).await;
                }
            }
        }
    }

    /// The stack is alive, and takes what is right.
    async fn end(&mut self) {
        let prefix = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0).octets();
        let times = [7200_u32.to_be_bytes(), 3600_u32.to_be_bytes(), [0; 4]].concat();
        let prefix = [&[3, 4, 64, 0xc0][..], &times, &prefix].concat();
        let advertisement = [&[134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0][..], &prefix].concat();
        for second in 0..TIMEOUT {
            if let Some((number, kind)) = self.request.take() {
                // DISCOVER is answered with OFFER, REQUEST with ACK.
                let kind = if kind == 1 { 2 } else { 5 };
                let options =
                    [&[53, 1, kind, 54, 4, 10, 0, 0, 1, 51, 4, 0, 1, 0, 0, 1, 4][..], &[255, 255, 255, 0, 255]];
                self.network.send(message(number, [10, 0, 0, 9], [10, 0, 0, 1], &options.concat()));
            }
            if second % 4 == 0 {
                self.network.send(icmp(PEER, ALL_NODES, 255, &advertisement));
            }
            self.network.send(icmp(PEER, OWN, 64, &[128, 0, 0, 0, 0, 1, 0, 1]));
            self.pause(Duration::from_secs(1)).await;
            let is_configured = self.stack.config_v4().is_some() && self.stack.config_v6().is_some();
            if is_configured && self.answers > 0 && self.network.configured.borrow().is_some() {
                return;
            }
        }
        panic!(
            "{} answers, {:?}, {:?}, configured: {:?}, said: {:?}",
            self.answers,
            self.stack.config_v4(),
            self.stack.config_v6(),
            self.network.configured.borrow(),
            self.network.said.borrow(),
        );
    }
}

/// A server's answer, which is right but for what the input has otherwise.
fn lease(input: &mut Input<'_>, request: Option<([u8; 4], u8)>) -> Vec<u8> {
    let (kind, otherwise) = (input.byte(), input.byte());
    let mut address = || [input.byte(), input.byte(), input.byte(), input.byte()];
    let (own, server) = (address(), address());
    let more: Vec<u8> = (0..input.byte()).map(|_| input.byte()).collect();
    let number = request.map_or([0; 4], |(number, _)| number);
    let mut options = Vec::new();
    // The stack takes an option's last value, so that what is more goes either before or behind.
    if otherwise & 1 != 0 {
        options.extend(&more);
    }
    options.extend([53, 1, kind]);
    for (bit, option) in [
        (2, [54, 4, server[0], server[1], server[2], server[3]]),
        (4, [51, 4, 0, 0, 0, 120]),
        (8, [1, 4, 255, 255, 255, 0]),
        (16, [3, 4, 10, 0, 0, 1]),
    ] {
        if otherwise & bit == 0 {
            options.extend(option);
        }
    }
    if otherwise & 1 == 0 {
        options.extend(&more);
    }
    options.push(255);
    message(number, own, server, &options)
}

/// A DHCP server's message.
fn message(number: [u8; 4], address: [u8; 4], server: [u8; 4], options: &[u8]) -> Vec<u8> {
    let mut message = vec![0; OPTIONS];
    message[..4].copy_from_slice(&[2, 1, 6, 0]);
    message[4..8].copy_from_slice(&number);
    message[16..20].copy_from_slice(&address);
    message[28..34].copy_from_slice(&MAC);
    message[236..].copy_from_slice(&[99, 130, 83, 99]);
    message.extend(options);
    udp((server, 67), ([255; 4], 68), &message)
}

/// A router's, likewise.
fn advertisement(input: &mut Input<'_>) -> Vec<u8> {
    let (router, otherwise) = (input.byte(), input.byte());
    let from = match otherwise & 3 {
        3 => Ipv6Addr::from_bits(u128::from(input.word()) << 96 | u128::from(input.word())),
        _ => Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, router.into()),
    };
    let (hops, to) = (if otherwise & 4 == 0 { 255 } else { 64 }, if otherwise & 8 == 0 { ALL_NODES } else { OWN });
    let mut message = vec![134, u8::from(otherwise & 0xf0 == 0xf0), 0, 0, 64, 0, input.byte(), input.byte()];
    message.extend([0; 8]);
    for _ in 0..input.byte() % 16 {
        match input.byte() % 4 {
            0 => {
                let network = match input.byte() {
                    network @ ..0xf0 => [0xfd, 0, 0, network],
                    _ => input.word().to_be_bytes(),
                };
                message.extend([3, 4, input.byte(), input.byte()]);
                for _ in 0..2 {
                    message.extend(LIFETIMES[usize::from(input.byte() % 8)].to_be_bytes());
                }
                message.extend([0; 4]);
                message.extend(network);
                message.extend([0; 12]);
            }
            1 => {
                let (count, lifetime) = (input.byte() % 4, LIFETIMES[usize::from(input.byte() % 8)]);
                message.extend([25, 1 + 2 * count, 0, 0]);
                message.extend(lifetime.to_be_bytes());
                let byte = input.byte();
                (0..count)
                    .for_each(|server| message.extend([[0xfd; 15].as_slice(), &[byte.wrapping_add(server)]].concat()));
            }
            _ => {
                message.extend([input.byte(), input.byte()]);
                message.extend((0..input.byte() % 40).map(|_| input.byte()));
            }
        }
    }
    icmp(from, to, hops, &message)
}

/// A message of ICMPv6.
fn icmp(from: Ipv6Addr, to: Ipv6Addr, hops: u8, message: &[u8]) -> Vec<u8> {
    let mut frame = [&MAC[..], &SERVER, &[0x86, 0xdd, 0x60, 0, 0, 0]].concat();
    frame.extend((message.len() as u16).to_be_bytes());
    frame.extend([58, hops]);
    frame.extend([from.octets(), to.octets()].concat());
    frame.extend(message);
    sum(frame)
}

/// The frame with its right sum, where it is ICMPv6.
fn sum(mut frame: Vec<u8>) -> Vec<u8> {
    if frame.len() < 58 || frame[12..14] != [0x86, 0xdd] || frame[20] != 58 {
        return frame;
    }
    frame[56..58].fill(0);
    let words = frame[22..].chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0)));
    let mut sum = words.sum::<u32>() + 58 + (frame.len() - 54) as u32;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    frame[56..58].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    frame
}

//! A router with an uplink and clients, and hosts on both sides that are played by a test.

#![allow(dead_code)]

use core::time::Duration;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::PacketBuilder;
use sarab_net::{Config, Ipv4, Ipv4Cidr, Ipv6, Ipv6Cidr, Route};
use sarab_router::packet::{Transport, View};
use sarab_router::{
    Alias, ClientSettings, InterfaceId, Nat, NewFlow, Output, Router, Settings, Side, UplinkSettings, Verdict,
};
use xen_netif::back::{Checksum, Packet};
use xen_netif::checksum;
use xen_netif::headers::Headers;

pub const GATE_MAC: [u8; 6] = [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff];
pub const UPLINK_MAC: [u8; 6] = [0, 0x16, 0x3e, 0, 0, 1];
pub const ROUTER_MAC: [u8; 6] = [0, 0x16, 0x3e, 0, 0, 0xee];
pub const OUTER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
pub const REMOTE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 1);
pub const OUTER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
pub const REMOTE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 7);

pub fn client_mac(number: u8) -> [u8; 6] {
    [0, 0x16, 0x3e, 1, 0, number]
}

pub fn client_v4(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 1, number)
}

pub fn client_v6(number: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, number.into())
}

#[derive(Default)]
pub struct Wires {
    pub sent: Vec<(InterfaceId, Packet)>,
    pub control: Vec<(InterfaceId, Vec<u8>)>,
}

impl Output for Wires {
    fn send(&mut self, to: InterfaceId, packet: Packet) {
        self.sent.push((to, packet));
    }

    fn control(&mut self, from: InterfaceId, frame: &[u8]) {
        self.control.push((from, frame.to_vec()));
    }
}

pub type Judge = Box<dyn Fn(&NewFlow) -> Verdict>;

/// Clients may begin whatever they like, and others what is published.
pub fn usual(flow: &NewFlow) -> Verdict {
    match flow.from.0 {
        Side::Inside | Side::Gate => Verdict::Accept(None),
        Side::Outside if flow.is_published => Verdict::Accept(None),
        Side::Outside => Verdict::Drop(None),
    }
}

pub struct Net {
    pub router: Router<Judge>,
    pub uplink: InterfaceId,
    pub now: Duration,
}

pub fn masquerade() -> Nat {
    Nat { masquerade_v4: true, masquerade_v6: true, ..Nat::default() }
}

impl Net {
    pub fn new(flows: usize, nat: Nat) -> Net {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let random = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state ^ (state >> 29)
        };
        let local = [Ipv4Addr::new(192, 0, 0, 8).into(), Ipv6Addr::new(0xfd, 0, 0, 0, 0, 0, 0, 8).into()];
        let settings = Settings { flows, local, random: Box::new(random) };
        let mut router = Router::new(settings, Box::new(usual) as Judge, nat);
        let (ipv4, ipv6) = (Ipv4::Static(Ipv4Cidr::new(OUTER, 24)), Ipv6::Static(Ipv6Cidr::new(OUTER_V6, 64)));
        let mut config = Config { ipv4, ipv6, ..Config::default() };
        config.routes.push(Route::default_via(Ipv4Addr::new(203, 0, 113, 1)));
        config.routes.push(Route::default_via(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)));
        let uplink = router.add_uplink(UplinkSettings { mac: UPLINK_MAC, config, mtu: 1500 });
        router.set_uplink(uplink, UPLINK_MAC, true, 1500, Duration::ZERO);
        let mut net = Net { router, uplink, now: Duration::ZERO };
        for _ in 0..40 {
            net.now += Duration::from_millis(100);
            let mut wires = Wires::default();
            net.router.poll(net.now, &mut wires);
        }
        net
    }

    pub fn client(&mut self, number: u8) -> InterfaceId {
        self.client_with(number, None)
    }

    pub fn client_with(&mut self, number: u8, alias: Option<Alias>) -> InterfaceId {
        let settings = ClientSettings {
            mac: client_mac(number),
            gate_mac: GATE_MAC,
            addresses: vec![client_v4(number).into(), client_v6(number).into()],
            gateway_v4: Some(GATEWAY),
            gateway_v6: Some(client_v6(1)),
            mtu: 1500,
            alias,
        };
        let id = self.router.add_client(settings);
        self.router.set_client_up(id, true);
        id
    }

    /// What comes of a packet. The uplink's router answers for itself.
    pub fn put(&mut self, from: InterfaceId, packet: impl Into<Packet>) -> Vec<(InterfaceId, Packet)> {
        let mut wires = Wires::default();
        self.router.receive(from, packet.into(), self.now, &mut wires);
        let mut all = Vec::new();
        let mut todo = wires.sent;
        while !todo.is_empty() {
            let mut wires = Wires::default();
            for (to, packet) in todo {
                match self.answer(to, &packet) {
                    Some(answer) => self.router.receive(to, answer.into(), self.now, &mut wires),
                    None => all.push((to, packet)),
                }
            }
            todo = wires.sent;
        }
        all
    }

    fn answer(&self, to: InterfaceId, packet: &Packet) -> Option<Vec<u8>> {
        if to != self.uplink {
            return None;
        }
        let frame = &packet.bytes;
        if frame[12..14] == [8, 6] && frame[21] == 1 {
            let mut answer = [&frame[6..12], &ROUTER_MAC, &frame[12..20], &[0, 2]].concat();
            answer.extend(ROUTER_MAC);
            answer.extend(&frame[38..42]);
            answer.extend(&frame[22..32]);
            return Some(answer);
        }
        let headers = Headers::parse(frame)?;
        if headers.v6 && headers.protocol == 58 && frame[headers.transport] == 135 {
            use smoltcp::phy::ChecksumCapabilities;
            use smoltcp::wire::*;
            let asks = Ipv6Addr::from(*frame[22..].first_chunk::<16>().unwrap());
            let target = Ipv6Addr::from(*frame[headers.transport + 8..].first_chunk::<16>().unwrap());
            let repr = Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert {
                flags: NdiscNeighborFlags::SOLICITED | NdiscNeighborFlags::OVERRIDE,
                target_addr: target,
                lladdr: Some(EthernetAddress(ROUTER_MAC).into()),
            });
            let ip = Ipv6Repr {
                src_addr: target,
                dst_addr: asks,
                next_header: IpProtocol::Icmpv6,
                payload_len: repr.buffer_len(),
                hop_limit: 255,
            };
            let mut answer = vec![0; 14 + 40 + repr.buffer_len()];
            answer[..6].copy_from_slice(&frame[6..12]);
            answer[6..12].copy_from_slice(&ROUTER_MAC);
            answer[12..14].copy_from_slice(&[0x86, 0xdd]);
            ip.emit(&mut Ipv6Packet::new_unchecked(&mut answer[14..]));
            repr.emit(
                &target,
                &asks,
                &mut Icmpv6Packet::new_unchecked(&mut answer[54..]),
                &ChecksumCapabilities::default(),
            );
            return Some(answer);
        }
        None
    }

    /// The one packet that comes of a packet.
    #[track_caller]
    pub fn one(&mut self, from: InterfaceId, packet: impl Into<Packet>) -> (InterfaceId, Packet) {
        let mut sent = self.put(from, packet);
        assert_eq!(sent.len(), 1, "dropped: {:?}", self.router.take_records().collect::<Vec<_>>());
        sent.remove(0)
    }

    #[track_caller]
    pub fn none(&mut self, from: InterfaceId, packet: impl Into<Packet>) -> sarab_router::Drop {
        self.router.take_records().for_each(drop);
        assert_eq!(self.put(from, packet), []);
        self.router.take_records().last().expect("something was dropped").reason
    }
}

fn ethernet(from_uplink: bool, client: u8) -> etherparse::PacketBuilderStep<etherparse::Ethernet2Header> {
    match from_uplink {
        true => PacketBuilder::ethernet2(ROUTER_MAC, UPLINK_MAC),
        false => PacketBuilder::ethernet2(client_mac(client), GATE_MAC),
    }
}

/// Who sends: a client, or whoever is outside.
#[derive(Clone, Copy)]
pub enum Who {
    Client(u8),
    Outside,
}

fn ip(who: Who, from: IpAddr, to: IpAddr, ttl: u8) -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
    let (is_outside, client) = match who {
        Who::Client(client) => (false, client),
        Who::Outside => (true, 0),
    };
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ethernet(is_outside, client).ipv4(from.octets(), to.octets(), ttl),
        (IpAddr::V6(from), IpAddr::V6(to)) => ethernet(is_outside, client).ipv6(from.octets(), to.octets(), ttl),
        _ => panic!("families"),
    }
}

pub const SYN: u8 = 2;
pub const ACK: u8 = 16;
pub const RST: u8 = 4;
pub const FIN: u8 = 1;

pub fn tcp(
    who: Who,
    from: (impl Into<IpAddr>, u16),
    to: (impl Into<IpAddr>, u16),
    flags: u8,
    payload: &[u8],
) -> Vec<u8> {
    tcp_at(who, from, to, flags, (1000, 2000), payload)
}

pub fn tcp_at(
    who: Who,
    from: (impl Into<IpAddr>, u16),
    to: (impl Into<IpAddr>, u16),
    flags: u8,
    (sequence, acknowledgement): (u32, u32),
    payload: &[u8],
) -> Vec<u8> {
    let mut builder = ip(who, from.0.into(), to.0.into(), 64).tcp(from.1, to.1, sequence, 1000);
    if flags & SYN != 0 {
        builder = builder.syn();
    }
    if flags & ACK != 0 {
        builder = builder.ack(acknowledgement);
    }
    if flags & RST != 0 {
        builder = builder.rst();
    }
    if flags & FIN != 0 {
        builder = builder.fin();
    }
    let mut frame = Vec::new();
    builder.write(&mut frame, payload).unwrap();
    frame
}

pub fn udp(who: Who, from: (impl Into<IpAddr>, u16), to: (impl Into<IpAddr>, u16), payload: &[u8]) -> Vec<u8> {
    udp_ttl(who, from, to, 64, payload)
}

pub fn udp_ttl(
    who: Who,
    from: (impl Into<IpAddr>, u16),
    to: (impl Into<IpAddr>, u16),
    ttl: u8,
    payload: &[u8],
) -> Vec<u8> {
    let mut frame = Vec::new();
    ip(who, from.0.into(), to.0.into(), ttl).udp(from.1, to.1).write(&mut frame, payload).unwrap();
    frame
}

pub fn ping(who: Who, from: impl Into<IpAddr>, to: impl Into<IpAddr>, id: u16, is_reply: bool) -> Vec<u8> {
    let (from, to) = (from.into(), to.into());
    let mut frame = Vec::new();
    let builder = ip(who, from, to, 64);
    match (from, is_reply) {
        (IpAddr::V4(_), false) => builder.icmpv4_echo_request(id, 1).write(&mut frame, b"ping"),
        (IpAddr::V4(_), true) => builder.icmpv4_echo_reply(id, 1).write(&mut frame, b"ping"),
        (IpAddr::V6(_), false) => builder.icmpv6_echo_request(id, 1).write(&mut frame, b"ping"),
        (IpAddr::V6(_), true) => builder.icmpv6_echo_reply(id, 1).write(&mut frame, b"ping"),
    }
    .unwrap();
    frame
}

/// Marks a frame of IPv4 as one that may be cut.
pub fn may_cut(mut frame: Vec<u8>) -> Vec<u8> {
    frame[20] &= !0x40;
    let headers = Headers::parse(&frame).unwrap();
    checksum::complete_ipv4(&mut frame, &headers);
    frame
}

/// Source, destination and ports; and that all checksums are right, or open as they should be.
#[track_caller]
pub fn seen(packet: &Packet) -> (IpAddr, u16, IpAddr, u16) {
    let view = View::parse(&packet.bytes).expect("a packet");
    let mut bytes = packet.bytes.clone();
    if packet.checksum == Checksum::Blank {
        // As a network card does it: the sum over all of it, the field included.
        let sums = if view.headers.protocol == 6 { 16 } else { 6 };
        let at = view.headers.transport;
        let sum = bytes[at..view.headers.end]
            .chunks(2)
            .fold(0_u64, |sum, pair| sum + u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])));
        let folded = (0..4).fold(sum, |sum, _| (sum & 0xffff) + (sum >> 16)) as u16;
        bytes[at + sums..at + sums + 2].copy_from_slice(&(!folded).to_be_bytes());
    }
    if view.fragment.is_none() {
        assert!(checksum::is_valid(&bytes, &view.headers), "a wrong checksum");
        if let Transport::Icmp { .. } = view.transport {
            let message = &bytes[view.headers.transport..view.headers.end];
            match (view.source, view.destination) {
                (IpAddr::V6(a), IpAddr::V6(b)) => {
                    assert!(smoltcp::wire::Icmpv6Packet::new_unchecked(message).verify_checksum(&a, &b));
                }
                _ => assert!(smoltcp::wire::Icmpv4Packet::new_unchecked(message).verify_checksum()),
            }
        }
    }
    let [a, b] = view.ports();
    (view.source, a, view.destination, b)
}

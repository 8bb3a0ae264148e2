//! Frames from clients and from outside, through a router: its parsers, its tracker and its translations.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use sarab_net::{Config, Ipv4, Ipv4Cidr, Ipv6, Ipv6Cidr, Route};
use sarab_router::packet::{Transport, View};
use sarab_router::services::GATE_MAC;
use sarab_router::{
    Alias, ClientSettings, InterfaceId, Map, Nat, NewFlow, Output, Publish, Redirect, Router, Settings, Side,
    UplinkSettings, Verdict,
};
use xen_netif::back::{Checksum, Packet};
use xen_netif::checksum;
use xen_netif::headers::Headers;
use xen_netif::protocol::Gso;

use crate::input::Input;

pub(super) const SHORT: u32 = 20_000;

const UPLINK_MAC: [u8; 6] = [0, 0x16, 0x3e, 0, 0, 1];
const OUTER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
const OUTER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
const LOCAL: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 0, 8)), IpAddr::V6(Ipv6Addr::new(0xfd67, 0x6174, 0x65, 0, 0, 0, 0, 8))];

fn client(number: u8) -> ClientSettings {
    ClientSettings {
        mac: [0, 0x16, 0x3e, 1, 0, number],
        gate_mac: GATE_MAC,
        addresses: vec![
            Ipv4Addr::new(10, 0, 1, number).into(),
            Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, number.into()).into(),
        ],
        gateway_v4: Some(Ipv4Addr::new(10, 0, 1, 1)),
        gateway_v6: Some(Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 1)),
        mtu: 1500,
        alias: number
            .is_multiple_of(2)
            .then_some(Alias { visible: Ipv4Addr::new(192, 168, 100, 2), actual: Ipv4Addr::new(10, 0, 1, number) }),
    }
}

/// What a packet is made of, where it is not of any bytes.
fn frame(input: &mut Input<'_>, from: InterfaceId, macs: [[u8; 6]; 2]) -> Packet {
    let choice = input.byte();
    let mut bytes = macs.concat();
    let len = usize::from(input.byte()) * if choice & 0x40 != 0 { 40 } else { 1 };
    let (v6, fragment) = (choice & 1 != 0, choice & 2 != 0);
    let host = |input: &mut Input<'_>| input.byte() % 12;
    let protocol = [6, 17, if v6 { 58 } else { 1 }, 47][usize::from(choice >> 2 & 3)];
    let mut transport = vec![0; 20 + len];
    for byte in transport.iter_mut().take(20) {
        *byte = input.byte();
    }
    match protocol {
        6 => transport[12] = 5 << 4,
        17 => {
            let len = transport.len() as u16;
            transport[4..6].copy_from_slice(&len.to_be_bytes());
        }
        _ => transport[0] = [0, 3, 8, 11, 128, 129, 1, 2][usize::from(transport[0] & 7)],
    }
    // Few ports, so that they meet again.
    if matches!(protocol, 6 | 17) {
        (transport[0], transport[2]) = (0, 0x1f * (transport[2] & 1));
        (transport[1], transport[3]) = (transport[1] % 8, if transport[2] != 0 { 0x90 } else { 53 });
    }
    let inside = |number: u8| Ipv4Addr::new(10, 0, 1, number);
    let outside = |number: u8| Ipv4Addr::new(198, 51, 100, number);
    let is_inside = from != InterfaceId::LOCAL && macs[1][3] == 1;
    let (a, b) = (host(input), host(input));
    if v6 {
        bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        bytes.extend((transport.len() as u16 + if fragment { 8 } else { 0 }).to_be_bytes());
        bytes.extend([if fragment { 44 } else { protocol }, input.byte() % 70]);
        let net = |inside: bool, number: u8| match inside {
            true => Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, number.into()),
            false if number == 2 => OUTER_V6,
            false => Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, number.into()),
        };
        bytes.extend(net(is_inside, a).octets());
        bytes.extend(net(!is_inside && b > 6, b).octets());
        if fragment {
            bytes.extend([protocol, 0, input.byte() & 1, input.byte() & 9, 0, 0, 0, input.byte() & 1]);
        }
    } else {
        bytes.extend([8, 0, 0x45, 0]);
        bytes.extend((20 + transport.len() as u16).to_be_bytes());
        let flags = if fragment { [input.byte() & 0x21, input.byte() & 3] } else { [input.byte() & 0x40, 0] };
        bytes.extend([0, input.byte() & 1, flags[0], flags[1], input.byte() % 70, protocol, 0, 0]);
        let from = if is_inside { inside(a) } else { outside(a) };
        let to = match b {
            2 => OUTER,
            3 => Ipv4Addr::new(10, 0, 1, 1),
            4 => Ipv4Addr::new(203, 0, 113, 9),
            5 | 6 => inside(b),
            _ => outside(b),
        };
        bytes.extend(from.octets());
        bytes.extend(to.octets());
    }
    bytes.extend(&transport);
    let mut packet = Packet::from(bytes);
    if let Some(headers) = Headers::parse(&packet.bytes) {
        if !headers.v6 {
            checksum::complete_ipv4(&mut packet.bytes, &headers);
        }
        let is_open = choice & 0x10 != 0 && checksum::leave_blank(&mut packet.bytes, &headers);
        if is_open {
            packet.checksum = Checksum::Blank;
            if choice & 0x20 != 0 && headers.protocol == 6 {
                packet.gso = Some((if headers.v6 { Gso::TcpV6 } else { Gso::TcpV4 }, 8 + u16::from(input.byte()) * 7));
            }
        } else {
            checksum::complete(&mut packet.bytes, &headers);
        }
    }
    packet
}

struct Checked {
    uplink: InterfaceId,
    /// What is inside of a frame that was made here has a right checksum; of any bytes nobody knows.
    is_made: bool,
    sent: Vec<(InterfaceId, Packet)>,
}

impl Output for Checked {
    fn send(&mut self, to: InterfaceId, packet: Packet) {
        let ethertype = [packet.bytes[12], packet.bytes[13]];
        if ethertype != [8, 6] {
            let view = View::parse(&packet.bytes).expect("what leaves is a packet");
            if to == self.uplink && !matches!(view.transport, Transport::Icmp { kind: 133..=137, .. }) {
                // Nobody inside is seen outside.
                let inside = |address: IpAddr| match address {
                    IpAddr::V4(address) => address.octets()[0] == 10,
                    IpAddr::V6(address) => address.segments()[0] == 0xfd00 || address.segments()[0] == 0xfd67,
                };
                assert!(!inside(view.source), "{view:?}");
            }
            if self.is_made && packet.checksum != Checksum::Blank && view.fragment.is_none() {
                assert!(checksum::is_valid(&packet.bytes, &view.headers), "{view:?}");
            }
            if let Some((_, size)) = packet.gso {
                let header = view.headers.tcp_header(&packet.bytes).expect("a segment");
                assert!(view.headers.transport - view.headers.ip + header + usize::from(size) <= 1500);
            } else if to != InterfaceId::LOCAL {
                assert!(view.packet_len() <= 1500, "{}", view.packet_len());
            }
        }
        self.sent.push((to, packet));
    }

    fn control(&mut self, _: InterfaceId, _: &[u8]) {}
}

fn judge(flow: &NewFlow) -> Verdict {
    match (flow.from.0, flow.destination_port) {
        (Side::Outside, _) if !flow.is_published => Verdict::Drop(None),
        (Side::Inside, Some(4)) => Verdict::Reject(Some(0)),
        _ => Verdict::Accept(None),
    }
}

pub(super) fn run(data: &[u8]) {
    let mut input = Input(data);
    let mut state = 7_u64;
    let random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state >> 16
    };
    let nat = Nat {
        masquerade_v4: true,
        masquerade_v6: true,
        publish: vec![Publish {
            protocol: 6,
            outer: None,
            ports: 8080..=8090,
            to: Ipv4Addr::new(10, 0, 1, 6).into(),
            to_port: 53,
        }],
        map: vec![Map { outer: Ipv4Addr::new(203, 0, 113, 9).into(), inner: Ipv4Addr::new(10, 0, 1, 5).into() }],
        redirect: vec![Redirect {
            address: Ipv4Addr::new(10, 139, 1, 1).into(),
            port: 53,
            to: Ipv4Addr::new(203, 0, 113, 53).into(),
        }],
    };
    let settings = Settings { flows: 12, local: LOCAL, random: Box::new(random) };
    let mut router = Router::new(settings, judge, nat);
    let (ipv4, ipv6) = (Ipv4::Static(Ipv4Cidr::new(OUTER, 24)), Ipv6::Static(Ipv6Cidr::new(OUTER_V6, 64)));
    let mut config = Config { ipv4, ipv6, ..Config::default() };
    // On the link, so that nobody is asked for.
    config.routes.push(Route::default_via(Ipv4Addr::new(203, 0, 113, 1)));
    config.routes.push(Route::default_via(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)));
    let uplink = router.add_uplink(UplinkSettings { mac: UPLINK_MAC, config, mtu: 1500 });
    router.set_uplink(uplink, UPLINK_MAC, true, 1500, Duration::ZERO);
    let clients = [5, 6].map(|number| {
        let id = router.add_client(client(number));
        router.set_client_up(id, true);
        id
    });
    let mut now = Duration::ZERO;
    let mut output = Checked { uplink, is_made: true, sent: Vec::new() };
    // The router outside says who it is.
    let announced = [
        &UPLINK_MAC[..],
        &[2, 0, 0, 0, 0, 1],
        &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1],
        &[2, 0, 0, 0, 0, 1],
        &[203, 0, 113, 1],
        &[0; 6],
        &OUTER.octets(),
    ];
    router.receive(uplink, announced.concat().into(), now, &mut output);
    while !input.0.is_empty() {
        let what = input.byte();
        let (from, macs) = match what & 3 {
            0 => (uplink, [UPLINK_MAC, [2, 0, 0, 0, 0, 1]]),
            1 => (clients[0], [GATE_MAC, client(5).mac]),
            2 => (clients[1], [GATE_MAC, client(6).mac]),
            _ => (InterfaceId::LOCAL, [[0; 6]; 2]),
        };
        match what >> 2 & 7 {
            0 => {
                now += Duration::from_millis(u64::from(input.byte()) * u64::from(input.byte()) * 20);
                router.poll(now, &mut output);
            }
            1 => {
                // Any bytes.
                let len = usize::from(input.byte()).min(input.0.len());
                let (bytes, rest) = input.0.split_at(len);
                input.0 = rest;
                output.is_made = false;
                router.receive(from, [&macs.concat()[..], bytes].concat().into(), now, &mut output);
            }
            // What has come out comes back: an answer, or a message about it.
            2 => {
                let Some((_, mut packet)) = output.sent.pop() else { continue };
                packet.bytes[..12].copy_from_slice(&macs.concat());
                router.receive(from, packet, now, &mut output);
            }
            3 => {
                let Some((to, packet)) = output.sent.pop() else { continue };
                let Ok(view) = View::parse(&packet.bytes) else { continue };
                let reason = sarab_router::icmp::Reason::TimeExceeded;
                if let Some(mut told) = sarab_router::icmp::error(&packet.bytes, &view, view.destination, reason) {
                    told[..12].copy_from_slice(&macs.concat());
                    router.receive(if what & 0x80 != 0 { from } else { to }, told.into(), now, &mut output);
                }
            }
            _ => {
                let packet = frame(&mut input, from, macs);
                router.receive(from, packet, now, &mut output);
            }
        }
        output.sent.truncate(64);
        assert!(router.flows().len() <= 12);
    }
    now += Duration::from_secs(10_000);
    while router.next().is_some_and(|next| next <= now) && !router.flows().is_empty() {
        router.poll(now, &mut output);
    }
    assert!(router.flows().is_empty());
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    // A connection of each client's, an answer to it, and a message about it.
    let packet = |who: u8, choice: u8| [&[who | 4 << 2, choice, 30][..], &[2; 30]].concat();
    let back = |kind: u8| vec![kind << 2];
    vec![
        [packet(1, 0), back(2), packet(2, 4), back(3)].concat(),
        [packet(1, 1), packet(2, 0x15), back(3), packet(0, 0)].concat(),
        [packet(1, 6), packet(1, 0x46), packet(3, 4), vec![0, 200, 200]].concat(),
        [packet(0, 0x30), packet(1, 0x71), packet(2, 8), back(2)].concat(),
    ]
}

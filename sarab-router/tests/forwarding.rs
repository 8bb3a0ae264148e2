//! What leaves a router, for what arrives.

mod common;

use common::*;
use sarab_router::flows::Class;
use sarab_router::packet::{Transport, View};
use sarab_router::{Alias, ClientLimits, Drop, InterfaceId, Map, Nat, NewFlow, Publish, Redirect, Verdict};
use xen_netif::back::{Checksum, Packet};
use xen_netif::checksum;
use xen_netif::headers::Headers;

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

fn v4(address: impl Into<IpAddr>) -> IpAddr {
    address.into()
}

#[test]
fn clients_are_seen_with_the_routers_address() {
    let mut net = Net::new(100, masquerade());
    let client = net.client(5);
    let (to, out) = net.one(client, tcp(Who::Client(5), (client_v4(5), 40_000), (REMOTE, 80), SYN, b""));
    assert_eq!((to, seen(&out)), (net.uplink, (v4(OUTER), 40_000, v4(REMOTE), 80)));
    assert_eq!((&out.bytes[..6], &out.bytes[6..12]), (&ROUTER_MAC[..], &UPLINK_MAC[..]));
    assert_eq!(View::parse(&out.bytes).unwrap().ttl, 63);

    let (to, back) = net.one(net.uplink, tcp(Who::Outside, (REMOTE, 80), (OUTER, 40_000), SYN | ACK, b""));
    assert_eq!((to, seen(&back)), (client, (v4(REMOTE), 80, v4(client_v4(5)), 40_000)));
    assert_eq!((&back.bytes[..6], &back.bytes[6..12]), (&client_mac(5)[..], &GATE_MAC[..]));

    let (to, out) = net.one(client, tcp(Who::Client(5), (client_v6(5), 40_000), (REMOTE_V6, 80), SYN, b""));
    assert_eq!((to, seen(&out)), (net.uplink, (v4(OUTER_V6), 40_000, v4(REMOTE_V6), 80)));
    let (to, back) = net.one(net.uplink, tcp(Who::Outside, (REMOTE_V6, 80), (OUTER_V6, 40_000), SYN | ACK, b""));
    assert_eq!((to, seen(&back)), (client, (v4(REMOTE_V6), 80, v4(client_v6(5)), 40_000)));
    assert_eq!(net.router.flows().len(), 2);
}

#[test]
fn large_segments_cross_as_one_and_checksums_stay_open() {
    let mut net = Net::new(100, masquerade());
    let client = net.client(5);
    for (from, to, outer, gso) in [
        (v4(client_v4(5)), v4(REMOTE), v4(OUTER), xen_netif_gso(false)),
        (v4(client_v6(5)), v4(REMOTE_V6), v4(OUTER_V6), xen_netif_gso(true)),
    ] {
        net.one(client, tcp(Who::Client(5), (from, 40_000), (to, 80), SYN, b""));
        net.one(net.uplink, tcp(Who::Outside, (to, 80), (outer, 40_000), SYN | ACK, b""));
        let mut bytes = tcp(Who::Client(5), (from, 40_000), (to, 80), ACK, &[7; 60_000]);
        let headers = Headers::parse(&bytes).unwrap();
        assert!(checksum::leave_blank(&mut bytes, &headers));
        let large = Packet { bytes: bytes.into(), checksum: Checksum::Blank, gso: Some((gso, 1400)) };
        let (_, out) = net.one(client, large.clone());
        assert_eq!((out.gso, out.checksum, out.bytes.len()), (large.gso, Checksum::Blank, large.bytes.len()));
        assert_eq!(seen(&out), (outer, 40_000, to, 80));
        // Segments that the uplink does not take: the sender is told, as for any packet.
        let too_large = Packet { gso: Some((gso, 3000)), ..large };
        let (back, told) = net.one(client, too_large);
        assert_eq!(back, client);
        let kind = if from.is_ipv4() { (3, 4) } else { (2, 0) };
        assert_eq!(icmp_of(&told), kind);
        seen(&told);
    }
    assert_eq!(net.router.statistics().dropped[Drop::TooBig as usize], 2);
}

fn xen_netif_gso(v6: bool) -> xen_netif::protocol::Gso {
    if v6 { xen_netif::protocol::Gso::TcpV6 } else { xen_netif::protocol::Gso::TcpV4 }
}

fn icmp_of(packet: &Packet) -> (u8, u8) {
    match View::parse(&packet.bytes).unwrap().transport {
        Transport::Icmp { kind, code, .. } => (kind, code),
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_port_outside_is_one_clients() {
    let mut net = Net::new(100, masquerade());
    let (a, b) = (net.client(5), net.client(6));
    let (_, out) = net.one(a, udp(Who::Client(5), (client_v4(5), 5000), (REMOTE, 53), b"x"));
    assert_eq!(seen(&out).1, 5000);
    // Even to another host: RFC 4787, REQ-3.
    let (_, out) = net.one(b, udp(Who::Client(6), (client_v4(6), 5000), ([198, 51, 100, 9], 53), b"x"));
    let other = seen(&out).1;
    assert!(other != 5000 && other >= 1024);
    // The same for whomever it talks to: RFC 4787, REQ-1.
    let (_, out) = net.one(b, udp(Who::Client(6), (client_v4(6), 5000), (REMOTE, 123), b"x"));
    assert_eq!(seen(&out).1, other);
    let (to, back) = net.one(net.uplink, udp(Who::Outside, (REMOTE, 123), (OUTER, other), b"y"));
    assert_eq!((to, seen(&back).2), (b, v4(client_v4(6))));
    // Identifiers are translated as ports are.
    let (_, out) = net.one(a, ping(Who::Client(5), client_v4(5), REMOTE, 77, false));
    assert_eq!(seen(&out).1, 77);
    let (_, out) = net.one(b, ping(Who::Client(6), client_v4(6), REMOTE, 77, false));
    let id = seen(&out).1;
    assert_ne!(id, 77);
    let (to, back) = net.one(net.uplink, ping(Who::Outside, REMOTE, OUTER, id, true));
    assert_eq!((to, seen(&back)), (b, (v4(REMOTE), 8, v4(client_v4(6)), 77)));
    let (_, out) = net.one(b, ping(Who::Client(6), client_v6(6), REMOTE_V6, 77, false));
    assert_eq!(seen(&out), (v4(OUTER_V6), 77, v4(REMOTE_V6), 128));
}

#[test]
fn who_was_not_asked_gets_nowhere() {
    let mut net = Net::new(100, masquerade());
    let client = net.client(5);
    let uplink = net.uplink;
    assert_eq!(net.none(uplink, tcp(Who::Outside, (REMOTE, 80), (OUTER, 40_000), SYN, b"")), Drop::Forbidden);
    assert_eq!(net.none(uplink, tcp(Who::Outside, (REMOTE, 80), (OUTER, 40_000), ACK, b"")), Drop::NoFlow);
    assert_eq!(net.none(uplink, ping(Who::Outside, REMOTE, OUTER, 3, true)), Drop::NoFlow);
    // To the client itself: somebody on the uplink's link knows its address.
    assert_eq!(net.none(uplink, udp(Who::Outside, (REMOTE, 80), (client_v4(5), 40_000), b"")), Drop::Forbidden);
    assert_eq!(net.none(uplink, udp(Who::Outside, (REMOTE, 80), ([192, 0, 2, 1], 40_000), b"")), Drop::NoRoute);
    // An answer of another host than the one that was asked.
    net.one(client, udp(Who::Client(5), (client_v4(5), 5000), (REMOTE, 53), b"x"));
    assert_eq!(net.none(uplink, udp(Who::Outside, ([198, 51, 100, 9], 53), (OUTER, 5000), b"y")), Drop::Forbidden);
    assert_eq!(net.router.flows().len(), 1);
}

#[test]
fn nobody_speaks_in_anothers_name() {
    let mut net = Net::new(100, masquerade());
    let client = net.client(5);
    net.client(6);
    let uplink = net.uplink;
    assert_eq!(net.none(client, udp(Who::Client(5), (client_v4(6), 1), (REMOTE, 2), b"")), Drop::Spoofed);
    assert_eq!(net.none(client, udp(Who::Client(5), (client_v6(6), 1), (REMOTE_V6, 2), b"")), Drop::Spoofed);
    assert_eq!(net.none(client, udp(Who::Client(6), (client_v4(5), 1), (REMOTE, 2), b"")), Drop::Spoofed);
    assert_eq!(net.none(client, udp(Who::Client(5), (GATEWAY, 67), (REMOTE, 68), b"")), Drop::Spoofed);
    assert_eq!(net.none(uplink, udp(Who::Outside, (client_v4(5), 1), (OUTER, 2), b"")), Drop::Spoofed);
    assert_eq!(net.none(uplink, udp(Who::Outside, (OUTER, 1), (OUTER, 2), b"")), Drop::Spoofed);
    assert_eq!(net.none(uplink, udp(Who::Outside, (GATEWAY, 1), (OUTER, 2), b"")), Drop::Spoofed);
    // An address that no client has yet, but one could.
    net.router.set_inside(vec!["10.0.1.0/24".parse().unwrap()]);
    assert_eq!(net.none(uplink, udp(Who::Outside, (client_v4(77), 1), (OUTER, 2), b"")), Drop::Spoofed);
    // And to such a one nothing leaves; nor to all hosts of the uplink's network (RFC 2644).
    for address in [client_v4(77), client_v4(255), [203, 0, 113, 255].into()] {
        let mut sent = net.put(client, udp(Who::Client(5), (client_v4(5), 1), (address, 2), b""));
        sent.retain(|(to, _)| *to == uplink);
        assert_eq!(sent, []);
    }
    assert_eq!(net.router.statistics().dropped[Drop::NoRoute as usize], 3);
    // A server's message of DHCP, of a client's.
    assert_eq!(net.none(client, udp(Who::Client(5), (client_v4(5), 67), (client_v4(6), 68), b"")), Drop::Spoofed);
    assert_eq!(net.router.flows().len(), 0);
}

fn publish(port: u16, to: u8, to_port: u16) -> Publish {
    Publish { protocol: 6, outer: None, ports: port..=port, to: client_v4(to).into(), to_port }
}

#[test]
fn published_ports_are_reached_from_outside_and_from_inside() {
    let nat = Nat { publish: vec![publish(8080, 6, 80)], ..masquerade() };
    let mut net = Net::new(100, nat);
    let (a, b) = (net.client(5), net.client(6));
    let (to, packet) = net.one(net.uplink, tcp(Who::Outside, (REMOTE, 999), (OUTER, 8080), SYN, b""));
    assert_eq!((to, seen(&packet)), (b, (v4(REMOTE), 999, v4(client_v4(6)), 80)));
    let (to, packet) = net.one(b, tcp(Who::Client(6), (client_v4(6), 80), (REMOTE, 999), SYN | ACK, b""));
    assert_eq!((to, seen(&packet)), (net.uplink, (v4(OUTER), 8080, v4(REMOTE), 999)));
    // RFC 4787, REQ-9: with the source's address outside.
    let (to, packet) = net.one(a, tcp(Who::Client(5), (client_v4(5), 3000), (OUTER, 8080), SYN, b""));
    assert_eq!((to, seen(&packet)), (b, (v4(OUTER), 3000, v4(client_v4(6)), 80)));
    let (to, packet) = net.one(b, tcp(Who::Client(6), (client_v4(6), 80), (OUTER, 3000), SYN | ACK, b""));
    assert_eq!((to, seen(&packet)), (a, (v4(OUTER), 8080, v4(client_v4(5)), 3000)));
    assert_eq!(net.none(net.uplink, tcp(Who::Outside, (REMOTE, 999), (OUTER, 8081), SYN, b"")), Drop::Forbidden);
}

#[test]
fn a_client_may_have_an_address_outside_for_itself() {
    let outer: IpAddr = [203, 0, 113, 9].into();
    let nat = Nat { map: vec![Map { outer, inner: client_v4(6).into() }], ..masquerade() };
    let mut net = Net::new(100, nat);
    let b = net.client(6);
    let (to, packet) = net.one(b, udp(Who::Client(6), (client_v4(6), 80), (REMOTE, 999), b"x"));
    assert_eq!((to, seen(&packet)), (net.uplink, (outer, 80, v4(REMOTE), 999)));
    let (to, packet) = net.one(net.uplink, tcp(Who::Outside, (REMOTE, 1), (outer, 22), SYN, b""));
    assert_eq!((to, seen(&packet)), (b, (v4(REMOTE), 1, v4(client_v4(6)), 22)));
    // Neighbours outside are told who has it.
    let request = [
        &[0xff; 6][..],
        &ROUTER_MAC,
        &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1],
        &ROUTER_MAC,
        &[203, 0, 113, 1],
        &[0; 6],
        &[203, 0, 113, 9],
    ];
    let (_, answer) = net.one(net.uplink, request.concat());
    assert_eq!(
        (&answer.bytes[21..28], &answer.bytes[28..32]),
        (&[&[2][..], &UPLINK_MAC].concat()[..], &[203, 0, 113, 9][..])
    );
}

/// Who makes a table by hand may mix families up: such entries stand for nothing.
#[test]
fn translations_to_the_other_family_are_none() {
    let (outer, inner) = (IpAddr::from([203, 0, 113, 9]), v4(client_v6(6)));
    let publish = Publish { protocol: 17, outer: Some(OUTER.into()), ports: 53..=53, to: inner, to_port: 53 };
    let map = vec![Map { outer, inner }, Map { outer: inner, inner: client_v4(6).into() }];
    let mut net = Net::new(100, Nat { publish: vec![publish], map, ..masquerade() });
    let b = net.client(6);
    let uplink = net.uplink;
    assert_eq!(net.none(uplink, udp(Who::Outside, (REMOTE, 1), (outer, 22), b"")), Drop::NoRoute);
    assert_eq!(net.none(uplink, udp(Who::Outside, (REMOTE, 1), (OUTER, 53), b"")), Drop::Forbidden);
    let (_, packet) = net.one(b, udp(Who::Client(6), (client_v4(6), 80), (REMOTE, 999), b"x"));
    assert_eq!(seen(&packet).0, v4(OUTER));
}

#[test]
fn messages_about_a_flow_are_translated_with_what_they_quote() {
    let mut net = Net::new(100, masquerade());
    let (a, b) = (net.client(5), net.client(6));
    for (client, remote, outer, hop, number) in [
        (v4(client_v4(5)), v4(REMOTE), v4(OUTER), v4([192, 0, 2, 77]), 5_u8),
        (v4(client_v6(5)), v4(REMOTE_V6), v4(OUTER_V6), "2001:db8:77::1".parse().unwrap(), 5),
    ] {
        // So that the port is another one.
        let other = if client.is_ipv4() { v4(client_v4(6)) } else { v4(client_v6(6)) };
        net.one(b, udp(Who::Client(6), (other, 5000), (remote, 99), b"x"));
        let sent = udp(Who::Client(number), (client, 5000), (remote, 53), b"question");
        let (_, out) = net.one(a, sent.clone());
        let view = View::parse(&out.bytes).unwrap();
        for from in [remote, hop] {
            let mut told =
                sarab_router::icmp::error(&out.bytes, &view, from, sarab_router::icmp::Reason::TimeExceeded).unwrap();
            told[..6].copy_from_slice(&UPLINK_MAC);
            told[6..12].copy_from_slice(&ROUTER_MAC);
            let (to, packet) = net.one(net.uplink, told.clone());
            assert_eq!(to, a);
            let outside = View::parse(&packet.bytes).unwrap();
            assert_eq!((outside.source, outside.destination), (from, client));
            seen(&packet);
            // What it quotes is what was sent, but for its hop limit.
            let quoted = [&[0; 12][..], &sent[12..14], &packet.bytes[outside.headers.transport + 8..]].concat();
            let quoted_view = View::parse(&quoted).unwrap();
            assert_eq!(
                (quoted_view.source, quoted_view.destination, quoted_view.ports()),
                (client, remote, [5000, 53])
            );
            assert!(checksum::is_valid(&quoted, &quoted_view.headers));
            // One with a bit that is wrong is not made right.
            *told.last_mut().unwrap() ^= 1;
            assert_eq!(net.none(net.uplink, told), Drop::Checksum);
        }
        // About a packet that nobody sent.
        let strange = udp(Who::Client(5), (outer, 1234), (remote, 53), b"");
        let view = View::parse(&strange).unwrap();
        let mut told =
            sarab_router::icmp::error(&strange, &view, hop, sarab_router::icmp::Reason::TimeExceeded).unwrap();
        told[..6].copy_from_slice(&UPLINK_MAC);
        assert_eq!(net.none(net.uplink, told), Drop::NoFlow);
    }
}

#[test]
fn senders_are_told_why_a_packet_goes_no_further() {
    let mut net = Net::new(100, masquerade());
    let client = net.client(5);
    for (from, to, gateway, exceeded) in [
        (v4(client_v4(5)), v4(REMOTE), v4(GATEWAY), (11, 0)),
        (v4(client_v6(5)), v4(REMOTE_V6), v4(client_v6(1)), (3, 0)),
    ] {
        let (back, told) = net.one(client, udp_ttl(Who::Client(5), (from, 5000), (to, 33434), 1, b""));
        assert_eq!((back, icmp_of(&told)), (client, exceeded));
        let view = View::parse(&told.bytes).unwrap();
        assert_eq!((view.source, view.destination), (gateway, from));
        seen(&told);
    }
    // No more than so many: whoever sends them in somebody's name has little of it.
    let many = (0..1000).filter(|_| {
        !net.put(client, udp_ttl(Who::Client(5), (client_v4(5), 5000), (REMOTE, 33434), 1, b"")).is_empty()
    });
    let many = many.count();
    assert!((10..60).contains(&many), "{many}");
    net.now += Duration::from_secs(10);
    net.router.set_policy(Box::new(|_: &NewFlow| Verdict::Reject(None)), masquerade());
    let (_, told) = net.one(client, udp(Who::Client(5), (client_v4(5), 5000), (REMOTE, 53), b""));
    assert_eq!(icmp_of(&told), (3, 13));
    let (_, reset) = net.one(client, tcp(Who::Client(5), (client_v4(5), 5000), (REMOTE, 53), SYN, b""));
    let Transport::Tcp { flags, acknowledgement, .. } = View::parse(&reset.bytes).unwrap().transport else { panic!() };
    assert_eq!((flags, acknowledgement, seen(&reset)), (RST | ACK, 1001, (v4(REMOTE), 53, v4(client_v4(5)), 5000)));
}

#[test]
fn what_an_administrator_prohibits_is_told_by_icmp_for_all_protocols() {
    let mut net = Net::new(100, masquerade());
    let client = net.client(5);
    net.router.set_policy(Box::new(|_: &NewFlow| Verdict::Prohibit(None)), masquerade());
    for (from, to, prohibited) in [(v4(client_v4(5)), v4(REMOTE), (3, 13)), (v4(client_v6(5)), v4(REMOTE_V6), (1, 1))] {
        for packet in [
            udp(Who::Client(5), (from, 5000), (to, 53), b""),
            tcp(Who::Client(5), (from, 5000), (to, 53), SYN, b""),
            ping(Who::Client(5), from, to, 1, false),
        ] {
            let (back, told) = net.one(client, packet);
            assert_eq!((back, icmp_of(&told)), (client, prohibited));
        }
    }
}

#[test]
fn each_type_of_an_icmp_query_is_a_flow_of_its_own() {
    const TIMESTAMP: u8 = 13;
    let pings = |flow: &NewFlow| match flow.icmp {
        Some((8, _)) => Verdict::Accept(None),
        _ => Verdict::Drop(None),
    };
    // A ping's message as one of another type.
    let retyped = |mut frame: Vec<u8>, kind: u8| {
        let headers = Headers::parse(&frame).unwrap();
        frame[headers.transport] = kind;
        smoltcp::wire::Icmpv4Packet::new_unchecked(&mut frame[headers.transport..headers.end]).fill_checksum();
        frame
    };
    let query = |kind: u8| retyped(ping(Who::Client(5), client_v4(5), REMOTE, 77, false), kind);
    let mut net = Net::new(100, masquerade());
    let client = net.client(5);
    net.router.set_policy(Box::new(pings), masquerade());
    net.one(client, query(8));
    assert_eq!(net.none(client, query(TIMESTAMP)), Drop::Forbidden);
    assert_eq!(net.none(client, query(17)), Drop::Forbidden);
    // Other rules judge each as what it is.
    net.router.set_policy(Box::new(usual), masquerade());
    let (_, out) = net.one(client, query(TIMESTAMP));
    let id = u16::from_be_bytes([out.bytes[38], out.bytes[39]]);
    let answer = retyped(ping(Who::Outside, REMOTE, OUTER, id, true), TIMESTAMP + 1);
    let (to, packet) = net.one(net.uplink, answer.clone());
    assert_eq!((to, icmp_of(&packet).0), (client, TIMESTAMP + 1));
    assert_eq!(packet.bytes[38..40], 77_u16.to_be_bytes());
    assert_eq!(net.router.set_policy(Box::new(pings), masquerade()), 1);
    assert_eq!(net.none(net.uplink, answer), Drop::NoFlow);
    net.one(net.uplink, ping(Who::Outside, REMOTE, OUTER, 77, true));
}

#[test]
fn a_service_outside_is_reached_by_the_address_that_clients_know() {
    let (known, server) = (v4([10, 139, 1, 1]), v4([198, 51, 100, 53]));
    let nat = Nat { redirect: vec![Redirect { address: known, port: 53, to: server }], ..masquerade() };
    let mut net = Net::new(100, nat.clone());
    let client = net.client(5);
    let (to, packet) = net.one(client, udp(Who::Client(5), (client_v4(5), 5000), (known, 53), b"question"));
    assert_eq!((to, seen(&packet)), (net.uplink, (v4(OUTER), 5000, server, 53)));
    let (to, packet) = net.one(net.uplink, udp(Who::Outside, (server, 53), (OUTER, 5000), b"answer"));
    assert_eq!((to, seen(&packet)), (client, (known, 53, v4(client_v4(5)), 5000)));
    // Nothing else of it is.
    let (_, packet) = net.one(client, udp(Who::Client(5), (client_v4(5), 5001), (known, 123), b""));
    assert_eq!(seen(&packet).2, known);
    // The server is another one: who asks goes there, and what was asked of the last one is forgotten.
    let other = v4([198, 51, 100, 54]);
    let moved = Nat { redirect: vec![Redirect { address: known, port: 53, to: other }], ..masquerade() };
    assert_eq!(net.router.set_policy(Box::new(|_: &NewFlow| Verdict::Accept(None)), moved), 1);
    let (_, packet) = net.one(client, udp(Who::Client(5), (client_v4(5), 5000), (known, 53), b"question"));
    assert_eq!(seen(&packet).2, other);
}

#[test]
fn a_client_may_know_itself_by_another_address() {
    let visible = Ipv4Addr::new(192, 168, 100, 2);
    let mut net = Net::new(100, masquerade());
    let alias = |number: u8| Some(Alias { visible, actual: client_v4(number) });
    // Both with the same address in their own eyes.
    let (a, b) = (net.client_with(5, alias(5)), net.client_with(6, alias(6)));
    for (client, number, port) in [(a, 5, 4000), (b, 6, 4001)] {
        let (to, packet) = net.one(client, tcp(Who::Client(number), (visible, port), (REMOTE, 80), SYN, b""));
        assert_eq!((to, seen(&packet)), (net.uplink, (v4(OUTER), port, v4(REMOTE), 80)));
        let (to, packet) = net.one(net.uplink, tcp(Who::Outside, (REMOTE, 80), (OUTER, port), SYN | ACK, b""));
        assert_eq!((to, seen(&packet)), (client, (v4(REMOTE), 80, v4(visible), port)));
        let (to, packet) = net.one(client, ping(Who::Client(number), visible, REMOTE, port, false));
        assert_eq!((to, seen(&packet).0), (net.uplink, v4(OUTER)));
        // What it is told quotes what it has sent, and what it tells of what it was sent is understood.
        let sent = udp_ttl(Who::Client(number), (visible, port), (REMOTE, 33434), 1, b"probe");
        let (to, told) = net.one(client, sent);
        assert_eq!((to, icmp_of(&told), seen(&told).2), (client, (11, 0), v4(visible)));
        let quoted = View::parse(&told.bytes).unwrap().headers.transport + 8;
        assert_eq!(told.bytes[quoted + 12..quoted + 16], visible.octets());
        let (_, out) = net.one(client, udp(Who::Client(number), (visible, port), (REMOTE, 53), b"question"));
        assert_eq!(seen(&out).0, v4(OUTER));
        let (_, answer) = net.one(net.uplink, udp(Who::Outside, (REMOTE, 53), (OUTER, port), b"answer"));
        let view = View::parse(&answer.bytes).unwrap();
        let reason = sarab_router::icmp::Reason::Prohibited;
        let mut told = sarab_router::icmp::error(&answer.bytes, &view, v4(visible), reason).unwrap();
        told[..6].copy_from_slice(&answer.bytes[6..12]);
        told[6..12].copy_from_slice(&answer.bytes[..6]);
        let (to, told) = net.one(client, told);
        assert_eq!((to, seen(&told).0, seen(&told).2), (net.uplink, v4(OUTER), v4(REMOTE)));
        let quoted = View::parse(&told.bytes).unwrap().headers.transport + 8;
        assert_eq!(told.bytes[quoted + 16..quoted + 20], OUTER.octets());
        // Its address for others is none that it may send under.
        let spoofed = udp(Who::Client(number), (client_v4(number), port), (REMOTE, 53), b"");
        assert_eq!(net.none(client, spoofed), Drop::Spoofed);
    }
    // Clients reach each other by the addresses that others know.
    let (to, packet) = net.one(a, udp(Who::Client(5), (visible, 7), (client_v4(6), 9), b"x"));
    assert_eq!((to, seen(&packet)), (b, (v4(client_v4(5)), 7, v4(visible), 9)));
    let (to, packet) = net.one(b, udp(Who::Client(6), (visible, 9), (client_v4(5), 7), b"y"));
    assert_eq!((to, seen(&packet)), (a, (v4(client_v4(6)), 9, v4(visible), 7)));
}

#[test]
fn the_gateway_of_one_with_another_address_is_its_alone() {
    let visible = Ipv4Addr::new(192, 168, 100, 2);
    let mut net = Net::new(100, masquerade());
    let (hidden, other) = (net.client_with(5, Some(Alias { visible, actual: client_v4(5) })), net.client(6));
    let mut settings = net.router.client(hidden).unwrap().settings.clone();
    // A host outside has this one as well.
    settings.gateway_v4 = Some(REMOTE);
    net.router.set_client(hidden, settings);
    let (to, asked) = net.one(hidden, ping(Who::Client(5), visible, REMOTE, 1, false));
    assert_eq!(to, InterfaceId::LOCAL);
    let local = View::parse(&asked.bytes).unwrap().destination;
    let (to, answer) = net.one(InterfaceId::LOCAL, ping(Who::Outside, local, client_v4(5), 1, true));
    assert_eq!((to, seen(&answer).0, seen(&answer).2), (hidden, v4(REMOTE), v4(visible)));
    let (to, _) = net.one(other, udp(Who::Client(6), (client_v4(6), 5000), (REMOTE, 53), b""));
    assert_eq!(to, net.uplink);
    let (to, _) = net.one(net.uplink, udp(Who::Outside, (REMOTE, 53), (OUTER, 5000), b""));
    assert_eq!(to, other);
}

#[test]
fn packets_that_are_too_large_are_cut_where_they_may_be() {
    let mut net = Net::new(100, masquerade());
    let client = net.client(5);
    let (to, told) = net.one(client, udp(Who::Client(5), (client_v4(5), 5000), (REMOTE, 53), &[3; 2000]));
    assert_eq!((to, icmp_of(&told)), (client, (3, 4)));
    assert_eq!(told.bytes[14 + 20 + 6..14 + 20 + 8], 1500_u16.to_be_bytes());
    let pieces = net.put(client, may_cut(udp(Who::Client(5), (client_v4(5), 5001), (REMOTE, 53), &[3; 2000])));
    assert_eq!(pieces.len(), 2);
    for (_, piece) in &pieces {
        let view = View::parse(&piece.bytes).unwrap();
        assert!(view.fragment.is_some() && view.packet_len() <= 1500);
        assert_eq!(view.source, v4(OUTER));
    }
    let (_, told) = net.one(client, udp(Who::Client(5), (client_v6(5), 5000), (REMOTE_V6, 53), &[3; 2000]));
    assert_eq!(icmp_of(&told), (2, 0));
}

/// A large datagram's fragments, whole.
fn fragments(frame: &[u8], mtu: u16) -> Vec<Vec<u8>> {
    let headers = Headers::parse(frame).unwrap();
    let cut = xen_netif::segment::Segmenter::fragments(frame, &headers, mtu).unwrap();
    let write = |index: usize| {
        let mut out = vec![0; cut.len(index)];
        cut.write(frame, index, &mut out);
        out
    };
    (0..cut.count()).map(write).collect()
}

#[test]
fn fragments_follow_the_first_in_whatever_order_they_come() {
    for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
        let mut net = Net::new(100, masquerade());
        let client = net.client(5);
        let payload: Vec<u8> = (0..4000_u32).map(|at| at as u8).collect();
        let frame = may_cut(udp(Who::Client(5), (client_v4(5), 5000), (REMOTE, 53), &payload));
        let parts = fragments(&frame, 1500);
        assert_eq!(parts.len(), 3);
        let mut sent = Vec::new();
        for index in order {
            sent.extend(net.put(client, parts[index].clone()));
        }
        assert_eq!(sent.len(), 3, "{order:?}");
        // Put together, they are a datagram whose checksum is right.
        let mut all: Vec<(u16, Vec<u8>)> = sent
            .into_iter()
            .map(|(_, packet)| {
                let view = View::parse(&packet.bytes).unwrap();
                assert_eq!((view.source, view.ttl), (v4(OUTER), 63));
                let offset = u16::from_be_bytes([packet.bytes[20], packet.bytes[21]]) & 0x1fff;
                (offset, packet.bytes[34..].to_vec())
            })
            .collect();
        all.sort();
        let datagram = all.into_iter().flat_map(|(_, bytes)| bytes).collect::<Vec<_>>();
        let mut whole = frame.clone();
        whole[26..30].copy_from_slice(&OUTER.octets());
        whole[34..].copy_from_slice(&datagram);
        assert!(checksum::is_valid(&whole, &Headers::parse(&whole).unwrap()));
    }
    // Those whose first never comes are forgotten.
    let mut net = Net::new(100, masquerade());
    let client = net.client(5);
    let frame = may_cut(udp(Who::Client(5), (client_v4(5), 5000), (REMOTE, 53), &[1; 4000]));
    let parts = fragments(&frame, 1500);
    assert_eq!(net.put(client, parts[1].clone()), []);
    net.now += Duration::from_secs(2);
    net.router.poll(net.now, &mut Wires::default());
    assert_eq!(net.put(client, parts[0].clone()).len(), 1);
}

#[test]
fn fragments_of_one_client_do_not_make_others_lost() {
    let mut net = Net::new(100, masquerade());
    let (greedy, modest) = (net.client(5), net.client(6));
    let parts = |number: u8, id: u16| {
        let frame = udp(Who::Client(number), (client_v4(number), 5000), (REMOTE, 53), &[1; 2000]);
        let mut frame = may_cut(frame);
        frame[18..20].copy_from_slice(&id.to_be_bytes());
        let headers = Headers::parse(&frame).unwrap();
        checksum::complete_ipv4(&mut frame, &headers);
        fragments(&frame, 1500)
    };
    // Many begin, and do not end.
    net.one(modest, parts(6, 1)[0].clone());
    for id in 0..2000 {
        net.one(greedy, parts(5, id)[0].clone());
    }
    net.one(modest, parts(6, 1)[1].clone());
    // Many end that do not begin.
    for id in 3000..3200 {
        assert_eq!(net.put(greedy, parts(5, id)[1].clone()), []);
    }
    assert_eq!(net.put(modest, parts(6, 2)[1].clone()), []);
    for id in 3200..3400 {
        assert_eq!(net.put(greedy, parts(5, id)[1].clone()), []);
    }
    assert_eq!(net.put(modest, parts(6, 2)[0].clone()).len(), 2);
}

#[test]
fn a_full_table_is_shared_out() {
    let mut net = Net::new(100, masquerade());
    let (greedy, modest) = (net.client(5), net.client(6));
    let uplink = net.uplink;
    let begin = |net: &mut Net, number: u8, port: u16| {
        let client = if number == 5 { greedy } else { modest };
        net.put(client, udp(Who::Client(number), (client_v4(number), port), (REMOTE, 53), b"x"))
    };
    begin(&mut net, 5, 1);
    // This one is answered: it is worth more.
    net.put(uplink, udp(Who::Outside, (REMOTE, 53), (OUTER, 1), b"y"));
    for port in 2..=200 {
        begin(&mut net, 5, port);
    }
    assert_eq!(net.router.flows().len(), 100);
    assert_eq!(net.router.statistics().dropped[Drop::TableFull as usize], 100);
    for port in 1..=40 {
        assert_eq!(begin(&mut net, 6, port).len(), 1);
    }
    assert_eq!((net.router.flows().count_of(greedy), net.router.flows().count_of(modest)), (60, 40));
    assert_eq!(net.put(uplink, udp(Who::Outside, (REMOTE, 53), (OUTER, 1), b"y")).len(), 1);
    for port in 41..=200 {
        begin(&mut net, 6, port);
    }
    assert_eq!((net.router.flows().count_of(greedy), net.router.flows().count_of(modest)), (50, 50));
    net.router.set_limits(ClientLimits { flows: Some(50), ..ClientLimits::default() });
    net.router.remove(greedy);
    assert_eq!(net.router.flows().len(), 50);
    assert_eq!(net.none(modest, udp(Who::Client(6), (client_v4(6), 999), (REMOTE, 54), b"x")), Drop::ClientLimit);
}

#[test]
fn clients_begin_no_more_than_they_may() {
    let mut net = Net::new(1000, masquerade());
    net.router.set_limits(ClientLimits { new_flows: Some(10), icmp: Some(5), ..ClientLimits::default() });
    let client = net.client(5);
    let begin = |net: &mut Net, ports: std::ops::Range<u16>| {
        ports
            .filter(|port| !net.put(client, udp(Who::Client(5), (client_v4(5), *port), (REMOTE, 99), b"")).is_empty())
            .count()
    };
    assert_eq!(begin(&mut net, 1000..1100), 20);
    net.now += Duration::from_millis(1500);
    assert_eq!(begin(&mut net, 2000..2100), 15);
    net.now += Duration::from_secs(2);
    let pings = (0..30).filter(|_| !net.put(client, ping(Who::Client(5), client_v4(5), REMOTE, 9, false)).is_empty());
    assert_eq!(pings.count(), 10);
}

#[test]
fn rules_that_change_end_what_they_forbid_and_nothing_else() {
    let mut net = Net::new(100, masquerade());
    let client = net.client(5);
    for port in [80, 443] {
        net.one(client, tcp(Who::Client(5), (client_v4(5), 40_000), (REMOTE, port), SYN, b""));
    }
    let judge = |flow: &NewFlow| match flow.destination_port {
        Some(80) => Verdict::Drop(None),
        _ => Verdict::Accept(None),
    };
    assert_eq!(net.router.set_policy(Box::new(judge), masquerade()), 1);
    let uplink = net.uplink;
    assert_eq!(net.none(uplink, tcp(Who::Outside, (REMOTE, 80), (OUTER, 40_000), SYN | ACK, b"")), Drop::NoFlow);
    net.one(uplink, tcp(Who::Outside, (REMOTE, 443), (OUTER, 40_000), SYN | ACK, b""));
    // Without masquerading the flow would be another one.
    assert_eq!(net.router.set_policy(Box::new(judge), Nat::default()), 1);
}

#[test]
fn what_is_inside_from_now_on_is_nobodys_outside() {
    let mut net = Net::new(100, masquerade());
    let client = net.client(5);
    let question = || udp(Who::Client(5), (client_v4(5), 5000), (REMOTE, 53), b"");
    let answer = || udp(Who::Outside, (REMOTE, 53), (OUTER, 5000), b"");
    net.one(client, question());
    net.one(client, udp(Who::Client(5), (client_v4(5), 5001), ([198, 51, 100, 8], 53), b""));
    // A client has it, which is not here yet.
    net.router.set_inside(vec![sarab_net::IpCidr::new(REMOTE.into(), 32)]);
    assert_eq!(net.router.flows().len(), 1);
    assert_eq!(net.none(net.uplink, answer()), Drop::Spoofed);
    net.put(client, question());
    assert_eq!(net.router.take_records().last().map(|record| record.reason), Some(Drop::NoRoute));
    net.router.set_inside(Vec::new());
    net.one(client, question());
    net.one(net.uplink, answer());
}

#[test]
fn of_two_with_one_address_the_connected_one_has_it() {
    let mut net = Net::new(100, masquerade());
    let twins = [net.client(5), net.client(5)];
    for up in [0, 1, 0] {
        net.router.set_client_up(twins[up], true);
        net.router.set_client_up(twins[1 - up], false);
        let port = 1000 + net.router.statistics().flows as u16;
        net.one(twins[up], udp(Who::Client(5), (client_v4(5), port), (REMOTE, 99), b""));
        let other = net.client(7);
        let (to, _) = net.one(other, udp(Who::Client(7), (client_v4(7), port), (client_v4(5), 5), b""));
        assert_eq!(to, twins[up]);
        net.router.remove(other);
    }
    net.router.remove(twins[0]);
    let other = net.client(7);
    assert_eq!(net.one(other, udp(Who::Client(7), (client_v4(7), 9), (client_v4(5), 9), b"")).0, twins[1]);
}

#[test]
fn tcp_is_remembered_as_long_as_it_lasts() {
    let mut net = Net::new(100, masquerade());
    let client = net.client(5);
    let uplink = net.uplink;
    let out = |flags, numbers| tcp_at(Who::Client(5), (client_v4(5), 40_000), (REMOTE, 80), flags, numbers, b"");
    let back = |flags, numbers| tcp_at(Who::Outside, (REMOTE, 80), (OUTER, 40_000), flags, numbers, b"");
    net.one(client, out(SYN, (100, 0)));
    net.one(uplink, back(SYN | ACK, (500, 101)));
    net.one(client, out(ACK, (101, 501)));
    let alive = |net: &mut Net, after: Duration| {
        net.now += after;
        net.router.poll(net.now, &mut Wires::default());
        net.router.flows().len() == 1
    };
    assert!(alive(&mut net, Class::TcpEstablished.timeout() - Duration::from_secs(1)));
    // A reset that is nowhere near what is expected (RFC 5961) ends nothing here.
    assert_eq!(net.none(uplink, back(RST, (90_000, 0))), Drop::NoFlow);
    net.one(client, out(ACK, (101, 501)));
    assert!(alive(&mut net, Duration::from_secs(3600)));
    net.one(client, out(FIN | ACK, (101, 501)));
    net.one(uplink, back(FIN | ACK, (501, 102)));
    net.one(client, out(ACK, (102, 502)));
    assert!(alive(&mut net, Class::TcpClosing.timeout() - Duration::from_secs(1)));
    // The same ports again: another connection.
    net.one(client, out(SYN, (7000, 0)));
    assert_eq!(net.router.statistics().flows, 2);
    net.one(uplink, back(RST | ACK, (0, 7001)));
    assert!(!alive(&mut net, Class::TcpReset.timeout()));
}

#[test]
fn flows_to_the_router_itself_go_to_its_stack() {
    let mut net = Net::new(100, masquerade());
    let client = net.client(5);
    let local: IpAddr = [192, 0, 0, 8].into();
    for address in [GATEWAY, OUTER] {
        let (to, packet) = net.one(client, udp(Who::Client(5), (client_v4(5), 5000), (address, 53), b"?"));
        assert_eq!((to, seen(&packet)), (InterfaceId::LOCAL, (v4(client_v4(5)), 5000, local, 53)));
        let (to, packet) = net.one(InterfaceId::LOCAL, udp(Who::Client(5), (local, 53), (client_v4(5), 5000), b"!"));
        assert_eq!((to, seen(&packet)), (client, (v4(address), 53, v4(client_v4(5)), 5000)));
        net.router.remove(client);
        assert_eq!(net.client(5), client);
    }
    // And the router's own: outside with the uplink's address, inside with the gateway's.
    let (to, packet) = net.one(InterfaceId::LOCAL, udp(Who::Client(5), (local, 5001), (REMOTE, 53), b"?"));
    assert_eq!((to, seen(&packet)), (net.uplink, (v4(OUTER), 5001, v4(REMOTE), 53)));
    let (to, packet) = net.one(InterfaceId::LOCAL, udp(Who::Client(5), (local, 5002), (client_v4(5), 7), b"?"));
    assert_eq!((to, seen(&packet)), (client, (v4(GATEWAY), 5002, v4(client_v4(5)), 7)));
}

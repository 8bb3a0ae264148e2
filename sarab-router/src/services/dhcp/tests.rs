use proptest::prelude::*;
use smoltcp::wire::DhcpRepr;

use super::*;

const MAC: Mac = [0, 0x16, 0x3e, 0, 0, 1];
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 137, 0, 7);
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 137, 0, 8);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 137, 0, 1);
const NONE: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

fn offer() -> Offer {
    let mut offer = Offer::new(MAC, ADDRESS, 24, SERVER);
    offer.name_servers = vec![SERVER, OTHER];
    (offer.domain, offer.host_name) = (Some("lan.example".into()), Some("mail".into()));
    offer.mtu = Some(1400);
    offer
}

/// A client's message of a kind, from an address of its own, with further options.
fn message(kind: u8, own: Ipv4Addr, options: &[u8]) -> Vec<u8> {
    let mut message = vec![0; 240];
    message[..4].copy_from_slice(&[1, 1, 6, 0]);
    message[4..8].copy_from_slice(&[1, 2, 3, 4]);
    message[12..16].copy_from_slice(&own.octets());
    message[28..34].copy_from_slice(&MAC);
    message[236..].copy_from_slice(&[99, 130, 83, 99]);
    message.extend([53, 1, kind]);
    message.extend(options);
    message.push(255);
    message
}

fn to_all(message: &[u8]) -> Vec<u8> {
    let from = End { mac: MAC, address: NONE, port: 68 };
    frame::datagram(from, End { mac: BROADCAST, address: Ipv4Addr::BROADCAST, port: 67 }, message)
}

/// What is answered: who gets it, the header, and the options.
struct Got {
    to: Mac,
    address: Ipv4Addr,
    kind: u8,
    yours: Ipv4Addr,
    bytes: Vec<u8>,
}

impl Got {
    fn option(&self, kind: u8) -> Option<Vec<u8>> {
        Options::new(&self.bytes).value(kind)
    }
}

fn ask(message: &[u8], offer: &Offer) -> Option<Got> {
    let reply = respond(&to_all(message), offer).into_frame()?;
    let (from, to, packet) = frame::parse(&reply, EthernetProtocol::Ipv4).unwrap();
    assert_eq!(from, offer.server_mac);
    let (address, bytes) = frame::parse_datagram(packet, 68).unwrap();
    let packet = DhcpPacket::new_checked(bytes).unwrap();
    assert_eq!((packet.opcode(), packet.transaction_id()), (DhcpOpCode::Reply, 0x0102_0304));
    assert_eq!(packet.client_hardware_address().0, MAC);
    let kind = Options::new(bytes).value(options::KIND).unwrap()[0];
    assert_eq!(Options::new(bytes).address(options::SERVER), Some(SERVER));
    Some(Got { to, address, kind, yours: packet.your_ip(), bytes: bytes.into() })
}

fn requested(address: Ipv4Addr) -> Vec<u8> {
    [&[50, 4][..], &address.octets()].concat()
}

#[test]
fn an_offer_says_all_that_is_known() {
    let got = ask(&message(1, NONE, &[]), &offer()).unwrap();
    assert_eq!((got.kind, got.yours, got.to, got.address), (2, ADDRESS, MAC, ADDRESS));
    assert!(got.bytes.len() >= 300);
    for (kind, value) in [
        (1, &[255, 255, 255, 0][..]),
        (3, &SERVER.octets()),
        (6, &[SERVER.octets(), OTHER.octets()].concat()),
        (12, b"mail"),
        (15, b"lan.example"),
        (26, &[5, 120]),
        (51, &3600_u32.to_be_bytes()),
        (58, &1800_u32.to_be_bytes()),
        (59, &3150_u32.to_be_bytes()),
        (119, b"\x03lan\x07example\0"),
    ] {
        assert_eq!(got.option(kind).as_deref(), Some(value), "option {kind}");
    }
    assert_eq!(got.option(121), None, "the router is on the link");
    // smoltcp's reader agrees.
    let packet = DhcpPacket::new_checked(&got.bytes[..]).unwrap();
    let parsed = DhcpRepr::parse(&packet).unwrap();
    assert_eq!((parsed.router, parsed.lease_duration), (Some(SERVER), Some(3600)));
}

#[test]
fn what_is_not_asked_for_is_left_out() {
    let got = ask(&message(1, NONE, &[55, 2, 3, 6]), &offer()).unwrap();
    assert!([3, 6, 1, 51, 54].iter().all(|kind| got.option(*kind).is_some()));
    assert!([12, 15, 26, 119].iter().all(|kind| got.option(*kind).is_none()));
}

#[test]
fn a_router_outside_of_the_network_has_a_route() {
    let mut offer = Offer::new(MAC, ADDRESS, 32, SERVER);
    let routes = |offer: &Offer| ask(&message(1, NONE, &[]), offer).unwrap().option(121);
    assert_eq!(routes(&offer).unwrap(), [32, 10, 137, 0, 1, 0, 0, 0, 0, 0, 10, 137, 0, 1]);
    // With routes of its own a client forgets the router (RFC 3442).
    offer.prefix_len = 24;
    offer.routes = vec![(Ipv4Cidr::new(Ipv4Addr::new(172, 16, 9, 9), 12), OTHER)];
    assert_eq!(routes(&offer).unwrap(), [12, 172, 16, 10, 137, 0, 8, 0, 10, 137, 0, 1]);
    offer.routes[0].0 = Ipv4Cidr::new(NONE, 0);
    assert_eq!(routes(&offer).unwrap(), [0, 10, 137, 0, 8], "there is a default route already");
}

#[test]
fn a_long_option_has_parts_and_what_does_not_fit_is_left_out() {
    let mut offer = offer();
    offer.routes = (0..40).map(|at| (Ipv4Cidr::new(Ipv4Addr::new(172, 16, at, 0), 24), OTHER)).collect();
    let got = ask(&message(1, NONE, &[57, 2, 5, 220]), &offer).unwrap();
    assert_eq!(got.option(121).unwrap().len(), 40 * 8 + 5);
    offer.routes = (0..250).map(|at| (Ipv4Cidr::new(Ipv4Addr::new(172, 16, at, 0), 24), OTHER)).collect();
    let got = ask(&message(1, NONE, &[57, 2, 5, 220]), &offer).unwrap();
    assert!(got.option(121).is_none() && got.option(3).is_some() && got.bytes.len() <= 1472);
    // A size that is not allowed counts as the least.
    for size in [[57, 2, 0, 1], [57, 2, 2, 64]] {
        assert!(ask(&message(1, NONE, &size), &offer).unwrap().bytes.len() <= 576 - 28);
    }
}

#[test]
fn requests_are_granted_for_the_own_address_alone() {
    let ours = [&[54, 4][..], &SERVER.octets()].concat();
    let theirs = [&[54, 4][..], &OTHER.octets()].concat();
    let (own, other) = (requested(ADDRESS), requested(OTHER));
    let ack = Some((5, MAC, ADDRESS));
    let nak = Some((6, BROADCAST, Ipv4Addr::BROADCAST));
    for (name, own, options, expected) in [
        ("selecting", NONE, [&ours[..], &own].concat(), ack),
        ("selecting what was not offered", NONE, [&ours[..], &other].concat(), nak),
        ("selecting another server", NONE, [&theirs[..], &own].concat(), None),
        ("selecting a server of three bytes", NONE, [&[54, 3, 1, 2, 3][..], &own].concat(), None),
        ("rebooting", NONE, own.clone(), ack),
        ("rebooting elsewhere", NONE, other, nak),
        ("renewing", ADDRESS, Vec::new(), ack),
        ("renewing another", OTHER, Vec::new(), nak),
        ("nothing", NONE, Vec::new(), None),
    ] {
        let got = ask(&message(3, own, &options), &offer());
        assert_eq!(got.as_ref().map(|got| (got.kind, got.to, got.address)), expected, "{name}");
        if let Some(got) = got.filter(|got| got.kind == 6) {
            assert_eq!((got.yours, got.option(51), got.option(1)), (NONE, None, None));
        }
    }
}

#[test]
fn the_broadcast_flag_counts_until_the_client_has_its_address() {
    let flagged = |own| {
        let mut message = message(3, own, &requested(ADDRESS));
        message[10] = 0x80;
        ask(&message, &offer()).unwrap()
    };
    let got = flagged(NONE);
    assert_eq!((got.to, got.address, got.bytes[10]), (BROADCAST, Ipv4Addr::BROADCAST, 0x80));
    let got = flagged(ADDRESS);
    assert_eq!((got.to, got.address, &got.bytes[12..16]), (MAC, ADDRESS, &ADDRESS.octets()[..]));
}

#[test]
fn who_has_an_address_is_told_the_rest() {
    let got = ask(&message(8, ADDRESS, &[]), &offer()).unwrap();
    assert_eq!((got.kind, got.yours, got.to), (5, NONE, MAC));
    assert_eq!((got.option(51), got.option(58)), (None, None));
    assert!(got.option(6).is_some());
    assert!(ask(&message(8, OTHER, &[]), &offer()).is_none());
    let declined = respond(&to_all(&message(4, NONE, &requested(ADDRESS))), &offer());
    assert_eq!(declined, Response::Declined);
    assert_eq!(respond(&to_all(&message(7, ADDRESS, &[])), &offer()), Response::Released);
    assert_eq!(respond(&to_all(&message(4, NONE, &requested(OTHER))), &offer()), Response::Nothing);
}

#[test]
fn the_clients_identifier_is_repeated() {
    let got = ask(&message(1, NONE, &[61, 3, 0, 8, 9]), &offer()).unwrap();
    assert_eq!(got.option(61).unwrap(), [0, 8, 9]);
}

#[test]
fn what_is_not_a_clients_message_is_ignored() {
    let good = message(1, NONE, &[]);
    assert!(ask(&good, &offer()).is_some());
    for (at, value, name) in [
        (0, 2, "a server's"),
        (1, 6, "other hardware"),
        (2, 16, "another length of addresses"),
        (24, 10, "a relay's"),
        (33, 9, "another client's"),
        (236, 0, "no cookie"),
        (242, 9, "no kind"),
    ] {
        let mut bad = good.clone();
        bad[at] = value;
        assert!(ask(&bad, &offer()).is_none(), "{name}");
    }
    assert!(ask(&good[..240], &offer()).is_none(), "BOOTP");
    let frame = to_all(&good);
    for (at, value, name) in [
        (0, 2, "to somebody else"),
        (11, 9, "from somebody else"),
        (13, 6, "ARP"),
        (20, 0x20, "a fragment"),
        (23, 6, "TCP"),
        (30, 10, "to another address"),
        (37, 68, "to another port"),
    ] {
        let mut bad = frame.clone();
        bad[at] = value;
        assert_eq!(respond(&bad, &offer()), Response::Nothing, "{name}");
        assert!(!is_request(&bad, &offer()), "{name}");
    }
}

#[test]
fn options_may_be_in_all_places() {
    let mut message = message(3, NONE, &[52, 1, 3]);
    message[108..115].copy_from_slice(&[50, 4, 10, 137, 0, 7, 255]);
    message[44..52].copy_from_slice(&[54, 2, 10, 137, 54, 2, 0, 1]);
    assert_eq!(ask(&message, &offer()).unwrap().kind, 5);
    message[113] = 8;
    assert_eq!(ask(&message, &offer()).unwrap().kind, 6);
}

proptest! {
    #[test]
    fn any_bytes_have_a_good_answer_or_none(
        kind in 0_u8..10,
        options in proptest::collection::vec(any::<u8>(), 0..80),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in 0_usize..400,
    ) {
        let mut frame = to_all(&message(kind, ADDRESS, &options));
        for (at, value) in changes {
            let at = at.index(frame.len());
            frame[at] = value;
        }
        frame.truncate(frame.len().min(700 - cut));
        if let Response::Reply(reply) = respond(&frame, &offer()) {
            let (_, to, packet) = frame::parse(&reply, EthernetProtocol::Ipv4).unwrap();
            prop_assert!(to == MAC || to == BROADCAST);
            let (_, message) = frame::parse_datagram(packet, 68).unwrap();
            prop_assert!(DhcpRepr::parse(&DhcpPacket::new_checked(message).unwrap()).is_ok());
            prop_assert!(reply.len() <= 14 + 1500);
        }
    }
}

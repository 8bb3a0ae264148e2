use super::*;

const MAC: Mac = [2, 0, 0, 0, 0, 1];
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 3);
const A: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 7);
const B: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 8);
const OFFER: u8 = 2;
const ACK: u8 = 5;
const NAK: u8 = 6;

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// A server's message about an address: with a mask of 24 bits, a lease of 100 s, and these options.
fn answer(client: &Client, kind: u8, address: Ipv4Addr, options: &[u8]) -> Vec<u8> {
    let usual = [&[53, 1, kind, 54, 4, 10, 0, 0, 1, 51, 4, 0, 0, 0, 100, 1, 4, 255, 255, 255, 0][..], options];
    raw(client, address, &usual.concat())
}

fn raw(client: &Client, address: Ipv4Addr, options: &[u8]) -> Vec<u8> {
    let mut message = vec![0; 240];
    message[..4].copy_from_slice(&[2, 1, 6, 0]);
    message[4..8].copy_from_slice(&client.transaction.to_be_bytes());
    message[16..20].copy_from_slice(&address.octets());
    message[28..34].copy_from_slice(&MAC);
    message[236..].copy_from_slice(&[99, 130, 83, 99]);
    message.extend(options);
    message.push(255);
    message
}

/// What is sent at a time: its kind, and whom to.
fn sent(client: &mut Client, now: Duration) -> Option<(DhcpMessageType, Ipv4Addr, Vec<u8>)> {
    let message = client.poll(now).0?;
    let packet = DhcpPacket::new_checked(&message.bytes[..]).unwrap();
    assert_eq!(packet.client_hardware_address().0, MAC);
    Some((DhcpRepr::parse(&packet).unwrap().message_type, message.to, message.bytes))
}

fn up() -> Client {
    let mut client = Client::new(MAC, 1);
    client.link(true, secs(0));
    client
}

/// A client that was given `A` at the beginning, with these options.
fn bound(options: &[u8]) -> Client {
    let mut client = up();
    assert_eq!(sent(&mut client, secs(0)).unwrap().0, DhcpMessageType::Discover);
    let offer = answer(&client, OFFER, A, options);
    assert_eq!(client.process(&offer, SERVER, secs(0)), None);
    assert_eq!(sent(&mut client, secs(0)).unwrap().0, DhcpMessageType::Request);
    let ack = answer(&client, ACK, A, options);
    assert_eq!(client.process(&ack, SERVER, secs(0)), Some(Event::Leased));
    client
}

const ROUTER: &[u8] = &[3, 4, 10, 0, 0, 1];

#[test]
fn an_address_is_asked_for_and_renewed() {
    let mut client = bound(&[ROUTER, &[6, 8, 10, 0, 0, 1, 10, 0, 0, 2]].concat());
    let lease = client.lease().unwrap().clone();
    assert_eq!((lease.address, &lease.routes[..]), (Ipv4Cidr::new(A, 24), &[Route::default_via(SERVER)][..]));
    assert_eq!(lease.name_servers, [SERVER, Ipv4Addr::new(10, 0, 0, 2)]);
    assert_eq!(client.next(), Some(secs(50)));
    assert!(sent(&mut client, secs(49)).is_none());
    let (kind, to, bytes) = sent(&mut client, secs(50)).unwrap();
    assert_eq!((kind, to, &bytes[12..16]), (DhcpMessageType::Request, SERVER, &A.octets()[..]));
    let ack = answer(&client, ACK, A, &[]);
    client.process(&ack, SERVER, secs(50));
    let renewed = client.lease().unwrap();
    assert_eq!(
        (&renewed.routes, &renewed.name_servers),
        (&lease.routes, &lease.name_servers),
        "what is left out stays"
    );
    assert_eq!(client.next(), Some(secs(100)));
}

#[test]
fn who_is_not_answered_asks_all_then_loses_the_address() {
    let mut client = bound(ROUTER);
    let (mut unicast, mut broadcast) = (0, 0);
    while let Some(at) = client.next().filter(|at| *at < secs(100)) {
        match sent(&mut client, at) {
            Some((_, SERVER, _)) => {
                assert!(at >= secs(50) && at < Duration::from_millis(87_500), "{at:?}");
                unicast += 1;
            }
            Some((_, to, bytes)) => {
                assert_eq!((to, &bytes[12..16]), (Ipv4Addr::BROADCAST, &A.octets()[..]));
                broadcast += 1;
            }
            None => {}
        }
    }
    assert!((2..=8).contains(&unicast) && (2..=8).contains(&broadcast), "{unicast}, {broadcast}");
    let (message, event) = client.poll(secs(100));
    assert_eq!((event, client.lease()), (Some(Event::Lost(Loss::Expired)), None));
    assert!(message.is_some(), "it asks anew");
    let offer = answer(&client, OFFER, B, &[]);
    client.process(&offer, SERVER, secs(101));
    client.poll(secs(101));
    let ack = answer(&client, ACK, B, &[]);
    assert_eq!(client.process(&ack, SERVER, secs(101)), Some(Event::Leased));
    assert_eq!(client.lease().unwrap().address.address(), B);
}

#[test]
fn t1_and_t2_are_as_given() {
    let mut client = bound(&[58, 4, 0, 0, 0, 10, 59, 4, 0, 0, 0, 20]);
    assert_eq!(client.next(), Some(secs(10)));
    client.poll(secs(10));
    assert!(sent(&mut client, secs(20)).is_some_and(|(_, to, _)| to == Ipv4Addr::BROADCAST));
    for (renew, rebind, expected) in [(0, 0, 50), (90, 80, 50), (200, 300, 50), (0, 40, 22)] {
        let options = [&[58, 4, 0, 0, 0, renew as u8][..], &[59, 4, 0, 0, (rebind >> 8) as u8, rebind as u8]].concat();
        assert_eq!(bound(&options).next().unwrap().as_secs(), expected, "{renew} {rebind}");
    }
    // One without an end.
    let client = bound(&[51, 4, 255, 255, 255, 255]);
    let lease = client.lease().unwrap();
    assert!(lease.expires_at == secs(100), "parts of an option are one value, of which the first four bytes count");
}

#[test]
fn an_endless_lease_is_never_renewed() {
    let mut client = up();
    client.poll(secs(0));
    let options = [53, 1, OFFER, 54, 4, 10, 0, 0, 1, 51, 4, 255, 255, 255, 255, 1, 4, 255, 255, 255, 0];
    let offer = raw(&client, A, &options);
    client.process(&offer, SERVER, secs(0));
    client.poll(secs(0));
    let ack = raw(&client, A, &[&[53, 1, ACK][..], &options[3..]].concat());
    assert_eq!(client.process(&ack, SERVER, secs(0)), Some(Event::Leased));
    assert_eq!(client.next(), None);
}

#[test]
fn classless_routes_go_before_the_router() {
    let routes = [121, 22, 0, 10, 0, 0, 9, 8, 172, 10, 0, 0, 3, 32, 10, 0, 0, 9, 0, 0, 0, 0, 33, 1];
    let client = bound(&[&routes[..], ROUTER].concat());
    assert_eq!(
        client.lease().unwrap().routes,
        [
            Route::default_via(Ipv4Addr::new(10, 0, 0, 9)),
            Route::via(Ipv4Cidr::new(Ipv4Addr::new(172, 0, 0, 0), 8), OTHER),
            Route::on_link(Ipv4Cidr::new(Ipv4Addr::new(10, 0, 0, 9), 32)),
        ]
    );
}

#[test]
fn a_mask_of_32_bits_is_one() {
    let client = bound(&[&[1, 4, 255, 255, 255, 255][..], ROUTER].concat());
    assert_eq!(client.lease().unwrap().address.prefix_len(), 24, "the first mask counts, as with two of anything");
    let mut client = up();
    client.poll(secs(0));
    let options = [54, 4, 10, 0, 0, 1, 51, 4, 0, 0, 0, 100, 1, 4, 255, 255, 255, 255, 3, 4, 192, 0, 2, 1];
    let offer = raw(&client, A, &[&[53, 1, OFFER][..], &options].concat());
    client.process(&offer, SERVER, secs(0));
    client.poll(secs(0));
    let ack = raw(&client, A, &[&[53, 1, ACK][..], &options].concat());
    client.process(&ack, SERVER, secs(0));
    let lease = client.lease().unwrap();
    assert_eq!(lease.address, Ipv4Cidr::new(A, 32));
    assert_eq!(lease.routes, [Route::default_via(Ipv4Addr::new(192, 0, 2, 1))]);
}

#[test]
fn options_in_all_places_count() {
    let mut client = up();
    client.poll(secs(0));
    // The router in the field of the file, the mask in that of the name.
    let options = [53, 1, OFFER, 54, 4, 10, 0, 0, 1, 51, 4, 0, 0, 0, 100, 52, 1, 3];
    let mut offer = raw(&client, A, &options);
    offer[108..115].copy_from_slice(&[3, 4, 10, 0, 0, 9, 255]);
    offer[44..51].copy_from_slice(&[1, 4, 255, 255, 0, 0, 255]);
    let parsed = Answer::parse(&offer, MAC, client.transaction).unwrap();
    assert_eq!(parsed.address(), Some(Ipv4Cidr::new(A, 16)));
    assert_eq!(parsed.routes(Ipv4Cidr::new(A, 16)), Some(vec![Route::default_via(Ipv4Addr::new(10, 0, 0, 9))]));
    client.process(&offer, SERVER, secs(0));
    assert!(matches!(client.state, State::Requesting { .. }));
}

#[test]
fn a_refusal_has_another_address_asked_for() {
    let mut client = bound(ROUTER);
    client.poll(secs(50));
    let nak = raw(&client, Ipv4Addr::UNSPECIFIED, &[53, 1, NAK, 54, 4, 10, 0, 0, 1]);
    assert_eq!(client.process(&nak, SERVER, secs(51)), Some(Event::Lost(Loss::Refused(SERVER))));
    assert_eq!(client.lease(), None);
    assert_eq!(sent(&mut client, secs(51)).unwrap().0, DhcpMessageType::Discover);
    // One who refuses what he offers is left alone for a while.
    let offer = answer(&client, OFFER, A, &[]);
    client.process(&offer, SERVER, secs(51));
    client.poll(secs(51));
    let nak = raw(&client, Ipv4Addr::UNSPECIFIED, &[53, 1, NAK, 54, 4, 10, 0, 0, 1]);
    assert_eq!(client.process(&nak, SERVER, secs(52)), None);
    assert_eq!(client.next(), Some(secs(62)));
    assert_eq!(sent(&mut client, secs(62)).unwrap().0, DhcpMessageType::Discover);
}

#[test]
fn a_taken_address_is_declined() {
    let mut client = bound(ROUTER);
    let message = client.decline(secs(1)).unwrap();
    let packet = DhcpPacket::new_checked(&message.bytes[..]).unwrap();
    let parsed = DhcpRepr::parse(&packet).unwrap();
    assert_eq!((parsed.message_type, parsed.requested_ip), (DhcpMessageType::Decline, Some(A)));
    assert_eq!(parsed.server_identifier, Some(SERVER));
    assert!(sent(&mut client, secs(10)).is_none());
    assert_eq!(sent(&mut client, secs(11)).unwrap().0, DhcpMessageType::Discover);
    assert_eq!(client.decline(secs(12)), None);
}

#[test]
fn after_a_pause_of_the_link_the_same_address_is_asked_for() {
    let mut client = bound(ROUTER);
    client.link(false, secs(10));
    assert!(sent(&mut client, secs(20)).is_none());
    client.link(true, secs(20));
    assert!(client.lease().is_some(), "mostly it is the same network");
    let (kind, to, bytes) = sent(&mut client, secs(20)).unwrap();
    assert_eq!((kind, to, &bytes[12..16]), (DhcpMessageType::Request, Ipv4Addr::BROADCAST, &[0; 4][..]));
    let ack = answer(&client, ACK, A, &[]);
    assert_eq!(client.process(&ack, SERVER, secs(20)), Some(Event::Leased));
    assert_eq!(client.next(), Some(secs(70)));
    // It ends without a link as well.
    client.link(false, secs(30));
    assert_eq!(client.next(), Some(secs(120)));
    assert_eq!(client.poll(secs(120)), (None, Some(Event::Lost(Loss::Expired))));
    // A server that is away.
    let mut client = bound(ROUTER);
    client.link(false, secs(10));
    client.link(true, secs(20));
    let mut last = Duration::ZERO;
    while client.state != State::Renewing {
        last = client.next().unwrap();
        client.poll(last);
    }
    assert!(last >= secs(50) && client.lease().is_some());
}

#[test]
fn what_is_not_for_this_client_changes_nothing() {
    let mut client = up();
    client.poll(secs(0));
    let good = answer(&client, OFFER, A, ROUTER);
    for (at, value) in [(0, 1), (4, good[4] ^ 1), (28, 3), (236, 0)] {
        let mut bad = good.clone();
        bad[at] = value;
        assert_eq!(client.process(&bad, SERVER, secs(0)), None);
        assert_eq!(client.state, State::Selecting, "byte {at}");
    }
    for source in [Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, Ipv4Addr::new(224, 0, 0, 1)] {
        client.process(&good, source, secs(0));
        assert_eq!(client.state, State::Selecting);
    }
    for address in [[0; 4], [255; 4], [10, 0, 0, 255], [127, 0, 0, 1], [224, 0, 0, 1]] {
        let offer = answer(&client, OFFER, address.into(), ROUTER);
        assert!(matches!(client.process(&offer, SERVER, secs(0)), Some(Event::Unusable(_))), "{address:?}");
    }
    let no_server = raw(&client, A, &[53, 1, OFFER, 51, 4, 0, 0, 0, 100]);
    assert_eq!((client.process(&no_server, SERVER, secs(0)), client.state), (None, State::Selecting));
    // An answer of another server, or of another address.
    client.process(&good, SERVER, secs(0));
    client.poll(secs(0));
    for (address, server) in [(B, 1), (A, 9)] {
        let ack = raw(&client, address, &[53, 1, ACK, 54, 4, 10, 0, 0, server, 51, 4, 0, 0, 0, 100]);
        assert_eq!(client.process(&ack, SERVER, secs(0)), None);
        assert_eq!(client.lease(), None);
    }
}

#[test]
fn routers_that_are_none_are_left_out() {
    for router in [[0; 4], [224, 0, 0, 1], [255; 4], A.octets()] {
        let options = [&[3, 8][..], &router, &[10, 0, 0, 9]].concat();
        let client = bound(&options);
        assert_eq!(client.lease().unwrap().routes, [Route::default_via(Ipv4Addr::new(10, 0, 0, 9))]);
        assert_eq!(bound(&[&[3, 4][..], &router].concat()).lease().unwrap().routes, []);
    }
}

#[test]
fn an_offer_that_leads_nowhere_is_not_asked_for_without_end() {
    let mut client = up();
    client.poll(secs(0));
    let offer = answer(&client, OFFER, A, &[]);
    client.process(&offer, SERVER, secs(0));
    let mut kinds = Vec::new();
    while kinds.len() < 7 {
        let at = client.next().unwrap();
        kinds.extend(sent(&mut client, at).map(|(kind, ..)| kind));
    }
    use DhcpMessageType::{Discover, Request};
    assert_eq!(kinds, [Request, Request, Request, Request, Discover, Discover, Discover]);
}

#[test]
fn any_bytes_at_any_time() {
    let mut random = 1_u64;
    let mut next = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize
    };
    let (mut client, mut now) = (up(), Duration::ZERO);
    for _ in 0..30_000 {
        now += Duration::from_millis(next() as u64 % 40_000);
        if next() % 50 == 0 {
            client.link(next() % 3 > 0, now);
        }
        let before = client.next();
        client.poll(now);
        assert!(
            client.next().is_none_or(|at| at > now) || client.state == State::Bound,
            "{:?} {before:?}",
            client.state
        );
        let kind = [OFFER, ACK, NAK, 9][next() % 4];
        let mut message = answer(&client, kind, [A, B][next() % 2], &[&[121, 14, 0, 10, 0, 0, 9][..], ROUTER].concat());
        for _ in 0..next() % 3 {
            let at = 236 + next() % (message.len() - 236);
            message[at] = next() as u8;
        }
        message.truncate(message.len() - next() % 2 * (next() % message.len()));
        client.process(&message, SERVER, now);
        if let Some(lease) = client.lease() {
            assert!(address::is_host(lease.address) && lease.routes.len() <= 64);
        }
    }
}

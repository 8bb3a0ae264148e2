//! Packets that leave their checksum or segments to others, where that cannot be done or was not agreed on: from guests, and
//! for guests. Linux drops them.

mod support;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use etherparse::PacketBuilder;
use xen_hal::Clock;
use xen_netif::back::{Checksum, Limits, Packet, Port};
use xen_netif::checksum;
use xen_netif::headers::{Headers, UDP};
use xen_netif::protocol::{Gso, TxResponse, TxStatus, rx_flags, tx_flags};
use xen_sim::{Domain, Xen, check};

use support::guest::{Guest, against_with};
use support::packets::{tcp_v4, tcp_v6};

const BLANK: u16 = tx_flags::CSUM_BLANK | tx_flags::DATA_VALIDATED;

/// Runs a script as a guest with these features, with the backend's port; nothing may break.
fn with(xen: &Xen, features: &'static [&'static str], script: impl AsyncFn(&Guest, &Port) + 'static) {
    let found = Rc::new(RefCell::new(None));
    let opened = found.clone();
    let opened = move |_: Domain, port: Port| *opened.borrow_mut() = Some(Rc::new(port));
    let error = against_with(xen, features, Limits::default(), opened, async move |guest| {
        let port: Rc<Port> = found.borrow().clone().expect("the port is opened before the guest is connected");
        while !port.is_up() {
            guest.domain.sleep(Duration::from_micros(100)).await;
        }
        script(guest, &port).await;
    });
    assert_eq!(error, None);
}

fn udp_v4(payload: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([1; 4], [2; 4], 64).udp(1, 2);
    builder.write(&mut bytes, &vec![7; payload]).unwrap();
    bytes
}

fn icmp() -> Vec<u8> {
    let mut bytes = Vec::new();
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([1; 4], [2; 4], 64).icmpv4_echo_request(1, 2);
    builder.write(&mut bytes, &[7; 100]).unwrap();
    bytes
}

fn changed(mut bytes: Vec<u8>, at: usize, to: u8) -> Vec<u8> {
    bytes[at] = to;
    bytes
}

type Case = (&'static str, Vec<u8>, bool, Option<(Gso, u16)>);

/// Packets of which nobody can do what they leave to others: whether their checksum is said to be blank, and segments.
fn cannot_be_done() -> Vec<Case> {
    let arp = changed(tcp_v4(100), 13, 6);
    // More fragments follow.
    let fragment = changed(tcp_v4(100), 14 + 6, 0x20);
    let segments = Some((Gso::TcpV4, 1000));
    vec![
        ("no IP", arp.clone(), true, None),
        ("no IP", arp, true, segments),
        ("neither TCP nor UDP", icmp(), true, None),
        ("a fragment", fragment.clone(), true, None),
        ("a fragment", fragment, true, segments),
        ("a TCP header that is longer than the packet", changed(tcp_v4(8), 14 + 20 + 12, 0xf0), true, None),
        ("a TCP header that is longer than the packet", changed(tcp_v6(0, 8), 14 + 40 + 12, 0xf0), true, segments),
        ("a TCP header that is too short", changed(tcp_v4(8), 14 + 20 + 12, 0x40), true, None),
        ("an IP packet that is longer than the frame", changed(tcp_v4(100), 14 + 2, 1), true, None),
        ("more extension headers than anybody looks through", tcp_v6(256, 100), true, None),
        ("more extension headers than anybody looks through", tcp_v6(2048, 3000), true, Some((Gso::TcpV6, 1000))),
        ("segments of UDP", udp_v4(3000), true, segments),
        ("segments of another protocol than the packet's", tcp_v4(3000), true, Some((Gso::TcpV6, 1000))),
        ("segments of another protocol than the packet's", tcp_v6(0, 3000), false, segments),
        ("segments of next to nothing", tcp_v4(3000), true, Some((Gso::TcpV4, 7))),
        ("segments of next to nothing", tcp_v4(3000), false, Some((Gso::TcpV4, 1))),
    ]
}

#[test]
fn what_cannot_be_done_is_taken_from_no_guest() {
    check("from a guest", 4, |xen| {
        with(xen, &["feature-sg"], async |guest, port| {
            for (name, bytes, blank, gso) in cannot_be_done() {
                let before = port.statistics();
                guest.send_packet(&bytes, if blank { BLANK } else { 0 }, gso);
                let response = guest.response().await;
                assert_eq!(response, Some(TxResponse { id: 7, status: TxStatus::Error }), "{name}");
                while guest.response().await.is_some() {}
                assert_eq!(port.statistics().refused, before.refused + 1, "{name}");
                // The next packet is another one.
                guest.send_packet(&tcp_v4(100), BLANK, None);
                let packet = port.receive().await.unwrap();
                assert!(
                    (packet.checksum, packet.gso) == (Checksum::Blank, None) && packet.bytes == tcp_v4(100),
                    "{name}"
                );
                assert!(guest.response().await.is_some());
            }
            // With nothing left to others it is not netback's to judge.
            for (_, bytes, ..) in cannot_be_done() {
                guest.send_packet(&bytes, 0, None);
                let packet = port.receive().await.unwrap();
                assert!((packet.checksum, packet.gso) == (Checksum::Present, None) && packet.bytes == bytes);
                assert!(guest.response().await.is_some());
            }
            // The smallest that may be, and who leaves segments leaves the checksum too, whatever he says.
            for (sum, flags) in
                [(Checksum::Blank, BLANK), (Checksum::Blank, 0), (Checksum::Blank, tx_flags::DATA_VALIDATED)]
            {
                guest.send_packet(&tcp_v4(3000), flags, Some((Gso::TcpV4, 8)));
                let packet = port.receive().await.unwrap();
                assert!((packet.checksum, packet.gso) == (sum, Some((Gso::TcpV4, 8))) && packet.bytes == tcp_v4(3000));
            }
        });
    });
}

#[test]
fn what_cannot_be_done_goes_to_no_guest() {
    for features in [
        &["feature-sg"][..],
        &["feature-sg", "feature-gso-tcpv4", "feature-gso-tcpv6", "feature-ipv6-csum-offload"],
        &["feature-no-csum-offload"],
    ] {
        check("for a guest", 2, move |xen| {
            with(xen, features, async |guest, port| {
                for (name, bytes, blank, gso) in cannot_be_done() {
                    let before = port.statistics();
                    guest.offer_pages(6);
                    let sum = if blank { Checksum::Blank } else { Checksum::Present };
                    port.send(Packet { bytes: bytes.into(), checksum: sum, gso }).unwrap();
                    // And one that follows it.
                    port.send(vec![0xfe; 60].into()).unwrap();
                    guest.domain.sleep(Duration::from_millis(2)).await;
                    let dropped = guest.received().unwrap();
                    assert_eq!((dropped.flags, dropped.gso, dropped.bytes), (0, None, None), "{name}");
                    let next = guest.received().unwrap();
                    assert_eq!((next.flags, next.bytes), (0, Some(vec![0xfe; 60])), "{name}");
                    let after = port.statistics();
                    assert_eq!((after.dropped, after.to_guest), (before.dropped + 1, before.to_guest + 1), "{name}");
                    // The pages that are left.
                    for _ in 0..4 {
                        port.send(vec![0xfe; 60].into()).unwrap();
                    }
                    guest.domain.sleep(Duration::from_millis(2)).await;
                    while guest.received().is_some() {}
                }
            });
        });
    }
}

/// What is too large for a guest, or for everybody, is dropped and counted, and uses none of its pages.
#[test]
fn what_is_too_large_is_dropped() {
    for (features, largest) in [(&["feature-sg"][..], 18 * 4096), (&[], 4096)] {
        check("too large", 2, move |xen| {
            with(xen, features, async move |guest, port| {
                for _ in 0..18 {
                    guest.offer_pages(1);
                }
                for len in [largest + 1, 0, largest] {
                    port.send(vec![0xfe; len].into()).unwrap();
                }
                guest.domain.sleep(Duration::from_millis(2)).await;
                let received = guest.received().unwrap();
                assert_eq!(received.bytes.map(|bytes| bytes.len()), Some(largest));
                assert!(guest.received().is_none());
                assert_eq!((port.statistics().dropped, port.statistics().to_guest), (2, 1));
            });
        });
    }
}

/// All features that a guest can have, in any combination.
const SETS: [&[&str]; 10] = [
    &[],
    &["feature-sg"],
    &["feature-no-csum-offload"],
    &["feature-sg", "feature-no-csum-offload"],
    &["feature-sg", "feature-gso-tcpv4"],
    &["feature-gso-tcpv4", "feature-gso-tcpv6", "feature-ipv6-csum-offload"],
    &["feature-sg", "feature-gso-tcpv4", "feature-gso-tcpv6"],
    &["feature-sg", "feature-gso-tcpv4", "feature-gso-tcpv6", "feature-ipv6-csum-offload"],
    &["feature-sg", "feature-gso-tcpv6", "feature-ipv6-csum-offload"],
    &["feature-sg", "feature-gso-tcpv4", "feature-no-csum-offload"],
];

/// Any packet for any guest: it is sent nothing that it has not asked for, nothing that it cannot finish, and no checksum
/// that was not finished for it.
#[test]
fn a_guest_is_sent_what_it_has_asked_for() {
    check("any packets", 200, |xen| {
        let features = SETS[(xen.seed() % 10) as usize];
        let own = xen.clone();
        let has = move |feature: &str| features.contains(&feature);
        with(xen, features, async move |guest, port| {
            for _ in 0..30 {
                let payload = own.random(6000) as usize;
                let mut bytes = match own.random(5) {
                    0 => tcp_v4(payload),
                    1 => tcp_v6(own.random(40) as usize * 8, payload),
                    2 => udp_v4(payload),
                    3 => tcp_v6(0, payload),
                    _ => icmp(),
                };
                for _ in 0..own.random(3) {
                    let at = own.random(90.min(bytes.len() as u64)) as usize;
                    bytes[at] = own.random(256) as u8;
                }
                // Not for many.
                bytes[0] = 2;
                let protocol = [Gso::TcpV4, Gso::TcpV6, Gso::Other(own.random(256) as u8)][own.random(3) as usize];
                let gso = (own.random(2) == 0).then_some((protocol, own.random(6000) as u16));
                let sum = [Checksum::Blank, Checksum::Valid, Checksum::Present][own.random(3) as usize];
                let left_to_others = sum == Checksum::Blank || gso.is_some();
                let sent = bytes.clone();
                port.send(Packet { bytes: bytes.into(), checksum: sum, gso }).unwrap();
                let mut any = false;
                loop {
                    guest.refill_pages();
                    guest.domain.sleep(Duration::from_millis(1)).await;
                    let mut more = false;
                    while let Some(found) = guest.received() {
                        (any, more) = (true, true);
                        assert!(has("feature-sg") || found.slots == 1, "{found:?}");
                        let Some(bytes) = found.bytes else {
                            assert!(left_to_others && found.flags == 0 && found.gso.is_none());
                            continue;
                        };
                        look_at(&bytes, found.flags, found.gso, left_to_others, &sent, has);
                    }
                    if !more {
                        break;
                    }
                }
                assert!(any || !has("feature-sg"), "{sum:?} {gso:?} {sent:?}");
            }
        });
    });
}

fn look_at(
    bytes: &[u8],
    flags: u16,
    gso: Option<(Gso, u16)>,
    left_to_others: bool,
    sent: &[u8],
    has: impl Fn(&str) -> bool,
) {
    if !left_to_others {
        assert!(bytes == sent && flags & rx_flags::CSUM_BLANK == 0 && gso.is_none());
        return;
    }
    let headers = Headers::parse(bytes).expect("of something else nothing can be left to others");
    let takes = if headers.v6 { has("feature-ipv6-csum-offload") } else { !has("feature-no-csum-offload") };
    match flags & rx_flags::CSUM_BLANK != 0 {
        true => assert!(takes && checksum::is_present(bytes, &headers)),
        // RFC 768: none is right, too.
        false => assert!(checksum::is_valid(bytes, &headers) || headers.protocol == UDP),
    }
    if let Some((protocol, size)) = gso {
        let (feature, own) = match headers.v6 {
            true => ("feature-gso-tcpv6", Gso::TcpV6),
            false => ("feature-gso-tcpv4", Gso::TcpV4),
        };
        assert!(has(feature) && has("feature-sg") && flags & rx_flags::CSUM_BLANK != 0);
        assert!(protocol == own && size >= 8 && headers.tcp_header(bytes).is_some());
    }
}

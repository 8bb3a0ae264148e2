//! Neighbours of IPv6, and addresses of it that others have as well.

mod support;

use std::net::Ipv6Addr;
use std::time::Duration;

use sarab_net::{Config, Route};
use support::Lan;
use support::segment::MAC;
use support::v6::{
    ALL_NODES, ECHO, ECHO_REPLY, FAR, NEIGHBOR_ADVERTISEMENT, NEIGHBOR_SOLICITATION, icmp, message_type, neighbor,
    neighbor_mac, secs,
};
use xen_sim::check;

const HOME: Ipv6Addr = Ipv6Addr::new(0xfd12, 0, 0, 0, 0, 0, 0, 2);
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

fn home() -> Config {
    let router = Route::default_via(neighbor(1));
    Config { routes: vec![router], ..support::config("", "fd12::2/64") }
}

fn of_type(frames: &[Vec<u8>], kind: u8) -> Vec<&Vec<u8>> {
    frames.iter().filter(|frame| message_type(frame) == Some(kind)).collect()
}

fn echo(by: u8, from: Ipv6Addr) -> Vec<u8> {
    icmp(by, from, HOME, 64, &[ECHO, 0, 0, 0, 0, 1, 0, 1])
}

/// Says that a neighbour's address is at a MAC, that of this number.
fn claims(target: Ipv6Addr, mac: u8, to: Ipv6Addr, flags: u8) -> Vec<u8> {
    let mut message = vec![NEIGHBOR_ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0];
    message.extend(target.octets());
    message.extend([2, 1]);
    message.extend(neighbor_mac(mac));
    icmp(mac, target, to, 255, &message)
}

fn asks(target: Ipv6Addr, from: Ipv6Addr, mac: u8) -> Vec<u8> {
    let nodes = Ipv6Addr::from_bits(0xff02_0000_0000_0000_0000_0001_ff00_0000 | target.to_bits() & 0xff_ffff);
    let mut message = vec![NEIGHBOR_SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target.octets());
    if !from.is_unspecified() {
        message.extend([1, 1]);
        message.extend(neighbor_mac(mac));
    }
    icmp(mac, from, nodes, 255, &message)
}

#[test]
fn a_link_local_router_is_asked_for_and_another_mac_of_it_counts_at_once() {
    check("a router", 4, |xen| {
        Lan::run(xen, home(), async |lan, _| {
            lan.settle().await;
            let sent = lan.ask(echo(1, FAR)).await;
            let asked = of_type(&sent, NEIGHBOR_SOLICITATION);
            assert_eq!((asked.len(), &asked[0][62..78]), (1, &neighbor(1).octets()[..]));
            let sent = lan.ask(claims(neighbor(1), 1, HOME, SOLICITED | OVERRIDE)).await;
            assert_eq!(of_type(&sent, ECHO_REPLY)[0][..6], neighbor_mac(1), "what waited");
            // Told to all, or found in an advertisement that may not override.
            lan.ask(claims(neighbor(1), 9, ALL_NODES, 0)).await;
            assert_eq!(of_type(&lan.ask(echo(1, FAR)).await, ECHO_REPLY)[0][..6], neighbor_mac(1));
            lan.ask(claims(neighbor(1), 9, ALL_NODES, OVERRIDE)).await;
            assert_eq!(of_type(&lan.ask(echo(1, FAR)).await, ECHO_REPLY)[0][..6], neighbor_mac(9));
        });
    });
}

#[test]
fn who_asks_is_answered_and_known() {
    check("asked", 4, |xen| {
        Lan::run(xen, home(), async |lan, _| {
            lan.settle().await;
            let sent = lan.ask(asks(HOME, neighbor(5), 5)).await;
            let told = of_type(&sent, NEIGHBOR_ADVERTISEMENT);
            assert_eq!((told.len(), &told[0][..6], &told[0][62..78]), (1, &neighbor_mac(5)[..], &HOME.octets()[..]));
            assert_eq!((told[0][58], &told[0][80..86]), (SOLICITED | OVERRIDE, &MAC[..]));
            let sent = lan.ask(icmp(5, neighbor(5), HOME, 64, &[ECHO, 0, 0, 0, 0, 1, 0, 1])).await;
            assert_eq!((of_type(&sent, ECHO_REPLY).len(), of_type(&sent, NEIGHBOR_SOLICITATION).len()), (1, 0));
            // Somebody who wants to have the address; who is far; and who asks for another.
            let sent = lan.ask(asks(HOME, Ipv6Addr::UNSPECIFIED, 6)).await;
            assert_eq!(of_type(&sent, NEIGHBOR_ADVERTISEMENT)[0][..6], [0x33, 0x33, 0, 0, 0, 1]);
            let mut far = asks(HOME, neighbor(5), 5);
            far[21] = 254;
            assert!(lan.ask(far).await.is_empty());
            assert!(lan.ask(asks(neighbor(7), neighbor(5), 5)).await.is_empty());
        });
    });
}

#[test]
fn an_address_that_another_host_has_is_not_used() {
    check("duplicate", 4, |xen| {
        Lan::run(xen, home(), async |lan, stack| {
            lan.pass(Duration::from_millis(100)).await;
            let sent = lan.sent();
            let asked = of_type(&sent, NEIGHBOR_SOLICITATION);
            assert!(asked.iter().any(|frame| frame[22..38] == [0; 16] && frame[62..78] == HOME.octets()));
            assert!(stack.config_v6().is_some(), "it is used until somebody says something");
            lan.ask(claims(HOME, 6, ALL_NODES, OVERRIDE)).await;
            lan.pass(secs(2)).await;
            assert_eq!(stack.config_v6(), None);
            assert!(
                lan.said.borrow().contains(&"fd12::2 is in use by 02:00:00:00:09:06".into()),
                "{:?}",
                lan.said.borrow()
            );
        });
        // Later the one who comes is told whose it is.
        Lan::run(xen, home(), async |lan, stack| {
            lan.settle().await;
            let sent = lan.ask(claims(HOME, 6, ALL_NODES, OVERRIDE)).await;
            assert_eq!(of_type(&sent, NEIGHBOR_ADVERTISEMENT).len(), 1);
            assert!(stack.config_v6().is_some());
        });
    });
}

#[test]
fn own_frames_that_come_back_are_no_other_host() {
    check("a hub", 2, |xen| {
        Lan::run(xen, home(), async |lan, stack| {
            for _ in 0..40 {
                lan.pass(Duration::from_millis(100)).await;
                lan.sent().into_iter().for_each(|frame| lan.wire.deliver(frame));
            }
            assert!(stack.config_v6().is_some());
            assert_eq!(lan.interface.addresses().link_local, Some(support::v6::OWN));
        });
    });
}

//! A stack among many hosts, honest ones and others.

mod support;

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use embassy_net::udp::{PacketMetadata, UdpSocket};
use sarab_net::{Config, Route};
use support::hosts::{ALL, Arp, OWN, arp, ethernet, host, parse_arp, parse_pong, ping};
use support::segment::MAC;
use support::{Lan, config};
use xen_sim::check;

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn lan() -> Config {
    config("10.0.0.2/8", "")
}

/// How often all are asked for somebody. (One who was known for a while is asked himself.)
fn requests(frames: &[Vec<u8>]) -> usize {
    frames.iter().filter_map(|frame| parse_arp(frame)).filter(|arp| arp.is_request && arp.to == ALL).count()
}

#[test]
fn a_thousand_hosts_are_answered_again_and_again() {
    check("a thousand", 2, |xen| {
        Lan::run(xen, lan(), async |lan, _| {
            lan.settle().await;
            let mut asked = 0;
            for round in 0..5 {
                for number in 0..1024 {
                    let (mac, address) = host(number);
                    if round == 0 {
                        lan.wire.deliver(arp(true, ALL, (mac, address), ([0; 6], OWN)));
                    }
                    lan.wire.deliver(ping(mac, address, number));
                }
                lan.pass(millis(1000)).await;
                let sent = lan.sent();
                let mut answered: Vec<_> = sent.iter().filter_map(|frame| parse_pong(frame)).collect();
                answered.sort_by_key(|(_, _, number)| *number);
                let expected: Vec<_> = (0..1024).map(|number| (host(number).0, host(number).1, number)).collect();
                assert_eq!(answered, expected, "round {round}");
                asked += requests(&sent);
            }
            assert_eq!(asked, 0, "who has asked is known");
            assert!(lan.interface.neighbors() >= 1024);
        });
    });
}

#[test]
fn packets_to_a_thousand_hosts_wait_for_their_addresses() {
    check("to a thousand", 2, |xen| {
        Lan::run(xen, lan(), async |lan, stack| {
            lan.settle().await;
            let (mut receive, mut send) = ([PacketMetadata::EMPTY; 2], [PacketMetadata::EMPTY; 64]);
            let (mut received, mut sent) = ([0; 256], [0; 4096]);
            let mut socket = UdpSocket::new(stack, &mut receive, &mut received, &mut send, &mut sent);
            socket.bind(1000).unwrap();
            let mut arrived = 0;
            for number in 0..1000_u16 {
                socket.send_to(&number.to_be_bytes(), (host(number).1, 7)).await.unwrap();
                if number % 50 != 49 {
                    continue;
                }
                lan.pass(millis(10)).await;
                for frame in lan.sent() {
                    let request = parse_arp(&frame).expect("nothing is sent to whom is not known");
                    assert!(request.is_request && request.to == ALL && request.sender == OWN, "{request:?}");
                    let number = u16::from_be_bytes(*request.target.octets().last_chunk().unwrap()) - (4 << 8);
                    lan.wire.deliver(arp(false, MAC, host(number), (MAC, OWN)));
                }
                lan.pass(millis(10)).await;
                for frame in lan.sent() {
                    let number = u16::from_be_bytes(*frame.last_chunk().unwrap());
                    assert_eq!((&frame[..6], &frame[30..34]), (&host(number).0[..], &host(number).1.octets()[..]));
                    arrived += 1;
                }
            }
            assert_eq!(arrived, 1000);
            assert_eq!(lan.interface.counters(), Default::default());
        });
    });
}

#[test]
fn noise_disturbs_nobody() {
    check("noise", 2, |xen| {
        Lan::run(xen, lan(), async |lan, _| {
            lan.settle().await;
            let (mac, address) = host(1);
            let mut noise = 1000_u16;
            for number in 0..20 {
                for _ in 0..600 {
                    noise = 1000 + noise.wrapping_mul(13).wrapping_add(7) % 50_000;
                    // For the guest, for others, answers to nobody, and gratuitous ones.
                    let target = if noise & 1 == 0 { OWN } else { Ipv4Addr::new(10, 9, 9, 9) };
                    lan.wire.deliver(arp(noise & 2 == 0, ALL, host(noise), ([0; 6], target)));
                    lan.wire.deliver(arp(true, ALL, host(noise), ([0; 6], host(noise).1)));
                }
                if number == 0 {
                    lan.wire.deliver(arp(true, ALL, (mac, address), ([0; 6], OWN)));
                }
                let sent = lan.ask(ping(mac, address, number)).await;
                let pongs: Vec<_> = sent.iter().filter_map(|frame| parse_pong(frame)).collect();
                assert_eq!(pongs, [(mac, address, number)]);
                assert_eq!(requests(&sent), 0, "it is known all the time");
                lan.pass(millis(300)).await;
            }
        });
    });
}

#[test]
fn another_mac_counts_at_once() {
    check("gratuitous", 4, |xen| {
        Lan::run(xen, lan(), async |lan, _| {
            lan.settle().await;
            let (mac, address) = host(1);
            lan.wire.deliver(arp(true, ALL, (mac, address), ([0; 6], OWN)));
            assert_eq!(lan.ask(ping(mac, address, 0)).await.iter().filter_map(|frame| parse_pong(frame)).count(), 1);
            for (number, is_request) in [(1, true), (2, false)] {
                let other = host(100 + number).0;
                let target = if is_request { [0; 6] } else { ALL };
                lan.wire.deliver(arp(is_request, ALL, (other, address), (target, address)));
                let sent = lan.ask(ping(other, address, number)).await;
                let pongs: Vec<_> = sent.iter().filter_map(|frame| parse_pong(frame)).collect();
                assert_eq!(pongs, [(other, address, number)], "request: {is_request}");
            }
            // Of somebody who was never talked to nothing is learnt.
            let known = lan.interface.neighbors();
            lan.ask(arp(true, ALL, host(7), ([0; 6], host(7).1))).await;
            assert_eq!(lan.interface.neighbors(), known);
        });
    });
}

#[test]
fn others_are_asked_for_the_address_then_told_of_it() {
    check("claims", 4, |xen| {
        Lan::run(xen, lan(), async |lan, _| {
            let probe = Arp { is_request: true, to: ALL, sender: Ipv4Addr::UNSPECIFIED, target: OWN };
            let announcement = Arp { sender: OWN, ..probe };
            lan.pass(millis(5000)).await;
            let arps = |sent: Vec<Vec<u8>>| sent.iter().filter_map(|frame| parse_arp(frame)).collect::<Vec<_>>();
            let expected = || [3, 2].into_iter().zip([&probe, &announcement]);
            let check = |sent: Vec<Arp>| {
                let mut sent = sent.iter();
                for (count, kind) in expected() {
                    assert!(sent.by_ref().take(count).all(|arp| arp == kind));
                }
                assert_eq!(sent.next(), None);
            };
            let sent = arps(lan.sent());
            assert_eq!(sent.len(), 5, "{sent:?}");
            check(sent);
            // Whoever wants to have it is answered, as who asks.
            let (mac, address) = host(5);
            for sender in [Ipv4Addr::UNSPECIFIED, address] {
                let sent = arps(lan.ask(arp(true, ALL, (mac, sender), ([0; 6], OWN))).await);
                assert_eq!(sent, [Arp { is_request: false, to: mac, sender: OWN, target: sender }]);
            }
            assert_eq!(arps(lan.ask(arp(true, ALL, (mac, address), ([0; 6], host(6).1))).await), []);
            // A wire that was pulled, and plugged in again.
            lan.wire.set_link(false);
            lan.pass(millis(1000)).await;
            lan.wire.set_link(true);
            lan.pass(millis(5000)).await;
            check(arps(lan.sent()));
            lan.interface.announce();
            lan.pass(millis(5000)).await;
            check(arps(lan.sent()));
            assert!(lan.said.borrow().len() == 1, "{:?}", lan.said.borrow());
        });
    });
}

#[test]
fn another_host_with_the_address_is_told_of() {
    check("conflicts", 4, |xen| {
        Lan::run(xen, lan(), async |lan, _| {
            let (mac, _) = host(5);
            lan.pass(millis(50)).await;
            lan.sent();
            lan.ask(arp(false, MAC, (mac, OWN), (MAC, Ipv4Addr::UNSPECIFIED))).await;
            assert_eq!(*lan.said.borrow(), ["10.0.0.2/8", "10.0.0.2 is in use by 02:00:00:09:00:05"]);
            lan.pass(millis(20_000)).await;
            let told = lan.sent().iter().filter_map(|frame| parse_arp(frame)).count();
            assert_eq!(told, 0, "the other had it first");
        });
        Lan::run(xen, lan(), async |lan, _| {
            lan.settle().await;
            let (mac, _) = host(5);
            for _ in 0..1000 {
                lan.wire.deliver(arp(true, ALL, (mac, OWN), ([0; 6], OWN)));
                lan.pass(millis(30)).await;
            }
            // It is told whose the address is, but not without end.
            let told = lan.sent().iter().filter_map(|frame| parse_arp(frame)).filter(|arp| arp.sender == OWN).count();
            assert!((3..=4).contains(&told), "{told}");
            let said = lan.said.borrow();
            assert_eq!(said[1], "02:00:00:09:00:05 claims 10.0.0.2, which is this host's");
            assert!((4..=5).contains(&said.len()), "{said:?}");
        });
    });
}

#[test]
fn a_router_may_be_outside() {
    let (router, gateway) = ([2, 0, 0, 0, 0, 7], Ipv4Addr::new(192, 0, 2, 1));
    let far = Ipv4Addr::new(8, 8, 8, 8);
    let outside = Config { routes: vec![Route::default_via(gateway)], ..config("10.0.0.2/32", "") };
    check("outside", 4, move |xen| {
        Lan::run(xen, outside.clone(), async move |lan, _| {
            lan.settle().await;
            let sent = lan.ask(ping(router, far, 1)).await;
            let asked: Vec<_> = sent.iter().filter_map(|frame| parse_arp(frame)).collect();
            assert_eq!(asked, [Arp { is_request: true, to: ALL, sender: OWN, target: gateway }]);
            let sent = lan.ask(arp(false, MAC, (router, gateway), (MAC, OWN))).await;
            assert_eq!(sent.iter().filter_map(|frame| parse_pong(frame)).collect::<Vec<_>>(), [(router, far, 1)]);
        });
    });
}

#[test]
fn nobody_is_asked_for_a_permanent_neighbor() {
    let (router, gateway) = ([0xfe, 0xff, 0xff, 0xff, 0xff, 0xff], Ipv4Addr::new(192, 0, 2, 1));
    let far = Ipv4Addr::new(8, 8, 8, 8);
    let routes = vec![Route::default_via(gateway)];
    let pinned = Config { routes, neighbors: vec![(gateway.into(), router)], ..config("10.0.0.2/32", "") };
    check("permanent", 4, move |xen| {
        Lan::run(xen, pinned.clone(), async move |lan, _| {
            lan.settle().await;
            for _ in 0..2 {
                let sent = lan.ask(ping(router, far, 1)).await;
                assert_eq!(sent.iter().filter_map(|frame| parse_arp(frame)).count(), 0);
                assert_eq!(sent.iter().filter_map(|frame| parse_pong(frame)).collect::<Vec<_>>(), [(router, far, 1)]);
                // Nobody else becomes the gateway by saying so.
                lan.ask(arp(false, MAC, (host(9).0, gateway), (MAC, OWN))).await;
            }
        });
    });
}

#[test]
fn what_no_route_leads_for_is_counted() {
    check("no route", 1, |xen| {
        Lan::run(xen, config("10.0.0.2/24", ""), async |lan, _| {
            lan.settle().await;
            let sent = lan.ask(ping(host(1).0, Ipv4Addr::new(8, 8, 8, 8), 1)).await;
            assert!(sent.is_empty());
            assert_eq!(lan.interface.counters().unroutable, 1);
        });
    });
}

#[test]
fn tags_of_vlans_are_not_for_this_host() {
    check("tags", 1, |xen| {
        Lan::run(xen, lan(), async |lan, _| {
            lan.settle().await;
            let (mac, address) = host(1);
            lan.wire.deliver(arp(true, ALL, (mac, address), ([0; 6], OWN)));
            let tagged = |tag: u16| {
                let plain = ping(mac, address, tag);
                ethernet(MAC, mac, 0x8100, &[&tag.to_be_bytes()[..], &plain[12..]].concat())
            };
            let answered = async |frame| lan.ask(frame).await.iter().any(|frame| parse_pong(frame).is_some());
            assert!(!answered(tagged(1)).await && !answered(tagged(0xe00a)).await);
            assert!(answered(tagged(0)).await && answered(tagged(0xe000)).await, "a priority alone is no VLAN");
            // Of another host, and cut short.
            let mut other = ping(mac, address, 9);
            other[5] ^= 1;
            assert!(!answered(other).await);
            for len in 0..40 {
                lan.wire.deliver(tagged(0)[..len].to_vec());
                lan.wire.deliver(ping(mac, address, 1)[..len].to_vec());
                lan.wire.deliver(arp(true, ALL, (mac, address), ([0; 6], OWN))[..len].to_vec());
            }
            assert!(answered(ping(mac, address, 2)).await);
            let counters = lan.interface.counters();
            assert!(counters.foreign == 1 && counters.tagged >= 4, "{counters:?}");
        });
    });
}

#[test]
fn addresses_change_while_it_runs() {
    check("other addresses", 2, |xen| {
        Lan::run(xen, lan(), async |lan, stack| {
            lan.settle().await;
            lan.interface.changed().await;
            let (mac, address) = host(1);
            lan.interface.configure(Config {
                routes: vec![Route::default_via(Ipv4Addr::new(10, 0, 0, 1))],
                name_servers: vec![IpAddr::V4(address)],
                ..config("10.0.0.9/24", "")
            });
            lan.interface.changed().await;
            let now = lan.interface.addresses();
            assert_eq!(now.to_string(), "10.0.0.9/24, gateway 10.0.0.1");
            assert_eq!(now.name_servers, [IpAddr::V4(address)]);
            assert_eq!(stack.config_v4().unwrap().address.to_string(), "10.0.0.9/24");
            lan.settle().await;
            assert!(lan.ask(arp(true, ALL, (mac, address), ([0; 6], OWN))).await.is_empty());
            let own = Ipv4Addr::new(10, 0, 0, 9);
            assert_eq!(lan.ask(arp(true, ALL, (mac, address), ([0; 6], own))).await.len(), 1);
            lan.interface.configure(config("", ""));
            lan.interface.changed().await;
            assert_eq!(stack.config_v4(), None);
            assert_eq!(lan.interface.addresses().to_string(), "no address");
        });
    });
}

//! netfront and netback against each other.

mod support;

use std::time::Duration;

use etherparse::PacketBuilder;
use xen_hal::Clock;
use xen_netif::back::{Checksum, Limits, Packet, SendError, Statistics};
use xen_netif::checksum;
use xen_netif::front::Options;
use xen_netif::headers::Headers;
use xen_netif::protocol::Gso;
use xen_sim::{Faults, Toolstack, check, keep_log, take_log};

use support::network::{bench, beside, frame, receive, send};

fn tcp(payload: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).tcp(80, 5000, 7, 9);
    builder.write(&mut bytes, &frame(payload.max(1), 1)[..payload]).unwrap();
    bytes
}

#[test]
fn frames_of_any_size_go_both_ways() {
    check("both ways", 24, |xen| {
        let faults =
            Faults { spurious_events: 10, eagain: 10, store_delay: Duration::from_micros(50), ..Faults::default() };
        xen.set_faults(faults);
        let seed = xen.seed();
        let bench = bench(xen, Limits::default().with_from_guest(100 << 10).with_to_guest(4 << 20));
        let before = bench.back.in_use();
        xen.run(async move {
            bench.attach(&[]).await;
            let options =
                Options::default().with_receive_pages(32 << (seed % 4)).with_transmit_pages(17 + seed as usize);
            let (interface, port) = bench.connect(options).await;
            let size =
                |index: u64| 14 + ((index * 7919 + seed * 104_729) % [60, 1500, 65_000][(index % 3) as usize]) as usize;
            const FRAMES: u64 = 100;
            let mut device = interface.device();
            let guest = async {
                for index in 0..FRAMES {
                    send(&mut device, &frame(size(index), index)).await;
                }
                for index in 0..FRAMES {
                    assert!(receive(&mut device).await == frame(size(index), index), "to the guest, {index}");
                }
            };
            let host = async {
                for index in 0..FRAMES {
                    let packet = port.receive().await.unwrap();
                    assert!(packet.bytes == frame(size(index), index), "from the guest, {index}");
                }
                for index in 0..FRAMES {
                    let packet =
                        Packet { bytes: frame(size(index), index).into(), checksum: Checksum::Valid, gso: None };
                    while port.send(packet.clone()) == Err(SendError::Full) {
                        bench.back.sleep(Duration::from_micros(100)).await;
                    }
                }
            };
            futures_util::future::join(guest, host).await;
            let statistics = port.statistics();
            assert_eq!((statistics.from_guest, statistics.to_guest, statistics.refused), (FRAMES, FRAMES, 0));
            assert!(statistics.grant_copies < 2 * FRAMES, "{statistics:?}");
            assert_eq!((interface.statistics().received, interface.statistics().dropped), (FRAMES, 0));
            drop((device, interface));
            bench.front.sleep(Duration::from_secs(1)).await;
            assert!(
                bench.toolstack.detach("vif", bench.front.id(), bench.back.id(), 0).await.unwrap(),
                "closed in time"
            );
            assert_eq!(port.receive().await, None);
            bench.front.sleep(Duration::from_secs(1)).await;
            assert_eq!((bench.front.in_use().grants, bench.front.in_use().mapped), (0, 0));
            assert_eq!(bench.back.in_use().grants, before.grants);
            assert!(bench.back.in_use().ports <= 1, "the store's port alone");
        });
        xen.end();
    });
}

#[test]
fn each_guest_gets_what_it_takes() {
    for (large, sums) in [(true, true), (false, true), (false, false)] {
        check("features", 10, move |xen| {
            let bench = bench(xen, Limits::default());
            xen.run(async move {
                bench.attach(&[]).await;
                let options = Options::default().with_large_segments(large).with_checksums(sums);
                let (interface, port) = bench.connect(options).await;
                let mut device = interface.device();
                let whole = tcp(10_000);
                let mut blank = whole.clone();
                checksum::leave_blank(&mut blank, &Headers::parse(&whole).unwrap());
                port.send(Packet { bytes: blank.into(), checksum: Checksum::Blank, gso: Some((Gso::TcpV4, 1000)) })
                    .unwrap();
                let mut payload = Vec::<u8>::new();
                let mut frames = 0;
                while payload.len() < 10_000 {
                    let bytes = receive(&mut device).await;
                    let headers = Headers::parse(&bytes).unwrap();
                    // Of a whole one the guest knows that it is good.
                    assert!(large || checksum::is_valid(&bytes, &headers));
                    payload.extend(&bytes[headers.transport + 20..headers.end]);
                    frames += 1;
                }
                assert!(payload == whole[54..]);
                assert_eq!(frames, if large { 1 } else { 10 });
                assert_eq!(interface.statistics().dropped, 0);
                // And back: what is left blank is known to be.
                send(&mut device, &tcp(500)).await;
                let mut packet = port.receive().await.unwrap();
                assert_eq!(packet.checksum, if sums { Checksum::Blank } else { Checksum::Present });
                let headers = Headers::parse(&packet.bytes).unwrap();
                if sums {
                    checksum::complete(&mut packet.bytes, &headers);
                }
                assert!(packet.bytes == tcp(500));
            });
        });
    }
}

#[test]
fn xsa_392_a_guest_that_takes_nothing_holds_a_bounded_queue() {
    check("queue", 10, |xen| {
        let bench = bench(xen, Limits::default().with_to_guest(100_000));
        xen.run(async move {
            bench.attach(&[]).await;
            let (interface, port) = bench.connect(Options::default().with_receive_pages(32)).await;
            let mut refused = 0;
            for index in 0..1000 {
                refused += u32::from(port.send(frame(1500, index).into()) == Err(SendError::Full));
                bench.back.sleep(Duration::from_micros(10)).await;
            }
            // Those that fill its ring, and those that fill the queue.
            assert!((800..1000).contains(&refused), "{refused}");
            // What waits is dropped in the end.
            bench.back.sleep(Duration::from_secs(11)).await;
            assert_eq!(port.send(frame(1500, 1).into()), Ok(()));
            let Statistics { dropped, .. } = port.statistics();
            assert!(dropped > u64::from(refused) + 50, "{dropped}");
            drop(interface);
        });
    });
}

/// What it sends is no sign that it takes anything.
#[test]
fn xsa_392_a_guest_that_sends_and_takes_nothing_loses_what_waits() {
    check("queue of a sender", 4, |xen| {
        let bench = bench(xen, Limits::default().with_to_guest(100_000));
        xen.run(async move {
            bench.attach(&[]).await;
            let (interface, port) = bench.connect(Options::default().with_receive_pages(32)).await;
            let mut device = interface.device();
            for index in 0..200 {
                let _ = port.send(frame(1500, index).into());
                bench.back.sleep(Duration::from_micros(10)).await;
            }
            let before = port.statistics().dropped;
            for _ in 0..12 {
                send(&mut device, &frame(60, 1)).await;
                bench.back.sleep(Duration::from_secs(1)).await;
            }
            let Statistics { dropped, .. } = port.statistics();
            assert!(dropped > before + 50, "{dropped} after {before}");
            drop(interface);
        });
    });
}

#[test]
fn multicast_control() {
    check("multicast", 10, |xen| {
        let bench = bench(xen, Limits::default());
        xen.run(async move {
            bench.attach(&[]).await;
            let (interface, port) = bench.connect(Options::default().with_multicast_control(true)).await;
            let mut device = interface.device();
            let to = |address: [u8; 6]| {
                let mut bytes = frame(60, 0);
                bytes[..6].copy_from_slice(&address);
                Packet::from(bytes)
            };
            let (group, other) = ([1, 0, 0x5e, 0, 0, 1], [1, 0, 0x5e, 0, 0, 2]);
            assert_eq!(port.send(to(group)), Err(SendError::Multicast));
            assert_eq!(port.send(to([0xff; 6])), Ok(()));
            assert!(interface.join(group));
            bench.front.sleep(Duration::from_millis(5)).await;
            assert_eq!((port.send(to(group)), port.send(to(other))), (Ok(()), Err(SendError::Multicast)));
            assert_eq!(receive(&mut device).await[..6], [0xff; 6]);
            assert_eq!(receive(&mut device).await[..6], group);
            assert!(interface.leave(group));
            bench.front.sleep(Duration::from_millis(5)).await;
            assert_eq!(port.send(to(group)), Err(SendError::Multicast));
        });
    });
}

#[test]
fn a_rate_is_kept() {
    check("rate", 10, |xen| {
        let (bench, own) = (bench(xen, Limits::default()), xen.clone());
        xen.run(async move {
            // 10,000 bytes in 50 ms.
            bench.attach(&[("rate", "10000,50000")]).await;
            let (interface, port) = bench.connect(Options::default()).await;
            let mut device = interface.device();
            let (start, steps) = (bench.front.now(), own.steps());
            let guest = async {
                for index in 0..100 {
                    send(&mut device, &frame(1000, index)).await;
                }
            };
            let host = async {
                for index in 0..100 {
                    assert!(port.receive().await.unwrap().bytes == frame(1000, index));
                }
            };
            futures_util::future::join(guest, host).await;
            let took = bench.front.now() - start;
            assert!((Duration::from_millis(400)..Duration::from_millis(700)).contains(&took), "{took:?}");
            // A guest that has to wait costs nothing meanwhile.
            let steps = own.steps() - steps;
            assert!(steps < 5000, "{steps} steps");
        });
    });
}

/// The guest is gone at any moment, in the middle of everything.
#[test]
fn xsa_374_a_guest_that_dies_under_load() {
    check("death", 60, |xen| {
        let bench = bench(xen, Limits::default());
        let pause = Duration::from_micros(xen.random(500));
        xen.run(async move {
            bench.attach(&[]).await;
            let (interface, port) = bench.connect(Options::default()).await;
            let mut device = interface.device();
            bench
                .front
                .spawn(async move {
                    for index in 0.. {
                        send(&mut device, &frame(3000, index)).await;
                    }
                })
                .detach();
            let (toolstack, ids) = (bench.toolstack.clone(), (bench.front.id(), bench.back.id()));
            let killer = async {
                bench.back.sleep(pause).await;
                drop(interface);
                bench.front.destroy();
                let (at_front, at_back) = Toolstack::paths("vif", ids.0, ids.1, 0);
                toolstack.store().remove(&at_front).await.unwrap();
                toolstack.store().remove(&at_back).await.unwrap();
            };
            let reader = async {
                while port.receive().await.is_some() {
                    let _ = port.send(frame(3000, 0).into());
                }
            };
            futures_util::future::join(killer, reader).await;
            bench.back.sleep(Duration::from_secs(1)).await;
            assert!(bench.back.in_use().ports <= 1, "the store's port alone");
        });
    });
}

/// A packet whose checksum was left blank leaves for a guest that makes none itself: also where it lies in several slots,
/// by UDP, and over IPv6.
#[test]
fn checksums_left_blank_are_completed_over_several_slots() {
    for v6 in [false, true] {
        check("blank UDP", 6, move |xen| {
            let sender = bench(xen, Limits::default());
            let taker = beside(xen, sender.toolstack.clone(), Limits::default());
            xen.run(async move {
                for own in [&sender, &taker] {
                    own.attach(&[]).await;
                    own.set_mtu(9000).await;
                }
                let (out, from) = sender.connect(Options::default()).await;
                let (interface, to) = taker.connect(Options::default().with_checksums(false)).await;
                let (mut out, mut taken) = (out.device(), interface.device());
                for len in [1, 2, 17, 4054, 4055, 8900] {
                    let mut bytes = Vec::new();
                    let ethernet = PacketBuilder::ethernet2([2; 6], [4; 6]);
                    match v6 {
                        true => ethernet.ipv6([1; 16], [2; 16], 64).udp(1, 2).write(&mut bytes, &frame(len, 7)),
                        false => ethernet.ipv4([1; 4], [2; 4], 64).udp(1, 2).write(&mut bytes, &frame(len, 7)),
                    }
                    .unwrap();
                    send(&mut out, &bytes).await;
                    let packet = from.receive().await.unwrap();
                    assert_eq!(packet.checksum, Checksum::Blank);
                    assert!(packet.bytes != bytes);
                    to.send(packet).unwrap();
                    assert!(receive(&mut taken).await == bytes, "{len} bytes");
                }
            });
            xen.end();
        });
    }
}

#[test]
fn rings_are_shown_at_any_time() {
    check("rings", 4, |xen| {
        let bench = bench(xen, Limits::default());
        xen.run(async move {
            bench.attach(&[]).await;
            let (interface, port) = bench.connect(Options::default()).await;
            let (front, back) = (interface.rings(), port.rings());
            let mut device = interface.device();
            send(&mut device, &frame(6000, 1)).await;
            port.receive().await.unwrap();
            let shown = front.to_string();
            assert!(shown.contains("tx 256 slots, produced 2 (published 2)") && shown.contains("sent: 1"), "{shown}");
            let shown = back.to_string();
            assert!(
                shown.contains("tx 256 slots") && shown.contains("req_prod 2") && shown.contains("from_guest: 1"),
                "{shown}"
            );
            drop((device, interface));
            bench.front.sleep(Duration::from_secs(1)).await;
            assert_eq!((front.to_string(), front.is_alive()), ("closed".into(), false));
            assert!(back.to_string().starts_with("not connected") && back.is_alive());
            let dropped = port.statistics().dropped;
            assert_eq!(port.send(vec![2; 60].into()), Err(SendError::Down));
            assert_eq!(port.statistics().dropped, dropped + 1);
            assert!(bench.toolstack.detach("vif", bench.front.id(), bench.back.id(), 0).await.unwrap());
            drop(port);
            bench.ports.borrow_mut().clear();
            bench.front.sleep(Duration::from_secs(1)).await;
            assert!(!back.is_alive());
        });
        xen.end();
    });
}

/// Whoever makes a slip in a configuration is told so, and has a network.
#[test]
fn an_mtu_that_is_none_is_1500_with_one_warning() {
    for (value, mtu) in [
        ("banana", None),
        ("100000", None),
        ("65536", None),
        ("67", None),
        ("0", None),
        ("-1", None),
        ("", None),
        ("\u{1b}[31m", None),
        ("68", Some(68)),
        ("1400\n", Some(1400)),
        ("65517", Some(65517)),
        ("65535", Some(65535)),
    ] {
        check("MTU", 1, move |xen| {
            keep_log();
            let bench = bench(xen, Limits::default());
            xen.run(async move {
                bench.attach(&[]).await;
                bench.write_mtu(value).await;
                let (interface, _port) = bench.connect(Options::default()).await;
                assert_eq!(interface.info().mtu, mtu.unwrap_or(1500));
                // A backend that is restarted, as often as it likes, has it read again, and not complained of again.
                let state = format!("/local/domain/{}/backend/vif/{}/0/state", bench.back.id().0, bench.front.id().0);
                bench.toolstack.store().set(&state, &5_u32).await.unwrap();
                while interface.statistics().connections < 2 {
                    bench.front.sleep(Duration::from_millis(1)).await;
                }
            });
            let lines = take_log();
            let warnings: Vec<_> = lines.iter().filter(|line| line.contains("/mtu")).collect();
            let shown = if value.starts_with('\u{1b}') { "\\u{1b}[31m" } else { value };
            let expected = format!("device/vif/0/mtu is \"{shown}\", not a number from 68 to 65535: using 1500");
            match mtu {
                None => assert_eq!(warnings, [&expected]),
                Some(_) => assert_eq!(warnings, [""; 0]),
            }
        });
    }
}

/// A domain with more devices than grants for them waits for grants: whoever uses the interface waits with it.
#[test]
fn an_interface_without_grants_is_up_once_there_are_some() {
    check("no grants", 4, |xen| {
        keep_log();
        xen.set_faults(Faults { grants: 100, ..Faults::default() });
        let bench = bench(xen, Limits::default());
        let machine = xen.clone();
        xen.run(async move {
            bench.attach(&[]).await;
            let clock = bench.front.clone();
            let relief = async {
                clock.sleep(Duration::from_secs(500)).await;
                machine.set_faults(Faults::default());
            };
            let ((interface, _port), ()) = futures_util::future::join(bench.connect(Options::default()), relief).await;
            assert!(clock.now() < Duration::from_secs(562));
            assert_eq!(interface.statistics().connections, 1);
        });
        let lines = take_log();
        let own: Vec<_> = lines.iter().filter(|line| line.contains("grant table") || line.contains("needs")).collect();
        let full = "device/vif/0: cannot connect: the transmit ring: the grant table is full (ENOSPC); trying again in \
                    5 s, then less often";
        assert!(own.len() == 2 && own[0] == full, "{lines:?}");
        assert!(own[1].starts_with("device/vif/0: has what it needs after 5"), "{lines:?}");
        // The backend is not closed and opened meanwhile.
        let states: Vec<_> = lines.iter().filter(|line| line.starts_with("backend") && line.ends_with(')')).collect();
        assert_eq!(states, ["backend/vif/1/0: InitWait (2)", "backend/vif/1/0: Connected (4)"], "{lines:?}");
    });
}

//! netfront against backends under the test's control: what goes out and comes in, and what a backend may not do.

mod support;

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use embassy_net_driver::{Driver, LinkState};
use etherparse::PacketBuilder;
use xen_hal::{Access, Clock, Pages};
use xen_netif::checksum;
use xen_netif::front::Gone;
use xen_netif::headers::Headers;
use xen_netif::protocol::{Extra, Gso, RxRequest, RxResponse, TxRequest, TxResponse, TxStatus, rx_flags, tx_flags};
use xen_ring::{SharedMapping, SharedPage};
use xen_sim::{SimMapping, check, keep_log, take_log};

use support::network::{frame, receive, send};
use support::wire::{ALL, PLAIN, Sent, Wire, against};

#[test]
fn frames_go_both_ways_whole_and_in_order() {
    for nodes in [PLAIN, ALL] {
        check("frames", 40, move |xen| {
            let seed = xen.seed();
            let large = nodes.len() > 1;
            let size = move |index: u64| {
                let most = if large { 65_000 } else { 1514 };
                14 + ((index * 7919 + seed * 104_729) % most) as usize
            };
            const FRAMES: u64 = 60;
            let error = against(
                xen,
                nodes,
                async move |wire| {
                    for index in 0..FRAMES {
                        let sent = wire.sent().await;
                        assert_eq!(sent, Sent { bytes: frame(size(index), index), flags: 0, extra: None });
                        let part = if large { 4096 } else { 1514 };
                        // Also where the bytes do not lie side by side.
                        let at = if index % 3 == 0 { 0 } else { 2 };
                        let part = if at == 0 { part } else { part.min(4000) };
                        if sent.bytes.len().div_ceil(part) <= 18 {
                            wire.deliver(&sent.bytes, part, at, rx_flags::DATA_VALIDATED, None).await;
                        } else {
                            wire.deliver(&sent.bytes[..64], part, at, rx_flags::DATA_VALIDATED, None).await;
                        }
                    }
                },
                async move |interface, _| {
                    let info = interface.ready().await.unwrap();
                    assert_eq!((info.mac, info.mtu), ([0, 0x16, 0x3e, 1, 2, 3], 1500));
                    assert_eq!((info.gso_v4, info.checksum_v4), (large, true));
                    let mut device = interface.device();
                    assert_eq!(poll_fn(|cx| Poll::Ready(device.link_state(cx))).await as u8, LinkState::Up as u8);
                    let mut next = 0;
                    for index in 0..FRAMES {
                        // Some on their way at once.
                        while next < FRAMES && next < index + 1 + seed % 4 {
                            send(&mut device, &frame(size(next), next)).await;
                            next += 1;
                        }
                        let whole = frame(size(index), index);
                        let found = receive(&mut device).await;
                        assert!(found == whole || found == whole[..64], "frame {index} of {} bytes", whole.len());
                    }
                    let statistics = interface.statistics();
                    assert_eq!((statistics.sent, statistics.received, statistics.dropped), (FRAMES, FRAMES, 0));
                },
            );
            assert_eq!(error, None);
        });
    }
}

fn tcp(payload: usize, syn: bool, mss: Option<u16>) -> Vec<u8> {
    let mut builder =
        PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).tcp(80, 5000, 7, 9);
    if syn {
        builder = builder.syn();
    }
    let options: Vec<_> = mss.into_iter().map(etherparse::TcpOptionElement::MaximumSegmentSize).collect();
    let mut bytes = Vec::new();
    builder.options(&options).unwrap().write(&mut bytes, &frame(payload, 1)).unwrap();
    bytes
}

/// The stack's answer to a SYN from the other end.
fn syn_ack(mss: u16) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).tcp(80, 5000, 70, 9);
    let mut bytes = Vec::new();
    let options = [etherparse::TcpOptionElement::MaximumSegmentSize(mss)];
    builder.syn().ack(8).options(&options).unwrap().write(&mut bytes, &[]).unwrap();
    bytes
}

/// The same from the other end: a SYN, or what acknowledges the stack's.
fn answer(syn: bool, mss: Option<u16>) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([4; 6], [2; 6]).ipv4([10, 0, 0, 2], [10, 0, 0, 1], 64).tcp(5000, 80, 7, 9);
    let builder = if syn { builder.syn() } else { builder.ack(71) };
    let options: Vec<_> = mss.into_iter().map(etherparse::TcpOptionElement::MaximumSegmentSize).collect();
    let mut bytes = Vec::new();
    builder.options(&options).unwrap().write(&mut bytes, &[]).unwrap();
    bytes
}

#[test]
fn a_backend_that_can_cuts_segments_and_makes_checksums() {
    check("offload", 5, |xen| {
        let error = against(
            xen,
            ALL,
            async |wire| {
                wire.deliver(&answer(true, Some(1000)), 4096, 0, rx_flags::DATA_VALIDATED, None).await;
                let sent = wire.sent().await;
                let headers = Headers::parse(&sent.bytes).unwrap();
                assert_eq!(sent.bytes[headers.transport + 22..headers.transport + 24], 1460_u16.to_be_bytes());
                wire.deliver(&answer(false, None), 4096, 0, rx_flags::DATA_VALIDATED, None).await;
                let sent = wire.sent().await;
                assert_eq!(sent.extra, Some(Extra::Gso { size: 1000, protocol: Gso::TcpV4 }));
                assert_eq!(sent.flags, tx_flags::CSUM_BLANK | tx_flags::DATA_VALIDATED);
                let mut whole = tcp(20_000, false, None);
                assert!(checksum::leave_blank(&mut whole, &Headers::parse(&tcp(20_000, false, None)).unwrap()));
                assert!(sent.bytes == whole);
                let sent = wire.sent().await;
                assert_eq!((sent.extra, sent.flags), (None, tx_flags::CSUM_BLANK | tx_flags::DATA_VALIDATED));
            },
            async |interface, front| {
                interface.ready().await.unwrap();
                let mut device = interface.device();
                assert_eq!(device.capabilities().max_transmission_unit, 65535);
                let syn = receive(&mut device).await;
                let headers = Headers::parse(&syn).unwrap();
                assert_eq!(
                    syn[headers.transport + 22..headers.transport + 24],
                    1000_u16.to_be_bytes(),
                    "as it was said"
                );
                send(&mut device, &syn_ack(65_000)).await;
                receive(&mut device).await;
                send(&mut device, &tcp(20_000, false, None)).await;
                send(&mut device, &tcp(999, false, None)).await;
                assert_eq!(interface.statistics().sent_large, 1);
                // What was sent is the backend's to read until the interface goes.
                front.sleep(Duration::from_millis(50)).await;
            },
        );
        assert_eq!(error, None);
    });
}

#[test]
fn without_help_checksums_are_made_and_checked_here() {
    check("no offload", 5, |xen| {
        let error = against(
            xen,
            &[("feature-rx-copy", "1"), ("feature-no-csum-offload", "1")],
            async |wire| {
                let sent = wire.sent().await;
                assert_eq!(sent, Sent { bytes: tcp(100, false, None), flags: 0, extra: None });
                let mut bad = answer(false, None);
                *bad.last_mut().unwrap() ^= 1;
                // Nobody has looked at this one; this one is said to be good; and this one is.
                wire.deliver(&bad, 4096, 0, 0, None).await;
                wire.deliver(&bad, 4096, 0, rx_flags::DATA_VALIDATED, None).await;
                wire.deliver(&answer(false, None), 4096, 0, 0, None).await;
            },
            async |interface, _| {
                let info = interface.ready().await.unwrap();
                assert_eq!((info.checksum_v4, info.gso_v4), (false, false));
                let mut device = interface.device();
                assert_eq!(device.capabilities().max_transmission_unit, 1514);
                let mut blank = tcp(100, false, None);
                blank[14 + 20 + 16..14 + 20 + 18].fill(0);
                send(&mut device, &blank).await;
                assert_eq!(receive(&mut device).await, [], "dropped");
                assert_eq!(receive(&mut device).await.len(), 54);
                assert_eq!(receive(&mut device).await, answer(false, None));
                assert_eq!(interface.statistics().dropped, 1);
            },
        );
        assert_eq!(error, None);
    });
}

#[test]
fn what_a_backend_may_not_do_ends_the_interface() {
    type Bad = fn(&Wire, RxRequest);
    let cases: [(&str, Bad, &str); 6] = [
        (
            "outside of a page",
            |wire, page| {
                wire.give(RxResponse { id: page.id, offset: 4000, flags: 0, status: 97 });
            },
            "response crosses a page boundary, offset: 4000, size: 97",
        ),
        (
            "an endless chain",
            |wire, page| {
                for _ in 0..30 {
                    wire.give(RxResponse { id: page.id, offset: 0, flags: rx_flags::MORE_DATA, status: 100 });
                    let _ = wire.rx.borrow_mut().pop(&wire.rx_memory);
                }
            },
            "too many slots",
        ),
        (
            "an endless chain of errors",
            |wire, page| {
                for _ in 0..30 {
                    wire.give(RxResponse { id: page.id, offset: 0, flags: rx_flags::MORE_DATA, status: -1 });
                    let _ = wire.rx.borrow_mut().pop(&wire.rx_memory);
                }
            },
            "too many slots",
        ),
        (
            "extras without end",
            |wire, page| {
                wire.give(RxResponse { id: page.id, offset: 0, flags: rx_flags::EXTRA_INFO, status: 60 });
                for _ in 0..10 {
                    let _ = wire.rx.borrow_mut().pop(&wire.rx_memory);
                    wire.give((Extra::Other(9), true));
                }
            },
            "too many extra-info slots",
        ),
        ("an index that cannot be", |wire, _| wire.rx_memory.store(8, 77), "the receive ring: ring index out of range"),
        (
            "an answer to nothing",
            |wire, _| {
                wire.tx_memory.store(8, 1);
            },
            "the transmit ring: ring index out of range",
        ),
    ];
    for (name, bad, expected) in cases {
        check(name, 5, move |xen| {
            let error = against(
                xen,
                ALL,
                async move |wire| {
                    let page = wire.page().await;
                    bad(wire, page);
                    wire.publish();
                },
                async |interface, front| {
                    // It may be gone already.
                    let _ = interface.ready().await;
                    let deadline = front.now() + Duration::from_secs(5);
                    while interface.ready().await != Err(Gone) {
                        assert!(front.now() < deadline, "it goes on");
                        front.sleep(Duration::from_millis(1)).await;
                    }
                    // A stack goes on with a link that is down.
                    let mut device = interface.device();
                    assert!(
                        poll_fn(|cx| Poll::Ready(device.transmit(cx).is_none() && device.receive(cx).is_none())).await
                    );
                },
            );
            assert!(error.as_ref().is_some_and(|error| error.contains(expected)), "{name}: {error:?}");
        });
    }
}

/// A part of no bytes at the end of each page in turn, the last one too.
#[test]
fn parts_of_nothing_are_nothing() {
    check("no bytes", 5, |xen| {
        let error = against(
            xen,
            ALL,
            async |wire| {
                for index in 0..80 {
                    for (flags, offset, part) in [(rx_flags::MORE_DATA | 1, 0, &frame(60, index)[..]), (0, 4096, &[])] {
                        let request = wire.page().await;
                        wire.map(request.reference, Access::ReadWrite).write(0, part);
                        wire.give(RxResponse { id: request.id, offset, flags, status: part.len() as i16 });
                    }
                    wire.publish();
                }
            },
            async |interface, _| {
                interface.ready().await.unwrap();
                let mut device = interface.device();
                for index in 0..80 {
                    assert_eq!(receive(&mut device).await, frame(60, index));
                }
            },
        );
        assert_eq!(error, None);
    });
}

#[test]
fn xsa_376_a_transmit_response_of_nothing() {
    check("unknown id", 5, |xen| {
        let error = against(
            xen,
            ALL,
            async |wire| {
                let request: TxRequest = wire.slot().await.request();
                wire.answer(TxResponse { id: request.id ^ 1, status: TxStatus::Okay });
            },
            async |interface, front| {
                interface.ready().await.unwrap();
                let mut device = interface.device();
                send(&mut device, &frame(60, 0)).await;
                while interface.ready().await.is_ok() {
                    front.sleep(Duration::from_millis(1)).await;
                }
            },
        );
        assert!(error.is_some_and(|error| error.contains("references no pending request")));
    });
}

#[test]
fn xsa_391_events_without_end() {
    check("storm", 3, |xen| {
        let error = against(
            xen,
            ALL,
            async |wire| {
                for _ in 0..5_000 {
                    wire.notify();
                    wire.domain.sleep(Duration::from_micros(2)).await;
                }
                wire.deliver(&frame(100, 0), 4096, 0, 1, None).await;
            },
            async |interface, _| {
                interface.ready().await.unwrap();
                let mut device = interface.device();
                assert_eq!(receive(&mut device).await, frame(100, 0), "late, but it comes");
                assert!(interface.statistics().events < 1000, "{:?}", interface.statistics());
            },
        );
        assert_eq!(error, None);
    });
}

#[test]
fn a_feature_that_is_no_number_is_not_offered() {
    const NODES: &[(&str, &str)] = &[
        ("feature-rx-copy", " 1\n"),
        ("feature-sg", "yes"),
        ("feature-gso-tcpv4", "on"),
        ("feature-gso-tcpv6", ""),
        ("feature-no-csum-offload", "no"),
        ("feature-ipv6-csum-offload", "-1"),
        ("feature-split-event-channels", "true"),
        ("feature-multicast-control", "1x"),
        ("multi-queue-max-queues", "many"),
    ];
    check("features", 10, |xen| {
        keep_log();
        let error = against(
            xen,
            NODES,
            async |_| {},
            async |interface, _| {
                let info = interface.ready().await.unwrap();
                assert!(!info.gso_v4 && !info.gso_v6 && !info.checksum_v6 && info.checksum_v4, "{info:?}");
            },
        );
        assert_eq!(error, None);
        let log = take_log();
        for (key, value) in &NODES[1..] {
            let told: Vec<_> = log.iter().filter(|line| line.contains(&format!("{key} = {value:?}"))).collect();
            assert_eq!(told.len(), 1, "one line names {key}: {log:?}");
        }
        assert!(!log.iter().any(|line| line.contains("rx-copy")), "a blank is no harm: {log:?}");
    });
}

#[test]
fn a_backend_that_offers_what_cannot_be() {
    for (nodes, expected) in [
        (&[("feature-sg", "1")][..], "feature-rx-copy is not 1"),
        (&[("feature-rx-copy", "yes")][..], "feature-rx-copy"),
    ] {
        check("offer", 3, move |xen| {
            let connected = Rc::new(Cell::new(false));
            let error = against(
                xen,
                nodes,
                async move |_| connected.set(true),
                async |interface, _| assert_eq!(interface.ready().await, Err(Gone)),
            );
            assert!(error.as_ref().is_some_and(|error| error.contains(expected)), "{error:?}");
        });
    }
}

/// Linux lost the buffers of each chain that had more slots than a packet may have, and the backend decides how many it
/// sends (CVE-2026-99057, and XSA-457 for what was received whole). Chains of as many as may be use the pages over and
/// over; one of more ends the interface, and its pages are free.
#[test]
fn cve_2026_99057_and_xsa_457_no_chain_of_slots_loses_pages() {
    check("chains", 5, |xen| {
        let error = against(
            xen,
            ALL,
            async |wire| {
                for index in 0..60 {
                    wire.deliver(&frame(18 * 3000, index), 3000, 0, rx_flags::DATA_VALIDATED, None).await;
                }
                wire.deliver(&frame(25 * 1000, 0), 1000, 0, rx_flags::DATA_VALIDATED, None).await;
            },
            async |interface, front| {
                interface.ready().await.unwrap();
                let mut device = interface.device();
                for index in 0..60 {
                    assert!(receive(&mut device).await == frame(18 * 3000, index), "frame {index}");
                }
                let deadline = front.now() + Duration::from_secs(5);
                while interface.ready().await != Err(Gone) {
                    assert!(front.now() < deadline, "it goes on");
                    front.sleep(Duration::from_millis(1)).await;
                }
                // The rings are mapped until the backend closes.
                assert!(front.in_use().grants <= 2, "{:?}", front.in_use());
            },
        );
        assert!(error.as_ref().is_some_and(|error| error.contains("too many slots")), "{error:?}");
    });
}

/// A frame that could not be received, in the middle of others: Linux freed what was still in use (XSA-405).
#[test]
fn xsa_405_a_refused_frame_between_others_is_dropped_alone() {
    check("refused", 10, |xen| {
        let error = against(
            xen,
            ALL,
            async |wire| {
                for index in 0..40 {
                    wire.deliver(&frame(5000, index), 4096, 0, rx_flags::DATA_VALIDATED, None).await;
                    for flags in [rx_flags::MORE_DATA, 0] {
                        let page = wire.page().await;
                        wire.give(RxResponse { id: page.id, offset: 0, flags, status: -1 });
                    }
                }
                wire.publish();
            },
            async |interface, _| {
                interface.ready().await.unwrap();
                let mut device = interface.device();
                for index in 0..40 {
                    assert!(receive(&mut device).await == frame(5000, index), "frame {index}");
                }
            },
        );
        assert_eq!(error, None);
    });
}

/// What was in the domain's memory before (XSA-403): each page that the backend can see holds frames of this interface, and
/// zeros.
#[test]
fn xsa_403_pages_granted_to_a_backend_hold_frames_alone() {
    check("clean pages", 5, |xen| {
        let error = against(
            xen,
            ALL,
            async |wire| {
                let mut bytes = [0xff; 4096];
                let slot: TxRequest = wire.slot().await.request();
                let page = wire.map_to_read(slot.reference);
                page.read(0, &mut bytes);
                let (start, end) = (usize::from(slot.offset), usize::from(slot.offset + slot.size));
                assert_eq!(bytes[start..end], frame(60, 1));
                assert!(bytes[..start].iter().chain(&bytes[end..]).all(|byte| *byte == 0), "what is around it");
                wire.answer(TxResponse { id: slot.id, status: TxStatus::Okay });
                for _ in 0..32 {
                    let page = wire.map(wire.page().await.reference, Access::ReadWrite);
                    page.read(0, &mut bytes);
                    assert!(bytes.iter().all(|byte| *byte == 0), "a page to receive into");
                }
            },
            async |interface, front| {
                interface.ready().await.unwrap();
                let mut device = interface.device();
                send(&mut device, &frame(60, 1)).await;
                front.sleep(Duration::from_millis(50)).await;
            },
        );
        assert_eq!(error, None);
    });
}

/// A backend that goes on mapping a page which it was granted (XSA-396): the frame reaches the stack by a copy that the backend
/// cannot change, the interface closes, and nobody is given the page until the backend has let go.
#[test]
fn xsa_396_a_page_that_a_backend_keeps_is_given_to_nobody() {
    check("kept page", 10, |xen| {
        let kept = Rc::<RefCell<Option<SharedMapping<SimMapping>>>>::default();
        let mapped = kept.clone();
        let error = against(
            xen,
            ALL,
            async move |wire| {
                let request = wire.page().await;
                let page = wire.map(request.reference, Access::ReadWrite);
                page.write(0, &frame(100, 1));
                wire.give(RxResponse { id: request.id, offset: 0, flags: 1, status: 100 });
                wire.publish();
                *mapped.borrow_mut() = Some(page);
                wire.deliver(&frame(200, 2), 4096, 0, rx_flags::DATA_VALIDATED, None).await;
            },
            async |interface, _| {
                interface.ready().await.unwrap();
                let mut device = interface.device();
                assert_eq!(receive(&mut device).await, frame(100, 1));
                assert_eq!(receive(&mut device).await, frame(200, 2));
            },
        );
        assert_eq!(error, None);
        let kept = kept.take().expect("the backend keeps it");
        assert_eq!(xen.in_use().1, 1, "one grant has not ended");
        let other = xen.domain();
        let pages: Vec<_> = std::iter::from_fn(|| other.alloc_page().ok()).map(SharedPage::new).collect();
        kept.write(0, &[0x5a; 4096]);
        assert!(pages.iter().all(|page| page.load(0) == 0), "nobody has the page");
        drop((pages, kept));
        assert_eq!(xen.in_use().1, 0, "and now it is free");
    });
}

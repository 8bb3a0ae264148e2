//! Network backends, and strangers behind them, that do what they may not, against netfront. Advisories are in `netfront.rs`.

mod support;

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use embassy_net_driver::{Driver as _, RxToken as _};
use etherparse::{PacketBuilder, TcpOptionElement};
use xen_hal::{Clock, GrantRef};
use xen_netif::front::{Gone, Options};
use xen_netif::protocol::{Extra, Gso, RxResponse, TxResponse, TxStatus, rx_flags};
use xen_sim::check;

use support::network::{frame, receive, send};
use support::packets::{tcp_v4, tcp_v6};
use support::wire::{ALL, Wire, against, against_with};

const GOOD: u16 = rx_flags::DATA_VALIDATED;
const BLANK: u16 = rx_flags::DATA_VALIDATED | rx_flags::CSUM_BLANK;

/// A packet, its flags, what is extra, and whether a stack may see it.
type Case = (Vec<u8>, u16, Option<Extra>, bool);

fn gso(protocol: Gso, size: u16) -> Option<Extra> {
    Some(Extra::Gso { size, protocol })
}

/// Packets of which a backend says something; with which of them a stack that has asked for checksums and segments can do
/// something.
fn said() -> Vec<Case> {
    let fragment = || {
        let mut bytes = tcp_v4(100);
        bytes[14 + 6] = 0x20;
        bytes
    };
    let icmp = || {
        let mut bytes = tcp_v4(100);
        bytes[14 + 9] = 1;
        bytes
    };
    let segments = gso(Gso::TcpV4, 1000);
    vec![
        (tcp_v4(100), BLANK, None, true),
        (tcp_v4(5000), BLANK, segments, true),
        (tcp_v4(5000), GOOD, segments, true),
        (tcp_v6(200, 5000), BLANK, gso(Gso::TcpV6, 8), true),
        (icmp(), GOOD, None, true),
        (icmp(), BLANK, None, false),
        (frame(100, 1), BLANK, None, false),
        (fragment(), BLANK, None, false),
        (fragment(), BLANK, segments, false),
        (tcp_v4(5000), BLANK, gso(Gso::TcpV6, 1000), false),
        (tcp_v4(5000), BLANK, gso(Gso::Other(7), 1000), false),
        (tcp_v4(5000), BLANK, gso(Gso::TcpV4, 0), false),
        (tcp_v4(5000), BLANK, gso(Gso::TcpV4, 7), false),
        (icmp(), BLANK, segments, false),
        // Nobody knows what is said of it.
        (tcp_v4(100), BLANK, Some(Extra::Other(9)), false),
        (tcp_v4(100), BLANK, Some(Extra::Hash { kind: 1, algorithm: 1, value: [7; 4] }), true),
        // Its checksum cannot be looked at, and the stack does not.
        (tcp_v6(256, 100), GOOD, None, false),
        (tcp_v6(256, 100), 0, None, false),
    ]
}

#[test]
fn a_stack_sees_no_frame_that_leaves_it_what_it_cannot_do() {
    for (segments, checksums) in [(true, true), (false, true), (true, false), (false, false)] {
        check(&format!("said, {segments} {checksums}"), 4, move |xen| {
            // What was not asked for is not taken either.
            let takes = move |(_, flags, extra, can): &Case| {
                let blank = flags & rx_flags::CSUM_BLANK != 0;
                let gso = matches!(extra, Some(Extra::Gso { .. }));
                *can && (checksums || !blank) && ((segments && checksums) || !gso)
            };
            let options = Options::default().with_large_segments(segments).with_checksums(checksums);
            let error = against_with(
                xen,
                options,
                ALL,
                async |wire| {
                    for (bytes, flags, extra, _) in said() {
                        wire.deliver(&bytes, 4096, 0, flags, extra).await;
                        wire.deliver(&frame(60, 1), 4096, 0, GOOD, None).await;
                    }
                },
                async move |interface, _| {
                    interface.ready().await.unwrap();
                    let mut device = interface.device();
                    let mut dropped = 0;
                    for case in said() {
                        let mut found = receive(&mut device).await;
                        if takes(&case) {
                            assert!(found == case.0, "{:#x} {:?}", case.1, case.2);
                            found = receive(&mut device).await;
                        } else {
                            dropped += 1;
                            if found.is_empty() {
                                found = receive(&mut device).await;
                            }
                        }
                        assert_eq!(found, frame(60, 1), "{:#x} {:?}", case.1, case.2);
                    }
                    assert!(dropped >= 11);
                    assert_eq!(interface.statistics().dropped, dropped);
                },
            );
            assert_eq!(error, None);
        });
    }
}

/// A backend's other processor moves an index to and fro, each time that netfront has looked at it.
fn toggling(name: &str, which: fn(&Wire) -> GrantRef, expected: &'static str) {
    check(name, 8, move |xen| {
        let error = against(
            xen,
            ALL,
            async move |wire| {
                // Good answers to ten requests of each ring, which netfront is to see, and not.
                for _ in 0..10 {
                    let page = wire.page().await;
                    wire.give(RxResponse { id: page.id, offset: 0, flags: GOOD, status: 60 });
                    let slot = wire.slot().await.request();
                    let response = TxResponse { id: slot.id, status: TxStatus::Okay };
                    wire.tx.borrow_mut().push(&wire.tx_memory, &response);
                }
                let (reference, looks) = (which(wire), Cell::new(0_u32));
                wire.domain.second_processor(move |accessed| {
                    if accessed.granted.1 == reference
                        && accessed.offset == 8
                        && !accessed.write
                        && looks.get() < 50_000
                    {
                        looks.set(looks.get() + 1);
                        accessed.set_word(if accessed.word() == 0 { 10 } else { 0 });
                    }
                });
                for _ in 0..50 {
                    wire.notify();
                    wire.domain.sleep(Duration::from_millis(1)).await;
                }
                wire.domain.one_processor();
            },
            async |interface, front| {
                interface.ready().await.unwrap();
                let mut device = interface.device();
                for index in 0..10 {
                    send(&mut device, &frame(60, index)).await;
                }
                let deadline = front.now() + Duration::from_secs(5);
                while interface.ready().await != Err(Gone) {
                    assert!(front.now() < deadline, "it goes on");
                    poll_fn(|cx| {
                        while let Some((token, _)) = device.receive(cx) {
                            token.consume(|_| ());
                        }
                        Poll::Ready(())
                    })
                    .await;
                    front.sleep(Duration::from_micros(100)).await;
                }
            },
        );
        assert!(error.as_ref().is_some_and(|error| error.contains(expected)), "{error:?}");
    });
}

#[test]
fn an_index_that_goes_back_ends_the_interface_alone() {
    toggling("receive ring", |wire| wire.rx_reference, "the receive ring: ring index");
    toggling("transmit ring", |wire| wire.tx_reference, "the transmit ring: ring index");
}

/// A backend that answers whatever it is given at once, and says that there is more: no turn of the driver's is long, which
/// `check` sees to, and everybody else in the domain has theirs.
#[test]
fn a_busy_backend_leaves_the_others_their_turn() {
    const FRAMES: u32 = 5_000;
    check("turns", 4, |xen| {
        let (turns, frames) = (Rc::new(Cell::new(0_u32)), Rc::new(Cell::new(0_u32)));
        let (counted, seen, stop) = (turns.clone(), frames.clone(), frames.clone());
        let error = against(
            xen,
            ALL,
            async move |wire| {
                let posted = wire.page().await;
                // Each slot is answered with a frame as soon as netfront has made a request of it.
                let mut response = [0; 8];
                response[..2].copy_from_slice(&posted.id.to_le_bytes());
                response[4] = GOOD as u8;
                response[6] = 60;
                for slot in 0..256 {
                    wire.rx_memory.write(64 + slot * 8, &response);
                }
                let (reference, published, told) = (wire.rx_reference, Cell::new(32), stop.clone());
                wire.rx_memory.store(8, 32);
                wire.domain.second_processor(move |accessed| {
                    if accessed.granted.1 != reference {
                        return;
                    }
                    match (accessed.offset, accessed.write) {
                        (0, true) => published.set(accessed.word()),
                        (64.., true) => accessed.write(accessed.offset, &response),
                        _ => {}
                    }
                    if told.get() < FRAMES {
                        accessed.write(8, &published.get().to_le_bytes());
                    }
                });
                while stop.get() < FRAMES {
                    wire.notify();
                    wire.domain.sleep(Duration::from_micros(100)).await;
                }
                wire.domain.one_processor();
            },
            async move |interface, front| {
                interface.ready().await.unwrap();
                let mut device = interface.device();
                let stop = seen.clone();
                let other = poll_fn(move |cx| {
                    counted.set(counted.get() + 1);
                    cx.waker().wake_by_ref();
                    if stop.get() < FRAMES { Poll::Pending } else { Poll::Ready(()) }
                });
                front.spawn(other).detach();
                poll_fn(|cx| {
                    while let Some((token, _)) = device.receive(cx) {
                        token.consume(|bytes| assert_eq!(bytes.len(), 60));
                        seen.set(seen.get() + 1);
                    }
                    if seen.get() < FRAMES { Poll::Pending } else { Poll::Ready(()) }
                })
                .await;
            },
        );
        assert_eq!(error, None);
        assert!(turns.get() > FRAMES / 64, "{} turns of another task while {} frames came", turns.get(), frames.get());
    });
}

/// A segment from the far end, whose port 5000 talks to the stack's port 80.
fn far(port: u16, number: u32, ack: Option<u32>, mss: Option<u16>) -> Vec<u8> {
    let builder =
        PacketBuilder::ethernet2([4; 6], [2; 6]).ipv4([10, 0, 0, 2], [10, 0, 0, 1], 64).tcp(port, 80, number, 9);
    let builder = if mss.is_some() { builder.syn() } else { builder };
    let builder = if let Some(ack) = ack { builder.ack(ack) } else { builder };
    let options: Vec<_> = mss.into_iter().map(TcpOptionElement::MaximumSegmentSize).collect();
    let mut bytes = Vec::new();
    builder.options(&options).unwrap().write(&mut bytes, &[]).unwrap();
    bytes
}

/// The same from the stack, with a payload.
fn near(number: u32, ack: u32, syn: bool, payload: usize) -> Vec<u8> {
    let builder =
        PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).tcp(80, 5000, number, 9);
    let builder = if syn { builder.syn() } else { builder };
    let mut bytes = Vec::new();
    builder.ack(ack).write(&mut bytes, &frame(payload.max(1), 1)[..payload]).unwrap();
    bytes
}

/// What anybody sends in the name of the far end, and of others, changes nothing; another connection of the far end's does.
#[test]
fn forged_syns_change_no_segments() {
    const FORGED: u32 = 1500;
    check("forged", 3, |xen| {
        let error = against(
            xen,
            ALL,
            async |wire| {
                let forge = async |from: u32| {
                    for index in 0..FORGED {
                        let port = if index % 2 == 0 { 5000 } else { index as u16 };
                        let ack = (index % 3 == 0).then_some(index);
                        wire.deliver(&far(port, from + index, ack, Some(88)), 4096, 0, GOOD, None).await;
                    }
                };
                let sized = async |size| {
                    assert_eq!(wire.sent().await.extra, Some(Extra::Gso { size, protocol: Gso::TcpV4 }));
                };
                // Some before, and as many while the far end has not acknowledged the stack's SYN.
                forge(100_000).await;
                wire.deliver(&far(5000, 7, None, Some(1000)), 4096, 0, GOOD, None).await;
                wire.sent().await;
                forge(200_000).await;
                wire.deliver(&far(5000, 8, Some(71), None), 4096, 0, GOOD, None).await;
                sized(1000).await;
                forge(300_000).await;
                sized(1000).await;
                // And from the same port once more, where less gets through.
                wire.deliver(&far(5000, 1007, None, Some(600)), 4096, 0, GOOD, None).await;
                wire.sent().await;
                wire.deliver(&far(5000, 1008, Some(1071), None), 4096, 0, GOOD, None).await;
                sized(600).await;
            },
            async |interface, front| {
                interface.ready().await.unwrap();
                let mut device = interface.device();
                let mut take = async |count: u32| {
                    for _ in 0..count {
                        receive(&mut device).await;
                    }
                };
                take(FORGED + 1).await;
                send(&mut interface.device(), &near(70, 8, true, 0)).await;
                take(FORGED + 1).await;
                send(&mut interface.device(), &near(71, 8, false, 20_000)).await;
                take(FORGED).await;
                send(&mut interface.device(), &near(20_071, 8, false, 20_000)).await;
                take(1).await;
                send(&mut interface.device(), &near(1070, 1008, true, 0)).await;
                take(1).await;
                send(&mut interface.device(), &near(1071, 1008, false, 20_000)).await;
                front.sleep(Duration::from_millis(50)).await;
            },
        );
        assert_eq!(error, None);
    });
}

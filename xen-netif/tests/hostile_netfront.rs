//! Guests that do what they may not, against netback. Each test that stands for a security advisory names it.

mod support;

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use xen_hal::{Clock, GrantRef, Port as _};
use xen_netif::back::{Limits, Packet, Port};
use xen_netif::protocol::{Extra, Gso, RxRequest, TxRequest, TxResponse, TxSlot, TxStatus, tx_flags};
use xen_sim::{Domain, Xen, check};

use support::guest::{self, Guest};

/// The application sends back what it receives.
fn against(xen: &Xen, script: impl AsyncFn(&Guest) + 'static) -> Option<String> {
    let echo = |domain: Domain, port: Port| {
        let echo = async move {
            while let Some(packet) = port.receive().await {
                let _ = port.send(Packet { gso: None, ..packet });
            }
        };
        domain.spawn(echo).detach();
    };
    guest::against(xen, echo, script)
}

const MORE: u16 = tx_flags::MORE_DATA;
const EXTRA: u16 = tx_flags::EXTRA_INFO;

#[test]
fn xsa_39_chains_that_cannot_be_end_the_interface() {
    let gso = |size, protocol| TxSlot::from((Extra::Gso { size, protocol }, false));
    type Slots = Box<dyn Fn(&Guest) -> Vec<TxSlot> + Send + Sync>;
    let cases: Vec<(Slots, &str)> = vec![
        (Box::new(|guest| vec![guest.slot(0, 100, MORE)]), "missing slots"),
        (
            Box::new(|guest| [vec![guest.slot(0, 5000, MORE)], vec![guest.slot(0, 100, MORE); 40]].concat()),
            "more than 20 slots",
        ),
        (Box::new(|guest| vec![guest.slot(4090, 20, 0)]), "cross page boundary, offset: 4090, size: 20"),
        (Box::new(move |guest| vec![guest.slot(0, 100, EXTRA), gso(0, Gso::TcpV4)]), "bad GSO, size: 0, type: TcpV4"),
        (Box::new(move |guest| vec![guest.slot(0, 100, EXTRA), gso(9, Gso::Other(77))]), "bad GSO, size: 9"),
        (
            Box::new(|guest| vec![guest.slot(0, 100, EXTRA), (Extra::Other(77), false).into()]),
            "unknown extra-info type 77",
        ),
        (
            Box::new(|guest| {
                let extras = (0..9).map(|_| TxSlot::from((Extra::MulticastAdd([1; 6]), true)));
                [guest.slot(0, 100, EXTRA)].into_iter().chain(extras).collect()
            }),
            "too many extra-info slots",
        ),
    ];
    for (slots, expected) in cases {
        let slots = Arc::new(slots);
        check(expected, 5, move |xen| {
            let slots = slots.clone();
            let error = against(xen, async move |guest| {
                guest.send(&slots(guest));
                assert_eq!(guest.response().await, None);
            });
            assert!(error.as_ref().is_some_and(|error| error.contains(expected)), "{expected}: {error:?}");
        });
    }
    for index in [257, 1000, u32::MAX] {
        check("bad index", 5, move |xen| {
            let error = against(xen, async move |guest| {
                guest.tx_page.store(0, index);
                guest.port.notify();
                guest.domain.sleep(Duration::from_millis(10)).await;
            });
            assert!(error.is_some_and(|error| error.contains("ring index out of range")));
        });
    }
}

#[test]
fn bad_packets_are_refused_alone() {
    check("refused", 20, |xen| {
        let error = against(xen, async |guest| {
            let bad = [
                vec![guest.slot(0, 13, 0)],
                vec![guest.slot(0, 0, 0)],
                vec![guest.slot(0, 100, MORE), guest.slot(0, 200, 0)],
                vec![guest.slot(0, 100, MORE), guest.slot(0, 0, 0)],
                vec![TxRequest { reference: GrantRef(9999), offset: 0, flags: 0, id: 7, size: 60 }.into()],
                // Nobody has asked for multicast control.
                vec![guest.slot(0, 0, EXTRA), (Extra::MulticastAdd([1; 6]), false).into()],
            ];
            for slots in bad {
                guest.send(&slots);
                assert_eq!(guest.response().await, Some(TxResponse { id: 7, status: TxStatus::Error }));
                for _ in 1..slots.len() {
                    assert!(guest.response().await.is_some());
                }
            }
            guest.send(&[guest.slot(0, 60, 0)]);
            assert_eq!(guest.response().await, Some(TxResponse { id: 7, status: TxStatus::Okay }));
        });
        assert_eq!(error, None);
    });
}

/// Linux's bound, `XEN_NETBK_MCAST_MAX`: without one a guest could have the backend keep any number of addresses.
#[test]
fn a_guest_joins_a_bounded_number_of_groups() {
    check("groups", 2, |xen| {
        let features = &["feature-sg", "request-multicast-control"];
        let error = guest::against_with(
            xen,
            features,
            Limits::default(),
            |_, _| {},
            async |guest| {
                let change = async |extra| {
                    guest.send(&[guest.slot(0, 0, EXTRA), (extra, false).into()]);
                    let status = guest.response().await.map(|response| response.status);
                    assert_eq!(guest.response().await.map(|response| response.status), Some(TxStatus::Null));
                    status
                };
                for last in 0..64 {
                    assert_eq!(change(Extra::MulticastAdd([1, 0, 0, 0, 0, last])).await, Some(TxStatus::Okay));
                }
                assert_eq!(change(Extra::MulticastAdd([1, 0, 0, 0, 0, 64])).await, Some(TxStatus::Error));
                assert_eq!(change(Extra::MulticastAdd([1, 0, 0, 0, 0, 7])).await, Some(TxStatus::Okay), "a known one");
                assert_eq!(change(Extra::MulticastRemove([1, 0, 0, 0, 0, 7])).await, Some(TxStatus::Okay));
                assert_eq!(change(Extra::MulticastAdd([1, 0, 0, 0, 0, 64])).await, Some(TxStatus::Okay));
            },
        );
        assert_eq!(error, None);
    });
}

#[test]
fn xsa_362_and_365_a_page_that_cannot_be_written_is_an_error_response() {
    check("bad page", 10, |xen| {
        let error = against(xen, async |guest| {
            // The first page cannot be written to, the second is nobody's, and the third is good.
            for reference in [guest.reference(1), GrantRef(9999), guest.reference(0)] {
                guest.rx.borrow_mut().push(&guest.rx_page, &RxRequest { id: 1, reference }).unwrap();
            }
            let _ = guest.rx.borrow_mut().publish(&guest.rx_page);
            for _ in 0..3 {
                guest.send(&[guest.slot(0, 60, 0)]);
                assert!(guest.response().await.is_some());
            }
            guest.domain.sleep(Duration::from_millis(10)).await;
            let mut statuses = Vec::new();
            while let Some(slot) = guest.rx.borrow_mut().pop(&guest.rx_page).unwrap() {
                statuses.push(slot.response().status);
            }
            assert_eq!(statuses, [-1, -1, 60]);
        });
        assert_eq!(error, None);
    });
}

#[test]
fn xsa_332_events_without_end_cost_little() {
    check("storm", 3, |xen| {
        let error = against(xen, async |guest| {
            for _ in 0..10_000 {
                guest.port.notify();
                guest.domain.sleep(Duration::from_micros(2)).await;
            }
            guest.send(&[guest.slot(0, 60, 0)]);
            assert!(guest.response().await.is_some(), "late, but it is heard");
        });
        assert_eq!(error, None);
    });
}

/// Any bytes as slots, and any index.
#[test]
fn noise_from_a_guest() {
    check("noise", 60, |xen| {
        let random = Cell::new((xen.seed() * 2 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        against(xen, async move |guest| {
            let next = || {
                let mut x = random.get();
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                random.set(x);
                x
            };
            let mut produced = 0_u32;
            for _ in 0..30 {
                for slot in 0..256_usize {
                    let mut words = [next(), next()];
                    if next() % 4 != 0 {
                        // What looks like a slot gets further.
                        words = [
                            u64::from(guest.reference(0).0) | (next() % 4096) << 32 | (next() % 16) << 48,
                            (next() % 256) | ((next() % 3000) << 16),
                        ];
                    }
                    guest.tx_page.write(64 + slot * 12, &words[0].to_le_bytes());
                    guest.tx_page.write(64 + slot * 12 + 8, &words[1].to_le_bytes()[..4]);
                }
                produced = produced.wrapping_add((next() % 60) as u32);
                guest.tx_page.store(0, produced);
                guest.port.notify();
                guest.domain.sleep(Duration::from_micros(next() % 2000)).await;
            }
        });
    });
}

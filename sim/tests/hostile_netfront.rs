//! Guests that do what they may not, against netback. Each test that stands for a security advisory names it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use xen_hal::{Access, Clock, Errno, EventChannels, GrantRef, Pages, Port as _};
use xen_netif::back::{self, Limits, Packet, Port};
use xen_netif::protocol::{
    Extra, Gso, RxProtocol, RxRequest, TxProtocol, TxRequest, TxResponse, TxSlot, TxStatus, tx_flags,
};
use xen_ring::{FrontRing, LentPage};
use xen_sim::{Domain, SimGrant, SimPort, Xen, check};
use xenstore_client::xenbus::{Device, Failure, Frontend, Signals, State, frontend};
use xenstore_client::{Error as StoreError, Tree};

const MAC: &str = "00:16:3e:01:02:03";

fn failure(error: impl std::fmt::Display) -> Failure {
    Failure::new(Errno::EIO, error.to_string())
}

/// What a frontend under the test's control has.
struct Guest {
    domain: Domain,
    tx: RefCell<FrontRing<TxProtocol>>,
    tx_page: LentPage<SimGrant>,
    rx: RefCell<FrontRing<RxProtocol>>,
    rx_page: LentPage<SimGrant>,
    /// Lent for writing, and lent for reading alone.
    data: [LentPage<SimGrant>; 2],
    port: SimPort,
}

impl Guest {
    fn reference(&self, index: usize) -> GrantRef {
        self.data[index].reference().unwrap()
    }

    fn slot(&self, offset: u16, size: u16, flags: u16) -> TxSlot {
        TxRequest { reference: self.reference(1), offset, flags, id: 7, size }.into()
    }

    fn send(&self, slots: &[TxSlot]) {
        for slot in slots {
            self.tx.borrow_mut().push(&self.tx_page, slot).unwrap();
        }
        let _ = self.tx.borrow_mut().publish(&self.tx_page);
        self.port.notify();
    }

    /// Waits for a response; none within 100 ms is none.
    async fn response(&self) -> Option<TxResponse> {
        let deadline = self.domain.now() + Duration::from_millis(100);
        while self.domain.now() < deadline {
            if let Some(response) = self.tx.borrow_mut().pop(&self.tx_page).unwrap() {
                return Some(response);
            }
            self.domain.sleep(Duration::from_micros(100)).await;
        }
        None
    }
}

struct Script<F> {
    domain: Domain,
    run: F,
    done: Rc<Cell<bool>>,
}

impl<F: AsyncFn(&Guest)> Frontend for Script<F> {
    const OFFERED: State = State::Connected;
    type Offer = Guest;

    async fn offer(&mut self, device: &Device) -> Result<Guest, Failure> {
        let peer = device.other_domain();
        let lend = |access| {
            let mut page = LentPage::<SimGrant>::new(self.domain.alloc_page().unwrap());
            page.lend(&self.domain, peer, access).map_err(failure)?;
            Ok::<_, Failure>(page)
        };
        let (tx_page, rx_page) = (lend(Access::ReadWrite)?, lend(Access::ReadWrite)?);
        Ok(Guest {
            domain: self.domain.clone(),
            tx: RefCell::new(FrontRing::new(TxProtocol, &tx_page)),
            rx: RefCell::new(FrontRing::new(RxProtocol, &rx_page)),
            tx_page,
            rx_page,
            data: [lend(Access::ReadWrite)?, lend(Access::ReadOnly)?],
            port: self.domain.alloc_unbound(peer).map_err(failure)?,
        })
    }

    async fn publish(&mut self, device: &Device, guest: &Guest, tree: &Tree) -> Result<(), StoreError> {
        tree.set(&device.own("tx-ring-ref"), &guest.tx_page.reference().unwrap()).await?;
        tree.set(&device.own("rx-ring-ref"), &guest.rx_page.reference().unwrap()).await?;
        tree.set(&device.own("event-channel"), &guest.port.number()).await?;
        for key in ["request-rx-copy", "feature-sg", "feature-gso-tcpv4", "feature-rx-notify"] {
            tree.set(&device.own(key), &true).await?;
        }
        Ok(())
    }

    async fn accept(&mut self, _: &Device, _: &mut Guest) -> Result<(), Failure> {
        Ok(())
    }

    async fn run(&mut self, _: &Device, guest: Guest, signals: &Signals) -> Result<(), Failure> {
        (self.run)(&guest).await;
        self.done.set(true);
        signals.closing().await;
        Ok(())
    }
}

/// Runs a script as a frontend of our backend, whose application sends back what it receives; what the backend's error
/// node says afterwards.
fn against(xen: &Xen, script: impl AsyncFn(&Guest) + 'static) -> Option<String> {
    let toolstack = xen.toolstack();
    let (guest, back) = (xen.domain(), xen.domain());
    let (store, domain) = (back.store(), back.clone());
    back.spawn(async move {
        let spawner = domain.clone();
        let opened = |port: Port| {
            spawner
                .spawn(async move {
                    while let Some(packet) = port.receive().await {
                        let _ = port.send(Packet { gso: None, ..packet });
                    }
                })
                .detach();
            Ok(())
        };
        let limits = Limits::default();
        drop(back::serve(&store, domain.clone(), domain.clone(), domain.clone(), limits, opened).await);
    })
    .detach();
    let done = Rc::new(Cell::new(false));
    let (store, domain, flag) = (guest.store(), guest.clone(), done.clone());
    let dom0 = xen.dom0();
    let error = xen.run(async move {
        toolstack.attach_with("vif", guest.id(), back.id(), 0, &[("mac", MAC)]).await.unwrap();
        guest
            .spawn(async move {
                let mut driver = Script { domain: domain.clone(), run: script, done: flag };
                drop(frontend(&store, &domain, "device/vif/0", &mut driver).await);
            })
            .detach();
        let deadline = dom0.now() + Duration::from_secs(30);
        while !done.get() {
            assert!(dom0.now() < deadline, "the script does not end");
            dom0.sleep(Duration::from_millis(1)).await;
        }
        dom0.sleep(Duration::from_millis(100)).await;
        let error = format!("/local/domain/{}/error/backend/vif/{}/0/error", back.id().0, guest.id().0);
        let error = toolstack.store().get::<String>(&error).await.unwrap();
        assert!(toolstack.detach("vif", guest.id(), back.id(), 0).await.unwrap(), "closed in time");
        dom0.sleep(Duration::from_secs(1)).await;
        assert_eq!(guest.in_use().mapped, 0);
        assert!(back.in_use().ports <= 1, "the store's port alone");
        error
    });
    xen.settle();
    error
}

const MORE: u16 = tx_flags::MORE_DATA;
const EXTRA: u16 = tx_flags::EXTRA_INFO;

#[test]
fn xsa_39_chains_that_cannot_be_end_the_interface() {
    let gso = |size, protocol| TxSlot::from((Extra::Gso { size, protocol }, false));
    type Slots = Box<dyn Fn(&Guest) -> Vec<TxSlot>>;
    let cases: Vec<(Slots, &str)> = vec![
        (Box::new(|guest| vec![guest.slot(0, 100, MORE)]), "a packet whose slots are not all there"),
        (
            Box::new(|guest| [vec![guest.slot(0, 5000, MORE)], vec![guest.slot(0, 100, MORE); 40]].concat()),
            "a packet of more than 20 slots",
        ),
        (Box::new(|guest| vec![guest.slot(4090, 20, 0)]), "20 bytes at 4090 of a page"),
        (Box::new(move |guest| vec![guest.slot(0, 100, EXTRA), gso(0, Gso::TcpV4)]), "segments of 0 bytes of TcpV4"),
        (Box::new(move |guest| vec![guest.slot(0, 100, EXTRA), gso(9, Gso::Other(77))]), "segments of 9 bytes"),
        (
            Box::new(|guest| vec![guest.slot(0, 100, EXTRA), (Extra::Other(77), false).into()]),
            "something extra of kind 77",
        ),
        (
            Box::new(|guest| {
                let extras = (0..9).map(|_| TxSlot::from((Extra::MulticastAdd([1; 6]), true)));
                [guest.slot(0, 100, EXTRA)].into_iter().chain(extras).collect()
            }),
            "more that is extra than there can be",
        ),
    ];
    for (slots, expected) in cases {
        let slots = Rc::new(slots);
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

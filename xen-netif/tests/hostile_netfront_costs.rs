//! Guests that try to make netback hold memory beyond its limits, go on for ever, or rely on what they change meanwhile.

mod support;

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use xen_hal::{Clock, Port as _};
use xen_netif::back::{Checksum, Limits, Packet, Port};
use xen_netif::checksum;
use xen_netif::headers::Headers;
use xen_netif::protocol::{Gso, RxRequest, TxStatus, tx_flags};
use xen_sim::{Domain, Xen, check};

use support::guest::{self, FEATURES, Guest};
use support::packets::{tcp_v4, tcp_v6};

const BLANK: u16 = tx_flags::CSUM_BLANK | tx_flags::DATA_VALIDATED;

/// What the app `switch` does with a guest's packets, with one guest for both.
fn echo(domain: Domain, port: Port) {
    let echo = async move {
        while let Some(packet) = port.receive().await {
            let _ = port.send(packet);
        }
    };
    domain.spawn(echo).detach();
}

/// The port, for a script; nobody reads its packets.
type Found = Rc<RefCell<Option<Rc<Port>>>>;

fn found() -> (Found, impl Fn(Domain, Port)) {
    let found = Found::default();
    let opened = found.clone();
    (found, move |_, port| *opened.borrow_mut() = Some(Rc::new(port)))
}

async fn up(guest: &Guest, found: &Found) -> Rc<Port> {
    let port = found.borrow().clone().expect("the port is opened before the guest is connected");
    while !port.is_up() {
        guest.domain.sleep(Duration::from_micros(100)).await;
    }
    port
}

/// What was allocated at a time since [`Xen::forget_peak`], beyond `before`.
fn peak(xen: &Xen, before: usize) -> usize {
    xen.peak_allocation().saturating_sub(before)
}

/// One packet of 14 KB, segments of one byte, and long headers in front of each: cut at once, it took 48 MB.
#[test]
fn a_packet_costs_no_more_than_the_limit() {
    check("cut", 4, |xen| {
        let own = xen.clone();
        let error = guest::against(xen, echo, async move |guest| {
            let before = own.allocation();
            own.forget_peak();
            guest.send_packet(&tcp_v6(3 * 2048, 8000), BLANK, Some((Gso::TcpV6, 1)));
            assert_eq!(guest.response().await.map(|response| response.status), Some(TxStatus::Error));
            guest.domain.sleep(Duration::from_millis(20)).await;
            let peak = peak(&own, before);
            assert!(peak < 256 << 10, "{peak} bytes for one packet");
        });
        assert_eq!(error, None);
    });
}

/// The smallest segments and longest headers that there may be: what they come to is many times the packet, and leaves as
/// the guest takes it. All of it arrives.
#[test]
fn segments_are_cut_while_the_guest_has_room() {
    const PAYLOAD: usize = 40_000;
    const SIZE: u16 = 8;
    let limits = Limits::default().with_from_guest(100_000).with_to_guest(100_000);
    check("lazily", 4, move |xen| {
        let own = xen.clone();
        let error = guest::against_with(xen, FEATURES, limits, echo, async move |guest| {
            let whole = tcp_v6(200, PAYLOAD);
            let before = own.allocation();
            own.forget_peak();
            // Those that find no room are dropped.
            for _ in 0..6 {
                guest.send_packet(&whole, BLANK, Some((Gso::TcpV6, SIZE)));
                guest.domain.sleep(Duration::from_millis(1)).await;
            }
            let prefix = whole.len() - PAYLOAD;
            let mut payload = Vec::<u8>::new();
            loop {
                guest.refill_pages();
                guest.domain.sleep(Duration::from_micros(200)).await;
                let mut any = false;
                while let Some(received) = guest.received() {
                    any = true;
                    let bytes = received.bytes.expect("its pages can be written");
                    let headers = Headers::parse(&bytes).unwrap();
                    assert!(checksum::is_valid(&bytes, &headers) && bytes.len() <= prefix + usize::from(SIZE));
                    payload.extend(&bytes[prefix..]);
                }
                if !any {
                    break;
                }
            }
            let peak = peak(&own, before) - payload.capacity();
            assert!(peak < 400_000, "{peak} bytes");
            assert_eq!(payload.len(), 2 * PAYLOAD, "as many as the limit allows");
            assert!(payload.chunks(PAYLOAD).all(|payload| *payload == whole[prefix..]));
        });
        assert_eq!(error, None);
    });
}

/// Half a megabyte of the smallest frames: what each costs besides its bytes counts as well.
#[test]
fn the_smallest_frames_cost_no_more_than_the_limit() {
    let limits = Limits::default().with_from_guest(512 << 10).with_to_guest(512 << 10);
    check("small", 2, move |xen| {
        let own = xen.clone();
        let (found, opened) = found();
        let error = guest::against_with(xen, FEATURES, limits, opened, async move |guest| {
            let port = up(guest, &found).await;
            let before = own.allocation();
            own.forget_peak();
            // Nobody reads them: in the end the guest has to wait.
            let mut sent = 0_u64;
            let slot = guest.slot(0, 14, 0);
            loop {
                guest.send(&[slot; 64]);
                sent += 64;
                let mut answered = 0;
                while answered < 64 && guest.response().await.is_some() {
                    answered += 1;
                }
                if answered < 64 {
                    break;
                }
            }
            let peak_from = peak(&own, before);
            assert!(peak_from < (512 << 10) + (64 << 10), "{peak_from} bytes from the guest");
            assert!(sent > 2000, "{sent}");
            // The other way round: what has no room is refused.
            let before = own.allocation();
            own.forget_peak();
            let mut taken = 0;
            while port.send(vec![0xfe; 14].into()).is_ok() {
                taken += 1;
            }
            let peak_to = peak(&own, before);
            assert!(peak_to < (512 << 10) + (64 << 10), "{peak_to} bytes for the guest");
            assert!(taken > 2000, "{taken}");
            // All that was taken arrives, at both ends, and its memory is free again.
            for _ in 0..sent {
                assert_eq!(port.receive().await.unwrap().bytes.len(), 14);
            }
            let mut arrived = 0;
            while arrived < taken {
                guest.refill_pages();
                guest.domain.sleep(Duration::from_micros(200)).await;
                while let Some(received) = guest.received() {
                    assert_eq!(received.bytes, Some(vec![0xfe; 14]));
                    arrived += 1;
                }
            }
            let left = own.allocation().saturating_sub(before);
            assert!(left < 64 << 10, "{left} bytes are still held");
        });
        assert_eq!(error, None);
    });
}

/// A frame that the guest never takes makes room for others when it is given up, cut or not.
#[test]
fn xsa_392_a_large_segment_in_the_middle_is_given_up_too() {
    let limits = Limits::default().with_from_guest(200_000).with_to_guest(100_000);
    check("given up", 2, move |xen| {
        let (found, opened) = found();
        let error = guest::against_with(xen, &["feature-sg"], limits, opened, async move |guest| {
            let port = up(guest, &found).await;
            guest.send_packet(&tcp_v4(40_000), BLANK, Some((Gso::TcpV4, 100)));
            let packet = port.receive().await.unwrap();
            guest.offer_pages(3);
            let mut sent = 0;
            while port.send(packet.clone()).is_ok() {
                sent += 1;
            }
            assert_eq!(sent, 2);
            guest.domain.sleep(Duration::from_secs(11)).await;
            let statistics = port.statistics();
            assert_eq!((statistics.to_guest, statistics.dropped), (3, 3), "two, and the one that found no room");
            // What is left of it does not come either, once the guest takes packets again.
            while guest.received().is_some() {}
            assert_eq!(port.send(vec![0xfe; 60].into()), Ok(()));
            guest.offer_pages(1);
            guest.domain.sleep(Duration::from_millis(10)).await;
            assert_eq!(guest.received().and_then(|received| received.bytes), Some(vec![0xfe; 60]));
            for _ in 0..2 {
                assert_eq!(port.send(packet.clone()), Ok(()));
            }
        });
        assert_eq!(error, None);
    });
}

/// Packets that are there at once are copied 64 at a time, in both directions: between two batches others have their turn.
#[test]
fn a_batch_has_a_bound() {
    const PACKETS: u32 = 200;
    check("batches", 4, |xen| {
        let (found, opened) = found();
        let error = guest::against(xen, opened, async move |guest| {
            let port = up(guest, &found).await;
            let copies = || port.statistics().grant_copies;
            let before = copies();
            guest.send(&[guest.slot(0, 60, 0); PACKETS as usize]);
            for _ in 0..PACKETS {
                assert_eq!(guest.response().await.map(|response| response.status), Some(TxStatus::Okay));
            }
            assert_eq!(copies() - before, 4, "from the guest");

            let before = copies();
            for _ in 0..PACKETS {
                let request = RxRequest { id: 0, reference: guest.reference(0) };
                guest.rx.borrow_mut().push(&guest.rx_page, &request).unwrap();
            }
            let _ = guest.rx.borrow_mut().publish(&guest.rx_page);
            for _ in 0..PACKETS {
                port.send(vec![0xfe; 60].into()).unwrap();
            }
            guest.domain.sleep(Duration::from_millis(10)).await;
            assert_eq!(port.statistics().to_guest, u64::from(PACKETS));
            assert_eq!(copies() - before, 4, "for the guest");
        });
        assert_eq!(error, None);
    });
}

/// Pieces are cut up to 64 KiB at a time, and 64 of them, however much room the guest has.
#[test]
fn pieces_are_cut_up_to_a_bound() {
    check("pieces", 4, |xen| {
        let (found, opened) = found();
        let error = guest::against_with(xen, &["feature-sg"], Limits::default(), opened, async move |guest| {
            let port = up(guest, &found).await;
            for (packets, len, size, pieces, batches) in [(6, 60_000, 15_000, 24, 5), (1, 30_000, 300, 100, 2)] {
                for _ in 0..128 {
                    let request = RxRequest { id: 0, reference: guest.reference(0) };
                    guest.rx.borrow_mut().push(&guest.rx_page, &request).unwrap();
                }
                let _ = guest.rx.borrow_mut().publish(&guest.rx_page);
                let before = port.statistics();
                for _ in 0..packets {
                    let gso = Some((Gso::TcpV4, size));
                    port.send(Packet { bytes: tcp_v4(len).into(), checksum: Checksum::Blank, gso }).unwrap();
                }
                guest.domain.sleep(Duration::from_millis(10)).await;
                let after = port.statistics();
                assert_eq!(after.to_guest - before.to_guest, pieces);
                assert_eq!(after.grant_copies - before.grant_copies, batches, "batches of pieces of {size} bytes");
                while guest.rx.borrow_mut().pop(&guest.rx_page).unwrap().is_some() {}
            }
        });
        assert_eq!(error, None);
    });
}

/// Packets that are dropped take no copies, but time: the other tasks have their turn between them, too.
#[test]
fn dropped_packets_are_looked_at_in_batches() {
    check("dropped", 4, |xen| {
        let found: Rc<RefCell<Option<Rc<Port>>>> = Rc::default();
        let (most, stop) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(false)));
        let (opened, largest, stopped) = (found.clone(), most.clone(), stop.clone());
        let opened = move |domain: Domain, port: Port| {
            let port = Rc::new(port);
            *opened.borrow_mut() = Some(port.clone());
            let (largest, stopped, mut last) = (largest.clone(), stopped.clone(), 0);
            let watch = poll_fn(move |cx| {
                let dropped = port.statistics().dropped;
                largest.set(largest.get().max(dropped - last));
                last = dropped;
                if stopped.get() {
                    return Poll::Ready(());
                }
                cx.waker().wake_by_ref();
                Poll::Pending
            });
            domain.spawn(watch).detach();
        };
        let error = guest::against(xen, opened, async move |guest| {
            let port = up(guest, &found).await;
            guest.offer_pages(1);
            let mut sent = 0;
            while port.send(Vec::new().into()).is_ok() {
                sent += 1;
            }
            guest.domain.sleep(Duration::from_millis(100)).await;
            stop.set(true);
            assert!(port.statistics().dropped > sent && sent > 5000, "{sent}");
            assert!(most.get() < 1000, "{} packets without a turn for others", most.get());
        });
        assert_eq!(error, None);
    });
}

/// What a guest's second processor does to an index, each time that the backend has looked at it.
fn toggling(name: &str, which: fn(&Guest) -> xen_hal::GrantRef, expected: &'static str) {
    check(name, 16, move |xen| {
        let (found, opened) = found();
        let error = guest::against(xen, opened, async move |guest| {
            let port = up(guest, &found).await;
            // Requests in all slots, of which the backend is to see none or a hundred.
            for _ in 0..100 {
                let request = RxRequest { id: 0, reference: guest.reference(0) };
                guest.rx.borrow_mut().push(&guest.rx_page, &request).unwrap();
                guest.tx.borrow_mut().push(&guest.tx_page, &guest.slot(0, 60, 0)).unwrap();
            }
            let (reference, looks) = (which(guest), Cell::new(0_u32));
            guest.domain.second_processor(move |accessed| {
                if accessed.granted.1 != reference || accessed.offset != 0 || accessed.write {
                    return;
                }
                looks.set(looks.get() + 1);
                // Not without end: where the backend goes on for ever, that is to be seen.
                if looks.get() < 50_000 {
                    accessed.set_word(if accessed.word() == 0 { 100 } else { 0 });
                }
            });
            for _ in 0..20 {
                let _ = port.send(vec![0xfe; 60].into());
                guest.port.notify();
                guest.domain.sleep(Duration::from_millis(1)).await;
            }
            guest.domain.one_processor();
            assert!(!port.is_up());
        });
        assert!(error.as_ref().is_some_and(|error| error.contains(expected)), "{error:?}");
    });
}

/// A guest whose other processor moves an index to and fro, within what is legal, ends its own interface at most: the
/// backend counted slots and expected to find as many.
#[test]
fn an_index_that_goes_back_ends_the_interface_alone() {
    let receive = "the receive ring: ring index moved backwards: the peer's producer is 0x0, and was 0x64";
    toggling("receive ring", |guest| guest.rx_page.reference().unwrap(), receive);
    // All hundred are taken before the next look.
    let transmit = "the transmit ring: ring index out of range: the peer's producer is 0x0 where 0x64";
    toggling("transmit ring", |guest| guest.tx_page.reference().unwrap(), transmit);
}

/// A guest that always has another request, as one with a second processor can: the other tasks of the domain have their
/// turn all the same, and no turn is long, which `check` sees to.
#[test]
fn a_busy_guest_leaves_the_others_their_turn() {
    const PACKETS: u32 = 20_000;
    check("turns", 4, |xen| {
        let (turns, stop) = (Rc::new(Cell::new(0_u32)), Rc::new(Cell::new(false)));
        let (counted, stopped) = (turns.clone(), stop.clone());
        // A task of the backend's domain that always has something to do.
        let opened = move |domain: Domain, port: Port| {
            let drain = async move { while port.receive().await.is_some() {} };
            domain.spawn(drain).detach();
            let (counted, stopped) = (counted.clone(), stopped.clone());
            let other = poll_fn(move |cx| {
                counted.set(counted.get() + 1);
                if stopped.get() {
                    return Poll::Ready(());
                }
                cx.waker().wake_by_ref();
                Poll::Pending
            });
            domain.spawn(other).detach();
        };
        let error = guest::against(xen, opened, async move |guest| {
            // One that netback answers well, in each slot.
            let mut bytes = [0; 12];
            bytes[..4].copy_from_slice(&guest.reference(1).0.to_le_bytes());
            bytes[10] = 60;
            for slot in 0..256 {
                guest.tx_page.write(64 + slot * 12, &bytes);
            }
            let (reference, answered) = (guest.tx_page.reference().unwrap(), Rc::new(Cell::new(0_u32)));
            let seen = answered.clone();
            guest.domain.second_processor(move |accessed| {
                if accessed.granted.1 != reference {
                    return;
                }
                // Where a response was written there is a request again.
                if accessed.offset >= 64 && accessed.write {
                    seen.set(seen.get() + 1);
                    accessed.write(accessed.offset, &bytes);
                }
                // Always as many as there can be, whenever the backend looks next.
                accessed.write(0, &(seen.get() + 256).min(PACKETS).to_le_bytes());
            });
            let before = turns.get();
            guest.port.notify();
            while answered.get() < PACKETS {
                guest.domain.sleep(Duration::from_millis(1)).await;
            }
            guest.domain.one_processor();
            stop.set(true);
            let turns = turns.get() - before;
            assert!(turns > PACKETS / 100, "{turns} turns of another task while {PACKETS} packets came");
        });
        assert_eq!(error, None);
    });
}

//! What a guest can make blkback do with one turn of its ring.

mod support;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use xen_blkif::back::Limits;
use xen_blkif::protocol::{Body, Operation, Request, SEGMENT_SIZE, Segment, Status};
use xen_hal::Clock;
use xen_sim::check;

use support::block::{Guest, How, against_backend};

const SECTORS: u64 = 2 << 11; // 2 MiB
const DISCARDS: u64 = 31;

/// They move no bytes, and each zeroes the whole disk.
#[test]
fn a_ring_of_discards_leaves_the_others_their_turn() {
    check("discards", 5, |xen| {
        let did = against_backend(xen, How { sectors: SECTORS, ..How::default() }, async |guest| {
            for id in 0..DISCARDS {
                guest.push(&Request {
                    id,
                    sector: 0,
                    handle: 0,
                    body: Body::Discard { secure: false, sectors: SECTORS },
                });
            }
            guest.publish();
            guest.domain.sleep(Duration::from_secs(1)).await;
        });
        assert_eq!(did.discards, DISCARDS);
        // `check` does this too: here it is the point.
        xen.check_budgets();
    });
}

/// So many indirect requests, each of which reads 1 MiB into one page.
fn push_large_reads(guest: &Guest, count: u64) {
    const SEGMENTS: u16 = 256;
    for index in 0..usize::from(SEGMENTS) {
        let mut bytes = [0; SEGMENT_SIZE];
        Segment::new(guest.reference(0), 0, 7).encode(&mut bytes);
        guest.data[1].write(index * SEGMENT_SIZE, &bytes);
    }
    let mut pages = [0; 8];
    pages[0] = guest.reference(1).0;
    for id in 0..count {
        let body = Body::Indirect { operation: Operation::Read, count: SEGMENTS, pages };
        guest.push(&Request { id, sector: 0, handle: 0, body });
    }
}

/// What the device has done at one moment goes to the guest in pieces.
#[test]
fn reads_that_end_together_leave_the_others_their_turn() {
    const REQUESTS: u64 = 8;
    // One request has about 1500, six for each page.
    const MAX_ACCESSES: u64 = 2000;
    check("reads that end together", 5, |xen| {
        let how = How { sectors: SECTORS, reads_end_every: Some(Duration::from_millis(2)), ..How::default() };
        against_backend(xen, how, async |guest| {
            push_large_reads(guest, REQUESTS);
            guest.publish();
            for _ in 0..REQUESTS {
                assert_eq!(guest.response().await.map(|response| response.status), Some(Status::Okay));
            }
        });
        assert!(xen.longest_turn() < MAX_ACCESSES, "{} accesses in one turn", xen.longest_turn());
    });
}

/// A request stays in the ring, where it is the guest's memory, until there is something to be done with it soon.
#[test]
fn large_requests_wait_in_the_ring() {
    const REQUESTS: u64 = 31;
    // What is looked at together.
    const BATCH: usize = 16;
    check("large requests", 5, |xen| {
        let how = How { sectors: SECTORS, limits: Limits::default().with_in_flight(4096), ..How::default() };
        against_backend(xen, how, async |guest| {
            push_large_reads(guest, REQUESTS);
            let waiting = Rc::<RefCell<(BTreeSet<usize>, usize)>>::default();
            let (seen, ring) = (waiting.clone(), guest.page.reference().unwrap());
            guest.domain.second_processor(move |accessed| {
                let (waiting, most) = &mut *seen.borrow_mut();
                if accessed.granted.1 == ring && accessed.offset >= 64 {
                    let slot = (accessed.offset - 64) / 112;
                    let _ = if accessed.write { waiting.remove(&slot) } else { waiting.insert(slot) };
                    *most = waiting.len().max(*most);
                }
            });
            guest.publish();
            for _ in 0..REQUESTS {
                assert_eq!(guest.response().await.map(|response| response.status), Some(Status::Okay));
            }
            guest.domain.one_processor();
            let most = waiting.borrow().1;
            assert!((1..=BATCH).contains(&most), "{most} requests were taken and not answered");
        });
    });
}

/// What the guest has asked before the device closes is looked at, also what still waits in the ring. Most of it fails
/// here: this guest takes its pages back.
#[test]
fn what_was_asked_before_the_end_is_looked_at() {
    const REQUESTS: u64 = 31;
    check("closing", 5, |xen| {
        let limits = Limits::default().with_in_flight(4096);
        let reads_end_every = Some(Duration::from_millis(2));
        let how = How { sectors: SECTORS, limits, reads_end_every, ..How::default() };
        let did = against_backend(xen, how, async |guest| {
            push_large_reads(guest, REQUESTS);
            guest.publish();
            guest.domain.sleep(Duration::from_millis(3)).await;
        });
        assert!((REQUESTS - 4..=REQUESTS).contains(&did.failures), "{} of {REQUESTS} failed", did.failures);
    });
}

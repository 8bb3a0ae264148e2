//! Guests that send what they may not, against blkback. Each test that stands for a security advisory names it.

mod support;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use xen_blkif::back::Limits;
use xen_blkif::protocol::{Abi, Body, Operation, Request, Segment, Status};
use xen_hal::{Clock, GrantRef, Port};
use xen_ring::Protocol;
use xen_sim::check;

use support::block::{How, SECTORS, against_backend, answered};

#[test]
fn xsa_155_a_request_is_judged_by_a_copy_and_refused_where_it_makes_no_sense() {
    check("bad requests", 20, |xen| {
        against_backend(xen, How::default(), async |guest| {
            use Operation::{Read, Write};
            let own = guest.reference(0);
            let error = |operation| answered(Status::Error, operation);
            for (operation, sector, segment) in [
                (Read, SECTORS, Segment::new(own, 0, 0)),
                (Read, u64::MAX, Segment::new(own, 0, 7)),
                (Write, SECTORS - 1, Segment::new(own, 0, 1)),
                (Read, 0, Segment::new(own, 0, 8)),
                (Write, 0, Segment::new(own, 7, 0)),
                (Read, 0, Segment::new(GrantRef(9999), 0, 7)),
                (Write, 0, Segment::new(GrantRef(u32::MAX), 0, 7)),
                // A page that is granted for reading takes no data.
                (Read, 0, Segment::new(guest.reference(3), 0, 7)),
            ] {
                let request = guest.direct(operation, sector, segment);
                assert_eq!(guest.ask(request).await, error(operation), "{request:?}");
            }
            let mut odd = guest.direct(Operation::Other(200), 0, Segment::new(own, 0, 0));
            assert_eq!(guest.ask(odd).await, answered(Status::Unsupported, Operation::Other(200)));
            odd = guest.direct(Read, 0, Segment::new(own, 0, 0));
            if let Body::Direct { count, .. } = &mut odd.body {
                *count = 200;
            }
            assert_eq!(guest.ask(odd).await, error(Read));
            for (operation, count, page, status) in [
                (Read, 0, own.0, Status::Error),
                (Read, 257, own.0, Status::Error),
                (Read, u16::MAX, own.0, Status::Error),
                (Read, 12, 12345, Status::Error),
                (Operation::Discard, 1, own.0, Status::Unsupported),
                (Operation::Indirect, 1, own.0, Status::Unsupported),
            ] {
                let body = Body::Indirect { operation, count, pages: [page; 8] };
                let answer = guest.ask(Request { id: 7, sector: 0, handle: 0, body }).await;
                assert_eq!(answer, answered(status, operation), "{operation} of {count} segments");
            }
            // And it still works.
            let good = guest.direct(Read, 0, Segment::new(own, 0, 7));
            assert_eq!(guest.ask(good).await, answered(Status::Okay, Read));
        });
    });
}

#[test]
fn xsa_39_a_ring_index_that_cannot_be_ends_the_device() {
    for index in [34, 1000, u32::MAX, 0x8000_0000] {
        check("bad index", 10, |xen| {
            against_backend(xen, How::default(), async move |guest| {
                guest.memory().store(0, index);
                guest.port.notify();
                assert_eq!(guest.response().await, None);
            });
        });
    }
}

#[test]
fn xsa_216_nothing_of_ours_is_in_a_response() {
    for abi in [Abi::X86_64, Abi::X86_32] {
        check("padding", 10, |xen| {
            against_backend(xen, How { abi, ..How::default() }, async move |guest| {
                let request = guest.direct(Operation::Read, 0, Segment::new(guest.reference(0), 0, 7));
                guest.send(&request);
                guest.domain.sleep(Duration::from_millis(20)).await;
                let mut slot = vec![0xff; abi.slot_size()];
                guest.memory().read(64, &mut slot);
                assert!(slot[12..].iter().all(|byte| *byte == 0), "{slot:x?}");
                assert_eq!(slot[9], 0);
            });
        });
    }
}

#[test]
fn xsa_229_neighbours_on_the_disk_are_not_neighbours_in_memory() {
    check("merged", 20, |xen| {
        against_backend(xen, How::default(), async |guest| {
            // Two writes side by side on the disk from pages that are not, in the wrong order.
            guest.data[2].write(0, &[1; 4096]);
            guest.data[0].write(0, &[2; 4096]);
            guest.data[1].write(0, &[9; 4096]);
            for (sector, page) in [(8, 2), (16, 0)] {
                let segment = Segment::new(guest.reference(page), 0, 7);
                let request = guest.direct(Operation::Write, sector, segment);
                guest.push(&request);
            }
            guest.publish();
            for _ in 0..2 {
                assert_eq!(guest.response().await, answered(Status::Okay, Operation::Write));
            }
            for (sector, expected) in [(8, 1), (16, 2)] {
                let request = guest.direct(Operation::Read, sector, Segment::new(guest.reference(1), 0, 7));
                assert_eq!(guest.ask(request).await, answered(Status::Okay, Operation::Read));
                let mut bytes = [0; 4096];
                guest.data[1].read(0, &mut bytes);
                assert_eq!(bytes, [expected; 4096]);
            }
        });
    });
}

#[test]
fn xsa_332_events_without_end_cost_little() {
    check("storm", 5, |xen| {
        against_backend(xen, How::default(), async |guest| {
            for _ in 0..20_000 {
                guest.port.notify();
                guest.domain.sleep(Duration::from_micros(2)).await;
            }
            let request = guest.direct(Operation::Read, 0, Segment::new(guest.reference(0), 0, 7));
            assert_eq!(guest.ask(request).await, answered(Status::Okay, Operation::Read), "late, but it is heard");
        });
    });
}

#[test]
fn xsa_361_and_365_every_outcome_of_a_batch_counts() {
    check("batch", 20, |xen| {
        against_backend(xen, How::default(), async |guest| {
            // A good neighbour is not written with what a bad one was to bring, nor refused for it.
            guest.data[0].write(0, &[3; 4096]);
            for (id, sector, reference) in
                [(1, 24, guest.reference(0)), (2, 32, GrantRef(7777)), (3, 40, guest.reference(0))]
            {
                let mut request = guest.direct(Operation::Write, sector, Segment::new(reference, 0, 7));
                request.id = id;
                guest.push(&request);
            }
            guest.publish();
            let mut outcomes = Vec::new();
            for _ in 0..3 {
                let response = guest.response().await.unwrap();
                outcomes.push((response.id, response.status));
            }
            outcomes.sort_by_key(|(id, _)| *id);
            assert_eq!(outcomes, [(1, Status::Okay), (2, Status::Error), (3, Status::Okay)]);
            for (sector, expected) in [(24, 3), (32, 0), (40, 3)] {
                let request = guest.direct(Operation::Read, sector, Segment::new(guest.reference(1), 0, 7));
                assert_eq!(guest.ask(request).await, answered(Status::Okay, Operation::Read));
                let mut bytes = [0xee; 4096];
                guest.data[1].read(0, &mut bytes);
                assert_eq!(bytes, [expected; 4096], "sector {sector}");
            }
        });
    });
}

/// Linux's blkfront sends a write with FUA so where it is offered no barrier; its backend and QEMU's flush, then write.
#[test]
fn a_flush_that_carries_data_writes_it() {
    check("flush", 10, |xen| {
        let statistics = against_backend(xen, How::default(), async |guest| {
            guest.data[0].write(0, &[3; 4096]);
            let request = guest.direct(Operation::Flush, 8, Segment::new(guest.reference(0), 0, 7));
            assert_eq!(guest.ask(request).await, answered(Status::Okay, Operation::Flush));
            let request = guest.direct(Operation::Read, 8, Segment::new(guest.reference(1), 0, 7));
            assert_eq!(guest.ask(request).await, answered(Status::Okay, Operation::Read));
            let mut bytes = [0xee; 4096];
            guest.data[1].read(0, &mut bytes);
            assert!(bytes == [3; 4096], "answered OKAY, and not written: {:?}", &bytes[..4]);
            // What it cannot have it is told.
            for (sector, reference) in [(SECTORS, guest.reference(0)), (8, GrantRef(7777))] {
                let request = guest.direct(Operation::Flush, sector, Segment::new(reference, 0, 7));
                assert_eq!(guest.ask(request).await, answered(Status::Error, Operation::Flush));
            }
            // Without data it is what it always was, wherever it points.
            let body = Body::Direct { operation: Operation::Flush, count: 0, segments: Default::default() };
            let request = Request { id: 7, sector: u64::MAX, handle: 0, body };
            assert_eq!(guest.ask(request).await, answered(Status::Okay, Operation::Flush));
        });
        assert_eq!((statistics.flushes, statistics.writes, statistics.failures), (2, 1, 2));
    });
}

#[test]
fn a_guest_cannot_have_more_memory_than_its_share() {
    check("share", 10, |xen| {
        let limits = Limits::default().with_in_flight(4096);
        against_backend(xen, How { limits, ..How::default() }, async |guest| {
            for id in 0..32 {
                let mut request = guest.direct(Operation::Read, id % 8 * 8, Segment::new(guest.reference(0), 0, 7));
                request.id = id;
                guest.push(&request);
            }
            guest.publish();
            for _ in 0..32 {
                assert_eq!(guest.response().await.map(|response| response.status), Some(Status::Okay));
            }
        });
    });
}

#[test]
fn xsa_371_what_was_mapped_for_a_request_that_fails_does_not_stay() {
    check("persistent", 20, |xen| {
        let how = How { persistent: true, ..How::default() };
        let statistics = against_backend(xen, how, async |guest| {
            let before = guest.domain.in_use().mapped;
            let mut bad = guest.direct(Operation::Write, 0, Segment::new(guest.reference(0), 0, 7));
            if let Body::Direct { count, segments, .. } = &mut bad.body {
                (*count, segments[1]) = (3, Segment::new(GrantRef(7777), 0, 7));
                segments[2] = Segment::new(guest.reference(1), 0, 7);
            }
            assert_eq!(guest.ask(bad).await, answered(Status::Error, Operation::Write));
            assert_eq!(guest.domain.in_use().mapped, before, "nothing of a request that has failed");
            // A page that can only be read cannot stay mapped, and is of use all the same.
            let read_only = guest.direct(Operation::Write, 0, Segment::new(guest.reference(3), 0, 7));
            assert_eq!(guest.ask(read_only).await, answered(Status::Okay, Operation::Write));
            assert_eq!(guest.domain.in_use().mapped, before);
            for _ in 0..3 {
                let good = guest.direct(Operation::Write, 0, Segment::new(guest.reference(0), 0, 7));
                assert_eq!(guest.ask(good).await, answered(Status::Okay, Operation::Write));
                assert_eq!(guest.domain.in_use().mapped, before + 1, "this one stays");
            }
        });
        // The bad request's and the read-only page's.
        assert_eq!((statistics.grant_copies, statistics.failures), (2, 1));
    });
}

#[test]
fn requests_of_one_turn_are_copied_in_one_call() {
    check("batch", 10, |xen| {
        let statistics = against_backend(xen, How::default(), async |guest| {
            for operation in [Operation::Write, Operation::Read] {
                // Not side by side on the disk: nothing of it can be merged.
                for (id, sector) in [0, 16, 32, 48, 8].into_iter().enumerate() {
                    let mut request = guest.direct(operation, sector, Segment::new(guest.reference(0), 0, 7));
                    request.id = id as u64;
                    guest.push(&request);
                }
                guest.publish();
                for _ in 0..5 {
                    assert_eq!(guest.response().await.map(|response| response.status), Some(Status::Okay));
                }
            }
        });
        assert_eq!((statistics.reads, statistics.writes, statistics.merged), (5, 5, 0));
        assert_eq!(statistics.grant_copies, 2);
    });
}

/// The guest's second processor changes what the backend has just read, between two loads: indices go forth and back
/// within what is legal and beyond, and slots are rewritten. Its own disk may end of it, and nothing else.
#[test]
fn xsa_155_what_changes_between_two_loads() {
    check("second processor", 80, |xen| {
        let how = How { persistent: xen.seed() % 2 == 0, ..How::default() };
        let seed = xen.seed().wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        against_backend(xen, how, async move |guest| {
            let mut state = seed;
            let far = guest.domain.clone();
            let changes = Rc::new(Cell::new(0));
            let counted = changes.clone();
            guest.domain.second_processor(move |accessed| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                if accessed.write || !state.is_multiple_of(5) {
                    return;
                }
                counted.set(counted.get() + 1);
                if accessed.len == 4 && accessed.offset < 16 {
                    let step = [1, 2, u32::MAX, u32::MAX - 1, 40][(state >> 8) as usize % 5];
                    accessed.set_word(accessed.word().wrapping_add(step));
                } else if accessed.offset >= 64 {
                    accessed.write(accessed.offset + (state >> 8) as usize % accessed.len, &[(state >> 16) as u8]);
                }
            });
            for id in 0..32 {
                let operation = if id % 2 == 0 { Operation::Write } else { Operation::Read };
                let mut request = guest.direct(operation, id % 8 * 8, Segment::new(guest.reference(0), 0, 7));
                request.id = id;
                guest.push(&request);
                if id % 4 == 3 {
                    guest.publish();
                    far.sleep(Duration::from_micros(300)).await;
                }
            }
            far.sleep(Duration::from_millis(5)).await;
            far.one_processor();
            assert!(changes.get() > 0);
        });
    });
}

/// Any bytes as requests, and any index: the backend refuses, and stays.
#[test]
fn noise_from_a_guest() {
    check("noise", 100, |xen| {
        let mut random = xen.seed() * 2 + 1;
        let random = Cell::new({
            random = random.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            random
        });
        against_backend(xen, How::default(), async move |guest| {
            let next = || {
                let mut x = random.get();
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                random.set(x);
                x
            };
            let mut produced = 0_u32;
            for _ in 0..40 {
                for slot in 0..32 {
                    for at in (0..112).step_by(8) {
                        let mut word = next();
                        // Small numbers get further.
                        if next() % 2 == 0 {
                            word &= 0x0707_0707_0000_0f07;
                        }
                        guest.memory().write(64 + slot * 112 + at, &word.to_le_bytes());
                    }
                }
                produced = produced.wrapping_add((next() % 33) as u32);
                guest.memory().store(0, produced);
                guest.port.notify();
                guest.domain.sleep(Duration::from_micros(next() % 2000)).await;
            }
        });
    });
}

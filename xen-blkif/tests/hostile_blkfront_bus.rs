//! Guests that do on XenBus what they may not, against blkback, and its queues. Each test that stands for a security
//! advisory names it.

mod support;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use xen_blkif::BlockDevice;
use xen_blkif::back::{self, Attachment, Limits, Statistics};
use xen_blkif::front;
use xen_blkif::protocol::{Operation, Segment, Status};
use xen_blkif::ramdisk::RamDisk;
use xen_hal::{Clock, Port};
use xen_sim::{Domain, Xen, check, keep_log, script, take_log};
use xenbus::{State, frontend};

use support::block::{DEVICE, Guest, How, SECTORS, Scripted, against_backend, answered};

/// A backend that has an empty disk for each that asks.
fn serve_disks(back: &Domain) {
    let (store, domain) = (back.store(), back.clone());
    back.spawn(async move {
        let open = async |_: &Attachment| Ok(RamDisk::new(domain.clone(), SECTORS).unwrap());
        let ended = |_: &Attachment, _: Statistics| {};
        let limits = Limits::default();
        drop(back::serve(&store, domain.clone(), limits, open, ended).await);
    })
    .detach();
}

#[test]
fn xsa_331_350_and_441_a_guest_that_comes_and_goes_in_a_hurry() {
    check("hurry", 60, |xen| {
        let seed = xen.seed();
        let toolstack = xen.toolstack();
        let (guest, back) = (xen.domain(), xen.domain());
        serve_disks(&back);
        let store = guest.store();
        let dom0 = xen.dom0();
        xen.run(async move {
            let nodes = [("params", "disk"), ("mode", "w")];
            toolstack.attach_with("vbd", guest.id(), back.id(), DEVICE, &nodes).await.unwrap();
            let path = format!("device/vbd/{DEVICE}");
            let options = front::Options::default();
            let connect = || front::connect(&store, guest.clone(), &path, options);
            for turn in 0..15_u64 {
                let (disk, runner) = connect();
                let driver = guest.spawn(runner);
                let user = guest.spawn(async move { disk.write_bytes(0, &[1; 4096]).await });
                guest.sleep(Duration::from_micros((seed * 131 + turn * 477) % 4000)).await;
                // As a guest that is reset: without a word, whatever state this is in.
                driver.cancel().await;
                user.cancel().await;
            }
            let (disk, runner) = connect();
            let driver = guest.spawn(runner);
            disk.write_bytes(8, &[5; 512]).await.unwrap();
            let mut bytes = [0; 512];
            disk.read_bytes(8, &mut bytes).await.unwrap();
            assert_eq!(bytes, [5; 512]);
            assert!(toolstack.detach("vbd", guest.id(), back.id(), DEVICE).await.unwrap(), "closed in time");
            drop(driver.await);
            dom0.sleep(Duration::from_secs(1)).await;
            assert_eq!((guest.in_use().grants, guest.in_use().mapped), (0, 0));
            assert!(back.in_use().ports <= 1, "the store's port alone");
        });
    });
}

/// The first bad request of a connection is logged, and not one for each of many connections.
#[test]
fn bad_requests_over_many_connections_do_not_fill_the_log() {
    check("bad requests", 1, |xen| {
        keep_log();
        let toolstack = xen.toolstack();
        let (guest, back) = (xen.domain(), xen.domain());
        serve_disks(&back);
        let store = guest.store();
        let turns = 30;
        xen.run(async move {
            let nodes = [("params", "disk"), ("mode", "w")];
            toolstack.attach_with("vbd", guest.id(), back.id(), DEVICE, &nodes).await.unwrap();
            for _ in 0..turns {
                let run = script(async |guest: &Guest| {
                    let segment = Segment { reference: guest.reference(0).0, first: 0, last: 7 };
                    let answer = guest.ask(guest.direct(Operation::Read, SECTORS, segment)).await;
                    assert_eq!(answer, answered(Status::Error, Operation::Read));
                });
                let done = Rc::<Cell<bool>>::default();
                let mut driver = Scripted { domain: guest.clone(), how: How::default(), run, done: done.clone() };
                let (store, domain) = (store.clone(), guest.clone());
                let path = format!("device/vbd/{DEVICE}");
                let driver = guest.spawn(async move { drop(frontend(&store, &domain, &path, &mut driver).await) });
                while !done.get() {
                    guest.sleep(Duration::from_millis(10)).await;
                }
                driver.cancel().await;
            }
            let log = take_log();
            let bad = log.iter().filter(|line| line.contains(&format!(" at sector {SECTORS}: "))).count();
            let most = 9 + guest.now().as_secs() as usize / 60;
            assert!((1..=most).contains(&bad) && most < turns, "{bad} lines, at most {most}: {log:#?}");
        });
    });
}

#[test]
fn several_queues_are_one_disk() {
    check("queues", 20, |xen| {
        let how = How { queues: 4, limits: Limits::default().with_in_flight(4096), ..How::default() };
        let statistics = against_backend(xen, how, async |guest| {
            for (index, lane) in guest.lanes.iter().enumerate() {
                guest.data[0].write(0, &[index as u8 + 1; 4096]);
                let request = guest.direct(Operation::Write, index as u64 * 8, Segment::new(guest.reference(0), 0, 7));
                assert_eq!(lane.ask(request).await, answered(Status::Okay, Operation::Write));
            }
            // All at once, of which each fills all the room that the guest has.
            for lane in &guest.lanes {
                for id in 0..8 {
                    let mut request = guest.direct(Operation::Read, id * 8, Segment::new(guest.reference(1), 0, 7));
                    request.id = id;
                    lane.push(&request);
                }
                lane.publish();
            }
            for lane in &guest.lanes {
                for _ in 0..8 {
                    assert_eq!(lane.response().await.map(|response| response.status), Some(Status::Okay));
                }
            }
            for (index, lane) in guest.lanes.iter().rev().enumerate() {
                let request = guest.direct(Operation::Read, index as u64 * 8, Segment::new(guest.reference(1), 0, 7));
                assert_eq!(lane.ask(request).await, answered(Status::Okay, Operation::Read));
                let mut bytes = [0; 4096];
                guest.data[1].read(0, &mut bytes);
                assert_eq!(bytes, [index as u8 + 1; 4096]);
            }
        });
        assert_eq!((statistics.writes, statistics.failures), (4, 0));
    });
}

#[test]
fn a_queue_that_breaks_the_protocol_ends_its_device() {
    check("bad queue", 10, |xen| {
        against_backend(xen, How { queues: 3, ..How::default() }, async |guest| {
            guest.lanes[2].memory().store(0, 99);
            guest.lanes[2].port.notify();
            let request = guest.direct(Operation::Read, 0, Segment::new(guest.reference(0), 0, 7));
            guest.domain.sleep(Duration::from_millis(5)).await;
            assert_eq!(guest.ask(request).await, None, "nobody serves the others any more");
        });
    });
}

/// What a backend says of a frontend that it cannot connect with; nothing of the guest's stays mapped.
fn refused(xen: &Xen, how: How) -> String {
    let toolstack = xen.toolstack();
    let (guest, back) = (xen.domain(), xen.domain());
    serve_disks(&back);
    let (store, domain) = (guest.store(), guest.clone());
    let dom0 = xen.dom0();
    xen.run(async move {
        let nodes = [("params", "disk"), ("mode", "w")];
        toolstack.attach_with("vbd", guest.id(), back.id(), DEVICE, &nodes).await.unwrap();
        let driver = guest.spawn(async move {
            let run = script(async |_| panic!("it must not be connected"));
            let mut driver = Scripted { domain: domain.clone(), how, run, done: Rc::default() };
            drop(frontend(&store, &domain, &format!("device/vbd/{DEVICE}"), &mut driver).await);
        });
        dom0.sleep(Duration::from_secs(1)).await;
        assert_eq!(guest.in_use().mapped, 0);
        assert!(back.in_use().ports <= 1, "the store's port alone");
        drop(driver);
        let error = format!("/local/domain/{0}/error/backend/vbd/{1}/{DEVICE}/error", back.id().0, guest.id().0);
        toolstack.store().read_as(&error).await.unwrap()
    })
}

#[test]
fn more_queues_than_were_offered_are_refused() {
    for queues in [0, 5] {
        check("too many queues", 5, |xen| {
            let error = refused(xen, How { queues, ..How::default() });
            assert!(error.ends_with(&format!("multi-queue-num-queues = {queues}: expected 1 to 4")), "{error}");
        });
    }
}

#[test]
fn cve_2026_99286_and_99287_a_connection_that_fails_half_way_leaves_nothing() {
    for (queues, bad) in [(1, 0), (4, 0), (4, 3)] {
        check("bad ring", 5, |xen| {
            let error = refused(xen, How { queues, bad_ring: Some(bad), ..How::default() });
            assert!(error.contains("the ring's pages: unrecognised or inappropriate grant reference"), "{error}");
        });
    }
}

#[test]
fn xsa_349_a_guest_that_writes_its_nodes_without_end() {
    check("writes", 5, |xen| {
        against_backend(xen, How::default(), async |guest| {
            for turn in 0..3_000_u32 {
                guest.store.set(&format!("{}/noise", guest.path), &turn).await.unwrap();
                guest.store.set(&format!("{}/state", guest.path), &State::Connected).await.unwrap();
            }
            let request = guest.direct(Operation::Read, 0, Segment::new(guest.reference(0), 0, 7));
            assert_eq!(guest.ask(request).await, answered(Status::Okay, Operation::Read));
        });
    });
}

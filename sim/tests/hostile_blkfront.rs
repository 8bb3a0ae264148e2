//! Guests that do what they may not, against blkback. Each test that stands for a security advisory names it.

mod support;

use std::cell::{Cell, RefCell};
use std::ops::Deref;
use std::rc::Rc;
use std::time::Duration;

use xen_blkif::BlockDevice;
use xen_blkif::back::{self, Attach, Limits, Statistics};
use xen_blkif::front;
use xen_blkif::protocol::{Abi, Body, Operation, Request, Response, Segment, Status};
use xen_blkif::ramdisk::RamDisk;
use xen_hal::{Access, Clock, Errno, EventChannels, GrantRef, Pages, Port};
use xen_ring::{FrontRing, LentPage, Protocol, SharedMemory};
use xen_sim::{Domain, SimGrant, SimPort, Xen, check};
use xenstore_client::xenbus::{Device, Failure, Frontend, Signals, State, frontend};
use xenstore_client::{Error as StoreError, Store, Tree};

use support::script::{Script, script};

const DEVICE: u32 = 51712;
const SECTORS: u64 = 64;

fn failure(error: impl std::fmt::Display) -> Failure {
    Failure::new(Errno::EIO, error.to_string())
}

/// What a frontend under the test's control has.
struct Guest {
    domain: Domain,
    /// Its queues, of which most tests have one.
    lanes: Vec<Lane>,
    /// Pages for data, lent to the backend.
    data: Vec<LentPage<SimGrant>>,
    /// Its directory in the store, and the store.
    path: String,
    store: Store,
}

impl Deref for Guest {
    type Target = Lane;

    fn deref(&self) -> &Lane {
        &self.lanes[0]
    }
}

/// A ring and its bell.
struct Lane {
    domain: Domain,
    ring: RefCell<FrontRing<Abi>>,
    page: LentPage<SimGrant>,
    port: SimPort,
}

impl Lane {
    fn memory(&self) -> &SharedMemory {
        &self.page
    }

    fn push(&self, request: &Request) {
        self.ring.borrow_mut().push(self.memory(), request).unwrap();
    }

    fn publish(&self) {
        let _ = self.ring.borrow_mut().publish(self.memory());
        self.port.notify();
    }

    fn send(&self, request: &Request) {
        self.push(request);
        self.publish();
    }

    /// Waits for a response; none within 100 ms is none.
    async fn response(&self) -> Option<Response> {
        let deadline = self.domain.now() + Duration::from_millis(100);
        while self.domain.now() < deadline {
            if let Some(response) = self.ring.borrow_mut().pop(self.memory()).unwrap() {
                return Some(response);
            }
            self.domain.sleep(Duration::from_micros(100)).await;
        }
        None
    }

    async fn ask(&self, request: Request) -> Option<Response> {
        self.send(&request);
        self.response().await
    }
}

impl Guest {
    fn reference(&self, index: usize) -> GrantRef {
        self.data[index].reference().unwrap()
    }

    fn direct(&self, operation: Operation, sector: u64, segment: Segment) -> Request {
        let mut segments = [Segment::default(); 11];
        segments[0] = segment;
        Request { id: 7, sector, handle: 0, body: Body::Direct { operation, count: 1, segments } }
    }
}

/// A frontend that runs a script.
struct Scripted {
    domain: Domain,
    how: How,
    run: Script<Guest>,
    done: Rc<Cell<bool>>,
}

/// How a script's frontend is made.
#[derive(Clone, Copy)]
struct How {
    abi: Abi,
    limits: Limits,
    queues: usize,
    persistent: bool,
    /// This queue's ring is a page that nobody lends.
    bad_ring: Option<usize>,
}

impl Default for How {
    fn default() -> How {
        How { abi: Abi::X86_64, limits: Limits::default(), queues: 1, persistent: false, bad_ring: None }
    }
}

impl Frontend for Scripted {
    const OFFERED: State = State::Initialised;
    type Offer = Guest;

    async fn offer(&mut self, device: &Device) -> Result<Guest, Failure> {
        let peer = device.other_domain();
        let page = || LentPage::<SimGrant>::new(self.domain.alloc_page().unwrap());
        let mut lanes = Vec::new();
        for _ in 0..self.how.queues {
            let mut ring_page = page();
            let ring = RefCell::new(FrontRing::new(self.how.abi, &ring_page));
            ring_page.lend(&self.domain, peer, Access::ReadWrite).map_err(failure)?;
            let port = self.domain.alloc_unbound(peer).map_err(failure)?;
            lanes.push(Lane { domain: self.domain.clone(), ring, page: ring_page, port });
        }
        let mut data: Vec<_> = (0..4).map(|_| page()).collect();
        for (index, page) in data.iter_mut().enumerate() {
            // The last one is for reading alone.
            let access = if index == 3 { Access::ReadOnly } else { Access::ReadWrite };
            page.lend(&self.domain, peer, access).map_err(failure)?;
        }
        let (path, store) = (device.path().to_owned(), device.store().clone());
        Ok(Guest { domain: self.domain.clone(), lanes, data, path, store })
    }

    async fn publish(&mut self, device: &Device, guest: &Guest, tree: &Tree) -> Result<(), StoreError> {
        for (index, lane) in guest.lanes.iter().enumerate() {
            let prefix = if self.how.queues == 1 { String::new() } else { format!("queue-{index}/") };
            let reference =
                if self.how.bad_ring == Some(index) { GrantRef(9999) } else { lane.page.reference().unwrap() };
            tree.set(&device.own(&format!("{prefix}ring-ref")), &reference).await?;
            tree.set(&device.own(&format!("{prefix}event-channel")), &lane.port.number()).await?;
        }
        if self.how.queues != 1 {
            tree.set(&device.own("multi-queue-num-queues"), &self.how.queues.to_string()).await?;
        }
        tree.set(&device.own("feature-persistent"), &self.how.persistent).await?;
        tree.set(&device.own("protocol"), self.how.abi.name()).await
    }

    async fn accept(&mut self, _: &Device, _: &mut Guest) -> Result<(), Failure> {
        Ok(())
    }

    async fn run(&mut self, _: &Device, guest: Guest, signals: &Signals) -> Result<(), Failure> {
        let guest = Rc::new(guest);
        (self.run)(guest.clone()).await;
        self.done.set(true);
        signals.closing().await;
        Ok(())
    }
}

/// Runs a script as a frontend of our backend, beside an honest guest whose disk has to go on working.
/// Returns what the backend has done for the script.
fn against_backend(xen: &Xen, how: How, run: impl AsyncFn(&Guest) + 'static) -> Statistics {
    run_against_backend(xen, how, script(run))
}

fn run_against_backend(xen: &Xen, how: How, run: Script<Guest>) -> Statistics {
    let toolstack = xen.toolstack();
    let (bad, good, back) = (xen.domain(), xen.domain(), xen.domain());
    let (store, domain) = (back.store(), back.clone());
    let served = Rc::<RefCell<Vec<_>>>::default();
    let did = served.clone();
    back.spawn(async move {
        let open = async |attach: &Attach| {
            let disk = RamDisk::new(domain.clone(), SECTORS).unwrap();
            Ok(if attach.writable { disk } else { disk.read_only() })
        };
        let ended = |attach: &Attach, statistics: Statistics| did.borrow_mut().push((attach.domain, statistics));
        drop(back::serve(&store, domain.clone(), domain.clone(), domain.clone(), how.limits, open, ended).await);
    })
    .detach();
    let done = Rc::new(Cell::new(false));
    let (store, domain, flag) = (bad.store(), bad.clone(), done.clone());
    let dom0 = xen.dom0();
    let (bad_id, good_id, back_id) = (bad.id(), good.id(), back.id());
    let good_store = good.store();
    xen.run(async move {
        let nodes = [("params", "disk"), ("mode", "w")];
        toolstack.attach_with("vbd", good_id, back_id, DEVICE, &nodes).await.unwrap();
        let path = format!("device/vbd/{DEVICE}");
        let options = front::Options::default();
        let (disk, runner) = front::connect(&good_store, good.clone(), good.clone(), good.clone(), &path, options);
        good.spawn(async move { drop(runner.await) }).detach();
        disk.write_bytes(0, &[0x55; 512]).await.unwrap();
        toolstack.attach_with("vbd", bad_id, back_id, DEVICE, &nodes).await.unwrap();
        bad.spawn(async move {
            let mut driver = Scripted { domain: domain.clone(), how, run, done: flag };
            drop(frontend(&store, &domain, &format!("device/vbd/{DEVICE}"), &mut driver).await);
        })
        .detach();
        let deadline = dom0.now() + Duration::from_secs(20);
        while !done.get() {
            assert!(dom0.now() < deadline, "the script does not end");
            dom0.sleep(Duration::from_millis(1)).await;
        }
        let mut bytes = [0; 512];
        disk.read_bytes(0, &mut bytes).await.expect("the other guest's disk works");
        assert_eq!(bytes, [0x55; 512]);
        // And the offender's goes away like any other.
        assert!(toolstack.detach("vbd", bad_id, back_id, DEVICE).await.unwrap(), "closed in time");
        dom0.sleep(Duration::from_secs(1)).await;
    });
    let served = served.borrow();
    served.iter().find(|(domain, _)| *domain == bad_id).expect("the backend tells of each end").1
}

fn answered(status: Status, operation: Operation) -> Option<Response> {
    Some(Response { id: 7, operation, status })
}

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
                // A page that is lent for reading takes no data.
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

#[test]
fn a_guest_cannot_have_more_memory_than_its_share() {
    check("share", 10, |xen| {
        let limits = Limits { in_flight: 4096, ..Limits::default() };
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
fn xsa_331_350_and_441_a_guest_that_comes_and_goes_in_a_hurry() {
    check("hurry", 60, |xen| {
        let seed = xen.seed();
        let toolstack = xen.toolstack();
        let (guest, back) = (xen.domain(), xen.domain());
        let (store, domain) = (back.store(), back.clone());
        back.spawn(async move {
            let open = async |_: &Attach| Ok(RamDisk::new(domain.clone(), SECTORS).unwrap());
            let ended = |_: &Attach, _: Statistics| {};
            let limits = Limits::default();
            drop(back::serve(&store, domain.clone(), domain.clone(), domain.clone(), limits, open, ended).await);
        })
        .detach();
        let store = guest.store();
        let dom0 = xen.dom0();
        xen.run(async move {
            let nodes = [("params", "disk"), ("mode", "w")];
            toolstack.attach_with("vbd", guest.id(), back.id(), DEVICE, &nodes).await.unwrap();
            let path = format!("device/vbd/{DEVICE}");
            let options = front::Options::default();
            let connect = || front::connect(&store, guest.clone(), guest.clone(), guest.clone(), &path, options);
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

#[test]
fn several_queues_are_one_disk() {
    check("queues", 20, |xen| {
        let how = How { queues: 4, limits: Limits { in_flight: 4096, ..Limits::default() }, ..How::default() };
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
    let (store, domain) = (back.store(), back.clone());
    back.spawn(async move {
        let open = async |_: &Attach| Ok(RamDisk::new(domain.clone(), SECTORS).unwrap());
        let ended = |_: &Attach, _: Statistics| {};
        let limits = Limits::default();
        drop(back::serve(&store, domain.clone(), domain.clone(), domain.clone(), limits, open, ended).await);
    })
    .detach();
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

//! Block peers that do what they may not. Each test that stands for a security advisory names it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use xen_blkif::back::{self, Attach, Limits, Statistics};
use xen_blkif::front::{self, Disk};
use xen_blkif::protocol::{Abi, Body, Operation, Request, Response, Segment, Status};
use xen_blkif::ramdisk::RamDisk;
use xen_blkif::{BlockDevice, Error};
use xen_hal::{Access, Clock, DomId, Errno, EventChannels, GrantRef, GrantTable, MapRequest, Pages, Port, PortNumber};
use xen_ring::{BackRing, FrontRing, LentPage, Protocol, SharedMapping, SharedMemory};
use xen_sim::{Domain, SimGrant, SimMapping, SimPort, Toolstack, Xen, check};
use xenstore_client::xenbus::{Backend, Device, Failure, Frontend, Signals, State, backend, frontend};
use xenstore_client::{Error as StoreError, Tree};

const DEVICE: u32 = 51712;
const SECTORS: u64 = 64;

fn failure(error: impl std::fmt::Display) -> Failure {
    Failure::new(Errno::EIO, error.to_string())
}

/// What a frontend under the test's control has.
struct Guest {
    domain: Domain,
    ring: RefCell<FrontRing<Abi>>,
    page: LentPage<SimGrant>,
    /// Pages for data, lent to the backend.
    data: Vec<LentPage<SimGrant>>,
    port: SimPort,
}

impl Guest {
    fn memory(&self) -> &SharedMemory {
        &self.page
    }

    fn reference(&self, index: usize) -> GrantRef {
        self.data[index].reference().unwrap()
    }

    fn send(&self, request: &Request) {
        self.ring.borrow_mut().push(self.memory(), request).unwrap();
        let _ = self.ring.borrow_mut().publish(self.memory());
        self.port.notify();
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

    fn direct(&self, operation: Operation, sector: u64, segment: Segment) -> Request {
        let mut segments = [Segment::default(); 11];
        segments[0] = segment;
        Request { id: 7, sector, handle: 0, body: Body::Direct { operation, count: 1, segments } }
    }
}

/// A frontend that runs a script.
struct Script<F> {
    domain: Domain,
    abi: Abi,
    run: F,
    done: Rc<Cell<bool>>,
}

impl<F: AsyncFn(&Guest)> Frontend for Script<F> {
    const OFFERED: State = State::Initialised;
    type Offer = Guest;

    async fn offer(&mut self, device: &Device) -> Result<Guest, Failure> {
        let peer = device.other_domain();
        let page = || LentPage::<SimGrant>::new(self.domain.alloc_page().unwrap());
        let mut ring_page = page();
        let ring = RefCell::new(FrontRing::new(self.abi, &ring_page));
        ring_page.lend(&self.domain, peer, Access::ReadWrite).map_err(failure)?;
        let mut data: Vec<_> = (0..4).map(|_| page()).collect();
        for (index, page) in data.iter_mut().enumerate() {
            // The last one is for reading alone.
            let access = if index == 3 { Access::ReadOnly } else { Access::ReadWrite };
            page.lend(&self.domain, peer, access).map_err(failure)?;
        }
        let port = self.domain.alloc_unbound(peer).map_err(failure)?;
        Ok(Guest { domain: self.domain.clone(), ring, page: ring_page, data, port })
    }

    async fn publish(&mut self, device: &Device, guest: &Guest, tree: &Tree) -> Result<(), StoreError> {
        tree.set(&device.own("ring-ref"), &guest.page.reference().unwrap()).await?;
        tree.set(&device.own("event-channel"), &guest.port.number()).await?;
        tree.set(&device.own("protocol"), self.abi.name()).await
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

/// Runs a script as a frontend of our backend, beside an honest guest whose disk has to go on working.
fn against_backend(xen: &Xen, abi: Abi, limits: Limits, script: impl AsyncFn(&Guest) + 'static) {
    let toolstack = xen.toolstack();
    let (bad, good, back) = (xen.domain(), xen.domain(), xen.domain());
    let (store, domain) = (back.store(), back.clone());
    back.spawn(async move {
        let open = async |attach: &Attach| {
            let disk = RamDisk::new(domain.clone(), SECTORS).unwrap();
            Ok(if attach.writable { disk } else { disk.read_only() })
        };
        let ended = |_: &Attach, _: Statistics| {};
        drop(back::serve(&store, domain.clone(), domain.clone(), domain.clone(), limits, open, ended).await);
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
            let mut driver = Script { domain: domain.clone(), abi, run: script, done: flag };
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
    });
}

fn answered(status: Status, operation: Operation) -> Option<Response> {
    Some(Response { id: 7, operation, status })
}

#[test]
fn xsa_155_a_request_is_judged_by_a_copy_and_refused_where_it_makes_no_sense() {
    check("bad requests", 20, |xen| {
        against_backend(xen, Abi::X86_64, Limits::default(), async |guest| {
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
            against_backend(xen, Abi::X86_64, Limits::default(), async move |guest| {
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
            against_backend(xen, abi, Limits::default(), async move |guest| {
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
        against_backend(xen, Abi::X86_64, Limits::default(), async |guest| {
            // Two writes side by side on the disk from pages that are not, in the wrong order.
            guest.data[2].write(0, &[1; 4096]);
            guest.data[0].write(0, &[2; 4096]);
            guest.data[1].write(0, &[9; 4096]);
            for (sector, page) in [(8, 2), (16, 0)] {
                let segment = Segment::new(guest.reference(page), 0, 7);
                let request = guest.direct(Operation::Write, sector, segment);
                guest.ring.borrow_mut().push(guest.memory(), &request).unwrap();
            }
            let _ = guest.ring.borrow_mut().publish(guest.memory());
            guest.port.notify();
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
        against_backend(xen, Abi::X86_64, Limits::default(), async |guest| {
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
        against_backend(xen, Abi::X86_64, Limits::default(), async |guest| {
            // A good neighbour is not written with what a bad one was to bring, nor refused for it.
            guest.data[0].write(0, &[3; 4096]);
            for (id, sector, reference) in
                [(1, 24, guest.reference(0)), (2, 32, GrantRef(7777)), (3, 40, guest.reference(0))]
            {
                let mut request = guest.direct(Operation::Write, sector, Segment::new(reference, 0, 7));
                request.id = id;
                guest.ring.borrow_mut().push(guest.memory(), &request).unwrap();
            }
            let _ = guest.ring.borrow_mut().publish(guest.memory());
            guest.port.notify();
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
        against_backend(xen, Abi::X86_64, Limits { in_flight: 4096, ..Limits::default() }, async |guest| {
            for id in 0..32 {
                let mut request = guest.direct(Operation::Read, id % 8 * 8, Segment::new(guest.reference(0), 0, 7));
                request.id = id;
                guest.ring.borrow_mut().push(guest.memory(), &request).unwrap();
            }
            let _ = guest.ring.borrow_mut().publish(guest.memory());
            guest.port.notify();
            for _ in 0..32 {
                assert_eq!(guest.response().await.map(|response| response.status), Some(Status::Okay));
            }
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
        against_backend(xen, Abi::X86_64, Limits::default(), async move |guest| {
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

/// A backend that runs a script.
struct BadBackend<F> {
    domain: Domain,
    nodes: Vec<(&'static str, &'static str)>,
    run: F,
}

struct Served {
    domain: Domain,
    peer: DomId,
    ring: RefCell<BackRing<Abi>>,
    memory: SharedMapping<SimMapping>,
    port: SimPort,
}

impl Served {
    async fn request(&self) -> Request {
        loop {
            if let Some(request) = self.ring.borrow_mut().pop(&self.memory).unwrap() {
                return request;
            }
            self.domain.sleep(Duration::from_micros(100)).await;
        }
    }

    fn answer(&self, response: Response) {
        self.ring.borrow_mut().push(&self.memory, &response);
        let _ = self.ring.borrow_mut().publish(&self.memory);
        self.port.notify();
    }
}

impl<F: AsyncFn(&Served)> Backend for BadBackend<F> {
    type Link = Served;

    async fn prepare(&mut self, _: &Device) -> Result<(), Failure> {
        Ok(())
    }

    async fn offer(&mut self, device: &Device, tree: &Tree) -> Result<(), StoreError> {
        tree.set(&device.own("feature-max-indirect-segments"), &256_u32).await
    }

    async fn connect(&mut self, device: &Device) -> Result<Served, Failure> {
        let reference: GrantRef = device.get_other("ring-ref").await?.ok_or_else(|| failure("no ring"))?;
        let port: PortNumber = device.get_other("event-channel").await?.ok_or_else(|| failure("no port"))?;
        let peer = device.other_domain();
        let mapping = self.domain.map(&[MapRequest { peer, reference, access: Access::ReadWrite }]).map_err(failure)?;
        let memory = SharedMapping::new(mapping).map_err(failure)?;
        let ring = RefCell::new(BackRing::attach(Abi::X86_64, &memory).map_err(failure)?);
        let port = self.domain.bind_interdomain(peer, port).map_err(failure)?;
        Ok(Served { domain: self.domain.clone(), peer, ring, memory, port })
    }

    async fn publish(&mut self, device: &Device, _: &Served, tree: &Tree) -> Result<(), StoreError> {
        tree.set(&device.own("feature-flush-cache"), &true).await?;
        tree.set(&device.own("feature-barrier"), &true).await?;
        tree.set(&device.own("feature-discard"), &true).await?;
        tree.set(&device.own("feature-persistent"), &true).await?;
        tree.set(&device.own("sectors"), &SECTORS).await?;
        for (key, value) in &self.nodes {
            tree.set(&device.own(key), *value).await?;
        }
        Ok(())
    }

    async fn run(&mut self, _: &Device, served: Served, signals: &Signals) -> Result<(), Failure> {
        (self.run)(&served).await;
        signals.closing().await;
        Ok(())
    }
}

/// Runs `user` on a disk that a script serves; says what the frontend's error node holds afterwards.
fn against_frontend(
    xen: &Xen,
    script: impl AsyncFn(&Served) + 'static,
    user: impl AsyncFn(&Disk<Domain>) + 'static,
) -> Option<String> {
    against_frontend_with(xen, &[], script, user)
}

/// The same, where the backend says some things in other words.
fn against_frontend_with(
    xen: &Xen,
    nodes: &[(&'static str, &'static str)],
    script: impl AsyncFn(&Served) + 'static,
    user: impl AsyncFn(&Disk<Domain>) + 'static,
) -> Option<String> {
    let nodes = nodes.to_vec();
    let toolstack = xen.toolstack();
    let (front, back) = (xen.domain(), xen.domain());
    let (store, domain) = (back.store(), back.clone());
    let path = Toolstack::paths("vbd", front.id(), back.id(), DEVICE).1;
    let (front_id, back_id) = (front.id(), back.id());
    let front_store = front.store();
    xen.run(async move {
        toolstack.attach_with("vbd", front_id, back_id, DEVICE, &[("mode", "w")]).await.unwrap();
        back.spawn(async move {
            let mut driver = BadBackend { domain: domain.clone(), nodes, run: script };
            drop(backend(&store, &domain, &path, &mut driver).await);
        })
        .detach();
        let device = format!("device/vbd/{DEVICE}");
        let options = front::Options::default();
        let (disk, runner) =
            front::connect(&front_store, front.clone(), front.clone(), front.clone(), &device, options);
        front.spawn(async move { drop(runner.await) }).detach();
        user(&disk).await;
        front.sleep(Duration::from_millis(50)).await;
        let error = format!("/local/domain/{}/error/device/vbd/{DEVICE}/error", front_id.0);
        toolstack.store().get::<String>(&error).await.unwrap()
    })
}

async fn read(disk: &Disk<Domain>) -> Result<(), Error> {
    let mut bytes = [0; 512];
    disk.read_bytes(0, &mut bytes).await
}

#[test]
fn xsa_376_a_backends_answers_are_checked() {
    let okay =
        |request: &Request| Response { id: request.id, operation: request.answered_operation(), status: Status::Okay };
    check("unknown id", 10, |xen| {
        let error = against_frontend(
            xen,
            async move |served| {
                let request = served.request().await;
                served.answer(Response { id: 31, ..okay(&request) });
            },
            async |disk| assert_eq!(read(disk).await, Err(Error::Gone)),
        );
        assert_eq!(error.as_deref(), Some("5 the backend has answered request 31, which it does not have"));
    });
    check("huge id", 10, |xen| {
        let error = against_frontend(
            xen,
            async move |served| {
                let request = served.request().await;
                served.answer(Response { id: u64::MAX, ..okay(&request) });
            },
            async |disk| assert_eq!(read(disk).await, Err(Error::Gone)),
        );
        assert!(error.unwrap().contains("which it does not have"));
    });
    check("another operation", 10, |xen| {
        let error = against_frontend(
            xen,
            async move |served| {
                let request = served.request().await;
                served.answer(Response { operation: Operation::Write, ..okay(&request) });
            },
            async |disk| assert_eq!(read(disk).await, Err(Error::Gone)),
        );
        assert_eq!(error.as_deref(), Some("5 the backend has answered request 0 as write, which was read"));
    });
    check("answers from nowhere", 10, |xen| {
        let error = against_frontend(
            xen,
            async move |served| {
                served.request().await;
                served.memory.store(8, 2);
                served.port.notify();
            },
            async |disk| assert_eq!(read(disk).await, Err(Error::Gone)),
        );
        assert!(error.unwrap().contains("ring index out of range"));
    });
}

#[test]
fn a_backend_that_tells_nonsense_of_its_disk() {
    for (key, value, expected) in [
        ("sector-size", "1000", "sector-size = 1000: expected a power of two from 512 to 65536"),
        ("sector-size", "0", "sector-size = 0: expected a power of two"),
        ("sectors", "many", "sectors"),
        ("feature-flush-cache", "-", "feature-flush-cache"),
    ] {
        check("nonsense", 5, |xen| {
            let error = against_frontend_with(
                xen,
                &[(key, value)],
                async |_| {},
                async |disk| assert_eq!(disk.ready().await.err(), Some(Error::Gone)),
            );
            assert!(error.as_ref().is_some_and(|error| error.contains(expected)), "{key} = {value}: {error:?}");
        });
    }
}

#[test]
fn xsa_391_events_without_end_from_a_backend() {
    check("storm", 5, |xen| {
        let error = against_frontend(
            xen,
            async |served| {
                let request = served.request().await;
                for _ in 0..5_000 {
                    served.port.notify();
                    served.domain.sleep(Duration::from_micros(2)).await;
                }
                let operation = request.answered_operation();
                served.answer(Response { id: request.id, operation, status: Status::Okay });
            },
            async |disk| assert_eq!(read(disk).await, Ok(())),
        );
        assert_eq!(error, None);
    });
}

#[test]
fn xsa_396_and_403_pages_that_a_backend_keeps_are_given_to_nobody_and_hold_nothing_of_ours() {
    check("kept pages", 20, |xen| {
        let error = against_frontend(
            xen,
            async |served| {
                let request = served.request().await;
                let Body::Direct { segments, .. } = request.body else { panic!("one page is not indirect") };
                let reference = GrantRef(segments[0].reference);
                let peer = served.peer;
                let request_map = [MapRequest { peer, reference, access: Access::ReadWrite }];
                let kept = SharedMapping::new(served.domain.map(&request_map).unwrap()).unwrap();
                // All but the sector that was asked for is zero: no other memory of the guest's.
                let mut bytes = [0xff; 4096];
                kept.read(0, &mut bytes);
                assert!(bytes.iter().all(|byte| *byte == 0));
                let operation = request.answered_operation();
                served.answer(Response { id: request.id, operation, status: Status::Okay });
                let next = served.request().await;
                let Body::Direct { segments, .. } = next.body else { panic!("one page is not indirect") };
                assert!(segments[0].reference != 0);
                served.answer(Response { id: next.id, operation: next.answered_operation(), status: Status::Okay });
                drop(kept);
            },
            async |disk| {
                assert_eq!(read(disk).await, Ok(()));
                assert_eq!(read(disk).await, Ok(()));
            },
        );
        assert_eq!(error, None);
    });
}

#[test]
fn what_a_backend_cannot_do_after_all_degrades() {
    check("unsupported", 10, |xen| {
        let error = against_frontend(
            xen,
            async |served| {
                loop {
                    let request = served.request().await;
                    let operation = request.answered_operation();
                    let status = match operation {
                        Operation::Flush | Operation::Discard => Status::Unsupported,
                        _ => Status::Okay,
                    };
                    served.answer(Response { id: request.id, operation, status });
                }
            },
            async |disk| {
                assert_eq!(disk.flush().await, Ok(()), "by a barrier");
                assert_eq!(disk.flush().await, Ok(()), "by a barrier at once");
                assert_eq!(disk.discard(0, 8, false).await, Err(Error::Unsupported("discard")));
                assert_eq!(disk.geometry().discard, None);
                assert_eq!(read(disk).await, Ok(()));
            },
        );
        assert_eq!(error, None);
    });
}

/// The bodies of the fuzz targets with random bytes.
#[test]
fn noise_at_both_ends() {
    let mut state = 0x1234_5678_9abc_def1_u64;
    for turn in 0..60_usize {
        let data: Vec<u8> = (0..turn * 12)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state as u8
            })
            .collect();
        xen_sim::fuzzing::blkback(&data);
        xen_sim::fuzzing::blkfront(&data);
    }
}

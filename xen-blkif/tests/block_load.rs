//! What peers can make both ends of the block protocol hold, and how long they can keep them: bounds under load.

mod support;

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{join_all, select};
use xen_blkif::back::{self, Attachment, Limits, Statistics};
use xen_blkif::front::{self, Disk};
use xen_blkif::protocol::{Body, Operation, Request, Segment, Status};
use xen_blkif::ramdisk::{PageBuffer, RamDisk};
use xen_blkif::{BlockDevice, Buffer, Completed, Error, Geometry};
use xen_hal::{Access, Clock, DomId, GrantRef, Pages};
use xen_ring::GrantablePage;
use xen_sim::{Domain, Faults, Script, SimGrant, SimPage, Toolstack, Xen, check, keep_log, take_log};
use xenbus::{State, frontend, yield_now};

use support::backend::{against_frontend, against_frontend_with, okay, read};
use support::block::{DEVICE, Guest, How, SECTORS, Scripted, against_backend, answered};

/// Pages that a guest grants to its backend.
async fn grant_pages(guest: &Guest, count: usize) -> Vec<GrantablePage<SimGrant>> {
    let back: DomId = guest.store.read_as(&format!("{}/backend-id", guest.path)).await.unwrap();
    let page = |_| {
        let mut page = GrantablePage::<SimGrant>::new(guest.domain.alloc_page().unwrap());
        page.grant(&guest.domain, back, Access::ReadWrite).unwrap();
        page
    };
    (0..count).map(page).collect()
}

/// A read of a sector into each of these pages.
fn read_into(references: &[GrantRef]) -> Request {
    let mut segments = [Segment::default(); 11];
    for (segment, reference) in segments.iter_mut().zip(references) {
        *segment = Segment::new(*reference, 0, 0);
    }
    let body = Body::Direct { operation: Operation::Read, count: references.len() as u8, segments };
    Request { id: 7, sector: 0, handle: 0, body }
}

/// A guest that uses one page of each batch again keeps no more pages mapped than one that uses them all.
#[test]
fn pages_that_stay_mapped_have_a_bound() {
    check("persistent", 2, |xen| {
        let how = How { persistent: true, ..How::default() };
        against_backend(xen, how, async |guest| {
            let pages = grant_pages(guest, 1500).await;
            let refs: Vec<GrantRef> = pages.iter().map(|page| page.reference().unwrap()).collect();
            let (keepers, fillers) = refs.split_at(400);
            let read = async |refs: &[GrantRef]| {
                assert_eq!(guest.ask(read_into(refs)).await, answered(Status::Okay, Operation::Read));
                let mapped = guest.domain.in_use().mapped;
                assert!(mapped <= 1056 + 1, "{mapped} pages are mapped, the ring's included");
            };
            for kept in 0..keepers.len() {
                let own: Vec<_> =
                    (0..11).map(|at| if at == 0 { keepers[kept] } else { fillers[(kept * 10 + at) % 1100] }).collect();
                read(&own).await;
                // The kept ones stay the most recently used.
                if kept % 20 == 0 {
                    for used in keepers[..=kept].chunks(11) {
                        read(used).await;
                    }
                }
            }
            let mapped = guest.domain.in_use().mapped;
            assert!(mapped > 900, "what is allowed is used: {mapped}");
            // What is used all the time stays: no more calls to the hypervisor.
            for _ in 0..3 {
                for used in keepers.chunks(11) {
                    read(used).await;
                }
            }
        });
    });
}

/// More pages in one turn than may stay mapped, in all queues, of all of which half are of no use.
#[test]
fn requests_that_need_more_pages_than_stay_mapped() {
    check("burst", 4, |xen| {
        let how = How { persistent: true, queues: 4, ..How::default() };
        against_backend(xen, how, async |guest| {
            let pages = grant_pages(guest, 4 * 32 * 11).await;
            let refs: Vec<GrantRef> = pages.iter().map(|page| page.reference().unwrap()).collect();
            guest.data[0].write(0, &[9; 4096]);
            for sector in [0, 8] {
                let request = guest.direct(Operation::Write, sector, Segment::new(guest.reference(0), 0, 7));
                assert_eq!(guest.ask(request).await, answered(Status::Okay, Operation::Write));
            }
            for round in 0..3 {
                for (lane, refs) in guest.lanes.iter().zip(refs.chunks(32 * 11)) {
                    for refs in refs.chunks(11) {
                        lane.push(&read_into(refs));
                    }
                    lane.publish();
                }
                for lane in &guest.lanes {
                    for _ in 0..32 {
                        assert_eq!(lane.response().await, answered(Status::Okay, Operation::Read));
                        let mapped = guest.domain.in_use().mapped;
                        assert!(mapped <= 1056 + 4, "{mapped} pages are mapped, the rings' included");
                    }
                }
                for page in &pages {
                    let mut bytes = [round; 512];
                    page.read(0, &mut bytes);
                    assert!(bytes == [9; 512], "round {round}");
                    page.write(0, &[round; 512]);
                }
            }
        });
    });
}

/// A backend of disks in memory, and guests of it that our own frontend serves.
struct Vault {
    xen: Xen,
    toolstack: Toolstack,
    back: Domain,
}

impl Vault {
    fn new(xen: &Xen, limits: Limits) -> Vault {
        Vault::of(xen, limits, |domain| RamDisk::new(domain.clone(), 2048).unwrap())
    }

    fn of<D: BlockDevice + 'static>(xen: &Xen, limits: Limits, disk: impl Fn(&Domain) -> D + 'static) -> Vault {
        let (toolstack, back) = (xen.toolstack(), xen.domain());
        let (store, domain) = (back.store(), back.clone());
        back.spawn(async move {
            let open = async |_: &Attachment| Ok(disk(&domain));
            let ended = |_: &Attachment, _: Statistics| {};
            drop(back::serve(&store, domain.clone(), limits, open, ended).await);
        })
        .detach();
        Vault { xen: xen.clone(), toolstack, back }
    }

    /// A new guest with so many disks, which are in use for as long as they are not dropped.
    async fn guest(&self, disks: u32) -> (Domain, Vec<Disk<Domain>>) {
        let guest = self.xen.domain();
        let store = guest.store();
        let mut all = Vec::new();
        for device in (0..disks).map(|index| DEVICE + index * 16) {
            let nodes = [("params", "disk"), ("mode", "w")];
            self.toolstack.attach_with("vbd", guest.id(), self.back.id(), device, &nodes).await.unwrap();
            let path = format!("device/vbd/{device}");
            let options = front::Options::default();
            let (disk, runner) = front::connect(&store, guest.clone(), &path, options);
            guest.spawn(async move { drop(runner.await) }).detach();
            disk.ready().await.unwrap();
            all.push(disk);
        }
        (guest, all)
    }
}

/// Writes and reads so many pages, and finds what was written.
async fn exercise(disk: &Disk<Domain>, pages: usize, mark: u8) {
    let mut buffer = disk.buffer(pages * 4096).unwrap();
    for round in 0..3 {
        let mark = mark.wrapping_add(round);
        (0..pages).for_each(|page| buffer.write(page * 4096, &[mark ^ page as u8; 4096]));
        buffer = {
            let (buffer, outcome) = disk.write(0, buffer).await;
            outcome.unwrap();
            buffer
        };
        (0..pages).for_each(|page| buffer.write(page * 4096, &[0; 4096]));
        buffer = {
            let (buffer, outcome) = disk.read(0, buffer).await;
            outcome.unwrap();
            buffer
        };
        for page in 0..pages {
            let mut bytes = [0; 4096];
            buffer.read(page * 4096, &mut bytes);
            assert_eq!(bytes, [mark ^ page as u8; 4096]);
        }
    }
}

#[test]
fn guests_and_their_disks_share_what_stays_mapped() {
    check("shares", 4, |xen| {
        let limits = Limits::default().with_persistent_grants(300).with_persistent_grants_total(500);
        let vault = Vault::new(xen, limits);
        xen.run(async move {
            let (one, disks) = vault.guest(2).await;
            join_all(disks.iter().map(|disk| exercise(disk, 100, 1))).await;
            let mapped = one.in_use().mapped;
            assert!((200..=200 + 2 * 2).contains(&mapped), "{mapped} of a guest, the rings included");
            // Two disks have half of the guest's share each.
            exercise(&disks[0], 160, 2).await;
            let mapped = one.in_use().mapped;
            assert!(mapped <= 300 + 2 * 2, "{mapped} of a guest, the rings included");
            // Another guest gets as much, of which the first has to give.
            let (two, others) = vault.guest(1).await;
            exercise(&others[0], 240, 3).await;
            join_all(disks.iter().chain(&others).map(|disk| exercise(disk, 120, 4))).await;
            let (first, second) = (one.in_use().mapped, two.in_use().mapped);
            assert!((240..=250 + 4).contains(&first) && (240..=250 + 2).contains(&second), "{first} and {second}");
            assert!(vault.back.mapped_pages() <= 500 + 3 * 2);
            // What one leaves is for the others again.
            drop(others);
            vault.back.sleep(Duration::from_secs(1)).await;
            assert_eq!(two.in_use().mapped, 0);
            join_all(disks.iter().map(|disk| exercise(disk, 140, 5))).await;
            let mapped = one.in_use().mapped;
            assert!((280..=304).contains(&mapped), "{mapped} of the one that is left");
        });
        xen.end();
    });
}

/// Pages that stay mapped to save time leave room for the rings of a guest that comes later, however small the address
/// space is.
#[test]
fn a_full_address_space_keeps_no_guest_out() {
    check("window", 4, |xen| {
        let vault = Vault::new(xen, Limits::default());
        xen.run(async move {
            vault.back.set_address_space(40);
            let mut guests = Vec::new();
            for number in 0..10 {
                let (guest, disks) = vault.guest(1).await;
                exercise(&disks[0], 40, number).await;
                guests.push((guest, disks));
            }
            for (number, (_, disks)) in guests.iter().enumerate() {
                exercise(&disks[0], 50, number as u8).await;
            }
            assert!(vault.back.mapped_pages() <= 40);
        });
        xen.end();
    });
}

/// Pages that stay mapped may have taken the last of the address space when a guest comes.
#[test]
fn pages_that_stay_mapped_make_way_for_rings() {
    check("last page", 4, |xen| {
        let vault = Vault::new(xen, Limits::default());
        xen.run(async move {
            let (one, disks) = vault.guest(1).await;
            exercise(&disks[0], 100, 1).await;
            let kept = one.in_use().mapped;
            assert!(kept >= 100, "{kept} pages");
            vault.back.set_address_space(vault.back.mapped_pages());
            let (_two, others) = vault.guest(1).await;
            assert!(one.in_use().mapped < kept);
            join_all(disks.iter().chain(&others).map(|disk| exercise(disk, 60, 2))).await;
        });
        xen.end();
    });
}

/// A disk whose requests take time, and that counts the bytes of those that it has.
struct Counting {
    disk: RamDisk<Domain>,
    domain: Domain,
    now: Rc<Cell<usize>>,
    most: Rc<Cell<usize>>,
}

impl Counting {
    async fn work(&self, pages: usize) {
        self.now.set(self.now.get() + pages * 4096);
        self.most.set(self.most.get().max(self.now.get()));
        self.domain.sleep(Duration::from_micros(200)).await;
        self.now.set(self.now.get() - pages * 4096);
    }
}

impl BlockDevice for Counting {
    type Buffer = PageBuffer<SimPage>;

    fn geometry(&self) -> Geometry {
        self.disk.geometry()
    }

    fn buffer(&self, len: usize) -> Result<Self::Buffer, Error> {
        self.disk.buffer(len)
    }

    async fn read(&self, sector: u64, buffer: Self::Buffer) -> Completed<Self::Buffer> {
        self.work(buffer.len().div_ceil(4096)).await;
        self.disk.read(sector, buffer).await
    }

    async fn write(&self, sector: u64, buffer: Self::Buffer) -> Completed<Self::Buffer> {
        self.work(buffer.len().div_ceil(4096)).await;
        self.disk.write(sector, buffer).await
    }

    async fn flush(&self) -> Result<(), Error> {
        Ok(())
    }

    async fn discard(&self, _: u64, _: u64, _: bool) -> Result<(), Error> {
        Ok(())
    }

    async fn changed(&self, known: &Geometry) -> Geometry {
        self.disk.changed(known).await
    }
}

/// Bytes in flight are counted as the pages that they take, and over all disks of a guest.
#[test]
fn a_guest_has_no_more_in_flight_than_its_share() {
    for (sectors, step) in [(1, 8), (8, 8), (8, 16)] {
        check("in flight", 4, |xen| {
            let (now, most) = (Rc::<Cell<usize>>::default(), Rc::<Cell<usize>>::default());
            let counters = (now.clone(), most.clone());
            let limits = Limits::default().with_in_flight(64 << 10);
            let vault = Vault::of(xen, limits, move |domain| Counting {
                disk: RamDisk::new(domain.clone(), 4096).unwrap(),
                domain: domain.clone(),
                now: counters.0.clone(),
                most: counters.1.clone(),
            });
            xen.run(async move {
                let (_guest, disks) = vault.guest(2).await;
                let users = disks.iter().flat_map(|disk| {
                    (0..64).map(move |index| async move {
                        let buffer = disk.buffer(sectors * 512).unwrap();
                        disk.read(index * step, buffer).await.1.unwrap();
                    })
                });
                join_all(users).await;
            });
            xen.end();
            assert_eq!(now.get(), 0);
            // A queue in which nothing is in flight takes one more in any case.
            let range = (60 << 10)..=(64 << 10) + 4096;
            assert!(range.contains(&most.get()), "{} bytes of requests of {sectors} sectors", most.get());
        });
    }
}

/// What is run at each access, if anything.
type Feed = Rc<RefCell<Option<Box<dyn Fn()>>>>;

/// A device whose reads are instant; meanwhile the guest's other processor asks for one more, as one that runs beside ours
/// can.
struct Feeding {
    disk: RamDisk<Domain>,
    feed: Feed,
}

impl BlockDevice for Feeding {
    type Buffer = PageBuffer<SimPage>;

    fn geometry(&self) -> Geometry {
        self.disk.geometry()
    }

    fn buffer(&self, len: usize) -> Result<Self::Buffer, Error> {
        self.disk.buffer(len)
    }

    async fn read(&self, sector: u64, buffer: Self::Buffer) -> Completed<Self::Buffer> {
        if let Some(feed) = &*self.feed.borrow() {
            feed();
        }
        self.disk.read(sector, buffer).await
    }

    async fn write(&self, sector: u64, buffer: Self::Buffer) -> Completed<Self::Buffer> {
        self.disk.write(sector, buffer).await
    }

    async fn flush(&self) -> Result<(), Error> {
        Ok(())
    }

    async fn discard(&self, _: u64, _: u64, _: bool) -> Result<(), Error> {
        Ok(())
    }

    async fn changed(&self, known: &Geometry) -> Geometry {
        self.disk.changed(known).await
    }
}

/// Counts how often a task of a domain has its turn; with [`wake`](Turns::wake) it is ready again each time.
#[derive(Clone, Default)]
struct Turns {
    count: Rc<Cell<u32>>,
    waker: Rc<RefCell<Option<Waker>>>,
}

impl Turns {
    fn of(domain: &Domain) -> Turns {
        let turns = Turns::default();
        let own = turns.clone();
        domain
            .spawn(poll_fn(move |cx| {
                own.count.set(own.count.get() + 1);
                *own.waker.borrow_mut() = Some(cx.waker().clone());
                Poll::<()>::Pending
            }))
            .detach();
        turns
    }

    fn wake(&self) {
        let waker = self.waker.borrow_mut().take();
        waker.into_iter().for_each(Waker::wake);
    }
}

/// A guest that always has one more request in its ring does not keep the domain's other tasks from running.
#[test]
fn a_busy_guest_leaves_the_others_their_turn() {
    const READS: u32 = 20_000;
    check("turn", 2, |xen| {
        let toolstack = xen.toolstack();
        let (bad, back) = (xen.domain(), xen.domain());
        let (store, domain) = (back.store(), back.clone());
        let feed = Rc::<RefCell<Option<Box<dyn Fn()>>>>::default();
        let fed = feed.clone();
        back.spawn(async move {
            let open = async |_: &Attachment| {
                Ok(Feeding { disk: RamDisk::new(domain.clone(), SECTORS).unwrap(), feed: fed.clone() })
            };
            let ended = |_: &Attachment, _: Statistics| {};
            let limits = Limits::default();
            drop(back::serve(&store, domain.clone(), limits, open, ended).await);
        })
        .detach();
        let turns = Turns::of(&back);
        let (reads, other) = (Rc::new(Cell::new(0)), turns.clone());
        let asked = reads.clone();
        let run: Script<Guest> = Box::new(move |guest: Rc<Guest>| {
            let (reads, turns, feed) = (asked.clone(), other.clone(), feed.clone());
            async move {
                let request = guest.direct(Operation::Read, 0, Segment::new(guest.reference(0), 0, 0));
                let fed = guest.clone();
                *feed.borrow_mut() = Some(Box::new(move || {
                    turns.wake();
                    if reads.get() < READS {
                        reads.set(reads.get() + 1);
                        while fed.ring.borrow_mut().pop(fed.memory()).unwrap().is_some() {}
                        fed.push(&request);
                        let _ = fed.ring.borrow_mut().publish(fed.memory());
                    }
                }));
                guest.push(&request);
                guest.send(&request);
                guest.domain.sleep(Duration::from_secs(1)).await;
                *feed.borrow_mut() = None;
            }
            .boxed_local()
        });
        let done = Rc::new(Cell::new(false));
        let (store, domain, flag) = (bad.store(), bad.clone(), done.clone());
        let dom0 = xen.dom0();
        let (bad_id, back_id) = (bad.id(), back.id());
        xen.run(async move {
            let nodes = [("params", "disk"), ("mode", "w")];
            toolstack.attach_with("vbd", bad_id, back_id, DEVICE, &nodes).await.unwrap();
            bad.spawn(async move {
                let mut driver = Scripted { domain: domain.clone(), how: How::default(), run, done: flag };
                drop(frontend(&store, &domain, &format!("device/vbd/{DEVICE}"), &mut driver).await);
            })
            .detach();
            while !done.get() {
                dom0.sleep(Duration::from_millis(1)).await;
            }
        });
        xen.end();
        assert_eq!(reads.get(), READS);
        assert!(turns.count.get() > 150, "{} turns in {READS} requests of one guest", turns.count.get());
        assert!(xen.longest_turn() < 2000, "{} accesses in one turn", xen.longest_turn());
    });
}

/// The same for a backend that answers as fast as it is asked, and for requests in many parts.
#[test]
fn a_busy_backend_leaves_the_others_their_turn() {
    check("answers", 2, |xen| {
        xen.set_interleaving(100);
        let (now, turns) = (Rc::new(Cell::new(0)), Rc::<RefCell<Option<Turns>>>::default());
        let (answers, other) = (now.clone(), turns.clone());
        let guest = xen.clone();
        let error = against_frontend_with(
            xen,
            &[("sectors", "100000"), ("feature-persistent", "0"), ("feature-max-indirect-segments", "0")],
            async move |served| {
                while answers.get() < 187 {
                    let request = served.ring.borrow_mut().pop(&served.memory).unwrap();
                    match request {
                        Some(request) => {
                            answers.set(answers.get() + 1);
                            served.answer(okay(&request));
                            other.borrow().iter().for_each(Turns::wake);
                        }
                        None => yield_now().await,
                    }
                }
            },
            async move |disk| {
                *turns.borrow_mut() = Some(Turns::of(&guest.by_id(DomId(1))));
                // 187 requests of 11 pages.
                let buffer = disk.buffer(2048 * 4096).unwrap();
                assert_eq!(disk.read(0, buffer).await.1, Ok(()));
                let turns = turns.borrow().as_ref().unwrap().count.get();
                assert!(turns > 5, "{turns} turns of another task in 187 requests");
            },
        );
        assert_eq!(error, None);
        assert!(xen.longest_turn() < 2500, "{} accesses in one turn", xen.longest_turn());
    });
}

/// A disk that takes a second makes no more wake-ups than a few, however many requests wait for it.
#[test]
fn a_slow_disk_lets_its_guest_sleep() {
    check("slow", 4, |xen| {
        let machine = xen.clone();
        against_frontend(
            xen,
            async move |served| {
                let mut requests = Vec::new();
                while requests.len() < 32 {
                    requests.push(served.request().await);
                }
                // The backend's keys are looked at once more.
                served.domain.sleep(Duration::from_secs(1)).await;
                for second in 0..3 {
                    let before = machine.steps();
                    served.domain.sleep(Duration::from_secs(1)).await;
                    let steps = machine.steps() - before;
                    assert!(steps < 30, "{steps} steps in second {second}");
                    // One answer: it is told of at once, and then the rest is waited for in the same way.
                    served.answer(okay(&requests.pop().unwrap()));
                }
                served.domain.sleep(Duration::from_secs(1)).await;
                requests.into_iter().for_each(|request| served.answer(okay(&request)));
            },
            async |disk| {
                let outcomes = join_all((0..32).map(|_| read(disk))).await;
                assert!(outcomes.into_iter().all(|outcome| outcome == Ok(())));
            },
        );
    });
}

/// Answers that come quickly still come together: a notification for each costs the backend more than the request.
#[test]
fn answers_of_a_fast_disk_come_together() {
    check("fast", 4, |xen| {
        let vault = Vault::new(xen, Limits::default());
        xen.run(async move {
            let (_guest, disks) = vault.guest(1).await;
            let users = (0..16).map(|user| {
                let disk = disks[0].clone();
                async move {
                    for turn in 0..50 {
                        disk.read(user * 100 + turn, disk.buffer(512).unwrap()).await.1.unwrap();
                    }
                }
            });
            join_all(users).await;
            let statistics = disks[0].statistics();
            assert!(statistics.events * 4 <= statistics.requests, "{statistics:?}");
        });
        xen.end();
    });
}

/// Requests that are given up while the ring is full leave nothing behind.
#[test]
fn requests_that_are_given_up_take_no_memory() {
    check("given up", 4, |xen| {
        let machine = xen.clone();
        against_frontend(
            xen,
            async |served| {
                let mut requests = Vec::new();
                while requests.len() < 32 {
                    requests.push(served.request().await);
                }
                served.domain.sleep(Duration::from_secs(1)).await;
                requests.into_iter().for_each(|request| served.answer(okay(&request)));
                loop {
                    let request = served.request().await;
                    served.answer(okay(&request));
                }
            },
            async move |disk| {
                let waiting = join_all((0..32).map(|_| read(disk)));
                let others = async {
                    let give_up = async || {
                        let _ = select(pin!(read(disk)), pin!(yield_now())).await;
                    };
                    // The simulation's timers take memory, too.
                    for _ in 0..2000 {
                        give_up().await;
                    }
                    let before = machine.allocation();
                    for _ in 0..20_000 {
                        give_up().await;
                    }
                    let more = machine.allocation().saturating_sub(before);
                    assert!(more < 32 << 10, "{more} bytes more after 20,000 requests that were given up");
                    read(disk).await
                };
                let (outcomes, other) = futures_util::future::join(waiting, others).await;
                assert!(outcomes.into_iter().all(|outcome| outcome == Ok(())));
                assert_eq!(other, Ok(()));
            },
        );
    });
}

/// A backend that changes its size all the time is listened to now and then, and named in a few lines.
#[test]
fn a_disk_that_changes_all_the_time() {
    check("flapping", 2, |xen| {
        keep_log();
        let last = 20_000_u64;
        against_frontend(
            xen,
            async move |served| {
                let request = served.request().await;
                served.answer(okay(&request));
                for size in 1..=last {
                    served.store.set(&format!("{}/sectors", served.path), &(1000 + size)).await.unwrap();
                    served.store.set(&format!("{}/state", served.path), &State::Connected).await.unwrap();
                    served.domain.sleep(Duration::from_millis(1)).await;
                }
                loop {
                    let request = served.request().await;
                    served.answer(okay(&request));
                }
            },
            async move |disk| {
                let (mut known, mut changes) = (disk.ready().await.unwrap(), 0);
                assert_eq!(read(disk).await, Ok(()));
                while known.sectors != 1000 + last {
                    known = disk.changed(&known).await;
                    changes += 1;
                }
                assert!((5..120).contains(&changes), "{changes} changes were looked at");
                assert_eq!(read(disk).await, Ok(()));
            },
        );
        let told = take_log().iter().filter(|line| line.contains("sectors, before")).count();
        assert!((1..=12).contains(&told), "{told} lines");
    });
}

/// A request of which not all pages could be granted leaves no page of it to the backend.
#[test]
fn grants_of_a_request_that_was_not_made_end() {
    check("half granted", 20, |xen| {
        let vault = Vault::new(xen, Limits::default());
        let machine = xen.clone();
        xen.run(async move {
            let guest = machine.domain();
            let store = guest.store();
            let nodes = [("params", "disk"), ("mode", "w")];
            vault.toolstack.attach_with("vbd", guest.id(), vault.back.id(), DEVICE, &nodes).await.unwrap();
            let path = format!("device/vbd/{DEVICE}");
            let options = front::Options::default().with_persistent(false);
            let (disk, runner) = front::connect(&store, guest.clone(), &path, options);
            guest.spawn(async move { drop(runner.await) }).detach();
            disk.ready().await.unwrap();
            let rings = guest.in_use().grants;
            machine.set_faults(Faults { grants: 20, ..Faults::default() });
            let mut buffer = disk.buffer(20 * 4096).unwrap();
            let mut failed = 0;
            for turn in 0..20 {
                let (back, outcome) = match turn % 2 {
                    0 => disk.write(0, buffer).await,
                    _ => disk.read(0, buffer).await,
                };
                buffer = back;
                failed += u32::from(outcome == Err(Error::OutOfMemory));
                assert_eq!(guest.in_use().grants, rings, "pages of the buffer are still granted after {outcome:?}");
            }
            assert!(failed > 0);
            machine.set_faults(Faults::default());
            assert_eq!(disk.write(0, buffer).await.1, Ok(()));
        });
        xen.end();
    });
}

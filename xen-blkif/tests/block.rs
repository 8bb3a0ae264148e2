//! blkfront and blkback against each other, and the data always as a model has it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::join_all;
use xen_blkif::back::{self, Attachment, Limits, Statistics};
use xen_blkif::front::{self, Disk};
use xen_blkif::ramdisk::{PageBuffer, RamDisk};
use xen_blkif::{BlockDevice, Buffer, Completed, Error, Geometry};
use xen_hal::{Clock, Errno};
use xen_sim::{Domain, Faults, SimPage, Toolstack, Xen, check};
use xenbus::{EndReason, Failure};
use xenstore_client::{Restart, Store};

const SECTOR: usize = 512;

/// A disk that takes its time, and fails where it is told to.
#[derive(Clone)]
struct Slow {
    domain: Domain,
    disk: RamDisk<Domain>,
    random: Rc<Cell<u64>>,
    /// Reads and writes of this sector fail.
    bad: Option<u64>,
    geometry: Rc<RefCell<(Geometry, Vec<std::task::Waker>)>>,
}

impl Slow {
    fn new(domain: &Domain, seed: u64, disk: RamDisk<Domain>) -> Slow {
        let geometry = Rc::new(RefCell::new((disk.geometry(), Vec::new())));
        Slow { domain: domain.clone(), disk, random: Rc::new(Cell::new(seed | 1)), bad: None, geometry }
    }

    async fn pause(&self) {
        let mut random = self.random.get();
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        self.random.set(random);
        if !random.is_multiple_of(3) {
            self.domain.sleep(Duration::from_micros(random % 300)).await;
        }
    }

    fn fails(&self, sector: u64, len: usize) -> Result<(), Error> {
        match self.bad {
            Some(bad) if (sector..sector + (len / SECTOR) as u64).contains(&bad) => {
                Err(Error::Failed { operation: "work", sector: bad })
            }
            _ => Ok(()),
        }
    }

    fn resize(&self, sectors: u64) {
        let mut state = self.geometry.borrow_mut();
        state.0.sectors = sectors;
        state.1.drain(..).for_each(std::task::Waker::wake);
    }
}

impl BlockDevice for Slow {
    type Buffer = PageBuffer<SimPage>;

    fn geometry(&self) -> Geometry {
        self.geometry.borrow().0
    }

    fn buffer(&self, len: usize) -> Result<Self::Buffer, Error> {
        self.disk.buffer(len)
    }

    async fn read(&self, sector: u64, buffer: Self::Buffer) -> Completed<Self::Buffer> {
        self.pause().await;
        match self.fails(sector, buffer.len()) {
            Ok(()) => self.disk.read(sector, buffer).await,
            Err(error) => (buffer, Err(error)),
        }
    }

    async fn write(&self, sector: u64, buffer: Self::Buffer) -> Completed<Self::Buffer> {
        self.pause().await;
        match self.fails(sector, buffer.len()) {
            Ok(()) => self.disk.write(sector, buffer).await,
            Err(error) => (buffer, Err(error)),
        }
    }

    async fn flush(&self) -> Result<(), Error> {
        self.pause().await;
        self.disk.flush().await
    }

    async fn discard(&self, sector: u64, count: u64, secure: bool) -> Result<(), Error> {
        self.pause().await;
        self.disk.discard(sector, count, secure).await
    }

    async fn changed(&self, known: &Geometry) -> Geometry {
        std::future::poll_fn(|cx| {
            let mut state = self.geometry.borrow_mut();
            if state.0 != *known {
                return std::task::Poll::Ready(state.0);
            }
            state.1.push(cx.waker().clone());
            std::task::Poll::Pending
        })
        .await
    }
}

/// A guest with disks, and a domain that serves them.
struct Bench {
    front: Domain,
    back: Domain,
    dom0: Domain,
    toolstack: Toolstack,
    served: Rc<RefCell<Vec<Statistics>>>,
    store: Store,
}

const DEVICE: u32 = 51712;

fn bench(xen: &Xen, disk: impl Fn(&Domain) -> Slow) -> Bench {
    let toolstack = xen.toolstack();
    let (front, back) = (xen.domain(), xen.domain());
    let served = Rc::<RefCell<Vec<Statistics>>>::default();
    start_backend(&back, disk(&back), served.clone());
    let dom0 = xen.dom0();
    let store = front.store();
    Bench { front, back, dom0, toolstack, served, store }
}

fn start_backend(back: &Domain, disk: Slow, served: Rc<RefCell<Vec<Statistics>>>) {
    let (store, domain) = (back.store(), back.clone());
    back.spawn(async move {
        let open = async |attachment: &Attachment| match attachment.params.as_str() {
            "disk" => Ok(disk.clone()),
            other => Err(Failure::new(Errno::ENOENT, format!("params = {other}: there is no such disk"))),
        };
        let ended = |_: &Attachment, statistics| served.borrow_mut().push(statistics);
        let limits = Limits::default().with_in_flight(64 << 10);
        drop(back::serve(&store, domain, limits, open, ended).await);
    })
    .detach();
}

impl Bench {
    async fn attach(&self) {
        let nodes = [("params", "disk"), ("mode", "w")];
        self.toolstack.attach_with("vbd", self.front.id(), self.back.id(), DEVICE, &nodes).await.unwrap();
    }

    /// Begins to drive the frontend; the future tells how it ended.
    fn connect(&self, options: front::Options) -> (Disk<Domain>, impl Future<Output = EndReason> + use<>) {
        let domain = self.front.clone();
        let path = format!("device/vbd/{DEVICE}");
        let (disk, runner) = front::connect(&self.store, domain.clone(), &path, options);
        let task = domain.spawn(runner);
        (disk, async move { task.await.expect("the store works") })
    }

    async fn detach(&self) -> bool {
        self.toolstack.detach("vbd", self.front.id(), self.back.id(), DEVICE).await.unwrap()
    }
}

/// A disk's contents as they should be.
#[derive(Clone)]
struct Model(Rc<RefCell<Vec<u8>>>);

/// One user of a part of the disk: reads, writes and discards there, and compares what it finds.
async fn user(disk: Disk<Domain>, model: Model, mut random: u64, first: u64, sectors: u64, turns: u32) {
    let mut next = |limit: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % limit
    };
    for turn in 0..turns {
        let at = next(sectors);
        let count = 1 + next((sectors - at).min([4, 40, 200][turn as usize % 3]));
        let (sector, len) = (first + at, count as usize * SECTOR);
        let range = sector as usize * SECTOR..sector as usize * SECTOR + len;
        match next(10) {
            0 => disk.flush().await.unwrap(),
            1 => {
                disk.discard(sector, count, false).await.unwrap();
                model.0.borrow_mut()[range].fill(0);
            }
            2..=5 => {
                let bytes: Vec<u8> = (0..len).map(|_| next(256) as u8).collect();
                disk.write_bytes(sector, &bytes).await.unwrap();
                model.0.borrow_mut()[range].copy_from_slice(&bytes);
            }
            6 => {
                // A request that is given up: what it reads is of no use, and it harms nobody.
                let mut bytes = vec![0; len];
                let _ = futures_util::future::select(
                    std::pin::pin!(disk.read_bytes(sector, &mut bytes)),
                    std::future::ready(()),
                )
                .await;
            }
            _ => {
                let (buffer, outcome) = disk.read(sector, disk.buffer(len).unwrap()).await;
                outcome.unwrap();
                let mut bytes = vec![0; len];
                buffer.read(0, &mut bytes);
                assert!(bytes == model.0.borrow()[range], "{count} sectors at {sector} are not what was written");
            }
        }
    }
}

fn options(seed: u64) -> front::Options {
    front::Options::default()
        .with_persistent(seed.is_multiple_of(2))
        .with_max_segments([256, 11, 20][seed as usize % 3])
        .with_max_ring_order((seed / 6 % 6) as u8)
}

#[test]
fn what_was_written_is_read() {
    check("random operations", 150, |xen| {
        let faults =
            Faults { spurious_events: 10, eagain: 10, store_delay: Duration::from_micros(50), ..Faults::default() };
        xen.set_faults(faults);
        let seed = xen.seed();
        let bench = bench(xen, |domain| Slow::new(domain, seed + 1, RamDisk::new(domain.clone(), 1000).unwrap()));
        let before = (bench.front.in_use(), bench.back.in_use());
        xen.run(async move {
            bench.attach().await;
            let (disk, ended) = bench.connect(options(seed));
            let geometry = disk.ready().await.unwrap();
            assert_eq!((geometry.sectors, geometry.read_only, geometry.flush), (1000, false, true));
            let model = Model(Rc::new(RefCell::new(vec![0; 1000 * SECTOR])));
            let users =
                (0..8).map(|index| user(disk.clone(), model.clone(), seed * 8 + index + 1, index * 125, 125, 15));
            join_all(users).await;
            let statistics = disk.statistics();
            assert_eq!((statistics.failures, statistics.connections), (0, 1));
            assert!(bench.detach().await, "closed in time");
            assert_eq!(ended.await, EndReason::Removed);
            assert_eq!(disk.flush().await, Err(Error::Gone));
            drop(disk);
            bench.dom0.sleep(Duration::from_secs(1)).await;
            let served = bench.served.take();
            assert_eq!((served.len(), served[0].failures), (1, 0));
            assert!(served[0].reads > 0 && served[0].writes > 0 && served[0].flushes > 0);
            // The drivers' own watches and stores go with them.
            assert_eq!(bench.front.in_use().grants, before.0.grants);
            assert!(bench.front.in_use().ports <= before.0.ports, "the store's port alone");
            assert_eq!(bench.back.in_use().grants, before.1.grants);
        });
        assert_eq!(xen.in_use().1, 0, "grants whose end was put off");
    });
}

/// More buffers than pages that a backend keeps mapped: the rest is copied, and nothing but what is kept stays granted.
#[test]
fn more_pages_than_stay_granted() {
    const PAGES: usize = 128;
    check("many pages", 4, |xen| {
        let bench =
            bench(xen, |domain| Slow::new(domain, 1, RamDisk::new(domain.clone(), 6 * PAGES as u64 * 8).unwrap()));
        xen.run(async move {
            bench.attach().await;
            let (disk, ended) = bench.connect(front::Options::default());
            disk.ready().await.unwrap();
            let users = (0..6_u8).map(|user| {
                let disk = disk.clone();
                async move {
                    let sector = u64::from(user) * PAGES as u64 * 8;
                    let (mut written, mut read) =
                        (disk.buffer(PAGES * 4096).unwrap(), disk.buffer(PAGES * 4096).unwrap());
                    for turn in 0..4 {
                        let mark = user * 16 + turn;
                        for page in 0..PAGES {
                            written.write(page * 4096, &[mark ^ page as u8; 4096]);
                        }
                        let (back, outcome) = disk.write(sector, written).await;
                        outcome.unwrap();
                        written = back;
                        let (back, outcome) = disk.read(sector, read).await;
                        outcome.unwrap();
                        read = back;
                        for page in 0..PAGES {
                            let mut bytes = [0; 4096];
                            read.read(page * 4096, &mut bytes);
                            assert_eq!(bytes, [mark ^ page as u8; 4096]);
                        }
                    }
                }
            });
            join_all(users).await;
            assert!(disk.statistics().bounced > 0);
            let grants = bench.front.in_use().grants;
            assert!((512..=1056 + 2).contains(&grants), "{grants} pages stay granted, the ring's included");
            assert!(bench.detach().await, "closed in time");
            assert_eq!(ended.await, EndReason::Removed);
            assert_eq!(bench.front.in_use().grants, 0);
        });
        xen.end();
    });
}

#[test]
fn the_last_handle_closes_the_disk() {
    check("dropped", 50, |xen| {
        let seed = xen.seed();
        let bench = bench(xen, |domain| Slow::new(domain, seed, RamDisk::new(domain.clone(), 8).unwrap()));
        xen.run(async move {
            bench.attach().await;
            let (disk, ended) = bench.connect(options(seed));
            disk.write_bytes(0, &[7; SECTOR]).await.unwrap();
            drop(disk);
            assert_eq!(ended.await, EndReason::Stopped);
            // Another driver of the same guest finds it as it was.
            let (disk, ended) = bench.connect(options(seed));
            let mut bytes = [0; SECTOR];
            disk.read_bytes(0, &mut bytes).await.unwrap();
            assert_eq!(bytes, [7; SECTOR]);
            assert!(bench.detach().await);
            assert_eq!(ended.await, EndReason::Removed);
        });
    });
}

#[test]
fn a_bad_sector_fails_its_own_requests_alone() {
    check("bad sector", 50, |xen| {
        let seed = xen.seed();
        let bench = bench(xen, |domain| Slow {
            bad: Some(50),
            ..Slow::new(domain, seed, RamDisk::new(domain.clone(), 100).unwrap())
        });
        xen.run(async move {
            bench.attach().await;
            let (disk, _ended) = bench.connect(options(seed));
            let outcomes = join_all((0..100).map(|sector| {
                let disk = disk.clone();
                async move { disk.write_bytes(sector, &[sector as u8; SECTOR]).await }
            }))
            .await;
            for (sector, outcome) in outcomes.into_iter().enumerate() {
                let expected = match sector {
                    50 => Err(Error::Failed { operation: "write", sector: 50 }),
                    _ => Ok(()),
                };
                assert_eq!(outcome, expected, "sector {sector}");
            }
        });
        xen.end();
    });
}

#[test]
fn a_disk_grows_while_it_is_used() {
    check("resize", 50, |xen| {
        let seed = xen.seed();
        let disk_of = Rc::new(RefCell::new(None));
        let kept = disk_of.clone();
        let bench = bench(xen, move |domain| {
            let slow = Slow::new(domain, seed, RamDisk::new(domain.clone(), 200).unwrap());
            slow.resize(100);
            *kept.borrow_mut() = Some(slow.clone());
            slow
        });
        xen.run(async move {
            bench.attach().await;
            let (disk, _ended) = bench.connect(options(seed));
            let known = disk.ready().await.unwrap();
            let beyond = Error::OutOfRange { sector: 150, count: 1, sectors: 100 };
            assert_eq!(disk.write_bytes(150, &[1; SECTOR]).await, Err(beyond));
            disk_of.borrow().as_ref().unwrap().resize(200);
            assert_eq!(disk.changed(&known).await.sectors, 200);
            disk.write_bytes(150, &[1; SECTOR]).await.unwrap();
        });
    });
}

#[test]
fn awkward_disks() {
    for (sectors, size) in [(0, 512), (1, 512), (7, 512), (8, 4096), (1001, 512), (16, 4096)] {
        check("awkward", 10, |xen| {
            let seed = xen.seed();
            let bench = bench(xen, |domain| {
                let disk = RamDisk::new(domain.clone(), sectors).unwrap().with_sector_size(size);
                Slow::new(domain, seed, disk)
            });
            xen.run(async move {
                bench.attach().await;
                let (disk, _ended) = bench.connect(options(seed));
                let geometry = disk.ready().await.unwrap();
                assert_eq!((geometry.sectors, geometry.sector_size), (sectors, size));
                let len = sectors as usize * SECTOR;
                let bytes: Vec<u8> = (0..len).map(|at| (at / 3) as u8).collect();
                disk.write_bytes(0, &bytes).await.unwrap();
                let mut found = vec![0; len];
                disk.read_bytes(0, &mut found).await.unwrap();
                assert!(found == bytes);
                let mut one = vec![0; size as usize];
                assert!(matches!(disk.read_bytes(sectors, &mut one).await, Err(Error::OutOfRange { .. })));
                if size > 512 {
                    assert!(matches!(disk.read_bytes(0, &mut one[..512]).await, Err(Error::Unaligned { .. })));
                }
            });
        });
    }
}

/// The backend's domain dies under load; another takes the device over with the same disk. Whoever waits gets the data
/// or an error, and never a wrong byte.
#[test]
fn a_backend_domain_that_dies_under_load() {
    check("death", 150, |xen| {
        let seed = xen.seed();
        let bench = bench(xen, |domain| {
            let disk = RamDisk::new(domain.clone(), 400).unwrap();
            Slow::new(domain, seed, disk)
        });
        let back = bench.back.clone();
        let pause = Duration::from_micros(xen.random(3000));
        let front = bench.front.clone();
        xen.run(async move {
            bench.attach().await;
            let (disk, ended) = bench.connect(options(seed));
            disk.write_bytes(0, &vec![9; 400 * SECTOR]).await.unwrap();
            let readers = join_all((0..6).map(|index| {
                let disk = disk.clone();
                async move {
                    loop {
                        let mut bytes = vec![0; 60 * SECTOR];
                        match disk.read_bytes(index * 50, &mut bytes).await {
                            Ok(()) => assert!(bytes.iter().all(|byte| *byte == 9)),
                            Err(error) => break assert_eq!(error, Error::Gone),
                        }
                    }
                }
            }));
            let (toolstack, dom0) = (bench.toolstack.clone(), bench.dom0.clone());
            let killer = async move {
                dom0.sleep(pause).await;
                back.destroy();
                let (at_front, at_back) = Toolstack::paths("vbd", front.id(), back.id(), DEVICE);
                toolstack.store().remove(&at_back).await.unwrap();
                toolstack.store().remove(&at_front).await.unwrap();
            };
            futures_util::future::join(readers, killer).await;
            assert_eq!(ended.await, EndReason::Removed);
        });
        xen.settle();
    });
}

/// The guest is saved and restored while its disk is in use, and again while it still connects: the rings are new, and
/// nothing is lost.
#[test]
fn a_restored_guest_goes_on_with_its_disk() {
    check("restore", 300, |xen| {
        let seed = xen.seed();
        let bench = bench(xen, |domain| Slow::new(domain, seed, RamDisk::new(domain.clone(), 1000).unwrap()));
        let pauses = [xen.random(5000), xen.random(1000), xen.random(1000)].map(Duration::from_micros);
        xen.run(async move {
            bench.attach().await;
            let (disk, ended) = bench.connect(options(seed));
            disk.ready().await.unwrap();
            let model = Model(Rc::new(RefCell::new(vec![0; 1000 * SECTOR])));
            let users =
                (0..8).map(|index| user(disk.clone(), model.clone(), seed * 8 + index + 1, index * 125, 125, 15));
            let restores = async {
                for pause in pauses {
                    bench.dom0.sleep(pause).await;
                    let quiet = bench.store.quiesce().await.unwrap();
                    let (at_front, at_back) = Toolstack::paths("vbd", bench.front.id(), bench.back.id(), DEVICE);
                    bench.toolstack.store().remove(&at_back).await.unwrap();
                    bench.toolstack.store().remove(&at_front).await.unwrap();
                    bench.attach().await;
                    bench.front.suspend_and_restore();
                    quiet.resume(Restart::New);
                }
            };
            futures_util::future::join(join_all(users), restores).await;
            assert_eq!(disk.statistics().failures, 0);
            let mut bytes = vec![0; 1000 * SECTOR];
            disk.read_bytes(0, &mut bytes).await.unwrap();
            assert!(bytes == *model.0.borrow());
            assert!((2..=4).contains(&disk.statistics().connections));
            assert!(bench.detach().await, "closed in time");
            assert_eq!(ended.await, EndReason::Removed);
        });
    });
}

/// A response that is in the ring when the guest is saved may be in the image without its data: what is read is what the disk
/// has when the guest goes on, if the guest has not taken the response before.
#[test]
fn a_restored_guest_takes_no_response_of_before() {
    check("stale responses", 100, |xen| {
        let device = Rc::new(RefCell::new(None));
        let bench = bench(xen, |domain| {
            let disk = RamDisk::new(domain.clone(), 64).unwrap();
            device.replace(Some(disk.clone()));
            let slow = Slow::new(domain, 1, disk);
            // Without pauses.
            slow.random.set(0);
            slow
        });
        let device = device.take().unwrap();
        let turns = xen.random(60);
        xen.run(async move {
            bench.attach().await;
            let (disk, ended) = bench.connect(front::Options::default());
            disk.ready().await.unwrap();
            disk.write_bytes(0, &[1; SECTOR]).await.unwrap();
            let is_read = Cell::new(false);
            let read = async {
                let mut bytes = [0; SECTOR];
                disk.read_bytes(0, &mut bytes).await.unwrap();
                is_read.set(true);
                bytes[0]
            };
            let restore = async {
                let quiet = bench.store.quiesce().await.unwrap();
                let (at_front, at_back) = Toolstack::paths("vbd", bench.front.id(), bench.back.id(), DEVICE);
                for _ in 0..turns {
                    xenbus::yield_now().await;
                }
                bench.front.suspend_and_restore();
                let was_read = is_read.get();
                device.write_bytes(0, &[2; SECTOR]).await.unwrap();
                bench.toolstack.store().remove(&at_back).await.unwrap();
                bench.toolstack.store().remove(&at_front).await.unwrap();
                bench.attach().await;
                quiet.resume(Restart::New);
                was_read
            };
            // The read is polled just before: it has what the driver has for it.
            let (found, was_read) = futures_util::future::join(read, restore).await;
            assert_eq!(found, if was_read { 1 } else { 2 });
            assert!(bench.detach().await, "closed in time");
            assert_eq!(ended.await, EndReason::Removed);
        });
    });
}

/// A disk that closes leaves hundreds of pages mapped until its backend unmaps them, as it may: the other disks of that
/// backend go on meanwhile.
#[test]
fn a_disk_that_closes_disturbs_no_other_one() {
    const OTHER: u32 = 51728;
    check("two disks", 3, |xen| {
        let bench = bench(xen, |domain| Slow::new(domain, 1, RamDisk::new(domain.clone(), 16_384).unwrap()));
        xen.set_faults(Faults { store_delay: Duration::from_micros(200), ..Faults::default() });
        let machine = xen.clone();
        xen.run(async move {
            bench.attach().await;
            let nodes = [("params", "disk"), ("mode", "w")];
            bench.toolstack.attach_with("vbd", bench.front.id(), bench.back.id(), OTHER, &nodes).await.unwrap();
            let (first, first_ended) = bench.connect(front::Options::default());
            let options = front::Options::default().with_persistent(false);
            let path = format!("device/vbd/{OTHER}");
            let (second, runner) = front::connect(&bench.store, bench.front.clone(), &path, options);
            let second_ended = bench.front.spawn(runner);
            second.ready().await.unwrap();
            // 512 pages stay granted and mapped.
            first.write(0, first.buffer(512 * 4096).unwrap()).await.1.unwrap();
            let stop = Rc::new(Cell::new(false));
            let (user, stopped) = (second.clone(), stop.clone());
            let task = bench.front.spawn(async move {
                let mut most = 0;
                while !stopped.get() {
                    user.read_bytes(0, &mut [0; 8 * 4096]).await.unwrap();
                    most = most.max(machine.in_use().1);
                }
                most
            });
            bench.dom0.sleep(Duration::from_millis(5)).await;
            drop(first);
            first_ended.await;
            bench.dom0.sleep(Duration::from_millis(20)).await;
            stop.set(true);
            let most = task.await;
            assert!(most >= 512, "{most} pages were mapped after their grants had ended");
            drop(second);
            second_ended.await.unwrap();
        });
    });
}

//! Guests that share a device: by turns, and each as fast as it may.

use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::{Either, join_all, select};
use xen_blkif::fair::Fair;
use xen_blkif::faulty::{DeviceRequest, Faulty};
use xen_blkif::ramdisk::RamDisk;
use xen_blkif::rate::{Rate, Rated};
use xen_blkif::{BlockDevice, Error};
use xen_hal::Clock;
use xen_sim::{Domain, Xen, check};

const SECTOR: usize = 512;
const SECTORS: u64 = 8192;

/// A disk that does one request after the other, each in the time that its bytes take at 100 MB a second.
fn slow(domain: &Domain) -> impl BlockDevice<Buffer = <RamDisk<Domain> as BlockDevice>::Buffer> + Clone + use<> {
    let free = Rc::new(Cell::new(Duration::ZERO));
    let clock = domain.clone();
    let judge = Rc::new(async move |ask| {
        let count = match ask {
            DeviceRequest::Read(_, count) | DeviceRequest::Write(_, count) => count,
            _ => 0,
        };
        let done = free.get().max(clock.now()) + Duration::from_nanos(10 * count * SECTOR as u64);
        free.set(done);
        clock.sleep_until(done).await;
        Ok::<(), Error>(())
    });
    Rc::new(Faulty::new(RamDisk::new(domain.clone(), SECTORS).unwrap(), move |ask| {
        let judge = judge.clone();
        async move { judge(ask).await }
    }))
}

/// Reads of `sectors` sectors, `depth` at a time, for a second; how many bytes that were.
async fn load(domain: &Domain, disk: &impl BlockDevice, sectors: u64, depth: usize) -> u64 {
    let end = domain.now() + Duration::from_secs(1);
    let read = Cell::new(0);
    let one = async || {
        while domain.now() < end {
            let mut bytes = vec![0; sectors as usize * SECTOR];
            disk.read_bytes(0, &mut bytes).await.unwrap();
            read.set(read.get() + bytes.len() as u64);
        }
    };
    join_all((0..depth).map(|_| one())).await;
    read.get()
}

#[test]
fn sixteen_guests_get_the_same_however_they_ask() {
    check("fair", 2, |xen| {
        let domain = xen.domain();
        xen.run(async move {
            let (disk, fair) = (slow(&domain), Fair::new(1 << 20));
            let shares: Vec<_> = (0..16).map(|_| fair.share(disk.clone())).collect();
            // Some ask for 256 KiB at a time, others for 64 KiB.
            let loads = shares.iter().enumerate().map(|(index, share)| {
                let (sectors, depth) = if index % 2 == 0 { (512, 4) } else { (128, 4) };
                load(&domain, share, sectors, depth)
            });
            let read = join_all(loads).await;
            let total: u64 = read.iter().sum();
            assert!(total > 90_000_000, "the device is never without work: {total}");
            // A request that began before the end counts as a whole.
            let mean = total / 16;
            for (index, own) in read.iter().enumerate() {
                assert!(own.abs_diff(mean) < mean / 5 + (1 << 20), "{index}: {own} of {total}: {read:?}");
            }
            let least = *read.iter().min().unwrap();
            assert!(least > mean / 2, "{read:?}");
        });
    });
}

#[test]
fn a_small_request_does_not_wait_for_all_of_another_guest() {
    check("latency", 1, |xen| {
        let domain = xen.domain();
        xen.run(async move {
            let (disk, fair) = (slow(&domain), Fair::new(256 << 10));
            let (greedy, other) = (fair.share(disk.clone()), fair.share(disk));
            let greedy = load(&domain, &greedy, 256, 64);
            let measured = async {
                domain.sleep(Duration::from_millis(100)).await;
                let start = domain.now();
                other.write_bytes(0, &[1; SECTOR]).await.unwrap();
                domain.now() - start
            };
            // All 64 would take 80 ms.
            let (_, took) = futures_util::future::join(greedy, measured).await;
            assert!(took < Duration::from_millis(8), "{took:?}");
        });
    });
}

/// Whoever gives up leaves its room to others, whether it was let in or not.
#[test]
fn requests_that_are_dropped_leave_nothing() {
    check("dropped", 20, |xen| {
        let domain = xen.domain();
        let seed = xen.seed();
        xen.run(async move {
            let (disk, fair) = (slow(&domain), Fair::new(64 << 10));
            let shares: Vec<_> = (0..4).map(|_| fair.share(disk.clone())).collect();
            let done = RefCell::new(0);
            let tries = (0..200_u64).map(|index| {
                let (domain, share, done) = (&domain, &shares[index as usize % 4], &done);
                async move {
                    domain.sleep(Duration::from_micros(index * 37 % 4000)).await;
                    let mut bytes = vec![0; 32 << 10];
                    let patience = Duration::from_micros((index * 7919 + seed * 131) % 9000);
                    match select(pin!(share.read_bytes(0, &mut bytes)), pin!(domain.sleep(patience))).await {
                        Either::Left((outcome, _)) => {
                            outcome.unwrap();
                            *done.borrow_mut() += 1;
                        }
                        Either::Right(_) => {}
                    }
                }
            });
            join_all(tries).await;
            assert!((1..200).contains(&*done.borrow()), "{}", done.borrow());
            // Nothing is left: the whole window is there at once.
            let mut bytes = vec![0; 60 << 10];
            let start = domain.now();
            domain.sleep(Duration::from_millis(100)).await;
            shares[0].read_bytes(0, &mut bytes).await.unwrap();
            assert!(domain.now() - start < Duration::from_millis(102));
            // A user that goes while others wait.
            let mut shares = shares;
            drop(shares.remove(1));
            let rest = shares.iter().map(|share| async { share.flush().await.unwrap() });
            join_all(rest).await;
        });
    });
}

#[test]
fn a_rate_is_kept_over_all_disks_of_a_guest() {
    let xen = Xen::new(1);
    let domain = xen.domain();
    xen.run(async move {
        let rate = Rate::default();
        let disk = |sectors| Rated::new(RamDisk::new(domain.clone(), sectors).unwrap(), domain.clone(), rate.clone());
        let (one, other) = (disk(SECTORS), disk(SECTORS));
        let run = async || {
            let (one, other) = futures_util::future::join(load(&domain, &one, 8, 4), load(&domain, &other, 8, 4)).await;
            one + other
        };
        rate.set(Some(4 << 20), None);
        let bytes = run().await;
        assert!((4_194_304..5_000_000).contains(&bytes), "{bytes}");
        rate.set(None, Some(100));
        let requests = run().await / 4096;
        assert!((100..=120).contains(&requests), "{requests}");
        rate.set(None, None);
        let start = domain.now();
        for _ in 0..1000 {
            one.flush().await.unwrap();
        }
        assert!(domain.now() - start < Duration::from_millis(10), "no limit any more");
    });
}

/// A limit of a byte a second may be a slip, and is to be corrected without an end of the guest.
#[test]
fn another_rate_holds_for_what_waits() {
    let xen = Xen::new(1);
    let domain = xen.domain();
    xen.run(async move {
        let rate = Rate::default();
        let disk = Rated::new(RamDisk::new(domain.clone(), SECTORS).unwrap(), domain.clone(), rate.clone());
        rate.set(Some(1), None);
        let start = domain.now();
        let loads = join_all((0..8).map(async |_| disk.read_bytes(0, &mut [0; SECTOR]).await.unwrap()));
        let correct = async {
            domain.sleep(Duration::from_secs(1)).await;
            rate.set(Some(1 << 20), None);
        };
        futures_util::future::join(loads, correct).await;
        assert!((domain.now() - start).as_secs() < 2);
    });
}

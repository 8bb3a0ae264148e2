//! Disks whose power is cut, and programs that do or do not take that into account.

use std::collections::BTreeSet;

use futures_util::future::join;
use xen_blkif::powerloss::{Disk, Power};
use xen_blkif::{BlockDevice, Error};
use xen_sim::{Domain, check};

const SECTOR: usize = 512;

async fn first_bytes(power: &Power<Domain>, sectors: &[u64]) -> Vec<u8> {
    let mut all = Vec::new();
    for sector in sectors {
        let mut bytes = [0; SECTOR];
        power.disks()[0].read_bytes(*sector, &mut bytes).await.unwrap();
        assert!(bytes.iter().all(|byte| *byte == bytes[0]), "sectors are not torn");
        all.push(bytes[0]);
    }
    all
}

#[test]
fn a_cut_leaves_each_state_that_can_be_and_no_other() {
    check("states", 20, |xen| {
        let domain = xen.domain();
        xen.run(async move {
            let power = Power::new(domain);
            let disk = power.disk(64);
            disk.write_bytes(0, &[1; 2 * SECTOR]).await.unwrap();
            disk.flush().await.unwrap();
            disk.write_bytes(0, &[2; SECTOR]).await.unwrap();
            disk.write_bytes(0, &[3; 2 * SECTOR]).await.unwrap();
            disk.discard(1, 1, false).await.unwrap();
            let expected: BTreeSet<_> =
                [1, 2, 3].into_iter().flat_map(|one| [1, 3, 0].map(|other| vec![one, other])).collect();
            let mut all = BTreeSet::new();
            for after in power.all_cuts(power.now(), 100).unwrap() {
                all.insert(first_bytes(&after, &[0, 1]).await);
            }
            assert_eq!(all, expected);
            let mut seen = BTreeSet::new();
            for seed in 0..500 {
                seen.insert(first_bytes(&power.cut(power.now(), seed), &[0, 1]).await);
            }
            assert_eq!(seen, expected);
            assert!(power.all_cuts(power.now(), 8).is_none(), "there are nine");
            // Afterwards what is there stays.
            let after = power.cut(power.now(), 7);
            let there = first_bytes(&after, &[0, 1]).await;
            assert_eq!(first_bytes(&after.cut(after.now(), 8), &[0, 1]).await, there);
            assert_eq!(first_bytes(&power.cut(0, 1), &[0, 1]).await, [0, 0]);
        });
    });
}

#[test]
fn a_flush_covers_what_was_answered_before_it_began() {
    check("barrier", 50, |xen| {
        let domain = xen.domain();
        xen.run(async move {
            let power = Power::new(domain);
            let disk = power.disk(64);
            disk.write_bytes(0, &[1; SECTOR]).await.unwrap();
            // This one is under way while the flush begins.
            let (written, flushed) = join(disk.write_bytes(1, &[1; SECTOR]), disk.flush()).await;
            written.and(flushed).unwrap();
            let mut states = BTreeSet::new();
            for after in power.all_cuts(power.now(), 100).unwrap() {
                states.insert(first_bytes(&after, &[0, 1]).await);
            }
            assert!(states.contains(&vec![1, 1]) && !states.iter().any(|state| state[0] == 0), "{states:?}");
        });
    });
}

/// A counter in two places, of which the larger one with a right check counts.
struct Counter {
    disk: Disk<Domain>,
    flushes: bool,
    value: u8,
}

impl Counter {
    async fn open(disk: Disk<Domain>, flushes: bool) -> Result<Counter, Error> {
        let mut bytes = [0; 4 * SECTOR];
        disk.read_bytes(0, &mut bytes).await?;
        let places = bytes.chunks(2 * SECTOR).filter(|place| place[0] == place[SECTOR]);
        let value = places.map(|place| place[0]).max().unwrap_or(0);
        Ok(Counter { disk, flushes, value })
    }

    async fn increment(&mut self) -> Result<(), Error> {
        self.value += 1;
        let place = u64::from(self.value % 2) * 2;
        self.disk.write_bytes(place, &[self.value; 2 * SECTOR]).await?;
        if self.flushes { self.disk.flush().await } else { Ok(()) }
    }
}

/// How many cuts lose an increment that was acknowledged.
fn lost(flushes: bool) -> usize {
    let lost = std::sync::atomic::AtomicUsize::new(0);
    check("counter", 10, |xen| {
        let domain = xen.domain();
        let seed = xen.seed();
        let found = xen.run(async move {
            let power = Power::new(domain);
            let mut counter = Counter::open(power.disk(64), flushes).await.unwrap();
            let mut acknowledged = vec![(0, 0)];
            for _ in 0..10 {
                counter.increment().await.unwrap();
                acknowledged.push((power.now(), counter.value));
            }
            let mut lost = 0;
            for time in 0..=power.now() {
                let at_least = acknowledged.iter().rev().find(|(at, _)| *at <= time).unwrap().1;
                for cut in 0..20 {
                    let after = power.cut(time, seed * 1000 + cut);
                    let value = Counter::open(after.disks()[0].clone(), flushes).await.unwrap().value;
                    lost += usize::from(value < at_least);
                    assert!(value <= 10);
                }
            }
            lost
        });
        lost.fetch_add(found, std::sync::atomic::Ordering::Relaxed);
    });
    lost.into_inner()
}

#[test]
fn who_forgets_a_flush_is_found() {
    assert_eq!(lost(true), 0);
    assert!(lost(false) > 0);
}

#[test]
fn several_disks_lose_their_power_at_once() {
    check("disks", 5, |xen| {
        let domain = xen.domain();
        xen.run(async move {
            let power = Power::new(domain);
            let (one, other) = (power.disk(64), power.disk(64));
            one.write_bytes(3, &[1; SECTOR]).await.unwrap();
            one.flush().await.unwrap();
            other.write_bytes(3, &[2; SECTOR]).await.unwrap();
            for seed in 0..100 {
                let after = power.cut(power.now(), seed).disks();
                let mut bytes = [0; SECTOR];
                after[0].read_bytes(3, &mut bytes).await.unwrap();
                assert_eq!(bytes[0], 1, "its flush does not wait for the other");
                after[1].read_bytes(3, &mut bytes).await.unwrap();
                assert!([0, 2].contains(&bytes[0]));
                // Before the flush had begun neither was durable, and the second was not written.
                let before = power.cut(1, seed).disks();
                before[1].read_bytes(3, &mut bytes).await.unwrap();
                assert_eq!(bytes[0], 0);
            }
            assert!(matches!(other.write_bytes(64, &[0; SECTOR]).await, Err(Error::OutOfRange { .. })));
            assert!(matches!(other.discard(0, 1, true).await, Err(Error::Unsupported(_))));
        });
    });
}

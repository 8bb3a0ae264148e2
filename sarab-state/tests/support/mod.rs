//! A disk whose power fails.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use xen_blkif::{BlockDevice, Buffer, Completed, Error, Geometry};
use xen_ring::SharedMemory;

const SECTOR: usize = 512;

/// A disk that keeps what is written in a memory of its own until it is flushed. When its power fails, each sector of that
/// memory has arrived as it was written at any time since, or not at all; what is asked of it then fails.
#[derive(Clone)]
pub struct Disk(Rc<State>);

struct State {
    medium: RefCell<Vec<u8>>,
    /// What was written to each sector since it was flushed.
    written: RefCell<BTreeMap<usize, Vec<[u8; SECTOR]>>>,
    /// Writes and flushes that are still done.
    left: Cell<u64>,
    counts: Cell<Counts>,
    /// Each request waits once.
    slow: Cell<bool>,
}

/// What a disk was asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub reads: u64,
    pub read_bytes: u64,
    pub writes: u64,
    pub written_bytes: u64,
    pub flushes: u64,
}

#[allow(dead_code)]
impl Disk {
    pub fn new(medium: Vec<u8>) -> Disk {
        let state = State {
            medium: RefCell::new(medium),
            written: RefCell::default(),
            left: Cell::new(u64::MAX),
            counts: Cell::default(),
            slow: Cell::new(false),
        };
        Disk(Rc::new(state))
    }

    /// Has its power fail after so many writes and flushes.
    pub fn fail_after(&self, count: u64) {
        self.0.left.set(count);
    }

    /// Has each request wait before it is done, so that it can be dropped.
    pub fn be_slow(&self) {
        self.0.slow.set(true);
    }

    async fn wait(&self) {
        let mut waits = self.0.slow.get();
        poll_fn(|context| {
            context.waker().wake_by_ref();
            if std::mem::take(&mut waits) { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
    }

    pub fn has_failed(&self) -> bool {
        self.0.left.get() == 0
    }

    pub fn counts(&self) -> Counts {
        self.0.counts.get()
    }

    /// What is on the medium now that the power has failed.
    pub fn after_power_loss(&self, random: &mut impl FnMut() -> usize) -> Vec<u8> {
        let mut medium = self.0.medium.borrow().clone();
        for (sector, versions) in self.0.written.borrow().iter() {
            if let Some(version) = versions.get(random() % (versions.len() + 1)) {
                medium[sector * SECTOR..][..SECTOR].copy_from_slice(version);
            }
        }
        medium
    }

    fn count(&self, count: impl FnOnce(&mut Counts)) {
        let mut counts = self.0.counts.get();
        count(&mut counts);
        self.0.counts.set(counts);
    }

    /// Whether there still is power.
    fn step(&self) -> Result<(), Error> {
        let left = self.0.left.get().checked_sub(1).ok_or(Error::Gone)?;
        self.0.left.set(left);
        Ok(())
    }
}

/// A buffer of it.
pub struct Bytes(RefCell<Vec<u8>>);

impl Buffer for Bytes {
    fn len(&self) -> usize {
        self.0.borrow().len()
    }

    fn page(&self, _: usize) -> &SharedMemory {
        unreachable!("its bytes are copied")
    }

    fn read(&self, offset: usize, to: &mut [u8]) {
        to.copy_from_slice(&self.0.borrow()[offset..][..to.len()]);
    }

    fn write(&self, offset: usize, from: &[u8]) {
        self.0.borrow_mut()[offset..][..from.len()].copy_from_slice(from);
    }
}

impl BlockDevice for Disk {
    type Buffer = Bytes;

    fn geometry(&self) -> Geometry {
        let mut geometry = Geometry::plain((self.0.medium.borrow().len() / SECTOR) as u64);
        geometry.flush = true;
        geometry
    }

    fn buffer(&self, len: usize) -> Result<Bytes, Error> {
        Ok(Bytes(RefCell::new(vec![0; len])))
    }

    async fn read(&self, sector: u64, buffer: Bytes) -> Completed<Bytes> {
        self.wait().await;
        if self.has_failed() {
            return (buffer, Err(Error::Gone));
        }
        let outcome = self.geometry().check(sector, buffer.len());
        if outcome.is_ok() {
            self.count(|counts| {
                (counts.reads, counts.read_bytes) = (counts.reads + 1, counts.read_bytes + buffer.len() as u64)
            });
            let (medium, written) = (self.0.medium.borrow(), self.0.written.borrow());
            for (index, to) in buffer.0.borrow_mut().chunks_mut(SECTOR).enumerate() {
                let sector = sector as usize + index;
                match written.get(&sector).and_then(|versions| versions.last()) {
                    Some(version) => to.copy_from_slice(version),
                    None => to.copy_from_slice(&medium[sector * SECTOR..][..SECTOR]),
                }
            }
        }
        (buffer, outcome)
    }

    async fn write(&self, sector: u64, buffer: Bytes) -> Completed<Bytes> {
        self.wait().await;
        let outcome = self.step().and_then(|()| self.geometry().check(sector, buffer.len()));
        if outcome.is_ok() {
            self.count(|counts| {
                (counts.writes, counts.written_bytes) = (counts.writes + 1, counts.written_bytes + buffer.len() as u64);
            });
            let mut written = self.0.written.borrow_mut();
            for (index, from) in buffer.0.borrow().chunks(SECTOR).enumerate() {
                let versions = written.entry(sector as usize + index).or_default();
                versions.push(from.try_into().expect("whole sectors"));
            }
        }
        (buffer, outcome)
    }

    async fn flush(&self) -> Result<(), Error> {
        self.wait().await;
        self.step()?;
        self.count(|counts| counts.flushes += 1);
        let mut medium = self.0.medium.borrow_mut();
        for (sector, versions) in std::mem::take(&mut *self.0.written.borrow_mut()) {
            medium[sector * SECTOR..][..SECTOR].copy_from_slice(versions.last().expect("at least one"));
        }
        Ok(())
    }

    async fn discard(&self, _: u64, _: u64, _: bool) -> Result<(), Error> {
        Err(Error::Unsupported("discard"))
    }

    async fn changed(&self, _: &Geometry) -> Geometry {
        std::future::pending().await
    }
}

/// Polls a future to its end.
pub fn run<T>(future: impl Future<Output = T>) -> T {
    polled(1_000_000, future).expect("it comes to an end")
}

/// Polls a future so often, and drops it then.
pub fn polled<T>(times: usize, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let mut polls = (0..times).map(|_| future.as_mut().poll(&mut Context::from_waker(Waker::noop())));
    polls.find_map(|poll| match poll {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    })
}

/// Numbers that are different for each seed.
pub fn random(mut state: u64) -> impl FnMut() -> usize {
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    }
}

//! The requests of a disk's users: a driver takes each once, and gives it back once, done.

use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::task::{Poll, Waker};

use xen_hal::Memory;

use super::buffer::Buffer;
use super::jobs::Jobs;
use crate::device::{Completed, Error};

/// What a user asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Write,
    Flush,
    Discard { sectors: u64, secure: bool },
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Read => "read",
            Kind::Write => "write",
            Kind::Flush => "flush",
            Kind::Discard { .. } => "discard",
        }
    }
}

/// One request of a user: as many requests of the ring as it takes.
pub(super) struct Job<G: Memory> {
    pub(super) kind: Kind,
    pub(super) sector: u64,
    pub(super) buffer: Option<Buffer<G>>,
    /// The first page that was not asked for yet.
    pub(super) next: u64,
    pub(super) outcome: Result<(), Error>,
    /// Counts up: what was asked for first is asked for first again after a reconnection.
    number: u64,
    /// Its place in the queue.
    index: usize,
}

impl<G: Memory> Job<G> {
    /// Its place in the order of all jobs.
    pub(super) fn number(&self) -> u64 {
        self.number
    }
}

/// Where a job is.
enum Place<G: Memory> {
    /// Here, in its order.
    Queued(Job<G>),
    /// With the driver.
    Taken,
    /// With the driver, and nobody waits for it any more. The backend may have its pages: they are its until it answers.
    Abandoned,
    /// Here, for its user.
    Done(Job<G>),
    /// With its user.
    Returned,
}

struct Entry<G: Memory> {
    place: Place<G>,
    waker: Option<Waker>,
}

/// Requests that were made and are not over.
pub(super) struct Queue<G: Memory> {
    entries: RefCell<Jobs<Entry<G>>>,
    next_number: Cell<u64>,
}

impl<G: Memory> Queue<G> {
    pub(super) fn new() -> Queue<G> {
        Queue { entries: RefCell::new(Jobs::new()), next_number: Cell::new(0) }
    }

    /// The number of whatever comes next in the order of jobs.
    pub(super) fn number(&self) -> u64 {
        self.next_number.replace(self.next_number.get() + 1)
    }

    /// Queues a request, has `notify` tell the driver, and waits for its end.
    pub(super) async fn submit(
        &self,
        kind: Kind,
        sector: u64,
        buffer: Option<Buffer<G>>,
        notify: impl FnOnce(),
    ) -> Completed<Option<Buffer<G>>> {
        let ticket = Ticket { queue: self, index: self.push(kind, sector, buffer) };
        notify();
        poll_fn(|cx| ticket.poll(cx.waker())).await
    }

    fn push(&self, kind: Kind, sector: u64, buffer: Option<Buffer<G>>) -> usize {
        let number = self.number();
        let mut entries = self.entries.borrow_mut();
        // Its index is known once it has one.
        let index = entries.insert(Entry { place: Place::Returned, waker: None });
        let job = Job { kind, sector, buffer, next: 0, outcome: Ok(()), number, index };
        if let Some(entry) = entries.get_mut(index) {
            entry.place = Place::Queued(job);
        }
        entries.push_back(index);
        index
    }

    /// Whether no job waits to be taken.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.borrow().is_queue_empty()
    }

    /// For the driver: the first job, where that comes before `number`.
    pub(super) fn take(&self, before: Option<u64>) -> Option<Job<G>> {
        let mut entries = self.entries.borrow_mut();
        let index = entries.front()?;
        let entry = entries.get_mut(index)?;
        if let (Place::Queued(job), Some(before)) = (&entry.place, before)
            && job.number >= before
        {
            return None;
        }
        let place = core::mem::replace(&mut entry.place, Place::Taken);
        entries.pop_front();
        match place {
            Place::Queued(job) => Some(job),
            _ => unreachable!("what stands in the queue is queued"),
        }
    }

    /// For the driver: whether nobody waits any more for a job that it has taken.
    pub(super) fn is_abandoned(&self, job: &Job<G>) -> bool {
        matches!(self.entries.borrow_mut().get_mut(job.index), Some(Entry { place: Place::Abandoned, .. }))
    }

    /// For the driver: a job that it has taken is over.
    pub(super) fn finish(&self, job: Job<G>) {
        let index = job.index;
        let mut entries = self.entries.borrow_mut();
        let (waker, dropped) = match entries.get_mut(index) {
            Some(entry) if !matches!(entry.place, Place::Abandoned) => {
                entry.place = Place::Done(job);
                (entry.waker.take(), None)
            }
            _ => {
                entries.remove(index);
                (None, Some(job))
            }
        };
        drop(entries);
        drop(dropped);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// For the driver, when a connection ends: jobs that it has taken are to be asked for again, whole, in their order,
    /// and before those that it has not. Reading, writing, flushing and discarding twice does what once does.
    pub(super) fn put_back(&self, mut jobs: Vec<Job<G>>) {
        jobs.sort_unstable_by_key(|job| job.number);
        let mut dropped = Vec::new();
        let mut entries = self.entries.borrow_mut();
        for mut job in jobs.into_iter().rev() {
            let index = job.index;
            match entries.get_mut(index) {
                Some(entry) if !matches!(entry.place, Place::Abandoned) => {
                    (job.next, job.outcome) = (0, Ok(()));
                    entry.place = Place::Queued(job);
                    entries.push_front(index);
                }
                _ => {
                    entries.remove(index);
                    dropped.push(job);
                }
            }
        }
        drop(entries);
        drop(dropped);
    }

    /// For the driver, when it has taken none and will take none: all jobs fail.
    pub(super) fn fail_all(&self, error: Error) {
        while let Some(mut job) = self.take(None) {
            job.outcome = Err(error);
            self.finish(job);
        }
    }
}

/// A user who waits for a job.
struct Ticket<'a, G: Memory> {
    queue: &'a Queue<G>,
    index: usize,
}

impl<G: Memory> Ticket<'_, G> {
    fn poll(&self, waker: &Waker) -> Poll<Completed<Option<Buffer<G>>>> {
        let mut entries = self.queue.entries.borrow_mut();
        let entry = entries.get_mut(self.index).expect("it stays until its ticket is gone");
        if !matches!(entry.place, Place::Done(_)) {
            let displaced = entry.waker.replace(waker.clone());
            drop(entries);
            drop(displaced);
            return Poll::Pending;
        }
        match core::mem::replace(&mut entry.place, Place::Returned) {
            Place::Done(job) => Poll::Ready((job.buffer, job.outcome)),
            _ => unreachable!("it was just done"),
        }
    }
}

impl<G: Memory> Drop for Ticket<'_, G> {
    fn drop(&mut self) {
        let mut entries = self.queue.entries.borrow_mut();
        let dropped = match entries.get_mut(self.index) {
            Some(Entry { place: place @ Place::Taken, waker }) => {
                *place = Place::Abandoned;
                (None, waker.take())
            }
            _ => (entries.remove(self.index), None),
        };
        drop(entries);
        drop(dropped);
    }
}

//! The requests of a disk's users, in the order in which the ring gets them.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::task::{Poll, Waker};

use xen_ring::WaitQueue;

use super::buffer::{Buffer, Memory, Pool};
use super::jobs::Jobs;
use crate::device::{Completed, Error, Geometry};

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
    /// The first page, or sector of a discard, that was not asked for yet.
    pub(super) next: u64,
    /// Requests that have no answer yet.
    pub(super) unanswered: u32,
    pub(super) outcome: Result<(), Error>,
    /// Counts up: what was asked for first is asked for first again after a reconnection.
    number: u64,
    state: JobState,
    waker: Option<Waker>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum JobState {
    /// In the queue, with more to be asked for; others are not in it.
    Queued,
    /// All of it was asked for.
    Asked,
    Done,
    /// Nobody waits for it any more.
    Abandoned,
}

/// How a disk stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// No backend serves it yet, or again.
    Waiting,
    Up,
    /// It was removed, or its backend has failed; one that begins anew can bring it back.
    Gone,
}

/// What a disk's handles and its driver have in common.
pub(super) struct Shared<G: Memory> {
    pub(super) pool: Rc<Pool<G>>,
    pub(super) phase: Cell<Phase>,
    pub(super) geometry: Cell<Geometry>,
    /// Users of the disk: without any the driver ends.
    pub(super) handles: Cell<usize>,
    jobs: RefCell<Jobs<Job<G>>>,
    next_number: Cell<u64>,
    /// The driver has something to look at.
    kicked: Cell<bool>,
    driver: RefCell<Option<Waker>>,
    /// Who waits for the phase or the geometry to change.
    watchers: WaitQueue,
    pub(super) statistics: Cell<Statistics>,
}

/// What a disk has done since its driver began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub struct Statistics {
    /// Requests of the ring.
    pub requests: u64,
    /// Of these with segments in pages of their own.
    pub indirect: u64,
    /// Pages that were copied, since the backend keeps no more mapped.
    pub bounced: u64,
    /// Requests that failed.
    pub failures: u64,
    /// Notifications sent to the backend.
    pub notifications: u64,
    /// Events that came.
    pub events: u64,
    /// Connections made.
    pub connections: u64,
    /// Requests that the ring of the last connection holds.
    pub ring_slots: u32,
}

impl<G: Memory> Shared<G> {
    pub(super) fn new(memory: G) -> Shared<G> {
        Shared {
            pool: Rc::new(Pool::new(memory)),
            phase: Cell::new(Phase::Waiting),
            geometry: Cell::new(Geometry::plain(0)),
            handles: Cell::new(1),
            jobs: RefCell::new(Jobs::new()),
            next_number: Cell::new(0),
            kicked: Cell::new(false),
            driver: RefCell::default(),
            watchers: WaitQueue::new(),
            statistics: Cell::default(),
        }
    }

    pub(super) fn count(&self, change: impl FnOnce(&mut Statistics)) {
        let mut statistics = self.statistics.get();
        change(&mut statistics);
        self.statistics.set(statistics);
    }

    /// Has the driver look around.
    pub(super) fn kick(&self) {
        self.kicked.set(true);
        let waker = self.driver.borrow_mut().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// For the driver: whether it was kicked since the last look; if not, `waker` is woken when it is.
    pub(super) fn poll_kicked(&self, waker: &Waker) -> Poll<()> {
        if self.kicked.replace(false) {
            return Poll::Ready(());
        }
        *self.driver.borrow_mut() = Some(waker.clone());
        Poll::Pending
    }

    /// Tells the watchers of a new phase or geometry.
    pub(super) fn set(&self, phase: Phase, geometry: Geometry) {
        self.phase.set(phase);
        self.geometry.set(geometry);
        self.watchers.wake_all();
    }

    /// Waits until `done` gives something, which it may whenever phase or geometry change.
    pub(super) async fn watch<T>(&self, done: impl Fn() -> Option<T>) -> T {
        self.watchers.wait_until(done).await
    }

    /// Queues a request and waits for its end.
    pub(super) async fn submit(
        &self,
        kind: Kind,
        sector: u64,
        buffer: Option<Buffer<G>>,
    ) -> Completed<Option<Buffer<G>>> {
        if self.phase.get() == Phase::Gone {
            return (buffer, Err(Error::Gone));
        }
        let number = self.next_number.replace(self.next_number.get() + 1);
        let job = Job {
            kind,
            sector,
            buffer,
            next: 0,
            unanswered: 0,
            outcome: Ok(()),
            number,
            state: JobState::Queued,
            waker: None,
        };
        let index = {
            let mut jobs = self.jobs.borrow_mut();
            let index = jobs.insert(job);
            jobs.push_back(index);
            index
        };
        self.kick();
        let ticket = Ticket { shared: self, index };
        poll_fn(|cx| {
            let displaced = {
                let mut jobs = self.jobs.borrow_mut();
                match jobs.get_mut(ticket.index) {
                    Some(Job { state: JobState::Done, .. }) => None,
                    Some(job) => Some(job.waker.replace(cx.waker().clone())),
                    None => unreachable!("a job stays until its ticket is gone"),
                }
            };
            match displaced {
                Some(_) => Poll::Pending,
                None => {
                    let job = self.jobs.borrow_mut().remove(ticket.index).expect("it was just there");
                    Poll::Ready((job.buffer, job.outcome))
                }
            }
        })
        .await
    }

    /// For the driver: the next job to ask for something of, until `ask` says that there is no more room.
    ///
    /// `ask` says whether it has asked, and whether the job is complete with that. A job with more goes to the queue's
    /// end, so that a long one does not keep the others waiting.
    pub(super) fn feed(&self, mut ask: impl FnMut(usize, &mut Job<G>) -> Asked) {
        let mut finished = Vec::new();
        let mut jobs = self.jobs.borrow_mut();
        while let Some(index) = jobs.pop_front() {
            let Some(job) = jobs.get_mut(index) else { continue };
            // What has failed in part is not continued.
            let asked = if job.outcome.is_err() { Asked::All } else { ask(index, job) };
            match asked {
                Asked::NoRoom => {
                    jobs.push_front(index);
                    break;
                }
                Asked::Part => jobs.push_back(index),
                Asked::All => {
                    job.state = JobState::Asked;
                    if job.unanswered == 0 {
                        finished.push(index);
                    }
                }
            }
        }
        drop(jobs);
        for index in finished {
            self.finish(index);
        }
    }

    /// For the driver: a job's request was answered.
    pub(super) fn answered(&self, index: usize, settle: impl FnOnce(&mut Job<G>)) {
        let done = {
            let mut jobs = self.jobs.borrow_mut();
            let Some(job) = jobs.get_mut(index) else { return };
            job.unanswered = job.unanswered.saturating_sub(1);
            settle(job);
            job.unanswered == 0 && job.state != JobState::Queued
        };
        if done {
            self.finish(index);
        }
    }

    /// For the driver: a job's only request was not understood, and the job is to be asked for anew in other words.
    pub(super) fn again(&self, index: usize) {
        let abandoned = {
            let mut jobs = self.jobs.borrow_mut();
            let Some(job) = jobs.get_mut(index) else { return };
            (job.unanswered, job.next) = (0, 0);
            let abandoned = job.state == JobState::Abandoned;
            if !abandoned {
                job.state = JobState::Queued;
                jobs.push_front(index);
            }
            abandoned
        };
        if abandoned {
            self.finish(index);
        }
    }

    /// A job needs nothing any more from the driver.
    fn finish(&self, index: usize) {
        let (waker, dropped) = {
            let mut jobs = self.jobs.borrow_mut();
            match jobs.get_mut(index) {
                Some(Job { state: JobState::Abandoned, .. }) => (None, jobs.remove(index)),
                Some(job) => {
                    job.state = JobState::Done;
                    (job.waker.take(), None)
                }
                None => (None, None),
            }
        };
        drop(dropped);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// For the driver, when a connection ends: all jobs are to be asked for again, whole, in their order. Reading,
    /// writing, flushing and discarding twice does what once does.
    pub(super) fn rewind(&self) {
        let (mut waiting, mut abandoned) = (Vec::new(), Vec::new());
        let mut jobs = self.jobs.borrow_mut();
        for (index, job) in jobs.iter_mut() {
            match job.state {
                JobState::Done => {}
                JobState::Abandoned => abandoned.push(index),
                JobState::Queued | JobState::Asked => {
                    (job.next, job.unanswered, job.outcome, job.state) = (0, 0, Ok(()), JobState::Queued);
                    waiting.push((job.number, index));
                }
            }
        }
        while jobs.pop_front().is_some() {}
        waiting.sort_unstable();
        waiting.into_iter().for_each(|(_, index)| jobs.push_back(index));
        let dropped: Vec<_> = abandoned.into_iter().map(|index| jobs.remove(index)).collect();
        drop(jobs);
        drop(dropped);
    }

    /// For the driver, when nothing will be answered any more and nothing was asked: all jobs fail.
    pub(super) fn fail_all(&self, error: Error) {
        self.rewind();
        loop {
            let index = {
                let mut jobs = self.jobs.borrow_mut();
                let Some(index) = jobs.pop_front() else { return };
                if let Some(job) = jobs.get_mut(index) {
                    job.outcome = Err(error);
                }
                index
            };
            self.finish(index);
        }
    }

    /// Whether a job waits to be asked for.
    pub(super) fn has_queued(&self) -> bool {
        !self.jobs.borrow().is_queue_empty()
    }
}

/// What became of a job's turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// There is no room in the ring.
    NoRoom,
    /// A part; there is more.
    Part,
    /// The last part, or nothing: it has failed before.
    All,
}

/// A user who waits for a job.
struct Ticket<'a, G: Memory> {
    shared: &'a Shared<G>,
    index: usize,
}

impl<G: Memory> Drop for Ticket<'_, G> {
    fn drop(&mut self) {
        let dropped = {
            let mut jobs = self.shared.jobs.borrow_mut();
            match jobs.get_mut(self.index) {
                // The backend has its pages: they are its until it answers.
                Some(job) if job.unanswered > 0 => {
                    job.state = JobState::Abandoned;
                    let waker = job.waker.take();
                    jobs.unlink(self.index);
                    (None, waker)
                }
                _ => (jobs.remove(self.index), None),
            }
        };
        drop(dropped);
    }
}

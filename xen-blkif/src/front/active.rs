//! The jobs that a connection has taken: which of them still need requests, and which are finished.

use alloc::collections::VecDeque;
use alloc::rc::Rc;

use slab::Slab;
use xen_hal::Memory;

use super::queue::Job;
use super::shared::Shared;

/// A job that the driver has.
pub(super) struct Active<G: Memory> {
    pub(super) job: Job<G>,
    /// Requests without a response yet.
    pub(super) outstanding: u32,
    /// Whether all of its requests were sent.
    all_sent: bool,
    /// Its place in the order of all jobs.
    turn: u64,
}

/// All of them, by numbers that stay theirs. Dropping them ends a connection: they go back to the queue.
pub(super) struct ActiveJobs<G: Memory> {
    shared: Rc<Shared<G>>,
    jobs: Slab<Active<G>>,
    /// Those with more requests to send, in the order of their turns.
    unfinished: VecDeque<usize>,
}

impl<G: Memory> ActiveJobs<G> {
    pub(super) fn new(shared: Rc<Shared<G>>) -> ActiveJobs<G> {
        ActiveJobs { shared, jobs: Slab::new(), unfinished: VecDeque::new() }
    }

    /// A job that was taken and is not over.
    pub(super) fn get_mut(&mut self, index: usize) -> &mut Active<G> {
        &mut self.jobs[index]
    }

    /// Whether there is nothing more to send.
    pub(super) fn has_sent_all(&self) -> bool {
        self.unfinished.is_empty()
    }

    /// The job whose turn it is, of those here and those still queued. It is taken out of the order.
    pub(super) fn next(&mut self) -> Option<usize> {
        loop {
            let first = self.unfinished.front().map(|index| self.jobs[*index].turn);
            let index = match self.shared.queue.take(first) {
                Some(job) => {
                    let turn = job.number();
                    return Some(self.jobs.insert(Active { job, outstanding: 0, all_sent: false, turn }));
                }
                None => self.unfinished.pop_front()?,
            };
            // A job that has failed in part, or was abandoned, is not continued.
            let job = &self.jobs[index].job;
            if job.outcome.is_ok() && !self.shared.queue.is_abandoned(job) {
                return Some(index);
            }
            self.mark_all_sent(index);
        }
    }

    /// There was no room for the job: it is next again.
    pub(super) fn put_first(&mut self, index: usize) {
        self.unfinished.push_front(index);
    }

    /// The job needs more requests, after all others have had their turn.
    pub(super) fn put_last(&mut self, index: usize) {
        self.jobs[index].turn = self.shared.queue.number();
        self.unfinished.push_back(index);
    }

    /// All of the job's requests were sent.
    pub(super) fn mark_all_sent(&mut self, index: usize) {
        self.jobs[index].all_sent = true;
        self.finish_if_over(index);
    }

    /// The backend has responded to a request of the job.
    pub(super) fn record_response(&mut self, index: usize) -> Option<&mut Active<G>> {
        let active = self.jobs.get_mut(index)?;
        active.outstanding = active.outstanding.saturating_sub(1);
        Some(active)
    }

    /// The backend does not support the job's only request: another one is sent instead, before all others.
    pub(super) fn send_again(&mut self, index: usize) {
        let active = &mut self.jobs[index];
        (active.job.next, active.all_sent, active.turn) = (0, false, active.job.number());
        self.unfinished.push_front(index);
    }

    /// Gives the job back if it is finished.
    pub(super) fn finish_if_over(&mut self, index: usize) {
        let active = &self.jobs[index];
        if active.outstanding == 0 && active.all_sent {
            self.shared.queue.finish(self.jobs.remove(index).job);
        }
    }
}

impl<G: Memory> Drop for ActiveJobs<G> {
    fn drop(&mut self) {
        self.shared.pool.end();
        self.shared.queue.put_back(self.jobs.drain().map(|active| active.job).collect());
    }
}

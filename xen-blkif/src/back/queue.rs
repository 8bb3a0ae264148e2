//! One ring of a guest's, while it is connected: what it asks for, in which order that is done, and the answers.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::future::Future;
use core::pin::pin;
use core::task::{Context, Poll};

use futures_util::stream::{FuturesUnordered, StreamExt};
use xen_hal::{Clock, Errno, GrantTable, Mapping, Memory, PAGE_SIZE, Port};
use xen_ring::{BackRing, BadProducer, SharedMapping};
use xenbus::{BUDGET, EventThrottle, Failure, Signals, Turn};

use super::request::{BadRequest, Work, answer};
use super::worker::{Done, Lists, MAX_LISTS, Worker};
use crate::device::BlockDevice;
use crate::protocol::{Abi, Request};

/// Most bytes of requests that are made one.
const MAX_MERGED: usize = 1 << 20;
/// Most bytes of requests that were taken out of the ring and are not begun, and of one batch beyond: as many as may be
/// done as one. Each counts as a page at least.
const MAX_WAITING: usize = MAX_MERGED;
/// What taking a request out of the ring costs of a turn, and beginning with it again, besides its bytes.
const STEP_COST: usize = 4096;

/// A ring and its event channel.
pub(super) struct Queue<A, P> {
    pub(super) ring: BackRing<Abi>,
    pub(super) mapping: SharedMapping<A>,
    pub(super) port: P,
}

/// Requests of one kind side by side on the disk, done as one.
pub(super) struct Group {
    pub(super) work: Work,
    /// Each with how many of the segments are its own.
    requests: Vec<(Request, usize)>,
}

/// A request that was checked.
struct Pending {
    request: Request,
    work: Work,
    /// It was done together with others, and that has failed: now it is to be done by itself.
    alone: bool,
}

impl Pending {
    fn cost(&self) -> usize {
        self.work.load().max(PAGE_SIZE)
    }
}

/// What a queue has to do.
#[derive(Default)]
struct Tasks {
    waiting: VecDeque<Pending>,
    /// The costs of those.
    waiting_cost: usize,
    answers: Vec<(Request, Result<(), BadRequest>)>,
    /// What runs is a barrier: nothing is begun before its end.
    barrier: bool,
}

impl<A: Mapping, P: Port> Queue<A, P> {
    /// Serves the ring until the device is to close, and all that was asked is done.
    pub(super) async fn serve<M: Memory, D: BlockDevice>(
        mut self,
        worker: &Worker<'_, M, D>,
        signals: &Signals,
        clock: &impl Clock,
    ) -> Result<(), Failure> {
        let broken = |error| Failure::new(Errno::EIO, error);
        let lists = Lists::new(worker.memory).map_err(|error| Failure::new(Errno::ENOMEM, error))?;
        let mut running = FuturesUnordered::new();
        let mut finished: Vec<Done<Group, D::Buffer>> = Vec::new();
        let mut tasks = Tasks::default();
        let mut throttle = EventThrottle::default();
        let mut turn = Turn::default();
        let mut closed = pin!(signals.closing());
        // Requests that were in the ring when the device was to close.
        let mut last = None;
        loop {
            tasks.finish(worker, finished.drain(..));
            // What was asked is looked at, in its order; what is asked from now on is another backend's.
            let closing = signals.is_closing();
            if closing && last.is_none() {
                last = Some(self.ring.waiting(&self.mapping).map_err(broken)?);
            }
            self.take(worker, &lists, &mut tasks, &mut turn, &mut last).map_err(broken)?;
            self.respond(worker, &mut tasks);
            let chosen = tasks.choose(worker, running.is_empty(), &mut turn);
            let started = !chosen.is_empty();
            for (group, outcome) in worker.prepare(chosen, |group| &group.work) {
                match outcome {
                    Ok(buffer) => running.push(worker.perform(group, buffer, |group| &group.work)),
                    Err(bad) => tasks.settle(worker, group, Err(bad)),
                }
            }
            let idle = running.is_empty() && tasks.answers.is_empty() && tasks.waiting.is_empty();
            if idle && last == Some(0) {
                return Ok(());
            }
            // Where something waits there is something running, and its end is an occasion to look at the ring again.
            let more = !closing && self.ring.arm(&self.mapping).map_err(broken)? && tasks.waiting.is_empty();
            let sleeps = !(started || more || turn.is_over() || !tasks.answers.is_empty());
            let wake = {
                let mut slept = false;
                let wanted = [&self.port];
                let ports = if sleeps && !closing { &wanted[..] } else { &[] };
                let other = |cx: &mut Context<'_>| {
                    // Being polled again means that other tasks had their turn.
                    if core::mem::replace(&mut slept, true) {
                        turn.begin();
                    }
                    let mut moved = 0;
                    while moved < BUDGET
                        && let Poll::Ready(Some(done)) = running.poll_next_unpin(cx)
                    {
                        let work = &done.task.work;
                        moved += work.cost();
                        turn.spend(work.load() - work.fetched());
                        finished.push(done);
                    }
                    let ended = !closing && closed.as_mut().poll(cx).is_ready();
                    if !finished.is_empty() || !sleeps || ended { Poll::Ready(()) } else { Poll::Pending }
                };
                throttle.wait(clock, ports, None, other).await
            };
            if turn.is_over() {
                turn.end().await;
            }
            match self.ring.waiting(&self.mapping).map_err(broken)? {
                0 if wake.is_event() => throttle.record_spurious(),
                0 if sleeps => {}
                _ => throttle.record_work(),
            }
        }
    }

    /// Takes requests out of the ring, no more than `last` where it says how many are to be taken.
    fn take<M: Memory, D: BlockDevice>(
        &mut self,
        worker: &Worker<'_, M, D>,
        lists: &Lists<<M as GrantTable>::Page>,
        tasks: &mut Tasks,
        turn: &mut Turn,
        last: &mut Option<u32>,
    ) -> Result<(), BadProducer> {
        while !turn.is_over() && tasks.waiting_cost < MAX_WAITING {
            let mut requests = Vec::new();
            while requests.len() < MAX_LISTS
                && *last != Some(0)
                && let Some(request) = self.ring.pop(&self.mapping)?
            {
                requests.push(request);
                if let Some(last) = last {
                    *last -= 1;
                }
            }
            if requests.is_empty() {
                break;
            }
            turn.spend(requests.len() * STEP_COST);
            tasks.check(worker, lists, requests);
        }
        Ok(())
    }

    /// Puts answers into the ring.
    fn respond<M: Memory, D: BlockDevice>(&mut self, worker: &Worker<'_, M, D>, tasks: &mut Tasks) {
        for (request, outcome) in tasks.answers.drain(..) {
            worker.record(&request, outcome);
            self.ring.push(&self.mapping, &answer(&request, outcome));
        }
        if self.ring.publish(&self.mapping) {
            worker.count(|statistics| statistics.notifications += 1);
            self.port.notify();
        }
    }
}

impl Tasks {
    /// Checks requests, in their order.
    fn check<M: Memory, D: BlockDevice>(
        &mut self,
        worker: &Worker<'_, M, D>,
        lists: &Lists<<M as GrantTable>::Page>,
        requests: Vec<Request>,
    ) {
        let checked = worker.check(&requests, lists);
        for (request, checked) in requests.into_iter().zip(checked) {
            match checked {
                Ok(work) => {
                    let pending = Pending { request, work, alone: false };
                    self.waiting_cost += pending.cost();
                    self.waiting.push_back(pending);
                }
                Err(bad) => self.answers.push((request, Err(bad))),
            }
        }
    }

    /// What is to be begun now, and is counted as in flight from here on.
    fn choose<M: Memory, D: BlockDevice>(
        &mut self,
        worker: &Worker<'_, M, D>,
        idle: bool,
        turn: &mut Turn,
    ) -> Vec<Group> {
        let mut chosen: Vec<Group> = Vec::new();
        while !turn.is_over() {
            let idle = idle && chosen.is_empty();
            self.barrier &= !idle;
            if self.barrier {
                break;
            }
            let Some(group) = self.next_group(worker.room(), idle) else { break };
            self.barrier = matches!(group.work, Work::Barrier { .. });
            worker.count(|statistics| statistics.merged += group.requests.len() as u64 - 1);
            worker.begin(group.work.cost());
            turn.spend(group.work.fetched() + group.requests.len() * STEP_COST);
            chosen.push(group);
        }
        chosen
    }

    /// The next requests to be done as one, if there is room for the first, or all is idle; a barrier only then.
    fn next_group(&mut self, room: usize, idle: bool) -> Option<Group> {
        let first = self.waiting.front()?;
        if !idle && (first.work.cost() > room || matches!(first.work, Work::Barrier { .. })) {
            return None;
        }
        let Pending { request, mut work, alone } = self.take_first()?;
        let mut requests = alloc::vec![(request, work.list().len())];
        while let Some(next) = self.waiting.front().filter(|next| !alone && !next.alone) {
            let total = work.load() + next.work.load();
            if total > room.min(MAX_MERGED) || !work.is_followed_by(&next.work) {
                break;
            }
            let next = self.take_first()?;
            requests.push((next.request, next.work.list().len()));
            work.append(next.work);
        }
        Some(Group { work, requests })
    }

    fn take_first(&mut self) -> Option<Pending> {
        let first = self.waiting.pop_front()?;
        self.waiting_cost -= first.cost();
        Some(first)
    }

    /// Takes what the device has done: what it has read goes to the guest, all of it in one call to the hypervisor.
    fn finish<M: Memory, D: BlockDevice>(
        &mut self,
        worker: &Worker<'_, M, D>,
        finished: impl Iterator<Item = Done<Group, D::Buffer>>,
    ) {
        let mut reads = Vec::new();
        for Done { task, outcome } in finished {
            match outcome {
                Ok(Some(buffer)) => reads.push((task, buffer)),
                Ok(None) => self.settle(worker, task, Ok(())),
                Err(bad) => self.settle(worker, task, Err(bad)),
            }
        }
        let copies: Vec<_> = reads.iter().map(|(group, buffer)| (buffer, group.work.list())).collect();
        let outcomes = worker.copy(&copies, true);
        for ((group, _), outcome) in reads.into_iter().zip(outcomes) {
            self.settle(worker, group, outcome);
        }
    }

    /// A group is done, or has failed: then each of its requests is done alone.
    fn settle<M: Memory, D: BlockDevice>(
        &mut self,
        worker: &Worker<'_, M, D>,
        group: Group,
        outcome: Result<(), BadRequest>,
    ) {
        worker.end(group.work.cost());
        if outcome.is_ok() || group.requests.len() == 1 {
            self.answers.extend(group.requests.into_iter().map(|(request, _)| (request, outcome)));
            return;
        }
        let mut rest = group.work;
        let again: Vec<_> = group
            .requests
            .into_iter()
            .map(|(request, count)| Pending { request, work: rest.split_off_front(count), alone: true })
            .collect();
        for pending in again.into_iter().rev() {
            self.waiting_cost += pending.cost();
            self.waiting.push_front(pending);
        }
    }
}

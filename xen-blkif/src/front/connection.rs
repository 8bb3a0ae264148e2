//! The ring of a disk while it is in use: requests of its users, and responses of the backend.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::future::Future;
use core::pin::pin;
use core::task::{Context, Poll};
use core::time::Duration;

use xen_hal::{Clock, DomId, Errno, Memory, PAGE_SIZE, Port, information};
use xenbus::{Device, EventThrottle, Failure, RateLimit, Signals, Turn, Wake};

use super::Options;
use super::active::{Active, ActiveJobs};
use super::link::{Link, read_geometry};
use super::queue::Kind;
use super::request::{InFlight, MIN_COST, NewRequest, RequestBuilder};
use super::shared::Shared;
use crate::device::Error;
use crate::protocol::{Body, Operation, Request, Status};

/// How long requests in flight may take once the device is to close.
const CLOSING_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause between reads of the backend's keys, after a burst: it may report changes at any time.
const REFRESH_PAUSE: Duration = Duration::from_millis(250);

/// The backend is to notify when one in so many of the requests in flight has been completed: a notification costs it
/// more than a request does.
const RESPONSES_PER_EVENT: u32 = 4;
/// How long responses may wait for that notification. Where none comes in that time, the next response is notified at
/// once: a slow disk causes no more wake-ups than it has responses.
const MAX_RESPONSE_DELAY: Duration = Duration::from_micros(300);

/// A ring while it is in use.
pub(super) struct Connection<G: Memory, P> {
    shared: Rc<Shared<G>>,
    options: Options,
    peer: DomId,
    link: Link<G, P>,
    /// By request id.
    in_flight: Vec<Option<InFlight<G>>>,
    /// Of these, the ids that no request has.
    free_ids: Vec<usize>,
    /// What the requests are for. It goes last: nothing is granted for the ring any more when its jobs go back.
    jobs: ActiveJobs<G>,
}

impl<G: Memory, P: Port> Connection<G, P> {
    pub(super) fn new(shared: Rc<Shared<G>>, options: Options, peer: DomId, link: Link<G, P>) -> Connection<G, P> {
        let slots = link.ring.slots() as usize;
        let (in_flight, free_ids) = ((0..slots).map(|_| None).collect(), (0..slots).rev().collect());
        let jobs = ActiveJobs::new(shared.clone());
        Connection { shared, options, peer, link, in_flight, free_ids, jobs }
    }

    /// Uses the ring until the device is to close, or has no users any more.
    pub(super) async fn run(
        &mut self,
        device: &Device,
        signals: &Signals,
        clock: &impl Clock,
        lines: &mut RateLimit,
    ) -> Result<(), Failure> {
        let mut known = signals.changes();
        let mut refreshes = RateLimit::new(4, REFRESH_PAUSE);
        let mut throttle = EventThrottle::default();
        let mut turn = Turn::default();
        let mut deadline = None;
        // Responses may wait for others, as long as more come soon.
        let mut gather = true;
        let (mut change, mut closed) = (pin!(signals.changed(known)), pin!(signals.closing()));
        let mut lost = pin!(signals.lost());
        loop {
            // A response of before a restore may be in the image without the data that it is about, which the backend has written
            // after that page was saved. What is in flight is asked for again.
            if !self.link.port.is_current() {
                signals.lost().await;
                return Ok(());
            }
            // Read first: the last responses of a backend that is gone still count.
            let (closing, is_lost) = (signals.is_closing(), signals.is_lost());
            let worked = self.step(closing, &mut turn)?;
            if closing {
                deadline.get_or_insert_with(|| clock.now() + CLOSING_TIMEOUT);
            }
            if is_lost || deadline.is_some_and(|until| clock.now() >= until) || self.is_over(closing) {
                return Ok(());
            }
            if turn.is_over() {
                turn.end().await;
                continue;
            }
            let changed = signals.changes() != known;
            if changed && refreshes.allows(clock.now()) {
                known = signals.changes();
                change.set(signals.changed(known));
                self.refresh(device, clock, lines).await?;
                continue;
            }
            gather |= worked;
            let together = if gather { self.link.ring.outstanding().div_ceil(RESPONSES_PER_EVENT).max(1) } else { 1 };
            if worked || self.link.ring.arm(&self.link.memory, together).map_err(broken)? {
                continue;
            }
            let throttled = !throttle.ready();
            let wake = {
                let (notify, turn, mut slept) = (self.shared.status.users().notify(), &mut turn, false);
                let other = |cx: &mut Context<'_>| {
                    // Being polled again means that other tasks had their turn.
                    if core::mem::replace(&mut slept, true) {
                        turn.begin();
                    }
                    let ended = if closing { lost.as_mut().poll(cx) } else { closed.as_mut().poll(cx) };
                    let notified = notify.poll_notified(cx);
                    let changes = !changed && change.as_mut().poll(cx).is_ready();
                    let other = ended.is_ready() || notified.is_ready() || changes;
                    if other { Poll::Ready(()) } else { Poll::Pending }
                };
                let moment = (together > 1).then(|| clock.now() + MAX_RESPONSE_DELAY);
                let until = [deadline, moment, changed.then(|| refreshes.next())].into_iter().flatten().min();
                throttle.wait(clock, &[&self.link.port], until, other).await
            };
            match wake {
                Wake::Event => self.shared.status.count(|statistics| statistics.events += 1),
                // Without a response in this time, the next one is to be notified at once.
                Wake::Deadline | Wake::Pause => gather = false,
                Wake::Other => {}
            }
            if !self.link.port.is_current() {
                continue;
            }
            match self.link.ring.waiting(&self.link.memory).map_err(broken)? {
                0 if wake == Wake::Event || throttled => throttle.record_spurious(),
                0 => {}
                _ => throttle.record_work(),
            }
        }
    }

    /// Takes responses and sends requests; whether there was a response.
    fn step(&mut self, closing: bool, turn: &mut Turn) -> Result<bool, Failure> {
        let mut worked = false;
        while !turn.is_over()
            && let Some(response) = self.link.ring.pop(&self.link.memory).map_err(broken)?
        {
            worked = true;
            let id = usize::try_from(response.id).unwrap_or(usize::MAX);
            let Some(request) = self.in_flight.get_mut(id).and_then(Option::take) else {
                let text = format_args!("response references no pending request ({})", response.id);
                return Err(Failure::new(Errno::EIO, text));
            };
            self.free_ids.push(id);
            if request.operation != response.operation {
                let (id, was, is) = (response.id, request.operation, response.operation);
                let text = format_args!("response to request {id} has wrong operation ({is} instead of {was})");
                return Err(Failure::new(Errno::EIO, text));
            }
            turn.spend(request.cost());
            self.complete(request, response.status);
        }
        if !closing {
            self.send_requests(turn);
            if self.link.ring.publish(&self.link.memory) {
                self.shared.status.count(|statistics| statistics.notifications += 1);
                self.link.port.notify();
            }
        }
        Ok(worked)
    }

    /// Handles the response to a request.
    fn complete(&mut self, request: InFlight<G>, status: Status) {
        let again = status == Status::Unsupported && self.disable(request.operation);
        let job = request.job;
        if let Some(active) = self.jobs.record_response(job) {
            settle(&self.shared, self.peer, active, request, status, again);
        }
        match again {
            true => self.jobs.send_again(job),
            false => self.jobs.finish_if_over(job),
        }
    }

    /// An operation that the backend has refused is not sent again: the protocol allows that, whatever it has offered.
    /// Whether another operation can stand in for it.
    fn disable(&mut self, operation: Operation) -> bool {
        let mut geometry = self.shared.status.info();
        let mut again = false;
        match operation {
            Operation::Flush => {
                self.link.features.flush = false;
                again = self.link.features.barrier;
                geometry.flush = again;
            }
            Operation::Barrier => {
                self.link.features.barrier = false;
                geometry.flush = false;
            }
            Operation::Discard => geometry.discard = None,
            _ => {}
        }
        if geometry != self.shared.status.info() {
            self.shared.status.set_info(geometry);
        }
        again
    }

    /// Puts requests into the ring as long as there is room, one for each job in turn: a long job does not keep others
    /// waiting.
    fn send_requests(&mut self, turn: &mut Turn) {
        let shared = self.shared.clone();
        let builder = RequestBuilder {
            pool: &shared.pool,
            peer: self.peer,
            features: self.link.features,
            max_segments: self.options.max_segments,
        };
        while !turn.is_over()
            && self.link.ring.free() > 0
            && let Some(id) = self.free_ids.last().copied()
            && let Some(index) = self.jobs.next()
        {
            match builder.build(index, &mut self.jobs.get_mut(index).job) {
                Ok(Some(request)) => {
                    turn.spend(request.in_flight.cost());
                    self.push(id, request);
                }
                // Too many pages are in use.
                Ok(None) => {
                    self.jobs.put_first(index);
                    break;
                }
                Err(error) => {
                    turn.spend(MIN_COST);
                    self.jobs.get_mut(index).job.outcome = Err(error);
                    self.jobs.mark_all_sent(index);
                }
            }
        }
    }

    /// Puts a request into the ring, which has room for it.
    fn push(&mut self, id: usize, new: NewRequest<G>) {
        let NewRequest { body, sector, in_flight, last } = new;
        let request = Request { id: id as u64, sector, handle: 0, body };
        self.link.ring.push(&self.link.memory, &request).expect("there was room for it");
        self.shared.status.count(|statistics| {
            statistics.requests += 1;
            statistics.indirect += u64::from(matches!(body, Body::Indirect { .. }));
            statistics.bounced += in_flight.bounces.len() as u64;
        });
        let job = in_flight.job;
        self.jobs.get_mut(job).outstanding += 1;
        self.free_ids.pop();
        self.in_flight[id] = Some(in_flight);
        match last {
            true => self.jobs.mark_all_sent(job),
            false => self.jobs.put_last(job),
        }
    }

    /// Whether all responses have come, and there will be no more requests.
    fn is_over(&self, closing: bool) -> bool {
        let is_unused =
            || self.shared.status.users().is_empty() && self.jobs.has_sent_all() && self.shared.queue.is_empty();
        self.link.ring.outstanding() == 0 && (closing || is_unused())
    }

    /// The backend has changed something: a disk that was made larger tells its new size.
    async fn refresh(&mut self, device: &Device, clock: &impl Clock, lines: &mut RateLimit) -> Result<(), Failure> {
        let features = self.link.features;
        let geometry = device.read_peer(async |peer| match peer.get("sectors").await? {
            Some(sectors) => read_geometry(peer, sectors, &features).await.map(Some),
            None => Ok(None),
        });
        let Some(mut geometry) = geometry.await? else { return Ok(()) };
        let old = self.shared.status.info();
        // A refused operation stays disabled.
        geometry.discard = geometry.discard.filter(|_| old.discard.is_some());
        if geometry != old {
            if lines.allows(clock.now()) {
                information!("{}: {} sectors, before {}", device.path(), geometry.sectors, old.sectors);
            }
            self.shared.status.set_info(geometry);
        }
        Ok(())
    }
}

/// Revokes what a request was granted of its job's buffer, and records the outcome.
fn settle<G: Memory>(
    shared: &Shared<G>,
    peer: DomId,
    active: &mut Active<G>,
    request: InFlight<G>,
    status: Status,
    again: bool,
) {
    let pool = &shared.pool;
    if let Some(page) = request.indirect {
        pool.give_bounce(page);
    }
    let failed = status != Status::Okay;
    if failed {
        shared.status.count(|statistics| statistics.failures += 1);
    }
    let job = &mut active.job;
    if let Some(buffer) = &mut job.buffer {
        for page in &mut buffer.pages[request.pages] {
            if job.kind == Kind::Read {
                // Xen logs for a migration what the domain itself writes, and what a peer has unmapped (gnttab_mark_dirty in
                // xen/common/grant_table.c), but nothing of a page that stays mapped: without this it would not be copied.
                page.store_byte(0, page.load_byte(0));
            }
            if let Err(error) = pool.settle(page, peer) {
                job.outcome = Err(error);
            }
        }
        for (index, bounce) in request.bounces {
            if job.kind == Kind::Read && !failed {
                bounce.copy(0, PAGE_SIZE, &buffer.pages[index], 0);
            }
            pool.give_bounce(bounce);
        }
    }
    if failed && !again && job.outcome.is_ok() {
        job.outcome = Err(match status {
            Status::Unsupported => Error::Unsupported(job.kind.name()),
            _ => Error::Failed { operation: job.kind.name(), sector: job.sector },
        });
    }
}

fn broken(error: xen_ring::BadProducer) -> Failure {
    Failure::new(Errno::EIO, error)
}

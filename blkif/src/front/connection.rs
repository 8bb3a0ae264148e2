//! The ring of a disk while it is in use: what the users ask for, and what the backend answers.

use alloc::format;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::future::{Future, poll_fn};
use core::pin::pin;
use core::task::Poll;
use core::time::Duration;

use futures_util::future::{Either, select};
use xen_hal::{Access, Clock, DomId, Errno, GrantRef, PAGE_SIZE, Port, information};
use xen_ring::Storm;
use xenstore_client::xenbus::{Device, Failure, Signals};

use super::Options;
use super::buffer::{Memory, PooledPage};
use super::driver::{Features, Link, read_geometry};
use super::queue::{Asked, Job, Kind, Phase, Shared};
use crate::device::Error;
use crate::pace::Pace;
use crate::protocol::{
    Body, MOST_INDIRECT_PAGES, MOST_SEGMENTS, Operation, Request, SECTOR_SIZE, SECTORS_PER_PAGE, SEGMENT_SIZE,
    SEGMENTS_PER_PAGE, Segment, Status,
};
use crate::turn::Turn;

/// How long requests in flight may take once the device is to close.
const CLOSING_PATIENCE: Duration = Duration::from_secs(5);
/// How long the backend's keys are not read again after they were a few times: it may say at any time that they have
/// changed.
const REFRESH_PAUSE: Duration = Duration::from_millis(250);

/// Of the requests in flight, the backend is to notify when one in so many more is answered: each notification costs it
/// more than a request does.
const ANSWERS_AT_ONCE: u32 = 4;
/// How long answers may wait for that notification. Where none comes in that time, the next is told of at once: a slow
/// disk makes no more wake-ups than it has answers.
const ANSWERS_WAIT: Duration = Duration::from_micros(300);

/// A request that the backend has.
struct InFlight<G: Memory> {
    job: usize,
    operation: Operation,
    /// Which pages of the job's buffer.
    pages: core::ops::Range<usize>,
    /// The page of its segments, where they have one.
    indirect: Option<PooledPage<G>>,
    /// Pages that stand for some of the buffer's, by their index in it.
    bounces: Vec<(usize, PooledPage<G>)>,
}

impl<G: Memory> InFlight<G> {
    /// What it costs of a turn, on its way to the backend and on its way back.
    fn cost(&self) -> usize {
        2048 + self.pages.len() * 512 + self.bounces.len() * PAGE_SIZE
    }
}

/// A request that was made, on its way into the ring.
struct Made<G: Memory> {
    body: Body,
    sector: u64,
    in_flight: InFlight<G>,
    asked: Asked,
}

impl<G: Memory> Made<G> {
    fn without_data(job: usize, operation: Operation, body: Body, sector: u64) -> Made<G> {
        let in_flight = InFlight { job, operation, pages: 0..0, indirect: None, bounces: Vec::new() };
        Made { body, sector, in_flight, asked: Asked::All }
    }
}

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
}

impl<G: Memory, P: Port> Connection<G, P> {
    pub(super) fn new(shared: Rc<Shared<G>>, options: Options, peer: DomId, link: Link<G, P>) -> Connection<G, P> {
        let slots = link.ring.slots() as usize;
        let (in_flight, free_ids) = ((0..slots).map(|_| None).collect(), (0..slots).rev().collect());
        Connection { shared, options, peer, link, in_flight, free_ids }
    }

    /// Uses the ring until the device is to close, or nobody has a use for it any more.
    pub(super) async fn run(
        &mut self,
        device: &Device,
        signals: &Signals,
        clock: &impl Clock,
        lines: &mut Pace,
    ) -> Result<(), Failure> {
        let mut known = signals.changes();
        let mut refreshes = Pace::new(4, REFRESH_PAUSE);
        let mut storm = Storm::default();
        let mut turn = Turn::new();
        let mut deadline = None;
        // Answers may wait for others, as long as there are others soon.
        let mut gather = true;
        let (mut change, mut closed) = (pin!(signals.changed(known)), pin!(signals.closing()));
        let mut lost = pin!(signals.lost());
        loop {
            // Looked at first: what a backend that is gone has answered before is taken still.
            let (closing, is_lost) = (signals.is_closing(), signals.is_lost());
            let worked = self.step(closing, &mut turn)?;
            let idle = self.link.ring.outstanding() == 0;
            if is_lost {
                return Ok(());
            }
            if closing {
                let until = *deadline.get_or_insert_with(|| clock.now() + CLOSING_PATIENCE);
                if idle || clock.now() >= until {
                    return Ok(());
                }
            } else if idle && self.shared.handles.get() == 0 && !self.shared.has_queued() {
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
            let together = if gather { self.link.ring.outstanding().div_ceil(ANSWERS_AT_ONCE).max(1) } else { 1 };
            if worked || self.link.ring.arm(&self.link.memory, together).map_err(broken)? {
                continue;
            }
            let hurry = storm.is_calm();
            let event = {
                let (shared, port, turn) = (&self.shared, &self.link.port, &mut turn);
                let mut waiting = poll_fn(|cx| {
                    if hurry && port.poll_wait(cx).is_ready() {
                        return Poll::Ready(true);
                    }
                    let ended = if closing { lost.as_mut().poll(cx) } else { closed.as_mut().poll(cx) };
                    let other = shared.poll_kicked(cx.waker()).is_ready()
                        || (!changed && change.as_mut().poll(cx).is_ready())
                        || ended.is_ready();
                    if other {
                        return Poll::Ready(false);
                    }
                    turn.begin();
                    Poll::Pending
                });
                let until = match hurry {
                    true => {
                        let moment = (together > 1).then(|| clock.now() + ANSWERS_WAIT);
                        [deadline, moment, changed.then(|| refreshes.next())].into_iter().flatten().min()
                    }
                    // Late by so much at most, where the peer rings without end.
                    false => Some(clock.now() + storm.pause()),
                };
                match until {
                    None => waiting.await,
                    Some(until) => match select(&mut waiting, clock.until(until)).await {
                        Either::Left((event, _)) => event,
                        Either::Right(_) => {
                            // Where no answer has come meanwhile, the next one is to be told of at once.
                            gather = false;
                            false
                        }
                    },
                }
            };
            if event {
                self.shared.count(|statistics| statistics.events += 1);
            }
            match self.link.ring.waiting(&self.link.memory).map_err(broken)? {
                0 if event || !hurry => storm.in_vain(),
                0 => {}
                _ => storm.over(),
            }
        }
    }

    /// Takes what was answered and asks for more; whether there was an answer.
    fn step(&mut self, closing: bool, turn: &mut Turn) -> Result<bool, Failure> {
        let mut worked = false;
        while !turn.is_over()
            && let Some(response) = self.link.ring.pop(&self.link.memory).map_err(broken)?
        {
            worked = true;
            let id = usize::try_from(response.id).unwrap_or(usize::MAX);
            let Some(request) = self.in_flight.get_mut(id).and_then(Option::take) else {
                let text = format!("the backend has answered request {}, which it does not have", response.id);
                return Err(Failure::new(Errno::EIO, text));
            };
            self.free_ids.push(id);
            if request.operation != response.operation {
                let text = format!(
                    "the backend has answered request {} as {}, which was {}",
                    response.id, response.operation, request.operation
                );
                return Err(Failure::new(Errno::EIO, text));
            }
            turn.spend(request.cost());
            self.complete(request, response.status);
        }
        if !closing {
            self.ask(turn);
            if self.link.ring.publish(&self.link.memory) {
                self.shared.count(|statistics| statistics.notifications += 1);
                self.link.port.notify();
            }
        }
        Ok(worked)
    }

    fn complete(&mut self, request: InFlight<G>, status: Status) {
        let shared = self.shared.clone();
        if let Some(page) = request.indirect {
            shared.pool.give_bounce(page);
        }
        let failed = status != Status::Okay;
        if failed {
            shared.count(|statistics| statistics.failures += 1);
        }
        // What the protocol lets a backend refuse, whatever it has offered.
        let mut geometry = shared.geometry.get();
        let mut again = false;
        if status == Status::Unsupported {
            match request.operation {
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
        }
        if again {
            shared.again(request.job);
        } else {
            let (pages, bounces, pool) = (request.pages, request.bounces, &shared.pool);
            shared.answered(request.job, |job| {
                if let Some(buffer) = &mut job.buffer {
                    for page in &mut buffer.pages[pages] {
                        if let Err(error) = pool.settle(page) {
                            job.outcome = Err(error);
                        }
                    }
                    for (index, bounce) in bounces {
                        if job.kind == Kind::Read && !failed {
                            bounce.copy(0, PAGE_SIZE, &buffer.pages[index], 0);
                        }
                        pool.give_bounce(bounce);
                    }
                }
                if failed && job.outcome.is_ok() {
                    let sector = job.sector;
                    job.outcome = Err(match status {
                        Status::Unsupported => Error::Unsupported(job.kind.name()),
                        _ => Error::Failed { operation: job.kind.name(), sector },
                    });
                }
            });
        }
        if geometry != shared.geometry.get() {
            shared.set(Phase::Up, geometry);
        }
    }

    /// Puts requests into the ring as long as there is room.
    fn ask(&mut self, turn: &mut Turn) {
        let shared = self.shared.clone();
        shared.feed(|index, job| {
            if turn.is_over() {
                return Asked::NoRoom;
            }
            let Some(id) = self.free_ids.last().copied() else { return Asked::NoRoom };
            if self.link.ring.free() == 0 {
                return Asked::NoRoom;
            }
            match self.make(index, job) {
                Ok(Some(Made { body, sector, in_flight, asked })) => {
                    let request = Request { id: id as u64, sector, handle: 0, body };
                    if self.link.ring.push(&self.link.memory, &request).is_err() {
                        return Asked::NoRoom;
                    }
                    shared.count(|statistics| {
                        statistics.requests += 1;
                        statistics.indirect += u64::from(matches!(body, Body::Indirect { .. }));
                        statistics.bounced += in_flight.bounces.len() as u64;
                    });
                    turn.spend(in_flight.cost());
                    job.unanswered += 1;
                    self.free_ids.pop();
                    self.in_flight[id] = Some(in_flight);
                    asked
                }
                Ok(None) => Asked::NoRoom,
                Err(error) => {
                    job.outcome = Err(error);
                    Asked::All
                }
            }
        });
    }

    /// The next request of a job; `None` where too many pages are in use for one now.
    fn make(&mut self, index: usize, job: &mut Job<G>) -> Result<Option<Made<G>>, Error> {
        let (operation, access) = match job.kind {
            Kind::Read => (Operation::Read, Access::ReadWrite),
            Kind::Write => (Operation::Write, Access::ReadOnly),
            Kind::Flush => {
                let operation = match self.link.features {
                    Features { flush: true, .. } => Operation::Flush,
                    Features { barrier: true, .. } => Operation::Barrier,
                    _ => return Err(Error::Unsupported("flush")),
                };
                let body = Body::Direct { operation, count: 0, segments: Default::default() };
                return Ok(Some(Made::without_data(index, operation, body, 0)));
            }
            Kind::Discard { sectors, secure } => {
                let body = Body::Discard { secure, sectors };
                return Ok(Some(Made::without_data(index, Operation::Discard, body, job.sector)));
            }
        };
        let pool = self.shared.pool.clone();
        let buffer = job.buffer.as_mut().expect("reads and writes have a buffer");
        let sectors = crate::Buffer::len(buffer) / SECTOR_SIZE;
        let first = job.next as usize;
        let most = self.link.features.indirect.min(self.options.most_segments);
        let most = usize::from(most).clamp(MOST_SEGMENTS, SEGMENTS_PER_PAGE);
        let count = most.min(buffer.pages.len() - first);
        let pages = &mut buffer.pages[first..first + count];
        let listed = count > MOST_SEGMENTS;
        if pool.beyond(pages) + usize::from(listed) > pool.bounces_left() {
            return Ok(None);
        }
        let mut bounces = Vec::new();
        let mut lend = || {
            let mut segments = Vec::with_capacity(count);
            for (index, page) in (first..).zip(&mut *pages) {
                let reference = self.lend(page, access, operation, &mut bounces, index)?;
                let rest = sectors - index * usize::from(SECTORS_PER_PAGE);
                segments.push(Segment::new(reference, 0, rest.min(SECTORS_PER_PAGE.into()) as u8 - 1));
            }
            self.body(operation, &segments)
        };
        let (body, indirect) = match lend() {
            Ok(made) => made,
            Err(error) => {
                // The backend was told of none of them, but could guess.
                bounces.into_iter().for_each(|(_, bounce)| pool.give_bounce(bounce));
                pages.iter_mut().try_for_each(|page| pool.settle(page))?;
                return Err(error);
            }
        };
        job.next = (first + count) as u64;
        let asked = if first + count == buffer.pages.len() { Asked::All } else { Asked::Part };
        let sector = job.sector + (first as u64) * u64::from(SECTORS_PER_PAGE);
        let in_flight = InFlight { job: index, operation, pages: first..first + count, indirect, bounces };
        Ok(Some(Made { body, sector, in_flight, asked }))
    }

    /// Lends a page of a buffer, or a bounce in its place.
    fn lend(
        &self,
        page: &mut PooledPage<G>,
        access: Access,
        operation: Operation,
        bounces: &mut Vec<(usize, PooledPage<G>)>,
        index: usize,
    ) -> Result<GrantRef, Error> {
        let pool = &self.shared.pool;
        if let Some(reference) = pool.lend(page, self.peer, access)? {
            return Ok(reference);
        }
        let mut bounce = pool.take_bounce()?;
        let lent = pool.lend_bounce(&mut bounce, self.peer, access);
        if operation == Operation::Write {
            page.copy(0, PAGE_SIZE, &bounce, 0);
        }
        bounces.push((index, bounce));
        lent
    }

    /// A read or write of these segments, and the page that holds them where they are many.
    fn body(&self, operation: Operation, list: &[Segment]) -> Result<(Body, Option<PooledPage<G>>), Error> {
        if list.len() <= MOST_SEGMENTS {
            let mut segments = [Segment::default(); MOST_SEGMENTS];
            segments[..list.len()].copy_from_slice(list);
            return Ok((Body::Direct { operation, count: list.len() as u8, segments }, None));
        }
        let pool = &self.shared.pool;
        let mut page = pool.take_bounce()?;
        let reference = match pool.lend_bounce(&mut page, self.peer, Access::ReadOnly) {
            Ok(reference) => reference,
            Err(error) => {
                pool.give_bounce(page);
                return Err(error);
            }
        };
        for (at, segment) in list.iter().enumerate() {
            let mut bytes = [0; SEGMENT_SIZE];
            segment.encode(&mut bytes);
            page.write(at * SEGMENT_SIZE, &bytes);
        }
        let mut pages = [0; MOST_INDIRECT_PAGES];
        pages[0] = reference.0;
        Ok((Body::Indirect { operation, count: list.len() as u16, pages }, Some(page)))
    }

    /// The backend has changed something: a disk that was made larger tells its new size.
    async fn refresh(&mut self, device: &Device, clock: &impl Clock, lines: &mut Pace) -> Result<(), Failure> {
        let features = self.link.features;
        let geometry = device.read_peer(async |peer| match peer.get("sectors").await? {
            Some(sectors) => read_geometry(peer, sectors, &features).await.map(Some),
            None => Ok(None),
        });
        let Some(mut geometry) = geometry.await? else { return Ok(()) };
        let old = self.shared.geometry.get();
        // What it has refused it does not offer again.
        geometry.discard = geometry.discard.filter(|_| old.discard.is_some());
        if geometry != old {
            if lines.allows(clock.now()) {
                information!("{}: {} sectors, before {}", device.path(), geometry.sectors, old.sectors);
            }
            self.shared.set(Phase::Up, geometry);
        }
        Ok(())
    }
}

fn broken(error: xen_ring::BadProducer) -> Failure {
    Failure::new(Errno::EIO, format!("{error}"))
}

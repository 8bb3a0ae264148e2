//! What handles and runner share: requests to be sent, requests that wait for an answer, watches.

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::task::{Poll, Waker};

use async_lock::Semaphore;
use xen_hal::{Errno, warning};

use super::error::{Broken, Error, ErrorKind};
use super::events::{self, WatchState};
use super::table::Table;
use crate::wire::{self, Features, Header, Malformed, Op, Request, ServerError};

/// Requests that may wait for their answers at a time; more wait for a place.
const MAX_IN_FLIGHT: usize = 64;
/// Transactions that may be open at a time; servers allow a guest ten.
const MAX_TRANSACTIONS: usize = 8;

/// An answer's payload, and the generation of the connection that it came over.
pub(super) type Reply = Result<(Vec<u8>, u32), ErrorKind>;

pub(super) struct Link {
    pub(super) state: RefCell<State>,
    /// Places for requests. One is taken by each that somebody awaits, until its answer has come.
    pub(super) places: Semaphore,
    pub(super) transactions: Semaphore,
}

pub(super) struct State {
    /// Packets to be sent, in order.
    queue: VecDeque<Packet>,
    /// How much of the first one is in the ring already.
    sent: usize,
    calls: Table<Call>,
    pub(super) watches: Table<WatchState>,
    pub(super) phase: Phase,
    /// Counts connections: transactions from an earlier one are gone.
    pub(super) generation: u32,
    pub(super) features: Features,
    /// The runner, which waits for something to send.
    pub(super) runner: Option<Waker>,
    /// Who waits for all requests to be answered.
    pub(super) quiet: Option<Waker>,
    /// Packets that no request was waiting for.
    pub(super) unexpected: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Up,
    /// Nothing new is sent.
    Quiesced,
    /// The domain was restored: page and port are to be taken anew.
    Restart,
    Broken(Broken),
}

struct Packet {
    request: u32,
    /// Packets of a transaction make sense within one connection only.
    in_transaction: bool,
    bytes: Vec<u8>,
}

struct Call {
    op: Op,
    state: CallState,
    has_place: bool,
}

enum CallState {
    Awaited(Option<Waker>),
    Answered(Reply),
    /// Nobody awaits the answer, but something is to be done about it.
    Detached(Then),
}

/// What to do about the reply to a request that is not awaited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    Nothing,
    /// A transaction was started that is not needed any more.
    AbortTransaction,
    /// A transaction has ended, and another may begin.
    FreeTransaction,
    /// A transaction was to be committed; where that was never sent, it is to be aborted.
    Commit {
        transaction: u32,
        generation: Option<u32>,
    },
    /// A watch was registered that is not needed any more.
    Unwatch(u32),
    /// A watch was registered again, on a new connection.
    Rewatched(u32),
}

impl Link {
    pub(super) fn new() -> Rc<Link> {
        Rc::new(Link {
            state: RefCell::new(State {
                queue: VecDeque::new(),
                sent: 0,
                calls: Table::new(),
                watches: Table::new(),
                phase: Phase::Up,
                generation: 0,
                features: Features::default(),
                runner: None,
                quiet: None,
                unexpected: 0,
            }),
            places: Semaphore::new(MAX_IN_FLIGHT),
            transactions: Semaphore::new(MAX_TRANSACTIONS),
        })
    }

    pub(super) fn register_runner(&self, waker: &Waker) {
        let displaced = {
            let runner = &mut self.state.borrow_mut().runner;
            match runner {
                Some(known) if known.will_wake(waker) => None,
                _ => runner.replace(waker.clone()),
            }
        };
        drop(displaced);
    }

    pub(super) fn wake_runner(&self) {
        let runner = self.state.borrow_mut().runner.take();
        if let Some(runner) = runner {
            runner.wake();
        }
    }

    /// Queues a request that somebody will await.
    pub(super) fn begin(&self, request: &Request<'_>, transaction: u32) -> Result<u32, ErrorKind> {
        let id = self.state.borrow_mut().queue(request, transaction, CallState::Awaited(None), true)?;
        self.wake_runner();
        Ok(id)
    }

    /// Queues a request that is not awaited. Those are the ones that give something back, so their number is
    /// bounded by what there is to be given back.
    pub(super) fn begin_detached(&self, request: &Request<'_>, transaction: u32, then: Then) {
        let queued = self.state.borrow_mut().queue(request, transaction, CallState::Detached(then), false);
        match queued {
            Ok(_) => self.wake_runner(),
            // Without a connection there is nothing left that would have to be given back there.
            Err(_) => self.finish_detached(then, None),
        }
    }

    /// The answer, once it is there.
    pub(super) fn poll_answer(&self, id: u32, waker: &Waker) -> Poll<Reply> {
        let mut state = self.state.borrow_mut();
        match state.calls.get_mut(id) {
            Some(Call { state: CallState::Awaited(Some(known)), .. }) if known.will_wake(waker) => Poll::Pending,
            Some(Call { state: CallState::Awaited(slot), .. }) => {
                let displaced = slot.replace(waker.clone());
                // Dropped with nothing borrowed: a task that goes with its last waker may use the store.
                drop(state);
                drop(displaced);
                Poll::Pending
            }
            _ => match state.calls.remove(id) {
                Some(Call { state: CallState::Answered(answer), .. }) => Poll::Ready(answer),
                _ => Poll::Ready(Err(ErrorKind::Interrupted)),
            },
        }
    }

    /// Nobody awaits the request any more. Where it is not on its way yet it will not be sent; otherwise `then` says
    /// what its answer leads to.
    pub(super) fn abandon(&self, id: u32, then: Then) {
        let answer = {
            let mut state = self.state.borrow_mut();
            if state.unqueue(id) {
                drop(state);
                self.places.add_permits(1);
                return self.finish_detached(then, None);
            }
            match state.calls.get_mut(id) {
                Some(call) if matches!(call.state, CallState::Awaited(_)) => {
                    call.state = CallState::Detached(then);
                    return;
                }
                // It was answered, and the reply not taken.
                Some(_) => match state.calls.remove(id) {
                    Some(Call { state: CallState::Answered(answer), .. }) => answer,
                    _ => return,
                },
                None => return,
            }
        };
        self.finish_detached(then, Some(&answer));
    }

    /// Handles the reply to a request that is not awaited.
    pub(super) fn finish_detached(&self, then: Then, answer: Option<&Reply>) {
        match then {
            Then::Nothing => {}
            Then::FreeTransaction => self.transactions.add_permits(1),
            Then::Commit { transaction, generation } => match answer {
                None if generation == Some(self.state.borrow().generation) => {
                    let end = Request::TransactionEnd { commit: false };
                    self.begin_detached(&end, transaction, Then::FreeTransaction);
                }
                _ => self.transactions.add_permits(1),
            },
            Then::AbortTransaction => match answer {
                Some(Ok((payload, generation))) => match wire::number(payload) {
                    Ok(id) if *generation == self.state.borrow().generation => {
                        let end = Request::TransactionEnd { commit: false };
                        self.begin_detached(&end, id, Then::FreeTransaction);
                    }
                    _ => self.transactions.add_permits(1),
                },
                _ => self.transactions.add_permits(1),
            },
            Then::Unwatch(id) => {
                let watch = self.state.borrow_mut().watches.remove(id);
                if let (Some(watch), Some(Ok(_))) = (watch, answer) {
                    let token = events::token(id);
                    self.begin_detached(&Request::Unwatch { path: &watch.path, token: &token }, 0, Then::Nothing);
                }
            }
            Then::Rewatched(id) => {
                // The connection that it was lost with is followed by one on which it is made again.
                if let Some(Err(error)) = answer
                    && !is_exists(error)
                    && *error != ErrorKind::Interrupted
                {
                    let mut state = self.state.borrow_mut();
                    if let Some(watch) = state.watches.get_mut(id) {
                        warning!("store: cannot re-register the watch on {}", watch.path);
                        watch.ended = true;
                        let waker = watch.waker.take();
                        drop(state);
                        waker.into_iter().for_each(Waker::wake);
                    }
                }
            }
        }
    }

    /// Takes a packet from the server.
    pub(super) fn deliver(&self, header: Header, payload: &[u8]) {
        if header.op == Op::WatchEvent as u32 {
            return self.deliver_event(payload);
        }
        let mut state = self.state.borrow_mut();
        let request = header.request;
        let queued = state.queue.iter().any(|packet| packet.request == request);
        let op = match state.calls.get(request) {
            Some(Call { state: CallState::Awaited(_) | CallState::Detached(_), op, .. }) if !queued => *op,
            _ => {
                state.unexpected += 1;
                let count = state.unexpected;
                drop(state);
                // A server that sends many of them does not fill the log.
                if count.is_power_of_two() {
                    warning!("store: unexpected reply to request {}, dropped ({} so far)", request, count);
                }
                return;
            }
        };
        let quiet = state.quiet.take();
        let generation = state.generation;
        drop(state);
        let answer = match header.op {
            number if number == op as u32 => Ok((payload.to_vec(), generation)),
            number if number == Op::Error as u32 => Err(ErrorKind::Refused(ServerError::parse(payload))),
            number => Err(ErrorKind::Malformed(Malformed::WrongType(number))),
        };
        self.answer(request, answer);
        quiet.into_iter().for_each(Waker::wake);
    }

    fn answer(&self, id: u32, answer: Reply) {
        let mut state = self.state.borrow_mut();
        let Some(call) = state.calls.get_mut(id) else { return };
        let has_place = core::mem::take(&mut call.has_place);
        match core::mem::replace(&mut call.state, CallState::Answered(Err(ErrorKind::Interrupted))) {
            CallState::Awaited(waker) => {
                call.state = CallState::Answered(answer);
                drop(state);
                waker.into_iter().for_each(Waker::wake);
            }
            CallState::Detached(then) => {
                state.calls.remove(id);
                drop(state);
                self.finish_detached(then, Some(&answer));
            }
            CallState::Answered(first) => call.state = CallState::Answered(first),
        }
        if has_place {
            self.places.add_permits(1);
        }
    }

    fn deliver_event(&self, payload: &[u8]) {
        let mut state = self.state.borrow_mut();
        let waker = match wire::watch_event(payload) {
            Ok(event) => {
                let id = events::id_of_token(event.token);
                match id.and_then(|id| state.watches.get_mut(id)) {
                    Some(watch) => watch.push(event.path),
                    // One that was still on its way when the watch was dropped.
                    None => None,
                }
            }
            Err(_) => {
                state.unexpected += 1;
                None
            }
        };
        drop(state);
        waker.into_iter().for_each(Waker::wake);
    }

    /// Copies what is to be sent next, as much as fits; [`sent`](Link::sent) says how much of it was.
    pub(super) fn next_bytes(&self, buffer: &mut [u8]) -> usize {
        let state = self.state.borrow();
        if state.phase != Phase::Up && (state.phase != Phase::Quiesced || state.sent == 0) {
            return 0;
        }
        let mut filled = 0;
        let mut skip = state.sent;
        // In the quiet phase a packet that was begun is ended, and no other begun.
        let packets = if state.phase == Phase::Quiesced { 1 } else { usize::MAX };
        for packet in state.queue.iter().take(packets) {
            let bytes = &packet.bytes[skip..];
            skip = 0;
            let len = bytes.len().min(buffer.len() - filled);
            buffer[filled..filled + len].copy_from_slice(&bytes[..len]);
            filled += len;
            if filled == buffer.len() {
                break;
            }
        }
        filled
    }

    /// Takes note that `len` bytes are in the ring.
    pub(super) fn sent(&self, len: usize) {
        let mut state = self.state.borrow_mut();
        state.sent += len;
        while let Some(first) = state.queue.front() {
            let whole = first.bytes.len();
            if state.sent < whole {
                break;
            }
            state.sent -= whole;
            state.queue.pop_front();
        }
    }

    /// Ends the connection for good: everybody who waits learns why.
    pub(super) fn fail(&self, broken: Broken) {
        let (calls, wakers) = {
            let mut state = self.state.borrow_mut();
            if matches!(state.phase, Phase::Broken(_)) {
                return;
            }
            state.phase = Phase::Broken(broken);
            state.queue.clear();
            state.sent = 0;
            let mut wakers: Vec<Waker> = state.watches.values_mut().filter_map(|watch| watch.waker.take()).collect();
            wakers.extend(state.quiet.take());
            (state.calls.iter().map(|(id, _)| id).collect::<Vec<_>>(), wakers)
        };
        for id in calls {
            self.answer(id, Err(broken.into()));
        }
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Begins a new connection: what waits for an answer will get none, and all watches are to be registered again.
    pub(super) fn renew(&self, features: Features) {
        let mut lost = Vec::new();
        let mut watches = Vec::new();
        {
            let mut state = self.state.borrow_mut();
            let state = &mut *state;
            state.generation = state.generation.wrapping_add(1);
            state.features = features;
            // A packet of which a part was sent is lost with the old connection.
            if core::mem::take(&mut state.sent) > 0 {
                state.queue.pop_front();
            }
            state.queue.retain(|packet| {
                if packet.in_transaction {
                    lost.push((packet.request, stale()));
                }
                !packet.in_transaction
            });
            for (id, _) in state.calls.iter() {
                let kept = state.queue.iter().any(|packet| packet.request == id);
                if !kept && !lost.iter().any(|(known, _)| *known == id) {
                    lost.push((id, ErrorKind::Interrupted));
                }
            }
            // Those that were never registered are in the queue still, or fail now; and so are those in the queue that were
            // to be registered on a connection that is over already.
            let rewatched = |packet: &Packet| match state.calls.get(packet.request)?.state {
                CallState::Detached(Then::Rewatched(id)) => Some(id),
                _ => None,
            };
            let queued: Vec<u32> = state.queue.iter().filter_map(rewatched).collect();
            for (id, watch) in state.watches.iter().filter(|(_, watch)| watch.registered && !watch.dropped) {
                if !queued.contains(&id) {
                    watches.push((id, watch.path.clone(), watch.depth));
                }
            }
        }
        for (id, error) in lost {
            self.answer(id, Err(error));
        }
        for (id, path, depth) in watches {
            let token = events::token(id);
            let request = Request::Watch { path: &path, token: &token, depth };
            self.begin_detached(&request, 0, Then::Rewatched(id));
        }
    }

    /// Whether requests that were sent wait for their answers.
    pub(super) fn is_quiet(&self) -> bool {
        let state = self.state.borrow();
        let waiting = state.calls.iter().filter(|(_, call)| !matches!(call.state, CallState::Answered(_))).count();
        state.sent == 0 && waiting == state.queue.len()
    }

    /// Whether nothing is left to be sent or answered.
    pub(super) fn is_idle(&self) -> bool {
        let state = self.state.borrow();
        state.queue.is_empty() && state.calls.len() == 0
    }

    pub(super) fn new_watch(&self, watch: WatchState) -> u32 {
        self.state.borrow_mut().watches.insert(watch)
    }
}

/// What a transaction from before a new connection gets.
pub(super) fn stale() -> ErrorKind {
    ErrorKind::Refused(ServerError { errno: Errno::EAGAIN, unknown: None })
}

/// Whether the store says that it has this watch already: it is there, and that is what was wanted.
pub(super) fn is_exists(error: &ErrorKind) -> bool {
    matches!(error, ErrorKind::Refused(error) if error.errno == Errno::EEXIST)
}

impl State {
    fn queue(
        &mut self,
        request: &Request<'_>,
        transaction: u32,
        state: CallState,
        has_place: bool,
    ) -> Result<u32, ErrorKind> {
        if let Phase::Broken(broken) = self.phase {
            return Err(broken.into());
        }
        let id = self.calls.insert(Call { op: request.op(), state, has_place });
        let mut bytes = Vec::new();
        if let Err(error) = request.encode(id, transaction, &mut bytes) {
            self.calls.remove(id);
            return Err(error.into());
        }
        self.queue.push_back(Packet { request: id, in_transaction: transaction != 0, bytes });
        Ok(id)
    }

    /// Takes a request out of the queue, where no byte of it was sent.
    fn unqueue(&mut self, id: u32) -> bool {
        let Some(position) = self.queue.iter().position(|packet| packet.request == id) else { return false };
        if position == 0 && self.sent > 0 {
            return false;
        }
        self.queue.remove(position);
        self.calls.remove(id).is_some()
    }
}

/// Makes an error of a request's failure.
pub(super) fn error(request: &Request<'_>, kind: impl Into<ErrorKind>) -> Error {
    Error::new(request.op(), &request.subject(), kind)
}

//! The rings of a share while they are in use: requests of its users, and answers of the backend.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::fmt;
use core::future::Future;
use core::pin::pin;
use core::task::{Context, Poll};
use core::time::Duration;

use xen_hal::{Clock, Errno, Grant, Port};
use xen_ring::{ByteReader, ByteWriter, GrantedPages};
use xenbus::{EventThrottle, Failure, Signals, Turn, Wake};

use super::requests::Who;
use super::session::{Session, Stage};
use super::shared::Shared;
use super::{Options, check};
use crate::protocol::{HEADER_SIZE, Header, Kind, Message};

/// How long requests in flight may take once the device is to close.
const CLOSING_TIMEOUT: Duration = Duration::from_secs(5);
/// What a piece of a message costs of a turn besides its bytes.
const PIECE_COST: usize = 1024;

/// What a backend is granted: the rings, all of one size, and their event channels.
pub(super) struct Link<G: Grant, P> {
    pub(super) rings: Vec<RingLink<G, P>>,
    pub(super) order: u32,
}

/// One of them.
pub(super) struct RingLink<G: Grant, P> {
    pub(super) memory: GrantedPages<G>,
    pub(super) requests: ByteWriter,
    pub(super) responses: ByteReader,
    pub(super) port: P,
}

/// The rings while they are in use.
pub(super) struct Connection<G: Grant, P> {
    shared: Rc<Shared>,
    rings: Vec<Ring<G, P>>,
    /// Which ring takes the next request.
    next: usize,
    /// Most bytes of a message: one that is longer than a ring would never be whole.
    offered: u32,
    session: Session,
    /// Users are gone, and the fids are given back.
    winds_down: bool,
}

struct Ring<G: Grant, P> {
    link: RingLink<G, P>,
    /// As much of an answer as is known to belong to it, and how much of that has come.
    inbox: Vec<u8>,
    received: usize,
    /// A request for which there is no room yet.
    outbox: Vec<u8>,
    /// Something was taken or sent, and the backend does not know it yet.
    moved: bool,
}

impl<G: Grant, P: Port> Connection<G, P> {
    pub(super) fn new(shared: Rc<Shared>, link: Link<G, P>, options: Options) -> Connection<G, P> {
        let offered = crate::ring::size(link.order);
        let ring =
            |link| Ring { link, inbox: Vec::from([0; HEADER_SIZE]), received: 0, outbox: Vec::new(), moved: false };
        let rings = link.rings.into_iter().map(ring).collect();
        Connection { shared, rings, next: 0, offered, session: Session::new(options), winds_down: false }
    }

    /// Uses the rings until the device is to close, or has no users any more.
    pub(super) async fn run(&mut self, signals: &Signals, clock: &impl Clock) -> Result<(), Failure> {
        let (mut throttle, mut turn) = (EventThrottle::default(), Turn::default());
        let (mut deadline, mut woken) = (None, false);
        let (mut closed, mut lost) = (pin!(signals.closing()), pin!(signals.lost()));
        loop {
            // Read first: the last answers of a backend that is gone still count.
            let (closing, is_lost) = (signals.is_closing(), signals.is_lost());
            let is_unused = self.shared.status.users().is_empty();
            if is_unused && !closing {
                self.wind_down();
            }
            let worked = self.step(closing, &mut turn)?;
            if closing || is_unused {
                deadline.get_or_insert_with(|| clock.now() + CLOSING_TIMEOUT);
            }
            let is_idle = self.shared.requests.count_sent() == 0;
            let is_over = is_idle && (closing || is_unused && self.shared.requests.count_clunks() == 0);
            if is_lost || is_over || deadline.is_some_and(|until| clock.now() >= until) {
                return Ok(());
            }
            match (core::mem::take(&mut woken), worked) {
                (true, true) => throttle.record_work(),
                (true, false) => throttle.record_spurious(),
                (false, _) => {}
            }
            if turn.is_over() {
                turn.end().await;
                continue;
            }
            if worked {
                continue;
            }
            let (notify, turn, mut slept) = (self.shared.status.users().notify(), &mut turn, false);
            let other = |cx: &mut Context<'_>| {
                // Being polled again means that other tasks had their turn.
                if core::mem::replace(&mut slept, true) {
                    turn.begin();
                }
                let ended = if closing { lost.as_mut().poll(cx) } else { closed.as_mut().poll(cx) };
                let notified = notify.poll_notified(cx);
                if ended.is_ready() || notified.is_ready() { Poll::Ready(()) } else { Poll::Pending }
            };
            let ports: Vec<_> = self.rings.iter().map(|ring| &ring.link.port).collect();
            let wake = throttle.wait(clock, &ports, deadline, other).await;
            woken = wake.is_event();
            self.shared.status.count(|statistics| statistics.events += u64::from(wake == Wake::Event));
        }
    }

    /// The last user has gone: the root is given back with all other fids, since xen-9pfsd counts those that it forgets
    /// by itself as open for as long as the device is there (`free_fids`).
    fn wind_down(&mut self) {
        if !self.winds_down && matches!(self.session.stage, Stage::Ready(_)) {
            self.shared.requests.release(super::fids::ROOT);
        }
        self.winds_down = true;
    }

    /// Takes answers and sends requests; whether there was something to do.
    fn step(&mut self, closing: bool, turn: &mut Turn) -> Result<bool, Failure> {
        let mut worked = false;
        for index in 0..self.rings.len() {
            while !turn.is_over() && self.receive(index, turn)? {
                worked = true;
            }
        }
        while !turn.is_over() && self.send(closing, turn)? {
            worked = true;
        }
        // Whatever the ring was like before: the backend may wait for room for a whole answer (docs/misc/9pfs.pandoc,
        // "Ring Usage": each step is notified).
        for ring in &mut self.rings {
            if core::mem::take(&mut ring.moved) {
                ring.link.port.notify();
            }
        }
        Ok(worked)
    }

    /// Takes what there is of an answer, and handles it once it is whole; `false` where there is nothing.
    fn receive(&mut self, index: usize, turn: &mut Turn) -> Result<bool, Failure> {
        let most = self.session.msize(self.offered);
        let Ring { link, inbox, received, moved: has_moved, .. } = &mut self.rings[index];
        let moved = link.responses.read(&link.memory, &mut inbox[*received..]).map_err(broken)?;
        if moved.bytes == 0 {
            return Ok(false);
        }
        turn.spend(PIECE_COST + moved.bytes);
        *has_moved = true;
        *received += moved.bytes;
        if *received < inbox.len() {
            return Ok(true);
        }
        let Some((header, _)) = inbox.split_first_chunk() else { return Ok(true) };
        let header = Header::from_bytes(*header);
        if (header.size as usize) < HEADER_SIZE || header.size > most {
            let text = format_args!("answer of {} bytes: expected {HEADER_SIZE} to {most}", header.size);
            return Err(broken(text));
        }
        if inbox.len() < header.size as usize {
            inbox.resize(header.size as usize, 0);
            return Ok(true);
        }
        *received = 0;
        let message = core::mem::replace(inbox, Vec::from([0; HEADER_SIZE]));
        self.handle(header, message)?;
        Ok(true)
    }

    /// Sends the next request, once there is room for all of it: QEMU's backend never looks again at one of which it
    /// has seen a part (`xen_9pfs_receive`). `false` where there is no room, or no request.
    fn send(&mut self, closing: bool, turn: &mut Turn) -> Result<bool, Failure> {
        let mut sent = false;
        for step in 0..self.rings.len() {
            let index = (self.next + step) % self.rings.len();
            if self.rings[index].outbox.is_empty() {
                let Some(bytes) = self.next_message(index, closing)? else { continue };
                self.rings[index].outbox = bytes;
            }
            let Ring { link, outbox, moved: has_moved, .. } = &mut self.rings[index];
            let unread = link.requests.unread(&link.memory).map_err(broken)?;
            if unread + outbox.len() > self.offered as usize {
                continue;
            }
            let moved = link.requests.write(&link.memory, outbox).map_err(broken)?;
            if moved.bytes < outbox.len() {
                return Err(broken("out_cons has moved back"));
            }
            turn.spend(PIECE_COST + moved.bytes);
            self.shared.status.count(|statistics| statistics.requests += 1);
            *outbox = Vec::new();
            *has_moved = true;
            self.next = (index + 1) % self.rings.len();
            sent = true;
            break;
        }
        Ok(sent)
    }

    /// What is to be sent next. A session begins on the first ring.
    fn next_message(&mut self, index: usize, closing: bool) -> Result<Option<Vec<u8>>, Failure> {
        if closing {
            return Ok(None);
        }
        if let Stage::Ready(_) = self.session.stage {
            let Some(session) = self.shared.status.info() else { return Ok(None) };
            return Ok(self.shared.requests.next(session.number));
        }
        if index != 0 {
            return Ok(None);
        }
        match self.session.next(self.offered) {
            Some(Ok(bytes)) => Ok(Some(bytes)),
            Some(Err(error)) => {
                self.session.stage = Stage::Refused(error);
                self.shared.refuse(error);
                Ok(None)
            }
            None => Ok(None),
        }
    }

    /// Checks an answer, and gives it to who has asked.
    fn handle(&mut self, header: Header, mut message: Vec<u8>) -> Result<(), Failure> {
        if let Some(asked) = self.session.asked(header.tag) {
            return self.begin(asked, header, &message);
        }
        let session = self.shared.status.info();
        let who = session.and_then(|session| Some((session, self.shared.requests.asked(header.tag)?)));
        let Some((session, who)) = who else {
            return Err(broken(format_args!("{} with tag {}, which no request has", header.kind, header.tag)));
        };
        let refusals = [check::refusal(session.dialect)];
        let is_refusal = refusals.contains(&header.kind);
        self.shared.status.count(|statistics| statistics.failures += u64::from(is_refusal));
        match who {
            Who::User(index, asked) => {
                check::kind(asked.kind, header, &refusals)?;
                message.drain(..HEADER_SIZE);
                let outcome = check::answer(asked, header, message)?;
                self.shared.requests.finish(index, outcome);
            }
            Who::Clunk(index) => {
                check::kind(Kind::TCLUNK, header, &refusals)?;
                Message::decode(header.kind, &message[HEADER_SIZE..]).map_err(broken)?;
                self.shared.requests.finish_clunk(index);
            }
        }
        Ok(())
    }

    /// Takes an answer to what begins the session.
    fn begin(&mut self, asked: Kind, header: Header, message: &[u8]) -> Result<(), Failure> {
        check::kind(asked, header, &[Kind::RLERROR, Kind::RERROR])?;
        let message = Message::decode(header.kind, &message[HEADER_SIZE..]).map_err(broken)?;
        let before = self.session.stage;
        self.session.answer(header, &message, self.offered).map_err(broken)?;
        match (before, self.session.stage) {
            (Stage::Attach(dialect, _), Stage::Ready(msize)) => self.shared.begin(dialect, msize),
            (_, Stage::Refused(error)) => {
                self.shared.status.count(|statistics| statistics.failures += 1);
                self.shared.refuse(error);
            }
            _ => {}
        }
        Ok(())
    }
}

/// The backend has broken the protocol.
pub(super) fn broken(what: impl fmt::Display) -> Failure {
    Failure::new(Errno::EIO, what)
}

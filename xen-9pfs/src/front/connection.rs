//! The ring of a share while it is in use: requests of its users, and answers of the backend.

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

use super::Error;
use super::requests::Answer;
use super::shared::Shared;
use crate::protocol::{HEADER_SIZE, Header, Kind, Message, VERSION};

/// How long requests in flight may take once the device is to close.
const CLOSING_TIMEOUT: Duration = Duration::from_secs(5);
/// What a piece of a message costs of a turn besides its bytes.
const PIECE_COST: usize = 1024;
/// Smallest msize that Linux's client takes from a server (`p9_client_version`).
const MIN_MSIZE: u32 = 4096;

/// What a backend is granted: the ring and its event channel.
pub(super) struct Link<G: Grant, P> {
    pub(super) memory: GrantedPages<G>,
    pub(super) order: u32,
    pub(super) requests: ByteWriter,
    pub(super) responses: ByteReader,
    pub(super) port: P,
}

/// A ring while it is in use.
pub(super) struct Connection<G: Grant, P> {
    shared: Rc<Shared>,
    link: Link<G, P>,
    /// Most bytes of a message: one that is longer than the ring would never be whole.
    offered: u32,
    /// As much of an answer as is known to belong to it, and how much of that has come.
    inbox: Vec<u8>,
    received: usize,
    /// A request for which there is no room yet.
    outbox: Vec<u8>,
}

impl<G: Grant, P: Port> Connection<G, P> {
    pub(super) fn new(shared: Rc<Shared>, link: Link<G, P>) -> Connection<G, P> {
        let offered = crate::ring::size(link.order);
        let (inbox, outbox) = (Vec::from([0; HEADER_SIZE]), Vec::new());
        Connection { shared, link, offered, inbox, received: 0, outbox }
    }

    /// Uses the ring until the device is to close, or has no users any more.
    pub(super) async fn run(&mut self, signals: &Signals, clock: &impl Clock) -> Result<(), Failure> {
        let (mut throttle, mut turn) = (EventThrottle::default(), Turn::default());
        let (mut deadline, mut woken) = (None, false);
        let (mut closed, mut lost) = (pin!(signals.closing()), pin!(signals.lost()));
        loop {
            // Read first: the last answers of a backend that is gone still count.
            let (closing, is_lost) = (signals.is_closing(), signals.is_lost());
            let worked = self.step(closing, &mut turn)?;
            if closing {
                deadline.get_or_insert_with(|| clock.now() + CLOSING_TIMEOUT);
            }
            let is_over = closing && self.shared.requests.count_sent() == 0 || self.shared.status.users().is_empty();
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
            let wake = throttle.wait(clock, &[&self.link.port], deadline, other).await;
            woken = wake.is_event();
            self.shared.status.count(|statistics| statistics.events += u64::from(wake == Wake::Event));
        }
    }

    /// Takes answers and sends requests; whether there was something to do.
    fn step(&mut self, closing: bool, turn: &mut Turn) -> Result<bool, Failure> {
        let mut worked = false;
        while !turn.is_over() && (self.receive(turn)? || self.send(closing, turn)?) {
            worked = true;
        }
        // Whatever the ring was like before: the backend may wait for room for a whole answer (docs/misc/9pfs.pandoc,
        // "Ring Usage": each step is notified).
        if worked {
            self.link.port.notify();
        }
        Ok(worked)
    }

    /// Takes what there is of an answer, and handles it once it is whole; `false` where there is nothing.
    fn receive(&mut self, turn: &mut Turn) -> Result<bool, Failure> {
        let moved = self.link.responses.read(&self.link.memory, &mut self.inbox[self.received..]).map_err(broken)?;
        if moved.bytes == 0 {
            return Ok(false);
        }
        turn.spend(PIECE_COST + moved.bytes);
        self.received += moved.bytes;
        if self.received < self.inbox.len() {
            return Ok(true);
        }
        let Some((header, body)) = self.inbox.split_first_chunk() else { return Ok(true) };
        let header = Header::from_bytes(*header);
        let most = self.shared.status.info().unwrap_or(self.offered);
        if (header.size as usize) < HEADER_SIZE || header.size > most {
            let text = format_args!("answer of {} bytes: expected {HEADER_SIZE} to {most}", header.size);
            return Err(broken(text));
        }
        if self.inbox.len() < header.size as usize {
            self.inbox.resize(header.size as usize, 0);
            return Ok(true);
        }
        handle(&self.shared, self.offered, header, body)?;
        self.inbox.truncate(HEADER_SIZE);
        self.received = 0;
        Ok(true)
    }

    /// Sends the next request, once there is room for all of it: QEMU's backend never looks again at one of which it
    /// has seen a part (`xen_9pfs_receive`). `false` where there is no room, or no request.
    fn send(&mut self, closing: bool, turn: &mut Turn) -> Result<bool, Failure> {
        let (status, link) = (&self.shared.status, &mut self.link);
        if self.outbox.is_empty() {
            if closing {
                return Ok(false);
            }
            let Some((kind, bytes)) = self.shared.requests.next(status.info(), self.offered) else { return Ok(false) };
            if kind == Kind::TVERSION {
                status.set_info(None);
            }
            self.outbox = bytes;
        }
        let unread = link.requests.unread(&link.memory).map_err(broken)?;
        if unread + self.outbox.len() > self.offered as usize {
            return Ok(false);
        }
        let moved = link.requests.write(&link.memory, &self.outbox).map_err(broken)?;
        if moved.bytes < self.outbox.len() {
            return Err(broken("out_cons has moved back"));
        }
        turn.spend(PIECE_COST + moved.bytes);
        status.count(|statistics| statistics.requests += 1);
        self.outbox.clear();
        Ok(true)
    }
}

/// Checks an answer, and gives it to who has asked.
fn handle(shared: &Shared, offered: u32, header: Header, body: &[u8]) -> Result<(), Failure> {
    let Some((place, asked)) = shared.requests.asked(header.tag) else {
        return Err(broken(format_args!("{} with tag {}, which no request has", header.kind, header.tag)));
    };
    let expected = Kind(asked.0 + 1);
    if header.kind != expected && header.kind != Kind::RLERROR {
        return Err(broken(format_args!("answer to {asked} has wrong type ({} instead of {expected})", header.kind)));
    }
    let outcome = match Message::decode(header.kind, body).map_err(broken)? {
        Message::Rversion { msize, .. } if msize > offered => {
            return Err(broken(format_args!("Rversion: msize = {msize}: expected {offered} at most")));
        }
        Message::Rversion { version, .. } if version != VERSION => Err(Error::UnknownVersion),
        Message::Rversion { msize, .. } if msize < MIN_MSIZE => Err(Error::SmallMsize(msize)),
        Message::Rversion { msize, .. } => {
            shared.status.set_info(Some(msize));
            Ok(Answer::Version { msize })
        }
        Message::Rattach { qid } => Ok(Answer::Attach { qid }),
        Message::Rlerror { ecode } => Err(Error::Refused(Errno::from_number(ecode.cast_signed()))),
        Message::Tversion { .. } | Message::Tattach { .. } => {
            return Err(broken(format_args!("{} is no answer", header.kind)));
        }
    };
    shared.status.count(|statistics| statistics.failures += u64::from(outcome.is_err()));
    shared.requests.finish(place, outcome);
    Ok(())
}

/// The backend has broken the protocol.
pub(super) fn broken(what: impl fmt::Display) -> Failure {
    Failure::new(Errno::EIO, what)
}

//! What a share's handles and its driver have in common.

use alloc::rc::Rc;
use core::cell::{Cell, RefCell};

use xenbus::{Phase, Status, Users};

use super::requests::{Answer, Request, Requests, Ticket};
use super::{Dialect, Error};
use crate::protocol::Message;

/// What was agreed on with the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Session {
    /// Which one it is; the share's first one is 1.
    pub number: u32,
    /// The dialect.
    pub dialect: Dialect,
    /// Most bytes of a message.
    pub msize: u32,
}

pub(super) struct Shared {
    /// What is known of the device is the session, where there is one.
    pub(super) status: Status<Option<Session>, Statistics>,
    /// Why there is none, although there is a backend.
    pub(super) refused: Cell<Option<Error>>,
    pub(super) requests: Requests,
    /// What the toolstack calls the share.
    pub(super) tag: RefCell<Option<Rc<str>>>,
    /// Sessions that there were.
    sessions: Cell<u32>,
    /// Whether the server does not know `Tremove`: that is seen at the first one.
    pub(super) no_remove: Cell<bool>,
}

/// What a share has done since its driver began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub struct Statistics {
    /// Requests sent.
    pub requests: u64,
    /// Of these the ones that were refused.
    pub failures: u64,
    /// Events that came.
    pub events: u64,
    /// Connections made.
    pub connections: u64,
}

impl Shared {
    pub(super) fn new() -> Shared {
        Shared {
            status: Status::new(None),
            refused: Cell::new(None),
            requests: Requests::new(),
            tag: RefCell::default(),
            sessions: Cell::new(0),
            no_remove: Cell::new(false),
        }
    }

    /// A session has begun.
    pub(super) fn begin(&self, dialect: Dialect, msize: u32) {
        self.sessions.set(self.sessions.get().wrapping_add(1));
        self.no_remove.set(false);
        self.refused.set(None);
        self.status.set_info(Some(Session { number: self.sessions.get(), dialect, msize }));
        self.status.set_phase(Phase::Up);
    }

    /// The server wants none.
    pub(super) fn refuse(&self, error: Error) {
        self.refused.set(Some(error));
        self.status.set_info(None);
        self.status.set_phase(Phase::Up);
        self.requests.changes.wake_all();
    }

    /// The connection has ended, and with it the session.
    pub(super) fn disconnect(&self) {
        self.refused.set(None);
        self.status.set_info(None);
        self.status.set_phase(Phase::Waiting);
        self.requests.end_session(Error::Disconnected, Error::Stale);
    }

    /// Nothing will be answered any more.
    pub(super) fn lose(&self) {
        self.refused.set(None);
        self.status.set_info(None);
        self.status.set_phase(Phase::Gone);
        self.requests.end_session(Error::Gone, Error::Gone);
    }

    /// Waits for a session.
    pub(super) async fn session(&self) -> Result<Session, Error> {
        self.status
            .changed(|| match (self.status.phase(), self.status.info()) {
                (Phase::Gone, _) => Some(Err(Error::Gone)),
                (_, Some(session)) => Some(Ok(session)),
                (Phase::Up, None) => self.refused.get().map(Err),
                (Phase::Waiting, None) => None,
            })
            .await
    }

    /// Why a request of a session cannot be made, if so.
    fn check(&self, session: u32) -> Result<(), Error> {
        match self.status.info() {
            Some(now) if now.number == session => Ok(()),
            _ if self.status.phase() == Phase::Gone => Err(Error::Gone),
            _ => Err(Error::Stale),
        }
    }

    /// Queues a request.
    pub(super) async fn queue(&self, session: Session, message: &Message<'_>) -> Result<Ticket<'_>, Error> {
        let request = Request::new(message, session.number, session.msize)?;
        let ticket = self.requests.queue(request, || self.check(session.number)).await?;
        self.status.notify();
        Ok(ticket)
    }

    /// Makes a request, and waits for its answer.
    pub(super) async fn call(&self, session: Session, message: &Message<'_>) -> Result<Answer, Error> {
        self.queue(session, message).await?.answer().await
    }

    /// Has the server forget a fid of a session.
    pub(super) fn release(&self, session: u32, fid: u32) {
        if self.check(session).is_ok() {
            self.requests.release(fid);
            self.status.notify();
        }
    }
}

impl AsRef<Users> for Shared {
    fn as_ref(&self) -> &Users {
        self.status.users()
    }
}

//! What a share's handles and its driver have in common.

use alloc::rc::Rc;
use core::cell::RefCell;

use xenbus::{Phase, Status, Users};

use super::Error;
use super::requests::Requests;

pub(super) struct Shared {
    /// What is known of the device is the session's msize, where there is a session.
    pub(super) status: Status<Option<u32>, Statistics>,
    pub(super) requests: Requests,
    /// What the toolstack calls the share.
    pub(super) tag: RefCell<Option<Rc<str>>>,
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
        Shared { status: Status::new(None), requests: Requests::new(), tag: RefCell::default() }
    }

    /// The connection has ended, and with it the session.
    pub(super) fn disconnect(&self) {
        self.status.set_info(None);
        self.status.set_phase(Phase::Waiting);
        self.requests.fail_sent(Error::Disconnected);
    }

    /// Nothing will be answered any more.
    pub(super) fn lose(&self) {
        self.status.set_info(None);
        self.status.set_phase(Phase::Gone);
        self.requests.fail_all(Error::Gone);
    }
}

impl AsRef<Users> for Shared {
    fn as_ref(&self) -> &Users {
        self.status.users()
    }
}

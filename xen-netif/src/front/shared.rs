//! What an interface's handles, its device and its driver have in common.

use core::cell::{Cell, RefCell};
use core::time::Duration;

use xen_hal::{DomId, Memory};
use xenbus::{Failure, Phase, Status, Users, WakerSlot};

use super::rx::Rx;
use super::tx::Tx;
use super::{Info, Options};
use crate::mss::Flows;
use crate::path_mtu::PathMtus;
use crate::protocol::Extra;

/// What an interface has done since its driver began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub struct Statistics {
    /// Frames sent, each of them however large it was.
    pub sent: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Of these, frames that the backend has cut into segments.
    pub sent_large: u64,
    /// And frames that the backend has read in pages of their own: all others were copied.
    pub granted: u64,
    /// Frames that were not sent: for want of room, or since the link was down.
    pub unsent: u64,
    /// Frames that the backend has refused.
    pub refused: u64,
    /// Frames received.
    pub received: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Of these, frames that were copied, since their pages were not side by side.
    pub copied: u64,
    /// Frames that were dropped: the backend says that they are bad, their checksum is wrong, or they leave to this end
    /// what it has not asked for or cannot do.
    pub dropped: u64,
    /// Notifications sent to the backend.
    pub notifications: u64,
    /// Events that came.
    pub events: u64,
    /// Connections made.
    pub connections: u64,
}

pub(super) struct Shared<G: Memory> {
    pub(super) memory: G,
    pub(super) options: Options,
    pub(super) peer: Cell<DomId>,
    pub(super) status: Status<Info, Statistics>,
    /// Whether the stack may make frames that are larger than the MTU.
    pub(super) large: Cell<bool>,
    /// The rings, while there is a backend. A stack answers while it reads, so each is borrowed by itself.
    pub(super) tx: RefCell<Option<Tx<G>>>,
    pub(super) rx: RefCell<Option<Rx<G>>>,
    pub(super) flows: RefCell<Flows>,
    pub(super) paths: PathMtus,
    /// What broke while the device was using the rings, for the driver to end the connection with.
    pub(super) failure: RefCell<Option<Failure>>,
    /// The stack, where it waits for a frame, for room or for the link.
    pub(super) stack: WakerSlot,
    /// The stack has found no room for a frame.
    pub(super) wants_room: Cell<bool>,
}

impl<G: Memory> Shared<G> {
    pub(super) fn new(memory: G, options: Options, now: impl Fn() -> Duration + 'static) -> Shared<G> {
        Shared {
            memory,
            options,
            peer: Cell::new(DomId::DOM0),
            status: Status::new(Info::default()),
            large: Cell::new(false),
            tx: RefCell::new(None),
            rx: RefCell::new(None),
            flows: RefCell::default(),
            paths: PathMtus::new(now),
            failure: RefCell::new(None),
            stack: WakerSlot::default(),
            wants_room: Cell::new(false),
        }
    }

    pub(super) fn count(&self, change: impl FnOnce(&mut Statistics)) {
        self.status.count(change);
    }

    /// What broke while the device was using the rings: the driver ends the connection.
    pub(super) fn fail(&self, failure: Failure) {
        *self.failure.borrow_mut() = Some(failure);
        self.status.notify();
    }

    pub(super) fn set_phase(&self, phase: Phase) {
        self.status.set_phase(phase);
        self.stack.wake();
    }

    /// Gives up the rings.
    pub(super) fn disconnect(&self, phase: Phase) {
        *self.tx.borrow_mut() = None;
        *self.rx.borrow_mut() = None;
        *self.failure.borrow_mut() = None;
        self.set_phase(phase);
    }

    pub(super) fn send_extra(&self, extra: Extra) -> bool {
        let sent = self.tx.borrow_mut().as_mut().is_some_and(|tx| tx.send_extra(extra));
        if sent {
            self.status.notify();
        }
        sent
    }
}

impl<G: Memory> AsRef<Users> for Shared<G> {
    fn as_ref(&self) -> &Users {
        self.status.users()
    }
}

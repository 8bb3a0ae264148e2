//! What an interface's handles, its device and its driver have in common.

use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::task::{Poll, Waker};

use xen_hal::DomId;
use xen_ring::WaitQueue;
use xenstore_client::xenbus::Failure;

use super::rx::Rx;
use super::tx::Tx;
use super::{Gone, Info, Memory, Options};
use crate::mss::Flows;
use crate::protocol::Extra;

/// How an interface stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// No backend serves it yet, or again.
    Waiting,
    Up,
    /// It was removed, or its backend has failed; one that begins anew can bring it back.
    Gone,
}

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
    pub(super) phase: Cell<Phase>,
    pub(super) info: Cell<Info>,
    /// Whether the stack may make frames that are larger than the MTU.
    pub(super) large: Cell<bool>,
    /// The rings, while there is a backend. A stack answers while it reads, so each is borrowed by itself.
    pub(super) tx: RefCell<Option<Tx<G>>>,
    pub(super) rx: RefCell<Option<Rx<G>>>,
    pub(super) flows: RefCell<Flows>,
    /// What broke while the device was using the rings, for the driver to end the connection with.
    pub(super) failure: RefCell<Option<Failure>>,
    /// Users of the interface: without any the driver ends.
    pub(super) handles: Cell<usize>,
    /// The driver has something to look at.
    kicked: Cell<bool>,
    driver: RefCell<Option<Waker>>,
    /// The stack, where it waits for a frame, for room or for the link.
    stack: RefCell<Option<Waker>>,
    /// The stack has found no room for a frame.
    pub(super) wants_room: Cell<bool>,
    watchers: WaitQueue,
    pub(super) statistics: Cell<Statistics>,
}

impl<G: Memory> Shared<G> {
    pub(super) fn new(memory: G, options: Options) -> Shared<G> {
        Shared {
            memory,
            options,
            peer: Cell::new(DomId::DOM0),
            phase: Cell::new(Phase::Waiting),
            info: Cell::default(),
            large: Cell::new(false),
            tx: RefCell::new(None),
            rx: RefCell::new(None),
            flows: RefCell::default(),
            failure: RefCell::new(None),
            handles: Cell::new(1),
            kicked: Cell::new(false),
            driver: RefCell::default(),
            stack: RefCell::default(),
            wants_room: Cell::new(false),
            watchers: WaitQueue::new(),
            statistics: Cell::default(),
        }
    }

    pub(super) fn count(&self, change: impl FnOnce(&mut Statistics)) {
        let mut statistics = self.statistics.get();
        change(&mut statistics);
        self.statistics.set(statistics);
    }

    /// Has the driver look around.
    pub(super) fn kick(&self) {
        if !self.kicked.replace(true) {
            let waker = self.driver.borrow_mut().take();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    /// For the driver: whether it was kicked since the last look; if not, `waker` is woken when it is.
    pub(super) fn poll_kicked(&self, waker: &Waker) -> Poll<()> {
        if self.kicked.replace(false) {
            return Poll::Ready(());
        }
        *self.driver.borrow_mut() = Some(waker.clone());
        Poll::Pending
    }

    /// For the driver: it is about to look at everything.
    pub(super) fn forget_kick(&self) {
        self.kicked.set(false);
    }

    /// For the device: whom to wake.
    pub(super) fn register_stack(&self, waker: &Waker) {
        let mut stack = self.stack.borrow_mut();
        if !stack.as_ref().is_some_and(|old| old.will_wake(waker)) {
            *stack = Some(waker.clone());
        }
    }

    pub(super) fn wake_stack(&self) {
        let waker = self.stack.borrow_mut().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(super) fn set(&self, phase: Phase) {
        self.phase.set(phase);
        self.watchers.wake_all();
        self.wake_stack();
    }

    /// Gives up the rings.
    pub(super) fn disconnect(&self, phase: Phase) {
        *self.tx.borrow_mut() = None;
        *self.rx.borrow_mut() = None;
        *self.failure.borrow_mut() = None;
        self.set(phase);
    }

    pub(super) async fn ready(&self) -> Result<Info, Gone> {
        self.watchers
            .wait_until(|| match self.phase.get() {
                Phase::Up => Some(Ok(self.info.get())),
                Phase::Gone => Some(Err(Gone)),
                Phase::Waiting => None,
            })
            .await
    }

    /// One user less.
    pub(super) fn release(&self) {
        self.handles.set(self.handles.get() - 1);
        if self.handles.get() == 0 {
            self.kick();
        }
    }

    /// For the driver: waits until nobody uses the interface.
    pub(super) async fn unused(&self) {
        poll_fn(|cx| match self.handles.get() {
            0 => Poll::Ready(()),
            _ => {
                while self.poll_kicked(cx.waker()).is_ready() {}
                Poll::Pending
            }
        })
        .await
    }

    pub(super) fn send_extra(&self, extra: Extra) -> bool {
        let sent = self.tx.borrow_mut().as_mut().is_some_and(|tx| tx.send_extra(extra));
        if sent {
            self.kick();
        }
        sent
    }
}

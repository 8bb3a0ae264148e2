//! What the two halves of a channel share.

use alloc::boxed::Box;
use alloc::rc::Rc;
use core::cell::{Cell, RefCell};
use core::time::Duration;

use xen_hal::{DomId, EventChannels, Port, Xen, warning};
use xen_ring::{BadIndex, SharedMemory};
use xenbus::{EventThrottle, RateLimit};

use crate::error::Error;
use crate::layout::{self, End, Layout};
use crate::memory::Memory;
use crate::sleep::Sleepers;

/// How often an end that waits looks whether its peer is still bound to the event channel: of the end of a domain, or of a
/// program that has no time to say goodbye, nothing else tells a guest without rights in the store.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// Whom a channel is with, and what the log is told of it.
#[derive(Clone)]
pub(crate) struct Origin {
    pub(crate) end: End,
    pub(crate) peer: DomId,
    /// Where it is in the store, for the log.
    pub(crate) path: Box<str>,
    lines: Rc<RefCell<RateLimit>>,
}

impl Origin {
    pub(crate) fn new(end: End, peer: DomId, path: &str) -> Origin {
        Origin { end, peer, path: path.into(), lines: Rc::new(RefCell::new(RateLimit::for_log_lines())) }
    }

    /// The same at another path.
    pub(crate) fn at(&self, path: &str) -> Origin {
        Origin { path: path.into(), ..self.clone() }
    }

    /// Whether a line is logged that the peer can cause, by any of the channels of one server or client.
    pub(crate) fn allows_line(&self, now: Duration) -> bool {
        self.lines.borrow_mut().allows(now)
    }
}

/// An open channel. When it is dropped, the peer is told.
pub(crate) struct Link<X: Xen> {
    pub(crate) xen: X,
    pub(crate) layout: Layout,
    pub(crate) origin: Origin,
    pub(crate) sleepers: Sleepers,
    pub(crate) throttle: Cell<EventThrottle>,
    /// Counts what was moved, by either half.
    pub(crate) moves: Cell<u64>,
    failure: Cell<Option<BadIndex>>,
    /// The peer has left without a word.
    gone: Cell<bool>,
    next_check: Cell<Duration>,
    pub(crate) memory: Memory<X>,
    pub(crate) port: <X as EventChannels>::Port,
}

impl<X: Xen> Link<X> {
    pub(crate) fn new(
        xen: X,
        (memory, layout): (Memory<X>, Layout),
        port: <X as EventChannels>::Port,
        origin: Origin,
    ) -> Link<X> {
        let next_check = Cell::new(xen.now().saturating_add(CHECK_INTERVAL));
        Link {
            xen,
            layout,
            origin,
            sleepers: Sleepers::default(),
            throttle: Cell::default(),
            moves: Cell::new(0),
            failure: Cell::new(None),
            gone: Cell::new(false),
            next_check,
            memory,
            port,
        }
    }

    pub(crate) fn page(&self) -> &SharedMemory {
        self.memory.page()
    }

    /// Whether the peer is there, for all that is known.
    pub(crate) fn is_open(&self) -> bool {
        self.failure.get().is_none() && !self.gone.get() && layout::is_live(self.page(), self.origin.end.other())
    }

    /// Fails where the peer has broken the protocol.
    pub(crate) fn check(&self) -> Result<(), Error> {
        self.failure.get().map_or(Ok(()), |failure| Err(failure.into()))
    }

    /// The peer has broken the protocol: the channel is of no use any more, for either half.
    pub(crate) fn fail(&self, failure: BadIndex) -> Error {
        if self.failure.replace(Some(failure)).is_none() {
            if self.origin.allows_line(self.xen.now()) {
                warning!("vchan {}: {}: {}", self.origin.path, self.origin.peer, failure);
            }
            self.sleepers.wake_both();
        }
        failure.into()
    }

    /// Something was moved.
    pub(crate) fn record_work(&self, notify: bool) {
        if notify {
            self.port.notify();
        }
        self.moves.set(self.moves.get().wrapping_add(1));
        self.throttle.set(EventThrottle::default());
    }

    /// When to look next whether the peer is there.
    pub(crate) fn next_check(&self) -> Duration {
        self.next_check.get()
    }

    /// Looks whether the peer is there, where it is time to.
    pub(crate) fn check_peer(&self) {
        let now = self.xen.now();
        if now < self.next_check.get() {
            return;
        }
        self.next_check.set(now.saturating_add(CHECK_INTERVAL));
        if !self.port.is_bound() && !self.gone.replace(true) {
            self.sleepers.wake_both();
        }
    }
}

impl<X: Xen> Drop for Link<X> {
    fn drop(&mut self) {
        layout::detach(self.page(), self.origin.end);
        self.port.notify();
    }
}

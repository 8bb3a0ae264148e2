//! What a disk's handles and its driver have in common.

use alloc::rc::Rc;
use core::cell::Cell;

use xen_hal::Memory;
use xenbus::{Phase, Status, Users};

use super::buffer::{Buffer, Pool};
use super::queue::{Kind, Queue};
use crate::device::{Completed, Error, Geometry};

pub(super) struct Shared<G: Memory> {
    pub(super) pool: Rc<Pool<G>>,
    pub(super) status: Status<Geometry, Statistics>,
    pub(super) queue: Queue<G>,
    /// Whether the driver has ended.
    ended: Cell<bool>,
}

/// What was connected when: it changes with each connection to a backend, and with what the backend says of the disk. A
/// connection may bring another medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generation {
    connections: u64,
    geometry: Geometry,
}

/// What a disk has done since its driver began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub struct Statistics {
    /// Requests of the ring.
    pub requests: u64,
    /// Of these with segments in pages of their own.
    pub indirect: u64,
    /// Pages that were copied, since the backend keeps no more mapped.
    pub bounced: u64,
    /// Requests that failed.
    pub failures: u64,
    /// Notifications sent to the backend.
    pub notifications: u64,
    /// Events that came.
    pub events: u64,
    /// Connections made.
    pub connections: u64,
    /// Requests that the ring of the last connection holds.
    pub ring_slots: u32,
}

impl<G: Memory> Shared<G> {
    pub(super) fn new(memory: G) -> Shared<G> {
        Shared {
            pool: Rc::new(Pool::new(memory)),
            status: Status::new(Geometry::plain(0)),
            queue: Queue::new(),
            ended: Cell::new(false),
        }
    }

    pub(super) fn generation(&self) -> Generation {
        Generation { connections: self.status.statistics().get().connections, geometry: self.status.info() }
    }

    /// Whether there is another generation that can be used; `None` where there may be one yet.
    pub(super) fn is_renewed(&self, known: &Generation) -> Option<bool> {
        if self.ended.get() {
            return Some(false);
        }
        (self.status.phase() == Phase::Up && self.generation() != *known).then_some(true)
    }

    /// Queues a request and waits for its end.
    pub(super) async fn submit(
        &self,
        kind: Kind,
        sector: u64,
        buffer: Option<Buffer<G>>,
    ) -> Completed<Option<Buffer<G>>> {
        if self.status.phase() == Phase::Gone {
            return (buffer, Err(Error::Gone));
        }
        self.queue.submit(kind, sector, buffer, || self.status.notify()).await
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.get()
    }

    /// The driver ends.
    pub(super) fn end(&self) {
        self.ended.set(true);
        self.lose();
    }

    /// Nothing will be answered any more.
    pub(super) fn lose(&self) {
        self.status.set_phase(Phase::Gone);
        self.queue.fail_all(Error::Gone);
    }
}

impl<G: Memory> AsRef<Users> for Shared<G> {
    fn as_ref(&self) -> &Users {
        self.status.users()
    }
}

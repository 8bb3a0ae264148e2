//! A guest's interface as the application has it: packets from the guest, and packets for it.

use alloc::boxed::Box;
use alloc::rc::{Rc, Weak};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::fmt;
use core::future::poll_fn;
use core::task::Poll;
use core::time::Duration;

use xen_ring::WaitQueue;
use xenbus::{Phase, Status, WakerSlot};

use super::packet::Packet;
use super::queue::{self, Queue};
use super::{Attachment, Limits, Statistics};

/// Why a packet was not taken for a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError {
    /// The guest is not connected.
    Down,
    /// So much waits for the guest that there is no room for more.
    Full,
    /// The guest does not want this multicast group.
    Multicast,
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SendError::Down => "the guest is not connected",
            SendError::Full => "the guest does not take its packets",
            SendError::Multicast => "the guest has not joined the group",
        })
    }
}

impl core::error::Error for SendError {}

/// Writes something down.
pub(super) type Show = dyn Fn(&mut fmt::Formatter<'_>) -> fmt::Result;

/// What a port and its driver have in common.
pub(super) struct Shared {
    pub(super) attachment: Attachment,
    pub(super) limits: Limits,
    pub(super) from_guest: RefCell<Queue>,
    pub(super) to_guest: RefCell<Queue>,
    /// Memory of the packet that is on its way from that queue to the guest.
    in_transit: Cell<usize>,
    pub(super) status: Status<(), Statistics>,
    /// The groups that the guest wants, where it wants no others.
    pub(super) groups: RefCell<Option<Vec<[u8; 6]>>>,
    /// The application has found no room for a packet.
    pub(super) wants_room: Cell<bool>,
    /// While the guest is connected: writes how its rings stand.
    pub(super) rings: RefCell<Option<Box<Show>>>,
    /// Whom to wake when there is a packet from the guest, or room for one to it.
    pub(super) application: WakerSlot,
    /// Others who wait for room.
    room: WaitQueue,
    pub(super) now: Box<dyn Fn() -> Duration>,
}

impl Shared {
    pub(super) fn new(attachment: Attachment, limits: Limits, now: impl Fn() -> Duration + 'static) -> Shared {
        Shared {
            attachment,
            limits,
            from_guest: RefCell::default(),
            to_guest: RefCell::default(),
            in_transit: Cell::new(0),
            status: Status::new(()),
            groups: RefCell::new(None),
            wants_room: Cell::new(false),
            rings: RefCell::default(),
            application: WakerSlot::default(),
            room: WaitQueue::default(),
            now: Box::new(now),
        }
    }

    pub(super) fn count(&self, change: impl FnOnce(&mut Statistics)) {
        self.status.count(change);
    }

    /// Whether the guest is connected.
    pub(super) fn is_up(&self) -> bool {
        self.status.phase() == Phase::Up
    }

    /// A packet from the guest, for the application.
    pub(super) fn deliver(&self, packet: Packet) {
        self.count(|statistics| {
            statistics.from_guest += 1;
            statistics.from_guest_bytes += packet.bytes.len() as u64;
        });
        self.from_guest.borrow_mut().push(packet);
    }

    /// The next packet from the guest.
    pub(super) fn next(&self) -> Option<Packet> {
        let before = self.is_congested();
        let packet = self.from_guest.borrow_mut().pop()?;
        if before && !self.is_congested() {
            self.status.notify();
        }
        Some(packet)
    }

    /// Whether the application has so much to read that the guest has to wait.
    pub(super) fn is_congested(&self) -> bool {
        !self.accepts_more(0, 0)
    }

    /// Whether one more packet is taken from the guest where `count` are about to be delivered, which have so much memory.
    /// Nobody knows how large it is: one is taken where there is room for any.
    pub(super) fn accepts_more(&self, count: usize, memory: usize) -> bool {
        let from_guest = self.from_guest.borrow();
        (count == 0 && from_guest.is_empty()) || from_guest.held_with(count + 1, memory) < self.limits.from_guest
    }

    /// The next packet for the guest. Its memory counts until [`has_left`](Shared::has_left).
    pub(super) fn next_for_guest(&self) -> Option<Packet> {
        let packet = self.to_guest.borrow_mut().pop()?;
        self.in_transit.set(queue::memory(packet.bytes.memory()));
        Some(packet)
    }

    /// That packet is gone.
    pub(super) fn has_left(&self) {
        self.in_transit.set(0);
        self.room.wake_all();
        if self.wants_room.replace(false) {
            self.application.wake();
        }
    }

    /// Whether something waits for the guest, or is on its way.
    pub(super) fn has_waiting(&self) -> bool {
        self.in_transit.get() > 0 || !self.to_guest.borrow().is_empty()
    }

    /// Whether a packet with this memory finds room in the queue for the guest.
    pub(super) fn has_room(&self, memory: usize) -> bool {
        self.to_guest.borrow().held_with(1, memory) + self.in_transit.get() <= self.limits.to_guest
    }

    /// Nothing waits for the guest any more.
    pub(super) fn drop_queue(&self) {
        let dropped = core::mem::take(&mut *self.to_guest.borrow_mut()).len() + usize::from(self.in_transit.get() > 0);
        self.count(|statistics| statistics.dropped += dropped as u64);
        self.has_left();
    }

    /// The guest is connected no longer.
    pub(super) fn disconnect(&self, phase: Phase) {
        self.status.set_phase(phase);
        *self.groups.borrow_mut() = None;
        *self.rings.borrow_mut() = None;
        self.drop_queue();
        self.application.wake();
    }
}

/// A guest's interface.
///
/// Packets from the guest wait here until they are read, and the guest waits when they are too many. Packets for it wait
/// until it has room, and are dropped when they are too many or it takes none for too long.
pub struct Port(pub(super) Rc<Shared>);

impl Port {
    /// Whose it is.
    pub fn attachment(&self) -> &Attachment {
        &self.0.attachment
    }

    /// Whether the guest is connected.
    pub fn is_up(&self) -> bool {
        self.0.is_up()
    }

    /// Waits until the guest is connected, if it is not, or until it is no longer. Whether it is; `None` once the interface is
    /// gone.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time.
    pub async fn changed(&self, was_up: bool) -> Option<bool> {
        let status = &self.0.status;
        status
            .changed(|| match status.phase() {
                Phase::Gone => Some(None),
                phase if (phase == Phase::Up) != was_up => Some(Some(!was_up)),
                _ => None,
            })
            .await
    }

    /// The next packet of the guest's; `None` once the interface is gone.
    ///
    /// # Cancellation
    ///
    /// Dropping the future loses no packet.
    pub async fn receive(&self) -> Option<Packet> {
        poll_fn(|cx| match self.0.next() {
            Some(packet) => Poll::Ready(Some(packet)),
            None if self.0.status.phase() == Phase::Gone => Poll::Ready(None),
            None => {
                self.0.application.register(cx.waker());
                Poll::Pending
            }
        })
        .await
    }

    /// Sends a packet to the guest, or has it wait for room there. What the guest cannot take as it is is completed and
    /// cut for it; a packet for which that cannot be done, since what it says of itself is wrong, is dropped and counted.
    ///
    /// # Errors
    ///
    /// Where it is dropped.
    pub fn send(&self, packet: Packet) -> Result<(), SendError> {
        let shared = &self.0;
        let refuse = |why| {
            shared.count(|statistics| statistics.dropped += 1);
            Err(why)
        };
        if !shared.is_up() {
            return refuse(SendError::Down);
        }
        let group: Option<[u8; 6]> = packet.bytes.first_chunk().copied().filter(|address| address[0] & 1 != 0);
        if let (Some(group), Some(groups)) = (group, &*shared.groups.borrow())
            && group != [0xff; 6]
            && !groups.contains(&group)
        {
            return refuse(SendError::Multicast);
        }
        if !shared.has_room(queue::memory(packet.bytes.memory())) {
            return refuse(SendError::Full);
        }
        shared.to_guest.borrow_mut().push(packet);
        shared.status.notify();
        Ok(())
    }

    /// Whether a packet would be [dropped](SendError::Full) since too much waits for the guest.
    pub fn is_full(&self, packet: &Packet) -> bool {
        self.0.is_up() && !self.0.has_room(queue::memory(packet.bytes.memory()))
    }

    /// Waits until a packet would not be dropped for want of room. A guest may never make room.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time.
    pub async fn room(&self, packet: &Packet) {
        self.0.room.wait_until(|| (!self.is_full(packet)).then_some(())).await;
    }

    /// What it has done so far.
    pub fn statistics(&self) -> Statistics {
        self.0.status.statistics().get()
    }

    /// What shows how its rings stand, for whoever looks for a fault (`dump_rings` of FreeBSD's xnb). It does not keep
    /// the port open.
    pub fn rings(&self) -> PortRings {
        PortRings(Rc::downgrade(&self.0))
    }
}

/// A port's rings, to be displayed.
pub struct PortRings(Weak<Shared>);

impl PortRings {
    /// Whether the port is still there.
    pub fn is_alive(&self) -> bool {
        self.0.strong_count() > 0
    }
}

impl fmt::Display for PortRings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(shared) = self.0.upgrade() else { return f.write_str("closed") };
        match &*shared.rings.borrow() {
            Some(show) => show(f)?,
            None => f.write_str("not connected")?,
        }
        let (from, to) = (shared.from_guest.borrow().held(), shared.to_guest.borrow().held() + shared.in_transit.get());
        write!(f, "; {from} bytes held from the guest, {to} for it; {:?}", shared.status.statistics().get())
    }
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Port").field("attachment", &self.0.attachment).field("up", &self.is_up()).finish()
    }
}

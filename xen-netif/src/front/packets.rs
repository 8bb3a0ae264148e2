//! The interface as a router sees it: frames with what is left open of them, which nobody completes before it is needed.

use core::task::{Context, Poll};

use xen_hal::{Memory, PAGE_SIZE};
use xenbus::{Handle, Phase};

use super::rx::Taken;
use super::shared::Shared;
use super::tx::Tx;
use super::{Info, Interface, Statistics};
use crate::Buffer;
use crate::back::{Checksum, Packet, SendError};
use crate::checksum;
use crate::headers::Headers;
use crate::offload::{self, FrameInfo, Outgoing};
use crate::protocol::{Gso, MAX_BYTES, rx_flags};
use crate::segment::Segmenter;

/// Frames from this length on are read by the backend where they are: granting pages, and clearing what else they hold, takes
/// longer than to copy less.
const LENT: usize = 2 * PAGE_SIZE;

/// Frames with their offloads, for whoever passes them on. In place of [`Interface::device`]: frames go to whichever asks
/// first.
pub struct Packets<G: Memory> {
    shared: Handle<Shared<G>>,
}

impl<G: Memory> Interface<G> {
    /// The interface's frames with their offloads.
    pub fn packets(&self) -> Packets<G> {
        Packets { shared: self.shared.clone() }
    }
}

impl<G: Memory> Packets<G> {
    /// What the interface is like.
    pub fn info(&self) -> Info {
        self.shared.status.info()
    }

    /// Whether there is a backend.
    pub fn is_up(&self) -> bool {
        self.shared.status.phase() == Phase::Up
    }

    /// Whether there will never be one again.
    pub fn is_gone(&self) -> bool {
        self.shared.status.phase() == Phase::Gone
    }

    /// How often it has been connected: the wire may be another one each time.
    pub fn connections(&self) -> u64 {
        self.shared.status.statistics().get().connections
    }

    /// What the interface has done so far.
    pub fn statistics(&self) -> Statistics {
        self.shared.status.statistics().get()
    }

    /// The next frame. Where there is none the task is woken when one may have come, when there is room to send again, and
    /// when the link has changed.
    pub fn poll_receive(&self, cx: &mut Context<'_>) -> Poll<Packet> {
        let shared = &*self.shared;
        while shared.has_frame() {
            if let Some(packet) = self.take() {
                return Poll::Ready(packet);
            }
        }
        self.register(cx);
        Poll::Pending
    }

    /// Has the task woken when a frame may have come, when there is room to send again, and when the link has changed.
    pub fn register(&self, cx: &mut Context<'_>) {
        self.shared.stack.register(cx.waker());
        // The driver asks for the next event.
        self.shared.status.notify();
    }

    fn take(&self) -> Option<Packet> {
        let shared = &*self.shared;
        let mut rx = shared.rx.borrow_mut();
        let rx = rx.as_mut().filter(|rx| rx.is_ready())?;
        let (taken, released) = rx.take_along(&shared.memory, shared.peer.get());
        if let Err(failure) = released {
            shared.fail(failure);
        }
        let Taken { bytes, flags, gso, copied } = taken;
        shared.count_received(bytes.len(), copied);
        let info =
            FrameInfo { good: flags & rx_flags::DATA_VALIDATED != 0, blank: flags & rx_flags::CSUM_BLANK != 0, gso };
        let packet = if shared.options.has_requested(info) { received(bytes, info) } else { None };
        if packet.is_none() {
            shared.count(|statistics| statistics.dropped += 1);
        }
        shared.status.notify();
        packet
    }

    /// Whether a frame of so many bytes can be sent now. Where it cannot, the task that [waits](Packets::register) is woken
    /// once it can.
    pub fn has_room(&self, len: usize) -> bool {
        self.shared.has_room_for(len)
    }

    /// Sends a frame. What the backend does not complete or cut is completed and cut here. A large one in pages is read there
    /// by the backend; others are copied.
    ///
    /// # Errors
    ///
    /// If the frame is dropped: there is no backend, or no room. One that leaves open what it has not is dropped and counted.
    pub fn send(&self, packet: Packet) -> Result<(), SendError> {
        let shared = &*self.shared;
        let Packet { mut bytes, checksum, gso } = packet;
        if !self.has_room(bytes.len()) {
            shared.count_unsent();
            return Err(if self.is_up() { SendError::Full } else { SendError::Down });
        }
        let mut tx = shared.tx.borrow_mut();
        let Some(tx) = tx.as_mut() else { return Err(SendError::Down) };
        match self.prepare(&mut bytes, checksum, gso) {
            Some(Outgoing::Whole { blank, gso }) => shared.send_buffer(tx, bytes, blank, gso),
            Some(Outgoing::Pieces(cut)) => shared.send_pieces(tx, &bytes, cut),
            Some(Outgoing::TooLarge) | None => shared.count_unsent(),
        }
        shared.status.notify();
        Ok(())
    }

    /// Makes of a frame one for the backend. `None` where it leaves open what it has not.
    fn prepare(&self, frame: &mut [u8], sum: Checksum, gso: Option<(Gso, u16)>) -> Option<Outgoing> {
        let info = self.info();
        if sum != Checksum::Blank && gso.is_none() {
            return Some(Outgoing::Whole { blank: false, gso: None });
        }
        let headers = Headers::parse(frame)?;
        let blank = if headers.v6 { info.checksum_v6 } else { info.checksum_v4 };
        let large = blank && frame.len() <= MAX_BYTES && if headers.v6 { info.gso_v6 } else { info.gso_v4 };
        match gso {
            Some((protocol, size)) if large && offload::can_segment(frame, &headers, protocol, size) => {
                if sum != Checksum::Blank {
                    checksum::leave_blank(frame, &headers);
                }
                Some(Outgoing::Whole { blank: true, gso })
            }
            Some((_, size)) => Segmenter::segments(frame, &headers, size).map(Outgoing::Pieces),
            None => (blank || checksum::complete(frame, &headers)).then_some(Outgoing::Whole { blank, gso: None }),
        }
    }
}

impl<G: Memory> Shared<G> {
    /// Sends a frame as it is.
    fn send_buffer(&self, tx: &mut Tx<G>, bytes: Buffer, blank: bool, gso: Option<(Gso, u16)>) {
        let len = bytes.len();
        let bytes = match len >= LENT {
            true => match self.send_pages(tx, bytes, blank, gso) {
                Ok(()) => return,
                Err(bytes) => bytes,
            },
            false => bytes,
        };
        match tx.place(len).filter(|_| len <= MAX_BYTES) {
            Some(place) => {
                tx.bytes(place).copy_from_slice(&bytes);
                self.send_whole(tx, place, blank, gso);
            }
            None => self.count_unsent(),
        }
    }
}

/// A frame as it came; `None` where it leaves to this end what nobody can do.
fn received(mut bytes: Buffer, info: FrameInfo) -> Option<Packet> {
    let mut checksum = if info.good { Checksum::Valid } else { Checksum::Present };
    if info.blank || info.gso.is_some() {
        let headers = Headers::parse(&bytes)?;
        let possible = match info.gso {
            Some((protocol, size)) => offload::can_segment(&bytes, &headers, protocol, size),
            None => checksum::is_present(&bytes, &headers),
        };
        if !possible {
            return None;
        }
        if !info.blank {
            checksum::leave_blank(&mut bytes, &headers);
        }
        checksum = Checksum::Blank;
    }
    Some(Packet { bytes, checksum, gso: info.gso })
}

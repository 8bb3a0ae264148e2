//! The interface as a router sees it: frames with what is left open of them, which nobody completes before it is needed.

use core::task::{Context, Poll};

use xen_hal::Memory;
use xenbus::{Handle, Phase};

use super::shared::Shared;
use super::{Info, Interface, Statistics};
use crate::back::{Checksum, Packet, SendError};
use crate::checksum;
use crate::headers::Headers;
use crate::offload::{self, FrameInfo};
use crate::protocol::rx_flags;
use crate::segment::Segmenter;

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
        let (packet, released) = rx.take(&shared.memory, shared.peer.get(), |frame| {
            shared.count_received(&frame);
            let info = FrameInfo {
                good: frame.flags & rx_flags::DATA_VALIDATED != 0,
                blank: frame.flags & rx_flags::CSUM_BLANK != 0,
                gso: frame.gso,
            };
            let packet = if shared.options.has_requested(info) { received(frame.bytes, info) } else { None };
            if packet.is_none() {
                shared.count(|statistics| statistics.dropped += 1);
            }
            packet
        });
        if let Err(failure) = released {
            shared.fail(failure);
        }
        shared.status.notify();
        packet
    }

    /// Whether a frame of so many bytes can be sent now. Where it cannot, the task that [waits](Packets::register) is woken
    /// once it can.
    pub fn has_room(&self, len: usize) -> bool {
        self.shared.has_room_for(len)
    }

    /// Sends a frame. What the backend does not complete or cut is completed and cut here.
    ///
    /// # Errors
    ///
    /// If the frame is dropped: there is no backend, or no room. One that leaves open what it has not is dropped and counted.
    pub fn send(&self, packet: &Packet) -> Result<(), SendError> {
        let shared = &*self.shared;
        if !self.has_room(packet.bytes.len()) {
            shared.count_unsent();
            return Err(if self.is_up() { SendError::Full } else { SendError::Down });
        }
        let mut tx = shared.tx.borrow_mut();
        let Some((tx, place)) = tx.as_mut().and_then(|tx| tx.place(packet.bytes.len()).map(|place| (tx, place))) else {
            return Err(SendError::Down);
        };
        let open = packet.checksum == Checksum::Blank || packet.gso.is_some();
        if !open {
            tx.bytes(place).copy_from_slice(&packet.bytes);
            shared.send_whole(tx, place, false, None);
            shared.status.notify();
            return Ok(());
        }
        let info = self.info();
        let Some(headers) = Headers::parse(&packet.bytes) else {
            shared.count_unsent();
            return Ok(());
        };
        let blank = if headers.v6 { info.checksum_v6 } else { info.checksum_v4 };
        let large = blank && if headers.v6 { info.gso_v6 } else { info.gso_v4 };
        match packet.gso {
            Some((protocol, size)) if large && offload::can_segment(&packet.bytes, &headers, protocol, size) => {
                let bytes = tx.bytes(place);
                bytes.copy_from_slice(&packet.bytes);
                if packet.checksum != Checksum::Blank {
                    checksum::leave_blank(bytes, &headers);
                }
                shared.send_whole(tx, place, true, Some((protocol, size)));
            }
            Some((_, size)) => match Segmenter::segments(&packet.bytes, &headers, size) {
                Some(cut) => shared.send_pieces(tx, &packet.bytes, cut),
                None => shared.count_unsent(),
            },
            None => {
                let bytes = tx.bytes(place);
                bytes.copy_from_slice(&packet.bytes);
                match blank || checksum::complete(bytes, &headers) {
                    true => shared.send_whole(tx, place, blank, None),
                    false => shared.count_unsent(),
                }
            }
        }
        shared.status.notify();
        Ok(())
    }
}

/// A frame as it came; `None` where it leaves to this end what nobody can do.
fn received(bytes: &mut [u8], info: FrameInfo) -> Option<Packet> {
    let mut checksum = if info.good { Checksum::Valid } else { Checksum::Present };
    if info.blank || info.gso.is_some() {
        let headers = Headers::parse(bytes)?;
        let possible = match info.gso {
            Some((protocol, size)) => offload::can_segment(bytes, &headers, protocol, size),
            None => checksum::is_present(bytes, &headers),
        };
        if !possible {
            return None;
        }
        if !info.blank {
            checksum::leave_blank(bytes, &headers);
        }
        checksum = Checksum::Blank;
    }
    Some(Packet { bytes: bytes.to_vec().into(), checksum, gso: info.gso })
}

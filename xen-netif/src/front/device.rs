//! The interface as a network stack sees it.

use alloc::vec;
use core::cell::RefCell;
use core::task::Context;

use embassy_net_driver::{Capabilities, Driver, HardwareAddress, LinkState};
use xen_hal::Memory;
use xenbus::{Handle, Phase};

use super::rx::Frame;
use super::shared::Shared;
use super::tx::{Place, Tx};
use crate::Buffer;
use crate::mss::Flows;
use crate::offload::{self, FrameInfo, Outgoing};
use crate::protocol::{Extra, Gso, rx_flags, tx_flags};
use crate::segment::Segmenter;

/// The driver for a network stack.
pub struct Device<G: Memory> {
    pub(super) shared: Handle<Shared<G>>,
}

/// A frame that was received.
pub struct RxToken<'a, G: Memory>(&'a Shared<G>);

/// Room for a frame to be sent.
pub struct TxToken<'a, G: Memory>(&'a Shared<G>);

impl<G: Memory> Shared<G> {
    /// What is known of connections, where the stack sends large segments.
    fn flows(&self) -> Option<&RefCell<Flows>> {
        self.large.get().then_some(&self.flows)
    }

    /// Whether the largest frame finds room.
    fn has_room(&self) -> bool {
        self.has_room_for(offload::largest_frame(self.large.get(), self.status.info().mtu))
    }

    /// Whether a frame of so many bytes finds room. Where it does not, the stack is woken once it does.
    pub(super) fn has_room_for(&self, len: usize) -> bool {
        let mut tx = self.tx.borrow_mut();
        let Some(tx) = tx.as_mut() else { return false };
        if tx.place(len).is_some() {
            return true;
        }
        let mut refused = 0;
        if let Err(failure) = tx.reap(&mut refused) {
            self.fail(failure);
        }
        self.count(|statistics| statistics.refused += refused);
        let found = tx.place(len).is_some();
        if !found {
            self.wants_room.set(true);
            self.status.notify();
        }
        found
    }

    /// Whether a frame is there that is worth a look.
    pub(super) fn has_frame(&self) -> bool {
        let mut rx = self.rx.borrow_mut();
        let Some(rx) = rx.as_mut() else { return false };
        let mut dropped = 0;
        let ready = rx.advance(&self.memory, self.peer.get(), &mut dropped);
        self.count(|statistics| statistics.dropped += dropped);
        ready.unwrap_or_else(|failure| {
            self.fail(failure);
            false
        })
    }
}

impl<G: Memory> Device<G> {
    /// How often it has been connected: the wire may be another one each time.
    pub fn connections(&self) -> u64 {
        self.shared.status.statistics().get().connections
    }
}

impl<G: Memory> Driver for Device<G> {
    type RxToken<'a> = RxToken<'a, G>;
    type TxToken<'a> = TxToken<'a, G>;

    fn receive(&mut self, cx: &mut Context<'_>) -> Option<(RxToken<'_, G>, TxToken<'_, G>)> {
        let shared = &*self.shared;
        if shared.has_frame() && shared.has_room() {
            return Some((RxToken(shared), TxToken(shared)));
        }
        shared.stack.register(cx.waker());
        // The driver asks for the next event.
        shared.status.notify();
        None
    }

    fn transmit(&mut self, cx: &mut Context<'_>) -> Option<TxToken<'_, G>> {
        let shared = &*self.shared;
        if shared.has_room() {
            return Some(TxToken(shared));
        }
        shared.stack.register(cx.waker());
        None
    }

    fn link_state(&mut self, cx: &mut Context<'_>) -> LinkState {
        self.shared.stack.register(cx.waker());
        match self.shared.status.phase() {
            Phase::Up => LinkState::Up,
            _ => LinkState::Down,
        }
    }

    fn capabilities(&self) -> Capabilities {
        offload::capabilities(self.shared.large.get(), self.shared.status.info().mtu)
    }

    fn hardware_address(&self) -> HardwareAddress {
        HardwareAddress::Ethernet(self.shared.status.info().mac)
    }
}

impl<G: Memory> embassy_net_driver::RxToken for RxToken<'_, G> {
    /// Takes the frame from the ring, does what the backend has left to this end, has the stack read it, and gives its
    /// pages back.
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, read: F) -> R {
        let shared = self.0;
        let mut rx = shared.rx.borrow_mut();
        let Some(rx) = rx.as_mut().filter(|rx| rx.is_ready()) else {
            shared.status.notify();
            return read(&mut []);
        };
        let (value, released) = rx.take(&shared.memory, shared.peer.get(), |mut frame| {
            shared.count_received(frame.bytes.len(), frame.copied);
            match shared.complete(&mut frame) {
                true => read(frame.bytes),
                // A stack takes nothing from a frame of no bytes.
                false => read(&mut []),
            }
        });
        if let Err(failure) = released {
            shared.fail(failure);
        }
        shared.status.notify();
        value
    }
}

impl<G: Memory> TxToken<'_, G> {
    /// Sends a frame whose length is known only once it is written: `write` gets `max` bytes, and returns how many of them
    /// are to be sent, none where it is 0.
    pub fn consume_up_to<R>(self, max: usize, write: impl FnOnce(&mut [u8]) -> (R, usize)) -> R {
        let shared = self.0;
        let mut tx = shared.tx.borrow_mut();
        let Some((tx, place)) = tx.as_mut().and_then(|tx| tx.place(max).map(|place| (tx, place))) else {
            shared.count_unsent();
            return write(&mut vec![0; max]).0;
        };
        let (value, len) = write(tx.bytes(place));
        if len == 0 {
            return value;
        }
        let place = place.shortened(len);
        let bytes = tx.bytes(place);
        match offload::outgoing(bytes, shared.status.info().offloads(), shared.flows(), &shared.paths) {
            Outgoing::Whole { blank, gso } => shared.send_whole(tx, place, blank, gso),
            Outgoing::Pieces(cut) => {
                let whole = bytes.to_vec();
                shared.send_pieces(tx, &whole, cut);
            }
            Outgoing::TooLarge => shared.count_unsent(),
        }
        shared.status.notify();
        value
    }
}

impl<G: Memory> embassy_net_driver::TxToken for TxToken<'_, G> {
    /// Has the stack write the frame to where the backend reads it, leaves to the backend what it takes, and sends it.
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        self.consume_up_to(len, |bytes| (write(bytes), len))
    }
}

/// The steps of a frame on its way in.
impl<G: Memory> Shared<G> {
    #[inline]
    pub(super) fn count_received(&self, len: usize, copied: bool) {
        self.count(|statistics| {
            statistics.received += 1;
            statistics.received_bytes += len as u64;
            statistics.copied += u64::from(copied);
        });
    }

    /// Does what the backend has left to this end. `false` for a frame that is dropped: its checksum is wrong, or what is
    /// said of it was not asked for, or cannot be.
    #[inline]
    fn complete(&self, frame: &mut Frame<'_>) -> bool {
        let info = FrameInfo {
            good: frame.flags & rx_flags::DATA_VALIDATED != 0,
            blank: frame.flags & rx_flags::CSUM_BLANK != 0,
            gso: frame.gso,
        };
        let mtu = self.status.info().mtu;
        let good =
            self.options.has_requested(info) && offload::incoming(frame.bytes, info, self.flows(), &self.paths, mtu);
        if !good {
            self.count(|statistics| statistics.dropped += 1);
        }
        good
    }
}

/// The steps of a frame on its way out.
impl<G: Memory> Shared<G> {
    /// Sends a frame as it is, with the checksum and the segments that are left to the backend.
    #[inline]
    pub(super) fn send_whole(&self, tx: &mut Tx<G>, place: Place, blank: bool, gso: Option<(Gso, u16)>) {
        let (flags, extra) = offered(blank, gso);
        tx.send(place, flags, extra);
        self.count_sent(place.len(), gso.is_some());
    }

    /// Sends a frame in its own pages.
    ///
    /// # Errors
    ///
    /// As [`Tx::send_pages`].
    pub(super) fn send_pages(
        &self,
        tx: &mut Tx<G>,
        frame: Buffer,
        blank: bool,
        gso: Option<(Gso, u16)>,
    ) -> Result<(), Buffer> {
        let (len, (flags, extra)) = (frame.len(), offered(blank, gso));
        tx.send_pages(&self.memory, self.peer.get(), frame, flags, extra)?;
        self.count_sent(len, gso.is_some());
        self.count(|statistics| statistics.granted += 1);
        Ok(())
    }

    /// Sends what the backend does not cut itself.
    pub(super) fn send_pieces(&self, tx: &mut Tx<G>, frame: &[u8], cut: Segmenter) {
        for index in 0..cut.count() {
            let Some(place) = tx.place(cut.len(index)) else {
                self.count_unsent();
                return;
            };
            cut.write(frame, index, tx.bytes(place));
            tx.send(place, 0, None);
            self.count_sent(place.len(), false);
        }
    }

    #[inline]
    fn count_sent(&self, len: usize, large: bool) {
        self.count(|statistics| {
            statistics.sent += 1;
            statistics.sent_bytes += len as u64;
            statistics.sent_large += u64::from(large);
        });
    }

    pub(super) fn count_unsent(&self) {
        self.count(|statistics| statistics.unsent += 1);
    }
}

/// What the backend is told of a frame that is left to it in part.
fn offered(blank: bool, gso: Option<(Gso, u16)>) -> (u16, Option<Extra>) {
    let flags = if blank { tx_flags::CSUM_BLANK | tx_flags::DATA_VALIDATED } else { 0 };
    (flags, gso.map(|(protocol, size)| Extra::Gso { size, protocol }))
}

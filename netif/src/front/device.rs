//! The interface as a network stack sees it.

use alloc::rc::Rc;
use alloc::vec;
use core::task::Context;

use embassy_net_driver::{Capabilities, Checksum, ChecksumCapabilities, Driver, HardwareAddress, LinkState};

use super::Memory;
use super::rx::Frame;
use super::shared::{Phase, Shared};
use super::tx::Tx;
use crate::checksum;
use crate::headers::{Headers, TCP, UDP};
use crate::mss::largest_frame;
use crate::protocol::{Extra, Gso, rx_flags, tx_flags};
use crate::segment::Cut;

/// The driver for a network stack.
pub struct Device<G: Memory> {
    shared: Rc<Shared<G>>,
}

impl<G: Memory> Device<G> {
    pub(super) fn new(shared: Rc<Shared<G>>) -> Device<G> {
        shared.handles.set(shared.handles.get() + 1);
        Device { shared }
    }
}

impl<G: Memory> Drop for Device<G> {
    fn drop(&mut self) {
        self.shared.release();
    }
}

/// A frame that was received.
pub struct RxToken<'a, G: Memory>(&'a Shared<G>);

/// Room for a frame to be sent.
pub struct TxToken<'a, G: Memory>(&'a Shared<G>);

impl<G: Memory> Shared<G> {
    fn largest_frame(&self) -> usize {
        largest_frame(self.large.get(), self.info.get().mtu)
    }

    /// Whether the largest frame finds room.
    fn has_room(&self) -> bool {
        let largest = self.largest_frame();
        let mut tx = self.tx.borrow_mut();
        let Some(tx) = tx.as_mut() else { return false };
        if tx.place(largest).is_some() {
            return true;
        }
        let mut refused = 0;
        if let Err(failure) = tx.reap(&mut refused) {
            *self.failure.borrow_mut() = Some(failure);
            self.kick();
        }
        self.count(|statistics| statistics.refused += refused);
        let found = tx.place(largest).is_some();
        if !found {
            self.wants_room.set(true);
            self.kick();
        }
        found
    }

    /// Whether a frame is there that is worth a look.
    fn has_frame(&self) -> bool {
        let mut rx = self.rx.borrow_mut();
        let Some(rx) = rx.as_mut() else { return false };
        let mut dropped = 0;
        let ready = rx.advance(&self.memory, self.peer.get(), &mut dropped);
        self.count(|statistics| statistics.dropped += dropped);
        ready.unwrap_or_else(|failure| {
            *self.failure.borrow_mut() = Some(failure);
            self.kick();
            false
        })
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
        shared.register_stack(cx.waker());
        // The driver asks for the next event.
        shared.kick();
        None
    }

    fn transmit(&mut self, cx: &mut Context<'_>) -> Option<TxToken<'_, G>> {
        let shared = &*self.shared;
        if shared.has_room() {
            return Some(TxToken(shared));
        }
        shared.register_stack(cx.waker());
        None
    }

    fn link_state(&mut self, cx: &mut Context<'_>) -> LinkState {
        self.shared.register_stack(cx.waker());
        match self.shared.phase.get() {
            Phase::Up => LinkState::Up,
            _ => LinkState::Down,
        }
    }

    fn capabilities(&self) -> Capabilities {
        let mut checksum = ChecksumCapabilities::default();
        // They are made and checked here, or by the backend.
        (checksum.tcp, checksum.udp) = (Checksum::None, Checksum::None);
        let mut capabilities = Capabilities::default();
        capabilities.max_transmission_unit = self.shared.largest_frame();
        capabilities.checksum = checksum;
        capabilities
    }

    fn hardware_address(&self) -> HardwareAddress {
        HardwareAddress::Ethernet(self.shared.info.get().mac)
    }
}

impl<G: Memory> embassy_net_driver::RxToken for RxToken<'_, G> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, read: F) -> R {
        let shared = self.0;
        let mut read = Some(read);
        let mut good = true;
        let mut rx = shared.rx.borrow_mut();
        let shown = rx.as_mut().filter(|rx| rx.is_ready()).map(|rx| {
            rx.take(&shared.memory, shared.peer.get(), |mut frame| {
                shared.count(|statistics| {
                    statistics.received += 1;
                    statistics.received_bytes += frame.bytes.len() as u64;
                    statistics.copied += u64::from(frame.copied);
                });
                good = shared.accept(&mut frame);
                // A stack takes nothing from a frame of no bytes.
                read.take().expect("called once")(if good { frame.bytes } else { &mut [] })
            })
        });
        drop(rx);
        if !good {
            shared.count(|statistics| statistics.dropped += 1);
        }
        shared.kick();
        match shown {
            Some((value, outcome)) => {
                if let Err(failure) = outcome {
                    *shared.failure.borrow_mut() = Some(failure);
                }
                value
            }
            None => read.take().expect("not called yet")(&mut []),
        }
    }
}

impl<G: Memory> Shared<G> {
    /// Prepares a frame for the stack; whether it is good.
    fn accept(&self, frame: &mut Frame<'_>) -> bool {
        let Some(headers) = Headers::parse(frame.bytes) else { return true };
        let known = frame.flags & (rx_flags::DATA_VALIDATED | rx_flags::CSUM_BLANK) != 0;
        let good = known || checksum::is_right(frame.bytes, &headers);
        if good && self.large.get() && headers.protocol == TCP {
            self.flows.borrow_mut().incoming(frame.bytes, &headers);
        }
        good
    }
}

impl<G: Memory> embassy_net_driver::TxToken for TxToken<'_, G> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        let shared = self.0;
        let mut tx = shared.tx.borrow_mut();
        if let Some(tx) = tx.as_mut()
            && let Some(place) = tx.place(len)
        {
            let bytes = tx.bytes(place);
            let value = write(bytes);
            match shared.prepare(bytes) {
                Outgoing::Whole { flags, extra } => {
                    tx.send(place, flags, extra);
                    shared.count(|statistics| {
                        statistics.sent += 1;
                        statistics.sent_bytes += len as u64;
                        statistics.sent_large += u64::from(extra.is_some());
                    });
                }
                Outgoing::Cut(cut) => {
                    let whole = bytes.to_vec();
                    shared.send_pieces(tx, &whole, cut);
                }
                Outgoing::TooLarge => shared.count(|statistics| statistics.unsent += 1),
            }
            shared.kick();
            return value;
        }
        shared.count(|statistics| statistics.unsent += 1);
        write(&mut vec![0; len])
    }
}

/// How a frame is to be sent.
enum Outgoing {
    Whole { flags: u16, extra: Option<Extra> },
    Cut(Cut),
    TooLarge,
}

impl<G: Memory> Shared<G> {
    /// Makes a frame of the stack's one for the backend.
    fn prepare(&self, frame: &mut [u8]) -> Outgoing {
        let info = self.info.get();
        let plain = Outgoing::Whole { flags: 0, extra: None };
        let Some(headers) = Headers::parse(frame) else { return plain };
        let too_large = headers.end - headers.ip > usize::from(info.mtu);
        if self.large.get() && headers.protocol == TCP && !headers.fragment {
            let size = self.flows.borrow_mut().outgoing(frame, &headers, info.mtu);
            let payload = headers.tcp_header(frame).map_or(0, |length| headers.end - headers.transport - length);
            if let Some(size) = size
                && payload > usize::from(size)
            {
                let offload =
                    if headers.v6 { info.gso_v6 && info.checksum_v6 } else { info.gso_v4 && info.checksum_v4 };
                if !offload {
                    return Cut::segments(frame, &headers, size).map_or(Outgoing::TooLarge, Outgoing::Cut);
                }
                checksum::leave_blank(frame, &headers);
                let protocol = if headers.v6 { Gso::TcpV6 } else { Gso::TcpV4 };
                let flags = tx_flags::CSUM_BLANK | tx_flags::DATA_VALIDATED;
                return Outgoing::Whole { flags, extra: Some(Extra::Gso { size, protocol }) };
            }
        }
        if too_large {
            checksum::complete(frame, &headers);
            return Cut::fragments(frame, &headers, info.mtu).map_or(Outgoing::TooLarge, Outgoing::Cut);
        }
        if !matches!(headers.protocol, TCP | UDP) || headers.fragment {
            return plain;
        }
        let offload = if headers.v6 { info.checksum_v6 } else { info.checksum_v4 };
        if offload && checksum::leave_blank(frame, &headers) {
            return Outgoing::Whole { flags: tx_flags::CSUM_BLANK | tx_flags::DATA_VALIDATED, extra: None };
        }
        checksum::complete(frame, &headers);
        plain
    }

    /// Sends what the backend does not cut itself.
    fn send_pieces(&self, tx: &mut Tx<G>, frame: &[u8], cut: Cut) {
        for index in 0..cut.count() {
            let len = cut.len(index);
            let Some(place) = tx.place(len) else {
                self.count(|statistics| statistics.unsent += 1);
                return;
            };
            cut.write(frame, index, tx.bytes(place));
            tx.send(place, 0, None);
            self.count(|statistics| {
                statistics.sent += 1;
                statistics.sent_bytes += len as u64;
            });
        }
    }
}

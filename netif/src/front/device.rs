//! The interface as a network stack sees it.

use alloc::rc::Rc;
use alloc::vec;
use core::cell::RefCell;
use core::task::Context;

use embassy_net_driver::{Capabilities, Driver, HardwareAddress, LinkState};

use super::Memory;
use super::shared::{Phase, Shared};
use super::tx::Tx;
use crate::mss::Flows;
use crate::offload::{self, Outgoing, Said};
use crate::protocol::{Extra, rx_flags, tx_flags};
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
    /// What is known of connections, where the stack sends large segments.
    fn flows(&self) -> Option<&RefCell<Flows>> {
        self.large.get().then_some(&self.flows)
    }

    /// Whether the largest frame finds room.
    fn has_room(&self) -> bool {
        let largest = offload::largest_frame(self.large.get(), self.info.get().mtu);
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
        offload::capabilities(self.shared.large.get(), self.shared.info.get().mtu)
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
            rx.take(&shared.memory, shared.peer.get(), |frame| {
                shared.count(|statistics| {
                    statistics.received += 1;
                    statistics.received_bytes += frame.bytes.len() as u64;
                    statistics.copied += u64::from(frame.copied);
                });
                let said = Said {
                    good: frame.flags & rx_flags::DATA_VALIDATED != 0,
                    blank: frame.flags & rx_flags::CSUM_BLANK != 0,
                    gso: frame.gso,
                };
                good = shared.options.has_asked_for(said) && offload::incoming(frame.bytes, said, shared.flows());
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

impl<G: Memory> embassy_net_driver::TxToken for TxToken<'_, G> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        let shared = self.0;
        let mut tx = shared.tx.borrow_mut();
        if let Some(tx) = tx.as_mut()
            && let Some(place) = tx.place(len)
        {
            let bytes = tx.bytes(place);
            let value = write(bytes);
            match offload::outgoing(bytes, shared.info.get().offloads(), shared.flows()) {
                Outgoing::Whole { blank, gso } => {
                    let flags = if blank { tx_flags::CSUM_BLANK | tx_flags::DATA_VALIDATED } else { 0 };
                    let extra = gso.map(|(protocol, size)| Extra::Gso { size, protocol });
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

impl<G: Memory> Shared<G> {
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

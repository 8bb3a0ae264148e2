//! A link between an Ethernet device and a stack that knows of IP alone.

use alloc::rc::Rc;
use alloc::vec;
use core::task::{Context, Waker};
use core::time::Duration;

use embassy_net_driver::{Capabilities, Driver, HardwareAddress, LinkState, RxToken, TxToken};
use embassy_time::Instant;

use crate::frames::{ETHERNET, MAX_REQUEST};
use crate::stack::Shared;

/// An Ethernet device.
pub trait EthernetDevice: Driver {
    /// Sends a frame whose length is known only once it is written: `write` gets `max` bytes, and returns how many of them
    /// are to be sent, none where it is 0.
    ///
    /// As it is here the frame is copied; a device that can do without should.
    fn send_up_to<R>(token: Self::TxToken<'_>, max: usize, write: impl FnOnce(&mut [u8]) -> (R, usize)) -> R {
        let mut bytes = vec![0; max];
        let (value, len) = write(&mut bytes);
        if len > 0 {
            token.consume(len, |frame| frame.copy_from_slice(&bytes[..len]));
        }
        value
    }

    /// Whether it cuts TCP segments that are larger than the peer takes, and lowers the maximum segment size in outgoing
    /// SYNs to what it receives.
    fn cuts_segments(&self) -> bool {
        false
    }

    /// How often it has been connected, where that can happen unseen: the link may be another one each time.
    fn connections(&self) -> u64 {
        0
    }
}

/// What a stack has for a device.
pub struct LinkDriver<D> {
    pub(crate) device: D,
    pub(crate) shared: Rc<Shared>,
}

pub(crate) fn now() -> Duration {
    Duration::from_micros(Instant::now().as_micros())
}

impl<D: EthernetDevice> LinkDriver<D> {
    /// Sends this host's own frames, as many as there is room for. Where there is none the device has the stack come again.
    fn flush(&mut self, cx: &mut Context<'_>) {
        while self.shared.link.borrow().has_outgoing() {
            let Some(token) = self.device.transmit(cx) else { return };
            let Some(frame) = self.shared.link.borrow_mut().pop() else { return };
            D::send_up_to(token, frame.len(), |bytes| {
                bytes.copy_from_slice(&frame);
                ((), frame.len())
            });
        }
    }
}

/// A packet for the stack.
pub struct LinkRxToken<'a, T> {
    frame: T,
    shared: &'a Shared,
}

impl<T: RxToken> RxToken for LinkRxToken<'_, T> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, read: F) -> R {
        self.frame.consume(|frame| {
            let packet = self.shared.link.borrow_mut().ingress(frame, now);
            // A stack takes nothing from a packet of no bytes.
            read(packet.and_then(|packet| frame.get_mut(packet)).unwrap_or_default())
        })
    }
}

/// Room for a packet of the stack.
pub struct LinkTxToken<'a, D: EthernetDevice + 'a> {
    token: D::TxToken<'a>,
    shared: &'a Shared,
}

impl<'a, D: EthernetDevice + 'a> TxToken for LinkTxToken<'a, D> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        D::send_up_to(self.token, (ETHERNET + len).max(MAX_REQUEST), |frame| {
            let value = write(&mut frame[ETHERNET..ETHERNET + len]);
            let sent = self.shared.link.borrow_mut().egress(frame, len, now());
            (value, sent.unwrap_or(0))
        })
    }
}

impl<D: EthernetDevice> Driver for LinkDriver<D> {
    type RxToken<'a>
        = LinkRxToken<'a, D::RxToken<'a>>
    where
        Self: 'a;
    type TxToken<'a>
        = LinkTxToken<'a, D>
    where
        Self: 'a;

    fn receive(&mut self, cx: &mut Context<'_>) -> Option<(Self::RxToken<'_>, Self::TxToken<'_>)> {
        self.flush(cx);
        let shared = &*self.shared;
        let (frame, token) = self.device.receive(cx)?;
        Some((LinkRxToken { frame, shared }, LinkTxToken { token, shared }))
    }

    fn transmit(&mut self, cx: &mut Context<'_>) -> Option<Self::TxToken<'_>> {
        let shared = &*self.shared;
        Some(LinkTxToken { token: self.device.transmit(cx)?, shared })
    }

    /// The stack asks for it once each time that it has looked at everything else.
    fn link_state(&mut self, cx: &mut Context<'_>) -> LinkState {
        let state = self.device.link_state(cx);
        let HardwareAddress::Ethernet(mac) = self.device.hardware_address() else { return state };
        self.flush(cx);
        {
            let now = now();
            let mut link = self.shared.link.borrow_mut();
            let connections = self.device.connections();
            if self.shared.connections.replace(connections) != connections {
                link.device(mac, false, now);
            }
            link.device(mac, state == LinkState::Up, now);
            link.poll(now);
        }
        self.flush(cx);
        self.shared.polled(cx.waker());
        state
    }

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = self.device.capabilities();
        capabilities.max_transmission_unit = capabilities.max_transmission_unit.saturating_sub(ETHERNET);
        capabilities
    }

    fn hardware_address(&self) -> HardwareAddress {
        HardwareAddress::Ip
    }
}

/// Has a stack look at its device.
#[derive(Default)]
pub(crate) struct StackWaker(core::cell::RefCell<Option<Waker>>);

impl StackWaker {
    pub(crate) fn register(&self, waker: &Waker) {
        let mut known = self.0.borrow_mut();
        match known.as_mut() {
            Some(known) => known.clone_from(waker),
            None => *known = Some(waker.clone()),
        }
    }

    pub(crate) fn wake(&self) {
        self.0.borrow().iter().for_each(Waker::wake_by_ref);
    }
}

//! An Ethernet segment as a stack's device.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Waker};

use embassy_net_driver::{
    Capabilities, Checksum, ChecksumCapabilities, Driver, HardwareAddress, LinkState, RxToken, TxToken,
};
use sarab_net::EthernetDevice;

pub const MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 1];

/// A network with one interface.
#[derive(Clone, Default)]
pub struct Segment(Rc<Frames>);

/// What the interface is to receive, and what it has sent.
#[derive(Default)]
struct Frames {
    /// Another address than [`MAC`].
    mac: Option<[u8; 6]>,
    to_guest: RefCell<VecDeque<Vec<u8>>>,
    from_guest: RefCell<VecDeque<Vec<u8>>>,
    waker: RefCell<Option<Waker>>,
    is_down: Cell<bool>,
    /// There is no room for a frame.
    is_full: Cell<bool>,
    /// How often the stack was polled.
    polls: Cell<u64>,
}

impl Segment {
    pub fn with_mac(mac: [u8; 6]) -> Segment {
        Segment(Rc::new(Frames { mac: Some(mac), ..Frames::default() }))
    }

    pub fn deliver(&self, frame: Vec<u8>) {
        self.0.to_guest.borrow_mut().push_back(frame);
        self.wake();
    }

    /// What the guest has sent.
    pub fn take(&self) -> Option<Vec<u8>> {
        self.0.from_guest.borrow_mut().pop_front()
    }

    pub fn set_link(&self, is_up: bool) {
        self.0.is_down.set(!is_up);
        self.wake();
    }

    pub fn set_room(&self, has_room: bool) {
        self.0.is_full.set(!has_room);
        self.wake();
    }

    pub fn polls(&self) -> u64 {
        self.0.polls.get()
    }

    fn wake(&self) {
        self.0.waker.take().into_iter().for_each(Waker::wake);
    }
}

pub struct Received(Vec<u8>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(mut self, read: F) -> R {
        read(&mut self.0)
    }
}

pub struct Room(Segment);

impl TxToken for Room {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        let mut frame = vec![0; len];
        let outcome = write(&mut frame);
        self.0.0.from_guest.borrow_mut().push_back(frame);
        outcome
    }
}

impl Driver for Segment {
    type RxToken<'a> = Received;
    type TxToken<'a> = Room;

    fn receive(&mut self, cx: &mut Context<'_>) -> Option<(Received, Room)> {
        self.0.waker.replace(Some(cx.waker().clone()));
        self.0.to_guest.borrow_mut().pop_front().map(|frame| (Received(frame), Room(self.clone())))
    }

    fn transmit(&mut self, cx: &mut Context<'_>) -> Option<Room> {
        self.0.waker.replace(Some(cx.waker().clone()));
        (!self.0.is_full.get()).then(|| Room(self.clone()))
    }

    fn link_state(&mut self, cx: &mut Context<'_>) -> LinkState {
        self.0.waker.replace(Some(cx.waker().clone()));
        self.0.polls.set(self.0.polls.get() + 1);
        if self.0.is_down.get() { LinkState::Down } else { LinkState::Up }
    }

    fn capabilities(&self) -> Capabilities {
        let mut checksum = ChecksumCapabilities::default();
        (checksum.ipv4, checksum.udp, checksum.icmpv6) = (Checksum::None, Checksum::None, Checksum::None);
        let mut capabilities = Capabilities::default();
        capabilities.max_transmission_unit = 1514;
        capabilities.checksum = checksum;
        capabilities
    }

    fn hardware_address(&self) -> HardwareAddress {
        HardwareAddress::Ethernet(self.0.mac.unwrap_or(MAC))
    }
}

impl EthernetDevice for Segment {}

//! A port without a guest: what is behind it is in the hands of a fuzz target.

use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use xen_hal::DomId;
use xenbus::Phase;

use super::packet::Packet;
use super::port::{Port, Shared};
use super::{Attachment, Limits};

/// The guest's side of a [`Port`].
pub struct Wire(Rc<Shared>);

impl Wire {
    /// A port, which is up, and its other side.
    pub fn new(mac: [u8; 6]) -> (Wire, Port) {
        let attachment = Attachment {
            domain: DomId(1),
            device: String::new(),
            mac,
            bridge: String::new(),
            addresses: Vec::new(),
            rate: None,
        };
        let shared = Rc::new(Shared::new(attachment, Limits::default(), || Duration::ZERO));
        shared.status.set_phase(Phase::Up);
        (Wire(shared.clone()), Port(shared))
    }

    /// A packet from the guest.
    pub fn deliver(&self, packet: Packet) {
        self.0.deliver(packet);
        self.0.application.wake();
    }

    /// The next packet for the guest.
    pub fn take(&self) -> Option<Packet> {
        let packet = self.0.next_for_guest()?;
        self.0.has_left();
        Some(packet)
    }
}

//! A guest's interface as a network stack of this domain sees it.

use alloc::rc::Rc;
use alloc::vec;
use core::cell::RefCell;
use core::task::Context;

use embassy_net_driver::{Capabilities, Driver, HardwareAddress, LinkState};

use super::packet::{Checksum, Packet};
use super::port::{Port, Shared};
use super::queue;
use crate::mss::Flows;
use crate::offload::{self, FrameInfo, Offloads, Outgoing};
use crate::path_mtu::PathMtus;
use crate::protocol::MAX_BYTES;

/// The driver for a network stack of this domain, whose wire to the guest is a [`Port`].
///
/// The stack sends and receives TCP in large segments whatever the guest takes: they are cut for it where it takes none.
/// While the guest is not connected the link is down.
pub struct Device {
    port: Rc<Shared>,
    mac: [u8; 6],
    mtu: u16,
    flows: RefCell<Flows>,
    paths: PathMtus,
}

/// A frame that the guest has sent.
pub struct RxToken<'a> {
    device: &'a Device,
    packet: Packet,
}

/// Room for a frame to the guest.
pub struct TxToken<'a>(&'a Device);

impl Port {
    /// A driver for a stack, which has `mac` for its own address, and sends no packet of more than `mtu` bytes over the
    /// guest's wire. Packets go to whoever asks first: the device, or [`receive`](Port::receive).
    pub fn device(&self, mac: [u8; 6], mtu: u16) -> Device {
        let port = self.0.clone();
        let clock = port.clone();
        let paths = PathMtus::new(move || (clock.now)());
        Device { port, mac, mtu, flows: RefCell::default(), paths }
    }
}

impl Device {
    /// Whether the largest frame finds room; nothing is sent to a guest that is not there.
    fn has_room(&self) -> bool {
        let room = !self.port.has_waiting() || self.port.has_room(queue::memory(MAX_BYTES)) || !self.port.is_up();
        if !room {
            self.port.wants_room.set(true);
        }
        room
    }

    fn send(&self, packet: Packet) {
        // What is refused is counted there, and lost, as on a wire.
        let _ = Port(self.port.clone()).send(packet);
    }
}

impl Driver for Device {
    type RxToken<'a> = RxToken<'a>;
    type TxToken<'a> = TxToken<'a>;

    fn receive(&mut self, cx: &mut Context<'_>) -> Option<(RxToken<'_>, TxToken<'_>)> {
        self.port.application.register(cx.waker());
        if !self.has_room() {
            return None;
        }
        let packet = self.port.next()?;
        let device = &*self;
        Some((RxToken { device, packet }, TxToken(device)))
    }

    fn transmit(&mut self, cx: &mut Context<'_>) -> Option<TxToken<'_>> {
        self.port.application.register(cx.waker());
        self.has_room().then_some(TxToken(self))
    }

    fn link_state(&mut self, cx: &mut Context<'_>) -> LinkState {
        self.port.application.register(cx.waker());
        if self.port.is_up() { LinkState::Up } else { LinkState::Down }
    }

    fn capabilities(&self) -> Capabilities {
        offload::capabilities(true, self.mtu)
    }

    fn hardware_address(&self) -> HardwareAddress {
        HardwareAddress::Ethernet(self.mac)
    }
}

impl embassy_net_driver::RxToken for RxToken<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(mut self, read: F) -> R {
        let Packet { checksum, gso, .. } = self.packet;
        let info = FrameInfo { good: checksum == Checksum::Valid, blank: checksum == Checksum::Blank, gso };
        match offload::incoming(
            &mut self.packet.bytes,
            info,
            Some(&self.device.flows),
            &self.device.paths,
            self.device.mtu,
        ) {
            true => read(&mut self.packet.bytes),
            // A stack takes nothing from a frame of no bytes.
            false => {
                self.device.port.count(|statistics| statistics.refused += 1);
                read(&mut [])
            }
        }
    }
}

impl embassy_net_driver::TxToken for TxToken<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        let device = self.0;
        let mut bytes = vec![0; len];
        let value = write(&mut bytes);
        let all = Offloads { mtu: device.mtu, gso_v4: true, gso_v6: true, checksum_v4: true, checksum_v6: true };
        match offload::outgoing(&mut bytes, all, Some(&device.flows), &device.paths) {
            Outgoing::Whole { blank, gso } => {
                device.send(Packet {
                    bytes: bytes.into(),
                    checksum: if blank { Checksum::Blank } else { Checksum::Present },
                    gso,
                });
            }
            Outgoing::Pieces(cut) => {
                for index in 0..cut.count() {
                    let mut piece = vec![0; cut.len(index)];
                    cut.write(&bytes, index, &mut piece);
                    device.send(piece.into());
                }
            }
            Outgoing::TooLarge => device.port.count(|statistics| statistics.dropped += 1),
        }
        value
    }
}

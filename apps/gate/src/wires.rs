//! Where the router's frames go.

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::Cell;
use core::pin::pin;
use core::time::Duration;

use futures_util::future::{Either, select};
use sarab::App;
use sarab::hal::{Clock, PAGE_SIZE};
use sarab::network::back::{Packet, Port};
use sarab::time::Timer;
use sarab_router::{InterfaceId, Output};

use crate::local::Queues;
use crate::uplink::Device;

/// What clients ask of the router that waits to be answered; more is lost.
const MAX_CONTROL: usize = 64;

/// Packets that wait for room at once: what one packet becomes.
const MAX_FULL: usize = 64;

/// Pages for large packets that are passed on without a copy of the gate's own: so many from clients, and half as many from each
/// uplink. A domain that is too small for them has none.
pub fn packet_pages(app: App) -> usize {
    const LEAST: usize = 64;
    const MOST: usize = 256;
    let part = (app.memory().total / 32) as usize / PAGE_SIZE;
    if part < LEAST { 0 } else { part.min(MOST) }
}

/// What an interface of the router is.
pub enum Wire {
    None,
    Local(Rc<Queues>),
    Uplink(Rc<Device>, Option<u16>),
    Client(Rc<Link>),
}

/// A client's port.
pub struct Link {
    pub port: Rc<Port>,
    /// Until then nobody waits for it: it takes nothing.
    stuck_until: Cell<Duration>,
}

/// For how long others wait for a client that has no room, and for how long they do not after it has made none: a client
/// that is slow loses packets, and delays nobody else's for long.
const PATIENCE: Duration = Duration::from_millis(10);
const IMPATIENCE: Duration = Duration::from_millis(500);

impl Link {
    pub fn new(port: Rc<Port>) -> Link {
        Link { port, stuck_until: Cell::new(Duration::ZERO) }
    }

    /// Sends a packet that there was no room for, once there is some, or drops it.
    pub async fn send_later(&self, clock: impl Clock, packet: Packet) {
        let patience = Timer::after_micros(PATIENCE.as_micros() as u64);
        if let Either::Right(_) = select(pin!(self.port.room(&packet)), pin!(patience)).await {
            self.stuck_until.set(clock.now() + IMPATIENCE);
        }
        // What it has no room for is counted there.
        let _ = self.port.send(packet);
    }
}

/// All of them, by their numbers.
pub struct Wires {
    wires: Vec<Wire>,
    /// Packets for clients without room: whoever has sent them waits.
    pub full: VecDeque<(Rc<Link>, Packet)>,
    pub now: Duration,
    pub control: VecDeque<(InterfaceId, Vec<u8>)>,
}

impl Wires {
    pub fn new(local: Rc<Queues>) -> Wires {
        let mut wires =
            Wires { wires: Vec::new(), full: VecDeque::new(), now: Duration::ZERO, control: VecDeque::new() };
        wires.set(InterfaceId::LOCAL, Wire::Local(local));
        wires
    }

    pub fn set(&mut self, interface: InterfaceId, wire: Wire) {
        let number = usize::from(interface.number());
        if self.wires.len() <= number {
            self.wires.resize_with(number + 1, || Wire::None);
        }
        self.wires[number] = wire;
    }

    /// Uplinks' devices, one for each VLAN.
    pub fn uplinks(&self) -> impl Iterator<Item = &Rc<Device>> {
        self.wires.iter().filter_map(|wire| match wire {
            Wire::Uplink(device, _) => Some(device),
            _ => None,
        })
    }

    /// An uplink that has so much to send that others wait for it.
    pub fn congested(&self) -> Option<Rc<Device>> {
        self.uplinks().find(|device| device.is_congested()).cloned()
    }
}

impl Output for Wires {
    fn send(&mut self, to: InterfaceId, packet: Packet) {
        match self.wires.get(usize::from(to.number())) {
            Some(Wire::Local(queues)) => queues.deliver(packet),
            Some(Wire::Uplink(device, vlan)) => device.send(packet, *vlan),
            Some(Wire::Client(link)) => {
                let waits = self.full.iter().any(|(other, _)| Rc::ptr_eq(other, link)) || link.port.is_full(&packet);
                if waits && self.now >= link.stuck_until.get() && self.full.len() < MAX_FULL {
                    self.full.push_back((link.clone(), packet));
                } else {
                    // What it has no room for is counted there.
                    let _ = link.port.send(packet);
                }
            }
            Some(Wire::None) | None => {}
        }
    }

    fn control(&mut self, from: InterfaceId, frame: &[u8]) {
        if self.control.len() < MAX_CONTROL {
            self.control.push_back((from, frame.to_vec()));
        }
    }
}

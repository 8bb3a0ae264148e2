//! Where the router's frames go.

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec::Vec;

use sarab::network::back::{Packet, Port};
use sarab_router::{InterfaceId, Output};

use crate::local::Queues;
use crate::uplink::Device;

/// What clients ask of the router that waits to be answered; more is lost.
const MAX_CONTROL: usize = 64;

/// What an interface of the router is.
pub enum Wire {
    None,
    Local(Rc<Queues>),
    Uplink(Rc<Device>, Option<u16>),
    Client(Rc<Port>),
}

/// All of them, by their numbers.
pub struct Wires {
    wires: Vec<Wire>,
    pub control: VecDeque<(InterfaceId, Vec<u8>)>,
}

impl Wires {
    pub fn new(local: Rc<Queues>) -> Wires {
        let mut wires = Wires { wires: Vec::new(), control: VecDeque::new() };
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

    /// An uplink that has so much to send that others wait for it.
    pub fn congested(&self) -> Option<Rc<Device>> {
        let devices = self.wires.iter().filter_map(|wire| match wire {
            Wire::Uplink(device, _) => Some(device),
            _ => None,
        });
        devices.into_iter().find(|device| device.is_congested()).cloned()
    }
}

impl Output for Wires {
    fn send(&mut self, to: InterfaceId, packet: Packet) {
        match self.wires.get(usize::from(to.number())) {
            Some(Wire::Local(queues)) => queues.deliver(packet),
            Some(Wire::Uplink(device, vlan)) => device.send(packet, *vlan),
            // What it has no room for is counted there.
            Some(Wire::Client(port)) => drop(port.send(packet)),
            Some(Wire::None) | None => {}
        }
    }

    fn control(&mut self, from: InterfaceId, frame: &[u8]) {
        if self.control.len() < MAX_CONTROL {
            self.control.push_back((from, frame.to_vec()));
        }
    }
}

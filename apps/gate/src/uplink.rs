//! Interfaces to networks that others run: this domain's own.

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::string::String;
use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::task::Poll;

use sarab::network::back::Packet;
use sarab::network::{Config, Interface, NetworkError, Options, front};
use sarab::platform::{XenPlatform, yield_now};
use sarab::println;
use sarab::time::{Duration, with_timeout};
use sarab_router::{InterfaceId, UplinkSettings, vlan};

use crate::gate::Gate;
use crate::wires::{Wire, packet_pages};

/// Bytes that wait for room in the ring. Clients wait from a part of them on, and what is more is lost.
const MAX_WAITING: usize = 4 << 20;
const CONGESTED: usize = 512 << 10;
/// For how long clients wait for an uplink that takes nothing.
const PATIENCE: Duration = Duration::from_millis(100);
/// Packets until others have their turn.
const AT_ONCE: usize = 64;

/// A network interface of this domain's.
pub struct Device {
    packets: front::Packets<XenPlatform>,
    waiting: RefCell<VecDeque<Packet>>,
    waiting_bytes: Cell<usize>,
    /// Packets that were lost since too many waited.
    pub overflowed: Cell<u64>,
    room: sarab::ring::WaitQueue,
}

impl Device {
    fn new(interface: &Interface) -> Device {
        Device {
            packets: interface.packets(),
            waiting: RefCell::default(),
            waiting_bytes: Cell::new(0),
            overflowed: Cell::new(0),
            room: Default::default(),
        }
    }

    /// Sends a frame, on a VLAN.
    pub fn send(&self, packet: Packet, vlan: Option<u16>) {
        let mut packet = packet;
        if let Some(vlan) = vlan {
            vlan::tag(&mut packet.bytes, vlan);
        }
        let is_first = self.waiting.borrow().is_empty();
        if is_first && self.packets.has_room(packet.bytes.len()) {
            let _ = self.packets.send(packet);
            return;
        }
        if !self.packets.is_up() {
            return;
        }
        let waiting = self.waiting_bytes.get() + packet.bytes.len();
        if waiting > MAX_WAITING {
            self.overflowed.set(self.overflowed.get() + 1);
            return;
        }
        self.waiting_bytes.set(waiting);
        self.waiting.borrow_mut().push_back(packet);
    }

    /// Sends what has waited.
    fn flush(&self) {
        let mut waiting = self.waiting.borrow_mut();
        let is_up = self.packets.is_up();
        while let Some(packet) = waiting.front() {
            if is_up && !self.packets.has_room(packet.bytes.len()) {
                break;
            }
            self.waiting_bytes.set(self.waiting_bytes.get() - packet.bytes.len());
            let _ = waiting.pop_front().map(|packet| self.packets.send(packet));
        }
        if !self.is_congested() {
            self.room.wake_all();
        }
    }

    /// Whether so much waits that those who send more should wait as well.
    pub fn is_congested(&self) -> bool {
        self.waiting_bytes.get() > CONGESTED
    }

    /// Waits until less waits, for a moment.
    pub async fn relieved(&self) {
        let _ = with_timeout(PATIENCE, self.room.wait_until(|| (!self.is_congested()).then_some(()))).await;
    }

    /// What its interface has done.
    pub fn statistics(&self) -> front::Statistics {
        self.packets.statistics()
    }

    fn state(&self) -> State {
        let info = self.packets.info();
        State { mac: info.mac, mtu: info.mtu, is_up: self.packets.is_up(), connections: self.packets.connections() }
    }
}

/// What of a device others have to know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct State {
    mac: [u8; 6],
    mtu: u16,
    is_up: bool,
    connections: u64,
}

/// A network on a device: all of it, or a VLAN.
#[derive(Clone)]
pub struct Network {
    pub vlan: Option<u16>,
    pub config: Config,
    pub name: String,
}

enum Event {
    Packet(Packet),
    Changed(State),
    Gone,
}

/// Serves a device, from its coming to its going. What networks are on it, `networks` says for its MAC.
pub async fn serve(gate: Rc<Gate>, name: String, networks: impl Fn([u8; 6]) -> alloc::vec::Vec<Network>) {
    let options = Options::default().with_spare_pages(packet_pages(gate.app) / 2);
    let interface = match gate.app.interface(&name, options).await {
        Ok(interface) => interface,
        // It has gone before it was looked for.
        Err(NetworkError::NotFound(_) | NetworkError::Gone(_)) => return,
        Err(error) => return println!("gate: {error}"),
    };
    let device = Rc::new(Device::new(&interface));
    let mut state = device.state();
    let mut uplinks: alloc::vec::Vec<(Option<u16>, InterfaceId)> = alloc::vec::Vec::new();
    for network in networks(state.mac) {
        let settings = UplinkSettings { mac: state.mac, config: network.config, mtu: state.mtu };
        let id = gate.add_uplink(settings, network.name, Wire::Uplink(device.clone(), network.vlan));
        gate.set_uplink(id, state.mac, state.is_up, state.mtu);
        uplinks.push((network.vlan, id));
    }
    loop {
        for _ in 0..AT_ONCE {
            let event = poll_fn(|cx| {
                device.flush();
                let now = device.state();
                if device.packets.is_gone() {
                    return Poll::Ready(Event::Gone);
                }
                if now != state {
                    return Poll::Ready(Event::Changed(now));
                }
                device.packets.poll_receive(cx).map(Event::Packet)
            });
            match event.await {
                Event::Packet(mut packet) => {
                    let vlan = vlan::tag_of(&packet.bytes);
                    let Some((_, id)) = uplinks.iter().find(|(own, _)| *own == vlan) else { continue };
                    if vlan.is_some() {
                        vlan::untag(&mut packet.bytes);
                    }
                    gate.receive(*id, packet);
                    gate.settle().await;
                }
                Event::Changed(now) => {
                    for ((_, id), network) in uplinks.iter().zip(networks(now.mac)) {
                        // Another connection may be another wire.
                        if now.connections != state.connections && state.is_up {
                            gate.set_uplink(*id, now.mac, false, now.mtu);
                        }
                        gate.configure_uplink(*id, network.config);
                        gate.set_uplink(*id, now.mac, now.is_up, now.mtu);
                    }
                    state = now;
                }
                Event::Gone => {
                    for (_, id) in &uplinks {
                        gate.remove(*id);
                    }
                    return;
                }
            }
        }
        gate.check_timers();
        yield_now().await;
    }
}

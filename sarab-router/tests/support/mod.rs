//! What several tests use: a network of stacks, in the simulation's time.

#![allow(dead_code, reason = "each test is a crate of its own, and uses a part")]

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::task::{Context, Waker};

use embassy_net::{Ipv4Cidr, Stack, StackResources, StaticConfigV4};
use embassy_net_driver::{Capabilities, Driver, HardwareAddress, LinkState, RxToken, TxToken};
use xen_sim::Domain;

/// Hosts that reach each other by IP.
#[derive(Clone, Default)]
pub struct Network(Rc<RefCell<BTreeMap<Ipv4Addr, Host>>>);

#[derive(Default)]
struct Host {
    packets: VecDeque<Vec<u8>>,
    waker: Option<Waker>,
}

impl Network {
    /// A stack with an address of 10.0.0.0/24, run by a domain.
    pub fn host(&self, domain: &Domain, last: u8, seed: u64) -> Stack<'static> {
        let address = Ipv4Addr::new(10, 0, 0, last);
        self.0.borrow_mut().insert(address, Host::default());
        let config =
            StaticConfigV4 { address: Ipv4Cidr::new(address, 24), gateway: None, dns_servers: Default::default() };
        let resources = Box::leak(Box::new(StackResources::<0>::new()));
        let interface = Interface { network: self.clone(), address };
        let (stack, mut runner) =
            embassy_net::new(interface, embassy_net::Config::ipv4_static(config), resources, seed);
        domain.spawn(async move { runner.run().await }).detach();
        stack
    }

    /// Sends a packet to whom it is for.
    fn send(&self, packet: Vec<u8>) {
        let to = Ipv4Addr::from(*packet[16..].first_chunk::<4>().unwrap());
        if let Some(host) = self.0.borrow_mut().get_mut(&to) {
            host.packets.push_back(packet);
            host.waker.take().into_iter().for_each(Waker::wake);
        }
    }
}

struct Interface {
    network: Network,
    address: Ipv4Addr,
}

pub struct Received(pub Vec<u8>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(mut self, read: F) -> R {
        read(&mut self.0)
    }
}

/// Where what a stack sends goes to.
pub enum Room {
    Network(Network),
    Frames(Frames),
}

pub type Frames = Rc<RefCell<VecDeque<Vec<u8>>>>;

impl TxToken for Room {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        let mut packet = vec![0; len];
        let outcome = write(&mut packet);
        match self {
            Room::Network(network) => network.send(packet),
            Room::Frames(frames) => frames.borrow_mut().push_back(packet),
        }
        outcome
    }
}

impl Driver for Interface {
    type RxToken<'a> = Received;
    type TxToken<'a> = Room;

    fn receive(&mut self, cx: &mut Context<'_>) -> Option<(Received, Room)> {
        let mut hosts = self.network.0.borrow_mut();
        let host = hosts.get_mut(&self.address)?;
        host.waker = Some(cx.waker().clone());
        host.packets.pop_front().map(|packet| (Received(packet), Room::Network(self.network.clone())))
    }

    fn transmit(&mut self, _: &mut Context<'_>) -> Option<Room> {
        Some(Room::Network(self.network.clone()))
    }

    fn link_state(&mut self, _: &mut Context<'_>) -> LinkState {
        LinkState::Up
    }

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::default();
        capabilities.max_transmission_unit = 1500;
        capabilities
    }

    fn hardware_address(&self) -> HardwareAddress {
        HardwareAddress::Ip
    }
}

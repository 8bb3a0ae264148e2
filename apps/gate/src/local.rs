//! The gate's own stack, which is a host behind the router like any other: what it sends is translated, and what is for the
//! gate is translated to it.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::future::poll_fn;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::task::{Context, Poll, Waker};

use embassy_net_driver::{Capabilities, Checksum as By, Driver, HardwareAddress, LinkState, RxToken, TxToken};
use sarab::network::Stack;
use sarab::network::back::{Checksum, Packet};
use sarab::network::headers::Headers;
use sarab::network::stack::{self, ConfigV4, ConfigV6, StackResources, StaticConfigV4, StaticConfigV6};
use sarab::network::{Ipv4Cidr, Ipv6Cidr, checksum};
use sarab_router::InterfaceId;

use crate::gate::Gate;

/// The stack's addresses, which nobody sees: RFC 7600's dummy address, and one of a network of its own.
pub const ADDRESS_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 8);
pub const ADDRESS_V6: Ipv6Addr = Ipv6Addr::new(0xfd67, 0x6174, 0x65, 0, 0, 0, 0, 8);
const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 1);
const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfd67, 0x6174, 0x65, 0, 0, 0, 0, 1);
const ETHERNET: usize = 14;
const MTU: usize = 1500;
/// Packets each way that wait; what is more is lost.
const MAX_WAITING: usize = 256;
/// Name servers of a family that the stack asks.
const MAX_SERVERS: usize = 3;

#[derive(Default)]
struct Queue {
    packets: VecDeque<Packet>,
    waker: Option<Waker>,
}

impl Queue {
    fn push(&mut self, packet: Packet) {
        if self.packets.len() < MAX_WAITING {
            self.packets.push_back(packet);
        }
        self.waker.take().into_iter().for_each(Waker::wake);
    }

    fn poll_pop(&mut self, cx: &mut Context<'_>) -> Poll<Packet> {
        match self.packets.pop_front() {
            Some(packet) => Poll::Ready(packet),
            None => {
                self.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// Packets between the router and the stack.
#[derive(Default)]
pub struct Queues {
    inward: RefCell<Queue>,
    outward: RefCell<Queue>,
}

impl Queues {
    /// A packet for the stack.
    pub fn deliver(&self, packet: Packet) {
        self.inward.borrow_mut().push(packet);
    }
}

struct Device(Rc<Queues>);

struct Received(Packet);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(mut self, read: F) -> R {
        read(self.0.bytes.get_mut(ETHERNET..).unwrap_or_default())
    }
}

struct Room(Rc<Queues>);

impl TxToken for Room {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        let mut bytes = vec![0; ETHERNET + len];
        let value = write(&mut bytes[ETHERNET..]);
        let ethertype = if bytes.get(ETHERNET).is_some_and(|first| first >> 4 == 6) { [0x86, 0xdd] } else { [8, 0] };
        bytes[12..ETHERNET].copy_from_slice(&ethertype);
        let mut packet = Packet::from(bytes);
        // The stack leaves checksums of TCP and UDP to whoever sends the packet away.
        if let Some(headers) = Headers::parse(&packet.bytes)
            && checksum::leave_blank(&mut packet.bytes, &headers)
        {
            packet.checksum = Checksum::Blank;
        }
        self.0.outward.borrow_mut().push(packet);
        value
    }
}

impl Driver for Device {
    type RxToken<'a> = Received;
    type TxToken<'a> = Room;

    fn receive(&mut self, cx: &mut Context<'_>) -> Option<(Received, Room)> {
        match self.0.inward.borrow_mut().poll_pop(cx) {
            Poll::Ready(packet) => Some((Received(packet), Room(self.0.clone()))),
            Poll::Pending => None,
        }
    }

    fn transmit(&mut self, _: &mut Context<'_>) -> Option<Room> {
        Some(Room(self.0.clone()))
    }

    fn link_state(&mut self, _: &mut Context<'_>) -> LinkState {
        LinkState::Up
    }

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::default();
        capabilities.max_transmission_unit = MTU;
        (capabilities.checksum.tcp, capabilities.checksum.udp) = (By::None, By::None);
        capabilities
    }

    fn hardware_address(&self) -> HardwareAddress {
        HardwareAddress::Ip
    }
}

/// The stack, and the future that runs it.
pub fn stack(queues: Rc<Queues>, seed: u64) -> (Stack, impl Future<Output = ()>) {
    let resources = Box::leak(Box::new(StackResources::<0>::new()));
    let (stack, mut runner) = stack::new(Device(queues), stack::Config::default(), resources, seed);
    set_name_servers(stack, &[]);
    (stack, async move { runner.run().await })
}

/// Has the stack ask these for the names in rules.
pub fn set_name_servers(stack: Stack, servers: &[IpAddr]) {
    let v4 = servers.iter().filter_map(|server| if let IpAddr::V4(server) = server { Some(*server) } else { None });
    let v6 = servers.iter().filter_map(|server| if let IpAddr::V6(server) = server { Some(*server) } else { None });
    stack.set_config_v4(ConfigV4::Static(StaticConfigV4 {
        address: Ipv4Cidr::new(ADDRESS_V4, 24),
        gateway: Some(GATEWAY_V4),
        dns_servers: v4.take(MAX_SERVERS).collect(),
    }));
    stack.set_config_v6(ConfigV6::Static(StaticConfigV6 {
        address: Ipv6Cidr::new(ADDRESS_V6, 64),
        gateway: Some(GATEWAY_V6),
        dns_servers: v6.take(MAX_SERVERS).collect(),
    }));
}

/// Routes what the stack sends.
pub async fn serve(gate: Rc<Gate>, queues: Rc<Queues>) {
    loop {
        let mut packets = Vec::new();
        packets.push(poll_fn(|cx| queues.outward.borrow_mut().poll_pop(cx)).await);
        packets.extend(queues.outward.borrow_mut().packets.drain(..));
        for packet in packets {
            gate.receive(InterfaceId::LOCAL, packet);
            gate.settle().await;
        }
        sarab::platform::yield_now().await;
    }
}

//! What a packet costs where there are few flows, and where there are many.
//!
//! ```sh
//! cargo build --release -p sarab-router --example flows
//! for flows in 10 100 1000 10000 100000; do
//!     valgrind --tool=callgrind --callgrind-out-file=/dev/null --toggle-collect='*pass_on*' \
//!         target/release/examples/flows $flows 2>&1 | grep -E 'flows|Collected'
//! done
//! ```
//!
//! Callgrind counts instructions of `pass_on` alone: divided by the number of packets, they are the cost of a packet, from one
//! interface to the other with its address and port translated. By itself the program tells nanoseconds.

#[path = "../tests/common/mod.rs"]
mod common;

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use common::{Net, Wires, client_mac, client_v4, masquerade};
use etherparse::PacketBuilder;
use sarab_router::InterfaceId;

/// Packets that are passed on while it is counted.
const PACKETS: usize = 20_000;
/// Ports of the client's. More flows have other destinations.
const PORTS: usize = 1000;
const CLIENT: u8 = 5;

fn main() {
    let flows = std::env::args().nth(1).map_or(10, |word| word.parse().expect("a number of flows"));
    let mut net = Net::new(flows + 16, masquerade());
    let client = net.client(CLIENT);
    for flow in 0..flows {
        assert_eq!(net.put(client, packet(flow)).len(), 1, "flow {flow}");
    }
    assert_eq!(net.router.flows().len(), flows);
    // In an order that no cache foresees.
    let frames: Vec<_> = (0..PACKETS).map(|index| packet(index * 7919 % flows)).collect();
    net.now += Duration::from_secs(1);
    let mut wires = Wires::default();
    wires.sent.reserve(PACKETS);
    let start = Instant::now();
    pass_on(&mut net, client, frames, &mut wires);
    let took = start.elapsed();
    assert_eq!(wires.sent.len(), PACKETS);
    println!("{flows} flows, {PACKETS} packets, {} ns each", took.as_nanos() / PACKETS as u128);
}

#[inline(never)]
fn pass_on(net: &mut Net, from: InterfaceId, frames: Vec<Vec<u8>>, wires: &mut Wires) {
    for frame in frames {
        net.router.receive(from, frame.into(), net.now, wires);
    }
}

/// A flow's packet.
fn packet(flow: usize) -> Vec<u8> {
    let far = (flow / PORTS) as u32;
    let to = Ipv4Addr::from_bits(Ipv4Addr::new(198, 18, 0, 1).to_bits() + far);
    let builder = PacketBuilder::ethernet2(client_mac(CLIENT), common::GATE_MAC);
    let builder = builder.ipv4(client_v4(CLIENT).octets(), to.octets(), 64).udp(1024 + (flow % PORTS) as u16, 7000);
    let mut frame = Vec::new();
    builder.write(&mut frame, &[0; 22]).expect("a vector takes all");
    frame
}

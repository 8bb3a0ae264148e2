//! Two stacks at the ends of a wire that loses frames, has them twice and out of order, among a thousand others who talk.

mod support;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::time::Duration;

use embassy_net::tcp::TcpSocket;
use embassy_net::{IpAddress, Stack};
use embedded_io_async::{Read, Write};
use futures_util::future::join;
use support::config;
use support::hosts::{ALL, arp, host};
use support::segment::Segment;
use xen_hal::Clock;
use xen_sim::{Domain, Xen, check};

const BYTES: usize = 300_000;

/// What a wire does with frames, each in a thousand.
#[derive(Clone, Copy)]
struct Faults {
    lost: u64,
    twice: u64,
    late: u64,
}

/// Carries frames both ways until it is told to end, and adds the noise of others.
async fn wire(clock: Domain, ends: [Segment; 2], faults: Faults, seed: u64, over: Rc<Cell<bool>>) {
    let mut random = seed;
    let mut next = |end: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % end
    };
    let mut on_the_way: BTreeMap<(Duration, u64), (usize, Vec<u8>)> = BTreeMap::new();
    let mut count = 0;
    while !over.get() {
        let now = clock.now();
        for (to, from) in [(1, 0), (0, 1)] {
            while let Some(frame) = ends[from].take() {
                let copies = if next(1000) < faults.lost { 0 } else { 1 + u64::from(next(1000) < faults.twice) };
                for _ in 0..copies {
                    let late = if next(1000) < faults.late { 1 + next(20) } else { 0 };
                    count += 1;
                    on_the_way.insert((now + Duration::from_millis(5 + late), count), (to, frame.clone()));
                }
            }
        }
        while let Some(entry) = on_the_way.first_entry().filter(|entry| entry.key().0 <= now) {
            let (to, frame) = entry.remove();
            ends[to].deliver(frame);
        }
        // Each of a thousand asks for one of the two.
        let (other, to) = (host(next(1000) as u16), next(2) as usize);
        ends[to].deliver(arp(true, ALL, other, ([0; 6], Ipv4Addr::new(10, 0, 0, 1 + to as u8))));
        clock.sleep(Duration::from_millis(1)).await;
    }
}

fn bytes(seed: u8) -> Vec<u8> {
    (0..BYTES).map(|at| (at % 251) as u8 ^ seed).collect()
}

/// Sends its bytes, and takes the other's at the same time.
async fn talk(socket: &mut TcpSocket<'_>, own: u8, other: u8) {
    let (mut reader, mut writer) = socket.split();
    let read = async {
        let mut received = vec![0; BYTES];
        reader.read_exact(&mut received).await.expect("the connection holds");
        assert!(received == bytes(other), "other bytes than were sent");
    };
    let write = async {
        writer.write_all(&bytes(own)).await.expect("the connection holds");
        writer.flush().await.expect("the connection holds");
    };
    join(read, write).await;
}

fn run(xen: &Xen, faults: Faults) {
    let over = Rc::new(Cell::new(false));
    let ends = [Segment::with_mac([2, 0, 0, 0, 0, 1]), Segment::with_mac([2, 0, 0, 0, 0, 2])];
    let clock = xen.dom0();
    clock.spawn(wire(clock.clone(), ends.clone(), faults, xen.seed(), over.clone())).detach();
    let domain = xen.domain();
    let stack = |number: usize| -> Stack<'static> {
        let address = format!("10.0.0.{}/8", number + 1);
        support::stack(&domain, ends[number].clone(), config(&address, ""), number as u64, &Default::default()).0
    };
    let (first, second) = (stack(0), stack(1));
    xen.run(async move {
        join(first.wait_config_up(), second.wait_config_up()).await;
        let server = async {
            let (mut rx, mut tx) = (vec![0; 65536], vec![0; 65536]);
            let mut socket = TcpSocket::new(first, &mut rx, &mut tx);
            socket.accept(7).await.expect("somebody connects");
            talk(&mut socket, 1, 2).await;
        };
        let client = async {
            let (mut rx, mut tx) = (vec![0; 65536], vec![0; 65536]);
            let mut socket = TcpSocket::new(second, &mut rx, &mut tx);
            let to = IpAddress::Ipv4(Ipv4Addr::new(10, 0, 0, 1));
            while socket.connect((to, 7)).await.is_err() {}
            talk(&mut socket, 2, 1).await;
        };
        join(server, client).await;
        over.set(true);
    });
}

#[test]
fn bytes_arrive_whole_over_a_bad_wire() {
    for (name, faults) in [
        ("a good wire", Faults { lost: 0, twice: 0, late: 0 }),
        ("losses", Faults { lost: 20, twice: 0, late: 0 }),
        ("twice", Faults { lost: 0, twice: 100, late: 0 }),
        ("out of order", Faults { lost: 0, twice: 0, late: 100 }),
        ("all of it", Faults { lost: 20, twice: 50, late: 50 }),
    ] {
        check(name, 2, move |xen| run(xen, faults));
    }
}

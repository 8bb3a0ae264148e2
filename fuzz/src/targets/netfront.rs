//! netfront, against a backend that answers anything.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use embassy_net_driver::{Driver, RxToken, TxToken};
use xen_hal::{Clock, DomId, EventChannels, GrantRef, PortNumber};
use xen_netif::front::{self, Interface, Options};
use xen_sim::{Domain, Xen};

use crate::disturb::{RX_SLOTS, TX_SLOTS, disturb};
use crate::input::Input;
use crate::net::MAC;
use crate::peer::{attach, map, read, until_state, write};
use crate::second::second_processor;

pub(super) const SHORT: u32 = 60;

pub(super) fn seeds() -> Vec<Vec<u8>> {
    Vec::new()
}

pub(super) fn run(data: &[u8]) {
    let mut input = Input(data);
    let xen = Xen::new(u64::from(input.byte()));
    let (guest, server) = (xen.domain(), xen.domain());
    let bits = input.byte();
    let offers = ["feature-sg", "feature-gso-tcpv4", "feature-gso-tcpv6", "feature-no-csum-offload"];
    let (front, back) = attach(&xen, "vif", (&guest, &server), 0, &[]);
    write(&xen, DomId::DOM0, &format!("{front}/mac"), MAC);
    start_users(&guest, bits & 0x10 != 0);
    let write = |key: &str, value: u32| write(&xen, server.id(), &format!("{back}/{key}"), value);
    for (bit, key) in offers.into_iter().enumerate() {
        write(key, u32::from(bits >> bit & 1));
    }
    write("feature-rx-copy", 1);
    write("state", 2);
    until_state(&xen, &front, 4);
    let number = |key: &str| read::<u32>(&xen, &format!("{front}/{key}")).expect("it is written");
    let map = |key: &str| map(&server, guest.id(), GrantRef(number(key)));
    let (tx, rx) = (map("tx-ring-ref"), map("rx-ring-ref"));
    let port = server.bind_interdomain(guest.id(), PortNumber(number("event-channel"))).expect("a port");
    write("state", 4);
    second_processor(&server, &mut input);
    let slots = if input.byte() & 1 == 0 { RX_SLOTS } else { TX_SLOTS };
    disturb(&xen, &mut input, &[&rx, &tx], slots, &port, &[GrantRef(8), GrantRef(9)]);
    server.one_processor();
    drop((tx, rx, port));
    xen.check_budgets();
    xen.end();
}

/// One that sends frames of any size, and reads what comes; or one that sends back what comes, as a router does.
fn start_users(guest: &Domain, routes: bool) {
    let store = guest.store();
    let options = Options::default().with_receive_pages(32).with_transmit_pages(20).with_spare_pages(32);
    let (interface, runner) = front::connect(&store, guest.clone(), "device/vif/0", options);
    guest.spawn(async move { drop(runner.await) }).detach();
    match routes {
        true => guest.spawn(route(guest.clone(), interface)).detach(),
        false => guest.spawn(use_device(guest.clone(), interface)).detach(),
    }
}

async fn use_device(clock: Domain, interface: Interface<Domain>) {
    let mut device = interface.device();
    for turn in 0..200_usize {
        poll_fn(|cx| {
            while let Some((frame, answer)) = device.receive(cx) {
                let len = frame.consume(|bytes| bytes.len());
                answer.consume(len.clamp(14, 1500), |bytes| bytes.fill(turn as u8));
            }
            let largest = device.capabilities().max_transmission_unit;
            if let Some(token) = device.transmit(cx) {
                token.consume((14 << (turn % 13)).min(largest), |bytes| bytes.fill(turn as u8));
            }
            Poll::Ready(())
        })
        .await;
        clock.sleep(Duration::from_micros(10)).await;
    }
}

async fn route(clock: Domain, interface: Interface<Domain>) {
    let packets = interface.packets();
    let mut held = VecDeque::new();
    for turn in 0..200_usize {
        poll_fn(|cx| {
            while let Poll::Ready(packet) = packets.poll_receive(cx) {
                held.push_back(packet);
            }
            // Some are sent later, and some never.
            while held.len() > turn % 4 {
                let _ = held.pop_front().map(|packet| packets.send(packet));
            }
            let _ = packets.send(vec![turn as u8; 14 << (turn % 13)].into());
            Poll::Ready(())
        })
        .await;
        clock.sleep(Duration::from_micros(10)).await;
    }
}

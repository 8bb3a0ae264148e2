//! Both ends of the network protocol, against a peer that writes anything into the rings' pages.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use embassy_net_driver::{Driver, RxToken, TxToken};
use xen_hal::{Access, Clock, EventChannels, GrantRef, Pages, Port, PortNumber};
use xen_netif::back::{self, Limits, Packet};
use xen_netif::front::{self, Options};
use xen_ring::LentPage;
use xenstore_client::Error;

use super::disturb::{INDICES, Input, Slots, disturb, map, state};
use crate::{Domain, SimGrant, Toolstack, Xen};

const MAC: &str = "00:16:3e:01:02:03";
/// Offsets and lengths reach a little beyond a page.
const TX_SLOTS: Slots = Slots { size: 12, count: 64, below: [256, 17, 16, 4] };
const RX_SLOTS: Slots = Slots { size: 8, count: 64, below: [256, 17, 16, 17] };

/// netback, against a guest that sends and asks for anything.
pub fn netback(data: &[u8]) {
    let mut input = Input(data);
    let xen = Xen::new(u64::from(input.byte()));
    let features = input.byte();
    let toolstack = xen.toolstack();
    let (guest, server) = (xen.domain(), xen.domain());
    let (store, memory) = (server.store(), server.clone());
    server
        .spawn(async move {
            let spawner = memory.clone();
            // What comes is sent back.
            let opened = |port: back::Port| {
                let echo = async move {
                    while let Some(packet) = port.receive().await {
                        let _ = port.send(Packet { sum: back::Sum::Blank, ..packet.clone() });
                        let _ = port.send(packet);
                    }
                };
                spawner.spawn(echo).detach();
                Ok(())
            };
            let limits = Limits { from_guest: 200_000, to_guest: 200_000 };
            drop(back::serve(&store, memory.clone(), memory.clone(), memory.clone(), limits, opened).await);
        })
        .detach();
    let (own, peer) = (guest.clone(), server.id());
    let (tx, rx, data, port) = xen.run(async move {
        let lend = |access| {
            let mut page = LentPage::<SimGrant>::new(own.alloc_page().expect("a page"));
            page.lend(&own, peer, access).expect("a grant");
            page
        };
        let (tx, rx) = (lend(Access::ReadWrite), lend(Access::ReadWrite));
        let data = [lend(Access::ReadWrite), lend(Access::ReadOnly)];
        for index in [1, 3] {
            tx.store(INDICES[index], 1);
            rx.store(INDICES[index], 1);
        }
        let port = own.alloc_unbound(peer).expect("a port");
        let connect = async {
            let store = own.store();
            toolstack.attach_with("vif", own.id(), peer, 0, &[("mac", MAC)]).await?;
            let (front, back) = Toolstack::paths("vif", own.id(), peer, 0);
            state(&store, &back, 2).await?;
            store.set(&format!("{front}/tx-ring-ref"), &tx.reference().expect("it is lent")).await?;
            store.set(&format!("{front}/rx-ring-ref"), &rx.reference().expect("it is lent")).await?;
            store.set(&format!("{front}/event-channel"), &port.number()).await?;
            store.set(&format!("{front}/request-rx-copy"), &true).await?;
            let keys = [
                "feature-sg",
                "feature-gso-tcpv4",
                "feature-gso-tcpv6",
                "feature-no-csum-offload",
                "feature-ipv6-csum-offload",
                "feature-rx-notify",
                "request-multicast-control",
            ];
            for (bit, key) in keys.into_iter().enumerate() {
                store.set(&format!("{front}/{key}"), &(features >> bit & 1 != 0)).await?;
            }
            store.set(&format!("{front}/state"), &4_u32).await?;
            state(&store, &back, 4).await
        };
        connect.await.expect("the store works");
        (tx, rx, data, port)
    });
    // Something that looks like a packet, as far as it goes.
    for (page, bytes) in data.iter().zip([&[0x45_u8, 0, 0, 60][..], &[0x60, 0, 0, 0, 0, 40, 6]]) {
        page.write(14, bytes);
        page.write(12, if bytes[0] == 0x45 { &[8, 0] } else { &[0x86, 0xdd] });
        page.write(23, &[6]);
    }
    let references = [data[0].reference(), data[1].reference()].map(|reference| reference.expect("it is lent"));
    disturb(&xen, &mut input, &[&tx, &rx], TX_SLOTS, &port, &references);
    drop((tx, rx, data, port));
    xen.end();
}

/// netfront, against a backend that answers anything.
pub fn netfront(data: &[u8]) {
    let mut input = Input(data);
    let xen = Xen::new(u64::from(input.byte()));
    let toolstack = xen.toolstack();
    let (guest, server) = (xen.domain(), xen.domain());
    let bits = input.byte();
    let offers = ["feature-sg", "feature-gso-tcpv4", "feature-gso-tcpv6", "feature-no-csum-offload"];
    let (own, peer) = (server.clone(), guest.id());
    let made = xen.run({
        let guest = guest.clone();
        async move {
            toolstack.attach_with("vif", peer, own.id(), 0, &[]).await?;
            let (front, back) = Toolstack::paths("vif", peer, own.id(), 0);
            toolstack.store().set(&format!("{front}/mac"), MAC).await?;
            start_users(&guest);
            let store = own.store();
            for (bit, key) in offers.into_iter().enumerate() {
                store.set(&format!("{back}/{key}"), &(bits >> bit & 1 != 0)).await?;
            }
            store.set(&format!("{back}/feature-rx-copy"), &true).await?;
            store.set(&format!("{back}/state"), &2_u32).await?;
            state(&store, &front, 4).await?;
            let tx: GrantRef = store.read_as(&format!("{front}/tx-ring-ref")).await?;
            let rx: GrantRef = store.read_as(&format!("{front}/rx-ring-ref")).await?;
            let port: PortNumber = store.read_as(&format!("{front}/event-channel")).await?;
            store.set(&format!("{back}/state"), &4_u32).await?;
            let port = own.bind_interdomain(peer, port).expect("a port");
            Ok::<_, Error>((map(&own, peer, tx), map(&own, peer, rx), port))
        }
    });
    let (tx, rx, port) = made.expect("the store works");
    let slots = if input.byte() & 1 == 0 { RX_SLOTS } else { TX_SLOTS };
    disturb(&xen, &mut input, &[&rx, &tx], slots, &port, &[GrantRef(8), GrantRef(9)]);
    drop((tx, rx, port));
    xen.end();
}

/// One that sends frames of any size, and reads what comes.
fn start_users(guest: &Domain) {
    let store = guest.store();
    let options = Options { receive_pages: 32, transmit_pages: 20, ..Options::default() };
    let (interface, runner) =
        front::connect(&store, guest.clone(), guest.clone(), guest.clone(), "device/vif/0", options);
    guest.spawn(async move { drop(runner.await) }).detach();
    let clock = guest.clone();
    guest
        .spawn(async move {
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
        })
        .detach();
}

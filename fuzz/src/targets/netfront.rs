//! netfront, against a backend that answers anything.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use embassy_net_driver::{Driver, RxToken, TxToken};
use xen_hal::{Clock, EventChannels, GrantRef, PortNumber};
use xen_netif::front::{self, Options};
use xen_sim::{Domain, Toolstack, Xen};
use xenstore_client::Error;

use crate::disturb::{RX_SLOTS, TX_SLOTS, disturb};
use crate::input::Input;
use crate::peer::{map, state};

const MAC: &str = "00:16:3e:01:02:03";

pub(super) const SHORT: u32 = 300;

pub(super) fn seeds() -> Vec<Vec<u8>> {
    Vec::new()
}

pub(super) fn run(data: &[u8]) {
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

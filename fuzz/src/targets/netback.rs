//! netback, against a guest that sends and asks for anything.

use xen_hal::{Access, EventChannels, Port};
use xen_netif::back::{self, Limits, Packet};
use xen_sim::{Toolstack, Xen};

use crate::disturb::{INDICES, TX_SLOTS, disturb};
use crate::input::Input;
use crate::peer::{lend, state};

const MAC: &str = "00:16:3e:01:02:03";

pub(super) const SHORT: u32 = 300;

pub(super) fn seeds() -> Vec<Vec<u8>> {
    Vec::new()
}

pub(super) fn run(data: &[u8]) {
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
        let lend = |access| lend(&own, peer, access);
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

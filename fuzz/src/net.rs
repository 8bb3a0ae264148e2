//! A guest by hand on a netback whose application sends everything back.

use xen_hal::{Access, EventChannels, Port as _};
use xen_netif::back::{self, Limits, Packet};
use xen_ring::GrantablePage;
use xen_sim::{Domain, SimGrant, SimPort, Xen};

use crate::disturb::INDICES;
use crate::peer::{attach, grant_page, until_state, write};

pub(crate) const MAC: &str = "00:16:3e:01:02:03";

/// What a guest may ask for, by bits.
pub(crate) const FEATURES: [&str; 7] = [
    "feature-sg",
    "feature-gso-tcpv4",
    "feature-gso-tcpv6",
    "feature-no-csum-offload",
    "feature-ipv6-csum-offload",
    "feature-rx-notify",
    "request-multicast-control",
];

pub(crate) struct Guest {
    pub(crate) domain: Domain,
    pub(crate) server: Domain,
    pub(crate) tx: GrantablePage<SimGrant>,
    pub(crate) rx: GrantablePage<SimGrant>,
    pub(crate) port: SimPort,
}

/// Connects one with `features`. What it sends is sent back as `packets` says.
pub(crate) fn connect(xen: &Xen, features: u8, packets: impl Fn(Packet) -> Vec<Packet> + Clone + 'static) -> Guest {
    let (domain, server) = (xen.domain(), xen.domain());
    let (store, memory) = (server.store(), server.clone());
    server
        .spawn(async move {
            let spawner = memory.clone();
            let opened = |port: back::Port| {
                let packets = packets.clone();
                let echo = async move {
                    while let Some(packet) = port.receive().await {
                        for packet in packets(packet) {
                            let _ = port.send(packet);
                        }
                    }
                };
                spawner.spawn(echo).detach();
                Ok(())
            };
            let limits = Limits::default().with_from_guest(200_000).with_to_guest(200_000);
            drop(back::serve(&store, memory.clone(), limits, opened).await);
        })
        .detach();
    let (front, back) = attach(xen, "vif", (&domain, &server), 0, &[("mac", MAC)]);
    let grant = || grant_page(&domain, server.id(), Access::ReadWrite);
    let (tx, rx) = (grant(), grant());
    for index in [1, 3] {
        tx.store(INDICES[index], 1);
        rx.store(INDICES[index], 1);
    }
    let port = domain.alloc_unbound(server.id()).expect("a port");
    until_state(xen, &back, 2);
    let write = |key: &str, value: u32| write(xen, domain.id(), &format!("{front}/{key}"), value);
    write("tx-ring-ref", tx.reference().expect("it is granted").0);
    write("rx-ring-ref", rx.reference().expect("it is granted").0);
    write("event-channel", port.number().0);
    write("request-rx-copy", 1);
    for (bit, key) in FEATURES.into_iter().enumerate() {
        write(key, u32::from(features >> bit & 1));
    }
    write("state", 4);
    until_state(xen, &back, 4);
    Guest { domain, server, tx, rx, port }
}

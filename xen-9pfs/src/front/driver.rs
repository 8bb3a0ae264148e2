//! The driver's side of a share: its life on XenBus.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;

use xen_hal::{Port, Xen, information};
use xenbus::{Device, Failure, Frontend, Keys, RateLimit, Signals, State};
use xenstore_client::Error as StoreError;

use super::Options;
use super::connection::{Connection, Link, RingLink, broken};
use super::shared::Shared;
use crate::ring;

pub(super) struct Driver<X: Xen> {
    pub(super) shared: Rc<Shared>,
    pub(super) xen: X,
    pub(super) options: Options,
    /// For the lines that a backend can cause.
    pub(super) lines: RateLimit,
}

impl<X: Xen> Frontend for Driver<X> {
    const PUBLISHED: State = State::Initialised;
    type Link = Link<X::Grant, X::Port>;

    async fn connect(&mut self, device: &Device) -> Result<Self::Link, Failure> {
        let tag = device.get::<String>("tag").await?;
        self.shared.tag.replace(tag.map(Rc::from));
        let (rings, offered) = device
            .read_peer(async |peer| {
                let versions: String = peer.required("versions").await?;
                if !versions.split(',').any(|version| version.trim() == ring::VERSION) {
                    return Err(peer.unexpected("versions", versions, format_args!("{} among them", ring::VERSION)));
                }
                let mut values = [0; 2];
                let least = [("max-rings", 1), ("max-ring-page-order", ring::MIN_ORDER)];
                for (value, (key, least)) in values.iter_mut().zip(least) {
                    *value = peer.required(key).await?;
                    if *value < least {
                        return Err(peer.unexpected(key, *value, format_args!("{least} at least")));
                    }
                }
                Ok(values.into())
            })
            .await?;
        let order = offered.min(self.options.max_ring_order.into()).clamp(ring::MIN_ORDER, ring::MAX_ORDER);
        let count = rings.min(self.options.max_rings.into()).clamp(1, ring::MAX_RINGS);
        let mut rings = Vec::new();
        for _ in 0..count {
            let memory = device.grant_ring(&self.xen, "the ring", 1 + (1 << order))?;
            let mut references = memory.references();
            // The first is that of the interface page itself.
            references.next();
            ring::write_references(&memory, references);
            let requests = ring::requests(order).writer(&memory).map_err(broken)?;
            let responses = ring::responses(order).reader(&memory).map_err(broken)?;
            rings.push(RingLink { memory, requests, responses, port: device.alloc_port(&self.xen)? });
        }
        Ok(Link { rings, order })
    }

    async fn publish(&mut self, keys: &Keys<'_>, link: &Self::Link) -> Result<(), StoreError> {
        keys.set("version", ring::VERSION).await?;
        keys.set("num-rings", &link.rings.len()).await?;
        for (index, RingLink { memory, port, .. }) in link.rings.iter().enumerate() {
            for reference in memory.references().take(1) {
                keys.set(&format!("ring-ref{index}"), &reference).await?;
            }
            keys.set(&format!("event-channel-{index}"), &port.number()).await?;
        }
        Ok(())
    }

    async fn accept(&mut self, device: &Device, link: &mut Self::Link) -> Result<(), Failure> {
        self.shared.status.count(|statistics| statistics.connections += 1);
        if self.lines.allows(self.xen.now()) {
            let bytes = ring::size(link.order);
            let rings = link.rings.len();
            information!(
                "{}: 9pfs from {}, {} x {} bytes in flight",
                device.path(),
                device.other_domain(),
                rings,
                bytes
            );
        }
        Ok(())
    }

    async fn run(&mut self, _: &Device, link: Self::Link, signals: &Signals) -> Result<(), Failure> {
        let outcome = Connection::new(self.shared.clone(), link, self.options).run(signals, &self.xen).await;
        match outcome {
            Ok(()) => self.shared.disconnect(),
            Err(_) => self.shared.lose(),
        }
        outcome
    }

    fn lost(&mut self) {
        self.shared.lose();
    }
}

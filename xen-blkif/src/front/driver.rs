//! The driver's side of a disk: its life on XenBus, and the ring while it is connected.

use alloc::format;
use alloc::rc::Rc;

use xen_hal::{Port, Xen, information};
use xen_ring::FrontRing;
use xenbus::{Device, Failure, Frontend, Keys, Phase, RateLimit, Signals, State};
use xenstore_client::Error as StoreError;

use super::Options;
use super::connection::Connection;
use super::link::{Features, Link, read_geometry};
use super::shared::Shared;
use crate::device::Geometry;
use crate::protocol::{Abi, MAX_RING_ORDER};
use crate::vdev;

pub(super) struct Driver<X: Xen> {
    pub(super) shared: Rc<Shared<X>>,
    pub(super) xen: X,
    pub(super) options: Options,
    /// For the lines that a backend can cause.
    pub(super) lines: RateLimit,
}

impl<X: Xen> Frontend for Driver<X> {
    const PUBLISHED: State = State::Initialised;
    type Link = Link<X, X::Port>;

    async fn connect(&mut self, device: &Device) -> Result<Self::Link, Failure> {
        let offered = device.read_peer(async |peer| Ok(peer.number("max-ring-page-order", 0).await?)).await?;
        let order = offered.min(self.options.max_ring_order.into()).min(MAX_RING_ORDER);
        let memory = device.grant_ring(&self.xen, "the ring", 1 << order)?;
        let ring = FrontRing::new(Abi::X86_64, &memory);
        let port = device.alloc_port(&self.xen)?;
        let (features, geometry) = (Features::default(), Geometry::plain(0));
        Ok(Link { ring, memory, numbered: order > 0, port, features, geometry })
    }

    async fn publish(&mut self, keys: &Keys<'_>, link: &Self::Link) -> Result<(), StoreError> {
        if link.numbered {
            keys.set("ring-page-order", &link.memory.references().len().ilog2()).await?;
            for (index, reference) in link.memory.references().enumerate() {
                keys.set(&format!("ring-ref{index}"), &reference).await?;
            }
        } else {
            // A backend takes even an order of 0 for numbered keys.
            keys.remove("ring-page-order").await?;
            for reference in link.memory.references() {
                keys.set("ring-ref", &reference).await?;
            }
        }
        keys.set("event-channel", &link.port.number()).await?;
        keys.set("protocol", Abi::X86_64.name()).await?;
        keys.set("feature-persistent", &self.options.persistent).await
    }

    async fn accept(&mut self, device: &Device, link: &mut Self::Link) -> Result<(), Failure> {
        let options = self.options;
        let (features, geometry) = device
            .read_peer(async |peer| {
                let features = Features {
                    flush: peer.flag("feature-flush-cache").await?,
                    barrier: peer.flag("feature-barrier").await?,
                    persistent: options.persistent && peer.flag("feature-persistent").await?,
                    indirect: peer.number("feature-max-indirect-segments", 0).await?.try_into().unwrap_or(u16::MAX),
                };
                let sectors = peer.required("sectors").await?;
                Ok((features, read_geometry(peer, sectors, &features).await?))
            })
            .await?;
        link.features = features;
        self.shared.pool.begin(link.features.persistent);
        self.shared.status.count(|statistics| {
            statistics.connections += 1;
            statistics.ring_slots = link.ring.slots();
        });
        if self.lines.allows(self.xen.now()) {
            information!(
                "{}: {}, {} sectors from {}, {} requests at once, {}",
                device.path(),
                vdev::name_of(device.id()),
                geometry.sectors,
                device.other_domain(),
                link.ring.slots(),
                if link.features.persistent { "persistent grants" } else { "a grant for each request" }
            );
        }
        link.geometry = geometry;
        Ok(())
    }

    async fn run(&mut self, device: &Device, link: Self::Link, signals: &Signals) -> Result<(), Failure> {
        let status = &self.shared.status;
        status.set_info(link.geometry);
        status.set_phase(Phase::Up);
        let mut connection = Connection::new(self.shared.clone(), self.options, device.other_domain(), link);
        let outcome = connection.run(device, signals, &self.xen, &mut self.lines).await;
        drop(connection);
        status.set_phase(Phase::Waiting);
        outcome
    }

    fn lost(&mut self) {
        self.shared.lose();
    }
}

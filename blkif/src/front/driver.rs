//! The driver's side of a disk: its life on XenBus, and the ring while it is connected.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;

use xen_hal::{Access, Clock, Errno, EventChannels, Port, information};
use xen_ring::{FrontRing, LentPages};
use xenstore_client::xenbus::{Device, Failure, Frontend, Peer, Signals, State};
use xenstore_client::{Error as StoreError, Tree};

use super::Options;
use super::buffer::Memory;
use super::connection::Connection;
use super::queue::{Phase, Shared};
use crate::device::{Discard, Error, Geometry};
use crate::pace::Pace;
use crate::protocol::{Abi, MOST_RING_ORDER, SECTOR_SIZE};

pub(super) struct Driver<G: Memory, E, C> {
    pub(super) shared: Rc<Shared<G>>,
    pub(super) events: E,
    pub(super) clock: C,
    pub(super) options: Options,
    /// For the lines that a backend can cause.
    pub(super) lines: Pace,
}

/// What is offered to a backend: the ring and its bell.
pub(super) struct Link<G: Memory, P> {
    pub(super) ring: FrontRing<Abi>,
    pub(super) memory: LentPages<G::Grant>,
    /// Whether the ring's keys are numbered, as those of several pages are.
    numbered: bool,
    pub(super) port: P,
    pub(super) features: Features,
}

/// What the backend of this connection can do.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Features {
    pub(super) flush: bool,
    pub(super) barrier: bool,
    pub(super) persistent: bool,
    /// Most segments of an indirect request; 0 where it knows none.
    pub(super) indirect: u16,
}

impl<G: Memory, E: EventChannels, C: Clock> Frontend for Driver<G, E, C> {
    const OFFERED: State = State::Initialised;
    type Offer = Link<G, E::Port>;

    async fn offer(&mut self, device: &Device) -> Result<Self::Offer, Failure> {
        let peer = device.other_domain();
        let offered = device.read_peer(async |peer| Ok(peer.number("max-ring-page-order", 0).await?)).await?;
        let order = offered.min(self.options.most_ring_order.into()).min(MOST_RING_ORDER);
        let full = |error: &dyn core::fmt::Display| Failure::new(Errno::ENOSPC, format!("a ring: {error}"));
        let memory = LentPages::lend(&self.shared.pool.memory, 1 << order, peer, Access::ReadWrite);
        let memory = memory.map_err(|error| full(&error))?;
        let ring = FrontRing::new(Abi::X86_64, &memory);
        let port = self.events.alloc_unbound(peer).map_err(|error| full(&error))?;
        Ok(Link { ring, memory, numbered: order > 0, port, features: Features::default() })
    }

    async fn publish(&mut self, device: &Device, offer: &Self::Offer, tree: &Tree) -> Result<(), StoreError> {
        if offer.numbered {
            tree.set(&device.own("ring-page-order"), &offer.memory.references().len().ilog2()).await?;
            for (index, reference) in offer.memory.references().enumerate() {
                tree.set(&device.own(&format!("ring-ref{index}")), &reference).await?;
            }
        } else {
            // A backend takes even an order of 0 for numbered keys.
            let order = device.own("ring-page-order");
            if tree.exists(&order).await? {
                tree.remove(&order).await?;
            }
            for reference in offer.memory.references() {
                tree.set(&device.own("ring-ref"), &reference).await?;
            }
        }
        tree.set(&device.own("event-channel"), &offer.port.number()).await?;
        tree.set(&device.own("protocol"), Abi::X86_64.name()).await?;
        tree.set(&device.own("feature-persistent"), &self.options.persistent).await
    }

    async fn accept(&mut self, device: &Device, offer: &mut Self::Offer) -> Result<(), Failure> {
        let options = self.options;
        let (features, geometry) = device
            .read_peer(async |peer| {
                let features = Features {
                    flush: peer.flag("feature-flush-cache").await?,
                    barrier: peer.flag("feature-barrier").await?,
                    persistent: options.persistent && peer.flag("feature-persistent").await?,
                    indirect: clamp_indirect(peer.number("feature-max-indirect-segments", 0).await?),
                };
                let sectors = peer.required("sectors").await?;
                Ok((features, read_geometry(peer, sectors, &features).await?))
            })
            .await?;
        offer.features = features;
        self.shared.pool.begin(offer.features.persistent);
        self.shared.count(|statistics| {
            statistics.connections += 1;
            statistics.ring_slots = offer.ring.slots();
        });
        if self.lines.allows(self.clock.now()) {
            information!(
                "{}: {} sectors from {}, {} requests at once, {}",
                device.path(),
                geometry.sectors,
                device.other_domain(),
                offer.ring.slots(),
                if offer.features.persistent { "persistent grants" } else { "a grant for each request" }
            );
        }
        self.shared.geometry.set(geometry);
        Ok(())
    }

    async fn run(&mut self, device: &Device, offer: Self::Offer, signals: &Signals) -> Result<(), Failure> {
        self.shared.set(Phase::Up, self.shared.geometry.get());
        let mut connection = Connection::new(self.shared.clone(), self.options, device.other_domain(), offer);
        let outcome = connection.run(device, signals, &self.clock, &mut self.lines).await;
        // The ring goes first: nothing is lent for it any more when its pages are taken back.
        drop(connection);
        self.shared.pool.end();
        self.shared.rewind();
        self.shared.set(Phase::Waiting, self.shared.geometry.get());
        outcome
    }

    fn lost(&mut self) {
        self.shared.set(Phase::Gone, self.shared.geometry.get());
        self.shared.fail_all(Error::Gone);
    }
}

fn clamp_indirect(offered: u32) -> u16 {
    u16::try_from(offered).unwrap_or(u16::MAX)
}

/// Most sectors of a disk: all its bytes have numbers of 64 bits.
const MAX_SECTORS: u64 = u64::MAX / SECTOR_SIZE as u64;

/// What the backend says of a disk of so many sectors.
pub(super) async fn read_geometry(peer: &Peer<'_>, sectors: u64, features: &Features) -> Result<Geometry, Failure> {
    const CDROM: u32 = 1;
    const REMOVABLE: u32 = 2;
    const READ_ONLY: u32 = 4;
    let sector_size: u32 = peer.get("sector-size").await?.unwrap_or(SECTOR_SIZE as u32);
    if !(512..=65536).contains(&sector_size) || !sector_size.is_power_of_two() {
        let text = format!("{} = {sector_size}: expected a power of two from 512 to 65536", peer.path("sector-size"));
        return Err(Failure::new(Errno::EINVAL, text));
    }
    if sectors > MAX_SECTORS {
        let text = format!("{} = {sectors}: expected {MAX_SECTORS} at most", peer.path("sectors"));
        return Err(Failure::new(Errno::EINVAL, text));
    }
    // What is said of the medium is advice: nonsense counts as not said.
    let physical = peer.number("physical-sector-size", sector_size).await?;
    let physical = if physical.is_power_of_two() { physical } else { sector_size };
    let info: u32 = peer.get("info").await?.unwrap_or(0);
    let mode: Option<String> = peer.get("mode").await.unwrap_or(None);
    let discard = match peer.flag("feature-discard").await? {
        false => None,
        true => Some(Discard {
            granularity: peer.number("discard-granularity", sector_size).await?.max(sector_size),
            alignment: peer.number("discard-alignment", 0).await?,
            secure: peer.flag("discard-secure").await?,
        }),
    };
    Ok(Geometry {
        sectors,
        sector_size,
        physical_sector_size: physical.max(sector_size),
        read_only: info & READ_ONLY != 0 || mode.is_some_and(|mode| mode == "r"),
        removable: info & REMOVABLE != 0,
        cdrom: info & CDROM != 0,
        flush: features.flush || features.barrier,
        discard,
    })
}

//! The driver's side of a disk: its life on XenBus, and the ring while it is connected.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;

use xen_hal::{Memory, Port, Xen, information};
use xen_ring::{FrontRing, LentPages};
use xenbus::{Device, Failure, Frontend, Keys, Pace, Peer, Phase, Signals, State};
use xenstore_client::Error as StoreError;

use super::Options;
use super::connection::Connection;
use super::shared::Shared;
use crate::device::{Discard, Geometry};
use crate::protocol::{Abi, MOST_RING_ORDER, SECTOR_SIZE};

pub(super) struct Driver<X: Xen> {
    pub(super) shared: Rc<Shared<X>>,
    pub(super) xen: X,
    pub(super) options: Options,
    /// For the lines that a backend can cause.
    pub(super) lines: Pace,
}

/// What a backend is granted: the ring and its event channel.
pub(super) struct Link<G: Memory, P> {
    pub(super) ring: FrontRing<Abi>,
    pub(super) memory: LentPages<G::Grant>,
    /// Whether the ring's keys are numbered, as those of several pages are.
    numbered: bool,
    pub(super) port: P,
    pub(super) features: Features,
    geometry: Geometry,
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

impl<X: Xen> Frontend for Driver<X> {
    const PUBLISHED: State = State::Initialised;
    type Link = Link<X, X::Port>;

    async fn connect(&mut self, device: &Device) -> Result<Self::Link, Failure> {
        let offered = device.read_peer(async |peer| Ok(peer.number("max-ring-page-order", 0).await?)).await?;
        let order = offered.min(self.options.most_ring_order.into()).min(MOST_RING_ORDER);
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
                    indirect: clamp_indirect(peer.number("feature-max-indirect-segments", 0).await?),
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
                "{}: {} sectors from {}, {} requests at once, {}",
                device.path(),
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
        return Err(peer.unexpected("sector-size", sector_size, "a power of two from 512 to 65536"));
    }
    if sectors > MAX_SECTORS {
        return Err(peer.unexpected("sectors", sectors, format_args!("{MAX_SECTORS} at most")));
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

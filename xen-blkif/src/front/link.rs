//! What a connection is made of: what the backend is granted, and what it says of the disk.

use alloc::string::String;

use xen_hal::Memory;
use xen_ring::{FrontRing, GrantedPages};
use xenbus::{Failure, Peer};

use crate::device::{Discard, Geometry};
use crate::protocol::{Abi, SECTOR_SIZE};

/// What a backend is granted: the ring and its event channel.
pub(super) struct Link<G: Memory, P> {
    pub(super) ring: FrontRing<Abi>,
    pub(super) memory: GrantedPages<G::Grant>,
    /// Whether the ring's keys are numbered, as those of several pages are.
    pub(super) numbered: bool,
    pub(super) port: P,
    pub(super) features: Features,
    pub(super) geometry: Geometry,
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

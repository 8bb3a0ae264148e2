//! What callers choose, and what they are told.

use alloc::string::String;

/// How a pool is made.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct FormatOptions {
    /// Formats disks that hold something, too.
    pub force: bool,
    /// Bytes for metadata, of which each is there twice. Otherwise a 128th of the disks, or 1 MiB if that is more.
    pub metadata_bytes: Option<u64>,
}

impl FormatOptions {
    /// The same with [`force`](FormatOptions::force) as given.
    pub const fn with_force(mut self, force: bool) -> FormatOptions {
        self.force = force;
        self
    }

    /// The same with [`metadata_bytes`](FormatOptions::metadata_bytes) as given.
    pub const fn with_metadata_bytes(mut self, bytes: u64) -> FormatOptions {
        self.metadata_bytes = Some(bytes);
        self
    }
}

/// How a pool is used.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct OpenOptions {
    /// Bytes of metadata that stay in memory; changed metadata that waits for its commit may take as much again. At
    /// least [`MIN_CACHE`](crate::MIN_CACHE).
    pub cache_bytes: usize,
}

impl Default for OpenOptions {
    fn default() -> Self {
        OpenOptions { cache_bytes: 4 << 20 }
    }
}

impl OpenOptions {
    /// The same with [`cache_bytes`](OpenOptions::cache_bytes) as given.
    pub const fn with_cache_bytes(mut self, bytes: usize) -> OpenOptions {
        self.cache_bytes = bytes;
        self
    }
}

/// A volume to be created.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Create {
    /// Its size in sectors of 512 bytes: whole multiples of 4 KiB.
    pub sectors: u64,
    /// All of its space is reserved: a full pool is none of its concern. It has no snapshots.
    pub thick: bool,
    /// Each block of 4 KiB has a checksum, which reads compare. Writes go to fresh chunks, so that small ones between
    /// flushes cost more.
    pub integrity: bool,
}

impl Create {
    /// A volume whose space is taken when something is written.
    pub const fn thin(sectors: u64) -> Create {
        Create { sectors, thick: false, integrity: false }
    }

    /// A volume whose space is reserved.
    pub const fn thick(sectors: u64) -> Create {
        Create { sectors, thick: true, integrity: false }
    }

    /// The same with [`integrity`](Create::integrity) as given.
    pub const fn with_integrity(mut self, integrity: bool) -> Create {
        self.integrity = integrity;
        self
    }
}

/// What there is of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VolumeInfo {
    /// Its [number](crate::Volume::id).
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Its size in sectors of 512 bytes.
    pub sectors: u64,
    /// The sectors that it takes of the pool, those included that it shares with snapshots.
    pub mapped_sectors: u64,
    /// Its space is reserved.
    pub thick: bool,
    /// Its blocks have checksums.
    pub integrity: bool,
    /// It cannot be written.
    pub read_only: bool,
    /// The volume that it was a snapshot of, if that exists.
    pub origin: Option<String>,
    /// Handles of it exist.
    pub in_use: bool,
    /// Blocks that were read with a wrong checksum since the pool was opened.
    pub bad_blocks: u64,
}

/// How full a pool is, and what it has done since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Usage {
    /// Sectors for data.
    pub sectors: u64,
    /// Those that no volume takes.
    pub free_sectors: u64,
    /// Those of the free ones that thick volumes have reserved.
    pub reserved_sectors: u64,
    /// Blocks of 4 KiB for metadata.
    pub metadata_blocks: u64,
    /// Those that hold nothing.
    pub free_metadata_blocks: u64,
    /// Volumes.
    pub volumes: usize,
    /// Commits of metadata.
    pub commits: u64,
    /// Blocks of metadata that were repaired from their other copy.
    pub repaired: u64,
    /// Writes that failed because the pool was full.
    pub no_space: u64,
    /// A commit has failed half-way: nothing changes any more.
    pub failed: bool,
}

/// What [`Pool::check`](crate::Pool::check) has found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckReport {
    /// Blocks of metadata in use.
    pub metadata_blocks: u64,
    /// Chunks of data in use.
    pub chunks: u64,
    /// Blocks and chunks whose reference count is too low: something could take them that is in use.
    pub too_low: u64,
    /// Those whose reference count is too high: space that is lost.
    pub too_high: u64,
    /// Counters of volumes or of the pool that are wrong.
    pub wrong_counters: u64,
    /// Blocks of metadata of which no copy is whole, or that say what cannot be.
    pub damaged: u64,
}

impl CheckReport {
    /// Whether nothing is wrong.
    pub const fn is_clean(&self) -> bool {
        self.too_low == 0 && self.too_high == 0 && self.wrong_counters == 0 && self.damaged == 0
    }
}

/// What a [scrub](crate::Pool::scrub) comes across.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Scrub {
    /// So much of a volume has been read.
    Progress {
        /// The volume.
        volume: String,
        /// Sectors of it that were looked at.
        done: u64,
        /// All of its sectors.
        total: u64,
    },
    /// A block of 4 KiB that cannot be read, or whose checksum is wrong.
    BadBlock {
        /// The volume.
        volume: String,
        /// The block's first sector in the volume.
        sector: u64,
    },
}

/// The sum of a scrub.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ScrubReport {
    /// Sectors that were read.
    pub sectors: u64,
    /// Blocks of 4 KiB that are bad.
    pub bad_blocks: u64,
    /// Blocks of metadata that were read, both copies of each.
    pub metadata_blocks: u64,
    /// Those of which one copy was damaged, and is repaired.
    pub repaired: u64,
    /// Those of which both copies are damaged.
    pub damaged: u64,
}

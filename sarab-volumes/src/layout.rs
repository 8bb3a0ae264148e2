//! Where things are on the disks: `docs/volumes.md`.

/// The version of the format.
pub(crate) const VERSION: u32 = 1;

/// Bytes that are allocated at once.
pub const CHUNK_SIZE: usize = 64 << 10;

/// The most disks of a pool.
pub const MAX_DISKS: usize = 16;

/// The most volumes of a pool, snapshots included.
pub const MAX_VOLUMES: usize = 1024;

/// The longest name of a volume, in bytes.
pub const MAX_NAME: usize = 63;
pub(crate) const LABEL_MAGIC: &[u8] = b"SarabPoolLabel\r\n";

//! Where the metadata begins: what a commit writes last.

use alloc::vec::Vec;

use super::{MAX_DISKS, RECORD, VERSION, is_sealed, put, seal, u32_at, u64_at};
use crate::Error;
use crate::node::{Ptr, Root};

const MAGIC: &[u8; 16] = b"SarabPoolSuper\r\n";

/// Where the trees are named.
pub(crate) const REFS: usize = 56;
pub(crate) const TABLE: usize = 64;

/// The state of a pool after a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Superblock {
    pub(crate) uuid: [u8; 16],
    /// Counts commits.
    pub(crate) generation: u64,
    /// Counts snapshots.
    pub(crate) clock: u32,
    /// The number that the next volume gets.
    pub(crate) next_id: u64,
    pub(crate) refs: Root,
    pub(crate) table: Root,
    pub(crate) free_blocks: u32,
    pub(crate) free_chunks: u32,
    pub(crate) metadata: u32,
    /// Whole chunks of each disk.
    pub(crate) sizes: Vec<u32>,
}

impl Superblock {
    pub(crate) fn encode(&self) -> [u8; RECORD] {
        let mut bytes = [0; RECORD];
        put(&mut bytes, 0, MAGIC);
        put(&mut bytes, 16, &VERSION.to_le_bytes());
        put(&mut bytes, 20, &[self.sizes.len() as u8, self.refs.levels, self.table.levels]);
        put(&mut bytes, 24, &self.uuid);
        put(&mut bytes, 40, &self.generation.to_le_bytes());
        put(&mut bytes, 48, &self.next_id.to_le_bytes());
        put(&mut bytes, REFS, &self.refs.ptr.encode());
        put(&mut bytes, TABLE, &self.table.ptr.encode());
        put(&mut bytes, 72, &self.clock.to_le_bytes());
        put(&mut bytes, 76, &self.free_blocks.to_le_bytes());
        put(&mut bytes, 80, &self.free_chunks.to_le_bytes());
        put(&mut bytes, 84, &self.metadata.to_le_bytes());
        for (disk, size) in self.sizes.iter().enumerate() {
            put(&mut bytes, 88 + 4 * disk, &size.to_le_bytes());
        }
        seal(&mut bytes);
        bytes
    }

    /// Nothing where there is no whole superblock.
    ///
    /// # Errors
    ///
    /// [`Error::Version`] where it is a whole one of another version.
    pub(crate) fn decode(bytes: &[u8; RECORD]) -> Result<Option<Superblock>, Error> {
        if bytes[..16] != *MAGIC || !is_sealed(bytes) {
            return Ok(None);
        }
        let found = u32_at(bytes, 16);
        if found != VERSION {
            return Err(Error::Version { found });
        }
        let disks = usize::from(bytes[20]);
        if disks == 0 || disks > MAX_DISKS {
            return Ok(None);
        }
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&bytes[24..40]);
        Ok(Some(Superblock {
            uuid,
            generation: u64_at(bytes, 40),
            next_id: u64_at(bytes, 48),
            refs: Root { ptr: Ptr::decode(bytes, REFS), levels: bytes[21] },
            table: Root { ptr: Ptr::decode(bytes, TABLE), levels: bytes[22] },
            clock: u32_at(bytes, 72),
            free_blocks: u32_at(bytes, 76),
            free_chunks: u32_at(bytes, 80),
            metadata: u32_at(bytes, 84),
            sizes: (0..disks).map(|disk| u32_at(bytes, 88 + 4 * disk)).collect(),
        }))
    }
}

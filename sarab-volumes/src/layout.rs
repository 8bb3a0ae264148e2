//! Where things are on the disks: `docs/volumes.md`.

mod label;
mod superblock;

use alloc::vec::Vec;

use twox_hash::XxHash3_64;

pub(crate) use label::{LABEL_MAGIC, Label};
pub(crate) use superblock::Superblock;
#[cfg(feature = "fuzzing")]
pub(crate) use superblock::{REFS as SUPERBLOCK_REFS, TABLE as SUPERBLOCK_TABLE};

use crate::Error;

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

pub(crate) const SECTOR: usize = 512;
/// Bytes of a block: of metadata, and of what one checksum is of.
pub(crate) const BLOCK: usize = 4096;
pub(crate) const BLOCK_SECTORS: u64 = (BLOCK / SECTOR) as u64;
pub(crate) const CHUNK_SECTORS: u64 = (CHUNK_SIZE / SECTOR) as u64;
pub(crate) const CHUNK_BLOCKS: usize = CHUNK_SIZE / BLOCK;
/// Bytes of a label and of a superblock: one sector, which a power cut does not tear.
pub(crate) const RECORD: usize = SECTOR;

/// The most chunks of a pool, and of a volume: 64 TiB.
pub(crate) const MAX_CHUNKS: u64 = 1 << 30;
/// The most blocks of metadata: 256 GiB.
pub(crate) const MAX_METADATA: u64 = 1 << 26;
/// The fewest.
pub(crate) const MIN_METADATA: u64 = 256;

/// Where the label, the superblocks and the metadata are on a disk, in blocks from its begin; at its end from the begin
/// of the last whole chunk.
pub(crate) const LABEL_BLOCK: u64 = 0;
pub(crate) const SUPERBLOCK_BLOCKS: [u64; 2] = [1, 2];

/// Where everything is, for disks of these sizes.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// Blocks of each copy of the metadata. The first one is never used: 0 is no address.
    pub(crate) metadata: u32,
    /// Whole chunks of each disk.
    pub(crate) sizes: Vec<u32>,
    /// The data of each disk: its first chunk there, and how many.
    data: Vec<(u32, u32)>,
    /// All of them.
    pub(crate) chunks: u32,
}

/// A place on one of the disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) disk: usize,
    pub(crate) sector: u64,
}

impl Layout {
    pub(crate) fn new(sizes: &[u32], metadata: u32) -> Result<Layout, Error> {
        if sizes.is_empty() || sizes.len() > MAX_DISKS {
            return Err(Error::Invalid("a pool is on 1 to 16 disks"));
        }
        let whole = u64::from(metadata);
        if !(MIN_METADATA..=MAX_METADATA).contains(&whole) || !metadata.is_multiple_of(CHUNK_BLOCKS as u32) {
            return Err(Error::Invalid("metadata takes whole chunks, 1 MiB to 256 GiB"));
        }
        let area = metadata / CHUNK_BLOCKS as u32;
        let mut data = Vec::new();
        for (disk, size) in sizes.iter().enumerate() {
            // Labels and superblocks are in the first and the last chunk.
            let copies = match (sizes.len(), disk) {
                (1, _) => 2,
                (_, 0 | 1) => 1,
                _ => 0,
            };
            let first = if copies == 0 { 1 } else { 1 + area };
            let taken = 2 + u64::from(area) * copies;
            match u64::from(*size).checked_sub(taken) {
                Some(left @ 1..) => data.push((first, left as u32)),
                _ => return Err(Error::UnsuitableDisk { disk, reason: "it is too small" }),
            }
        }
        let chunks: u64 = data.iter().map(|(_, count)| u64::from(*count)).sum();
        if chunks > MAX_CHUNKS {
            return Err(Error::Invalid("a pool has at most 64 TiB"));
        }
        Ok(Layout { metadata, sizes: sizes.to_vec(), data, chunks: chunks as u32 })
    }

    /// Where a chunk of data is.
    pub(crate) fn chunk(&self, chunk: u32) -> Option<Place> {
        let mut left = chunk;
        for (disk, (first, count)) in self.data.iter().enumerate() {
            if left < *count {
                return Some(Place { disk, sector: u64::from(first + left) * CHUNK_SECTORS });
            }
            left -= count;
        }
        None
    }

    /// Where the two copies of a block of metadata are.
    pub(crate) fn block(&self, address: u32) -> [Place; 2] {
        let sector = CHUNK_SECTORS + u64::from(address) * BLOCK_SECTORS;
        let first = Place { disk: 0, sector };
        let second = match self.sizes.len() {
            1 => {
                let begin = u64::from(self.sizes[0] - 1 - self.metadata / CHUNK_BLOCKS as u32);
                Place { disk: 0, sector: begin * CHUNK_SECTORS + u64::from(address) * BLOCK_SECTORS }
            }
            _ => Place { disk: 1, sector },
        };
        [first, second]
    }

    /// Where the two copies of a superblock are: there are two, which are written in turn.
    pub(crate) fn superblock(&self, slot: usize) -> [Place; 2] {
        superblock(slot, &self.sizes)
    }
}

/// Where the two copies of a superblock are, on disks of so many chunks.
pub(crate) fn superblock(slot: usize, sizes: &[u32]) -> [Place; 2] {
    let sector = SUPERBLOCK_BLOCKS[slot] * BLOCK_SECTORS;
    let first = Place { disk: 0, sector };
    match sizes {
        [size] => [first, Place { disk: 0, sector: u64::from(size - 1) * CHUNK_SECTORS + sector }],
        _ => [first, Place { disk: 1, sector }],
    }
}

/// Where the two copies of a disk's label are.
pub(crate) fn labels(size: u32) -> [u64; 2] {
    let sector = LABEL_BLOCK * BLOCK_SECTORS;
    [sector, u64::from(size - 1) * CHUNK_SECTORS + sector]
}

/// What makes the checksums of a pool's blocks others than those of another pool's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seed(u64);

impl Seed {
    pub(crate) fn new(uuid: &[u8; 16]) -> Seed {
        Seed(XxHash3_64::oneshot(uuid))
    }

    /// The checksum of a block of metadata at its address, which is never 0.
    pub(crate) fn block(self, address: u32, bytes: &[u8; BLOCK]) -> u32 {
        (XxHash3_64::oneshot_with_seed(self.0 ^ u64::from(address), bytes) as u32).max(1)
    }

    /// The checksum of a block of a chunk of data.
    pub(crate) fn data(self, chunk: u32, block: usize, bytes: &[u8]) -> u32 {
        let place = u64::from(chunk) * CHUNK_BLOCKS as u64 + block as u64;
        XxHash3_64::oneshot_with_seed(!self.0 ^ place, bytes) as u32
    }
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut value = [0; 4];
    value.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(value)
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(value)
}

pub(crate) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// Sets the checksum of a label or superblock, which is its last 8 bytes.
pub(crate) fn seal(bytes: &mut [u8; RECORD]) {
    let sum = XxHash3_64::oneshot(&bytes[..RECORD - 8]);
    put(bytes, RECORD - 8, &sum.to_le_bytes());
}

fn is_sealed(bytes: &[u8; RECORD]) -> bool {
    XxHash3_64::oneshot(&bytes[..RECORD - 8]) == u64_at(bytes, RECORD - 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nothing lies on anything else, and all is on the disks.
    #[test]
    fn places_do_not_overlap() {
        for sizes in [&[100][..], &[100, 200], &[40, 50, 60]] {
            let layout = Layout::new(sizes, 256).unwrap();
            let mut taken = Vec::new();
            let mut take = |disk: usize, sector: u64, sectors: u64| {
                assert!(sector + sectors <= u64::from(sizes[disk]) * CHUNK_SECTORS);
                taken.push((disk, sector, sector + sectors));
            };
            for (disk, size) in sizes.iter().enumerate() {
                labels(*size).into_iter().for_each(|sector| take(disk, sector, BLOCK_SECTORS));
            }
            for slot in [0, 1] {
                layout.superblock(slot).into_iter().for_each(|place| take(place.disk, place.sector, BLOCK_SECTORS));
            }
            for address in 0..256 {
                layout.block(address).into_iter().for_each(|place| take(place.disk, place.sector, BLOCK_SECTORS));
            }
            for chunk in 0..layout.chunks {
                let place = layout.chunk(chunk).unwrap();
                take(place.disk, place.sector, CHUNK_SECTORS);
            }
            assert_eq!(layout.chunk(layout.chunks), None);
            taken.sort_unstable();
            assert!(taken.windows(2).all(|pair| pair[0].0 < pair[1].0 || pair[0].2 <= pair[1].1), "{sizes:?}");
        }
    }

    #[test]
    fn sizes_that_cannot_be() {
        assert!(Layout::new(&[], 256).is_err());
        assert!(Layout::new(&[100; 17], 256).is_err());
        assert!(Layout::new(&[34], 256).is_err(), "two copies of 16 chunks, and two chunks at the ends");
        assert!(Layout::new(&[35], 256).is_ok());
        assert!(Layout::new(&[u32::MAX, u32::MAX], 256).is_err());
        assert!(Layout::new(&[1000], 257).is_err());
        assert!(Layout::new(&[1000], 0).is_err());
        assert!(Layout::new(&[1000], u32::MAX / 16 * 16).is_err());
    }
}

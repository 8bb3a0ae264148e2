//! The superblock (Linux, Documentation/filesystems/ext4/super.rst), as far as it matters to who reads.

use super::bytes::{u16_at, u32_at, wide};
use super::crc::crc32c;
use super::error::Damage;

/// Where it is, and how long.
pub(crate) const OFFSET: u64 = 1024;
pub(crate) const LEN: usize = 1024;

const HAS_JOURNAL: u32 = 0x4;

const FILETYPE: u32 = 0x2;
const RECOVER: u32 = 0x4;
const META_BG: u32 = 0x10;
const EXTENTS: u32 = 0x40;
const WIDE: u32 = 0x80;
const MMP: u32 = 0x100;
const FLEX_BG: u32 = 0x200;
const EA_INODE: u32 = 0x400;
const CHECKSUM_SEED: u32 = 0x2000;
const LARGE_FOLDERS: u32 = 0x4000;
const INLINE_DATA: u32 = 0x8000;
const ENCRYPT: u32 = 0x1_0000;
const CASEFOLD: u32 = 0x2_0000;
/// What can be read, or does not keep from reading.
const SUPPORTED: u32 = FILETYPE
    | RECOVER
    | META_BG
    | EXTENTS
    | WIDE
    | MMP
    | FLEX_BG
    | EA_INODE
    | CHECKSUM_SEED
    | LARGE_FOLDERS
    | INLINE_DATA
    | ENCRYPT
    | CASEFOLD;

const SPARSE_SUPER: u32 = 0x1;
const METADATA_CHECKSUMS: u32 = 0x400;
/// `s_feature_compat`.
const SPARSE_SUPER_2: u32 = 0x200;

#[derive(Clone, Debug)]
pub(crate) struct Superblock {
    pub(crate) block_size: u32,
    pub(crate) blocks: u64,
    pub(crate) inodes: u32,
    pub(crate) inodes_per_group: u32,
    pub(crate) inode_size: u16,
    pub(crate) checksums: bool,
    /// What checksums begin with.
    pub(crate) seed: u32,
    pub(crate) large_folders: bool,
    pub(crate) hash_seed: [u32; 4],
    /// Names are hashed as unsigned bytes.
    pub(crate) hash_unsigned: bool,
    /// The journal's inode, where there is something in it; 0 where it is another device.
    pub(crate) journal: Option<u32>,
    first_data_block: u32,
    blocks_per_group: u32,
    descriptor_size: u16,
    /// The first group whose descriptors stand in its own meta group.
    first_meta_group: u32,
    /// Groups with a copy of the superblock.
    copies: Copies,
}

#[derive(Clone, Copy, Debug)]
enum Copies {
    Everywhere,
    Sparse,
    In([u32; 2]),
}

impl Superblock {
    /// Reads it, and checks what everything else relies on.
    pub(crate) fn parse(bytes: &[u8; LEN]) -> Result<Superblock, Damage> {
        let wrong = |field, value: u32| Err(Damage::Superblock { field, value: value.into() });
        let (compatible, incompatible, read_only) = (u32_at(bytes, 0x5c), u32_at(bytes, 0x60), u32_at(bytes, 0x64));
        let checksums = read_only & METADATA_CHECKSUMS != 0;
        if checksums && crc32c(!0, &bytes[..0x3fc]) != u32_at(bytes, 0x3fc) {
            return Err(Damage::Checksum { of: "superblock", number: 0 });
        }
        // The first revision had no features, and all of its inodes were small.
        let first_revision = u32_at(bytes, 0x4c) == 0;
        if first_revision && incompatible != 0 {
            return wrong("s_rev_level", 0);
        }
        if incompatible & !SUPPORTED != 0 {
            return Err(Damage::Features(incompatible & !SUPPORTED));
        }
        let log_size = u32_at(bytes, 0x18);
        if log_size > 6 {
            return wrong("s_log_block_size", log_size);
        }
        let block_size = 1024 << log_size;
        let inode_size = if first_revision { 128 } else { u16_at(bytes, 0x58) };
        if inode_size < 128 || !inode_size.is_power_of_two() || u32::from(inode_size) > block_size {
            return wrong("s_inode_size", inode_size.into());
        }
        let is_wide = incompatible & WIDE != 0;
        let descriptor_size = if is_wide { u16_at(bytes, 0xfe) } else { 32 };
        let (least, most) = if is_wide { (64, 1024) } else { (32, 32) };
        if !(least..=most).contains(&descriptor_size) || !descriptor_size.is_power_of_two() {
            return wrong("s_desc_size", descriptor_size.into());
        }
        let (blocks_per_group, inodes_per_group) = (u32_at(bytes, 0x20), u32_at(bytes, 0x28));
        if blocks_per_group == 0 {
            return wrong("s_blocks_per_group", 0);
        }
        // A bitmap of one block says which are in use.
        if !(1..=block_size * 8).contains(&inodes_per_group) {
            return wrong("s_inodes_per_group", inodes_per_group);
        }
        let first_data_block = u32_at(bytes, 0x14);
        let blocks = wide(u32_at(bytes, 0x4), if is_wide { u32_at(bytes, 0x150) } else { 0 });
        if u64::from(first_data_block) >= blocks || first_data_block > 1 {
            return wrong("s_first_data_block", first_data_block);
        }
        // So that no position in bytes overflows.
        if blocks.checked_mul(block_size.into()).is_none_or(|bytes| bytes > i64::MAX as u64) {
            return Err(Damage::Superblock { field: "s_blocks_count", value: blocks });
        }
        let seed = match incompatible & CHECKSUM_SEED {
            0 => crc32c(!0, &bytes[0x68..0x78]),
            _ => u32_at(bytes, 0x270),
        };
        let recover = compatible & HAS_JOURNAL != 0 && incompatible & RECOVER != 0;
        Ok(Superblock {
            block_size,
            blocks,
            inodes: u32_at(bytes, 0),
            inodes_per_group,
            inode_size,
            checksums,
            seed,
            large_folders: incompatible & LARGE_FOLDERS != 0,
            hash_seed: [0, 1, 2, 3].map(|index| u32_at(bytes, 0xec + 4 * index)),
            hash_unsigned: u32_at(bytes, 0x160) & 2 != 0,
            journal: recover.then(|| u32_at(bytes, 0xe0)),
            first_data_block,
            blocks_per_group,
            descriptor_size,
            first_meta_group: if incompatible & META_BG != 0 { u32_at(bytes, 0x104) } else { u32::MAX },
            copies: match (compatible & SPARSE_SUPER_2, read_only & SPARSE_SUPER) {
                (0, 0) => Copies::Everywhere,
                (0, _) => Copies::Sparse,
                _ => Copies::In([u32_at(bytes, 0x24c), u32_at(bytes, 0x250)]),
            },
        })
    }

    /// Where a group's descriptor is: its block, and where in it.
    pub(crate) fn descriptor(&self, group: u32) -> (u64, usize) {
        let in_block = self.block_size / u32::from(self.descriptor_size);
        let (meta_group, index) = (group / in_block, group % in_block);
        // Behind the superblock, which small blocks have one of their own for, also where the first group begins with 0.
        let superblock = u64::from(self.block_size == 1024);
        let block = if meta_group < self.first_meta_group {
            superblock + 1 + u64::from(meta_group)
        } else {
            // In the first group of those that it describes.
            let first = meta_group * in_block;
            let start = u64::from(self.first_data_block) + u64::from(first) * u64::from(self.blocks_per_group);
            let moved = if first == 0 { superblock.saturating_sub(self.first_data_block.into()) } else { 0 };
            start + moved + u64::from(self.has_copy(first))
        };
        (block, index as usize * usize::from(self.descriptor_size))
    }

    /// The first block of the inodes that a group's descriptor tells of.
    pub(crate) fn inode_table(&self, group: u32, descriptor: &[u8]) -> Result<u64, Damage> {
        let descriptor = descriptor.get(..self.descriptor_size.into()).ok_or(Damage::Block(group.into()))?;
        if self.checksums {
            let crc = crc32c(crc32c(self.seed, &group.to_le_bytes()), &descriptor[..0x1e]);
            let crc = crc32c(crc32c(crc, &[0; 2]), &descriptor[0x20..]);
            if crc as u16 != u16_at(descriptor, 0x1e) {
                return Err(Damage::Checksum { of: "group", number: group.into() });
            }
        }
        Ok(wide(u32_at(descriptor, 0x8), if descriptor.len() >= 64 { u32_at(descriptor, 0x28) } else { 0 }))
    }

    fn has_copy(&self, group: u32) -> bool {
        let power_of = |base: u32| {
            let mut power = base;
            while power < group {
                power = power.saturating_mul(base);
            }
            power == group
        };
        match self.copies {
            _ if group == 0 => true,
            Copies::Everywhere => true,
            Copies::In(groups) => groups.contains(&group),
            Copies::Sparse => group == 1 || power_of(3) || power_of(5) || power_of(7),
        }
    }
}

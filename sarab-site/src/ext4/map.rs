//! Where a file's blocks are: a tree of extents, or the maps of ext2 (Linux, Documentation/filesystems/ext4/ifork.rst).

use super::bytes::{u16_at, u32_at, wide};
use super::crc::crc32c;
use super::error::{Damage, Failure};
use super::inode::Inode;
use super::{FileSystem, Reads};
use xen_blkif::BlockDevice;

/// The tree is not higher.
const MAX_DEPTH: u16 = 5;
const ENTRY: usize = 12;

/// Blocks of a file that follow each other on the device, or are not there at all: then they are zeroes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// The first of them in the file.
    pub(crate) first: u64,
    /// How many, at least 1.
    pub(crate) count: u64,
    /// Where the first one is.
    pub(crate) block: Option<u64>,
}

impl<D: BlockDevice> FileSystem<D> {
    /// The blocks of a file from `block` on.
    pub(crate) async fn run(&self, inode: &Inode, block: u64, reads: &Reads) -> Result<Run, Failure> {
        let damaged = Damage::Map(inode.number);
        let wanted = u32::try_from(block).map_err(|_| damaged)?;
        let run = match inode.has_extents() {
            true => self.extent(inode, wanted, reads).await?,
            false => self.mapped(inode, wanted, reads).await?,
        };
        if let Some(start) = run.block {
            let end = start.checked_add(run.count).ok_or(damaged)?;
            // Nothing of a file is where the superblock is.
            if start == 0 || end > self.superblock.blocks {
                return Err(Damage::Block(start).into());
            }
        }
        Ok(run)
    }

    async fn extent(&self, inode: &Inode, wanted: u32, reads: &Reads) -> Result<Run, Failure> {
        let damaged = Damage::Map(inode.number);
        let mut depth = None;
        let mut child = None;
        // Where what has not been looked at begins.
        let mut end = 1 << 32;
        loop {
            let block = match child {
                None => None,
                Some(number) => Some(self.block(number, reads).await?),
            };
            let bytes = block.as_ref().map_or(&inode.block_field[..], |block| block.bytes());
            let node =
                Node::parse(bytes).filter(|node| depth.is_none_or(|depth| depth == node.depth)).ok_or(damaged)?;
            if let Some(block) = &block
                && self.superblock.checksums
                && !block.is_known_for(inode.number)
            {
                let at = ENTRY + ENTRY * node.max;
                if bytes.len() < at + 4 || crc32c(inode.seed, &bytes[..at]) != u32_at(bytes, at) {
                    let number = child.unwrap_or_default();
                    return Err(Damage::Checksum { of: "extent block", number }.into());
                }
                block.set_known_for(inode.number);
            }
            let (entry, next) = node.find(wanted);
            if let Some(next) = next {
                end = end.min(u64::from(next));
            }
            let hole = |until: u64| Run {
                first: wanted.into(),
                count: until.saturating_sub(wanted.into()).max(1),
                block: None,
            };
            let Some(entry) = entry else { return Ok(hole(end)) };
            let first = u32_at(entry, 0);
            if node.depth > 0 {
                depth = Some(node.depth - 1);
                child = Some(wide(u32_at(entry, 4), u16_at(entry, 8).into()));
                continue;
            }
            // Longer ones are reserved, and hold nothing yet.
            let len = u16_at(entry, 4);
            let (len, is_written) = if len > 0x8000 { (len - 0x8000, false) } else { (len, true) };
            let skipped = wanted - first;
            if skipped >= len.into() {
                return Ok(hole(end));
            }
            let start = wide(u32_at(entry, 8), u16_at(entry, 6).into()) + u64::from(skipped);
            let count = u64::from(u32::from(len) - skipped).min(end.saturating_sub(wanted.into()).max(1));
            return Ok(Run { first: wanted.into(), count, block: is_written.then_some(start) });
        }
    }

    /// By the twelve blocks that the inode tells, and three trees of one, two and three levels.
    async fn mapped(&self, inode: &Inode, wanted: u32, reads: &Reads) -> Result<Run, Failure> {
        let per_block = u64::from(self.superblock.block_size) / 4;
        let mut index = u64::from(wanted);
        let mut table = inode.block_field[..48].to_vec();
        let mut levels = 0;
        if let Some(rest) = index.checked_sub(12) {
            index = rest;
            let mut covered = 1;
            loop {
                levels += 1;
                covered *= per_block;
                if levels > 3 {
                    return Err(Damage::Map(inode.number).into());
                }
                match index.checked_sub(covered) {
                    None => break,
                    Some(rest) => index = rest,
                }
            }
            table = inode.block_field[48 + 4 * (levels - 1)..][..4].to_vec();
        }
        // Blocks of the file that an entry of the table stands for.
        let mut each = per_block.pow(levels as u32);
        let mut owned;
        let mut bytes = &table[..];
        loop {
            let at = (index / each) as usize;
            let number = u32_at(bytes, 4 * at);
            if each == 1 || number == 0 {
                let same = (at..bytes.len() / 4).take_while(|own| {
                    let own_number = u32_at(bytes, 4 * own);
                    if number == 0 {
                        own_number == 0
                    } else {
                        u64::from(own_number) == u64::from(number) + (own - at) as u64
                    }
                });
                let count = (same.count() as u64).max(1) * each - index % each;
                return Ok(Run { first: wanted.into(), count, block: (number != 0).then_some(number.into()) });
            }
            owned = self.block(number.into(), reads).await?;
            bytes = owned.bytes();
            index %= each;
            each /= per_block;
        }
    }
}

/// A node of a tree of extents.
struct Node<'a> {
    depth: u16,
    max: usize,
    entries: &'a [u8],
}

impl<'a> Node<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Node<'a>> {
        let (entries, max, depth) = (u16_at(bytes, 2), u16_at(bytes, 4), u16_at(bytes, 6));
        let fits = usize::from(max) < bytes.len() / ENTRY;
        if u16_at(bytes, 0) != 0xf30a || entries > max || !fits || depth > MAX_DEPTH {
            return None;
        }
        let entries = &bytes[ENTRY..ENTRY + ENTRY * usize::from(entries)];
        Some(Node { depth, max: max.into(), entries })
    }

    /// The last entry that begins at a block or before it, and where the one behind it begins.
    fn find(&self, wanted: u32) -> (Option<&'a [u8]>, Option<u32>) {
        let (mut low, mut high) = (0, self.entries.len() / ENTRY);
        while low < high {
            let middle = low.midpoint(high);
            if u32_at(self.entries, middle * ENTRY) <= wanted { low = middle + 1 } else { high = middle }
        }
        let entry = |index: usize| self.entries.chunks_exact(ENTRY).nth(index);
        (low.checked_sub(1).and_then(entry), entry(low).map(|entry| u32_at(entry, 0)))
    }
}

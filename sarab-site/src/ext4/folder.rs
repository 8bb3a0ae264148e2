//! Folders: their entries one after the other, or by the hash of a name (Linux, Documentation/filesystems/ext4/directory.rst).

use alloc::vec;

use xen_blkif::BlockDevice;

use super::FileSystem;
use super::blocks::{Block, Reads};
use super::bytes::{u16_at, u32_at};
use super::crc::crc32c;
use super::error::{Damage, Failure};
use super::hash::Hash;
use super::inode::{BLOCK_FIELD, Inode};

/// An entry without its name.
const ENTRY: usize = 8;
/// What looks like an entry at a block's end, and holds its checksum.
const TAIL: usize = 12;
/// Where a folder's index begins in its first block, behind `.` and `..`.
const ROOT: usize = 0x18;
/// Levels of an index.
const MAX_LEVELS: u8 = 3;

/// A node of an index, and which of its entries is looked at.
struct Node {
    block: Block,
    /// Where its entries begin.
    start: usize,
    count: usize,
    index: usize,
}

impl Node {
    /// The least hash of an entry's names, and the block that they are in.
    fn entry(&self, index: usize) -> (u32, u64) {
        let at = self.start + 8 * index;
        // In the first one's place there is how many there are.
        let hash = if index == 0 { 0 } else { u32_at(self.block.bytes(), at) };
        (hash, u64::from(u32_at(self.block.bytes(), at + 4) & 0x0fff_ffff))
    }

    /// Chooses the last entry whose hashes are not greater.
    fn choose(&mut self, hash: u32) {
        let (mut low, mut high) = (1, self.count);
        while low < high {
            let middle = low.midpoint(high);
            if self.entry(middle).0 <= hash { low = middle + 1 } else { high = middle }
        }
        self.index = low - 1;
    }
}

impl<D: BlockDevice> FileSystem<D> {
    /// The inode of a name in a folder.
    pub(crate) async fn look_up(&self, folder: &Inode, name: &[u8], reads: &Reads) -> Result<Option<u32>, Failure> {
        if folder.is_encrypted() {
            return Err(Damage::Encrypted(folder.number).into());
        }
        if let Some(bytes) = &folder.inline {
            // The folder above is told in the first four bytes.
            let (begin, rest) = bytes.split_at(bytes.len().min(BLOCK_FIELD));
            let begin = begin.get(4..).unwrap_or_default();
            let found = search(folder, begin, name)?;
            return Ok(if found.is_some() { found } else { search(folder, rest, name)? });
        }
        if folder.is_indexed()
            && let Some(found) = self.by_index(folder, name, reads).await?
        {
            return Ok(found);
        }
        let blocks = folder.size / u64::from(self.superblock.block_size);
        let mut next = 0;
        while next < blocks {
            reads.count(1).await?;
            let run = self.run(folder, next, reads).await?;
            let Some(start) = run.block else {
                next += run.count;
                continue;
            };
            for index in 0..run.count.min(blocks - next) {
                let block = self.block(start + index, reads).await?;
                let bytes = block.bytes();
                // A node of an index looks like one entry of no name.
                let is_node = u32_at(bytes, 0) == 0 && usize::from(u16_at(bytes, 4)) == bytes.len() % 65_536;
                if !is_node && (next + index > 0 || !folder.is_indexed()) {
                    self.check_entries(folder, &block)?;
                }
                if let Some(found) = search(folder, bytes, name)? {
                    return Ok(Some(found));
                }
            }
            next += run.count;
        }
        Ok(None)
    }

    /// Searches by the index; nothing where that cannot be done.
    async fn by_index(&self, folder: &Inode, name: &[u8], reads: &Reads) -> Result<Option<Option<u32>>, Failure> {
        let damaged = Damage::Folder(folder.number);
        let root = self.folder_block(folder, 0, reads).await?;
        let info = &root.bytes()[ROOT..ROOT + 8];
        let (version, info_len, levels, flags) = (info[4], info[5], info[6], info[7]);
        let Some(hash) = Hash::new(version, self.superblock.hash_unsigned).filter(|_| flags & 1 == 0) else {
            return Ok(None);
        };
        if levels >= MAX_LEVELS || info_len != 8 {
            return Err(damaged.into());
        }
        let hash = hash.of(name, self.superblock.hash_seed);
        let mut path = vec![self.node(folder, root, ROOT + 8)?];
        loop {
            // Down to the entries.
            while let Some(node) = path.last_mut() {
                node.choose(hash);
                let block = self.folder_block(folder, node.entry(node.index).1, reads).await?;
                if path.len() <= usize::from(levels) {
                    path.push(self.node(folder, block, 8)?);
                    continue;
                }
                self.check_entries(folder, &block)?;
                if let Some(found) = search(folder, block.bytes(), name)? {
                    return Ok(Some(Some(found)));
                }
                break;
            }
            // Names of one hash may go on in the next block.
            loop {
                let Some(node) = path.last_mut() else { return Ok(Some(None)) };
                node.index += 1;
                if node.index == node.count {
                    path.pop();
                    continue;
                }
                let (next, block) = node.entry(node.index);
                if next & !1 != hash {
                    return Ok(Some(None));
                }
                if path.len() > usize::from(levels) {
                    let block = self.folder_block(folder, block, reads).await?;
                    self.check_entries(folder, &block)?;
                    if let Some(found) = search(folder, block.bytes(), name)? {
                        return Ok(Some(Some(found)));
                    }
                    continue;
                }
                let block = self.folder_block(folder, block, reads).await?;
                path.push(self.node(folder, block, 8)?);
                break;
            }
        }
    }

    async fn folder_block(&self, folder: &Inode, index: u64, reads: &Reads) -> Result<Block, Failure> {
        let damaged = Damage::Folder(folder.number);
        if index >= folder.size / u64::from(self.superblock.block_size) {
            return Err(damaged.into());
        }
        let run = self.run(folder, index, reads).await?;
        self.block(run.block.ok_or(damaged)?, reads).await
    }

    /// A node whose entries begin at `start`.
    fn node(&self, folder: &Inode, block: Block, start: usize) -> Result<Node, Damage> {
        let bytes = block.bytes();
        let (limit, count) = (usize::from(u16_at(bytes, start)), usize::from(u16_at(bytes, start + 2)));
        // Behind them there are eight bytes with a checksum.
        let tail = start + 8 * limit;
        let end = tail + if self.superblock.checksums { 8 } else { 0 };
        if count == 0 || count > limit || end > bytes.len() {
            return Err(Damage::Folder(folder.number));
        }
        if self.superblock.checksums && !block.is_known_for(folder.number) {
            let crc = crc32c(folder.seed, &bytes[..start + 8 * count]);
            if crc32c(crc32c(crc, &bytes[tail..tail + 4]), &[0; 4]) != u32_at(bytes, tail + 4) {
                return Err(Damage::Checksum { of: "directory index", number: folder.number.into() });
            }
            block.set_known_for(folder.number);
        }
        Ok(Node { block, start, count, index: 0 })
    }

    /// Checks the checksum of a block of entries.
    fn check_entries(&self, folder: &Inode, block: &Block) -> Result<(), Damage> {
        if !self.superblock.checksums || block.is_known_for(folder.number) {
            return Ok(());
        }
        let (entries, tail) = block.bytes().split_at(block.bytes().len() - TAIL);
        let is_tail = u32_at(tail, 0) == 0 && tail[4..8] == [TAIL as u8, 0, 0, 0xde];
        if !is_tail || crc32c(folder.seed, entries) != u32_at(tail, 8) {
            return Err(Damage::Checksum { of: "directory", number: folder.number.into() });
        }
        block.set_known_for(folder.number);
        Ok(())
    }
}

/// The inode of a name among entries.
fn search(folder: &Inode, entries: &[u8], name: &[u8]) -> Result<Option<u32>, Damage> {
    let damaged = Damage::Folder(folder.number);
    let mut rest = entries;
    while rest.len() >= ENTRY {
        let (inode, name_len) = (u32_at(rest, 0), usize::from(rest[6]));
        let len = match usize::from(u16_at(rest, 4)) {
            // Of a block of 64 KiB, whose length has no place.
            0 | 0xffff if entries.len() == 0x1_0000 => 0x1_0000,
            len => len,
        };
        if len < ENTRY + name_len || len % 4 != 0 {
            return Err(damaged);
        }
        let (entry, after) = rest.split_at_checked(len).ok_or(damaged)?;
        if inode != 0 && entry[ENTRY..ENTRY + name_len] == *name {
            return Ok(Some(inode));
        }
        rest = after;
    }
    Ok(None)
}

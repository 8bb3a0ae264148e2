//! What a file system that was not unmounted has in its journal, and not yet in its place (Linux,
//! Documentation/filesystems/ext4/journal.rst). Nothing is written: blocks are read from the journal instead.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use xen_blkif::BlockDevice;

use super::FileSystem;
use super::blocks::Reads;
use super::bytes::{be32_at, wide};
use super::crc::crc32c;
use super::error::{Damage, Failure};
use super::inode::Inode;
use super::map::Run;

pub(crate) const MAGIC: u32 = 0xc03b_3998;

const DESCRIPTOR: u32 = 1;
const COMMIT: u32 = 2;
const SUPERBLOCK_1: u32 = 3;
const SUPERBLOCK_2: u32 = 4;
const REVOKE: u32 = 5;

const REVOKES: u32 = 0x1;
const WIDE: u32 = 0x2;
const ASYNC_COMMIT: u32 = 0x4;
const CHECKSUMS_2: u32 = 0x8;
const CHECKSUMS_3: u32 = 0x10;
const SUPPORTED: u32 = REVOKES | WIDE | ASYNC_COMMIT | CHECKSUMS_2 | CHECKSUMS_3;

const ESCAPED: u32 = 1;
const SAME_UUID: u32 = 2;
const LAST: u32 = 8;

/// Bytes that a block takes here, with what a map takes beside.
const MEMORY: usize = 64;

/// Where a block is instead.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Replacement {
    pub(crate) block: u64,
    /// It begins with the journal's magic number, which was left out.
    pub(crate) escaped: bool,
}

/// Blocks that are read from the journal.
#[derive(Debug, Default)]
pub(crate) struct Journal(BTreeMap<u64, Replacement>);

impl Journal {
    pub(crate) fn get(&self, block: u64) -> Option<Replacement> {
        self.0.get(&block).copied()
    }

    /// The first of some blocks that is in the journal.
    pub(crate) fn first(&self, from: u64, count: u64) -> Option<u64> {
        if self.0.is_empty() {
            return None;
        }
        self.0.range(from..from.saturating_add(count)).next().map(|(block, _)| *block)
    }
}

/// What the journal's superblock says.
struct Log {
    inode: Inode,
    seed: u32,
    features: u32,
    first: u32,
    len: u32,
    start: u32,
    sequence: u32,
}

/// What one transaction holds.
#[derive(Default)]
struct Transaction {
    blocks: Vec<(u64, Replacement)>,
    revoked: Vec<u64>,
    /// A block is not as it was written.
    damaged: bool,
}

impl<D: BlockDevice> FileSystem<D> {
    /// Reads the journal, as far as `memory` bytes are enough for it.
    pub(crate) async fn load_journal(&self, memory: usize) -> Result<Journal, Failure> {
        let Some(number) = self.superblock.journal else { return Ok(Journal::default()) };
        if number == 0 {
            return Err(Damage::JournalElsewhere.into());
        }
        // It is not longer than the device, and each of its blocks is looked for and read.
        let reads = Reads::new(u32::MAX);
        let inode = self.inode(number, &reads).await?;
        let Some(log) = self.log(inode, &reads).await? else { return Ok(Journal::default()) };
        let mut journal = BTreeMap::new();
        let mut transaction = Transaction::default();
        let (mut at, mut sequence) = (log.start, log.sequence);
        let mut run = None;
        let mut seen = 0;
        while seen < log.len {
            let number = self.log_block(&log, at, &mut run, &reads).await?;
            let block = self.blocks.get(number).await?;
            let bytes = block.bytes();
            if be32_at(bytes, 0) != MAGIC || be32_at(bytes, 8) != sequence {
                break;
            }
            (at, seen) = (log.next(at), seen + 1);
            match be32_at(bytes, 4) {
                DESCRIPTOR if log.has_tail(bytes) => {
                    for tag in log.tags(bytes) {
                        let number = self.log_block(&log, at, &mut run, &reads).await?;
                        (at, seen) = (log.next(at), seen + 1);
                        if log.features & (CHECKSUMS_2 | CHECKSUMS_3) != 0 {
                            let block = self.blocks.get(number).await?;
                            transaction.damaged |= !log.is_whole(&tag, sequence, block.bytes());
                        }
                        let instead = Replacement { block: number, escaped: tag.flags & ESCAPED != 0 };
                        transaction.blocks.push((tag.block, instead));
                        check_memory(&journal, &transaction, memory)?;
                    }
                }
                REVOKE if log.has_tail(bytes) => {
                    log.revoked(bytes, &mut transaction.revoked);
                    check_memory(&journal, &transaction, memory)?;
                }
                COMMIT if log.is_committed(bytes) => {
                    core::mem::take(&mut transaction).commit(&mut journal)?;
                    sequence = sequence.wrapping_add(1);
                }
                // What comes behind was never finished.
                _ => break,
            }
        }
        Ok(Journal(journal))
    }

    /// The journal's superblock; nothing where the journal is empty.
    async fn log(&self, inode: Inode, reads: &Reads) -> Result<Option<Log>, Failure> {
        let run = self.run(&inode, 0, reads).await?;
        let block = self.block(run.block.ok_or(Damage::Journal)?, reads).await?;
        let bytes = &block.bytes()[..1024];
        let kind = be32_at(bytes, 4);
        let (size, len, first) = (be32_at(bytes, 0xc), be32_at(bytes, 0x10), be32_at(bytes, 0x14));
        let blocks = inode.size / u64::from(self.superblock.block_size);
        let is_one = be32_at(bytes, 0) == MAGIC && matches!(kind, SUPERBLOCK_1 | SUPERBLOCK_2);
        let fits = u64::from(len) <= blocks.min(self.superblock.blocks) && (1..len).contains(&first);
        if !is_one || size != self.superblock.block_size || !fits {
            return Err(Damage::Journal.into());
        }
        let features = if kind == SUPERBLOCK_2 { be32_at(bytes, 0x28) } else { 0 };
        let has_checksums = features & (CHECKSUMS_2 | CHECKSUMS_3) != 0;
        // A commit that may come before what it commits says nothing without them.
        let unsupported = features & if has_checksums { !SUPPORTED } else { !SUPPORTED | ASYNC_COMMIT };
        if unsupported != 0 {
            return Err(Damage::JournalFeatures(unsupported).into());
        }
        if has_checksums {
            let crc = crc32c(crc32c(crc32c(!0, &bytes[..0xfc]), &[0; 4]), &bytes[0x100..]);
            if bytes[0x50] != 4 || crc != be32_at(bytes, 0xfc) {
                return Err(Damage::Checksum { of: "journal", number: inode.number.into() }.into());
            }
        }
        let (sequence, start) = (be32_at(bytes, 0x18), be32_at(bytes, 0x1c));
        if start == 0 {
            return Ok(None);
        }
        if !(first..len).contains(&start) {
            return Err(Damage::Journal.into());
        }
        let seed = crc32c(!0, &bytes[0x30..0x40]);
        Ok(Some(Log { inode, seed, features, first, len, start, sequence }))
    }

    /// Where a block of the journal is.
    async fn log_block(&self, log: &Log, at: u32, known: &mut Option<Run>, reads: &Reads) -> Result<u64, Failure> {
        reads.count(1).await?;
        let run = match known {
            Some(run) if run.contains(at.into()) => *run,
            _ => *known.insert(self.run(&log.inode, at.into(), reads).await?),
        };
        Ok(run.block.ok_or(Damage::Journal)? + u64::from(at) - run.first)
    }
}

fn check_memory(journal: &BTreeMap<u64, Replacement>, transaction: &Transaction, memory: usize) -> Result<(), Damage> {
    let blocks = journal.len() + transaction.blocks.len() + transaction.revoked.len();
    if blocks > memory / MEMORY { Err(Damage::JournalTooLarge) } else { Ok(()) }
}

impl Transaction {
    fn commit(mut self, journal: &mut BTreeMap<u64, Replacement>) -> Result<(), Damage> {
        if self.damaged {
            return Err(Damage::Journal);
        }
        // What was freed is not to come back, be it of this transaction or of one before.
        self.revoked.sort_unstable();
        for block in &self.revoked {
            journal.remove(block);
        }
        let stays = |block: &u64| self.revoked.binary_search(block).is_err();
        journal.extend(self.blocks.into_iter().filter(|(block, _)| stays(block)));
        Ok(())
    }
}

/// A block of the file system that stands in the journal.
struct Tag {
    block: u64,
    flags: u32,
    checksum: u32,
}

impl Log {
    fn next(&self, at: u32) -> u32 {
        if at + 1 >= self.len { self.first } else { at + 1 }
    }

    fn has_checksums(&self) -> bool {
        self.features & (CHECKSUMS_2 | CHECKSUMS_3) != 0
    }

    /// Whether the checksum at a block's end is right, if there is one.
    fn has_tail(&self, bytes: &[u8]) -> bool {
        let end = bytes.len() - 4;
        !self.has_checksums() || crc32c(crc32c(self.seed, &bytes[..end]), &[0; 4]) == be32_at(bytes, end)
    }

    fn is_committed(&self, bytes: &[u8]) -> bool {
        let crc = || crc32c(crc32c(crc32c(self.seed, &bytes[..0x10]), &[0; 4]), &bytes[0x14..]);
        !self.has_checksums() || crc() == be32_at(bytes, 0x10)
    }

    fn is_whole(&self, tag: &Tag, sequence: u32, bytes: &[u8]) -> bool {
        let crc = crc32c(crc32c(self.seed, &sequence.to_be_bytes()), bytes);
        if self.features & CHECKSUMS_3 != 0 { crc == tag.checksum } else { crc as u16 == tag.checksum as u16 }
    }

    /// The tags of a descriptor.
    fn tags<'a>(&self, bytes: &'a [u8]) -> impl Iterator<Item = Tag> + use<'a> {
        let (is_third, is_wide) = (self.features & CHECKSUMS_3 != 0, self.features & WIDE != 0);
        let len = match (is_third, self.features & CHECKSUMS_2 != 0, is_wide) {
            (true, ..) => 16,
            (false, false, false) => 8,
            (false, true, false) => 10,
            (false, false, true) => 12,
            (false, true, true) => 14,
        };
        let end = bytes.len() - if self.has_checksums() { 4 } else { 0 };
        let mut rest = &bytes[12..end];
        let mut over = false;
        core::iter::from_fn(move || {
            let tag = rest.get(..len).filter(|_| !over)?;
            let (flags, checksum) = match is_third {
                true => (be32_at(tag, 4), be32_at(tag, 12)),
                false => (be32_at(tag, 4) & 0xffff, be32_at(tag, 4) >> 16),
            };
            let high = if is_wide { be32_at(tag, 8) } else { 0 };
            over = flags & LAST != 0;
            rest = rest.get(len + if flags & SAME_UUID != 0 { 0 } else { 16 }..).unwrap_or_default();
            Some(Tag { block: wide(be32_at(tag, 0), high), flags, checksum })
        })
    }

    /// The blocks that are revoked by a block.
    fn revoked(&self, bytes: &[u8], to: &mut Vec<u64>) {
        let end = bytes.len() - if self.has_checksums() { 4 } else { 0 };
        let used = (be32_at(bytes, 12) as usize).clamp(16, end);
        let is_wide = self.features & WIDE != 0;
        to.extend(bytes[16..used].chunks_exact(if is_wide { 8 } else { 4 }).map(|record| match is_wide {
            true => wide(be32_at(record, 4), be32_at(record, 0)),
            false => be32_at(record, 0).into(),
        }));
    }
}

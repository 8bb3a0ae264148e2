//! ext4, ext3 and ext2 file systems, to be read.
//!
//! A disk is made by somebody: none of its numbers is believed. Each structure is checked before anything in it is used, each
//! loop ends by what is on the disk or by a budget ([`Reads`]), and no memory is taken by a number that stands there.

mod blocks;
mod bytes;
mod crc;
mod error;
mod folder;
mod hash;
mod inode;
mod journal;
mod map;
mod superblock;

use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;

use xen_blkif::BlockDevice;

use crate::path::MAX_PATH;
use crate::source::Source;
use crate::window::Window;
use blocks::{Block, Blocks, Reads};
pub use error::Damage;
pub(crate) use error::Failure;
use inode::{Inode, Kind};
use journal::Journal;
use map::Run;
use superblock::Superblock;

/// The inode of the file system's own folder.
const ROOT: u32 = 2;
/// Links on the way to a file (as in Linux).
const MAX_LINKS: u32 = 40;
const MAX_NAME: usize = 255;

/// Whether there is one: its magic number.
pub(crate) async fn is_there<D: BlockDevice>(window: &mut Window<D>) -> Result<bool, xen_blkif::Error> {
    let mut magic = [0; 2];
    if window.size() < superblock::OFFSET + superblock::LEN as u64 {
        return Ok(false);
    }
    window.read_all(superblock::OFFSET + 56, &mut magic).await?;
    Ok(magic == [0x53, 0xef])
}

pub(crate) struct FileSystem<D: BlockDevice> {
    superblock: Superblock,
    blocks: Blocks<D>,
    journal: Journal,
}

/// A file that is read.
pub(crate) struct OpenFile<D: BlockDevice> {
    inode: Inode,
    window: Window<D>,
    /// The blocks that were read last.
    run: Option<Run>,
}

impl<D: BlockDevice> OpenFile<D> {
    pub(crate) fn size(&self) -> u64 {
        self.inode.size
    }

    pub(crate) fn modified(&self) -> i64 {
        self.inode.modified
    }

    pub(crate) fn pause(&mut self) {
        self.window.release();
    }
}

impl Run {
    fn contains(&self, block: u64) -> bool {
        block >= self.first && block - self.first < self.count
    }
}

impl<D: BlockDevice> FileSystem<D> {
    pub(crate) async fn load(disk: Rc<Source<D>>, memory: usize) -> Result<FileSystem<D>, Failure> {
        let mut bytes = [0; superblock::LEN];
        let mut window = Window::new(disk.clone());
        window.read_all(superblock::OFFSET, &mut bytes).await?;
        let superblock = Superblock::parse(&bytes)?;
        let blocks = Blocks::new(disk, superblock.block_size);
        let mut system = FileSystem { superblock, blocks, journal: Journal::default() };
        system.check_size(&window)?;
        system.journal = system.load_journal(memory).await?;
        // The superblock may be in it as well.
        let block_size = u64::from(system.superblock.block_size);
        let (number, at) = (superblock::OFFSET / block_size, (superblock::OFFSET % block_size) as usize);
        if let Some(instead) = system.journal.get(number) {
            let block = system.blocks.get(instead.block).await?;
            let bytes = block.bytes()[at..].first_chunk().ok_or(Damage::Journal)?;
            let again = Superblock::parse(bytes)?;
            if again.block_size != system.superblock.block_size {
                return Err(Damage::Journal.into());
            }
            system.superblock = again;
            system.check_size(&window)?;
        }
        Ok(system)
    }

    /// A file system ends where its device does, or before.
    fn check_size(&self, window: &Window<D>) -> Result<(), Damage> {
        let Superblock { blocks, block_size, .. } = self.superblock;
        match blocks * u64::from(block_size) > window.size() {
            true => Err(Damage::Superblock { field: "s_blocks_count", value: blocks }),
            false => Ok(()),
        }
    }

    /// A regular file by a clean name, which is read in pieces of so many bytes.
    pub(crate) async fn open(&self, path: &str, piece: usize) -> Result<Option<OpenFile<D>>, Failure> {
        let reads = Reads::new(Reads::MAX);
        let mut folders = vec![ROOT];
        let mut folder = self.inode(ROOT, &reads).await?;
        if folder.kind != Kind::Folder {
            return Err(Damage::InodeContent(ROOT).into());
        }
        let mut links = 0;
        let mut rest = path.as_bytes().to_vec();
        while !rest.is_empty() {
            let end = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
            let name: Vec<u8> = rest.drain(..end).collect();
            let slashes = rest.iter().take_while(|byte| **byte == b'/').count();
            rest.drain(..slashes);
            match &name[..] {
                b"" | b"." => continue,
                b".." => {
                    // Above the first one there is nothing.
                    if folders.len() > 1 {
                        folders.pop();
                    }
                    folder = self.inode(folders.last().copied().unwrap_or(ROOT), &reads).await?;
                    continue;
                }
                name if name.len() > MAX_NAME => return Ok(None),
                _ => {}
            }
            let Some(number) = self.look_up(&folder, &name, &reads).await? else { return Ok(None) };
            let inode = self.inode(number, &reads).await?;
            match inode.kind {
                Kind::Folder => {
                    folders.push(number);
                    folder = inode;
                }
                Kind::Link => {
                    links += 1;
                    let mut target = self.target(&inode, &reads).await?;
                    if target.is_empty() || links > MAX_LINKS || target.len() + rest.len() >= MAX_PATH {
                        return Ok(None);
                    }
                    if target.starts_with(b"/") {
                        folders.truncate(1);
                        folder = self.inode(ROOT, &reads).await?;
                    }
                    target.push(b'/');
                    target.append(&mut rest);
                    rest = target;
                }
                Kind::File if inode.is_encrypted() => return Err(Damage::Encrypted(number).into()),
                Kind::File if rest.is_empty() => {
                    let window = Window::before(self.blocks.disk.clone(), u64::MAX, piece);
                    return Ok(Some(OpenFile { inode, window, run: None }));
                }
                _ => return Ok(None),
            }
        }
        Ok(None)
    }

    /// Reads some bytes of a file, which has as many: what is in one piece, and something in any case.
    pub(crate) async fn read(&self, file: &mut OpenFile<D>, at: u64, to: &mut [u8]) -> Result<usize, Failure> {
        if let Some(bytes) = &file.inode.inline {
            let bytes = bytes.get(usize::try_from(at).unwrap_or(usize::MAX)..).unwrap_or_default();
            let len = to.len().min(bytes.len());
            to[..len].copy_from_slice(&bytes[..len]);
            to[len..].fill(0);
            return Ok(to.len());
        }
        let block_size = u64::from(self.superblock.block_size);
        let wanted = at / block_size;
        let run = match file.run {
            Some(run) if run.contains(wanted) => run,
            _ => {
                let reads = Reads::new(Reads::MAX);
                *file.run.insert(self.run(&file.inode, wanted, &reads).await?)
            }
        };
        let (skipped, mut left) = (wanted - run.first, run.count - (wanted - run.first));
        let offset = at % block_size;
        let Some(start) = run.block.map(|block| block + skipped) else {
            let len = cut(to.len(), left, block_size, offset);
            to[..len].fill(0);
            return Ok(len);
        };
        if let Some(first) = self.journal.first(start, left) {
            if first == start {
                let block = self.block(start, &Reads::new(Reads::MAX)).await?;
                let len = cut(to.len(), 1, block_size, offset);
                to[..len].copy_from_slice(&block.bytes()[offset as usize..][..len]);
                return Ok(len);
            }
            left = first - start;
        }
        let len = cut(to.len(), left, block_size, offset);
        // Nothing behind the run is of use, nor behind the file.
        let used = file.inode.size.div_ceil(block_size).saturating_sub(wanted);
        file.window.set_end((start + left.min(used.max(1))) * block_size);
        Ok(file.window.read(start * block_size + offset, &mut to[..len]).await?)
    }

    /// Some bytes of a file from `at` on, if they are kept, and where they are is known.
    pub(crate) fn at_hand<'f>(&self, file: &'f mut OpenFile<D>, at: u64, most: usize) -> Option<&'f [u8]> {
        let block_size = u64::from(self.superblock.block_size);
        let wanted = at / block_size;
        let run = file.run.filter(|run| file.inode.inline.is_none() && run.contains(wanted))?;
        let (skipped, left) = (wanted - run.first, run.count - (wanted - run.first));
        let start = run.block? + skipped;
        if self.journal.first(start, left).is_some() {
            return None;
        }
        let offset = at % block_size;
        file.window.kept(start * block_size + offset, cut(most, left, block_size, offset))
    }

    /// Where a symbolic link leads.
    async fn target(&self, link: &Inode, reads: &Reads) -> Result<Vec<u8>, Failure> {
        if link.is_encrypted() {
            return Err(Damage::Encrypted(link.number).into());
        }
        if let Some(bytes) = &link.inline {
            return Ok(bytes.clone());
        }
        // It has one block, or a few small ones.
        let damaged = Damage::InodeContent(link.number);
        let mut left = usize::try_from(link.size).ok().filter(|size| *size <= MAX_PATH).ok_or(damaged)?;
        let mut target = Vec::new();
        let mut next = 0;
        while left > 0 {
            let run = self.run(link, next, reads).await?;
            let block = self.block(run.block.ok_or(damaged)?, reads).await?;
            let bytes = &block.bytes()[..left.min(block.bytes().len())];
            target.extend(bytes);
            left -= bytes.len();
            next += 1;
        }
        Ok(target)
    }

    async fn inode(&self, number: u32, reads: &Reads) -> Result<Inode, Failure> {
        let superblock = &self.superblock;
        let index = number.checked_sub(1).filter(|index| *index < superblock.inodes).ok_or(Damage::Inode(number))?;
        let (group, index) = (index / superblock.inodes_per_group, index % superblock.inodes_per_group);
        let (block, at) = superblock.descriptor(group);
        let block = self.block(block, reads).await?;
        let table = superblock.inode_table(group, &block.bytes()[at..])?;
        let position = u64::from(index) * u64::from(superblock.inode_size);
        let block_size = u64::from(superblock.block_size);
        let number_of_block = table.checked_add(position / block_size).ok_or(Damage::Block(table))?;
        let block = self.block(number_of_block, reads).await?;
        Ok(Inode::parse(superblock, number, &block.bytes()[(position % block_size) as usize..])?)
    }

    /// A block as it is now, be it in its place or in the journal.
    async fn block(&self, number: u64, reads: &Reads) -> Result<Block, Failure> {
        reads.count(self.superblock.block_size).await?;
        if number >= self.superblock.blocks {
            return Err(Damage::Block(number).into());
        }
        let Some(instead) = self.journal.get(number) else { return Ok(self.blocks.get(number).await?) };
        let block = self.blocks.get(instead.block).await?;
        Ok(if instead.escaped { block.with_begin(journal::MAGIC.to_be_bytes()) } else { block })
    }
}

#[cfg(feature = "fuzzing")]
pub(crate) fn half_md4(name: &[u8], seed: [u32; 4]) -> u32 {
    hash::Hash { kind: hash::Kind::HalfMd4, unsigned: false }.of(name, seed)
}

/// Bytes of some blocks from an offset on, as many as are wished for.
fn cut(wished: usize, blocks: u64, block_size: u64, offset: u64) -> usize {
    usize::try_from(blocks * block_size - offset).unwrap_or(usize::MAX).min(wished)
}

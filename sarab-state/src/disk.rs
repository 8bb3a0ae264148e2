//! A disk that holds a store: a sector that says so, and two logs behind it.

use alloc::vec;

use xen_blkif::BlockDevice;

use crate::Format;
use crate::error::{Error, Foreign};
use crate::pages::PAGE;

const SECTOR: usize = 512;
const MAGIC: &[u8; 8] = b"SARABKV\n";
/// Of what is on the disk, that of `sequential-storage` included.
const VERSION: u32 = 1;
/// Pages of a log: with fewer there is no room beside what was there when it was begun, and more take long to read.
const MIN_PAGES: u32 = 8;
const MAX_PAGES: u32 = 64;

/// What the first sector says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    /// How many logs were begun: the last of them is in use. None was where the disk is being made into a store.
    pub(crate) epoch: u32,
    /// Of each log.
    pub(crate) pages: u32,
}

impl Head {
    /// Which of the two logs is in use.
    pub(crate) fn log(self) -> u32 {
        self.epoch % 2
    }

    /// With the next log.
    pub(crate) fn next(self) -> Head {
        // Never again none; the parity alternates.
        let epoch = self.epoch.checked_add(1).unwrap_or(2);
        Head { epoch, ..self }
    }
}

/// Finds the store of a disk, or begins one.
pub(crate) async fn open<D: BlockDevice>(disk: &D, format: Format) -> Result<Head, Error> {
    let bytes = u64::try_from(disk.geometry().bytes()).unwrap_or(u64::MAX);
    let least = |pages: u32| (1 + 2 * u64::from(pages)) * PAGE as u64;
    let fitting = (bytes / PAGE as u64).saturating_sub(1) / 2;
    let fitting = u32::try_from(fitting).unwrap_or(MAX_PAGES).min(MAX_PAGES);
    if fitting < MIN_PAGES {
        return Err(Error::SmallDisk { bytes, least: least(MIN_PAGES) });
    }
    if disk.geometry().sector_size as usize > PAGE {
        return Err(Error::Disk(xen_blkif::Error::Unsupported("hold a store with such large sectors")));
    }
    let mut first = vec![0; PAGE];
    disk.read_bytes(0, &mut first).await?;
    if first[..8] != *MAGIC {
        match format {
            Format::Never => return Err(Error::NoStore),
            Format::Always => {}
            Format::IfEmpty => check_empty(disk, least(fitting)).await?,
        }
        // From here on it is a store, empty until its first log was begun.
        let head = Head { epoch: 0, pages: fitting };
        write(disk, head).await?;
        return Ok(head);
    }
    let word = |at: usize| u32::from_le_bytes([first[at], first[at + 1], first[at + 2], first[at + 3]]);
    let (version, head) = (word(8), Head { epoch: word(12), pages: word(16) });
    if version != VERSION {
        return Err(Error::Version { version });
    }
    if !(MIN_PAGES..=MAX_PAGES).contains(&head.pages) {
        return Err(Error::Damaged);
    }
    if head.pages > fitting {
        return Err(Error::SmallDisk { bytes, least: least(head.pages) });
    }
    Ok(head)
}

/// Writes the first sector, which arrives as a whole or not at all, and flushes.
pub(crate) async fn write<D: BlockDevice>(disk: &D, head: Head) -> Result<(), Error> {
    let geometry = disk.geometry();
    let mut bytes = vec![0; (geometry.sector_size as usize).clamp(SECTOR, PAGE)];
    bytes[..8].copy_from_slice(MAGIC);
    for (index, word) in [VERSION, head.epoch, head.pages].into_iter().enumerate() {
        bytes[8 + 4 * index..][..4].copy_from_slice(&word.to_le_bytes());
    }
    disk.write_bytes(0, &bytes).await?;
    if geometry.flush {
        disk.flush().await?;
    }
    Ok(())
}

/// Refuses a disk on which there is anything where the store would be, or at its end, where partition tables and arrays of
/// disks have their copies.
async fn check_empty<D: BlockDevice>(disk: &D, own: u64) -> Result<(), Error> {
    let sectors = disk.geometry().sectors;
    let size = sectors.saturating_mul(SECTOR as u64);
    let end = size.saturating_sub(PAGE as u64).max(own);
    let mut bytes = vec![0; PAGE];
    let mut sign = None;
    for (mut at, until) in [(0, own), (end, size)] {
        while at < until {
            let piece = &mut bytes[..(until - at).min(PAGE as u64) as usize];
            disk.read_bytes(at / SECTOR as u64, piece).await?;
            if at == 0 {
                sign = Foreign::of(piece);
            }
            if let Some(byte) = piece.iter().position(|byte| *byte != 0) {
                let behind = if at == PAGE as u64 { Foreign::behind(piece) } else { None };
                return Err(Error::Foreign { what: sign.or(behind).unwrap_or(Foreign::Unknown), at: at + byte as u64 });
            }
            at += piece.len() as u64;
        }
    }
    Ok(())
}

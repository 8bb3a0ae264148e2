//! A part of a device as flash memory, one page of which is in memory.

use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;

use embedded_storage_async::nor_flash::{ErrorType, NorFlash, NorFlashError, NorFlashErrorKind, ReadNorFlash};
use xen_blkif::{BlockDevice, Error};

const SECTOR: usize = 512;
/// Bytes of a page. A transaction has to fit into one.
pub(crate) const PAGE: usize = 64 << 10;

/// Pages of a disk from its begin on, as flash memory: what is read comes from whole pages, what is written goes to the disk
/// at once, sector by sector, and is flushed. `xen_blkif::adapters::Flash` would ask the disk for each few bytes.
pub(crate) struct Pages<D> {
    disk: Rc<D>,
    count: usize,
    /// Which page is in memory.
    known: Option<usize>,
    bytes: Vec<u8>,
}

/// The device's, as the flash memory's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failed(pub(crate) Error);

impl NorFlashError for Failed {
    fn kind(&self) -> NorFlashErrorKind {
        match self.0 {
            Error::OutOfRange { .. } => NorFlashErrorKind::OutOfBounds,
            _ => NorFlashErrorKind::Other,
        }
    }
}

impl<D: BlockDevice> Pages<D> {
    pub(crate) fn new(disk: Rc<D>, count: usize) -> Pages<D> {
        Pages { disk, count, known: None, bytes: vec![0; PAGE] }
    }

    async fn load(&mut self, page: usize) -> Result<(), Failed> {
        if self.known != Some(page) {
            self.known = None;
            self.disk.read_bytes((page * PAGE / SECTOR) as u64, &mut self.bytes).await.map_err(Failed)?;
            self.known = Some(page);
        }
        Ok(())
    }

    /// Writes what is in memory of the page's bytes from `start` to `end`. Where that fails, or is dropped, the page is read
    /// again.
    async fn store(&mut self, page: usize, start: usize, end: usize) -> Result<(), Failed> {
        self.known = None;
        let geometry = self.disk.geometry();
        let unit = (geometry.sector_size as usize).clamp(SECTOR, PAGE);
        let (start, end) = (start / unit * unit, end.next_multiple_of(unit));
        let sector = ((page * PAGE + start) / SECTOR) as u64;
        self.disk.write_bytes(sector, &self.bytes[start..end]).await.map_err(Failed)?;
        if geometry.flush {
            self.disk.flush().await.map_err(Failed)?;
        }
        self.known = Some(page);
        Ok(())
    }

    fn check(&self, offset: u32, len: usize) -> Result<(), Failed> {
        let (sector, sectors) = (u64::from(offset) / SECTOR as u64, (self.count * PAGE / SECTOR) as u64);
        let end = (offset as usize).checked_add(len).filter(|end| *end <= self.count * PAGE);
        end.map(|_| ()).ok_or(Failed(Error::OutOfRange { sector, count: len.div_ceil(SECTOR) as u64, sectors }))
    }
}

impl<D> ErrorType for Pages<D> {
    type Error = Failed;
}

impl<D: BlockDevice> ReadNorFlash for Pages<D> {
    const READ_SIZE: usize = 1;

    async fn read(&mut self, offset: u32, to: &mut [u8]) -> Result<(), Failed> {
        self.check(offset, to.len())?;
        let (mut at, mut done) = (offset as usize, 0);
        while done < to.len() {
            self.load(at / PAGE).await?;
            let from = &self.bytes[at % PAGE..];
            let len = from.len().min(to.len() - done);
            to[done..done + len].copy_from_slice(&from[..len]);
            (at, done) = (at + len, done + len);
        }
        Ok(())
    }

    fn capacity(&self) -> usize {
        self.count * PAGE
    }
}

impl<D: BlockDevice> NorFlash for Pages<D> {
    const WRITE_SIZE: usize = 4;
    const ERASE_SIZE: usize = PAGE;

    async fn erase(&mut self, from: u32, to: u32) -> Result<(), Failed> {
        self.check(from, to.saturating_sub(from) as usize)?;
        for page in from as usize / PAGE..to as usize / PAGE {
            self.known = None;
            self.bytes.fill(0xff);
            self.store(page, 0, PAGE).await?;
        }
        Ok(())
    }

    async fn write(&mut self, offset: u32, from: &[u8]) -> Result<(), Failed> {
        self.check(offset, from.len())?;
        let (mut at, mut done) = (offset as usize, 0);
        while done < from.len() {
            let (page, start) = (at / PAGE, at % PAGE);
            self.load(page).await?;
            let len = (PAGE - start).min(from.len() - done);
            // Flash memory clears bits alone.
            let to = &mut self.bytes[start..start + len];
            to.iter_mut().zip(&from[done..]).for_each(|(to, from)| *to &= from);
            self.store(page, start, start + len).await?;
            (at, done) = (at + len, done + len);
        }
        Ok(())
    }
}

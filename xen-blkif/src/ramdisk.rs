//! A disk in memory.

use alloc::rc::Rc;
use alloc::vec::Vec;

use xen_hal::{PAGE_SIZE, Page, Pages};
use xen_ring::{SharedMemory, SharedPage};
use xenbus::yield_now;

use crate::device::{BlockDevice, Buffer, Completed, Discard, Error, Geometry, pieces};
use crate::protocol::SECTOR_SIZE;

/// Bytes that a discard zeroes before other tasks have their turn; many discards may be under way.
const DISCARDED_AT_ONCE: usize = 64 << 10;

/// Pages of one owner as a buffer.
#[derive(Debug)]
pub struct PageBuffer<P> {
    pages: Vec<SharedPage<P>>,
    len: usize,
}

impl<P: Page> PageBuffer<P> {
    /// A buffer of zeroes.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`].
    pub fn new(pages: &impl Pages<Page = P>, len: usize) -> Result<PageBuffer<P>, Error> {
        let count = len.div_ceil(PAGE_SIZE);
        let pages: Result<Vec<_>, _> = (0..count).map(|_| pages.alloc_page().map(SharedPage::new)).collect();
        Ok(PageBuffer { pages: pages.map_err(|_| Error::OutOfMemory)?, len })
    }
}

impl<P: Page> Buffer for PageBuffer<P> {
    fn len(&self) -> usize {
        self.len
    }

    fn page(&self, index: usize) -> &SharedMemory {
        &self.pages[index]
    }
}

/// A disk in pages of this domain's memory. What was never written reads as zeroes; discarding makes zeroes.
///
/// Clones are the same disk.
///
/// # Examples
///
/// ```
/// use xen_blkif::ramdisk::RamDisk;
/// use xen_blkif::{BlockDevice, Error};
///
/// # let xen = xen_sim::Xen::new(1);
/// # let domain = xen.domain();
/// # xen.run(async move {
/// let disk = RamDisk::new(domain, 2048)?.with_sector_size(4096).read_only();
/// assert_eq!(disk.geometry().bytes(), 1 << 20);
/// assert_eq!(disk.write_bytes(0, &[0; 4096]).await, Err(Error::ReadOnly));
/// # Ok::<(), xen_blkif::Error>(())
/// # })?;
/// # Ok::<(), xen_blkif::Error>(())
/// ```
#[derive(Debug)]
pub struct RamDisk<M: Pages> {
    memory: M,
    data: Rc<PageBuffer<M::Page>>,
    geometry: Geometry,
}

impl<M: Pages + Clone> Clone for RamDisk<M> {
    fn clone(&self) -> Self {
        RamDisk { memory: self.memory.clone(), data: self.data.clone(), geometry: self.geometry }
    }
}

impl<M: Pages> RamDisk<M> {
    /// A disk of this many sectors, all zeroes.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`].
    pub fn new(memory: M, sectors: u64) -> Result<RamDisk<M>, Error> {
        let len = usize::try_from(sectors).ok().and_then(|sectors| sectors.checked_mul(SECTOR_SIZE));
        let data = PageBuffer::new(&memory, len.ok_or(Error::OutOfMemory)?)?;
        let discard = Some(Discard { granularity: SECTOR_SIZE as u32, alignment: 0, secure: true });
        let geometry = Geometry { flush: true, discard, ..Geometry::plain(sectors) };
        Ok(RamDisk { memory, data: Rc::new(data), geometry })
    }

    /// The same with sectors of this many bytes: a power of two, 512 or more.
    pub fn with_sector_size(mut self, bytes: u32) -> Self {
        self.geometry.sector_size = bytes;
        self.geometry.physical_sector_size = bytes;
        self
    }

    /// The same, for reading alone.
    pub fn read_only(mut self) -> Self {
        self.geometry.read_only = true;
        self
    }

    /// Copies between the disk and a buffer, page by page.
    fn copy(&self, sector: u64, buffer: &PageBuffer<M::Page>, to_disk: bool) {
        let start = sector as usize * SECTOR_SIZE;
        let mut part = [0; PAGE_SIZE];
        pieces(0, buffer.len(), |_, _, range| {
            let part = &mut part[..range.len()];
            if to_disk {
                buffer.read(range.start, part);
                self.data.write(start + range.start, part);
            } else {
                self.data.read(start + range.start, part);
                buffer.write(range.start, part);
            }
        });
    }
}

impl<M: Pages> BlockDevice for RamDisk<M> {
    type Buffer = PageBuffer<M::Page>;

    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn buffer(&self, len: usize) -> Result<Self::Buffer, Error> {
        PageBuffer::new(&self.memory, len)
    }

    async fn read(&self, sector: u64, buffer: Self::Buffer) -> Completed<Self::Buffer> {
        let outcome = self.geometry.check(sector, buffer.len());
        if outcome.is_ok() {
            self.copy(sector, &buffer, false);
        }
        (buffer, outcome)
    }

    async fn write(&self, sector: u64, buffer: Self::Buffer) -> Completed<Self::Buffer> {
        let outcome = self.geometry.check_writable().and_then(|()| self.geometry.check(sector, buffer.len()));
        if outcome.is_ok() {
            self.copy(sector, &buffer, true);
        }
        (buffer, outcome)
    }

    async fn flush(&self) -> Result<(), Error> {
        Ok(())
    }

    async fn discard(&self, sector: u64, count: u64, _: bool) -> Result<(), Error> {
        self.geometry.check_writable()?;
        self.geometry.check_sectors(sector, count)?;
        let start = sector as usize * SECTOR_SIZE;
        let zeroes = [0; PAGE_SIZE];
        let (mut done, len) = (0, count as usize * SECTOR_SIZE);
        while done < len {
            // A range may be the whole disk, and others ask for the same at once.
            let part = (len - done).min(DISCARDED_AT_ONCE);
            pieces(0, part, |_, _, range| self.data.write(start + done + range.start, &zeroes[..range.len()]));
            done += part;
            yield_now().await;
        }
        Ok(())
    }

    async fn changed(&self, known: &Geometry) -> Geometry {
        if *known == self.geometry {
            core::future::pending::<()>().await;
        }
        self.geometry
    }
}

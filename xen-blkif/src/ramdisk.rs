//! A disk in memory.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;

use xen_hal::{PAGE_SIZE, Page, Pages};
use xen_ring::{SharedMemory, SharedPage};
use xenbus::yield_now;

use crate::device::{BlockDevice, Buffer, Completed, Discard, Error, Geometry, pieces};
use crate::protocol::SECTOR_SIZE;

/// Bytes that a discard zeroes before other tasks have their turn; many discards may be under way.
const DISCARDED_AT_ONCE: usize = 64 << 10;

/// Most pages that a [`BufferPool`] keeps.
const MAX_SPARE: usize = 256;

/// Pages of one owner as a buffer.
#[derive(Debug)]
pub struct PageBuffer<P> {
    pages: Held<P>,
    len: usize,
}

#[derive(Debug)]
enum Held<P> {
    Own {
        pages: Vec<SharedPage<P>>,
        /// Where they go in the end.
        spare: Option<Rc<Spare<P>>>,
    },
    /// Some of a disk's, from this one on.
    Lent { disk: Rc<PageBuffer<P>>, first: usize },
}

/// Pages that buffers had.
#[derive(Debug)]
struct Spare<P>(RefCell<Vec<SharedPage<P>>>);

impl<P: Page> PageBuffer<P> {
    /// A buffer of zeroes.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`].
    pub fn new(pages: &impl Pages<Page = P>, len: usize) -> Result<PageBuffer<P>, Error> {
        let count = len.div_ceil(PAGE_SIZE);
        let pages: Result<Vec<_>, _> = (0..count).map(|_| pages.alloc_page().map(SharedPage::new)).collect();
        Ok(PageBuffer { pages: Held::Own { pages: pages.map_err(|_| Error::OutOfMemory)?, spare: None }, len })
    }
}

impl<P> PageBuffer<P> {
    /// Which of a disk's pages it begins with, where it is of those.
    fn lent_by(&self, owner: &Rc<PageBuffer<P>>) -> Option<usize> {
        match &self.pages {
            Held::Lent { disk, first } if Rc::ptr_eq(disk, owner) => Some(*first),
            _ => None,
        }
    }
}

impl<P> Drop for PageBuffer<P> {
    fn drop(&mut self) {
        if let Held::Own { pages, spare: Some(spare) } = &mut self.pages {
            let mut spare = spare.0.borrow_mut();
            let room = MAX_SPARE.saturating_sub(spare.len()).min(pages.len());
            spare.extend(pages.drain(..room));
        }
    }
}

/// Makes buffers for one device, of the pages that earlier ones had where there are any: those need not be zeroed. It
/// keeps 1 MiB of them at most.
///
/// Clones are the same pool.
#[derive(Debug)]
pub struct BufferPool<M: Pages> {
    memory: M,
    spare: Rc<Spare<M::Page>>,
}

impl<M: Pages + Clone> Clone for BufferPool<M> {
    fn clone(&self) -> Self {
        BufferPool { memory: self.memory.clone(), spare: self.spare.clone() }
    }
}

impl<M: Pages> BufferPool<M> {
    /// Of this memory, with no pages yet.
    pub fn new(memory: M) -> BufferPool<M> {
        BufferPool { memory, spare: Rc::new(Spare(RefCell::default())) }
    }

    /// A buffer that holds zeroes, or what earlier ones held.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`].
    pub fn buffer(&self, len: usize) -> Result<PageBuffer<M::Page>, Error> {
        let count = len.div_ceil(PAGE_SIZE);
        let mut pages = Vec::with_capacity(count);
        {
            let mut spare = self.spare.0.borrow_mut();
            let kept = spare.len() - spare.len().min(count);
            pages.extend(spare.drain(kept..));
        }
        let mut failed = false;
        while pages.len() < count && !failed {
            match self.memory.alloc_page() {
                Ok(page) => pages.push(SharedPage::new(page)),
                Err(_) => failed = true,
            }
        }
        // Also those of a buffer that cannot be are spare again.
        let buffer = PageBuffer { pages: Held::Own { pages, spare: Some(self.spare.clone()) }, len };
        if failed { Err(Error::OutOfMemory) } else { Ok(buffer) }
    }
}

impl<P: Page> Buffer for PageBuffer<P> {
    fn len(&self) -> usize {
        self.len
    }

    fn page(&self, index: usize) -> &SharedMemory {
        match &self.pages {
            Held::Own { pages, .. } => &pages[index],
            Held::Lent { disk, first } => {
                assert!(index < self.len.div_ceil(PAGE_SIZE), "the buffer has no such page");
                disk.page(first + index)
            }
        }
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
    buffers: BufferPool<M>,
    data: Rc<PageBuffer<M::Page>>,
    geometry: Geometry,
}

impl<M: Pages + Clone> Clone for RamDisk<M> {
    fn clone(&self) -> Self {
        RamDisk { buffers: self.buffers.clone(), data: self.data.clone(), geometry: self.geometry }
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
        Ok(RamDisk { buffers: BufferPool::new(memory), data: Rc::new(data), geometry })
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
}

impl<M: Pages> BlockDevice for RamDisk<M> {
    type Buffer = PageBuffer<M::Page>;

    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn buffer(&self, len: usize) -> Result<Self::Buffer, Error> {
        self.buffers.buffer(len)
    }

    /// The disk's own pages, where a page begins at the sector.
    fn buffer_at(&self, sector: u64, len: usize) -> Result<Self::Buffer, Error> {
        let is_page = sector.is_multiple_of((PAGE_SIZE / SECTOR_SIZE) as u64);
        if !is_page || self.geometry.read_only || self.geometry.check(sector, len).is_err() {
            return self.buffer(len);
        }
        let first = sector as usize * SECTOR_SIZE / PAGE_SIZE;
        Ok(PageBuffer { pages: Held::Lent { disk: self.data.clone(), first }, len })
    }

    async fn read(&self, sector: u64, mut buffer: Self::Buffer) -> Completed<Self::Buffer> {
        if let Err(error) = self.geometry.check(sector, buffer.len()) {
            return (buffer, Err(error));
        }
        let start = sector as usize * SECTOR_SIZE;
        match buffer.lent_by(&self.data) {
            Some(first) if first * PAGE_SIZE == start => return (buffer, Ok(())),
            // It is another place's.
            Some(_) => match self.buffer(buffer.len()) {
                Ok(own) => buffer = own,
                Err(error) => return (buffer, Err(error)),
            },
            None => {}
        }
        self.data.copy(start, buffer.len(), &buffer, 0);
        (buffer, Ok(()))
    }

    async fn write(&self, sector: u64, buffer: Self::Buffer) -> Completed<Self::Buffer> {
        let outcome = self.geometry.check_writable().and_then(|()| self.geometry.check(sector, buffer.len()));
        let start = sector as usize * SECTOR_SIZE;
        let is_there = buffer.lent_by(&self.data).is_some_and(|first| first * PAGE_SIZE == start);
        if outcome.is_ok() && !is_there {
            buffer.copy(0, buffer.len(), &*self.data, start);
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

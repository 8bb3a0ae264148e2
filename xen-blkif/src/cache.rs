//! A device of which the blocks that were read last stay in memory.

use alloc::boxed::Box;
use core::cell::{Cell, RefCell};
use core::num::NonZeroUsize;

use lru::LruCache;

use crate::device::{BlockDevice, Buffer, Completed, Error, Geometry};
use crate::protocol::SECTOR_SIZE;

/// Bytes of a block of the cache.
const BLOCK: usize = 4096;
const SECTORS: u64 = (BLOCK / SECTOR_SIZE) as u64;

/// A device with a cache of the blocks of 4 KiB that were read last; they are read whole. What is written goes to the device at once, and the
/// cache forgets it.
///
/// It has to be the only way to the device for who writes: what is written past it is not noticed.
///
/// # Examples
///
/// ```
/// use core::num::NonZeroUsize;
/// use xen_blkif::BlockDevice;
/// use xen_blkif::cache::Cache;
/// use xen_blkif::ramdisk::RamDisk;
///
/// # let xen = xen_sim::Xen::new(1);
/// # let domain = xen.domain();
/// # xen.run(async move {
/// let blocks = NonZeroUsize::new(100).expect("not zero"); // 400 KiB
/// let disk = Cache::new(RamDisk::new(domain, 64)?, blocks);
/// let mut bytes = [0; 4096];
/// disk.read_bytes(0, &mut bytes).await?;
/// disk.read_bytes(0, &mut bytes).await?;
/// assert_eq!(disk.hits_and_misses(), (1, 1));
/// # Ok::<(), xen_blkif::Error>(())
/// # })?;
/// # Ok::<(), xen_blkif::Error>(())
/// ```
pub struct Cache<D> {
    device: D,
    blocks: RefCell<LruCache<u64, Box<[u8; BLOCK]>>>,
    /// Counts writes that began or ended: what was being read meanwhile may be old.
    writes: Cell<u64>,
    hits: Cell<u64>,
    misses: Cell<u64>,
}

impl<D: BlockDevice> Cache<D> {
    /// A cache of at most so many blocks of 4 KiB.
    pub fn new(device: D, blocks: NonZeroUsize) -> Cache<D> {
        let (writes, hits, misses) = Default::default();
        Cache { device, blocks: RefCell::new(LruCache::new(blocks)), writes, hits, misses }
    }

    /// How many reads found everything in the cache, and how many did not.
    pub fn hits_and_misses(&self) -> (u64, u64) {
        (self.hits.get(), self.misses.get())
    }

    /// Fills the buffer, if all of it is there.
    fn find(&self, sector: u64, buffer: &D::Buffer) -> bool {
        let mut blocks = self.blocks.borrow_mut();
        let end = sector + (buffer.len() / SECTOR_SIZE) as u64;
        let all = (sector / SECTORS..end.div_ceil(SECTORS)).all(|block| blocks.get(&block).is_some());
        if all {
            for block in sector / SECTORS..end.div_ceil(SECTORS) {
                let bytes = blocks.peek(&block).expect("it was just there");
                let from = sector.max(block * SECTORS);
                let to = end.min((block + 1) * SECTORS);
                let at = (from - block * SECTORS) as usize * SECTOR_SIZE;
                let len = (to - from) as usize * SECTOR_SIZE;
                buffer.write((from - sector) as usize * SECTOR_SIZE, &bytes[at..at + len]);
            }
        }
        all
    }

    /// Keeps the whole blocks of what was read.
    fn keep(&self, sector: u64, buffer: &D::Buffer) {
        let mut blocks = self.blocks.borrow_mut();
        let end = sector + (buffer.len() / SECTOR_SIZE) as u64;
        for block in sector.div_ceil(SECTORS)..end / SECTORS {
            let mut bytes = Box::new([0; BLOCK]);
            buffer.read((block * SECTORS - sector) as usize * SECTOR_SIZE, &mut bytes[..]);
            blocks.put(block, bytes);
        }
    }

    fn forget(&self, sector: u64, count: u64) {
        self.writes.set(self.writes.get() + 1);
        let mut blocks = self.blocks.borrow_mut();
        let range = sector / SECTORS..sector.saturating_add(count).div_ceil(SECTORS);
        if range.end - range.start < blocks.len() as u64 {
            range.for_each(|block| drop(blocks.pop(&block)));
        } else {
            blocks.clear();
        }
    }
}

/// Forgets what was written when the write ends, also where it is given up half-way.
struct Writing<'a, D: BlockDevice>(&'a Cache<D>, u64, u64);

impl<D: BlockDevice> Drop for Writing<'_, D> {
    fn drop(&mut self) {
        self.0.forget(self.1, self.2);
    }
}

impl<D: BlockDevice> BlockDevice for Cache<D> {
    type Buffer = D::Buffer;

    fn geometry(&self) -> Geometry {
        self.device.geometry()
    }

    fn buffer(&self, len: usize) -> Result<D::Buffer, Error> {
        self.device.buffer(len)
    }

    async fn read(&self, sector: u64, buffer: D::Buffer) -> Completed<D::Buffer> {
        if let Err(error) = self.geometry().check(sector, buffer.len()) {
            return (buffer, Err(error));
        }
        if self.find(sector, &buffer) {
            self.hits.set(self.hits.get() + 1);
            return (buffer, Ok(()));
        }
        self.misses.set(self.misses.get() + 1);
        let writes = self.writes.get();
        // Whole blocks are read, for the next who wants something close by.
        let end = sector + (buffer.len() / SECTOR_SIZE) as u64;
        let unit = SECTORS.max(u64::from(self.geometry().sector_size) / SECTOR_SIZE as u64);
        let first = sector / unit * unit;
        let last = end.checked_next_multiple_of(unit).unwrap_or(u64::MAX).min(self.geometry().sectors);
        let whole = match (first, last) == (sector, end) {
            true => None,
            false => match self.device.buffer((last - first) as usize * SECTOR_SIZE) {
                Ok(whole) => Some(whole),
                Err(error) => return (buffer, Err(error)),
            },
        };
        let Some(whole) = whole else {
            let (buffer, outcome) = self.device.read(sector, buffer).await;
            if outcome.is_ok() && self.writes.get() == writes {
                self.keep(sector, &buffer);
            }
            return (buffer, outcome);
        };
        let (whole, outcome) = self.device.read(first, whole).await;
        if outcome.is_ok() {
            if self.writes.get() == writes {
                self.keep(first, &whole);
            }
            let skipped = (sector - first) as usize * SECTOR_SIZE;
            let mut part = [0; BLOCK];
            for offset in (0..buffer.len()).step_by(BLOCK) {
                let part = &mut part[..(buffer.len() - offset).min(BLOCK)];
                whole.read(skipped + offset, part);
                buffer.write(offset, part);
            }
        }
        (buffer, outcome)
    }

    async fn write(&self, sector: u64, buffer: D::Buffer) -> Completed<D::Buffer> {
        let count = (buffer.len() / SECTOR_SIZE) as u64;
        self.forget(sector, count);
        let _writing = Writing(self, sector, count);
        self.device.write(sector, buffer).await
    }

    async fn flush(&self) -> Result<(), Error> {
        self.device.flush().await
    }

    async fn discard(&self, sector: u64, count: u64, secure: bool) -> Result<(), Error> {
        self.forget(sector, count);
        let _writing = Writing(self, sector, count);
        self.device.discard(sector, count, secure).await
    }

    async fn changed(&self, known: &Geometry) -> Geometry {
        self.device.changed(known).await
    }
}

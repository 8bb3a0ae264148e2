//! A device whose writes stay in memory.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec;
use core::cell::RefCell;

use hashbrown::HashMap;
use xen_blkif::{BlockDevice, Buffer, Completed, Discard, Error, Geometry};

/// Bytes of a block that is kept.
const BLOCK: usize = 4096;
const SECTOR: usize = 512;
/// Sectors of a block.
const SECTORS: u64 = (BLOCK / SECTOR) as u64;
/// Bytes that a kept block is counted as, with what keeps it.
const COST: usize = BLOCK + 64;

type Blocks = HashMap<u64, Box<[u8; BLOCK]>>;

/// A device of which everything that is written stays in memory, and is gone with the last clone: for guests that are
/// thrown away. The device itself is only read.
///
/// What is discarded is read from the device again.
///
/// # Examples
///
/// ```
/// use sarab_volumes::{BlockDevice, Overlay};
/// use xen_blkif::Error;
/// use xen_blkif::ramdisk::RamDisk;
///
/// # let xen = xen_sim::Xen::new(1);
/// # let domain = xen.domain();
/// # xen.run(async move {
/// let disk = RamDisk::new(domain, 64)?;
/// let overlay = Overlay::new(disk.clone(), 10_000); // two blocks of 4 KiB
/// overlay.write_bytes(0, &[1; 512]).await?;
/// let mut bytes = [0; 512];
/// overlay.read_bytes(0, &mut bytes).await?;
/// assert_eq!(bytes, [1; 512]);
/// disk.read_bytes(0, &mut bytes).await?;
/// assert_eq!(bytes, [0; 512]);
/// overlay.write_bytes(8, &[1; 512]).await?;
/// assert_eq!(overlay.write_bytes(16, &[1; 512]).await, Err(Error::NoSpace));
/// # Ok::<(), xen_blkif::Error>(())
/// # })?;
/// # Ok::<(), xen_blkif::Error>(())
/// ```
#[derive(Debug)]
pub struct Overlay<D> {
    device: D,
    blocks: Rc<RefCell<Blocks>>,
    max_blocks: usize,
}

impl<D: Clone> Clone for Overlay<D> {
    fn clone(&self) -> Self {
        Overlay { device: self.device.clone(), blocks: self.blocks.clone(), max_blocks: self.max_blocks }
    }
}

impl<D: BlockDevice> Overlay<D> {
    /// An overlay that takes at most so many bytes of memory. Writes beyond fail with [`Error::NoSpace`].
    pub fn new(device: D, max_bytes: usize) -> Overlay<D> {
        Overlay { device, blocks: Rc::default(), max_blocks: max_bytes / COST }
    }

    /// Bytes of memory that it takes.
    pub fn used_bytes(&self) -> usize {
        self.blocks.borrow().len() * COST
    }

    /// Copies over `buffer`, which is of the device, what was written here.
    fn patch(&self, sector: u64, buffer: &D::Buffer) {
        let blocks = self.blocks.borrow();
        if blocks.is_empty() {
            return;
        }
        for piece in pieces(sector, buffer.len()) {
            if let Some(bytes) = blocks.get(&piece.block) {
                buffer.write(piece.offset, &bytes[piece.at..piece.at + piece.len]);
            }
        }
    }

    /// A block as it is on the device.
    async fn fetch(&self, block: u64) -> Result<Box<[u8; BLOCK]>, Error> {
        let mut bytes = Box::new([0; BLOCK]);
        let first = block * SECTORS;
        let unit = u64::from(self.device.geometry().sector_size.max(SECTOR as u32)) / SECTOR as u64;
        let sectors = self.device.geometry().sectors;
        if unit <= SECTORS {
            let len = sectors.saturating_sub(first).min(SECTORS) as usize * SECTOR;
            self.device.read_bytes(first, &mut bytes[..len]).await?;
        } else {
            let mut whole = vec![0; unit as usize * SECTOR];
            let start = first / unit * unit;
            self.device.read_bytes(start, &mut whole).await?;
            bytes.copy_from_slice(&whole[(first - start) as usize * SECTOR..][..BLOCK]);
        }
        Ok(bytes)
    }
}

/// A part of a request in one block.
struct Piece {
    block: u64,
    at: usize,
    len: usize,
    offset: usize,
}

fn pieces(sector: u64, len: usize) -> impl Iterator<Item = Piece> {
    let mut offset = 0;
    core::iter::from_fn(move || {
        if offset >= len {
            return None;
        }
        let here = sector + (offset / SECTOR) as u64;
        let at = (here % SECTORS) as usize * SECTOR;
        let piece = Piece { block: here / SECTORS, at, len: (BLOCK - at).min(len - offset), offset };
        offset += piece.len;
        Some(piece)
    })
}

impl<D: BlockDevice> BlockDevice for Overlay<D> {
    type Buffer = D::Buffer;

    /// The device's, to be written to, and discarded by whole blocks.
    fn geometry(&self) -> Geometry {
        self.device.geometry().with_read_only(false).with_flush(true).with_discard(Some(Discard::new(BLOCK as u32)))
    }

    fn buffer(&self, len: usize) -> Result<D::Buffer, Error> {
        self.device.buffer(len)
    }

    async fn read(&self, sector: u64, buffer: D::Buffer) -> Completed<D::Buffer> {
        let (buffer, outcome) = self.device.read(sector, buffer).await;
        if outcome.is_ok() {
            self.patch(sector, &buffer);
        }
        (buffer, outcome)
    }

    /// # Errors
    ///
    /// [`Error::NoSpace`] where the memory is used up, and what the device says of the rest of a block.
    async fn write(&self, sector: u64, buffer: D::Buffer) -> Completed<D::Buffer> {
        if let Err(error) = self.geometry().check(sector, buffer.len()) {
            return (buffer, Err(error));
        }
        for piece in pieces(sector, buffer.len()) {
            let known = self.blocks.borrow().contains_key(&piece.block);
            let fetched = match known || piece.len == BLOCK {
                true => None,
                false => match self.fetch(piece.block).await {
                    Ok(bytes) => Some(bytes),
                    Err(error) => return (buffer, Err(error)),
                },
            };
            let mut blocks = self.blocks.borrow_mut();
            if !blocks.contains_key(&piece.block) && blocks.len() >= self.max_blocks {
                return (buffer, Err(Error::NoSpace));
            }
            // Another write may have come first, and is not to be lost.
            let bytes = blocks.entry(piece.block).or_insert_with(|| fetched.unwrap_or_else(|| Box::new([0; BLOCK])));
            buffer.read(piece.offset, &mut bytes[piece.at..piece.at + piece.len]);
        }
        (buffer, Ok(()))
    }

    async fn flush(&self) -> Result<(), Error> {
        Ok(())
    }

    async fn discard(&self, sector: u64, count: u64, secure: bool) -> Result<(), Error> {
        if secure {
            return Err(Error::Unsupported("discard securely"));
        }
        self.geometry().check_sectors(sector, count)?;
        let whole = sector.div_ceil(SECTORS)..(sector + count) / SECTORS;
        self.blocks.borrow_mut().retain(|block, _| !whole.contains(block));
        Ok(())
    }

    async fn changed(&self, known: &Geometry) -> Geometry {
        loop {
            let device = self.device.geometry();
            let own = self.geometry();
            if own != *known {
                return own;
            }
            self.device.changed(&device).await;
        }
    }
}

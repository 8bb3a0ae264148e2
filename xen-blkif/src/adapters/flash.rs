//! A device as flash memory, for [`embedded_storage_async`].

use core::fmt;

use embedded_storage_async::nor_flash::{
    ErrorType, MultiwriteNorFlash, NorFlash, NorFlashError, NorFlashErrorKind, ReadNorFlash,
};

use crate::device::{BlockDevice, Buffer, Error};
use crate::protocol::SECTOR_SIZE;

/// Bytes of a request, at most.
const PIECE: usize = 64 << 10;

/// A device as NOR flash, for what keeps its data there: a map or a queue, for instance. As of a flash chip, bytes are read and
/// written one by one, and erased in blocks of `ERASE` bytes, a multiple of the device's own sectors.
///
/// Erasing sets bits, and writing only clears them: the sectors around what is written are read first. What was written or
/// erased is on the medium afterwards, since a device that can flush is flushed each time.
///
/// It reaches no further than that crate's numbers of 32 bits do, 4 GiB; [`Slice`](crate::slice::Slice) chooses a part.
///
/// # Cancellation
///
/// A write or an erasure whose future is dropped is done, done in part or not done.
///
/// # Examples
///
/// ```
/// use embedded_storage_async::nor_flash::{NorFlash, ReadNorFlash};
/// use xen_blkif::adapters::{Flash, FlashError};
/// use xen_blkif::ramdisk::RamDisk;
///
/// # let xen = xen_sim::Xen::new(1);
/// # let domain = xen.domain();
/// # xen.run(async move {
/// let mut flash = Flash::<_>::new(RamDisk::new(domain, 64)?)?;
/// assert_eq!(flash.capacity(), 64 * 512);
/// flash.erase(4096, 8192).await?;
/// flash.write(5000, b"begin").await?;
/// let mut bytes = [0; 6];
/// flash.read(5000, &mut bytes).await?;
/// assert_eq!(&bytes, b"begin\xff");
/// let error = flash.erase(4096, 5000).await.unwrap_err();
/// assert_eq!(error.to_string(), "904 bytes at byte 4096 are not whole blocks of 4096 bytes");
/// # Ok::<(), FlashError>(())
/// # })?;
/// # Ok::<(), FlashError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Flash<D, const ERASE: usize = 4096> {
    device: D,
}

impl<D: BlockDevice, const ERASE: usize> Flash<D, ERASE> {
    /// The device's bytes, from the first on.
    ///
    /// # Errors
    ///
    /// [`FlashError::BlockSize`] where `ERASE` is no multiple of the device's own sectors.
    pub fn new(device: D) -> Result<Flash<D, ERASE>, FlashError> {
        const { assert!(ERASE.is_multiple_of(SECTOR_SIZE) && ERASE > 0, "blocks are whole sectors") };
        let sector_size = device.geometry().sector_size;
        match ERASE.is_multiple_of(sector_size.max(1) as usize) {
            true => Ok(Flash { device }),
            false => Err(FlashError::BlockSize { block_size: ERASE, sector_size }),
        }
    }

    /// The device.
    pub fn into_inner(self) -> D {
        self.device
    }

    fn check(&self, offset: u32, len: usize) -> Result<(), FlashError> {
        let (capacity, len) = (self.capacity() as u64, len as u64);
        match u64::from(offset) + len > capacity {
            true => Err(FlashError::OutOfBounds { offset, len, capacity }),
            false => Ok(()),
        }
    }

    /// The whole sectors around bytes: the first, how many bytes they have, and where in them the bytes begin.
    fn around(&self, offset: usize, len: usize) -> (u64, usize, usize) {
        let unit = self.device.geometry().sector_size.max(SECTOR_SIZE as u32) as usize;
        let start = offset / unit * unit;
        ((start / SECTOR_SIZE) as u64, (offset + len).next_multiple_of(unit) - start, offset - start)
    }

    async fn flush(&self) -> Result<(), FlashError> {
        if self.device.geometry().flush {
            self.device.flush().await?;
        }
        Ok(())
    }
}

impl<D, const ERASE: usize> ErrorType for Flash<D, ERASE> {
    type Error = FlashError;
}

impl<D: BlockDevice, const ERASE: usize> ReadNorFlash for Flash<D, ERASE> {
    const READ_SIZE: usize = 1;

    async fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), FlashError> {
        self.check(offset, bytes.len())?;
        let mut place = offset as usize;
        for piece in bytes.chunks_mut(PIECE) {
            let (sector, len, at) = self.around(place, piece.len());
            let (buffer, outcome) = self.device.read(sector, self.device.buffer(len)?).await;
            outcome?;
            buffer.read(at, piece);
            place += piece.len();
        }
        Ok(())
    }

    fn capacity(&self) -> usize {
        let most = u32::MAX as usize / ERASE * ERASE;
        usize::try_from(self.device.geometry().bytes()).map_or(most, |bytes| bytes.min(most) / ERASE * ERASE)
    }
}

impl<D: BlockDevice, const ERASE: usize> NorFlash for Flash<D, ERASE> {
    const WRITE_SIZE: usize = 1;
    const ERASE_SIZE: usize = ERASE;

    async fn erase(&mut self, from: u32, to: u32) -> Result<(), FlashError> {
        let Some(len) = to.checked_sub(from) else { return Err(FlashError::Reversed { from, to }) };
        self.check(from, len as usize)?;
        let (start, len) = (from as usize, len as usize);
        if !(start.is_multiple_of(ERASE) && len.is_multiple_of(ERASE)) {
            return Err(FlashError::Unaligned { offset: from, len: len as u64, block_size: ERASE });
        }
        // As many whole blocks as a request should have.
        let most = (PIECE / ERASE).max(1) * ERASE;
        for done in (0..len).step_by(most) {
            let count = most.min(len - done);
            let buffer = self.device.buffer(count)?;
            for at in (0..count).step_by(SECTOR_SIZE) {
                buffer.write(at, &[0xff; SECTOR_SIZE]);
            }
            self.device.write(((start + done) / SECTOR_SIZE) as u64, buffer).await.1?;
        }
        self.flush().await
    }

    async fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), FlashError> {
        self.check(offset, bytes.len())?;
        let mut place = offset as usize;
        for piece in bytes.chunks(PIECE) {
            let (sector, len, at) = self.around(place, piece.len());
            let (buffer, outcome) = self.device.read(sector, self.device.buffer(len)?).await;
            outcome?;
            for (index, part) in piece.chunks(SECTOR_SIZE).enumerate() {
                let mut found = [0; SECTOR_SIZE];
                let found = &mut found[..part.len()];
                buffer.read(at + index * SECTOR_SIZE, found);
                found.iter_mut().zip(part).for_each(|(found, byte)| *found &= byte);
                buffer.write(at + index * SECTOR_SIZE, found);
            }
            self.device.write(sector, buffer).await.1?;
            place += piece.len();
        }
        self.flush().await
    }
}

impl<D: BlockDevice, const ERASE: usize> MultiwriteNorFlash for Flash<D, ERASE> {}

/// Why [`Flash`] did not do something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FlashError {
    /// The device's own sectors are not whole in its blocks.
    BlockSize {
        /// Bytes of a block.
        block_size: usize,
        /// Bytes of the device's sectors.
        sector_size: u32,
    },
    /// It reaches past the end.
    OutOfBounds {
        /// The first byte.
        offset: u32,
        /// How many bytes.
        len: u64,
        /// How many there are.
        capacity: u64,
    },
    /// It ends before it begins.
    Reversed {
        /// The first byte.
        from: u32,
        /// The byte behind the last one.
        to: u32,
    },
    /// What is to be erased is not made of whole blocks.
    Unaligned {
        /// The first byte.
        offset: u32,
        /// How many bytes.
        len: u64,
        /// Bytes of a block.
        block_size: usize,
    },
    /// The device has failed, or refuses.
    Device(Error),
}

impl fmt::Display for FlashError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FlashError::BlockSize { block_size, sector_size } => {
                write!(f, "blocks of {block_size} bytes are not whole sectors of the device, which have {sector_size}")
            }
            FlashError::OutOfBounds { offset, len, capacity } => {
                write!(f, "{len} bytes at byte {offset} reach past the end at {capacity}")
            }
            FlashError::Reversed { from, to } => write!(f, "bytes {from} to {to} end before they begin"),
            FlashError::Unaligned { offset, len, block_size } => {
                write!(f, "{len} bytes at byte {offset} are not whole blocks of {block_size} bytes")
            }
            FlashError::Device(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for FlashError {}

impl From<Error> for FlashError {
    fn from(error: Error) -> Self {
        FlashError::Device(error)
    }
}

impl NorFlashError for FlashError {
    fn kind(&self) -> NorFlashErrorKind {
        match self {
            FlashError::OutOfBounds { .. } | FlashError::Reversed { .. } => NorFlashErrorKind::OutOfBounds,
            FlashError::Device(Error::OutOfRange { .. }) => NorFlashErrorKind::OutOfBounds,
            FlashError::Unaligned { .. } | FlashError::Device(Error::Unaligned { .. }) => NorFlashErrorKind::NotAligned,
            FlashError::BlockSize { .. } | FlashError::Device(_) => NorFlashErrorKind::Other,
        }
    }
}

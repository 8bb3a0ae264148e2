//! What a block device is to the code that uses it, whoever stands behind it.

use alloc::vec::Vec;
use core::fmt;

use xen_hal::PAGE_SIZE;
use xen_ring::SharedMemory;

use crate::protocol::SECTOR_SIZE;

/// What a device is like. All sectors are of 512 bytes, as in the protocol; [`sector_size`](Geometry::sector_size) only
/// says to what requests have to be aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub struct Geometry {
    /// The size in sectors of 512 bytes.
    pub sectors: u64,
    /// The bytes to which requests must be aligned: 512 or more, a power of two.
    pub sector_size: u32,
    /// The bytes that the medium writes at once: [`sector_size`](Geometry::sector_size) or more. Smaller writes are
    /// slow.
    pub physical_sector_size: u32,
    /// Writing is refused.
    pub read_only: bool,
    /// The medium can be taken out.
    pub removable: bool,
    /// It is a CD-ROM.
    pub cdrom: bool,
    /// [`BlockDevice::flush`] does something.
    pub flush: bool,
    /// [`BlockDevice::discard`] does something.
    pub discard: Option<Discard>,
}

/// How a device discards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub struct Discard {
    /// Bytes of which multiples can be discarded.
    pub granularity: u32,
    /// Where the first multiple begins, in bytes.
    pub alignment: u32,
    /// It can discard so that nothing is left.
    pub secure: bool,
}

impl Discard {
    /// In multiples of `granularity` bytes, from the first byte on.
    pub const fn new(granularity: u32) -> Discard {
        Discard { granularity, alignment: 0, secure: false }
    }

    /// The same with [`alignment`](Discard::alignment) as given.
    pub const fn with_alignment(mut self, alignment: u32) -> Discard {
        self.alignment = alignment;
        self
    }

    /// The same with [`secure`](Discard::secure) as given.
    pub const fn with_secure(mut self, secure: bool) -> Discard {
        self.secure = secure;
        self
    }
}

impl Geometry {
    /// A writable disk of sectors of 512 bytes that can neither flush nor discard.
    pub const fn plain(sectors: u64) -> Geometry {
        Geometry {
            sectors,
            sector_size: SECTOR_SIZE as u32,
            physical_sector_size: SECTOR_SIZE as u32,
            read_only: false,
            removable: false,
            cdrom: false,
            flush: false,
            discard: None,
        }
    }

    /// The same with [`sectors`](Geometry::sectors) as given.
    pub const fn with_sectors(mut self, sectors: u64) -> Geometry {
        self.sectors = sectors;
        self
    }

    /// The same with [`sector_size`](Geometry::sector_size) as given.
    pub const fn with_sector_size(mut self, sector_size: u32) -> Geometry {
        self.sector_size = sector_size;
        self
    }

    /// The same with [`physical_sector_size`](Geometry::physical_sector_size) as given.
    pub const fn with_physical_sector_size(mut self, physical_sector_size: u32) -> Geometry {
        self.physical_sector_size = physical_sector_size;
        self
    }

    /// The same with [`read_only`](Geometry::read_only) as given.
    pub const fn with_read_only(mut self, read_only: bool) -> Geometry {
        self.read_only = read_only;
        self
    }

    /// The same with [`removable`](Geometry::removable) as given.
    pub const fn with_removable(mut self, removable: bool) -> Geometry {
        self.removable = removable;
        self
    }

    /// The same with [`cdrom`](Geometry::cdrom) as given.
    pub const fn with_cdrom(mut self, cdrom: bool) -> Geometry {
        self.cdrom = cdrom;
        self
    }

    /// The same with [`flush`](Geometry::flush) as given.
    pub const fn with_flush(mut self, flush: bool) -> Geometry {
        self.flush = flush;
        self
    }

    /// The same with [`discard`](Geometry::discard) as given.
    pub const fn with_discard(mut self, discard: Option<Discard>) -> Geometry {
        self.discard = discard;
        self
    }

    /// The size in bytes.
    pub const fn bytes(&self) -> u128 {
        self.sectors as u128 * SECTOR_SIZE as u128
    }

    /// Checks that `len` bytes from `sector` on are whole sectors of the device, inside of it.
    ///
    /// # Errors
    ///
    /// [`Error::Unaligned`] and [`Error::OutOfRange`].
    ///
    /// # Examples
    ///
    /// ```
    /// use xen_blkif::{Error, Geometry};
    ///
    /// let disk = Geometry::plain(100);
    /// assert_eq!(disk.check(99, 512), Ok(()));
    /// assert_eq!(disk.check(99, 1024), Err(Error::OutOfRange { sector: 99, count: 2, sectors: 100 }));
    /// assert!(disk.check(0, 100).is_err(), "no whole sector");
    /// ```
    pub fn check(&self, sector: u64, len: usize) -> Result<(), Error> {
        if !len.is_multiple_of(SECTOR_SIZE) {
            return Err(Error::Unaligned { sector, len: len as u64, sector_size: self.sector_size });
        }
        self.check_sectors(sector, (len / SECTOR_SIZE) as u64)
    }

    /// Checks that `count` sectors from `sector` on are whole sectors of the device, inside of it.
    ///
    /// # Errors
    ///
    /// [`Error::Unaligned`] and [`Error::OutOfRange`].
    pub fn check_sectors(&self, sector: u64, count: u64) -> Result<(), Error> {
        let unit = u64::from(self.sector_size) / SECTOR_SIZE as u64;
        if unit > 1 && !(sector.is_multiple_of(unit) && count.is_multiple_of(unit)) {
            let len = count.saturating_mul(SECTOR_SIZE as u64);
            return Err(Error::Unaligned { sector, len, sector_size: self.sector_size });
        }
        match sector.checked_add(count) {
            Some(end) if end <= self.sectors => Ok(()),
            _ => Err(Error::OutOfRange { sector, count, sectors: self.sectors }),
        }
    }

    /// Checks that the device can be written.
    ///
    /// # Errors
    ///
    /// [`Error::ReadOnly`].
    pub fn check_writable(&self) -> Result<(), Error> {
        if self.read_only { Err(Error::ReadOnly) } else { Ok(()) }
    }
}

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum Error {
    /// It reaches past the end of the device.
    OutOfRange {
        /// The first sector of the request.
        sector: u64,
        /// How many sectors it has.
        count: u64,
        /// How many the device has.
        sectors: u64,
    },
    /// It is not made of whole sectors of the device.
    Unaligned {
        /// The first sector (of 512 bytes) of the request.
        sector: u64,
        /// Its length in bytes.
        len: u64,
        /// The device's own sectors, in bytes.
        sector_size: u32,
    },
    /// The device cannot be written.
    ReadOnly,
    /// The device cannot do this.
    Unsupported(&'static str),
    /// The device has failed at it.
    Failed {
        /// What it was to do.
        operation: &'static str,
        /// Where.
        sector: u64,
    },
    /// The device is gone, or was never there.
    Gone,
    /// There are no pages for it.
    OutOfMemory,
    /// The backend still maps too many pages that it is granted no longer.
    PagesKept,
    /// There is no space for what was to be written: the device promises more than it has.
    NoSpace,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::OutOfRange { sector, count, sectors } => {
                write!(f, "{count} sectors at {sector} reach past the device's end at {sectors}")
            }
            Error::Unaligned { sector, len, sector_size } => {
                write!(f, "{len} bytes at sector {sector} are not whole sectors of {sector_size} bytes")
            }
            Error::ReadOnly => f.write_str("the device is read-only"),
            Error::Unsupported(operation) => write!(f, "the device cannot {operation}"),
            Error::Failed { operation, sector } => write!(f, "the device has failed to {operation} at sector {sector}"),
            Error::Gone => f.write_str("the device is gone"),
            Error::OutOfMemory => f.write_str("no memory for the request"),
            Error::PagesKept => f.write_str("backend has not unmapped pages that it is granted no longer"),
            Error::NoSpace => f.write_str("no space left on the device"),
        }
    }
}

impl core::error::Error for Error {}

/// Memory that a device reads into and writes from: whole pages, of which the last may be used in part.
///
/// A peer may see the pages, and change them while the device has them. So there is no way to their bytes but to copy.
pub trait Buffer {
    /// How many bytes it holds.
    fn len(&self) -> usize;

    /// Whether it holds none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes of page `index`, of which the last page's may not all be the buffer's.
    ///
    /// # Panics
    ///
    /// Where the buffer has no such page.
    fn page(&self, index: usize) -> &SharedMemory;

    /// Copies bytes out.
    ///
    /// # Panics
    ///
    /// Where the buffer is shorter.
    fn read(&self, offset: usize, to: &mut [u8]) {
        assert!(offset <= self.len() && to.len() <= self.len() - offset);
        pieces(offset, to.len(), |page, at, range| self.page(page).read(at, &mut to[range]));
    }

    /// Copies bytes in.
    ///
    /// # Panics
    ///
    /// Where the buffer is shorter.
    fn write(&self, offset: usize, from: &[u8]) {
        assert!(offset <= self.len() && from.len() <= self.len() - offset);
        pieces(offset, from.len(), |page, at, range| self.page(page).write(at, &from[range]));
    }

    /// Copies bytes to another buffer.
    ///
    /// # Panics
    ///
    /// Where one of the two is shorter.
    fn copy(&self, offset: usize, len: usize, to: &impl Buffer, to_offset: usize)
    where
        Self: Sized,
    {
        assert!(offset <= self.len() && len <= self.len() - offset);
        assert!(to_offset <= to.len() && len <= to.len() - to_offset);
        pieces(offset, len, |from_page, from_at, range| {
            pieces(to_offset + range.start, range.len(), |page, at, part| {
                self.page(from_page).copy(from_at + part.start, part.len(), to.page(page), at);
            });
        });
    }
}

/// Calls `each` for the pieces of pages that `len` bytes at `offset` of a buffer make: page, offset there, and which of
/// the bytes.
pub(crate) fn pieces(offset: usize, len: usize, mut each: impl FnMut(usize, usize, core::ops::Range<usize>)) {
    let mut done = 0;
    while done < len {
        let at = offset + done;
        let count = (PAGE_SIZE - at % PAGE_SIZE).min(len - done);
        each(at / PAGE_SIZE, at % PAGE_SIZE, done..done + count);
        done += count;
    }
}

/// A buffer that comes back from a device, and how the request ended.
pub type Completed<B> = (B, Result<(), Error>);

/// A device of blocks, which does many requests at once.
///
/// Sectors are of 512 bytes. Requests are whole sectors of [`Geometry::sector_size`] bytes. A write is on the medium
/// only after a [`flush`](BlockDevice::flush) that began after the write's end.
///
/// # Cancellation
///
/// A request whose future is dropped is done, done in part or not done; its buffer is gone.
///
/// # Examples
///
/// A request takes its buffer, and returns it with the outcome:
///
/// ```
/// use xen_blkif::ramdisk::RamDisk;
/// use xen_blkif::{BlockDevice, Buffer};
///
/// # let xen = xen_sim::Xen::new(1);
/// # let domain = xen.domain();
/// # xen.run(async move {
/// let disk = RamDisk::new(domain, 64)?;
/// let buffer = disk.buffer(1024)?;
/// buffer.write(0, b"begin");
/// let (buffer, outcome) = disk.write(10, buffer).await;
/// outcome?;
/// let (buffer, outcome) = disk.read(10, buffer).await;
/// outcome?;
/// let mut bytes = [0; 5];
/// buffer.read(0, &mut bytes);
/// assert_eq!(&bytes, b"begin");
///
/// // With a copy, for small things:
/// disk.write_bytes(0, &[7; 512]).await?;
/// # Ok::<(), xen_blkif::Error>(())
/// # })?;
/// # Ok::<(), xen_blkif::Error>(())
/// ```
///
/// A device of one's own, which any code for disks can use and `back::serve` can serve:
///
/// ```
/// use xen_blkif::{BlockDevice, Buffer, Completed, Error, Geometry};
///
/// /// Another device, whose bytes are inverted.
/// struct Inverted<D>(D);
///
/// fn invert(buffer: &impl Buffer) {
///     let mut bytes = vec![0; buffer.len()];
///     buffer.read(0, &mut bytes);
///     bytes.iter_mut().for_each(|byte| *byte = !*byte);
///     buffer.write(0, &bytes);
/// }
///
/// impl<D: BlockDevice> BlockDevice for Inverted<D> {
///     type Buffer = D::Buffer;
///
///     fn geometry(&self) -> Geometry {
///         self.0.geometry()
///     }
///
///     fn buffer(&self, len: usize) -> Result<D::Buffer, Error> {
///         self.0.buffer(len)
///     }
///
///     async fn read(&self, sector: u64, buffer: D::Buffer) -> Completed<D::Buffer> {
///         let (buffer, outcome) = self.0.read(sector, buffer).await;
///         invert(&buffer);
///         (buffer, outcome)
///     }
///
///     async fn write(&self, sector: u64, buffer: D::Buffer) -> Completed<D::Buffer> {
///         invert(&buffer);
///         self.0.write(sector, buffer).await
///     }
///
///     async fn flush(&self) -> Result<(), Error> {
///         self.0.flush().await
///     }
///
///     async fn discard(&self, sector: u64, count: u64, secure: bool) -> Result<(), Error> {
///         self.0.discard(sector, count, secure).await
///     }
///
///     async fn changed(&self, known: &Geometry) -> Geometry {
///         self.0.changed(known).await
///     }
/// }
/// ```
#[allow(async_fn_in_trait, reason = "one core: no future has to be `Send`")]
pub trait BlockDevice {
    /// Memory that the device can use without copying.
    type Buffer: Buffer + 'static;

    /// What the device is like now.
    fn geometry(&self) -> Geometry;

    /// Memory of `len` bytes. What it holds is zero, or has been on this device.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`].
    fn buffer(&self, len: usize) -> Result<Self::Buffer, Error>;

    /// A buffer for one request, at `sector`. Memory that the device can give for that saves a copy: a disk in memory
    /// gives its own pages. So what is put into the buffer may be on the device at once, what it holds may be anything
    /// until it was read or written whole, and it is not for a request elsewhere.
    ///
    /// # Errors
    ///
    /// As [`buffer`](BlockDevice::buffer).
    fn buffer_at(&self, sector: u64, len: usize) -> Result<Self::Buffer, Error> {
        let _ = sector;
        self.buffer(len)
    }

    /// Fills the buffer from `sector` on.
    ///
    /// # Errors
    ///
    /// As [`Geometry::check`], and what the device says. What the buffer holds then is open.
    async fn read(&self, sector: u64, buffer: Self::Buffer) -> Completed<Self::Buffer>;

    /// Writes the buffer from `sector` on.
    ///
    /// # Errors
    ///
    /// As [`Geometry::check`] and [`Geometry::check_writable`], and what the device says. What is on the device then
    /// is open, for these sectors.
    async fn write(&self, sector: u64, buffer: Self::Buffer) -> Completed<Self::Buffer>;

    /// Brings all that was written to the medium.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] where the device has no way to, and what the device says.
    async fn flush(&self) -> Result<(), Error>;

    /// Tells the device that what these sectors hold is of no use any more. Reading them gives anything, unless
    /// `secure`: then what they held is nowhere any more.
    ///
    /// # Errors
    ///
    /// As for [`write`](BlockDevice::write); [`Error::Unsupported`].
    async fn discard(&self, sector: u64, count: u64, secure: bool) -> Result<(), Error>;

    /// Waits until the geometry is another than `known`.
    async fn changed(&self, known: &Geometry) -> Geometry;

    /// Reads into a scatter list, with a copy.
    ///
    /// # Errors
    ///
    /// As [`read`](BlockDevice::read). What is in the list then is as it was.
    async fn read_vectored(&self, sector: u64, to: &mut [&mut [u8]]) -> Result<(), Error> {
        let buffer = self.buffer(to.iter().map(|part| part.len()).sum())?;
        let (buffer, outcome) = self.read(sector, buffer).await;
        outcome?;
        let mut offset = 0;
        for part in to {
            buffer.read(offset, part);
            offset += part.len();
        }
        Ok(())
    }

    /// Writes a scatter list, with a copy.
    ///
    /// # Errors
    ///
    /// As [`write`](BlockDevice::write).
    async fn write_vectored(&self, sector: u64, from: &[&[u8]]) -> Result<(), Error> {
        let buffer = self.buffer(from.iter().map(|part| part.len()).sum())?;
        let mut offset = 0;
        for part in from {
            buffer.write(offset, part);
            offset += part.len();
        }
        self.write(sector, buffer).await.1
    }

    /// Reads bytes, with a copy.
    ///
    /// # Errors
    ///
    /// As [`read`](BlockDevice::read).
    async fn read_bytes(&self, sector: u64, to: &mut [u8]) -> Result<(), Error> {
        self.read_vectored(sector, &mut [to]).await
    }

    /// Writes bytes, with a copy.
    ///
    /// # Errors
    ///
    /// As [`write`](BlockDevice::write).
    async fn write_bytes(&self, sector: u64, from: &[u8]) -> Result<(), Error> {
        self.write_vectored(sector, &[from]).await
    }
}

/// Reads a run of sectors as a fresh vector.
///
/// # Errors
///
/// As [`BlockDevice::read`].
///
/// # Cancellation
///
/// May be dropped at any time.
///
/// # Examples
///
/// ```
/// use xen_blkif::device::read_to_vec;
/// use xen_blkif::ramdisk::RamDisk;
///
/// # let xen = xen_sim::Xen::new(1);
/// # let domain = xen.domain();
/// # xen.run(async move {
/// let disk = RamDisk::new(domain, 64)?;
/// assert_eq!(read_to_vec(&disk, 0, 4096).await?, [0; 4096]);
/// # Ok::<(), xen_blkif::Error>(())
/// # })?;
/// # Ok::<(), xen_blkif::Error>(())
/// ```
pub async fn read_to_vec(device: &impl BlockDevice, sector: u64, len: usize) -> Result<Vec<u8>, Error> {
    let mut bytes = alloc::vec![0; len];
    device.read_bytes(sector, &mut bytes).await?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_whole_sectors_inside_of_the_device() {
        let disk = Geometry { sector_size: 4096, ..Geometry::plain(16) };
        assert_eq!(disk.check(8, 4096), Ok(()));
        assert_eq!(disk.check(0, 8192), Ok(()));
        assert_eq!(disk.check(16, 0), Ok(()));
        for (sector, len) in [(1, 4096), (0, 512), (0, 4095)] {
            assert!(matches!(disk.check(sector, len), Err(Error::Unaligned { .. })), "{sector} {len}");
        }
        for (sector, len) in [(8, 8192), (16, 4096), (u64::MAX - 7, 4096), (u64::MAX - 7, 8192)] {
            assert!(matches!(disk.check(sector, len), Err(Error::OutOfRange { .. })), "{sector} {len}");
        }
        let large = Geometry::plain(u64::MAX);
        assert_eq!(large.check_sectors(u64::MAX - 1, 1), Ok(()));
        assert!(large.check_sectors(u64::MAX, 1).is_err());
        assert_eq!(large.bytes(), u128::from(u64::MAX) * 512);
    }
}

//! Devices as other crates want them.

use aligned::{A4, Aligned};
use embedded_io_async::{ErrorKind, ErrorType, Read, Seek, SeekFrom, Write};

use crate::device::{BlockDevice, Error};
use crate::protocol::SECTOR_SIZE;

#[cfg(feature = "embedded-storage-async")]
mod flash;

#[cfg(feature = "embedded-storage-async")]
pub use flash::{Flash, FlashError};

/// A device for [`block_device_driver`], with blocks of `SIZE` bytes, a multiple of 512. It reaches no further than that
/// crate's numbers of 32 bits do.
#[derive(Clone, Debug)]
pub struct Blocks<D>(pub D);

impl<D: BlockDevice, const SIZE: usize> block_device_driver::BlockDevice<SIZE> for Blocks<D> {
    type Error = Error;
    type Align = A4;

    async fn read(&mut self, block_address: u32, data: &mut [Aligned<A4, [u8; SIZE]>]) -> Result<(), Error> {
        let buffer = self.0.buffer(size_of_val(data))?;
        let (buffer, outcome) = self.0.read(sector::<SIZE>(block_address), buffer).await;
        outcome?;
        for (index, block) in data.iter_mut().enumerate() {
            crate::Buffer::read(&buffer, index * SIZE, &mut block[..]);
        }
        Ok(())
    }

    async fn write(&mut self, block_address: u32, data: &[Aligned<A4, [u8; SIZE]>]) -> Result<(), Error> {
        let buffer = self.0.buffer(size_of_val(data))?;
        for (index, block) in data.iter().enumerate() {
            crate::Buffer::write(&buffer, index * SIZE, &block[..]);
        }
        self.0.write(sector::<SIZE>(block_address), buffer).await.1
    }

    async fn size(&mut self) -> Result<u64, Error> {
        u64::try_from(self.0.geometry().bytes()).map_err(|_| Error::Unsupported("report such a large size"))
    }
}

fn sector<const SIZE: usize>(block: u32) -> u64 {
    const { assert!(SIZE.is_multiple_of(SECTOR_SIZE) && SIZE > 0, "blocks are whole sectors") };
    u64::from(block) * (SIZE / SECTOR_SIZE) as u64
}

/// A device as a stream of bytes with a place in it, for [`embedded_io_async`]: what is not whole sectors is read first.
///
/// # Examples
///
/// ```
/// use embedded_io_async::{Read, Seek, SeekFrom, Write};
/// use xen_blkif::adapters::Stream;
/// use xen_blkif::ramdisk::RamDisk;
///
/// # let xen = xen_sim::Xen::new(1);
/// # let domain = xen.domain();
/// # xen.run(async move {
/// let mut stream = Stream::new(RamDisk::new(domain, 64)?);
/// stream.seek(SeekFrom::Start(510)).await?;
/// stream.write_all(b"over two sectors").await?;
/// stream.seek(SeekFrom::Start(515)).await?;
/// let mut bytes = [0; 3];
/// stream.read(&mut bytes).await?;
/// assert_eq!(&bytes, b"two");
/// # Ok::<(), xen_blkif::Error>(())
/// # })?;
/// # Ok::<(), xen_blkif::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Stream<D> {
    device: D,
    position: u64,
}

impl<D: BlockDevice> Stream<D> {
    /// The device's bytes, from the first on.
    pub fn new(device: D) -> Stream<D> {
        Stream { device, position: 0 }
    }

    /// Where the device ends, as far as the sectors around its bytes have numbers.
    fn end(&self) -> u64 {
        let geometry = self.device.geometry();
        let unit = u64::from(geometry.sector_size).max(1);
        u64::try_from(geometry.bytes()).unwrap_or(u64::MAX).min(u64::MAX / unit * unit)
    }

    /// The whole sectors around the bytes from here on, at most `len` of them and 64 KiB: the first, how many bytes they
    /// have, where in them the bytes begin, and how many those are.
    fn around(&self, len: usize) -> (u64, usize, usize, usize) {
        const MAX_PIECE: u64 = 64 << 10;
        let unit = u64::from(self.device.geometry().sector_size).max(1);
        let count = (len as u64).min(self.end().saturating_sub(self.position)).min(MAX_PIECE);
        if count == 0 {
            return (0, 0, 0, 0);
        }
        let start = self.position / unit * unit;
        let end = (self.position + count).next_multiple_of(unit);
        (start / SECTOR_SIZE as u64, (end - start) as usize, (self.position - start) as usize, count as usize)
    }
}

impl embedded_io_async::Error for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Error::OutOfRange { .. } | Error::Unaligned { .. } => ErrorKind::InvalidInput,
            Error::ReadOnly => ErrorKind::PermissionDenied,
            Error::Unsupported(_) => ErrorKind::Unsupported,
            Error::Gone => ErrorKind::NotConnected,
            Error::OutOfMemory => ErrorKind::OutOfMemory,
            Error::Failed { .. } | Error::PagesKept | Error::NoSpace => ErrorKind::Other,
        }
    }
}

impl<D> ErrorType for Stream<D> {
    type Error = Error;
}

impl<D: BlockDevice> Read for Stream<D> {
    async fn read(&mut self, buf: &mut [u8]) -> Result<usize, Error> {
        let (sector, len, at, count) = self.around(buf.len());
        if count == 0 {
            return Ok(0);
        }
        let (buffer, outcome) = self.device.read(sector, self.device.buffer(len)?).await;
        outcome?;
        crate::Buffer::read(&buffer, at, &mut buf[..count]);
        self.position += count as u64;
        Ok(count)
    }
}

impl<D: BlockDevice> Write for Stream<D> {
    async fn write(&mut self, buf: &[u8]) -> Result<usize, Error> {
        let (sector, len, at, count) = self.around(buf.len());
        if count == 0 {
            return match buf.is_empty() {
                true => Ok(0),
                false => {
                    let sectors = self.device.geometry().sectors;
                    Err(Error::OutOfRange { sector: self.position / SECTOR_SIZE as u64, count: 1, sectors })
                }
            };
        }
        let mut buffer = self.device.buffer(len)?;
        if count < len {
            let (back, outcome) = self.device.read(sector, buffer).await;
            outcome?;
            buffer = back;
        }
        crate::Buffer::write(&buffer, at, &buf[..count]);
        self.device.write(sector, buffer).await.1?;
        self.position += count as u64;
        Ok(count)
    }

    async fn flush(&mut self) -> Result<(), Error> {
        match self.device.geometry().flush {
            true => self.device.flush().await,
            false => Ok(()),
        }
    }
}

impl<D: BlockDevice> Seek for Stream<D> {
    async fn seek(&mut self, pos: SeekFrom) -> Result<u64, Error> {
        let target = match pos {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::End(offset) => self.end().checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        let sectors = self.device.geometry().sectors;
        self.position = target.ok_or(Error::OutOfRange { sector: 0, count: 0, sectors })?;
        Ok(self.position)
    }
}

//! A device that fails when it is told to.

use crate::device::{BlockDevice, Buffer, Completed, Error, Geometry};
use crate::protocol::SECTOR_SIZE;

/// What a device is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceRequest {
    /// To read sectors: the first, and how many.
    Read(u64, u64),
    /// To write sectors.
    Write(u64, u64),
    /// To discard sectors.
    Discard(u64, u64),
    /// To flush.
    Flush,
}

/// A device before which `judge` is asked: it lets a request pass, has it wait, or fails it. For tests of what stands on
/// a device.
///
/// # Examples
///
/// ```
/// use xen_blkif::faulty::{DeviceRequest, Faulty};
/// use xen_blkif::ramdisk::RamDisk;
/// use xen_blkif::{BlockDevice, Error};
///
/// # let xen = xen_sim::Xen::new(1);
/// # let domain = xen.domain();
/// # xen.run(async move {
/// let bad = Error::Failed { operation: "read", sector: 7 };
/// let disk = Faulty::new(RamDisk::new(domain, 64)?, async |ask| match ask {
///     DeviceRequest::Read(first, count) if (first..first + count).contains(&7) => Err(bad),
///     _ => Ok(()),
/// });
/// let mut bytes = [0; 1024];
/// assert_eq!(disk.read_bytes(6, &mut bytes).await, Err(bad));
/// assert_eq!(disk.read_bytes(8, &mut bytes).await, Ok(()));
/// # Ok::<(), xen_blkif::Error>(())
/// # })?;
/// # Ok::<(), xen_blkif::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Faulty<D, F> {
    device: D,
    judge: F,
}

impl<D: BlockDevice, F: AsyncFn(DeviceRequest) -> Result<(), Error>> Faulty<D, F> {
    /// Puts `judge` before the device.
    pub fn new(device: D, judge: F) -> Faulty<D, F> {
        Faulty { device, judge }
    }
}

impl<D: BlockDevice, F: AsyncFn(DeviceRequest) -> Result<(), Error>> BlockDevice for Faulty<D, F> {
    type Buffer = D::Buffer;

    fn geometry(&self) -> Geometry {
        self.device.geometry()
    }

    fn buffer(&self, len: usize) -> Result<D::Buffer, Error> {
        self.device.buffer(len)
    }

    async fn read(&self, sector: u64, buffer: D::Buffer) -> Completed<D::Buffer> {
        match (self.judge)(DeviceRequest::Read(sector, (buffer.len() / SECTOR_SIZE) as u64)).await {
            Ok(()) => self.device.read(sector, buffer).await,
            Err(error) => (buffer, Err(error)),
        }
    }

    async fn write(&self, sector: u64, buffer: D::Buffer) -> Completed<D::Buffer> {
        match (self.judge)(DeviceRequest::Write(sector, (buffer.len() / SECTOR_SIZE) as u64)).await {
            Ok(()) => self.device.write(sector, buffer).await,
            Err(error) => (buffer, Err(error)),
        }
    }

    async fn flush(&self) -> Result<(), Error> {
        (self.judge)(DeviceRequest::Flush).await?;
        self.device.flush().await
    }

    async fn discard(&self, sector: u64, count: u64, secure: bool) -> Result<(), Error> {
        (self.judge)(DeviceRequest::Discard(sector, count)).await?;
        self.device.discard(sector, count, secure).await
    }

    async fn changed(&self, known: &Geometry) -> Geometry {
        self.device.changed(known).await
    }
}

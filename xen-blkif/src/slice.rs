//! A part of a device.

use crate::device::{BlockDevice, Completed, Error, Geometry};

/// A run of a device's sectors as a device: a partition.
///
/// # Examples
///
/// ```
/// use xen_blkif::BlockDevice;
/// use xen_blkif::ramdisk::RamDisk;
/// use xen_blkif::slice::Slice;
///
/// # let xen = xen_sim::Xen::new(1);
/// # let domain = xen.domain();
/// # xen.run(async move {
/// let disk = RamDisk::new(domain, 64)?;
/// let partition = Slice::new(disk.clone(), 32, 16)?;
/// assert_eq!(partition.geometry().sectors, 16);
/// partition.write_bytes(0, &[1; 512]).await?;
///
/// let mut bytes = [0; 512];
/// disk.read_bytes(32, &mut bytes).await?;
/// assert_eq!(bytes, [1; 512]);
/// # Ok::<(), xen_blkif::Error>(())
/// # })?;
/// # Ok::<(), xen_blkif::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Slice<D> {
    device: D,
    first: u64,
    sectors: u64,
}

impl<D: BlockDevice> Slice<D> {
    /// The `sectors` sectors from `first` on. What lies past the device's end when it is smaller later is out of range.
    ///
    /// # Errors
    ///
    /// As [`Geometry::check_sectors`].
    pub fn new(device: D, first: u64, sectors: u64) -> Result<Slice<D>, Error> {
        device.geometry().check_sectors(first, sectors)?;
        Ok(Slice { device, first, sectors })
    }

    /// Where sectors of the slice are on the device.
    fn place(&self, sector: u64, count: u64) -> Result<u64, Error> {
        self.geometry().check_sectors(sector, count)?;
        Ok(self.first + sector)
    }

    fn place_of(&self, sector: u64, len: usize) -> Result<u64, Error> {
        self.geometry().check(sector, len)?;
        Ok(self.first + sector)
    }
}

impl<D: BlockDevice> BlockDevice for Slice<D> {
    type Buffer = D::Buffer;

    fn geometry(&self) -> Geometry {
        let geometry = self.device.geometry();
        Geometry { sectors: self.sectors.min(geometry.sectors.saturating_sub(self.first)), ..geometry }
    }

    fn buffer(&self, len: usize) -> Result<D::Buffer, Error> {
        self.device.buffer(len)
    }

    fn buffer_at(&self, sector: u64, len: usize) -> Result<D::Buffer, Error> {
        match self.place_of(sector, len) {
            Ok(sector) => self.device.buffer_at(sector, len),
            Err(_) => self.device.buffer(len),
        }
    }

    async fn read(&self, sector: u64, buffer: D::Buffer) -> Completed<D::Buffer> {
        match self.place_of(sector, crate::Buffer::len(&buffer)) {
            Ok(sector) => self.device.read(sector, buffer).await,
            Err(error) => (buffer, Err(error)),
        }
    }

    async fn write(&self, sector: u64, buffer: D::Buffer) -> Completed<D::Buffer> {
        match self.place_of(sector, crate::Buffer::len(&buffer)) {
            Ok(sector) => self.device.write(sector, buffer).await,
            Err(error) => (buffer, Err(error)),
        }
    }

    async fn flush(&self) -> Result<(), Error> {
        self.device.flush().await
    }

    async fn discard(&self, sector: u64, count: u64, secure: bool) -> Result<(), Error> {
        let sector = self.place(sector, count)?;
        self.device.discard(sector, count, secure).await
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

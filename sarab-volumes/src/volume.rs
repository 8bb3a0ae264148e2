//! A volume as a block device.

use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;

use xen_blkif::{BlockDevice, Completed, Error, Geometry};

/// A volume of a pool. Clones are the same volume, which is in use while there is one.
///
/// What is discarded in whole chunks of [`CHUNK_SIZE`](crate::CHUNK_SIZE) is given back to the pool, and reads as zeroes.
pub struct Volume<D> {
    disks: Rc<Vec<D>>,
}

impl<D> Clone for Volume<D> {
    fn clone(&self) -> Self {
        Volume { disks: self.disks.clone() }
    }
}

impl<D: BlockDevice + 'static> Volume<D> {
    /// Its name now.
    pub fn name(&self) -> String {
        String::new()
    }
}

impl<D: BlockDevice + 'static> BlockDevice for Volume<D> {
    type Buffer = D::Buffer;

    fn geometry(&self) -> Geometry {
        Geometry::plain(0)
    }

    fn buffer(&self, len: usize) -> Result<D::Buffer, Error> {
        self.disks.first().ok_or(Error::Gone)?.buffer(len)
    }

    async fn read(&self, _: u64, buffer: D::Buffer) -> Completed<D::Buffer> {
        (buffer, Err(Error::Gone))
    }

    async fn write(&self, _: u64, buffer: D::Buffer) -> Completed<D::Buffer> {
        (buffer, Err(Error::Gone))
    }

    async fn flush(&self) -> Result<(), Error> {
        Err(Error::Gone)
    }

    async fn discard(&self, _: u64, _: u64, _: bool) -> Result<(), Error> {
        Err(Error::Gone)
    }

    async fn changed(&self, _: &Geometry) -> Geometry {
        core::future::pending().await
    }
}

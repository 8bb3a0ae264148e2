//! Pointers to a device, which are that device.

use alloc::rc::Rc;
use alloc::sync::Arc;

use crate::device::{BlockDevice, Completed, Error, Geometry};

macro_rules! forward {
    ($($pointer:ty),+) => {
        $(impl<D: BlockDevice> BlockDevice for $pointer {
            type Buffer = D::Buffer;

            fn geometry(&self) -> Geometry {
                D::geometry(self)
            }

            fn buffer(&self, len: usize) -> Result<D::Buffer, Error> {
                D::buffer(self, len)
            }

            fn buffer_at(&self, sector: u64, len: usize) -> Result<D::Buffer, Error> {
                D::buffer_at(self, sector, len)
            }

            async fn read(&self, sector: u64, buffer: D::Buffer) -> Completed<D::Buffer> {
                D::read(self, sector, buffer).await
            }

            async fn write(&self, sector: u64, buffer: D::Buffer) -> Completed<D::Buffer> {
                D::write(self, sector, buffer).await
            }

            async fn flush(&self) -> Result<(), Error> {
                D::flush(self).await
            }

            async fn discard(&self, sector: u64, count: u64, secure: bool) -> Result<(), Error> {
                D::discard(self, sector, count, secure).await
            }

            async fn changed(&self, known: &Geometry) -> Geometry {
                D::changed(self, known).await
            }

            async fn read_vectored(&self, sector: u64, to: &mut [&mut [u8]]) -> Result<(), Error> {
                D::read_vectored(self, sector, to).await
            }

            async fn write_vectored(&self, sector: u64, from: &[&[u8]]) -> Result<(), Error> {
                D::write_vectored(self, sector, from).await
            }

            async fn read_bytes(&self, sector: u64, to: &mut [u8]) -> Result<(), Error> {
                D::read_bytes(self, sector, to).await
            }

            async fn write_bytes(&self, sector: u64, from: &[u8]) -> Result<(), Error> {
                D::write_bytes(self, sector, from).await
            }
        })+
    };
}

forward!(&D, Rc<D>, Arc<D>);

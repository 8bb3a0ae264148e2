//! The traits of `embedded-io-async`, for crates that take any stream of bytes.

use embedded_io_async::{ErrorType, Read, Write};
use xen_hal::Xen;

use crate::channel::{Channel, ReadHalf, WriteHalf};
use crate::error::Error;

impl<X: Xen> ErrorType for Channel<X> {
    type Error = Error;
}

impl<X: Xen> Read for Channel<X> {
    async fn read(&mut self, buf: &mut [u8]) -> Result<usize, Error> {
        Channel::read(self, buf).await
    }
}

impl<X: Xen> Write for Channel<X> {
    async fn write(&mut self, buf: &[u8]) -> Result<usize, Error> {
        Channel::write(self, buf).await
    }

    async fn flush(&mut self) -> Result<(), Error> {
        Channel::flush(self).await
    }
}

impl<X: Xen> ErrorType for ReadHalf<X> {
    type Error = Error;
}

impl<X: Xen> Read for ReadHalf<X> {
    async fn read(&mut self, buf: &mut [u8]) -> Result<usize, Error> {
        ReadHalf::read(self, buf).await
    }
}

impl<X: Xen> ErrorType for WriteHalf<X> {
    type Error = Error;
}

impl<X: Xen> Write for WriteHalf<X> {
    async fn write(&mut self, buf: &[u8]) -> Result<usize, Error> {
        WriteHalf::write(self, buf).await
    }

    async fn flush(&mut self) -> Result<(), Error> {
        WriteHalf::flush(self).await
    }
}

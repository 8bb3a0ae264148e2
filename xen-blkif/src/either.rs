//! One of two devices, where only the running program knows which.

use futures_util::future::Either;
use xen_ring::SharedMemory;

use crate::device::{BlockDevice, Buffer, Completed, Error, Geometry};

impl<A: Buffer, B: Buffer> Buffer for Either<A, B> {
    fn len(&self) -> usize {
        match self {
            Either::Left(buffer) => buffer.len(),
            Either::Right(buffer) => buffer.len(),
        }
    }

    fn page(&self, index: usize) -> &SharedMemory {
        match self {
            Either::Left(buffer) => buffer.page(index),
            Either::Right(buffer) => buffer.page(index),
        }
    }
}

/// A request with a buffer that the other device has made fails with [`Error::Gone`].
impl<A: BlockDevice, B: BlockDevice> BlockDevice for Either<A, B> {
    type Buffer = Either<A::Buffer, B::Buffer>;

    fn geometry(&self) -> Geometry {
        match self {
            Either::Left(device) => device.geometry(),
            Either::Right(device) => device.geometry(),
        }
    }

    fn buffer(&self, len: usize) -> Result<Self::Buffer, Error> {
        match self {
            Either::Left(device) => device.buffer(len).map(Either::Left),
            Either::Right(device) => device.buffer(len).map(Either::Right),
        }
    }

    fn buffer_at(&self, sector: u64, len: usize) -> Result<Self::Buffer, Error> {
        match self {
            Either::Left(device) => device.buffer_at(sector, len).map(Either::Left),
            Either::Right(device) => device.buffer_at(sector, len).map(Either::Right),
        }
    }

    async fn read(&self, sector: u64, buffer: Self::Buffer) -> Completed<Self::Buffer> {
        match (self, buffer) {
            (Either::Left(device), Either::Left(buffer)) => left(device.read(sector, buffer).await),
            (Either::Right(device), Either::Right(buffer)) => right(device.read(sector, buffer).await),
            (_, buffer) => (buffer, Err(Error::Gone)),
        }
    }

    async fn write(&self, sector: u64, buffer: Self::Buffer) -> Completed<Self::Buffer> {
        match (self, buffer) {
            (Either::Left(device), Either::Left(buffer)) => left(device.write(sector, buffer).await),
            (Either::Right(device), Either::Right(buffer)) => right(device.write(sector, buffer).await),
            (_, buffer) => (buffer, Err(Error::Gone)),
        }
    }

    async fn flush(&self) -> Result<(), Error> {
        match self {
            Either::Left(device) => device.flush().await,
            Either::Right(device) => device.flush().await,
        }
    }

    async fn discard(&self, sector: u64, count: u64, secure: bool) -> Result<(), Error> {
        match self {
            Either::Left(device) => device.discard(sector, count, secure).await,
            Either::Right(device) => device.discard(sector, count, secure).await,
        }
    }

    async fn changed(&self, known: &Geometry) -> Geometry {
        match self {
            Either::Left(device) => device.changed(known).await,
            Either::Right(device) => device.changed(known).await,
        }
    }
}

fn left<A, B>((buffer, outcome): Completed<A>) -> Completed<Either<A, B>> {
    (Either::Left(buffer), outcome)
}

fn right<A, B>((buffer, outcome): Completed<B>) -> Completed<Either<A, B>> {
    (Either::Right(buffer), outcome)
}

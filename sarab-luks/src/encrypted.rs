//! An open volume: a device whose sectors are encrypted on another.

use alloc::boxed::Box;
use alloc::rc::Rc;
use core::fmt;
use core::ops::Range;

use futures_util::stream::{self, StreamExt};
use xen_blkif::ramdisk::{BufferPool, PageBuffer};
use xen_blkif::{BlockDevice, Buffer, Completed, Discard, Error, Geometry};
use xen_hal::Pages;
use xenbus::yield_now;

use crate::area::Key;
use crate::error::Error as LuksError;
use crate::metadata::Segment;
use crate::options::OpenOptions;
use crate::stack::wiped;
use crate::xts::{Direction, MAX_SECTOR, Xts};

/// Bytes of a request to the device below, and how many of these are under way for one request from above: what a request
/// takes of memory besides its own.
const SLICE: usize = 256 << 10;
const AT_ONCE: usize = 4;
/// Bytes after which other tasks have their turn.
const YIELD: usize = 32 << 10;

/// An open volume, as a device. Clones are the same; with the last of them its keys are gone from memory.
///
/// Its buffers are pages that no peer sees. What is read or written passes through buffers of the device below, which only
/// ever hold what is encrypted: a backend may have those mapped for as long as it is connected.
///
/// # Cancellation
///
/// As for any [`BlockDevice`]: a write whose future is dropped is done, done in part, or not.
pub struct Encrypted<D, P: Pages> {
    inner: Rc<Inner<D, P>>,
}

struct Inner<D, P: Pages> {
    device: D,
    buffers: BufferPool<P>,
    /// It stays where it is: moved, it would be left behind.
    xts: Box<Xts>,
    /// The data's first sector on the device, and how many there are if that does not depend on the device's size.
    first: u64,
    sectors: Option<u64>,
    sector_size: u32,
    iv_tweak: u64,
    options: OpenOptions,
}

impl<D, P: Pages> Clone for Encrypted<D, P> {
    fn clone(&self) -> Self {
        Encrypted { inner: self.inner.clone() }
    }
}

impl<D, P: Pages> fmt::Debug for Encrypted<D, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { first, sector_size, .. } = &*self.inner;
        write!(f, "Encrypted(aes-xts-plain64, sectors of {sector_size} bytes from sector {first} on)")
    }
}

impl<D: BlockDevice, P: Pages> Encrypted<D, P> {
    pub(crate) fn new(
        device: D,
        pages: P,
        segment: &Segment,
        key: &Key,
        options: OpenOptions,
    ) -> Result<Self, LuksError> {
        let Segment { offset, size, iv_tweak, sector_size } = *segment;
        let geometry = device.geometry();
        let needed = offset.saturating_add(size.unwrap_or(sector_size.into()));
        if geometry.bytes() < u128::from(needed) {
            return Err(LuksError::TooSmall { bytes: geometry.bytes() as u64, needed });
        }
        if !offset.is_multiple_of(geometry.sector_size.into()) {
            let problem = "the data does not begin with one of the device's sectors";
            return Err(LuksError::Metadata { object: "segments", problem });
        }
        let (first, sectors, xts) = (offset / 512, size.map(|size| size / 512), wiped(|| Box::new(Xts::new(key))));
        let buffers = BufferPool::new(pages);
        let inner = Inner { device, buffers, xts, first, sectors, sector_size, iv_tweak, options };
        Ok(Encrypted { inner: Rc::new(inner) })
    }
}

impl<D: BlockDevice, P: Pages> Inner<D, P> {
    fn geometry(&self) -> Geometry {
        let below = self.device.geometry();
        let sector_size = below.sector_size.max(self.sector_size);
        let unit = u64::from(sector_size / 512);
        let there = below.sectors.saturating_sub(self.first);
        let sectors = self.sectors.map_or(there, |sectors| sectors.min(there)) / unit * unit;
        let discard = below.discard.filter(|_| self.options.allow_discards).map(|discard| self.moved(discard));
        below
            .with_sectors(sectors)
            .with_sector_size(sector_size)
            .with_physical_sector_size(below.physical_sector_size.max(sector_size))
            .with_read_only(below.read_only || self.options.read_only)
            .with_discard(discard)
    }

    /// How the data is discarded, which begins elsewhere than the device.
    fn moved(&self, discard: Discard) -> Discard {
        let granularity = u64::from(discard.granularity.max(1));
        let begin = (self.first % granularity * (512 % granularity)) % granularity;
        let alignment = (u64::from(discard.alignment) % granularity + granularity - begin) % granularity;
        discard.with_alignment(alignment as u32)
    }

    /// Passes bytes through the cipher, from one buffer to the other; `sector` is the first one's. They are no more than a
    /// slice, so that this takes no longer than other tasks can wait.
    fn convert(
        &self,
        direction: Direction,
        sector: u64,
        (from, from_at): (&impl Buffer, usize),
        (to, to_at): (&impl Buffer, usize),
        len: usize,
    ) {
        let mut page = [0; MAX_SECTOR];
        for start in (0..len).step_by(MAX_SECTOR) {
            let part = &mut page[..(len - start).min(MAX_SECTOR)];
            from.read(from_at + start, part);
            let tweak = (self.iv_tweak).wrapping_add(sector).wrapping_add((start / 512) as u64);
            self.xts.apply(direction, tweak, self.sector_size as usize, part);
            to.write(to_at + start, part);
        }
    }

    async fn read_slice(&self, sector: u64, buffer: &impl Buffer, range: Range<usize>) -> Result<(), Error> {
        let sector = sector + (range.start / 512) as u64;
        let below = self.device.buffer(range.len())?;
        let (below, outcome) = self.device.read(self.first + sector, below).await;
        outcome.map_err(|error| self.own(error))?;
        self.convert(Direction::Decrypt, sector, (&below, 0), (buffer, range.start), range.len());
        after(range.len()).await;
        Ok(())
    }

    async fn write_slice(&self, sector: u64, buffer: &impl Buffer, range: Range<usize>) -> Result<(), Error> {
        let sector = sector + (range.start / 512) as u64;
        let below = self.device.buffer(range.len())?;
        self.convert(Direction::Encrypt, sector, (buffer, range.start), (&below, 0), range.len());
        after(range.len()).await;
        self.device.write(self.first + sector, below).await.1.map_err(|error| self.own(error))
    }

    /// An error of the device below, with this device's sectors.
    fn own(&self, error: Error) -> Error {
        match error {
            Error::OutOfRange { sector, count, sectors } => {
                let (sector, sectors) = (sector.saturating_sub(self.first), sectors.saturating_sub(self.first));
                Error::OutOfRange { sector, count, sectors }
            }
            Error::Failed { operation, sector } => {
                Error::Failed { operation, sector: sector.saturating_sub(self.first) }
            }
            other => other,
        }
    }
}

/// Lets other tasks run after that many bytes were converted; short requests end too soon to do so.
async fn after(bytes: usize) {
    if bytes >= YIELD {
        yield_now().await;
    }
}

/// The first error of some requests, of which a few are under way at once.
async fn all(requests: impl Iterator<Item = impl Future<Output = Result<(), Error>>>) -> Result<(), Error> {
    let mut outcomes = stream::iter(requests).buffer_unordered(AT_ONCE);
    let mut first = Ok(());
    while let Some(outcome) = outcomes.next().await {
        first = first.and(outcome);
    }
    first
}

fn slices(len: usize) -> impl Iterator<Item = Range<usize>> {
    (0..len).step_by(SLICE).map(move |start| start..(start + SLICE).min(len))
}

impl<D: BlockDevice, P: Pages> BlockDevice for Encrypted<D, P> {
    type Buffer = PageBuffer<P::Page>;

    fn geometry(&self) -> Geometry {
        self.inner.geometry()
    }

    fn buffer(&self, len: usize) -> Result<Self::Buffer, Error> {
        self.inner.buffers.buffer(len)
    }

    async fn read(&self, sector: u64, buffer: Self::Buffer) -> Completed<Self::Buffer> {
        if let Err(error) = self.geometry().check(sector, buffer.len()) {
            return (buffer, Err(error));
        }
        let outcome = match buffer.len() {
            0 => Ok(()),
            1..=SLICE => self.inner.read_slice(sector, &buffer, 0..buffer.len()).await,
            len => all(slices(len).map(|range| self.inner.read_slice(sector, &buffer, range))).await,
        };
        (buffer, outcome)
    }

    async fn write(&self, sector: u64, buffer: Self::Buffer) -> Completed<Self::Buffer> {
        let geometry = self.geometry();
        if let Err(error) = geometry.check_writable().and(geometry.check(sector, buffer.len())) {
            return (buffer, Err(error));
        }
        let outcome = match buffer.len() {
            0 => Ok(()),
            1..=SLICE => self.inner.write_slice(sector, &buffer, 0..buffer.len()).await,
            len => all(slices(len).map(|range| self.inner.write_slice(sector, &buffer, range))).await,
        };
        (buffer, outcome)
    }

    async fn flush(&self) -> Result<(), Error> {
        self.inner.device.flush().await.map_err(|error| self.inner.own(error))
    }

    async fn discard(&self, sector: u64, count: u64, secure: bool) -> Result<(), Error> {
        let geometry = self.geometry();
        geometry.check_writable()?;
        if geometry.discard.is_none() {
            return Err(Error::Unsupported("discard"));
        }
        geometry.check_sectors(sector, count)?;
        let Inner { device, first, .. } = &*self.inner;
        device.discard(first + sector, count, secure).await.map_err(|error| self.inner.own(error))
    }

    async fn changed(&self, known: &Geometry) -> Geometry {
        loop {
            let below = self.inner.device.geometry();
            let own = self.geometry();
            if own != *known {
                return own;
            }
            self.inner.device.changed(&below).await;
        }
    }
}

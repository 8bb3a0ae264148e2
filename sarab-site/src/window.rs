//! A part of a device in memory, which moves to where bytes are wanted.

use alloc::rc::Rc;

use xen_blkif::{BlockDevice, Buffer, Error};

const SECTOR: u64 = 512;
/// Bytes of a part, where nobody wishes for more or less.
pub(crate) const LEN: usize = 16 << 10;

pub(crate) struct Window<D: BlockDevice> {
    disk: Rc<D>,
    /// Nothing is wanted from here on.
    end: u64,
    /// Bytes of a part.
    most: usize,
    start: u64,
    len: usize,
    buffer: Option<D::Buffer>,
}

impl<D: BlockDevice> Window<D> {
    pub(crate) fn new(disk: Rc<D>) -> Window<D> {
        Window::before(disk, u64::MAX, LEN)
    }

    /// One that fetches what is before `end` alone, and not more than `most` bytes at once.
    pub(crate) fn before(disk: Rc<D>, end: u64, most: usize) -> Window<D> {
        Window { disk, end, most, start: 0, len: 0, buffer: None }
    }

    /// Says where what is wanted ends.
    pub(crate) fn set_end(&mut self, end: u64) {
        self.end = end;
    }

    /// Gives its memory back.
    pub(crate) fn release(&mut self) {
        self.len = 0;
        self.buffer = None;
    }

    /// Bytes of the device.
    pub(crate) fn size(&self) -> u64 {
        self.disk.geometry().sectors.saturating_mul(SECTOR)
    }

    /// Reads from byte `at` on, as much as the part holds that `at` is in.
    ///
    /// # Errors
    ///
    /// The device's, also where `at` is beyond its end.
    pub(crate) async fn read(&mut self, at: u64, to: &mut [u8]) -> Result<usize, Error> {
        if at < self.start || at >= self.start + self.len as u64 {
            self.fetch(at).await?;
        }
        let offset = (at - self.start) as usize;
        let len = to.len().min(self.len - offset);
        self.buffer.as_ref().expect("it was just fetched").read(offset, &mut to[..len]);
        Ok(len)
    }

    /// Reads all of `to`.
    pub(crate) async fn read_all(&mut self, at: u64, to: &mut [u8]) -> Result<(), Error> {
        let mut done = 0;
        while done < to.len() {
            done += self.read(at + done as u64, &mut to[done..]).await?;
        }
        Ok(())
    }

    async fn fetch(&mut self, at: u64) -> Result<(), Error> {
        let geometry = self.disk.geometry();
        // Whole sectors of the device, and whole pages where they are smaller.
        let unit = u64::from(geometry.sector_size).max(4096);
        let start = at / unit * unit;
        let size = geometry.sectors.saturating_mul(SECTOR);
        let end = self.end.checked_next_multiple_of(unit).unwrap_or(u64::MAX).min(size);
        let most = (self.most as u64 / unit * unit).max(unit);
        let len = end.saturating_sub(start).min(most) as usize;
        if start + len as u64 <= at {
            return Err(Error::OutOfRange { sector: at / SECTOR, count: 1, sectors: geometry.sectors });
        }
        self.len = 0;
        let buffer = match self.buffer.take() {
            Some(buffer) if buffer.len() == len => buffer,
            _ => self.disk.buffer(len)?,
        };
        let (buffer, outcome) = self.disk.read(start / SECTOR, buffer).await;
        self.buffer = Some(buffer);
        outcome?;
        (self.start, self.len) = (start, len);
        Ok(())
    }
}

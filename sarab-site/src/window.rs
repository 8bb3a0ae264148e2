//! A part of a device in memory, which moves to where bytes are wanted.

use alloc::rc::Rc;
use alloc::vec::Vec;

use xen_blkif::{BlockDevice, Buffer, Error};

use crate::source::{BLOCK, Source};

const SECTOR: u64 = 512;
/// Bytes of a part, where nobody wishes for more or less.
pub(crate) const LEN: usize = 16 << 10;

pub(crate) struct Window<D: BlockDevice> {
    disk: Rc<Source<D>>,
    /// Nothing is wanted from here on.
    end: u64,
    /// Bytes of a part.
    most: usize,
    start: u64,
    len: usize,
    buffer: Option<D::Buffer>,
    /// The part, where it is one that is kept.
    block: Option<Rc<Vec<u8>>>,
}

impl<D: BlockDevice> Window<D> {
    pub(crate) fn new(disk: Rc<Source<D>>) -> Window<D> {
        Window::before(disk, u64::MAX, LEN)
    }

    /// One that fetches what is before `end` alone, and not more than `most` bytes at once.
    pub(crate) fn before(disk: Rc<Source<D>>, end: u64, most: usize) -> Window<D> {
        Window { disk, end, most, start: 0, len: 0, buffer: None, block: None }
    }

    /// Says where what is wanted ends.
    pub(crate) fn set_end(&mut self, end: u64) {
        self.end = end;
    }

    /// Gives its memory back.
    pub(crate) fn release(&mut self) {
        self.len = 0;
        self.buffer = None;
        self.block = None;
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
        if !self.has(at) {
            self.fetch(at).await?;
        }
        let offset = (at - self.start) as usize;
        let len = to.len().min(self.len - offset);
        if let Some(block) = &self.block {
            to[..len].copy_from_slice(&block[offset..][..len]);
            return Ok(len);
        }
        self.buffer.as_ref().expect("it was just fetched").read(offset, &mut to[..len]);
        Ok(len)
    }

    /// Up to `most` bytes from byte `at` on, where they are in a block that is kept.
    pub(crate) fn kept(&mut self, at: u64, most: usize) -> Option<&[u8]> {
        if !self.has(at) && !self.turn_to(at / BLOCK * BLOCK) || !self.has(at) {
            return None;
        }
        let offset = (at - self.start) as usize;
        let block = self.block.as_ref()?;
        block.get(offset..offset.saturating_add(most).min(block.len()))
    }

    fn has(&self, at: u64) -> bool {
        at >= self.start && at < self.start + self.len as u64
    }

    /// Has the block that begins there, if it is kept.
    fn turn_to(&mut self, start: u64) -> bool {
        let Some(block) = self.disk.get(start) else { return false };
        (self.start, self.len) = (start, block.len());
        self.buffer = None;
        self.block = Some(block);
        true
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
        let size = geometry.sectors.saturating_mul(SECTOR);
        let is_kept = unit <= BLOCK && self.disk.keeps(self.end.saturating_sub(at));
        let (start, end, most) = if is_kept {
            let start = at / BLOCK * BLOCK;
            if self.turn_to(start) && self.has(at) {
                return Ok(());
            }
            (start, size, BLOCK)
        } else {
            let end = self.end.checked_next_multiple_of(unit).unwrap_or(u64::MAX).min(size);
            (at / unit * unit, end, (self.most as u64 / unit * unit).max(unit))
        };
        let len = end.saturating_sub(start).min(most) as usize;
        if start + len as u64 <= at {
            return Err(Error::OutOfRange { sector: at / SECTOR, count: 1, sectors: geometry.sectors });
        }
        self.len = 0;
        self.block = None;
        let buffer = match self.buffer.take() {
            Some(buffer) if buffer.len() == len => buffer,
            _ => self.disk.disk.buffer(len)?,
        };
        let (buffer, outcome) = self.disk.disk.read(start / SECTOR, buffer).await;
        let mut block = Vec::new();
        if is_kept && outcome.is_ok() && block.try_reserve_exact(len).is_ok() {
            block.resize(len, 0);
            buffer.read(0, &mut block);
            let block = Rc::new(block);
            self.disk.put(start, &block);
            self.block = Some(block);
        } else {
            self.buffer = Some(buffer);
        }
        outcome?;
        (self.start, self.len) = (start, len);
        Ok(())
    }
}

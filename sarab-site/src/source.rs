//! A device, and what was read of it lately.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use xen_blkif::{BlockDevice, Geometry};

/// Bytes of a block that is kept.
pub(crate) const BLOCK: u64 = 16 << 10;
/// Bytes that are kept at most, whatever is allowed.
const MAX_KEPT: usize = 64 << 20;

/// A device with the blocks of it that are kept.
pub(crate) struct Source<D> {
    pub(crate) disk: D,
    /// Bytes of blocks that may be kept.
    limit: Cell<usize>,
    used: Cell<usize>,
    /// In no order. There are few enough to look at all: it takes less time than to copy one.
    blocks: RefCell<Vec<Kept>>,
    /// Counts uses.
    uses: Cell<u64>,
}

/// A block that is kept.
struct Kept {
    /// Its first byte on the device.
    start: u64,
    bytes: Rc<Vec<u8>>,
    /// When it was used last.
    used: u64,
}

impl<D: BlockDevice> Source<D> {
    pub(crate) fn new(disk: D) -> Source<D> {
        Source { disk, limit: Cell::new(0), used: Cell::new(0), blocks: RefCell::default(), uses: Cell::new(0) }
    }

    pub(crate) fn geometry(&self) -> Geometry {
        self.disk.geometry()
    }

    pub(crate) fn keep(&self, limit: usize) {
        self.limit.set(limit.min(MAX_KEPT));
        self.make_room(0);
    }

    /// Whether blocks of something with so many bytes are kept: it is not to drive out all others.
    pub(crate) fn keeps(&self, bytes: u64) -> bool {
        bytes <= self.limit.get() as u64 / 2
    }

    /// A block that is kept.
    pub(crate) fn get(&self, start: u64) -> Option<Rc<Vec<u8>>> {
        let mut blocks = self.blocks.borrow_mut();
        let block = blocks.iter_mut().find(|block| block.start == start)?;
        self.uses.set(self.uses.get() + 1);
        block.used = self.uses.get();
        Some(block.bytes.clone())
    }

    /// Keeps a block, in the place of those that were used the longest ago.
    pub(crate) fn put(&self, start: u64, block: &Rc<Vec<u8>>) {
        // Others may have read it meanwhile.
        if self.get(start).is_some() {
            return;
        }
        self.make_room(block.len());
        let mut blocks = self.blocks.borrow_mut();
        if self.used.get() + block.len() > self.limit.get() || blocks.try_reserve(1).is_err() {
            return;
        }
        self.uses.set(self.uses.get() + 1);
        self.used.set(self.used.get() + block.len());
        blocks.push(Kept { start, bytes: block.clone(), used: self.uses.get() });
    }

    fn make_room(&self, bytes: usize) {
        let mut blocks = self.blocks.borrow_mut();
        while self.used.get() + bytes > self.limit.get() {
            let oldest = blocks.iter().enumerate().min_by_key(|(_, block)| block.used).map(|(at, _)| at);
            let Some(block) = oldest.map(|at| blocks.swap_remove(at)) else { return };
            self.used.set(self.used.get() - block.bytes.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use xen_blkif::ramdisk::RamDisk;
    use xen_sim::Xen;

    #[test]
    fn what_was_used_last_is_kept() {
        let xen = Xen::new(1);
        let source = Source::new(RamDisk::new(xen.domain(), 8).unwrap());
        let block = |byte| Rc::new(alloc::vec![byte; 100]);
        source.put(0, &block(0));
        assert!(source.get(0).is_none() && !source.keeps(1), "without leave nothing is kept");
        source.keep(350);
        assert!(source.keeps(175) && !source.keeps(176));
        (0..3).for_each(|at| source.put(at, &block(at as u8)));
        assert!(source.get(0).is_some());
        source.put(3, &block(3));
        source.put(3, &block(3));
        assert_eq!([0, 1, 2, 3].map(|at| source.get(at).is_some()), [true, false, true, true]);
        assert_eq!(source.used.get(), 300);
        source.put(4, &Rc::new(alloc::vec![0; 351]));
        assert!(source.get(4).is_none());
        source.keep(100);
        assert!(source.used.get() <= 100);
    }
}

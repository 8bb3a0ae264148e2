//! Blocks of metadata: those that were read last stay in memory.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::task::Poll;

use xen_blkif::{BlockDevice, Error};

use super::error::Damage;
use crate::source::Source;
use crate::window::Window;

/// What is read at once: a page, or a block where that is larger.
const UNIT: usize = 4096;
const MAX_BLOCKS_OF_UNIT: usize = UNIT / 1024;
/// Bytes that are kept.
const KEPT: usize = 384 << 10;
/// Units between two turns of other tasks.
const TURN: u32 = 64;

/// What a request may still look at, in units: so many that no folder needs them which somebody has made to be used.
pub(crate) struct Reads {
    left: Cell<u32>,
}

impl Reads {
    pub(crate) const MAX: u32 = 16 << 10;

    pub(crate) fn new(most: u32) -> Reads {
        Reads { left: Cell::new(most) }
    }

    /// Counts so many bytes, and lets others have their turn now and then: what is in memory is not waited for.
    pub(crate) async fn count(&self, bytes: u32) -> Result<(), Damage> {
        let units = bytes.div_ceil(UNIT as u32);
        let before = self.left.get();
        let left = before.checked_sub(units).ok_or(Damage::TooMuch)?;
        self.left.set(left);
        if left / TURN != before / TURN {
            let mut waited = false;
            poll_fn(|cx| {
                if core::mem::replace(&mut waited, true) {
                    return Poll::Ready(());
                }
                cx.waker().wake_by_ref();
                Poll::Pending
            })
            .await;
        }
        Ok(())
    }
}

struct Unit {
    bytes: Box<[u8]>,
    /// For which inode each block's checksum was found to be right.
    known_for: [Cell<u32>; MAX_BLOCKS_OF_UNIT],
}

/// A block, which stays in memory as long as this does.
pub(crate) struct Block {
    unit: Rc<Unit>,
    at: usize,
    len: usize,
}

impl Block {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.unit.bytes[self.at..self.at + self.len]
    }

    /// A copy that begins otherwise.
    pub(crate) fn with_begin(&self, begin: [u8; 4]) -> Block {
        let mut bytes: Box<[u8]> = self.bytes().into();
        bytes[..4].copy_from_slice(&begin);
        Block { unit: Rc::new(Unit { bytes, known_for: Default::default() }), at: 0, len: self.len }
    }

    fn known(&self) -> &Cell<u32> {
        &self.unit.known_for[self.at / self.len]
    }

    /// Whether its checksum was looked at already, as a block of this inode.
    pub(crate) fn is_known_for(&self, inode: u32) -> bool {
        self.known().get() == inode
    }

    pub(crate) fn set_known_for(&self, inode: u32) {
        self.known().set(inode);
    }
}

/// Blocks of one size, from a device.
pub(crate) struct Blocks<D: BlockDevice> {
    pub(crate) disk: Rc<Source<D>>,
    block_size: usize,
    /// The last one was used last.
    kept: RefCell<Vec<(u64, Rc<Unit>)>>,
}

impl<D: BlockDevice> Blocks<D> {
    pub(crate) fn new(disk: Rc<Source<D>>, block_size: u32) -> Blocks<D> {
        Blocks { disk, block_size: block_size as usize, kept: RefCell::default() }
    }

    /// A block by its number, which is on the device.
    pub(crate) async fn get(&self, number: u64) -> Result<Block, Error> {
        let unit_size = self.block_size.max(UNIT);
        let position = number * self.block_size as u64;
        let unit = position / unit_size as u64;
        let (at, len) = ((position % unit_size as u64) as usize, self.block_size);
        if let Some(unit) = self.find(unit) {
            return Ok(Block { unit, at, len });
        }
        let start = unit * unit_size as u64;
        let mut window = Window::before(self.disk.clone(), start + unit_size as u64, unit_size);
        // A file system of small blocks may end in the middle.
        let there = window.size().saturating_sub(start).min(unit_size as u64) as usize;
        let mut bytes = vec![0; unit_size].into_boxed_slice();
        window.read_all(start, &mut bytes[..there]).await?;
        let kept = Rc::new(Unit { bytes, known_for: Default::default() });
        let mut all = self.kept.borrow_mut();
        if all.len() >= (KEPT / unit_size).max(4) {
            all.remove(0);
        }
        all.push((unit, kept.clone()));
        Ok(Block { unit: kept, at, len })
    }

    fn find(&self, unit: u64) -> Option<Rc<Unit>> {
        let mut all = self.kept.borrow_mut();
        let index = all.iter().rposition(|(own, _)| *own == unit)?;
        all[index..].rotate_left(1);
        all.last().map(|(_, unit)| unit.clone())
    }
}

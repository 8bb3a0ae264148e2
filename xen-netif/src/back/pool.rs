//! Memory for what guests send.

use alloc::rc::Rc;
use alloc::vec;
use core::cell::OnceCell;

use xen_hal::{Memory, PAGE_SIZE};

use crate::Buffer;
use crate::area::Area;

/// Pages for large packets of all guests together. They are taken from the domain with the first such packet.
pub(super) struct Pool<M: Memory> {
    memory: M,
    count: usize,
    /// Nothing where the domain had not so many side by side.
    area: OnceCell<Option<Rc<Area<M>>>>,
}

impl<M: Memory> Pool<M> {
    pub(super) fn new(memory: M, count: usize) -> Pool<M> {
        Pool { memory, count, area: OnceCell::new() }
    }

    /// Room for a packet of so many bytes, to be overwritten. Where it is in pages, it begins as `start` does in its page.
    pub(super) fn buffer(&self, start: usize, len: usize) -> Buffer {
        let start = start % PAGE_SIZE;
        let run = match len > PAGE_SIZE {
            true => self.area().and_then(|area| area.find((start + len).div_ceil(PAGE_SIZE))),
            // It is copied sooner than a page is granted.
            false => None,
        };
        match run {
            Some(run) => Buffer::in_pages(run.into(), start, len),
            None => vec![0; len].into(),
        }
    }

    fn area(&self) -> Option<&Rc<Area<M>>> {
        let new = || (self.count > 0).then(|| Area::new(&self.memory, self.count).ok()).flatten();
        self.area.get_or_init(new).as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_packets_are_in_pages_as_long_as_there_are_some() {
        let xen = xen_sim::Xen::new(1);
        let pool = Pool::new(xen.domain(), 20);
        assert!(pool.area.get().is_none(), "nothing is taken yet");
        let in_pages = |buffer: &Buffer, start| buffer.as_ptr().addr() % PAGE_SIZE == start;
        let first = pool.buffer(4030, 65_535);
        assert!(in_pages(&first, 4030) && first.memory() >= 17 * PAGE_SIZE);
        let second = pool.buffer(3, 3 * PAGE_SIZE);
        assert_eq!(second.memory(), 3 * PAGE_SIZE, "on the heap");
        drop(first);
        let third = pool.buffer(PAGE_SIZE + 3, 3 * PAGE_SIZE);
        assert!(in_pages(&third, 3) && third.memory() >= 4 * PAGE_SIZE);
        assert_eq!(pool.buffer(100, 60).memory(), 60);
    }
}

//! The numbers by which a session's files are known at both ends.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

/// The fid of the tree's root, which each session begins with.
pub(super) const ROOT: u32 = 0;

#[derive(Default)]
pub(super) struct Fids {
    numbers: RefCell<Numbers>,
    /// Those that only last as long as one call: who finds the server out of fids waits for these.
    passing: Cell<usize>,
    /// Of these the ones whose calls wait themselves.
    stuck: Cell<usize>,
}

#[derive(Default)]
struct Numbers {
    /// The largest that was ever in use.
    last: u32,
    free: Vec<u32>,
    /// To be given back by the server first.
    released: VecDeque<u32>,
}

impl Fids {
    /// A number that no file has.
    pub(super) fn alloc(&self) -> u32 {
        let mut numbers = self.numbers.borrow_mut();
        numbers.free.pop().unwrap_or_else(|| {
            numbers.last += 1;
            numbers.last
        })
    }

    /// A number that the server does not know.
    pub(super) fn free(&self, fid: u32) {
        let mut numbers = self.numbers.borrow_mut();
        if fid != ROOT && fid <= numbers.last {
            numbers.free.push(fid);
        }
    }

    /// A number that the server is to forget.
    pub(super) fn release(&self, fid: u32) {
        self.numbers.borrow_mut().released.push_back(fid);
    }

    /// The next one that the server is to forget, and that is not `in_use` there.
    pub(super) fn next_released(&self, in_use: impl Fn(u32) -> bool) -> Option<u32> {
        let released = &mut self.numbers.borrow_mut().released;
        let index = released.iter().position(|fid| !in_use(*fid))?;
        released.remove(index)
    }

    pub(super) fn count_released(&self) -> usize {
        self.numbers.borrow().released.len()
    }

    /// A new session.
    pub(super) fn reset(&self) {
        *self.numbers.borrow_mut() = Numbers::default();
    }

    /// How many of those that last one call will be given back whatever others do.
    pub(super) fn count_moving(&self) -> usize {
        self.passing.get().saturating_sub(self.stuck.get())
    }

    pub(super) fn add_passing(&self, change: isize) {
        self.passing.set(self.passing.get().saturating_add_signed(change));
    }

    pub(super) fn add_stuck(&self, change: isize) {
        self.stuck.set(self.stuck.get().saturating_add_signed(change));
    }
}

//! Who follows which entries.

use alloc::collections::VecDeque;
use alloc::rc::{Rc, Weak};
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::pin::Pin;
use core::task::{Context, Poll};

use futures_util::Stream;
use xenbus::WakerSlot;

use super::copy::matches;

/// One change of QubesDB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The entry at this path was written, perhaps with the value that it had.
    Written(String),
    /// The entry at this path was removed.
    Removed(String),
    /// Look at everything: changes were missed while there was no connection, or nobody took them in time.
    Resynced,
}

/// The changes of entries that match a pattern, in order: a stream that [`Database::watch`](super::Database::watch) returns.
///
/// It ends when the database's runner does.
#[derive(Debug)]
pub struct Changes(Rc<Watch>);

#[derive(Debug)]
struct Watch {
    pattern: String,
    capacity: usize,
    queue: RefCell<VecDeque<Change>>,
    is_over: Cell<bool>,
    waiter: WakerSlot,
}

impl Changes {
    /// Waits for the next change; `None` when there will be none.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time; nothing is lost.
    pub async fn next(&mut self) -> Option<Change> {
        poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<Option<Change>> {
        let change = self.0.queue.borrow_mut().pop_front();
        if change.is_some() || self.0.is_over.get() {
            return Poll::Ready(change);
        }
        self.0.waiter.register(cx.waker());
        Poll::Pending
    }
}

impl Stream for Changes {
    type Item = Change;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Change>> {
        self.poll(cx)
    }
}

/// All that are watched.
#[derive(Debug, Default)]
pub(super) struct Watches(RefCell<Vec<Weak<Watch>>>);

impl Watches {
    pub(super) fn add(&self, pattern: &str, capacity: usize, is_over: bool) -> Changes {
        let watch = Rc::new(Watch {
            pattern: pattern.into(),
            capacity: capacity.max(1),
            queue: RefCell::default(),
            is_over: Cell::new(is_over),
            waiter: WakerSlot::default(),
        });
        let mut all = self.0.borrow_mut();
        all.retain(|watch| watch.strong_count() > 0);
        all.push(Rc::downgrade(&watch));
        Changes(watch)
    }

    pub(super) fn changed(&self, change: &Change) {
        self.each(|watch| {
            if watch.push(change) {
                watch.waiter.wake();
            }
        });
    }

    /// There is a new copy, with these differences.
    pub(super) fn copied(&self, differences: &[Change]) {
        self.each(|watch| {
            let mut matching = false;
            differences.iter().for_each(|change| matching |= watch.push(change));
            // Some changes leave no difference: a marker that was written again with the same value.
            if matching {
                watch.push(&Change::Resynced);
                watch.waiter.wake();
            }
        });
    }

    pub(super) fn end(&self) {
        self.each(|watch| {
            watch.is_over.set(true);
            watch.waiter.wake();
        });
    }

    /// With nothing borrowed meanwhile: a task that is woken may run.
    fn each(&self, act: impl Fn(&Watch)) {
        let all: Vec<_> = self.0.borrow().iter().filter_map(Weak::upgrade).collect();
        all.iter().for_each(|watch| act(watch));
    }
}

impl Watch {
    /// Adds a change, if it matches.
    fn push(&self, change: &Change) -> bool {
        match change {
            Change::Written(path) | Change::Removed(path) if !matches(&self.pattern, path) => return false,
            _ => {}
        }
        let mut queue = self.queue.borrow_mut();
        if queue.len() < self.capacity {
            queue.push_back(change.clone());
        } else {
            // Who is so late looks at everything, and needs no part of what he has missed.
            queue.clear();
            queue.push_back(Change::Resynced);
        }
        true
    }
}

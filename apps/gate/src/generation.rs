//! Something that changes, and whoever waits for that.

use core::cell::Cell;

use sarab::ring::WaitQueue;

/// How often it has changed.
#[derive(Default)]
pub struct Generation {
    count: Cell<u64>,
    waiting: WaitQueue,
}

impl Generation {
    pub fn get(&self) -> u64 {
        self.count.get()
    }

    pub fn advance(&self) {
        self.count.set(self.count.get() + 1);
        self.waiting.wake_all();
    }

    /// Waits until it is another than this one.
    pub async fn after(&self, seen: u64) {
        self.waiting.wait_until(|| (self.count.get() != seen).then_some(())).await;
    }
}

//! What a driver learns of the other end while the device is in use.

use core::cell::Cell;

use xen_ring::WaitQueue;

/// Tells a driver that the device is to end, or that the other end has changed something.
#[derive(Debug, Default)]
pub struct Signals {
    closing: Cell<bool>,
    lost: Cell<bool>,
    changes: Cell<u32>,
    waiting: WaitQueue,
}

impl Signals {
    /// Whether the use is to end.
    pub fn is_closing(&self) -> bool {
        self.closing.get()
    }

    /// Waits until the use is to end: the driver then lets go of everything that it shares, and returns.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time.
    pub async fn closing(&self) {
        self.waiting.wait_until(|| self.closing.get().then_some(())).await;
    }

    /// Whether the other end of this connection is gone for good, as after a restore of this domain: it answers nothing
    /// any more. The use is to end then without waiting for it.
    pub fn is_lost(&self) -> bool {
        self.lost.get()
    }

    /// Waits until [`is_lost`](Signals::is_lost), for a driver that is closing and still waits for answers.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time.
    pub async fn lost(&self) {
        self.waiting.wait_until(|| self.lost.get().then_some(())).await;
    }

    /// How often the other end has said that something has changed.
    pub fn changes(&self) -> u32 {
        self.changes.get()
    }

    /// Waits until [`changes`](Signals::changes) is another number than `known`: the other end has written its state
    /// again, as a block backend does when the disk's size has changed.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time.
    pub async fn changed(&self, known: u32) {
        self.waiting.wait_until(|| (self.changes.get() != known).then_some(())).await;
    }

    pub(crate) fn close(&self) {
        self.closing.set(true);
        self.waiting.wake_all();
    }

    /// The other end is gone, which closes the device too.
    pub(crate) fn lose(&self) {
        self.lost.set(true);
        self.close();
    }

    pub(crate) fn change(&self) {
        self.changes.set(self.changes.get().wrapping_add(1));
        self.waiting.wake_all();
    }
}

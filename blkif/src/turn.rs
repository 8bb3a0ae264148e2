//! How much a driver does before the domain's other tasks have their turn.

use core::future::poll_fn;
use core::task::Poll;

/// Bytes that a driver moves in one turn, and what it does besides counted as so many.
pub(crate) const BUDGET: usize = 256 << 10;

/// What is left of a driver's turn. A peer that always has something more to do ends it, not the driver's patience.
#[derive(Debug)]
pub(crate) struct Turn {
    left: usize,
}

impl Turn {
    pub(crate) const fn new() -> Turn {
        Turn { left: BUDGET }
    }

    pub(crate) fn spend(&mut self, bytes: usize) {
        self.left = self.left.saturating_sub(bytes);
    }

    /// Whether it is time to let others go on.
    pub(crate) fn is_over(&self) -> bool {
        self.left == 0
    }

    /// Others have had their turn.
    pub(crate) fn begin(&mut self) {
        self.left = BUDGET;
    }

    /// Lets the tasks run that are ready, and begins anew after them.
    pub(crate) async fn end(&mut self) {
        let mut yielded = false;
        poll_fn(|cx| match core::mem::replace(&mut yielded, true) {
            true => Poll::Ready(()),
            false => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        })
        .await;
        self.begin();
    }
}

//! Other tasks' turns: a peer whose bytes are always there does not keep them from running.

use core::future::poll_fn;
use core::task::Poll;

/// So many bytes, or steps, are dealt with at once.
const BUDGET: usize = 64 << 10;
/// What a step costs, beside its bytes.
const STEP: usize = 512;

#[derive(Default)]
pub(crate) struct Turn(usize);

impl Turn {
    /// Counts work, and lets others run when it was much.
    pub(crate) async fn count(&mut self, bytes: usize) {
        self.0 += STEP + bytes;
        if self.0 >= BUDGET {
            self.0 = 0;
            let mut polled = false;
            poll_fn(|cx| {
                if polled {
                    return Poll::Ready(());
                }
                polled = true;
                cx.waker().wake_by_ref();
                Poll::Pending
            })
            .await;
        }
    }
}

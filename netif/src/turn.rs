//! Letting others have their turn.

use core::future::poll_fn;
use core::task::Poll;

/// Lets the tasks run that are ready, and goes on after them.
pub(crate) async fn yield_now() {
    let mut yielded = false;
    poll_fn(|cx| match core::mem::replace(&mut yielded, true) {
        true => Poll::Ready(()),
        false => {
            cx.waker().wake_by_ref();
            Poll::Pending
        }
    })
    .await;
}

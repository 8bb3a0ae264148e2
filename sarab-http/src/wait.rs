//! Waiting with an end.

use core::future::{Future, poll_fn};
use core::pin::pin;
use core::task::Poll;
use core::time::Duration;

use xen_hal::Clock;

/// What `future` says, or nothing where it has not by `deadline`.
pub(crate) async fn by<T>(clock: &impl Clock, deadline: Duration, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending => clock.poll_until(deadline, cx).map(|()| None),
    })
    .await
}

/// What `future` says, or nothing where `other` comes first.
pub(crate) async fn before<T>(other: impl Future<Output = ()>, future: impl Future<Output = T>) -> Option<T> {
    let (mut future, mut other) = (pin!(future), pin!(other));
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending => other.as_mut().poll(cx).map(|()| None),
    })
    .await
}

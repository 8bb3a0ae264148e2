//! Time.

use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;

/// A monotonic clock that can wake a task.
///
/// # Examples
///
/// ```
/// use core::time::Duration;
/// use xen_hal::Clock;
///
/// /// Waits ever longer between two tries.
/// async fn retry(clock: &impl Clock, mut is_done: impl FnMut() -> bool) {
///     let mut pause = Duration::from_millis(1);
///     while !is_done() {
///         clock.sleep(pause).await;
///         pause *= 2;
///     }
/// }
///
/// let xen = xen_sim::Xen::new(1);
/// let domain = xen.domain();
/// xen.run(async move {
///     let mut tries = 0;
///     retry(&domain, || { tries += 1; tries == 5 }).await;
///     assert!(domain.now() >= Duration::from_millis(1 + 2 + 4 + 8));
/// });
/// ```
pub trait Clock {
    /// Time since a fixed moment, never going back. It goes on while the domain is suspended only if the
    /// implementation says so.
    fn now(&self) -> Duration;

    /// Ready once [`now`](Clock::now) has reached `deadline`; until then the task is woken at that moment.
    fn poll_until(&self, deadline: Duration, cx: &mut Context<'_>) -> Poll<()>;

    /// Waits until [`now`](Clock::now) has reached `deadline`.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time; the task may still be woken once at the deadline.
    fn sleep_until(&self, deadline: Duration) -> SleepUntil<'_, Self> {
        SleepUntil { clock: self, deadline }
    }

    /// Waits for `duration` from now.
    ///
    /// # Cancellation
    ///
    /// As [`sleep_until`](Clock::sleep_until).
    fn sleep(&self, duration: Duration) -> SleepUntil<'_, Self> {
        self.sleep_until(self.now().saturating_add(duration))
    }
}

impl<T: Clock + ?Sized> Clock for &T {
    fn now(&self) -> Duration {
        (**self).now()
    }

    fn poll_until(&self, deadline: Duration, cx: &mut Context<'_>) -> Poll<()> {
        (**self).poll_until(deadline, cx)
    }
}

/// The future of [`Clock::sleep_until`].
#[must_use = "futures do nothing unless awaited"]
pub struct SleepUntil<'a, C: ?Sized> {
    clock: &'a C,
    deadline: Duration,
}

impl<C: Clock + ?Sized> Future for SleepUntil<'_, C> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.clock.poll_until(self.deadline, cx)
    }
}

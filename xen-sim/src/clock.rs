//! Simulated time: each step takes a microsecond, and where nothing can happen it goes on to the next timer.

use std::task::{Context, Poll};
use std::time::Duration;

use xen_hal::Clock;

use crate::domain::Domain;

impl Clock for Domain {
    fn now(&self) -> Duration {
        self.world().now.get()
    }

    fn poll_until(&self, deadline: Duration, cx: &mut Context<'_>) -> Poll<()> {
        let world = self.world();
        if world.now.get() >= deadline {
            return Poll::Ready(());
        }
        world.set_timer(deadline, cx.waker());
        Poll::Pending
    }
}

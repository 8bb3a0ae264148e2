//! Lines for the console that clients can cause: a few in a minute, and how many more there were.

use core::cell::Cell;
use core::time::Duration;

const INTERVAL: Duration = Duration::from_secs(60);
const BURST: u32 = 10;

/// Counts them.
#[derive(Default)]
pub struct Ratelimit {
    begin: Cell<Duration>,
    printed: Cell<u32>,
    missed: Cell<u32>,
}

impl Ratelimit {
    /// Whether another line may be printed now; and if so, how many were not since the last one.
    pub fn admit(&self, now: Duration) -> Option<u32> {
        if now >= self.begin.get() + INTERVAL {
            self.begin.set(now);
            self.printed.set(0);
        }
        if self.printed.get() >= BURST {
            self.missed.set(self.missed.get().saturating_add(1));
            return None;
        }
        self.printed.set(self.printed.get() + 1);
        Some(self.missed.take())
    }
}

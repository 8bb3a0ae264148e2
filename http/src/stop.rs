//! The end of a server, for which all its tasks wait.

use core::cell::Cell;

use event_listener::Event;

/// Set once; whoever waits for it is woken.
#[derive(Debug, Default)]
pub struct Stop {
    set: Cell<bool>,
    event: Event,
}

impl Stop {
    /// One that is not set.
    pub const fn new() -> Stop {
        Stop { set: Cell::new(false), event: Event::new() }
    }

    /// Sets it.
    pub fn set(&self) {
        self.set.set(true);
        self.event.notify(usize::MAX);
    }

    /// Whether it is set.
    pub fn is_set(&self) -> bool {
        self.set.get()
    }

    /// Waits until it is set. What waits has one place in memory however often it is polled, and none once it is dropped.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time.
    pub async fn wait(&self) {
        while !self.is_set() {
            self.event.listen().await;
        }
    }
}

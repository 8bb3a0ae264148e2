//! The end of a server, for which all its tasks wait.

use core::cell::Cell;

use event_listener::Event;

/// Set once; whoever waits for it is woken.
///
/// # Examples
///
/// ```
/// use std::rc::Rc;
/// use sarab_http::Stop;
///
/// let stop = Rc::new(Stop::new());
/// let xen = xen_sim::Xen::new(1);
/// let waits = stop.clone();
/// let task = xen.domain().spawn(async move { waits.wait().await });
/// stop.set();
/// xen.run(task);
/// ```
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

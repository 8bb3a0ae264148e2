//! What the platform has done so far: what bounds a workload shows here first.

use core::sync::atomic::{AtomicU64, Ordering};

#[cfg(feature = "guest")]
use crate::memory::allocations;

#[cfg(not(feature = "guest"))]
fn allocations() -> u64 {
    0
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident $static:ident;)*) => {
        /// Numbers since the domain started.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Counters {
            $($(#[$doc])* pub $name: u64,)*
            /// Allocations from the heap, where it is this crate's.
            pub allocations: u64,
        }

        $(pub(crate) static $static: Counter = Counter(AtomicU64::new(0));)*

        /// Reads all counters.
        pub fn counters() -> Counters {
            Counters { $($name: $static.0.load(Ordering::Relaxed),)* allocations: allocations() }
        }
    };
}

counters! {
    /// Hypercalls of every kind.
    hypercalls HYPERCALLS;
    /// Times that Xen's upcall was noticed.
    upcalls UPCALLS;
    /// Events delivered to ports.
    events EVENTS;
    /// Notifications sent.
    notifications NOTIFICATIONS;
    /// Times that a task was polled.
    polls POLLS;
    /// Times that the processor was given back for want of work.
    sleeps SLEEPS;
    /// Times that the hardware timer was set.
    timers_set TIMERS_SET;
}

pub(crate) struct Counter(AtomicU64);

impl Counter {
    #[cfg(feature = "guest")]
    pub(crate) const fn new() -> Counter {
        Counter(AtomicU64::new(0))
    }

    #[cfg(feature = "guest")]
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn add_one(&self) {
        self.add(1);
    }

    pub(crate) fn add(&self, count: u64) {
        // One core, and no interrupt handler counts: no locked instruction needed.
        self.0.store(self.0.load(Ordering::Relaxed) + count, Ordering::Relaxed);
    }
}

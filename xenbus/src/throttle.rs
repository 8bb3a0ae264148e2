//! How a driver waits for its peer, and a peer that sends spurious events without end (XSA-332, XSA-391).

use core::future::poll_fn;
use core::task::{Context, Poll};
use core::time::Duration;

use futures_util::future::{Either, select};
use xen_hal::{Clock, Port};

/// Spurious events that are taken one after the other before a driver takes its time.
const SPURIOUS_BURST: u32 = 16;
/// The longest pause is 2 to this power, in milliseconds.
const MAX_DOUBLINGS: u32 = 6;

/// How many events in a row have brought no work.
///
/// # Examples
///
/// ```
/// use core::pin::pin;
/// use core::time::Duration;
/// use xen_hal::{Clock, Port};
/// use xenbus::{EventThrottle, Signals, Wake};
///
/// /// The main loop of a driver: `work` takes what is in the ring, and returns whether there was anything.
/// async fn serve(clock: &impl Clock, port: &impl Port, signals: &Signals, mut work: impl FnMut() -> bool) {
///     let mut throttle = EventThrottle::default();
///     let mut closing = pin!(signals.closing());
///     while !signals.is_closing() {
///         match work() {
///             true => throttle.record_work(),
///             false => throttle.record_spurious(),
///         }
///         throttle.wait(clock, &[port], None, |cx| closing.as_mut().poll(cx)).await;
///     }
/// }
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct EventThrottle {
    spurious: u32,
}

/// Why a driver's wait is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// An event has come, and was taken.
    Event,
    /// The pause of a throttled driver is over: as good as an event, of which it takes none meanwhile.
    Pause,
    /// The deadline has passed.
    Deadline,
    /// What else the driver waits for.
    Other,
}

impl Wake {
    /// Whether the peer may have done something, by its own account or for all that is known.
    pub fn is_event(self) -> bool {
        matches!(self, Wake::Event | Wake::Pause)
    }
}

impl EventThrottle {
    /// Whether the next event is to be looked at when it comes. Otherwise the driver is throttled.
    pub fn ready(&self) -> bool {
        self.spurious < SPURIOUS_BURST
    }

    /// How long to take no notice of events while throttled. Work that comes meanwhile is late by so much at most.
    fn pause(&self) -> Duration {
        Duration::from_millis(1 << (self.spurious / SPURIOUS_BURST).min(MAX_DOUBLINGS))
    }

    /// An event, or a pause, has brought no work.
    pub fn record_spurious(&mut self) {
        self.spurious = self.spurious.saturating_add(1);
    }

    /// There was work.
    pub fn record_work(&mut self) {
        self.spurious = 0;
    }

    /// Waits for an event at any of `ports`, for `other` to be ready, or for `deadline`. While throttled, events are left
    /// where they are, and the deadline is that of the pause.
    ///
    /// `other` is polled each time, also where an event has come, and says what it waits for to the task that it is given.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time; an event that was not returned is not lost.
    pub async fn wait<P: Port>(
        &self,
        clock: &impl Clock,
        ports: &[&P],
        deadline: Option<Duration>,
        mut other: impl FnMut(&mut Context<'_>) -> Poll<()>,
    ) -> Wake {
        let ready = self.ready();
        let waiting = poll_fn(|cx| {
            let other = other(cx);
            let mut event = false;
            if ready {
                for port in ports {
                    event |= port.poll_wait(cx).is_ready();
                }
            }
            if event { Poll::Ready(Wake::Event) } else { other.map(|()| Wake::Other) }
        });
        let (until, over) = match ready {
            true => (deadline, Wake::Deadline),
            false => (Some(clock.now().saturating_add(self.pause())), Wake::Pause),
        };
        match until {
            None => waiting.await,
            Some(until) => match select(waiting, clock.sleep_until(until)).await {
                Either::Left((wake, _)) => wake,
                Either::Right(_) => over,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_end_with_work() {
        let mut throttle = EventThrottle::default();
        for _ in 0..SPURIOUS_BURST {
            assert!(throttle.ready());
            throttle.record_spurious();
        }
        assert!(!throttle.ready());
        assert_eq!(throttle.pause(), Duration::from_millis(2));
        (0..10_000).for_each(|_| throttle.record_spurious());
        assert_eq!(throttle.pause(), Duration::from_millis(64));
        throttle.record_work();
        assert!(throttle.ready());
    }
}

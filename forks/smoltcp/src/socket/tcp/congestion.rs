#[allow(unused)] // by which controllers there are
use crate::time::{Duration, Instant};

use super::RttEstimator;

pub(super) mod no_control;

#[cfg(feature = "socket-tcp-cubic")]
pub(super) mod cubic;

#[cfg(feature = "socket-tcp-reno")]
pub(super) mod reno;

/// What a congestion controller is told of, all in bytes of the maximum segment size that is really sent.
#[allow(unused_variables)]
pub(super) trait Controller {
    /// The number of bytes that can be in flight.
    fn window(&self) -> usize;

    /// What the window becomes in the end of a recovery that has begun.
    fn ssthresh(&self) -> usize {
        usize::MAX
    }

    /// New data is acknowledged. `flight` is the most that was in flight in the last two round trips: the window
    /// does not grow where that did not need it.
    fn on_ack(&mut self, now: Instant, len: usize, flight: usize, rtt: &RttEstimator) {}

    /// A round-trip time was measured.
    fn on_rtt(&mut self, rtt: Duration) {}

    /// A round trip has begun: all is acknowledged that was in flight when the last one began.
    fn on_round(&mut self) {}

    /// Something was lost, for the first time in this window.
    fn on_loss(&mut self, now: Instant, flight: usize) {}

    /// The retransmission timer has expired; `again` if it had for the same data already, or its loss is
    /// accounted for.
    fn on_timeout(&mut self, now: Instant, flight: usize, again: bool) {}

    /// Nothing was lost in truth that the last calls of `on_loss` and `on_timeout` were for.
    fn on_undo(&mut self) {}

    /// Something is sent after nothing was in flight for so long.
    fn on_idle(&mut self, idle: Duration, rto: Duration) {}

    /// Set the maximum segment size.
    fn set_mss(&mut self, mss: usize) {}
}

/// The initial window of RFC 6928.
#[cfg(any(feature = "socket-tcp-cubic", feature = "socket-tcp-reno"))]
fn initial_window(mss: usize) -> usize {
    (10 * mss).min((2 * mss).max(14600))
}

/// What the window is after so long without use: half of it for each timeout, as RFC 2861 has it, down to
/// the initial one.
#[cfg(any(feature = "socket-tcp-cubic", feature = "socket-tcp-reno"))]
fn after_idle(window: usize, mss: usize, idle: Duration, rto: Duration) -> usize {
    let halvings = idle.total_micros() / rto.total_micros().max(1);
    let least = window.min(initial_window(mss));
    (window >> halvings.min(30)).max(least)
}

/// Whether a window should grow of which so much was used at most. In slow start it may be twice of that, since it
/// grows before what it allows is sent.
#[cfg(any(feature = "socket-tcp-cubic", feature = "socket-tcp-reno"))]
fn is_limit(window: usize, flight: usize, mss: usize, slow_start: bool) -> bool {
    if slow_start {
        window < flight.saturating_mul(2)
    } else {
        // What is sent at once may be held back until it is worth a segment of several MSS.
        window <= flight.saturating_add((window / 4).max(2 * mss))
    }
}

#[derive(Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub(super) enum AnyController {
    None(no_control::NoControl),

    #[cfg(feature = "socket-tcp-reno")]
    Reno(reno::Reno),

    #[cfg(feature = "socket-tcp-cubic")]
    Cubic(cubic::Cubic),
}

impl AnyController {
    /// Create a new congestion controller.
    /// `AnyController::new()` selects the best congestion controller based on the features.
    ///
    /// - If `socket-tcp-cubic` feature is enabled, it will use `Cubic`.
    /// - If `socket-tcp-reno` feature is enabled, it will use `Reno`.
    /// - If both `socket-tcp-cubic` and `socket-tcp-reno` features are enabled, it will use `Cubic`.
    ///    - `Cubic` is more efficient regarding throughput.
    ///    - `Reno` is more conservative and is suitable for low-power devices.
    /// - If no congestion controller is available, it will use `NoControl`.
    ///
    /// Users can also select a congestion controller manually by [`super::Socket::set_congestion_control()`]
    /// method at run-time.
    #[allow(unreachable_code)]
    #[inline]
    pub fn new() -> Self {
        #[cfg(feature = "socket-tcp-cubic")]
        {
            return AnyController::Cubic(cubic::Cubic::new());
        }

        #[cfg(feature = "socket-tcp-reno")]
        {
            return AnyController::Reno(reno::Reno::new());
        }

        AnyController::None(no_control::NoControl)
    }

    #[inline]
    pub fn inner_mut(&mut self) -> &mut dyn Controller {
        match self {
            AnyController::None(n) => n,

            #[cfg(feature = "socket-tcp-reno")]
            AnyController::Reno(r) => r,

            #[cfg(feature = "socket-tcp-cubic")]
            AnyController::Cubic(c) => c,
        }
    }

    #[inline]
    pub fn inner(&self) -> &dyn Controller {
        match self {
            AnyController::None(n) => n,

            #[cfg(feature = "socket-tcp-reno")]
            AnyController::Reno(r) => r,

            #[cfg(feature = "socket-tcp-cubic")]
            AnyController::Cubic(c) => c,
        }
    }
}

//! How fast the other end of a device can have this end connect.

use core::time::Duration;

/// Connections that are made at once, one after the other: a guest that reboots, a loader before its kernel, a driver
/// that is loaded anew.
const AT_ONCE: u32 = 6;
/// The first pause after these; it is doubled with each further connection.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The first pause before a connection that only this end wants, doubled likewise.
const FIRST_UNREQUESTED_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(32);
/// A device that was in use for so long begins with none of this.
const STABLE_AFTER: Duration = Duration::from_secs(60);

/// How long a device pauses before it connects again.
///
/// A peer that connects and closes in turn has this end do all the work of a connection: some 60 requests to the store,
/// mapped pages, lines in the log.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    /// Connections in a row that the other end has asked for, of which none has lasted.
    asked: u32,
    /// The same of those that it has not asked for.
    unasked: u32,
    up_since: Option<Duration>,
}

impl Backoff {
    /// The device is in use.
    pub(crate) fn connected(&mut self, now: Duration) {
        self.up_since = Some(now);
    }

    /// It is not any more.
    pub(crate) fn disconnected(&mut self, now: Duration) {
        if self.up_since.take().is_some_and(|since| now >= since.saturating_add(STABLE_AFTER)) {
            (self.asked, self.unasked) = (0, 0);
        }
    }

    /// The device is to connect again, as the other end has asked for that: how long it has to wait.
    pub(crate) fn next_pause(&mut self) -> Duration {
        self.asked = self.asked.saturating_add(1);
        match self.asked.checked_sub(AT_ONCE + 1) {
            None => Duration::ZERO,
            Some(doublings) => doubled(FIRST_PAUSE, doublings),
        }
    }

    /// The device is to connect again, though the other end has not asked for that: how long it has to wait.
    pub(crate) fn next_unrequested_pause(&mut self) -> Duration {
        self.unasked = self.unasked.saturating_add(1);
        doubled(FIRST_UNREQUESTED_PAUSE, self.unasked - 1)
    }

    /// How many connections there were in a row.
    pub(crate) fn count(&self) -> u32 {
        self.asked.saturating_add(self.unasked)
    }

    /// Whether there are so many that the log is better off without each of their steps.
    pub(crate) fn is_throttled(&self) -> bool {
        self.asked > AT_ONCE || self.unasked > AT_ONCE
    }
}

fn doubled(pause: Duration, doublings: u32) -> Duration {
    1_u32.checked_shl(doublings).map_or(MAX_PAUSE, |factor| pause.saturating_mul(factor).min(MAX_PAUSE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn a_few_connections_are_at_once_and_more_are_ever_slower() {
        let mut backoff = Backoff::default();
        let pauses: Vec<u128> = (0..16).map(|_| backoff.next_pause().as_millis()).collect();
        let expected = [0, 0, 0, 0, 0, 0, 250, 500, 1000, 2000, 4000, 8000, 16_000, 32_000, 32_000, 32_000];
        assert_eq!(pauses, expected);
        (backoff.asked, backoff.unasked) = (u32::MAX, u32::MAX);
        assert_eq!((backoff.next_pause(), backoff.next_unrequested_pause()), (MAX_PAUSE, MAX_PAUSE));
    }

    #[test]
    fn a_connection_that_has_lasted_ends_the_row_and_a_short_one_does_not() {
        let second = Duration::from_secs(1);
        let mut backoff = Backoff::default();
        let mut now = Duration::ZERO;
        for _ in 0..1000 {
            backoff.next_pause();
            backoff.connected(now);
            now += STABLE_AFTER - second;
            backoff.disconnected(now);
        }
        assert_eq!(backoff.next_pause(), MAX_PAUSE);
        assert!(backoff.is_throttled());
        backoff.connected(now);
        backoff.disconnected(now + STABLE_AFTER);
        assert_eq!((backoff.next_pause(), backoff.is_throttled()), (Duration::ZERO, false));
        // Where it was never in use, nothing has lasted.
        for _ in 0..20 {
            backoff.next_pause();
        }
        backoff.disconnected(now + 100 * STABLE_AFTER);
        assert_eq!(backoff.next_pause(), MAX_PAUSE);
    }

    #[test]
    fn unasked_connections_wait_from_the_first_on() {
        let mut backoff = Backoff::default();
        let pauses: Vec<u64> = (0..8).map(|_| backoff.next_unrequested_pause().as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 32, 32]);
    }
}

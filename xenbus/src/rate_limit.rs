//! How often something happens that a peer can cause.

use core::time::Duration;

/// Lets so much through that an administrator sees what happens, and a peer that makes it happen all the time costs little.
///
/// # Examples
///
/// ```
/// use core::time::Duration;
/// use xenbus::RateLimit;
///
/// let mut limit = RateLimit::new(2, Duration::from_secs(1));
/// let at = Duration::from_millis;
/// assert!(limit.allows(at(5000)) && limit.allows(at(5001)));
/// assert!(!limit.allows(at(5002)));
/// assert_eq!(limit.next(), at(6000));
/// ```
#[derive(Debug)]
pub struct RateLimit {
    burst: u32,
    interval: Duration,
    /// When all that was let through is paid for (the generic cell rate algorithm).
    paid: Duration,
}

impl RateLimit {
    /// `burst` at once, and then one more each time that `interval` has passed.
    pub const fn new(burst: u32, interval: Duration) -> RateLimit {
        RateLimit { burst, interval, paid: Duration::ZERO }
    }

    /// For log lines.
    pub const fn for_log_lines() -> RateLimit {
        RateLimit::new(8, Duration::from_secs(60))
    }

    /// Whether it may happen now, which then counts.
    pub fn allows(&mut self, now: Duration) -> bool {
        let allowed = self.next() <= now;
        if allowed {
            self.take(now);
        }
        allowed
    }

    /// When it may happen next.
    pub fn next(&self) -> Duration {
        self.paid.saturating_sub(self.interval.saturating_mul(self.burst.saturating_sub(1)))
    }

    /// It happens now.
    pub fn take(&mut self, now: Duration) {
        self.paid = self.paid.max(now).saturating_add(self.interval);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_lines_and_then_one_a_minute() {
        let mut limit = RateLimit::for_log_lines();
        let lines = |limit: &mut RateLimit, seconds: core::ops::Range<u64>| {
            seconds.filter(|second| limit.allows(Duration::from_secs(*second))).count()
        };
        assert_eq!(lines(&mut limit, 0..60), 8);
        assert_eq!(lines(&mut limit, 60..3600), 59);
        let next = limit.next();
        assert!(!limit.allows(next - Duration::from_nanos(1)) && limit.allows(next));
        assert_eq!(lines(&mut limit, 100_000..100_060), 8);
        assert!(RateLimit::for_log_lines().allows(Duration::MAX));
    }

    #[test]
    fn looks_come_in_a_burst_and_then_evenly() {
        const BURST: u32 = 32;
        let mut limit = RateLimit::new(BURST, Duration::from_millis(100));
        let mut now = Duration::from_secs(5);
        let mut looks = 0;
        for _ in 0..60_000 {
            now += Duration::from_millis(1);
            if limit.next() <= now {
                limit.take(now);
                looks += 1;
            }
        }
        assert_eq!(looks, 600 + BURST - 1);
        now += Duration::from_secs(60);
        for _ in 0..BURST {
            assert!(limit.next() <= now);
            limit.take(now);
        }
        assert!(limit.next() > now);
    }
}

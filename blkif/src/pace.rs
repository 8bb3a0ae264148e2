//! How often something happens that a peer can cause.

use core::time::Duration;

/// Lets so much through that an administrator sees what happens, and a peer that makes it happen all the time costs little.
#[derive(Debug)]
pub(crate) struct Pace {
    burst: u32,
    refill: Duration,
    left: u32,
    since: Duration,
}

impl Pace {
    /// `burst` at once, and then one more each time that `refill` has passed.
    pub(crate) const fn new(burst: u32, refill: Duration) -> Pace {
        Pace { burst, refill, left: burst, since: Duration::ZERO }
    }

    /// For log lines.
    pub(crate) const fn of_lines() -> Pace {
        Pace::new(8, Duration::from_secs(60))
    }

    /// Whether it may happen now, which then counts.
    pub(crate) fn allows(&mut self, now: Duration) -> bool {
        if self.left < self.burst {
            let more = now.saturating_sub(self.since).as_nanos() / self.refill.as_nanos().max(1);
            if more > 0 {
                self.left = (u128::from(self.left) + more).min(self.burst.into()) as u32;
                self.since = now;
            }
        } else {
            self.since = now;
        }
        let allowed = self.left > 0;
        self.left -= u32::from(allowed);
        allowed
    }

    /// When it may happen again, where it may not now.
    pub(crate) fn next(&self) -> Duration {
        self.since.saturating_add(self.refill)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_lines_and_then_one_a_minute() {
        let mut pace = Pace::of_lines();
        let lines = |pace: &mut Pace, seconds: core::ops::Range<u64>| {
            seconds.filter(|second| pace.allows(Duration::from_secs(*second))).count()
        };
        assert_eq!(lines(&mut pace, 0..60), 8);
        assert_eq!(lines(&mut pace, 60..3600), 59);
        let next = pace.next();
        assert!(!pace.allows(next - Duration::from_nanos(1)) && pace.allows(next));
        assert_eq!(lines(&mut pace, 100_000..100_060), 8);
        assert!(Pace::of_lines().allows(Duration::MAX));
    }
}

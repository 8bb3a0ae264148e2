//! A bound on how often something happens.

use core::time::Duration;

/// So many at once, and so many a second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    burst: u32,
    per_second: u32,
    /// In thousandths.
    left: u64,
    since: Duration,
}

impl Bucket {
    pub(crate) fn new(burst: u32, per_second: u32) -> Bucket {
        Bucket { burst, per_second, left: u64::from(burst) * 1000, since: Duration::ZERO }
    }

    /// Whether it may happen now.
    pub(crate) fn take(&mut self, now: Duration) -> bool {
        let passed = now.saturating_sub(self.since).as_millis().min(u128::from(u32::MAX)) as u64;
        if passed > 0 {
            self.since = now;
            let more = passed.saturating_mul(self.per_second.into());
            self.left = self.left.saturating_add(more).min(u64::from(self.burst) * 1000);
        }
        match self.left.checked_sub(1000) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_burst_and_the_rate() {
        let mut bucket = Bucket::new(3, 2);
        let mut taken = |millis| bucket.take(Duration::from_millis(millis));
        assert!(taken(0) && taken(0) && taken(0) && !taken(0));
        assert!(!taken(499) && taken(500) && !taken(999) && taken(1000));
        assert!(taken(60_000) && taken(60_000) && taken(60_000) && !taken(60_000));
    }
}

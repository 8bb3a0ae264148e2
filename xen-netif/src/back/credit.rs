//! How much a guest may send in a time.

use core::time::Duration;

/// Bytes that the guest may send, and how many in a time.
pub(super) struct Credit {
    rate: Option<(u64, Duration)>,
    left: u64,
    since: Duration,
}

impl Credit {
    pub(super) fn new(rate: Option<(u64, Duration)>, now: Duration) -> Credit {
        Credit { rate, left: rate.map_or(u64::MAX, |(bytes, _)| bytes), since: now }
    }

    /// Whether the guest may send now; if not, from when on.
    pub(super) fn check(&mut self, now: Duration) -> Result<(), Duration> {
        let Some((bytes, time)) = self.rate else { return Ok(()) };
        let renewed = self.since.saturating_add(time);
        if now >= renewed {
            (self.left, self.since) = (bytes, now);
            return Ok(());
        }
        if self.left > 0 { Ok(()) } else { Err(renewed) }
    }

    /// A packet may take more than is left: the largest has to get through as well.
    pub(super) fn spend(&mut self, bytes: usize) {
        if self.rate.is_some() {
            self.left = self.left.saturating_sub(bytes as u64);
        }
    }
}

/// What the node `rate` says (`xl`: `rate` of a vif): bytes, and in how many microseconds. `None` where it makes no sense.
/// No time is no limit, as in Linux.
pub(super) fn parse(text: &str) -> Option<Option<(u64, Duration)>> {
    let (bytes, time) = text.split_once(',')?;
    let (bytes, time) = (bytes.parse().ok()?, time.parse().ok()?);
    match (bytes, time) {
        (0, _) => None,
        (_, 0) => Some(None),
        _ => Some(Some((bytes, Duration::from_micros(time)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_the_toolstack_may_write() {
        let micros = Duration::from_micros;
        assert_eq!(parse("10000,50000"), Some(Some((10_000, micros(50_000)))));
        assert_eq!(parse("10000,0"), Some(None));
        let most = "18446744073709551615";
        assert_eq!(parse(&alloc::format!("{most},{most}")), Some(Some((u64::MAX, micros(u64::MAX)))));
        for bad in ["", ",", "1", "0,5", "0,0", "-1,5", "1,-5", "x,5", "1,5,5", "18446744073709551616,1"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    proptest! {
        /// With any numbers: no more in a time than was said, but for one packet; and who waits as long as he is told to
        /// may send.
        #[test]
        fn no_more_than_the_rate(
            bytes in prop_oneof![1..5000_u64, Just(u64::MAX)],
            time in prop_oneof![1..5000_u64, Just(u64::MAX)],
            start in prop_oneof![0..5000_u64, Just(u64::MAX)],
            steps in prop::collection::vec((0..3000_u64, 0..70_000_usize), 0..50),
        ) {
            let time = Duration::from_micros(time);
            let mut now = Duration::from_micros(start);
            let mut credit = Credit::new(Some((bytes, time)), now);
            let (mut sent, mut since) = (0_u64, now);
            for (pause, len) in steps {
                now += Duration::from_micros(pause);
                if now >= since + time {
                    (sent, since) = (0, now);
                }
                match credit.check(now) {
                    Ok(()) => {
                        prop_assert!(sent < bytes);
                        credit.spend(len);
                        sent = sent.saturating_add(len as u64);
                    }
                    Err(until) => {
                        prop_assert!(sent >= bytes && until > now);
                        now = until;
                        prop_assert_eq!(credit.check(now), Ok(()));
                        (sent, since) = (0, now);
                    }
                }
            }
        }
    }
}

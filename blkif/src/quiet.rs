//! Log lines that a peer can cause.

use core::time::Duration;

/// How many lines may come one after the other.
const BURST: u32 = 8;
/// How long it takes until there may be one more.
const REFILL: Duration = Duration::from_secs(60);

/// Lets so many lines through that an administrator sees what happens, and a peer that makes it happen all the time does
/// not fill the log.
#[derive(Debug)]
pub(crate) struct Quiet {
    left: u32,
    since: Duration,
}

impl Quiet {
    pub(crate) const fn new() -> Quiet {
        Quiet { left: BURST, since: Duration::ZERO }
    }

    /// Whether a line may be logged now, which then counts as logged.
    pub(crate) fn allows(&mut self, now: Duration) -> bool {
        let more = (now.saturating_sub(self.since).as_secs() / REFILL.as_secs()).min(BURST.into()) as u32;
        if more > 0 {
            self.left = (self.left + more).min(BURST);
            self.since = now;
        }
        let allowed = self.left > 0;
        self.left -= u32::from(allowed);
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_lines_and_then_one_a_minute() {
        let mut quiet = Quiet::new();
        let lines = |quiet: &mut Quiet, seconds: core::ops::Range<u64>| {
            seconds.filter(|second| quiet.allows(Duration::from_secs(*second))).count()
        };
        assert_eq!(lines(&mut quiet, 0..60), 8);
        assert_eq!(lines(&mut quiet, 60..3600), 59);
        assert_eq!(lines(&mut quiet, 100_000..100_060), 8);
        assert!(Quiet::new().allows(Duration::MAX));
    }
}

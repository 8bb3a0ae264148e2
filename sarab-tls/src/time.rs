//! The wall clock, as far as it can be right.

use alloc::sync::Arc;
use core::fmt;
use core::time::Duration;

use pki_types::UnixTime;
use rustls::time_provider::TimeProvider;

use crate::ClockError;

/// 2026-01-01 00:00 UTC: this code is not older.
const EARLIEST: Duration = Duration::from_secs(1_767_225_600);
/// 2100-01-01 00:00 UTC: no certificate is meant to be valid for so long.
const LATEST: Duration = Duration::from_secs(4_102_444_800);

/// A wall clock: time since 1970-01-01 00:00 UTC.
#[derive(Clone)]
pub(crate) struct WallClock(Arc<dyn Fn() -> Duration + Send + Sync>);

impl WallClock {
    pub(crate) fn new(now: impl Fn() -> Duration + Send + Sync + 'static) -> WallClock {
        WallClock(Arc::new(now))
    }

    pub(crate) fn now(&self) -> Duration {
        (self.0)()
    }

    /// Whether it can be right.
    pub(crate) fn check(&self) -> Result<(), ClockError> {
        let now = self.now();
        match (EARLIEST..LATEST).contains(&now) {
            true => Ok(()),
            false => Err(ClockError { seconds: now.as_secs() }),
        }
    }
}

impl fmt::Debug for WallClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WallClock").field(&self.now()).finish()
    }
}

impl TimeProvider for WallClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(self.now()))
    }
}

//! From the processor's time-stamp counter to nanoseconds.

use core::arch::x86_64::{_mm_lfence, _rdtsc};

/// How to convert, as Xen keeps it up to date (`struct vcpu_time_info`).
pub(crate) struct Scale {
    pub tsc_timestamp: u64,
    pub system_time: u64,
    pub multiplier: u32,
    pub shift: i8,
}

impl Scale {
    /// The system time at a reading of the counter.
    pub fn time_at(&self, tsc: u64) -> u64 {
        // On another core's counter, or after a migration, the reading may lie before the time stamp.
        let delta = tsc.saturating_sub(self.tsc_timestamp);
        let shifted = match self.shift {
            0.. => delta << self.shift.min(63),
            _ => delta >> self.shift.unsigned_abs().min(63),
        };
        let nanoseconds = (u128::from(shifted) * u128::from(self.multiplier)) >> 32;
        self.system_time.wrapping_add(nanoseconds as u64)
    }
}

/// Reads the counter, not before earlier instructions are done.
pub(crate) fn read_tsc() -> u64 {
    // SAFETY: both are part of x86-64; Xen gives guests the counter.
    unsafe {
        _mm_lfence();
        _rdtsc()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_by_multiplier_and_shift() {
        // 2 GHz: a tick is half a nanosecond.
        let slow = Scale { tsc_timestamp: 1000, system_time: 5_000, multiplier: 1 << 31, shift: 0 };
        assert_eq!(slow.time_at(3000), 6_000);
        assert_eq!(slow.time_at(999), 5_000);
        let fast = Scale { tsc_timestamp: 0, system_time: 0, multiplier: 1 << 31, shift: -1 };
        assert_eq!(fast.time_at(4000), 1_000);
        let coarse = Scale { tsc_timestamp: 0, system_time: 0, multiplier: 1 << 31, shift: 2 };
        assert_eq!(coarse.time_at(u64::MAX >> 8), (u64::MAX >> 8) * 2 - if (u64::MAX >> 8) % 2 == 1 { 0 } else { 1 });
        let year = 365 * 86_400 * 2_000_000_000_u64;
        assert_eq!(slow.time_at(1000 + year), 5_000 + year / 2);
    }
}

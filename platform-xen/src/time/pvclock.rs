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
        // The guest's counter began at 0 when the domain was made, the time stamp may be from before: it is negative
        // then. A reading that lies before the stamp, as on another core's counter, counts as the stamp's time.
        let delta = (tsc.wrapping_sub(self.tsc_timestamp) as i64).max(0) as u64;
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
        let from_before = Scale { tsc_timestamp: 2_u64.wrapping_neg(), ..slow };
        assert_eq!(from_before.time_at(998), 5_500);
        let fast = Scale { tsc_timestamp: 0, system_time: 0, multiplier: 1 << 31, shift: -1 };
        assert_eq!(fast.time_at(4000), 1_000);
        let coarse = Scale { tsc_timestamp: 0, system_time: 0, multiplier: 1 << 31, shift: 2 };
        assert_eq!(coarse.time_at(1 << 56), 1 << 57);
        let year = 365 * 86_400 * 2_000_000_000_u64;
        assert_eq!(slow.time_at(1000 + year), 5_000 + year / 2);
    }
}

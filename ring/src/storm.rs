//! A peer that rings without end (XSA-332, XSA-391).

use core::time::Duration;

/// Events without work that are taken one after the other before a driver takes its time.
const TAKEN_AT_ONCE: u32 = 16;
/// The longest pause is 2 to this power, in milliseconds.
const MOST_DOUBLINGS: u32 = 6;

/// How many events in a row have brought no work.
#[derive(Debug, Default)]
pub struct Storm {
    barren: u32,
}

impl Storm {
    /// Whether the next event is to be looked at when it comes.
    pub fn is_calm(&self) -> bool {
        self.barren < TAKEN_AT_ONCE
    }

    /// How long to take no notice of events otherwise. Work that came meanwhile is late by so much at most.
    pub fn pause(&self) -> Duration {
        Duration::from_millis(1 << (self.barren / TAKEN_AT_ONCE).min(MOST_DOUBLINGS))
    }

    /// An event, or a pause, has brought no work.
    pub fn in_vain(&mut self) {
        self.barren = self.barren.saturating_add(1);
    }

    /// There was work.
    pub fn over(&mut self) {
        self.barren = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_end_with_work() {
        let mut storm = Storm::default();
        for _ in 0..TAKEN_AT_ONCE {
            assert!(storm.is_calm());
            storm.in_vain();
        }
        assert!(!storm.is_calm());
        assert_eq!(storm.pause(), Duration::from_millis(2));
        (0..10_000).for_each(|_| storm.in_vain());
        assert_eq!(storm.pause(), Duration::from_millis(64));
        storm.over();
        assert!(storm.is_calm());
    }
}

//! Counting what holds and what does not.

use alloc::string::String;
use core::fmt::Display;

use sarab::println;

/// The outcome so far.
pub struct Checks {
    passed: u32,
    failed: u32,
}

impl Checks {
    pub fn new() -> Checks {
        Checks { passed: 0, failed: 0 }
    }

    /// Counts a check; says what does not hold.
    pub fn check(&mut self, holds: bool, what: impl Display) {
        match holds {
            true => self.passed += 1,
            false => {
                self.failed += 1;
                println!("FAIL: {what}");
            }
        }
    }

    /// Counts a check that two values are equal.
    pub fn equal<T: PartialEq + core::fmt::Debug>(&mut self, found: T, expected: T, what: impl Display) {
        let holds = found == expected;
        self.check(holds, format_args!("{what}: found {found:?}, expected {expected:?}"));
    }

    /// Prints the sum; an error, and so a crash, where something failed.
    pub fn finish(self) -> Result<(), String> {
        println!("probe: {} passed, {} failed", self.passed, self.failed);
        match self.failed {
            0 => Ok(()),
            _ => Err("checks failed".into()),
        }
    }
}

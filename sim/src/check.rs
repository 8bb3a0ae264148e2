//! Many runs with many seeds.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crate::world::Xen;

/// Runs `test` with `runs` seeds. Where one fails, its seed is printed; `SARAB_SIM_SEED=N` runs that one alone.
///
/// # Panics
///
/// Where a run does.
pub fn check(name: &str, runs: u64, test: impl Fn(&Xen)) {
    let only = std::env::var("SARAB_SIM_SEED").ok().map(|seed| seed.parse().expect("SARAB_SIM_SEED is a number"));
    let seeds = match only {
        Some(seed) => seed..seed + 1,
        None => 0..runs,
    };
    for seed in seeds {
        let xen = Xen::new(seed);
        let outcome = catch_unwind(AssertUnwindSafe(|| test(&xen)));
        if let Err(panic) = outcome {
            eprintln!("{name}: seed {seed} failed; SARAB_SIM_SEED={seed} runs it again");
            resume_unwind(panic);
        }
        xen.end();
    }
}

//! Many runs with many seeds.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use crate::world::Xen;

/// Runs `test` with `runs` seeds, on all processors, and checks after each what it has cost ([`Budgets`](crate::Budgets)). Where one fails, its seed is printed; `SARAB_SIM_SEED=N` runs that
/// one alone.
///
/// # Panics
///
/// Where a run does, or has cost more than its budgets.
///
/// # Examples
///
/// ```
/// use xen_hal::{EventChannels, Port};
///
/// xen_sim::check("a notification arrives", 20, |xen| {
///     let (one, other) = (xen.domain(), xen.domain());
///     xen.run(async move {
///         let port = one.alloc_unbound(other.id()).unwrap();
///         let peer = other.bind_interdomain(one.id(), port.number()).unwrap();
///         peer.notify();
///         port.wait().await;
///     });
/// });
/// ```
pub fn check(name: &str, runs: u64, test: impl Fn(&Xen) + Sync) {
    let only = std::env::var("SARAB_SIM_SEED").ok().map(|seed| seed.parse().expect("SARAB_SIM_SEED is a number"));
    let seeds = match only {
        Some(seed) => seed..seed + 1,
        None => 0..runs,
    };
    let next = AtomicU64::new(seeds.start);
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return;
            }
            let xen = Xen::new(seed);
            let run = || {
                test(&xen);
                xen.check_budgets();
            };
            match catch_unwind(AssertUnwindSafe(run)) {
                Ok(()) => xen.end(),
                Err(panic) => {
                    eprintln!("{name}: seed {seed} failed; SARAB_SIM_SEED={seed} runs it again");
                    next.store(seeds.end, Ordering::Relaxed);
                    // What ends in the middle of its work is not to complain of that on top.
                    std::mem::forget(xen);
                    resume_unwind(panic);
                }
            }
        }
    };
    let workers = thread::available_parallelism().map_or(1, usize::from).min(seeds.clone().count());
    let outcomes: Vec<_> = thread::scope(|scope| {
        let running: Vec<_> = (1..workers).map(|_| scope.spawn(work)).collect();
        work();
        running.into_iter().map(|worker| worker.join()).collect()
    });
    for outcome in outcomes {
        if let Err(panic) = outcome {
            resume_unwind(panic);
        }
    }
}

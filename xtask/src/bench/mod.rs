//! `cargo xen bench`: how fast things are, in the simulation and on real Xen.
//!
//! The lab emulates its processors: numbers of one boot can be compared with each other, and with nothing else.

mod disk;
mod dns;
mod gate;
mod http;
mod net;
mod soak;
mod store;
mod table;
mod vault;
mod wan;
mod work;

use std::time::Duration;

use anyhow::{Result, ensure};

use cargo_xen::parse_suite;
use xen_lab::{Lab, Options, StoreServer, Suite, suite};

/// The command-line arguments.
#[derive(clap::Args)]
pub struct BenchArgs {
    /// Only in the simulation, on this machine
    #[arg(long, conflicts_with_all = ["lab_only", "suite", "oxenstored", "only"])]
    host_only: bool,
    /// Only in the lab
    #[arg(long)]
    lab_only: bool,
    /// Only this: store (requests to the store), disk, net, http or wan (TCP with delay, loss, reordering and a
    /// bottleneck; each beside a Linux guest), dns (beside NSD in a Linux guest), gate (beside Linux as a router), vault (beside dom0's blkback
    /// and dm-crypt), or soak (whether `web`'s memory stays as it is, which takes long and is not
    /// done otherwise)
    #[arg(long, value_name = "WHAT", value_parser = PARTS.map(|part| part.name))]
    only: Option<String>,
    /// Which Xen in the lab: bookworm (4.17) or trixie (4.20)
    #[arg(long, value_name = "SUITE", value_parser = parse_suite)]
    suite: Option<Suite>,
    /// With oxenstored as the store, instead of xenstored
    #[arg(long)]
    oxenstored: bool,
    /// How often disk, networks and HTTP are measured, ours and Linux's in turn
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=20))]
    rounds: u32,
}

/// What is measured in the lab.
struct Part<L> {
    name: &'static str,
    /// Whether the emulator is to have two threads ([`Options::parallel`]).
    parallel: bool,
    measure: fn(&L, u32) -> Result<()>,
}

/// What `--only` names.
const PARTS: [Part<Lab>; 9] = [
    Part { name: "store", parallel: true, measure: |lab, _| store::lab(lab) },
    Part { name: "disk", parallel: true, measure: disk::lab },
    Part { name: "net", parallel: true, measure: net::lab },
    Part { name: "http", parallel: true, measure: http::lab },
    Part { name: "dns", parallel: true, measure: dns::lab },
    // It waits for timers most of the time. With two threads those are late on a busy host: 50 ms take a second, and a Linux
    // guest sends 2 to 20 Mbit/s where it sends 100 with one.
    Part { name: "wan", parallel: false, measure: wan::lab },
    Part { name: "gate", parallel: true, measure: gate::lab },
    // What is compared is work: with two threads, a busy host's scheduler is measured. A request that waits for the other thread's
    // turn takes milliseconds, in either column.
    Part { name: "vault", parallel: false, measure: vault::lab },
    Part { name: "soak", parallel: true, measure: |lab, _| soak::lab(lab) },
];
/// Done where it is asked for, and not otherwise.
const LONG: &str = "soak";

/// Runs the benchmarks that were asked for.
pub fn command(args: &BenchArgs) -> Result<()> {
    if !args.lab_only && args.only.as_ref().is_none_or(|only| only == "store") {
        store::host()?;
    }
    if args.host_only {
        return Ok(());
    }
    let suite = args.suite.unwrap_or(suite::DEFAULT);
    let store = if args.oxenstored { StoreServer::Oxenstored } else { StoreServer::Xenstored };
    println!("In the lab, {suite}, {}:", if args.oxenstored { "oxenstored" } else { "xenstored" });
    let timeout = Some(Duration::from_secs(120));
    let boot = |parallel| Lab::boot(suite, &Options { timeout, store, parallel, isolated: true, ..Options::default() });
    let chosen =
        PARTS.into_iter().filter(|part| args.only.as_deref().map_or(part.name != LONG, |only| only == part.name));
    measure(chosen, args.rounds, boot)
}

/// Does all parts, those after one that has failed in a new boot: a command that is stuck may hold up all others.
fn measure<L>(parts: impl Iterator<Item = Part<L>>, rounds: u32, boot: impl Fn(bool) -> Result<L>) -> Result<()> {
    let (mut lab, mut failed) = (None, Vec::new());
    for part in parts {
        let booted = match lab.take() {
            Some((parallel, booted)) if parallel == part.parallel => booted,
            other => {
                drop(other);
                boot(part.parallel)?
            }
        };
        match (part.measure)(&booted, rounds) {
            Ok(()) => lab = Some((part.parallel, booted)),
            Err(error) => {
                println!("FAILED  {}: {error:#}", part.name);
                failed.push(part.name);
            }
        }
    }
    ensure!(failed.is_empty(), "not measured to the end: {}", failed.join(", "));
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    #[test]
    fn a_part_that_fails_does_not_keep_others_from_being_measured() {
        thread_local!(static DONE: Cell<u32> = const { Cell::new(0) });
        let good = |_: &(), rounds| {
            DONE.set(DONE.get() + rounds);
            Ok(())
        };
        let part = |name, parallel, measure| Part { name, parallel, measure };
        let parts = [
            part("one", true, good),
            part("two", true, |_, _| anyhow::bail!("a command in dom0 is stuck")),
            part("three", true, good),
            part("four", true, good),
            part("five", false, good),
        ];
        let boots = RefCell::new(Vec::new());
        let outcome = measure(parts.into_iter(), 5, |parallel| {
            boots.borrow_mut().push(parallel);
            Ok(())
        });
        assert_eq!(outcome.unwrap_err().to_string(), "not measured to the end: two");
        assert_eq!((DONE.get(), boots.into_inner()), (20, vec![true, true, false]));
    }
}

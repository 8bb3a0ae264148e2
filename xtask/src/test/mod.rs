//! `cargo xen test`: everything that is checked before a change lands.

mod addresses;
mod balloon;
mod checks;
mod cuts;
mod deny;
mod disk;
pub mod dns;
mod gate;
mod gate_nft;
mod gate_qubes;
mod guest_agent;
mod host;
mod hostile;
mod https;
mod hvm;
mod lan;
mod limits;
mod linux;
mod luks;
mod moves;
mod net;
mod package;
mod qubes;
mod shares;
pub mod store;
mod tools;
mod vault;
mod vchan;
mod walk;
pub mod web;
mod web_nginx;
mod xl;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::Result;
use cargo_xen::{Guest, Sarab, parse_suite};
use xen_lab::{Dom0, Lab, Options, StoreServer, Suite, suite};

use self::checks::Check;
use crate::apps::{app, app_with};
use crate::paths::repo;

/// The command-line arguments.
#[derive(clap::Args)]
pub struct TestArgs {
    /// Only format, clippy, tests on the host, and the guest builds
    #[arg(long, conflicts_with_all = ["lab_only", "suite"])]
    host_only: bool,
    /// Only what runs in the lab
    #[arg(long)]
    lab_only: bool,
    /// An answer in minutes: format, clippy, the tests that take seconds, and one guest in the lab
    #[arg(long, conflicts_with_all = ["host_only", "lab_only", "suite", "only"])]
    quick: bool,
    /// Only this Xen in the lab: bookworm (4.17) or trixie (4.20)
    #[arg(long, value_name = "SUITE", value_parser = parse_suite)]
    suite: Option<Suite>,
    /// Only lab checks whose name holds this, or one of several with commas between
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
}

/// What a check in the lab works with.
pub struct Fixture<'a> {
    pub lab: Lab,
    pub suite: Suite,
    pub guests: &'a Guests,
}

impl Fixture<'_> {
    /// One of the apps.
    pub fn guest(&self, name: &str) -> Result<&Guest> {
        self.guests.get(name)
    }
}

/// The gate of Qubes OS, which is the ordinary one's package.
const GATE_QUBES: &str = "gate-qubes";
/// The web server with HTTPS, likewise.
const WEB_TLS: &str = "web-tls";

/// What the lab boots, by name: each is built when it is first asked for.
#[derive(Default)]
pub struct Guests(Mutex<BTreeMap<String, &'static Guest>>);

impl Guests {
    /// All apps.
    fn build_all(&self) -> Result<()> {
        self.get(GATE_QUBES)?;
        self.get(WEB_TLS)?;
        Sarab::at(repo()).apps()?.iter().try_for_each(|name| self.get(name).map(drop))
    }

    fn get(&self, name: &str) -> Result<&Guest> {
        let mut built = self.0.lock().expect("not poisoned");
        if let Some(guest) = built.get(name) {
            return Ok(guest);
        }
        let guest = match name {
            GATE_QUBES => {
                let guest = app_with("gate", &["qubes"], GATE_QUBES)?;
                // It was built where the ordinary one is.
                if built.contains_key("gate") {
                    app("gate")?;
                }
                guest
            }
            WEB_TLS => {
                let guest = app_with("web", &["tls"], WEB_TLS)?;
                if built.contains_key("web") {
                    app("web")?;
                }
                guest
            }
            _ => app(name)?,
        };
        let guest: &'static Guest = Box::leak(Box::new(guest));
        built.insert(name.to_owned(), guest);
        Ok(guest)
    }
}

/// Counts of one run.
#[derive(Default)]
struct Tally(Mutex<Counts>);

#[derive(Default)]
struct Counts {
    passed: u32,
    failed: Vec<String>,
    times: Vec<(Duration, String)>,
}

impl Tally {
    fn step(&self, name: &str, action: impl FnOnce() -> Result<String>) {
        let start = Instant::now();
        let outcome = action();
        let time = start.elapsed();
        let seconds = time.as_secs_f32();
        let mut counts = self.counts();
        counts.times.push((time, name.to_owned()));
        match outcome {
            Ok(note) => {
                counts.passed += 1;
                println!("ok      {name:<44} {seconds:>6.1} s  {note}");
            }
            Err(error) => {
                println!("FAILED  {name:<44} {seconds:>6.1} s\n{error:#}\n");
                counts.failed.push(name.to_owned());
            }
        }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().expect("not poisoned")
    }
}

/// How many of the slowest are listed at the end.
const SLOWEST: usize = 10;

/// Runs what was asked for; fails where anything failed.
pub fn command(args: TestArgs) -> Result<ExitCode> {
    let start = Instant::now();
    let tally = Tally::default();
    if args.quick {
        quick(&tally);
    } else {
        if !args.lab_only {
            host::run(&tally);
        }
        if !args.host_only {
            lab_checks(&tally, &args)?;
        }
    }
    let counts = tally.counts();
    println!("\nthe slowest:");
    for (time, name) in slowest(&counts.times) {
        println!("  {:>6.1} s  {name}", time.as_secs_f32());
    }
    for name in &counts.failed {
        println!("failed: {name}");
    }
    println!("{} passed, {} failed in {} s", counts.passed, counts.failed.len(), start.elapsed().as_secs());
    Ok(if counts.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The ten that took longest, longest first.
fn slowest(times: &[(Duration, String)]) -> Vec<&(Duration, String)> {
    let mut sorted: Vec<_> = times.iter().collect();
    sorted.sort_by_key(|(time, _)| std::cmp::Reverse(*time));
    sorted.truncate(SLOWEST);
    sorted
}

/// What gives an answer while one waits for it: docs/testing.md says what is left out.
fn quick(tally: &Tally) {
    host::quick(tally);
    let mut guests = None;
    tally.step("hello builds", || {
        let built = Guests::default();
        built.get("hello")?;
        guests = Some(built);
        Ok(String::new())
    });
    let Some(guests) = guests else { return };
    let checks = checks::ALL.iter().filter(|(name, _)| checks::QUICK.contains(name)).copied().collect();
    Series::Boot { suite: suite::DEFAULT, server: StoreServer::Xenstored, checks }.run(tally, &guests);
}

/// Checks that run one after the other.
enum Series {
    /// In one boot of the lab.
    Boot { suite: Suite, server: StoreServer, checks: Vec<(&'static str, Check)> },
    /// `cargo xen` itself, which boots the lab for each.
    Tools(Vec<(&'static str, tools::Check)>),
}

/// Labs at a time: each emulates one processor.
const AT_ONCE: usize = 2;

fn lab_checks(tally: &Tally, args: &TestArgs) -> Result<()> {
    let guests = Guests::default();
    // For some checks it does without the others.
    if args.only.is_none() {
        guests.build_all()?;
    }
    let waiting = Mutex::new(chosen(args).into_iter());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let next = waiting.lock().expect("not poisoned").next();
                    let Some(series) = next else { break };
                    series.run(tally, &guests);
                }
            });
        }
    });
    Ok(())
}

/// What was asked for, the longest first.
fn chosen(args: &TestArgs) -> Vec<Series> {
    let named = |name: &str| args.only.as_deref().is_none_or(|texts| texts.split(',').any(|text| name.contains(text)));
    let suites = || suite::SUITES.iter().rev().filter(|known| args.suite.is_none_or(|suite| suite == **known));
    // One boot runs all checks with the one server, a second one those of the store with the other.
    let boot = |suite: &Suite, server| {
        let mut checks = match server {
            StoreServer::Xenstored => [
                checks::ALL,
                store::ALL,
                guest_agent::ALL,
                xl::ALL,
                moves::ALL,
                limits::ALL,
                disk::ALL,
                net::ALL,
                lan::ALL,
                gate::ALL,
                web::ALL,
                vchan::ALL,
                vault::ALL,
                balloon::ALL,
            ]
            .concat(),
            StoreServer::Oxenstored => [store::WITH_OTHER_SERVER, guest_agent::WITH_OTHER_SERVER].concat(),
        };
        if server == StoreServer::Xenstored && *suite == suite::DEFAULT {
            checks.extend(checks::AT_LENGTH);
            checks.extend(disk::AT_LENGTH);
            checks.extend(net::AT_LENGTH);
            checks.extend(addresses::AT_LENGTH);
            checks.extend(web::AT_LENGTH);
            checks.extend(web_nginx::AT_LENGTH);
            checks.extend(dns::AT_LENGTH);
            checks.extend(https::AT_LENGTH);
            checks.extend(linux::AT_LENGTH);
            checks.extend(luks::AT_LENGTH);
            checks.extend(vault::AT_LENGTH);
            checks.extend(cuts::AT_LENGTH);
            checks.extend(gate_nft::AT_LENGTH);
            checks.extend(package::AT_LENGTH);
            checks.extend(qubes::AT_LENGTH);
            checks.extend(gate_qubes::AT_LENGTH);
            checks.extend(shares::AT_LENGTH);
            if args.only.is_some() {
                checks.extend(shares::UNSEEN);
            }
            checks.extend(hostile::AT_LENGTH);
            checks.extend(hvm::AT_LENGTH);
        }
        // Not seen to pass yet in a time that a series has: they run where they are asked for.
        if server == StoreServer::Xenstored && args.only.is_some() {
            checks.extend(moves::BY_NAME);
            checks.extend(limits::BY_NAME);
            if *suite == suite::DEFAULT {
                checks.extend(hvm::BY_NAME);
            }
        }
        checks.retain(|(name, _)| named(name));
        (!checks.is_empty()).then_some(Series::Boot { suite: *suite, server, checks })
    };
    let mut series: Vec<_> = suites().filter_map(|suite| boot(suite, StoreServer::Xenstored)).collect();
    let unseen = if args.only.is_some() { tools::UNSEEN } else { &[] };
    let tools: Vec<_> = tools::ALL.iter().chain(unseen).filter(|(name, _)| named(name)).copied().collect();
    if suites().any(|suite| *suite == suite::DEFAULT) && !tools.is_empty() {
        series.push(Series::Tools(tools));
    }
    series.extend(suites().filter_map(|suite| boot(suite, StoreServer::Oxenstored)));
    series
}

impl Series {
    fn run(self, tally: &Tally, guests: &Guests) {
        let (suite, server, checks) = match self {
            Series::Boot { suite, server, checks } => (suite, server, checks),
            Series::Tools(checks) => {
                for (name, check) in checks {
                    tally.step(&format!("cargo xen: {name}"), check);
                }
                return;
            }
        };
        let name = match server {
            StoreServer::Xenstored => suite.xen.to_owned(),
            StoreServer::Oxenstored => format!("{} oxenstored", suite.xen),
        };
        let mut lab = None;
        tally.step(&format!("{name}: boot"), || {
            let options = Options {
                timeout: Some(Duration::from_secs(120)),
                store: server,
                isolated: true,
                ..Options::default()
            };
            lab = Some(Lab::boot(suite, &options)?);
            Ok(suite.to_string())
        });
        let Some(lab) = lab else { return };
        let fixture = Fixture { lab, suite, guests };
        for (check_name, check) in checks {
            tally.step(&format!("{name}: {check_name}"), || {
                let outcome = check(&fixture).map_err(|error| {
                    let dom0 = dom0_state(&fixture.lab).unwrap_or_else(|error| format!("{error:#}"));
                    error.context(format!("dom0 afterwards:\n{}\n", dom0.trim_end()))
                });
                xen_lab::domain::destroy_all(&fixture.lab)?;
                outcome
            });
        }
    }
}

/// What dom0's programs do, those in the kernel with where they wait there, and the kernel's last words: a check that
/// failed because something stood still says here what.
fn dom0_state(lab: &Lab) -> Result<String> {
    let agent = lab.agent().with_timeout(Duration::from_secs(30));
    agent.run(
        "for p in /proc/[0-9]*; do
           name=$(tr '\\0' ' ' <$p/cmdline 2>/dev/null); state=$(sed -n 's/^State:.//p' $p/status 2>/dev/null)
           case \"$name$state\" in D*) name=$(cat $p/comm) ;; esac
           [ -n \"$name\" ] && echo \"${p#/proc/} $state $name: $(head -n 4 $p/stack 2>/dev/null | sed 's/.*] //; s/+.*//' | tr '\\n' ' ')\"
         done; cat /proc/loadavg; dmesg | tail -n 15",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_come_first_and_are_ten() {
        let times: Vec<_> = (0..30).map(|n| (Duration::from_secs(n * 7 % 30), n.to_string())).collect();
        let seconds: Vec<_> = slowest(&times).iter().map(|(time, _)| time.as_secs()).collect();
        assert_eq!(seconds, [29, 28, 27, 26, 25, 24, 23, 22, 21, 20]);
    }

    #[test]
    fn the_quick_checks_are_there() {
        for name in checks::QUICK {
            assert!(checks::ALL.iter().any(|(known, _)| *known == name), "{name}");
        }
    }
}

//! `cargo xen soak`: all appliances in one lab for hours, with everything done to them that an administrator, a fault or a
//! busy client does; each byte is compared, and what is left of each step is counted.

mod actions;
mod counters;
mod world;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use cargo_xen::parse_suite;
use xen_lab::{Lab, Options, Suite, suite};

use actions::ACTIONS;
use counters::Counters;
use world::World;

/// The command-line arguments.
#[derive(clap::Args)]
pub struct SoakArgs {
    /// For how many hours; parts of them are fine, as 0.25
    #[arg(long, value_name = "HOURS", default_value_t = 1.0, value_parser = hours)]
    hours: f64,
    /// What the order of the steps and their data are made from: the same number does the same again
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// Attach and detach so many disks of `vault` and interfaces of `switch` first, and count what is left
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    cycles: u32,
    /// Only these steps, with commas between them
    #[arg(long, value_name = "STEPS", value_delimiter = ',', value_parser = actions::names())]
    only: Vec<String>,
    /// Which Xen: bookworm (4.17) or trixie (4.20)
    #[arg(long, value_name = "SUITE", value_parser = parse_suite)]
    suite: Option<Suite>,
}

fn hours(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(hours) if hours > 0.0 && hours <= 10_000.0 => Ok(hours),
        _ => Err("expected a number of hours above 0".into()),
    }
}

/// Between two lines of the report.
const MINUTE: Duration = Duration::from_secs(60);
/// Cycles between two looks at the counters.
const COUNTED: u32 = 100;

/// Runs it.
pub fn command(args: &SoakArgs) -> Result<()> {
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(1..1 << 32));
    let options = Options {
        timeout: Some(Duration::from_secs(180)),
        isolated: true,
        announce: Some("soak".into()),
        ..Options::default()
    };
    let suite = args.suite.unwrap_or(suite::DEFAULT);
    println!("soak: {suite}, {} hours, seed {seed}", args.hours);
    let lab = Lab::boot(suite, &options)?;
    let mut soak =
        Soak { world: World::start(&lab, seed)?, begun: Instant::now(), told: Instant::now(), steps: BTreeMap::new() };
    let outcome = soak.run(args);
    soak.tell();
    outcome.with_context(|| format!("cargo xen soak --seed {seed}\n{}", soak.world.consoles()))?;
    println!("soak: passed");
    Ok(())
}

struct Soak<'a> {
    world: World<'a>,
    begun: Instant,
    told: Instant,
    /// How often each step was done.
    steps: BTreeMap<&'static str, u32>,
}

impl Soak<'_> {
    fn run(&mut self, args: &SoakArgs) -> Result<()> {
        // Buffers grow to what they are used for, and domains find their places.
        for action in ["disk", "interface", "fetch"] {
            self.step(actions::named(action))?;
        }
        let mut base = Counters::take(&self.world)?;
        println!("soak: at the beginning {base}");
        for done in 0..args.cycles {
            self.step(actions::named("disk"))?;
            self.step(actions::named("interface"))?;
            if (done + 1) % COUNTED == 0 {
                base.compare(&self.world)?;
            }
        }
        let chosen: Vec<_> = ACTIONS
            .iter()
            .filter(|action| args.only.is_empty() || args.only.iter().any(|name| name == action.name))
            .collect();
        let weights: u32 = chosen.iter().map(|action| action.weight).sum();
        let end = self.begun + Duration::from_secs_f64(args.hours * 3600.0);
        while Instant::now() < end {
            let mut ticket = self.world.random.u32(0..weights);
            let mut choice = chosen.iter();
            let action = loop {
                let Some(action) = choice.next() else { bail!("no step was chosen") };
                match ticket.checked_sub(action.weight) {
                    Some(rest) => ticket = rest,
                    None => break action,
                }
            };
            self.step(action)?;
            if action.is_new_domain {
                // A new domain begins with buffers of its own.
                base.forget_memory();
            }
            base.compare(&self.world).with_context(|| format!("after the step {:?}", action.name))?;
        }
        Ok(())
    }

    fn step(&mut self, action: &actions::Action) -> Result<()> {
        let number: u32 = self.steps.values().sum();
        (action.run)(&mut self.world).with_context(|| format!("step {number}, {:?}", action.name))?;
        *self.steps.entry(action.name).or_default() += 1;
        if self.told.elapsed() >= MINUTE {
            self.tell();
        }
        Ok(())
    }

    fn tell(&mut self) {
        self.told = Instant::now();
        let minutes = self.begun.elapsed().as_secs() / 60;
        let steps: Vec<_> = self.steps.iter().map(|(name, count)| format!("{count} {name}")).collect();
        println!(
            "soak: {}:{:02}: {}; {} MiB compared",
            minutes / 60,
            minutes % 60,
            steps.join(", "),
            self.world.compared >> 20
        );
    }
}

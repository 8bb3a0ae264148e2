//! `cargo xen fuzz`: the fuzz targets with libFuzzer, all of them or one.

mod build;
mod run;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::thread;

use anyhow::{Context, Result, ensure};

use self::run::{Limit, Outcome, run};
use crate::paths::repo;

/// The command-line arguments.
#[derive(clap::Args)]
pub struct FuzzArgs {
    /// The target, a file of fuzz/src/targets; all of them where it is left out
    #[arg(value_parser = parse_target)]
    target: Option<String>,
    /// How long in all: the targets share it [default: 1, and 10 for all]
    #[arg(long, value_name = "N", value_parser = parse_minutes)]
    minutes: Option<f64>,
    /// Executions of each target instead of a time
    #[arg(long, value_name = "N", conflicts_with = "minutes")]
    runs: Option<u64>,
    /// Run these inputs once, with the ordinary compiler
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "target", conflicts_with_all = ["minutes", "runs"])]
    input: Vec<PathBuf>,
    /// List the targets
    #[arg(long, exclusive = true)]
    list: bool,
}

/// A target's name, and what it is.
struct Target {
    name: String,
    about: String,
}

/// All targets: each is a file, whose first line says what it is.
fn targets() -> Result<Vec<Target>> {
    let folder = repo().join("fuzz/src/targets");
    let mut targets = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".rs")) else { continue };
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let about = text.lines().next().unwrap_or_default().trim_start_matches("//!").trim().to_owned();
        targets.push(Target { name: name.to_owned(), about });
    }
    targets.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(targets)
}

fn parse_target(name: &str) -> Result<String> {
    let known = targets()?;
    let names: Vec<_> = known.iter().map(|target| target.name.as_str()).collect();
    ensure!(names.contains(&name), "there are {}", names.join(", "));
    Ok(name.to_owned())
}

fn parse_minutes(text: &str) -> Result<f64> {
    let minutes: f64 = text.parse()?;
    ensure!(minutes > 0.0 && minutes < 1e6, "expected a number of minutes");
    Ok(minutes)
}

/// Does what was asked for; fails where something was found.
pub fn command(args: &FuzzArgs) -> Result<ExitCode> {
    let known = targets()?;
    if args.list {
        for Target { name, about } in &known {
            println!("{name:<12} {about}");
        }
        return Ok(ExitCode::SUCCESS);
    }
    if let (Some(target), false) = (&args.target, args.input.is_empty()) {
        return replay(target, &args.input);
    }
    let names: Vec<String> = match &args.target {
        Some(name) => vec![name.clone()],
        None => known.into_iter().map(|target| target.name).collect(),
    };
    let program = build::build()?;
    let at_once = thread::available_parallelism().map_or(1, usize::from).min(names.len());
    let until = match (args.runs, args.minutes) {
        (Some(runs), _) => Limit::Runs(runs),
        (None, minutes) => {
            let all = minutes.unwrap_or(if names.len() > 1 { 10.0 } else { 1.0 }) * 60.0 * at_once as f64;
            Limit::Seconds(((all / names.len() as f64) as u64).max(1))
        }
    };
    eprintln!("{} targets, {at_once} at a time, {until} each", names.len());
    println!("{:<12} {:>12} {:>9} {:>9}  findings", "target", "executions", "per s", "coverage");
    let waiting = Mutex::new(names.iter());
    let outcomes = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                loop {
                    let next = waiting.lock().expect("not poisoned").next();
                    let Some(name) = next else { break };
                    let outcome = run(&program, name, until);
                    print(name, &outcome);
                    outcomes.lock().expect("not poisoned").push(outcome);
                }
            });
        }
    });
    let outcomes = outcomes.into_inner().expect("all threads have ended");
    let failed = outcomes.iter().filter(|outcome| !matches!(outcome, Ok(Outcome { finding: None, .. }))).count();
    let executions: u64 = outcomes.iter().flatten().map(|outcome| outcome.executions).sum();
    println!("{} targets, {} executions, {failed} with findings", outcomes.len(), grouped(executions));
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(name: &str, outcome: &Result<Outcome>) {
    match outcome {
        Ok(Outcome { executions, per_second, coverage, finding }) => {
            let found = if finding.is_some() { "1" } else { "none" };
            let executions = grouped(*executions);
            println!("{name:<12} {executions:>12} {per_second:>9} {coverage:>9}  {found}");
            if let Some(finding) = finding {
                println!("FINDING in {name}: {}", finding.what);
                if let Some(input) = &finding.input {
                    println!("  input      {}", input.display());
                    println!("  run again  cargo xen fuzz {name} --input {}", input.display());
                }
                println!("  log        {}", finding.log.display());
            }
        }
        Err(error) => println!("{name:<12} FAILED: {error:#}"),
    }
}

/// 1,234,567.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Runs inputs once, without a fuzzer.
fn replay(target: &str, inputs: &[PathBuf]) -> Result<ExitCode> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["run", "--quiet", "--manifest-path"]).arg(repo().join("Cargo.toml"));
    command.args(["--package", "sarab-fuzz", "--bin", "replay", "--", target]).args(inputs);
    let status = command.stdin(Stdio::null()).status().context("cannot start cargo")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(test)]
mod tests {
    #[test]
    fn numbers_are_grouped() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(super::grouped(number), text);
        }
    }
}

//! One run of libFuzzer, and what it says.

use std::fmt;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::paths::repo;

/// When a run ends that finds nothing.
#[derive(Clone, Copy)]
pub enum Limit {
    Runs(u64),
    Seconds(u64),
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Limit::Runs(runs) => write!(f, "{} executions", super::grouped(*runs)),
            Limit::Seconds(seconds) => write!(f, "{seconds} s"),
        }
    }
}

/// What a run came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub executions: u64,
    pub per_second: u64,
    /// Edges between pieces of code that were reached.
    pub coverage: u64,
    pub finding: Option<Finding>,
}

/// What went wrong.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Finding {
    pub what: String,
    pub input: Option<PathBuf>,
    /// Everything that libFuzzer has said.
    pub log: PathBuf,
}

/// Longest time for one input: most take less than a thousandth of it.
const TIMEOUT: &str = "-timeout=60";
const MEMORY: &str = "-rss_limit_mb=2048";
/// Choosing inputs by how rare their code is takes longer than running them, where each reaches thousands of places.
const SIMPLE_CHOICE: &str = "-entropic=0";

/// Feeds `target`. Its inputs are kept below `fuzz/corpus`, those that fail below `fuzz/artifacts`.
pub fn run(program: &Path, target: &str, until: Limit) -> Result<Outcome> {
    let dir = repo().join("fuzz");
    let (corpus, artifacts) = (dir.join("corpus").join(target), dir.join("artifacts").join(target));
    for folder in [&corpus, &artifacts] {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    let mut command = Command::new(program);
    command.env("SARAB_FUZZ_TARGET", target).env("SARAB_FUZZ_SEEDS", &corpus).arg(&corpus);
    let kept = dir.join("inputs").join(target);
    if kept.is_dir() {
        command.arg(kept);
    }
    match until {
        Limit::Runs(runs) => command.arg(format!("-runs={runs}")),
        Limit::Seconds(seconds) => command.arg(format!("-max_total_time={seconds}")),
    };
    command
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .args([TIMEOUT, MEMORY, SIMPLE_CHOICE, "-print_final_stats=1", "-len_control=10"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
    let log = artifacts.join("log");
    let mut file = File::create(&log).with_context(|| log.display().to_string())?;
    let mut report = Report::default();
    let mut errors = BufReader::new(child.stderr.take().expect("it is a pipe"));
    let mut line = Vec::new();
    while errors.read_until(b'\n', &mut line)? > 0 {
        file.write_all(&line)?;
        report.line(String::from_utf8_lossy(&line).trim_end());
        line.clear();
    }
    let status = child.wait()?;
    ensure!(report.started || status.success(), "libFuzzer does not start; see {}", log.display());
    Ok(report.outcome(status.success(), log))
}

/// What is read from libFuzzer's lines.
#[derive(Default)]
struct Report {
    started: bool,
    outcome: Outcome,
    /// The panic's place and message, else libFuzzer's own word.
    what: Vec<String>,
    input: Option<PathBuf>,
    message_follows: bool,
}

impl Report {
    fn line(&mut self, line: &str) {
        if std::mem::take(&mut self.message_follows) {
            self.what.push(line.to_owned());
        }
        if let Some(status) = line.strip_prefix('#') {
            self.started = true;
            self.outcome.executions = number(status.split_whitespace().next()).unwrap_or(self.outcome.executions);
            self.outcome.coverage = after(line, "cov:").unwrap_or(self.outcome.coverage);
        } else if let Some(count) = after(line, "stat::number_of_executed_units:") {
            self.outcome.executions = count;
        } else if let Some(rate) = after(line, "stat::average_exec_per_sec:") {
            self.outcome.per_second = rate;
        } else if let Some((_, place)) = line.split_once("panicked at ").filter(|_| line.starts_with("thread ")) {
            self.what.push(place.to_owned());
            self.message_follows = true;
        } else if let Some((_, what)) = line.split_once("ERROR: libFuzzer: ") {
            if self.what.is_empty() {
                self.what.push(what.to_owned());
            }
        } else if let Some((_, path)) = line.split_once("Test unit written to ") {
            self.input = Some(path.into());
        }
    }

    fn outcome(mut self, good: bool, log: PathBuf) -> Outcome {
        if !good {
            let what = if self.what.is_empty() { "it failed".to_owned() } else { self.what.join(" ") };
            self.outcome.finding = Some(Finding { what, input: self.input, log });
        }
        self.outcome
    }
}

fn after(line: &str, key: &str) -> Option<u64> {
    number(line.split_once(key)?.1.split_whitespace().next())
}

fn number(text: Option<&str>) -> Option<u64> {
    text?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(lines: &str, good: bool) -> Outcome {
        let mut report = Report::default();
        lines.lines().for_each(|line| report.line(line));
        assert!(report.started);
        report.outcome(good, "log".into())
    }

    #[test]
    fn a_run_that_finds_nothing() {
        let said = "INFO: seed corpus: files: 3\n#4\tINITED cov: 310 ft: 400 corp: 2/9b exec/s: 0 rss: 30Mb\n\
            #512\tpulse  cov: 317 ft: 420 corp: 9/40b lim: 4 exec/s: 256 rss: 30Mb\nDone 1000 runs in 3 second(s)\n\
            stat::number_of_executed_units: 1000\nstat::average_exec_per_sec:     333\n";
        let expected = Outcome { executions: 1000, per_second: 333, coverage: 317, finding: None };
        assert_eq!(report(said, true), expected);
    }

    #[test]
    fn a_panic_is_named_with_its_input() {
        let said = "#2\tINITED cov: 3 ft: 4 corp: 1/1b exec/s: 0 rss: 30Mb\n\
            thread '<unnamed>' (7) panicked at xen-netif/src/back/rings.rs:226:17:\nthey were counted\nstack backtrace:\n\
            ==9== ERROR: libFuzzer: deadly signal\nartifact_prefix='a/'; Test unit written to a/crash-77\n\
            stat::number_of_executed_units: 41\n";
        let finding = report(said, false).finding.expect("a finding");
        assert_eq!(finding.what, "xen-netif/src/back/rings.rs:226:17: they were counted");
        assert_eq!(finding.input, Some("a/crash-77".into()));
    }

    #[test]
    fn a_timeout_is_named_too() {
        let said = "#2\tINITED cov: 3 ft: 4 corp: 1/1b exec/s: 0 rss: 30Mb\n==9== ERROR: libFuzzer: timeout after 60 seconds\n";
        assert_eq!(report(said, false).finding.expect("a finding").what, "timeout after 60 seconds");
    }
}

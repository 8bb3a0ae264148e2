//! `cargo xen fuzz`: the fuzz targets with libFuzzer, as `cargo fuzz` would run them.

use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::paths::repo;

/// What makes the compiler count which code an input reaches, and look out for wrong memory accesses.
const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing -Zsanitizer=address -Cdebug-assertions";

/// Checks a target's name.
pub fn parse_target(name: &str) -> Result<String> {
    let mut known: Vec<_> = fs::read_dir(repo().join("fuzz/fuzz_targets"))?
        .flatten()
        .filter_map(|file| Some(file.file_name().to_str()?.strip_suffix(".rs")?.to_owned()))
        .collect();
    known.sort();
    ensure!(known.iter().any(|target| target == name), "there are {}", known.join(", "));
    Ok(name.to_owned())
}

/// Feeds `target` for so many seconds; an error where it fails, whose input is kept below `fuzz/artifacts`.
pub fn command(target: &str, seconds: u32) -> Result<()> {
    let dir = repo().join("fuzz");
    let (corpus, artifacts) = (dir.join("corpus").join(target), dir.join("artifacts").join(target));
    for folder in [&corpus, &artifacts] {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    let status = Command::new("cargo")
        .current_dir(&dir)
        .env("RUSTFLAGS", FLAGS)
        // What tasks of destroyed domains leave in the simulation is not what is looked for.
        .env("ASAN_OPTIONS", "detect_leaks=0")
        // The one that runs this, which is not the one that is wanted.
        .env_remove("RUSTUP_TOOLCHAIN")
        .args([
            "+nightly",
            "run",
            "--quiet",
            "--release",
            "--target",
            "x86_64-unknown-linux-gnu",
            "--bin",
            target,
            "--",
        ])
        .arg(&corpus)
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .arg(format!("-max_total_time={seconds}"))
        .args(["-rss_limit_mb=4096", "-print_final_stats=1", "-len_control=10"])
        .stdin(Stdio::null())
        .status()
        .context("cannot start cargo")?;
    ensure!(status.success(), "{target} failed; its input is below {}", artifacts.display());
    Ok(())
}

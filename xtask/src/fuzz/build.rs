//! Building the fuzzer: a nightly compiler counts which code an input reaches.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::paths::repo;
use xen_lab::paths::which;

/// What makes the compiler count. The drivers forbid unsafe code, and shared pages are mappings of the simulation's, which a
/// sanitizer for memory would not see: what goes wrong is a panic.
const COUNT: [&str; 4] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
];
/// Shows libFuzzer what bytes are compared with, which costs as much as all the rest: not for what each simulated
/// machine does before the first byte of the input.
const COMPARE: &str = "-Cllvm-args=-sanitizer-coverage-trace-compares";
const TRIPLE: &str = "x86_64-unknown-linux-gnu";
const NIGHTLY: &str = "fuzzing needs a nightly compiler, which counts the code that is reached: \
    `rustup toolchain install nightly --profile minimal` gets one, beside the one there is";

fn nightly() -> Command {
    let mut command = Command::new("cargo");
    // The one that runs this, which is not the one that is wanted.
    command.env_remove("RUSTUP_TOOLCHAIN").arg("+nightly").current_dir(repo()).stdin(Stdio::null());
    command
}

/// Builds it, and returns the program.
pub fn build() -> Result<PathBuf> {
    let found = nightly().arg("--version").output().context("cannot start cargo")?;
    ensure!(found.status.success(), NIGHTLY);
    if which("c++").is_none() && std::env::var_os("CXX").is_none() {
        bail!("libFuzzer needs a C++ compiler: `sudo apt-get install g++`");
    }
    eprintln!("building the fuzzer …");
    // Another compiler, so a folder of its own.
    let folder = repo().join("target/fuzz");
    let status = nightly()
        .args(["-Zprofile-rustflags", "build", "--quiet"])
        .args(flags("rustflags", &[&COUNT[..], &[COMPARE]].concat()))
        .args(flags("package.xenstore-client.rustflags", &COUNT))
        .args(flags("package.xen-sim.rustflags", &[]))
        .args(flags("build-override.rustflags", &[]))
        .args(["--profile", "fuzz", "--target", TRIPLE, "--target-dir"])
        .arg(&folder)
        .args(["--package", "sarab-fuzz", "--features", "libfuzzer", "--bin", "libfuzzer"])
        .status()
        .context("cannot start cargo")?;
    ensure!(status.success(), "the fuzzer does not build");
    Ok(folder.join(TRIPLE).join("fuzz/libfuzzer"))
}

/// Compiler flags for a part of what is built.
fn flags(key: &str, flags: &[&str]) -> [String; 2] {
    ["--config".to_owned(), format!("profile.fuzz.{key} = {flags:?}")]
}

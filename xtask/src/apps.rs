//! Building what the tests and benchmarks boot.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use cargo_xen::Guest;

use crate::paths::{apps, repo};

/// Builds an app of this repository.
pub fn app(name: &str) -> Result<Guest> {
    Guest::build(&apps().join(name)).with_context(|| format!("building {name}"))
}

/// Builds an app with features, and keeps it under another name.
pub fn app_with(name: &str, features: &[&str], kept: &str) -> Result<Guest> {
    let features: Vec<String> = features.iter().map(ToString::to_string).collect();
    let built = Guest::build_with(&apps().join(name), &features).with_context(|| format!("building {kept}"))?;
    let folder = apps().join("target/kept");
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let image = folder.join(kept);
    std::fs::copy(&built.image, &image).with_context(|| image.display().to_string())?;
    Guest::finished(&image)
}

/// Builds the program that makes load from Linux, without libraries: it runs wherever Linux does.
pub fn linux_load() -> Result<PathBuf> {
    const TARGET: &str = "x86_64-unknown-linux-gnu";
    let folder = repo().join("target/linux-load");
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(repo())
        .env("RUSTFLAGS", "-Ctarget-feature=+crt-static")
        .args(["build", "--quiet", "--release", "-p", "linux-load", "--target", TARGET, "--target-dir"])
        .arg(&folder)
        .stdin(Stdio::null())
        .status()
        .context("cannot start cargo")?;
    ensure!(status.success(), "linux-load cannot be built");
    Ok(folder.join(TARGET).join("release/linux-load"))
}

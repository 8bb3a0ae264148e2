//! Building a guest: `cargo build` in its folder, the check of what came out, the stripped image and its xl file.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::elf::{self, Image};
use crate::paths::{apps, repo};
use crate::xlcfg::Config;

/// Memory that a guest gets where nobody says otherwise, in MiB.
pub const DEFAULT_MEMORY: u64 = 16;

/// A guest that can be booted.
#[derive(Clone)]
pub struct Guest {
    pub name: String,
    /// What boots.
    pub image: PathBuf,
    /// The same with debug information and log strings, where there is one.
    pub debug: PathBuf,
    pub info: Image,
}

impl Guest {
    /// Finds or builds what `target` names: an app, a folder with a Cargo package, or a finished ELF file.
    pub fn get(target: &str) -> Result<Guest> {
        let path = Path::new(target);
        let by_name = apps().join(target);
        if !target.contains('/') && by_name.join("Cargo.toml").is_file() {
            return build(&by_name);
        }
        if path.join("Cargo.toml").is_file() {
            return build(path);
        }
        if path.is_file() {
            let image = path.canonicalize()?;
            let name = image.file_stem().and_then(|name| name.to_str()).unwrap_or("guest").to_owned();
            let debug = image.with_extension("debug");
            let debug = if debug.is_file() { debug } else { image.clone() };
            return Ok(Guest { name, debug, info: elf::check(&image)?, image });
        }
        bail!(
            "there is no app `{target}` (there are {}), no folder of that name with a Cargo.toml, and no such file",
            known_apps()?.join(", ")
        )
    }

    /// The xl file for this guest with nothing special about it.
    pub fn config(&self) -> Config {
        Config {
            name: self.name.clone(),
            kernel: self.image.display().to_string(),
            memory: DEFAULT_MEMORY,
            command_line: String::new(),
            disks: Vec::new(),
            bridges: Vec::new(),
            extra: Vec::new(),
        }
    }

    /// Checks a wish for memory, in MiB.
    pub fn check_memory(&self, memory: u64) -> Result<()> {
        let least = self.info.least_memory();
        ensure!(
            memory >= least,
            "{memory} MiB of memory are too little for {}: its image alone reaches to {} KiB, so it needs at least {least} MiB",
            self.name,
            self.info.end.div_ceil(1024)
        );
        Ok(())
    }
}

/// The apps of this repository.
pub fn known_apps() -> Result<Vec<String>> {
    let mut names: Vec<_> = fs::read_dir(apps())?
        .flatten()
        .filter(|entry| entry.path().join("Cargo.toml").is_file())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    Ok(names)
}

fn build(dir: &Path) -> Result<Guest> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // In the package's folder: Cargo takes its configuration, and with it the guest's flags, from there.
    cargo.current_dir(dir).args(["build", "--release", "--message-format=json-render-diagnostics"]);
    let output = cargo.stdin(Stdio::null()).stderr(Stdio::inherit()).output().context("cannot start cargo")?;
    ensure!(output.status.success(), "{} does not build", dir.display());
    let mut programs = Vec::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let message: serde_json::Value = serde_json::from_str(line).context("cargo printed something unexpected")?;
        if let Some(executable) = message["executable"].as_str() {
            programs
                .push((message["target"]["name"].as_str().unwrap_or("guest").to_owned(), PathBuf::from(executable)));
        }
    }
    match programs.as_slice() {
        [(name, program)] => finish(name, program),
        [] => bail!("{} builds no program", dir.display()),
        many => bail!("{} builds {} programs, not one", dir.display(), many.len()),
    }
}

/// Puts image, debug file and xl file into `xen/NAME` of the target folder.
fn finish(name: &str, program: &Path) -> Result<Guest> {
    let info = elf::check(program)?;
    // target/TRIPLE/release/NAME
    let target = program.ancestors().nth(3).context("cargo's target folder")?;
    let dir = target.join("xen").join(name);
    fs::create_dir_all(&dir)?;
    let image = dir.join(name);
    // Of its own for each process: several may build at once.
    let partial = dir.join(format!("{name}.{}.tmp", std::process::id()));
    let strip = Command::new("strip")
        .args(["--strip-all", "--remove-section=.defmt", "-o"])
        .arg(&partial)
        .arg(program)
        .output();
    let output = strip.context("cannot start `strip`, which comes with the C compiler (package binutils)")?;
    ensure!(output.status.success(), "strip: {}", String::from_utf8_lossy(&output.stderr).trim());
    fs::rename(&partial, &image)?;
    elf::check(&image).context("stripping broke it")?;
    let debug = dir.join(format!("{name}.debug"));
    fs::copy(program, &partial)?;
    fs::rename(&partial, &debug)?;
    let guest = Guest { name: name.to_owned(), image, debug, info };
    fs::write(guest.image.with_extension("cfg"), guest.config().text()?)?;
    Ok(guest)
}

/// `cargo xen build`.
pub fn build_command(target: &str) -> Result<()> {
    let guest = Guest::get(target)?;
    let config = guest.image.with_extension("cfg");
    if !config.exists() {
        fs::write(&config, guest.config().text()?)?;
    }
    let size = fs::metadata(&guest.image)?.len();
    let shown = config.strip_prefix(repo()).unwrap_or(&config).display();
    eprintln!(
        "{}: {} KiB, PVH entry at {:#x}; boot it on a Xen host with `xl create {shown}`",
        guest.name,
        size.div_ceil(1024),
        guest.info.entry
    );
    println!("{}", guest.image.display());
    Ok(())
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

//! Building a guest: `cargo build` in its folder, the check of what came out, the stripped image and its xl file.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use xen_lab::xlfile::Config;

use crate::elf::{self, Image};
use crate::package::{Needs, Package, cargo};
use crate::sarab::Sarab;

/// A guest that can be booted.
#[derive(Clone)]
pub struct Guest {
    /// Its name, which is also its domain's.
    pub name: String,
    /// What boots.
    pub image: PathBuf,
    /// The same with debug information and log strings, where there is one.
    pub debug: PathBuf,
    /// What the image needs.
    pub info: Image,
    pub(crate) package: Option<Package>,
}

/// Its image.
impl AsRef<Path> for Guest {
    fn as_ref(&self) -> &Path {
        &self.image
    }
}

impl Guest {
    /// Finds or builds what `target` names: an app of Sarab's, a folder with a Cargo package, or a finished ELF file. Without a
    /// name, the package that the current folder lies in.
    pub fn get(target: Option<&str>, sarab: &Sarab) -> Result<Guest> {
        let Some(target) = target else {
            let package = Package::here()?;
            if sarab.checkout() == Some(&package.folder) {
                bail!("name an app: there are {}", sarab.apps()?.join(", "));
            }
            return build(package);
        };
        if let Some(app) = sarab.app(target) {
            return Guest::build(&app);
        }
        let path = Path::new(target);
        if path.join("Cargo.toml").is_file() {
            return Guest::build(path);
        }
        if path.is_file() {
            return Guest::finished(path);
        }
        match sarab.checkout() {
            Some(_) => bail!(
                "there is no app `{target}` (there are {}), no folder of that name with a Cargo.toml, and no such file",
                sarab.apps()?.join(", ")
            ),
            None => bail!("there is no folder `{target}` with a Cargo.toml, and no such file"),
        }
    }

    /// Builds the package in this folder.
    pub fn build(folder: &Path) -> Result<Guest> {
        build(Package::read(folder)?)
    }

    /// A finished ELF file.
    fn finished(path: &Path) -> Result<Guest> {
        let image = path.canonicalize()?;
        let name = image.file_name().unwrap_or_default().to_string_lossy();
        let name = name.strip_suffix(".debug").unwrap_or(&name).to_owned();
        let debug = beside(&image, "debug");
        let debug = if debug.is_file() { debug } else { image.clone() };
        Ok(Guest { name, debug, info: elf::check(&image)?, image, package: None })
    }

    /// What its package says that it needs.
    pub(crate) fn needs(&self) -> Needs {
        self.package.as_ref().map_or_else(Needs::default, |package| package.needs.clone())
    }

    /// Its xl file for a Xen host.
    fn config(&self) -> Config {
        self.needs().config(&self.name, &self.image.display().to_string())
    }

    /// Checks an amount of memory, in MiB.
    pub(crate) fn check_memory(&self, memory: u64) -> Result<()> {
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

/// The file beside an image with this behind its name.
fn beside(image: &Path, suffix: &str) -> PathBuf {
    let name = image.file_name().unwrap_or_default().to_string_lossy();
    image.with_file_name(format!("{name}.{suffix}"))
}

fn build(package: Package) -> Result<Guest> {
    let folder = &package.folder;
    let format = match std::io::stderr().is_terminal() {
        true => "--message-format=json-diagnostic-rendered-ansi",
        false => "--message-format=json",
    };
    // In the package's folder: Cargo takes its configuration, and with it the guest's flags, from there.
    let mut child = cargo()
        .current_dir(folder)
        .args(["build", "--release", format])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start cargo")?;
    let mut programs = Vec::new();
    let mut undefined = Undefined::default();
    for line in BufReader::new(child.stdout.take().expect("stdout is piped")).lines() {
        let message: serde_json::Value = serde_json::from_str(&line?).context("cargo printed something unexpected")?;
        if let Some(executable) = message["executable"].as_str() {
            programs
                .push((message["target"]["name"].as_str().unwrap_or("guest").to_owned(), PathBuf::from(executable)));
        }
        if let Some(rendered) = message["message"]["rendered"].as_str() {
            eprint!("{rendered}");
            undefined.read(rendered);
        }
    }
    let status = child.wait()?;
    if let Some(text) = undefined.text().filter(|_| !status.success()) {
        bail!("{} does not link: {text}", folder.display());
    }
    ensure!(status.success(), "{} does not build", folder.display());
    match programs.as_slice() {
        [(name, program)] => finish(name, program, package),
        [] => bail!("{} builds no program", folder.display()),
        many => bail!("{} builds {} programs, not one", folder.display(), many.len()),
    }
}

/// What the linker has not found, by the crates that want it.
#[derive(Default)]
struct Undefined(BTreeMap<String, Vec<String>>);

impl Undefined {
    /// Reads what the linker said.
    fn read(&mut self, said: &str) {
        let mut user = String::new();
        for line in said.lines() {
            if let Some((_, function)) = line.split_once("in function `") {
                user = crate_of(function);
            }
            let Some((before, symbol)) = line.split_once("undefined reference to `") else { continue };
            // One line says both where the object has no function for it.
            if let Some((_, function)) = before.split_once("in function `") {
                user = crate_of(function);
            }
            let symbols = self.0.entry(user.clone()).or_default();
            let symbol = symbol.split('\'').next().unwrap_or_default().to_owned();
            if !symbols.contains(&symbol) {
                symbols.push(symbol);
            }
        }
    }

    fn text(&self) -> Option<String> {
        let uses = self.0.iter().map(|(user, symbols)| {
            let symbols: Vec<_> = symbols.iter().map(|symbol| format!("`{symbol}`")).collect();
            let user = if user.is_empty() { "something" } else { user };
            format!("{user} calls {}", symbols.join(", "))
        });
        let uses: Vec<_> = uses.collect();
        (!uses.is_empty()).then(|| {
            format!(
                "{}, which a guest does not have: it has no C library and no operating system. Look for a feature \
                 of that crate that leaves it out (often `default-features = false`), or for another crate; \
                 `cargo tree --invert CRATE` shows who uses it",
                uses.join("; ")
            )
        })
    }
}

/// The crate that a function is of: the first part of its path.
fn crate_of(function: &str) -> String {
    let path = function.split('\'').next().unwrap_or_default().trim_start_matches(['<', '&', '*']);
    match path.split_once("::") {
        Some((name, _)) => format!("crate {name}"),
        None => format!("function `{path}`"),
    }
}

/// Puts image, debug file and xl file into `xen/NAME` of the target folder.
fn finish(name: &str, program: &Path, package: Package) -> Result<Guest> {
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
    let debug = beside(&image, "debug");
    fs::copy(program, &partial)?;
    fs::rename(&partial, &debug)?;
    let guest = Guest { name: name.to_owned(), image, debug, info, package: Some(package) };
    fs::write(beside(&guest.image, "cfg"), guest.config().text()?)?;
    Ok(guest)
}

/// `cargo xen build`.
pub fn build_command(target: Option<&str>, sarab: &Sarab) -> Result<()> {
    let guest = Guest::get(target, sarab)?;
    let config = beside(&guest.image, "cfg");
    if !config.exists() {
        fs::write(&config, guest.config().text()?)?;
    }
    let size = fs::metadata(&guest.image)?.len();
    let here = std::env::current_dir().unwrap_or_default();
    let shown = config.strip_prefix(here).unwrap_or(&config).display();
    eprintln!(
        "{}: {} KiB, PVH entry at {:#x}; boot it on a Xen host with `xl create {shown}`",
        guest.name,
        size.div_ceil(1024),
        guest.info.entry
    );
    println!("{}", guest.image.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_beside_an_image_keeps_the_whole_name() {
        assert_eq!(beside(Path::new("/t/my.app"), "debug"), Path::new("/t/my.app.debug"));
    }

    #[test]
    fn what_does_not_link_is_named_with_its_crate() {
        let mut undefined = Undefined::default();
        undefined.read(
            "= note: /usr/bin/ld: /t/a.o: in function `getrandom::util::errno':\n          /r/util.rs:1:(.text+0x9): \
             undefined reference to `__errno_location'\n          /usr/bin/ld: /r/util.rs:9: undefined reference to \
             `getrandom'\n/usr/bin/ld: /t/a.o: in function `<ring::rand::X as ring::Y>::z': /r/x.rs:2: undefined \
             reference to `syscall'\n",
        );
        let text = undefined.text().unwrap();
        assert!(
            text.starts_with("crate getrandom calls `__errno_location`, `getrandom`; crate ring calls `syscall`"),
            "{text}"
        );
        assert_eq!(Undefined::default().text(), None);
    }
}

//! `cargo xen package`: a guest as one file to be installed on a host, the same bytes wherever it is built.

mod archive;
mod qubes;
mod settings;
mod xcp_ng;
mod xl;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail, ensure};
use tempfile::NamedTempFile;
use xen_lab::xlfile::{Config, argument};

use self::archive::Entry;
pub use self::settings::{Packaging, Settings};
use crate::guest::{self, Build, Guest};
use crate::interrupt::Interrupt;
use crate::lab::quote;
use crate::manifest::Package;
use crate::reproduce::Compiler;
use crate::sarab::Sarab;

/// What the package is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum For {
    /// A folder for /var/lib/qubes/vm-kernels of Qubes OS
    Qubes,
    /// A Xen host with xl: the ELF file, an xl file and a systemd unit
    Xl,
    /// XCP-ng or XenServer: the ELF file, and a script that makes the VM with xe
    XcpNg,
}

impl For {
    /// As it is typed, and as it stands in Cargo.toml.
    pub fn name(self) -> &'static str {
        match self {
            For::Qubes => "qubes",
            For::Xl => "xl",
            For::XcpNg => "xcp-ng",
        }
    }
}

/// The command-line arguments.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xen package gate --for qubes                      a firewall for Qubes OS
  cargo xen package web --for xl --set ip=10.0.0.2/24     a web server with this command line
  cargo xen package --for xcp-ng --output /srv/packages/  the package of this folder, put there

The same sources, options and compiler give the same bytes in each folder and on each machine:
compare SHA-256. The package's README says how to install, check, update and remove it.")]
pub struct PackageArgs {
    /// A folder with a Cargo package, or in Sarab's repository an app; the package of this folder where it is left out
    #[arg(value_name = "APP|PATH")]
    target: Option<String>,
    /// What it is to be installed on
    #[arg(long = "for", value_name = "qubes|xl|xcp-ng", value_enum, hide_possible_values = true)]
    what_for: For,
    /// Where to put it: a file, which is replaced if it exists, or a folder [default: xen/APP of Cargo's target folder]
    #[arg(long, short, value_name = "FILE|DIR")]
    output: Option<PathBuf>,
    /// An argument for the guest's command line, behind those of its Cargo.toml; may be given many times
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// What a package is made of.
struct Content {
    /// The domain's name, and that of the ELF file.
    name: String,
    image: PathBuf,
    /// Memory, command line and devices, as for xl.
    config: Config,
    settings: Settings,
    driver_domain: bool,
    net: bool,
    disks: usize,
    /// Its first disk.
    site: Option<NamedTempFile>,
    /// What it was built from and by, for the README.
    origin: String,
}

/// Builds, packs, and prints where the package is.
pub fn command(args: &PackageArgs, sarab: &Sarab) -> Result<ExitCode> {
    let interrupt = Interrupt::new()?;
    let outcome = args.pack(sarab, &interrupt);
    match interrupt.status() {
        Some(status) => Ok(ExitCode::from(status)),
        None => outcome.map(|()| ExitCode::SUCCESS),
    }
}

impl PackageArgs {
    fn pack(&self, sarab: &Sarab, interrupt: &Interrupt) -> Result<()> {
        // What can fail at once fails before the build.
        let words = self.set.iter().map(|word| argument(word)).collect::<Result<Vec<_>>>()?;
        let time = archive::time(std::env::var("SOURCE_DATE_EPOCH").ok().as_deref())?;
        if let Some(output) = &self.output {
            check_output(output)?;
        }
        let package = find(self.target.as_deref(), sarab)?;
        let beside = package.target.join("xen");
        let content = Content::build(package, self.what_for, &words, interrupt)?;
        let (name, target) = (&content.name, self.what_for.name());
        let (folder, entries) = match self.what_for {
            For::Qubes => (name.clone(), qubes::entries(&content)?),
            For::Xl => (format!("{name}-{target}"), xl::entries(&content)?),
            For::XcpNg => (format!("{name}-{target}"), xcp_ng::entries(&content)?),
        };
        let file = format!("{name}-{target}.tar");
        let output = match &self.output {
            Some(output) if is_folder(output) => output.join(file),
            Some(output) => output.clone(),
            None => beside.join(name).join(file),
        };
        let (size, hash) = write(&output, &folder, &entries, time, interrupt)
            .with_context(|| format!("cannot write {} (--output chooses another place)", output.display()))?;
        eprintln!("{name} for {target}: {} KiB, SHA-256 {hash}", size.div_ceil(1024));
        println!("{}", output.display());
        Ok(())
    }
}

/// What is named has to have a Cargo.toml: that says what the guest needs.
fn find(target: Option<&str>, sarab: &Sarab) -> Result<Package> {
    let Some(target) = target else { return Guest::package_here(sarab) };
    if let Some(app) = sarab.app(target) {
        return Package::read(&app);
    }
    let path = Path::new(target);
    match (path.join("Cargo.toml").is_file(), path.is_file()) {
        (true, _) => Package::read(path),
        (false, true) => bail!("{target} is a file: name the folder of its Cargo package, which is built anew"),
        (false, false) => Err(Guest::not_found(target, sarab)),
    }
}

/// Whether a file is to be put into it.
fn is_folder(output: &Path) -> bool {
    output.is_dir() || output.as_os_str().as_encoded_bytes().ends_with(b"/")
}

fn check_output(output: &Path) -> Result<()> {
    let shown = output.display();
    if is_folder(output) {
        ensure!(output.is_dir(), "--output {shown}: no such folder");
        return Ok(());
    }
    let parent = output.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    ensure!(parent.is_dir(), "--output {shown}: no folder {}", parent.display());
    ensure!(!output.exists() || output.is_file(), "--output {shown}: it exists and is not a regular file");
    Ok(())
}

impl Content {
    fn build(package: Package, what_for: For, words: &[String], interrupt: &Interrupt) -> Result<Content> {
        let needs = package.needs.clone();
        let settings = needs.packaging.of(what_for, &package.features);
        let compiler = Compiler::ask(|| {
            let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
            rustc.current_dir(&package.folder);
            rustc
        })?;
        let version = package.version.clone();
        let guest = guest::build(package, &Build { features: &settings.features, reproducible: Some(&compiler) })?;
        let file = guest.package.as_ref().and_then(|package| package.xl_file(&guest.name));
        let mut config = match file.filter(|_| what_for == For::Xl) {
            Some(path) => fs::read_to_string(&path)
                .map_err(anyhow::Error::from)
                .and_then(|text| Config::parse(&text))
                .with_context(|| path.display().to_string())?,
            None => needs.config(&guest.name, ""),
        };
        if let Some(memory) = settings.memory {
            config.memory = memory;
        }
        guest.check_memory(config.memory)?;
        let words = settings.arguments.iter().chain(words).map(String::as_str);
        let command_line: Vec<_> = [config.command_line.as_str()].into_iter().chain(words).collect();
        config.command_line = command_line.join(" ").trim().to_owned();
        ensure!(!config.command_line.contains(['\n', '\r', '\0']), "the command line holds a line feed or a zero byte");
        let mut origin = format!("{} {version}, built by {}", guest.name, compiler.version);
        if !settings.features.is_empty() {
            origin = format!("{origin} with the features {}", settings.features.join(", "));
        }
        Ok(Content {
            site: needs.site.as_deref().map(|site| archive::pack_site(site, interrupt)).transpose()?,
            name: guest.name,
            image: guest.image,
            config,
            settings,
            driver_domain: needs.driver_domain,
            net: needs.net,
            disks: needs.disks,
            origin,
        })
    }

    /// The text of a file, with the placeholders that all have.
    fn fill(&self, template: &str) -> String {
        template
            .replace("@NAME@", &self.name)
            .replace("@ORIGIN@", &self.origin)
            .replace("@MEMORY@", &self.config.memory.to_string())
    }

    /// The ELF file under this name.
    fn image(&self, name: &str) -> Entry {
        Entry::file(name, &self.image)
    }

    /// The archive of the site, if there is one.
    fn site(&self) -> Option<Entry> {
        self.site.as_ref().map(|site| Entry::file("site.tar", site.path()))
    }
}

/// Puts the archive there at once or not at all; size and hash of the file.
fn write(output: &Path, folder: &str, entries: &[Entry], time: u64, interrupt: &Interrupt) -> Result<(u64, String)> {
    let dir = output.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !dir.is_dir() {
        fs::create_dir_all(dir)?;
    }
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    let file = tempfile::Builder::new().prefix(".cargo-xen-").permissions(permissions).tempfile_in(dir)?;
    let partial = file.path().to_owned();
    interrupt.clean_up(move || drop(fs::remove_file(&partial)));
    let written = archive::write(io::BufWriter::new(file.as_file()), folder, entries, time)?;
    file.persist(output).map_err(|error| error.error)?;
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_that_cannot_be_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.tar");
        assert!(check_output(&file).is_ok() && check_output(dir.path()).is_ok());
        fs::write(&file, "").unwrap();
        assert!(check_output(&file).is_ok(), "it is replaced");
        for (path, expected) in [
            ("/dev/null".into(), "it exists and is not a regular file"),
            (format!("{}/none/", dir.path().display()), "no such folder"),
            (format!("{}/none/a.tar", dir.path().display()), "no folder "),
        ] {
            let error = check_output(Path::new(&path)).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains(&path), "{error}");
        }
    }

    #[test]
    fn what_cannot_be_written_leaves_nothing_and_keeps_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let output = dir.path().join("a.tar");
        fs::write(&output, "before").unwrap();
        let gone = [Entry::file("a", &dir.path().join("none"))];
        write(&output, "a", &gone, 0, &Interrupt::default()).unwrap_err();
        assert_eq!(fs::read_to_string(&output).unwrap(), "before");
        let good = [Entry::text("README.md", "text".into())];
        let (size, _) = write(&output, "a", &good, 0, &Interrupt::default()).unwrap();
        assert_eq!(fs::metadata(&output).unwrap().len(), size);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "left behind");
    }
}

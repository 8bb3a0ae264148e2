//! Building a guest: `cargo build` in its folder, the check of what came out, the stripped image and its xl file.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail, ensure};
use xen_lab::xlfile::Config;

use crate::elf::{self, Image};
use crate::manifest::{Needs, Package, cargo};
use crate::reproduce::{self, Compiler};
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
            return build(Guest::package_here(sarab)?, &Build::default());
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
        Err(Guest::not_found(target, sarab))
    }

    /// The package that the current folder lies in.
    pub(crate) fn package_here(sarab: &Sarab) -> Result<Package> {
        let package = Package::here()?;
        if sarab.checkout() == Some(&package.folder) {
            bail!("name an app: {}", sarab.apps()?.join(", "));
        }
        Ok(package)
    }

    /// The error that nothing has this name.
    pub(crate) fn not_found(target: &str, sarab: &Sarab) -> anyhow::Error {
        match sarab.checkout().and_then(|_| sarab.apps().ok()) {
            Some(apps) => {
                anyhow!("no app `{target}` (apps: {}), and no such file or folder with a Cargo.toml", apps.join(", "))
            }
            None => anyhow!("no such file or folder with a Cargo.toml: `{target}`"),
        }
    }

    /// Builds the package in this folder.
    pub fn build(folder: &Path) -> Result<Guest> {
        build(Package::read(folder)?, &Build::default())
    }

    /// Builds the package in this folder with features beside the default ones.
    pub fn build_with(folder: &Path, features: &[String]) -> Result<Guest> {
        build(Package::read(folder)?, &Build { features, ..Build::default() })
    }

    /// A finished ELF file.
    pub fn finished(path: &Path) -> Result<Guest> {
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
        let least = self.info.min_memory();
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

/// How a guest is built.
#[derive(Default)]
pub(crate) struct Build<'a> {
    /// Features of its package, beside the default ones.
    pub features: &'a [String],
    /// The same bytes everywhere, by this compiler. They are built in a folder of their own.
    pub reproducible: Option<&'a Compiler>,
}

pub(crate) fn build(package: Package, how: &Build) -> Result<Guest> {
    let folder = &package.folder;
    let format = match std::io::stderr().is_terminal() {
        true => "--message-format=json-diagnostic-rendered-ansi",
        false => "--message-format=json",
    };
    // In the package's folder: Cargo takes its configuration, and with it the guest's flags, from there.
    let mut command = cargo();
    command.current_dir(folder).args(["build", "--release", format]).stdin(Stdio::null()).stdout(Stdio::piped());
    if !how.features.is_empty() {
        command.args(["--features", &how.features.join(",")]);
    }
    if let Some(compiler) = how.reproducible {
        if package.is_locked {
            command.arg("--locked");
        }
        reproduce::prepare(&mut command, compiler, &package.target)?;
    }
    let mut child = command.spawn().context("cannot start cargo")?;
    let mut programs = Vec::new();
    let mut undefined = Undefined::new(folder);
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

/// What the linker has not found, and the crates that call it.
struct Undefined<'a> {
    /// The guest's package.
    folder: &'a Path,
    symbols: Vec<(String, Vec<User>)>,
}

/// How a crate was found to use something, the best last.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum User {
    /// By the executor, into which what it runs has been merged.
    Executor(String),
    /// By a file of the package, or one of the same name of a crate that was merged into it.
    File(String),
    /// By a function that uses it, into which that of another crate may have been merged.
    Function(String),
    /// By its library.
    Library(String),
    /// By its source.
    Source(String),
}

impl<'a> Undefined<'a> {
    fn new(folder: &'a Path) -> Self {
        Undefined { folder, symbols: Vec::new() }
    }

    /// Reads what the linker said: lld, or GNU ld.
    fn read(&mut self, said: &str) {
        let mut function = None;
        for line in said.lines() {
            if let Some((_, symbol)) = line.split_once("error: undefined symbol: ") {
                self.add(symbol.trim(), None);
            } else if line.trim_start().starts_with(">>> ") {
                // lld: `>>> referenced by FILE:LINE (PATH)`, then `>>> OBJECT:(FUNCTION) in archive LIBRARY`.
                if let Some((_, users)) = self.symbols.last_mut() {
                    users.extend(user_of(line));
                    users.extend(file_of(line, self.folder));
                    users.extend(line.split_once(":(").and_then(|(_, name)| crate_of(name)));
                }
            } else {
                // GNU ld: `OBJECT: in function `FUNCTION':`, then `FILE:LINE: undefined reference to `SYMBOL'`; or both at once.
                if let Some((_, name)) = line.split_once("in function `") {
                    function = crate_of(name);
                }
                if let Some((before, symbol)) = line.split_once("undefined reference to `") {
                    let symbol = symbol.split('\'').next().unwrap_or_default();
                    self.add(symbol, user_of(before));
                    self.add(symbol, function.clone());
                }
            }
        }
    }

    fn add(&mut self, symbol: &str, user: Option<User>) {
        match self.symbols.iter_mut().find(|(known, _)| known == symbol) {
            Some((_, users)) => users.extend(user),
            None => self.symbols.push((symbol.to_owned(), user.into_iter().collect())),
        }
    }

    fn text(&self) -> Option<String> {
        let mut by_user = BTreeMap::<&str, Vec<String>>::new();
        for (symbol, users) in &self.symbols {
            let name = match users.iter().max() {
                Some(
                    User::Executor(name)
                    | User::File(name)
                    | User::Function(name)
                    | User::Library(name)
                    | User::Source(name),
                ) => name,
                None => "something",
            };
            by_user.entry(name).or_default().push(format!("`{symbol}`"));
        }
        let uses: Vec<_> =
            by_user.iter().map(|(user, symbols)| format!("{user} uses {}", symbols.join(", "))).collect();
        (!uses.is_empty()).then(|| {
            let hint = match by_user.keys().any(|user| user.starts_with("getrandom 0.3") || user.starts_with("getrandom 0.4")) {
                true => "A guest's own source of random numbers is used where rustflags in .cargo/config.toml hold \
                         --cfg=getrandom_backend=\"custom\". ",
                false => "",
            };
            format!(
                "{}. {hint}A guest has no C library and no operating system: look for a feature of that crate that leaves them \
                 out (often `default-features = false`), or for another crate; `cargo tree --invert CRATE` shows what \
                 depends on it",
                uses.join("; ")
            )
        })
    }
}

/// The crate that a path in a line belongs to: a source in Cargo's folder, or a library.
fn user_of(line: &str) -> Option<User> {
    if let Some((_, rest)) = line.split_once("/registry/src/") {
        let package = rest.split('/').nth(1)?;
        return Some(User::Source(
            package.rsplit_once('-').map_or_else(|| package.to_owned(), |(name, version)| format!("{name} {version}")),
        ));
    }
    let (before, _) = line.split_once(".rlib")?;
    let file = before.rsplit('/').next()?.strip_prefix("lib")?;
    Some(User::Library(file.rsplit_once('-').map_or(file, |(name, _)| name).to_owned()))
}

/// The crate that a function is of: the first part of its path.
fn crate_of(function: &str) -> Option<User> {
    let path = function.trim_start_matches(['<', '&', '*', '_']);
    let end = path.find(|c: char| !c.is_ascii_alphanumeric() && c != '_')?;
    (end > 0 && path[end..].starts_with("::")).then(|| match &path[..end] {
        executor @ "async_task" => User::Executor(executor.to_owned()),
        name => User::Function(name.to_owned()),
    })
}

/// The file of the package that lld names: `FILE:LINE (PATH:LINE)`.
fn file_of(line: &str, folder: &Path) -> Option<User> {
    let (path, _) = line.split_once(" (")?.1.rsplit_once(':')?;
    (path.starts_with("src/") && folder.join(path).is_file()).then(|| User::File(path.to_owned()))
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
        let text = |said: &str| {
            let mut undefined = Undefined::new(Path::new(env!("CARGO_MANIFEST_DIR")));
            undefined.read(said);
            undefined.text().map(|text| text.split(". A guest").next().unwrap().to_owned())
        };
        let lld = "  = note: rust-lld: error: undefined symbol: __errno_location\n\
            >>> referenced by get_errno.rs:28 (/c/registry/src/index.crates.io-19/getrandom-0.4.3/src/x/get_errno.rs:28)\n\
            >>>               /t/rnd-01.rnd.29-cgu.0.rcgu.o:(async_task::raw::RawTask$LT$F$GT$::run::h96)\n\n\
            rust-lld: error: undefined symbol: poll\n>>> referenced by use_file.rs:206 (src/use_file.rs:206)\n\
            >>>               ring-90.ring.67-cgu.0.rcgu.o:(ring::rand::f::h8b) in archive /t/libring-90.rlib\n\n\
            rust-lld: error: undefined symbol: getpid\n>>> referenced by main.rs:2 (src/main.rs:2)\n\
            >>>               /t/rnd-01.rnd.29-cgu.0.rcgu.o:(async_task::raw::RawTask$LT$F$GT$::run::h96)\n\n\
            rust-lld: error: undefined symbol: read\n>>> referenced by x.rs:2 (src/x.rs:2)\n\
            >>>               /t/rnd-01.rnd.29-cgu.0.rcgu.o:(uuid::rng::f::h1)\n";
        assert_eq!(
            text(lld).as_deref(),
            Some(
                "getrandom 0.4.3 uses `__errno_location`; ring uses `poll`; src/main.rs uses `getpid`; uuid uses `read`"
            )
        );
        let gnu = "= note: /usr/bin/ld: /t/a.o: in function `getrandom::util::errno':\n          /r/util.rs:1:(.text+0x9): \
            undefined reference to `__errno_location'\n          /usr/bin/ld: /r/util.rs:9: undefined reference to \
            `getrandom'\n/usr/bin/ld: /t/a.o: in function `<ring::rand::X as ring::Y>::z': /r/x.rs:2: undefined \
            reference to `syscall'\n";
        assert_eq!(text(gnu).as_deref(), Some("getrandom uses `__errno_location`, `getrandom`; ring uses `syscall`"));
        assert_eq!(text("error: could not compile"), None);
        // Whose flags are older than the backend.
        let mut undefined = Undefined::new(Path::new("/"));
        undefined.read(lld);
        assert!(undefined.text().unwrap().contains("--cfg=getrandom_backend=\"custom\""));
    }
}

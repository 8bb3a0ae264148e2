//! `cargo xen run`: boots a guest in the lab, on this Xen host or on another one, and shows its console until it ends.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tempfile::NamedTempFile;
use xen_lab::paths::which;
use xen_lab::xlfile::{Config, argument};
use xen_lab::{Dom0, Lab, Local, Marker, Options, Publish, Ssh, Suite, suite};

use crate::cli::parse_suite;
use crate::demo::Demo;
use crate::guest::Guest;
use crate::interrupt::Interrupt;
use crate::lab::quote;
use crate::logs::Decoder;
use crate::manifest::Package;
use crate::sarab::Sarab;
use crate::screen::Screen;
use crate::share::{self, Share};
use crate::site::{self, Announcer};

/// How long a demo may print nothing.
const DEMO_SILENCE: Duration = Duration::from_secs(120);

/// Where the guest runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// In the emulated lab.
    Lab,
    /// On this machine, which is a Xen host.
    Xl,
    /// On another Xen host.
    Ssh(String),
}

impl std::str::FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Target, String> {
        match text {
            "lab" => Ok(Target::Lab),
            "xl" => Ok(Target::Xl),
            _ => match text.strip_prefix("ssh:") {
                Some(destination) if !destination.is_empty() && !destination.starts_with('-') => {
                    Ok(Target::Ssh(destination.to_owned()))
                }
                _ => Err("expected lab, xl, or ssh:DEST such as ssh:root@host".into()),
            },
        }
    }
}

/// A key of the guest's part of the store, and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreKey {
    path: String,
    value: String,
}

impl std::str::FromStr for StoreKey {
    type Err = String;

    fn from_str(text: &str) -> Result<StoreKey, String> {
        let (path, value) = text.split_once('=').ok_or("expected KEY=VALUE, such as data/mode=quiet")?;
        // docs/misc/xenstore.txt, and what would leave the domain's own part.
        let is_good = |part: &str| {
            !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_@:.+".contains(c)) && part != ".."
        };
        match path.split('/').all(is_good) {
            true if !value.contains(['\0', '\n']) => Ok(StoreKey { path: path.to_owned(), value: value.to_owned() }),
            true => Err("the value cannot hold a line feed".into()),
            false => Err(format!("`{path}`: expected a key below the domain's own path, such as data/mode")),
        }
    }
}

/// The command-line arguments.
#[derive(clap::Args)]
pub struct RunArgs {
    /// A folder with a Cargo package, an ELF file, or in Sarab's repository an app; the package of this folder where it is
    /// left out
    #[arg(value_name = "APP|PATH")]
    target: Option<String>,
    /// An argument for the guest's command line; may be given many times
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// A key of the store to be written before the guest runs, below its own path, such as data/mode=quiet; may be given
    /// many times
    #[arg(long = "store", value_name = "KEY=VALUE")]
    store: Vec<StoreKey>,
    /// The guest's memory [default: what its xl file or its Cargo.toml says, else 16]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..))]
    memory: Option<u64>,
    /// A raw disk image for the guest; may be given many times
    #[arg(long = "disk", value_name = "FILE")]
    disks: Vec<PathBuf>,
    /// A folder to be packed as a tar archive and given to the guest as its first disk; in the lab its port 80 is
    /// published [default: `site` of the guest's Cargo.toml, where no --disk is given]
    #[arg(long, value_name = "FOLDER")]
    site: Option<PathBuf>,
    /// A folder of this machine that the guest shares (9pfs), by the tag `share` or another; may be given many times. Each sees
    /// at once what the other changes; `,ro` lets the guest change nothing
    #[arg(long = "share", value_name = "FOLDER[:TAG][,ro]")]
    shares: Vec<Share>,
    /// Lead a port of this machine to a port of the guest; may be given many times (lab only)
    #[arg(long = "publish", value_name = "HOSTPORT:GUESTPORT")]
    publish: Vec<Publish>,
    /// A bridge that the guest gets a network interface on; in the lab a guest that needs one gets the lab's
    #[arg(long = "bridge", value_name = "NAME")]
    bridges: Vec<String>,
    /// Which Xen the lab boots: bookworm (4.17) or trixie (4.20)
    #[arg(long, value_name = "SUITE", value_parser = parse_suite)]
    suite: Option<Suite>,
    /// Where to run: lab, xl (this machine is a Xen host), or ssh:DEST (DEST is one)
    #[arg(long, value_name = "lab|xl|ssh:DEST", default_value = "lab")]
    on: Target,
    /// For an ELF file: the folder of the package that it was built from, with Cargo.toml and xl file
    #[arg(long, value_name = "FOLDER")]
    package: Option<PathBuf>,
    /// Do not show the demo that the guest's Cargo.toml names, but the guest alone; a demo is shown in the lab, unless --set,
    /// --store, --disk, --site, --share or --bridge is given
    #[arg(long)]
    no_demo: bool,
}

/// Runs the guest to its end.
pub fn command(args: RunArgs, sarab: &Sarab) -> Result<ExitCode> {
    let interrupt = Interrupt::new()?;
    let outcome = args.boot(sarab, &interrupt);
    match interrupt.status() {
        // A guest that Ctrl-C has ended is not one that has failed.
        Some(status) => Ok(ExitCode::from(status)),
        None => outcome,
    }
}

/// A guest that is to run, and what it is to have.
struct Run {
    guest: Guest,
    config: Config,
    /// Files of this machine that become its disks.
    disks: Vec<PathBuf>,
    shares: Vec<Share>,
    publish: Vec<Publish>,
    store: Vec<StoreKey>,
    /// The port of this machine that leads to its site.
    served: Option<u16>,
    /// Deleted when the guest has ended.
    packed: Option<NamedTempFile>,
    demo: Option<Demo>,
}

impl RunArgs {
    fn boot(&self, sarab: &Sarab, interrupt: &Interrupt) -> Result<ExitCode> {
        self.check()?;
        let mut run = self.prepare(sarab)?;
        let packed = run.packed.iter().map(|packed| packed.path().to_owned());
        for packed in packed.chain(run.demo.iter().flat_map(Demo::disks)) {
            interrupt.clean_up(move || drop(fs::remove_file(&packed)));
        }
        let demo = run.demo.take();
        let end = match &self.on {
            Target::Lab => run.in_lab(self.suite.unwrap_or(suite::DEFAULT), demo, interrupt),
            Target::Xl => run.here(interrupt),
            Target::Ssh(destination) => run.over_ssh(Ssh { destination: destination.clone() }, interrupt),
        };
        Ok(report(&run.guest.name, &end?))
    }

    /// What can fail at once fails before the build.
    fn check(&self) -> Result<()> {
        for word in &self.set {
            argument(word)?;
        }
        for disk in &self.disks {
            ensure!(disk.is_file(), "--disk {}: no such file", disk.display());
        }
        if let Some(folder) = &self.site {
            ensure!(folder.is_dir(), "--site {}: no such folder", folder.display());
        }
        ensure!(
            self.on == Target::Lab || self.publish.is_empty(),
            "--publish works in the lab; on a Xen host use --bridge"
        );
        ensure!(
            self.on == Target::Lab || self.suite.is_none(),
            "--suite chooses the lab's Xen, and this run is on a Xen host"
        );
        share::check(&self.shares, self.on == Target::Lab)?;
        match &self.on {
            Target::Ssh(_) if !self.shares.is_empty() => {
                bail!("--share: a folder of this machine cannot be shared with a guest on another one")
            }
            Target::Lab => xen_lab::check_ports(&self.publish)?,
            Target::Xl => ensure!(
                which("xl").is_some() || which("xl.sh").is_some(),
                "`xl` not found: this machine is not a Xen host (without --on the guest runs in the lab)"
            ),
            Target::Ssh(_) => {
                ensure!(which("ssh").is_some(), "`ssh` not found: install the package openssh-client")
            }
        }
        Ok(())
    }

    /// Whether a demo fits what was asked for.
    fn shows_demo(&self) -> bool {
        let is_plain = self.set.is_empty() && self.store.is_empty() && self.disks.is_empty() && self.bridges.is_empty();
        self.on == Target::Lab && is_plain && self.site.is_none() && self.shares.is_empty() && !self.no_demo
    }

    fn prepare(&self, sarab: &Sarab) -> Result<Run> {
        let mut guest = Guest::get(self.target.as_deref(), sarab)?;
        if let Some(folder) = &self.package {
            guest.package = Some(Package::read(folder)?);
        }
        let needs = guest.needs();
        let mut config = self.config(&guest)?;
        guest.check_memory(config.memory)?;

        let folder = self
            .site
            .clone()
            .or_else(|| needs.site.clone().filter(|_| self.disks.is_empty() && self.shares.is_empty()));
        let packed = folder.as_deref().map(site::pack).transpose()?;
        let in_lab = self.on == Target::Lab;
        let own = match needs.disk.filter(|_| in_lab && self.disks.is_empty()) {
            Some(bytes) => Some(own_disk(&guest, bytes)?),
            None => None,
        };
        let packed_disk = packed.iter().map(|packed| packed.path().to_owned());
        let disks: Vec<_> = packed_disk.chain(own).chain(self.disks.clone()).collect();
        if in_lab || !disks.is_empty() {
            config.remove("disk");
        }
        // A site may be in a share.
        let is_shared = needs.site.is_some() && !self.shares.is_empty();
        ensure!(
            disks.len() >= needs.disks || config.has("disk") || is_shared,
            "{} needs {}: give it {} with --disk FILE",
            guest.name,
            if needs.disks == 1 { "a disk".to_owned() } else { format!("{} disks", needs.disks) },
            if needs.disks == 1 { "one" } else { "them" },
        );

        let mut publish = self.publish.clone();
        let guest_port = self.set.iter().rev().find_map(|word| word.strip_prefix("port=")?.parse().ok()).unwrap_or(80);
        let mut served = None;
        if in_lab && (needs.site.is_some() || self.site.is_some()) {
            if publish.is_empty() {
                publish.push(Publish { host: xen_lab::free_port()?, guest: guest_port });
            }
            served = publish.iter().find(|publish| publish.guest == guest_port).map(|publish| publish.host);
        }
        let mut demo = if self.shows_demo() { Demo::prepare(&guest, &config.name)? } else { None };
        if let Some(arguments) = needs.demo.as_ref().filter(|_| demo.is_some()).map(|demo| demo.arguments.as_str()) {
            config.command_line = format!("{} {arguments}", config.command_line).trim().to_owned();
        }
        if let (Some(demo), Some(port)) = (&mut demo, needs.demo.as_ref().and_then(|demo| demo.port)) {
            if publish.is_empty() {
                publish.push(Publish { host: xen_lab::free_port()?, guest: port });
            }
            demo.serve_at(publish.iter().find(|publish| publish.guest == port).map(|publish| publish.host));
            // It says so when it has ended.
            served = None;
        }
        if in_lab || !self.bridges.is_empty() {
            let wanted = needs.net || !publish.is_empty() || config.has("vif");
            config.remove("vif");
            config.bridges.clone_from(&self.bridges);
            if in_lab && wanted && config.bridges.is_empty() {
                config.bridges.push("xenbr0".to_owned());
            }
        } else if needs.net && !config.has("vif") {
            // The toolstack's own bridge.
            config.extra.push("vif = [\"\"]".to_owned());
        }
        let shares = self.shares.clone();
        Ok(Run { guest, config, disks, shares, publish, store: self.store.clone(), served, packed, demo })
    }

    /// The guest's own xl file, where its project has one, with what is asked for.
    fn config(&self, guest: &Guest) -> Result<Config> {
        let file = guest.package.as_ref().and_then(|package| package.xl_file(&guest.name));
        let mut config = match file {
            Some(path) => fs::read_to_string(&path)
                .map_err(anyhow::Error::from)
                .and_then(|text| Config::parse(&text))
                .with_context(|| path.display().to_string())?,
            None => guest.needs().plain_config(&guest.name, ""),
        };
        if let Some(memory) = self.memory {
            config.memory = memory;
        }
        for word in &self.set {
            if !config.command_line.is_empty() {
                config.command_line.push(' ');
            }
            config.command_line += &argument(word)?;
        }
        Ok(config)
    }
}

/// The disk that a guest keeps between its runs: a file in its project's folder, made when it is first needed.
fn own_disk(guest: &Guest, bytes: u64) -> Result<PathBuf> {
    let package = guest.package.as_ref().context("its folder is not known: give it a disk with --disk FILE")?;
    let path = package.folder.join(format!("{}.img", guest.name));
    if !path.exists() {
        let made = File::create_new(&path).and_then(|file| file.set_len(bytes));
        made.with_context(|| path.display().to_string())?;
    }
    eprintln!("{} keeps its disk in {}", guest.name, path.display());
    Ok(path)
}

impl Run {
    fn in_lab(&self, suite: Suite, demo: Option<Demo>, interrupt: &Interrupt) -> Result<String> {
        eprintln!("booting {suite} in the lab …");
        let files = self.disks.iter().cloned().chain(demo.iter().flat_map(Demo::disks));
        let disks: Vec<_> = files.map(|disk| disk.canonicalize()).collect::<Result<_, _>>()?;
        let all = disks.len();
        let announce = Some(self.guest.name.clone());
        let folders = share::folders(&self.shares)?;
        let options = Options { publish: self.publish.clone(), disks, folders, announce, ..Options::default() };
        let lab = Lab::boot(suite, &options)?;
        let _announcer = self.served.map(Announcer::new);
        interrupt.clean_up(lab.killer());
        let mut disks: Vec<_> = (0..all).map(|index| lab.disk_path(index)).collect::<Result<_>>()?;
        let of_demo = disks.split_off(self.disks.len());
        let shared: Vec<_> = (0..self.shares.len()).map(|index| lab.shared_folder(index)).collect::<Result<_>>()?;
        let shares = share::line(&self.shares, &shared, ",type=xen_9pfsd,max-open-files=1024")?;
        let dir = "/tmp/guest";
        let (screen, ended) = (Screen::new(), Arc::new(AtomicBool::new(false)));
        if let Some(mut demo) = demo {
            lab.run(&format!("mkdir -p {dir}"))?;
            demo.put(&lab, dir, &of_demo)?;
            let (interrupt, ended) = (interrupt.clone(), ended.clone());
            let is_over = move || interrupt.status().is_some() || ended.load(Ordering::Relaxed);
            demo.show_when_ready(lab.agent().with_timeout(DEMO_SILENCE), dir, &screen, is_over);
        }
        let end = self.on(&lab, lab.agent(), (disks, shares), dir, &screen, interrupt);
        ended.store(true, Ordering::Relaxed);
        end
    }

    fn here(&self, interrupt: &Interrupt) -> Result<String> {
        let dir = tempfile::Builder::new().prefix("sarab-run-").tempdir()?;
        let absolute = |disk: &PathBuf| Ok(disk.canonicalize()?.display().to_string());
        let disks = self.disks.iter().map(absolute).collect::<Result<_>>()?;
        let shares = share::line(&self.shares, &share::own_paths(&self.shares)?, "")?;
        self.on(&Local, Local, (disks, shares), &dir.path().display().to_string(), &Screen::new(), interrupt)
    }

    fn over_ssh(&self, dom0: Ssh, interrupt: &Interrupt) -> Result<String> {
        let destination = &dom0.destination;
        let (status, said) =
            dom0.try_run("PATH=$PATH:/usr/sbin:/sbin; command -v xl >&2; mktemp -d /tmp/sarab-run-XXXXXX")?;
        let said = said.trim();
        ensure!(status != 255, "cannot reach {destination} by ssh:\n{said}");
        let (path, dir) = said.split_once('\n').unwrap_or(("", said));
        ensure!(status == 0 && !path.is_empty(), "no `xl` on {destination}: it is not a Xen host\n{dir}");
        let mut disks = Vec::new();
        for (index, disk) in self.disks.iter().enumerate() {
            let path = format!("{dir}/disk{index}");
            dom0.put(&path, Box::new(File::open(disk)?))?;
            disks.push(path);
        }
        self.on(&dom0, dom0.clone(), (disks, String::new()), dir, &Screen::new(), interrupt)
    }

    /// Puts image and xl file into `dir` of dom0, runs the domain, and returns how it ended. `disks` are paths in dom0, and
    /// `shares` the xl file's line.
    fn on(
        &self,
        dom0: &dyn Dom0,
        asker: impl Dom0 + Send + 'static,
        (disks, shares): (Vec<String>, String),
        dir: &str,
        screen: &Screen,
        interrupt: &Interrupt,
    ) -> Result<String> {
        let guest = &self.guest;
        let mut config = self.config.clone();
        config.disks = disks;
        if !self.shares.is_empty() {
            config.remove("p9");
            config.extra.push(shares);
        }
        config.kernel = format!("{dir}/{}", guest.name);
        dom0.run(&format!("mkdir -p '{dir}'"))?;
        dom0.put(&config.kernel, Box::new(File::open(&guest.image)?))?;
        let file = format!("{dir}/{}.cfg", guest.name);
        dom0.put(&file, Box::new(io::Cursor::new(config.text()?)))?;
        let mark = xen_lab::token()?;
        let script = script(&config.name, &file, dir, &mark, &self.store);

        let mut stream = dom0.stream(&script, Some(Box::new(Lifeline)))?;
        let name = config.name;
        interrupt.guest_runs(move || {
            eprintln!("\nasking {name} to shut down, as `xl shutdown` does; Ctrl-C again destroys it");
            // Ctrl-C is still handled meanwhile.
            std::thread::spawn(move || {
                let asked = asker.run(&format!("PATH=$PATH:/usr/sbin:/sbin; xl shutdown {}", quote(&name)));
                if let Err(error) = asked {
                    eprintln!("{error:#}");
                }
            });
        });
        let end = show(stream.as_mut(), &mark, &guest.debug, screen);
        interrupt.guest_has_ended();
        end
    }
}

/// What dom0's shell runs.
fn script(name: &str, file: &str, dir: &str, mark: &str, store: &[StoreKey]) -> String {
    let write =
        |key: &StoreKey| format!("  xenstore-write \"$store\"/{} {} || exit 1\n", quote(&key.path), quote(&key.value));
    include_str!("run.sh")
        .replace("@NAME@", name)
        .replace("@CONFIG@", file)
        .replace("@DIR@", dir)
        .replace("@MARK@", mark)
        .replace("@STORE@", &store.iter().map(write).collect::<String>())
}

/// Shows the console, and returns how the guest ended.
fn show(stream: &mut dyn xen_lab::Stream, mark: &str, debug: &Path, screen: &Screen) -> Result<String> {
    let mut decoder = Decoder::new(Some(debug))?;
    let mut marker = Marker::new(mark);
    let mut shown = Vec::new();
    while let Some(bytes) = stream.read()? {
        decoder.feed(&marker.feed(&bytes), &mut shown)?;
        screen.console(&shown)?;
        shown.clear();
    }
    decoder.feed(&marker.rest(), &mut shown)?;
    decoder.finish(&mut shown)?;
    if decoder.in_line() {
        shown.push(b'\n');
    }
    screen.console(&shown)?;
    match (marker.value(), stream.status()?) {
        (Some(end), _) => Ok(end.to_owned()),
        (None, 130) => bail!("interrupted"),
        (None, status) => bail!("the guest could not be run (status {status})"),
    }
}

/// Prints how a guest ended, where that was not well.
fn report(name: &str, end: &str) -> ExitCode {
    let text = match end {
        "0" => return ExitCode::SUCCESS,
        "2" => "it suspended itself and was not resumed",
        "3" => {
            eprintln!("{name} crashed");
            return ExitCode::FAILURE;
        }
        "4" => "a watchdog ended it",
        "gone" => "it was destroyed",
        "failed" => {
            eprintln!("the toolstack could not start {name}");
            return ExitCode::FAILURE;
        }
        other => &format!("shutdown reason {other}"),
    };
    eprintln!("{name} ended: {text}");
    ExitCode::FAILURE
}

/// An input that never ends while this program lives: its end has dom0 end the domain.
struct Lifeline;

impl Read for Lifeline {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        loop {
            std::thread::park();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_and_ports_are_read() {
        assert_eq!("ssh:root@dom0".parse(), Ok(Target::Ssh("root@dom0".into())));
        assert!("ssh:-oProxyCommand=x".parse::<Target>().is_err() && "kvm".parse::<Target>().is_err());
        assert_eq!("8080:80".parse(), Ok(Publish { host: 8080, guest: 80 }));
        let key = StoreKey { path: "data/mode".into(), value: "a=b c".into() };
        assert_eq!("data/mode=a=b c".parse(), Ok(key.clone()));
        for bad in ["data", "/data=1", "data//x=1", "../1/data=2", "a b=1", "data/=1", "=1", "a=1\n"] {
            assert!(bad.parse::<StoreKey>().is_err(), "{bad}");
        }
        let script = script("web", "/d/web.cfg", "/d", "abc", &[key]);
        assert!(
            script.contains("\n  xenstore-write \"$store\"/'data/mode' 'a=b c' || exit 1\n  xl unpause"),
            "{script}"
        );
        assert!(
            ["@NAME@", "@CONFIG@", "@DIR@", "@MARK@", "@STORE@"].iter().all(|left| !script.contains(left)),
            "{script}"
        );
        for bad in ["80", "0:80", "80:x", "70000:1", ":"] {
            assert!(bad.parse::<Publish>().is_err(), "{bad}");
        }
    }
}

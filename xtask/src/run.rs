//! `cargo xen run`: boots a guest in the lab, on this Xen host or on another one, and shows its console until it ends.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, bail, ensure};

use crate::dom0::{Dom0, Local, Ssh};
use crate::guest::{DEFAULT_MEMORY, Guest};
use crate::lab::{Lab, Options, Publish, Suite, suite};
use crate::logs::Decoder;
use crate::paths::which;
use crate::site::{self, Announcer};
use crate::xlcfg::command_line_word;

/// Where the guest runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum On {
    /// In the emulated lab.
    Lab,
    /// On this machine, which is a Xen host.
    Xl,
    /// On another Xen host.
    Ssh(String),
}

impl std::str::FromStr for On {
    type Err = String;

    fn from_str(text: &str) -> Result<On, String> {
        match text {
            "lab" => Ok(On::Lab),
            "xl" => Ok(On::Xl),
            _ => match text.strip_prefix("ssh:") {
                Some(destination) if !destination.is_empty() && !destination.starts_with('-') => {
                    Ok(On::Ssh(destination.to_owned()))
                }
                _ => Err("expected lab, xl, or ssh:DEST such as ssh:root@host".into()),
            },
        }
    }
}

impl std::str::FromStr for Publish {
    type Err = String;

    fn from_str(text: &str) -> Result<Publish, String> {
        let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port != 0);
        text.split_once(':')
            .and_then(|(host, guest)| Some(Publish { host: port(host)?, guest: port(guest)? }))
            .ok_or_else(|| "expected HOSTPORT:GUESTPORT, such as 8080:80".into())
    }
}

/// What the command line says.
#[derive(clap::Args)]
pub struct RunArgs {
    /// An app of this repository, a folder with a Cargo package, or an ELF file
    #[arg(value_name = "APP|PATH")]
    target: String,
    /// A word for the guest's command line; may be given many times
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// The guest's memory
    #[arg(long, value_name = "MIB", default_value_t = DEFAULT_MEMORY, value_parser = clap::value_parser!(u64).range(1..))]
    memory: u64,
    /// A raw disk image for the guest; may be given many times
    #[arg(long = "disk", value_name = "FILE")]
    disks: Vec<PathBuf>,
    /// A folder to be packed as a tar archive and given to the guest as its first disk; in the lab its port 80 is
    /// published. Without this `web` serves a sample
    #[arg(long, value_name = "FOLDER")]
    site: Option<PathBuf>,
    /// Leads a port of this machine to a port of the guest; may be given many times (lab only)
    #[arg(long = "publish", value_name = "HOSTPORT:GUESTPORT")]
    publish: Vec<Publish>,
    /// A bridge that the guest gets a network interface on; with --publish the lab's is taken
    #[arg(long = "bridge", value_name = "NAME")]
    bridges: Vec<String>,
    /// Which Xen the lab boots: bookworm (4.17) or trixie (4.20)
    #[arg(long, value_name = "SUITE", value_parser = parse_suite)]
    suite: Option<Suite>,
    /// Where to run: lab, xl (this machine is a Xen host), or ssh:DEST (DEST is one)
    #[arg(long, value_name = "lab|xl|ssh:DEST", default_value = "lab")]
    on: On,
}

/// A suite's name, for clap.
pub fn parse_suite(name: &str) -> Result<Suite, String> {
    Suite::named(name).map_err(|error| error.to_string())
}

/// The user has pressed Ctrl-C.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Runs the guest to its end.
pub fn command(args: RunArgs) -> Result<ExitCode> {
    let outcome = boot(args);
    // A guest that Ctrl-C has ended is not one that has failed: the signal's handler has the last word.
    while INTERRUPTED.load(Ordering::SeqCst) {
        std::thread::park();
    }
    outcome
}

fn boot(mut args: RunArgs) -> Result<ExitCode> {
    // What a newcomer types: a sample site, on a port that is free.
    let serves = args.on == On::Lab && (args.target == "web" || args.site.is_some());
    let folder = match args.site.take() {
        None if args.target == "web" && args.disks.is_empty() => Some(site::sample()),
        folder => folder,
    };
    // Deleted when the guest has ended.
    let packed = folder.as_deref().map(site::pack).transpose()?;
    if let Some(packed) = &packed {
        args.disks.insert(0, packed.path().to_owned());
    }
    let guest_port = args.set.iter().rev().find_map(|word| word.strip_prefix("port=")?.parse().ok()).unwrap_or(80);
    if serves && args.publish.is_empty() {
        args.publish.push(Publish { host: crate::lab::free_port()?, guest: guest_port });
    }
    let words: Vec<_> = args.set.iter().map(|word| command_line_word(word)).collect::<Result<_>>()?;
    for disk in &args.disks {
        ensure!(disk.is_file(), "--disk {}: there is no such file", disk.display());
    }
    ensure!(args.on == On::Lab || args.publish.is_empty(), "--publish works in the lab; on a Xen host use --bridge");
    ensure!(args.on == On::Lab || args.suite.is_none(), "--suite chooses the lab's Xen, and this run is on a Xen host");
    // What can fail at once fails before the build.
    match &args.on {
        On::Lab => crate::lab::check_ports(&args.publish)?,
        On::Xl => ensure!(
            which("xl").is_some() || which("xl.sh").is_some(),
            "there is no `xl` here: this machine is not a Xen host (without --on the guest runs in the lab)"
        ),
        On::Ssh(_) => ensure!(which("ssh").is_some(), "there is no `ssh` here: install the package openssh-client"),
    }
    let guest = Guest::get(&args.target)?;
    guest.check_memory(args.memory)?;

    let mut config = guest.config();
    config.memory = args.memory;
    config.command_line = words.join(" ");
    config.bridges = args.bridges.clone();
    let packed_path = packed.as_ref().map(|packed| packed.path().to_owned());
    let mut end = match &args.on {
        On::Lab => {
            let suite = args.suite.unwrap_or(suite::DEFAULT);
            eprintln!("booting {suite} in the lab …");
            let disks = args.disks.iter().map(|disk| disk.canonicalize()).collect::<Result<_, _>>()?;
            let lab = Lab::boot(suite, &Options { publish: args.publish.clone(), disks, ..Options::default() })?;
            let published = args.publish.iter().find(|publish| publish.guest == guest_port).filter(|_| serves);
            let _announcer = published.map(|publish| Announcer::new(publish.host));
            let killer = lab.killer();
            on_interrupt(packed_path, killer)?;
            if !args.publish.is_empty() && config.bridges.is_empty() {
                config.bridges.push(lab.bridge().unwrap_or("xenbr0").to_owned());
            }
            config.disks = (0..args.disks.len()).map(|index| lab.disk_path(index)).collect::<Result<_>>()?;
            run(&lab, &guest, config, "/tmp/guest")?
        }
        On::Xl => {
            on_interrupt(packed_path, || ())?;
            let dir = tempfile::Builder::new().prefix("sarab-run-").tempdir()?;
            config.disks = absolute(&args.disks)?;
            run(&Local, &guest, config, &dir.path().display().to_string())?
        }
        On::Ssh(destination) => {
            on_interrupt(packed_path, || ())?;
            let dom0 = Ssh { destination: destination.clone() };
            let (status, dir) =
                dom0.try_run("PATH=$PATH:/usr/sbin:/sbin; command -v xl >&2; mktemp -d /tmp/sarab-run-XXXXXX")?;
            ensure!(status != 255, "cannot reach {destination} by ssh:\n{}", dir.trim());
            let (path, dir) = dir.trim().split_once('\n').unwrap_or(("", dir.trim()));
            ensure!(status == 0 && !path.is_empty(), "there is no `xl` at {destination}: it is not a Xen host\n{dir}");
            let dir = dir.to_owned();
            for (index, disk) in args.disks.iter().enumerate() {
                let path = format!("{dir}/disk{index}");
                dom0.put(&path, Box::new(File::open(disk)?))?;
                config.disks.push(path);
            }
            run(&dom0, &guest, config, &dir)?
        }
    };
    let name = &guest.name;
    Ok(match end.as_str() {
        "0" => ExitCode::SUCCESS,
        "3" => {
            eprintln!("{name} crashed");
            ExitCode::FAILURE
        }
        "failed" => {
            eprintln!("the toolstack could not start {name}");
            ExitCode::FAILURE
        }
        _ => {
            end = match end.as_str() {
                "2" => "it suspended itself, and nobody resumes it here".into(),
                "4" => "a watchdog ended it".into(),
                "gone" => "somebody destroyed it".into(),
                other => format!("shutdown reason {other}"),
            };
            eprintln!("{name} ended: {end}");
            ExitCode::FAILURE
        }
    })
}

/// At Ctrl-C: nothing is left behind, and what runs is ended.
fn on_interrupt(packed: Option<PathBuf>, end: impl Fn() + Send + 'static) -> Result<()> {
    Ok(ctrlc::set_handler(move || {
        INTERRUPTED.store(true, Ordering::SeqCst);
        if let Some(packed) = &packed {
            let _ = std::fs::remove_file(packed);
        }
        end();
        std::process::exit(130);
    })?)
}

fn absolute(disks: &[PathBuf]) -> Result<Vec<String>> {
    disks.iter().map(|disk| Ok(disk.canonicalize()?.display().to_string())).collect()
}

/// Puts image and xl file into `dir` of dom0, runs the domain, and returns how it ended.
fn run(dom0: &dyn Dom0, guest: &Guest, mut config: crate::xlcfg::Config, dir: &str) -> Result<String> {
    dom0.run(&format!("mkdir -p '{dir}'"))?;
    config.kernel = format!("{dir}/{}", guest.name);
    dom0.put(&config.kernel, Box::new(File::open(&guest.image)?))?;
    let file = format!("{dir}/{}.cfg", guest.name);
    dom0.put(&file, Box::new(io::Cursor::new(config.text()?)))?;
    let script =
        include_str!("../lab/run.sh").replace("@NAME@", &config.name).replace("@CONFIG@", &file).replace("@DIR@", dir);

    let mut decoder = Decoder::new(Some(&guest.debug))?;
    let mut stream = dom0.stream(&script, Some(Box::new(Lifeline)))?;
    let mut out = io::stdout().lock();
    let mut end = None;
    while let Some(line) = stream.line()? {
        match line.strip_prefix(b"@sarab-end=") {
            Some(reason) => end = Some(String::from_utf8_lossy(reason).trim().to_owned()),
            None => decoder.feed(&line, &mut out)?,
        }
        out.flush()?;
    }
    decoder.finish(&mut out)?;
    out.flush()?;
    match (end, stream.status()?) {
        (Some(end), _) => Ok(end),
        (None, 130) => bail!("interrupted"),
        (None, status) => bail!("the guest could not be run (status {status})"),
    }
}

/// An input that never ends while this program lives: its end tells dom0 to end the domain.
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
        assert_eq!("ssh:root@dom0".parse(), Ok(On::Ssh("root@dom0".into())));
        assert!("ssh:-oProxyCommand=x".parse::<On>().is_err() && "kvm".parse::<On>().is_err());
        assert_eq!("8080:80".parse(), Ok(Publish { host: 8080, guest: 80 }));
        for bad in ["80", "0:80", "80:x", "70000:1", ":"] {
            assert!(bad.parse::<Publish>().is_err(), "{bad}");
        }
    }
}

//! The commands of the README, the quick start and the list of commands, as they stand there, in a clean checkout.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::paths::repo;

/// Where the commands stand, in the order in which they are taken.
const PAGES: [&str; 3] = ["README.md", "docs/quick-start.md", "docs/commands.md"];

/// How long a command may be silent: it builds first.
const TIMEOUT: Duration = Duration::from_secs(600);

/// How a command shows that it is right.
#[derive(Clone, Copy)]
enum Proof {
    /// It serves a page with this text at the address that it tells, until Ctrl-C, and leaves nothing behind.
    Page(&'static str),
    /// It prints this, and Ctrl-C ends it.
    Prints(&'static str),
    /// It ends well, and has printed this.
    Ends(&'static str),
    /// It is there with these words: it is for another machine, takes long, or is what runs just now.
    Help,
    /// The following ones run there.
    Folder(&'static str),
    /// What was done before the walk began.
    Checkout,
}

const COMMANDS: &[(&str, Proof)] = &[
    ("cargo xen run web", Proof::Page("<h1>")),
    ("cargo xen run gate", Proof::Page("<h1>")),
    ("cargo xen test", Proof::Help),
    ("cargo xen test --quick", Proof::Help),
    ("cargo xen run web --site FOLDER", Proof::Page("a folder of one's own")),
    ("cargo xen run web --share FOLDER", Proof::Help),
    ("cargo xen new ../my-appliance --template web", Proof::Ends("begins as web")),
    ("cargo xen run hello --set name=me", Proof::Prints("Hello, me")),
    ("cargo xen new PATH --template APP", Proof::Ends("begins as hello")),
    ("cargo xen build APP", Proof::Ends("/hello")),
    ("cargo xen package APP --for xl", Proof::Ends("/hello-xl.tar")),
    ("cargo xen run APP", Proof::Prints("Hello, world")),
    ("cargo xen run APP --on xl", Proof::Help),
    ("cargo xen run APP --on ssh:root@host", Proof::Help),
    ("cargo xen run APP --suite bookworm", Proof::Prints("Xen           4.17")),
    ("cargo xen logs --elf APP [FILE]", Proof::Ends("what a console printed")),
    ("cargo xen logs --elf APP FILE", Proof::Ends("what a console printed")),
    ("cargo xen bench", Proof::Help),
    ("cargo xen fuzz --minutes N", Proof::Help),
    ("cargo xen soak --hours N", Proof::Help),
    ("cargo xen lab shell", Proof::Help),
    ("cargo xen lab exec -- COMMAND", Proof::Help),
    ("cargo xen doctor", Proof::Ends("boots offline")),
    ("cargo xen run store --set mode=check", Proof::Ends(" passed, 0 failed")),
    ("cargo xen run disk --disk FILE --set mode=info", Proof::Ends("sectors")),
    ("cargo xen run kv --publish 6379:6379", Proof::Prints("kv: 0 keys, ready")),
    ("git clone https://github.com/sarab-project/sarab && cd sarab", Proof::Checkout),
    ("cd ../my-appliance", Proof::Folder("my-appliance")),
    ("cargo run --release", Proof::Page("<h1>")),
    ("(cd host && cargo test)", Proof::Ends("test result: ok")),
];

/// All commands, each once.
pub fn walk() -> Result<String> {
    let Some(files) = tracked()? else { return Ok("skipped: not a git checkout".into()) };
    let walk = Walk::begin(&files)?;
    let mut done = BTreeSet::new();
    for page in PAGES {
        let mut folder = walk.checkout.clone();
        for (command, typed) in commands(&fs::read_to_string(walk.checkout.join(page))?) {
            if !done.insert(command.clone()) {
                continue;
            }
            let known = COMMANDS.iter().find(|(known, _)| *known == command);
            let (_, proof) = known.with_context(|| format!("{page} has `{command}`, which is not tried here"))?;
            match proof {
                Proof::Checkout => {}
                Proof::Folder(name) => folder = walk.dir.join(name),
                proof => {
                    let folder = if typed { &folder } else { &walk.checkout };
                    walk.try_it(folder, &command, *proof).with_context(|| format!("{page}: `{command}`"))?;
                }
            }
        }
    }
    let gone: Vec<_> =
        COMMANDS.iter().map(|(command, _)| *command).filter(|command| !done.contains(*command)).collect();
    ensure!(gone.is_empty(), "the pages have no {gone:?} any more");
    Ok(format!("{} commands", done.len()))
}

/// What a page tells the reader to type, one line after the other: the lines of its shell blocks, and what stands behind
/// a prompt. And what stands in the text as `cargo xen …`, which is not typed where the lines before it have led.
fn commands(page: &str) -> Vec<(String, bool)> {
    let mut found = Vec::new();
    let mut block = None;
    for line in page.lines() {
        match (line.strip_prefix("```"), block) {
            (Some(language), None) => block = Some(language),
            (Some(_), Some(_)) => block = None,
            (None, Some("sh")) if !line.trim().is_empty() => {
                found.push((line.split(" #").next().unwrap_or_default().trim().to_owned(), true));
            }
            (None, Some(_)) => found.extend(line.strip_prefix("$ ").map(|command| (command.to_owned(), true))),
            (None, None) => {
                let spans = line.split('`').skip(1).step_by(2).filter(|span| span.starts_with("cargo xen "));
                found.extend(spans.map(|span| (span.to_owned(), false)));
            }
        }
    }
    found
}

/// The files of this checkout, with what is not committed yet.
fn tracked() -> Result<Option<Vec<PathBuf>>> {
    let mut git = Command::new("git");
    git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).current_dir(repo());
    let Ok(output) = git.output() else { return Ok(None) };
    let text = String::from_utf8(output.stdout).context("a file name is not UTF-8")?;
    Ok(output.status.success().then(|| text.split_terminator('\0').map(PathBuf::from).collect()))
}

struct Walk {
    dir: PathBuf,
    checkout: PathBuf,
    /// What the commands' placeholders stand for.
    site: PathBuf,
    file: PathBuf,
    scratch: tempfile::TempDir,
}

impl Walk {
    /// Copies the files to a place of their own, where nothing of an earlier walk is left: what was built there does not
    /// go with what is built here, since some packages hold the path of what they have generated.
    fn begin(files: &[PathBuf]) -> Result<Walk> {
        let dir = repo().join("target/walk");
        let checkout = dir.join("checkout");
        if dir.exists() {
            fs::remove_dir_all(&dir).with_context(|| dir.display().to_string())?;
        }
        for file in files {
            let (from, to) = (repo().join(file), checkout.join(file));
            if !from.exists() {
                continue;
            }
            fs::create_dir_all(to.parent().context("a file's folder")?)?;
            fs::copy(&from, &to).with_context(|| from.display().to_string())?;
        }
        seed(&checkout)?;
        let scratch = tempfile::tempdir()?;
        let (site, file) = (scratch.path().join("site"), scratch.path().join("file"));
        fs::create_dir(&site)?;
        fs::write(site.join("index.html"), "a folder of one's own\n")?;
        fs::write(&file, "what a console printed\n".repeat(1024))?;
        Ok(Walk { dir, checkout, site, file, scratch })
    }

    fn try_it(&self, folder: &Path, text: &str, proof: Proof) -> Result<()> {
        let inner = text.strip_prefix("(cd host && ").and_then(|text| text.strip_suffix(')'));
        let (folder, text) = match inner {
            Some(text) => (folder.join("host"), text),
            None => (folder.to_owned(), text),
        };
        // What follows `--` is not the program's own.
        let text = match proof {
            Proof::Help => text.split(" -- ").next().unwrap_or(text),
            _ => text,
        };
        let mut words = text.split(' ').map(|word| match word {
            "FOLDER" => self.site.display().to_string(),
            "FILE" | "[FILE]" => self.file.display().to_string(),
            "APP" => "hello".to_owned(),
            "PATH" => "../my-hello".to_owned(),
            "N" => "1".to_owned(),
            word => word.to_owned(),
        });
        let mut command = Command::new(words.next().context("an empty command")?);
        command.args(words).current_dir(&folder).stdin(Stdio::null());
        // Emulators have their files there, by which they are found.
        let temporary = self.scratch.path().join("tmp");
        fs::create_dir_all(&temporary)?;
        command.env("TMPDIR", &temporary);
        if folder.starts_with(&self.checkout) {
            command.env_remove("CARGO_TARGET_DIR");
        } else {
            // What a project is built from is the same for all of them.
            command.env("CARGO_TARGET_DIR", projects());
        }
        match proof {
            Proof::Help => drop(ends(command.arg("--help"))?),
            Proof::Ends(expected) => {
                let said = ends(&mut command)?;
                ensure!(said.contains(expected), "no {expected:?} in:\n{said}");
            }
            Proof::Prints(expected) => {
                let mut running = Running::start(command)?;
                running.wait_for(expected)?;
                running.interrupt(&temporary)?;
            }
            Proof::Page(expected) => {
                let mut running = Running::start(command)?;
                let page = fetch(&running.wait_for("http://localhost:")?)?;
                ensure!(page.contains(expected), "{page}");
                running.interrupt(&temporary)?;
            }
            Proof::Folder(_) | Proof::Checkout => {}
        }
        Ok(())
    }
}

/// Where projects are built: beside the walk's apps, with which they have most in common.
pub fn projects() -> PathBuf {
    repo().join("target/walk/checkout/apps/target")
}

/// Gives a checkout what was built here of the packages from elsewhere, which are the same for both. Those of this
/// repository are built anew.
fn seed(checkout: &Path) -> Result<()> {
    let own = own_packages()?;
    for folder in ["target/debug", "apps/target/release", "apps/target/x86_64-unknown-linux-gnu/release"] {
        for kind in ["deps", "build", ".fingerprint"] {
            let (from, to) = (repo().join(folder).join(kind), checkout.join(folder).join(kind));
            let Ok(entries) = fs::read_dir(&from) else { continue };
            fs::create_dir_all(&to)?;
            for entry in entries.flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                // Units are folders, but for libraries.
                let unit = match name.split_once('.') {
                    Some((library, "rlib" | "rmeta" | "so")) => library.strip_prefix("lib"),
                    Some(_) => None,
                    None => entry.path().is_dir().then_some(&*name),
                };
                let package = unit.and_then(|unit| unit.rsplit_once('-')).map(|(name, _)| name.replace('-', "_"));
                if package.is_some_and(|package| !own.contains(&package)) {
                    link(&entry.path(), &to.join(&name))?;
                }
            }
        }
    }
    Ok(())
}

/// The names of this repository's packages, as those of their libraries.
fn own_packages() -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for workspace in [repo(), repo().join("apps")] {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut metadata = Command::new(cargo);
        metadata.args(["metadata", "--no-deps", "--format-version", "1"]).current_dir(workspace);
        let said: serde_json::Value = serde_json::from_slice(&metadata.stderr(Stdio::inherit()).output()?.stdout)?;
        let packages = said["packages"].as_array().context("cargo metadata names no packages")?;
        names.extend(packages.iter().filter_map(|package| Some(package["name"].as_str()?.replace('-', "_"))));
    }
    Ok(names)
}

/// The same files at another place, with the times by which Cargo knows them.
fn link(from: &Path, to: &Path) -> Result<()> {
    if !from.is_dir() {
        return fs::hard_link(from, to).with_context(|| to.display().to_string());
    }
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)?.flatten() {
        link(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}

fn ends(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{}:\n{said}", output.status);
    Ok(said)
}

/// A command that goes on until Ctrl-C.
pub struct Running {
    child: Child,
    /// The lines of both of its outputs.
    lines: Receiver<String>,
}

impl Running {
    pub fn start(mut command: Command) -> Result<Running> {
        let (reader, writer) = std::io::pipe()?;
        let child = command.stdout(writer.try_clone()?).stderr(writer).spawn()?;
        // It holds the pipe's other end, which the thread below waits for.
        drop(command);
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            let lines = BufReader::new(reader).split(b'\n').map_while(Result::ok);
            lines.for_each(|line| drop(sender.send(String::from_utf8_lossy(&line).into_owned())));
        });
        Ok(Running { child, lines })
    }

    /// The line that holds this.
    pub fn wait_for(&mut self, expected: &str) -> Result<String> {
        let mut said = String::new();
        loop {
            match self.lines.recv_timeout(TIMEOUT) {
                Ok(line) if line.contains(expected) => return Ok(line),
                Ok(line) => said = said + &line + "\n",
                Err(error) => bail!("no {expected:?} ({error}):\n{said}"),
            }
        }
    }

    /// Ctrl-C.
    pub fn signal(&self) {
        // SAFETY: a signal to a child of ours that has not been waited for.
        unsafe { libc::kill(self.child.id() as i32, libc::SIGINT) };
    }

    /// Ctrl-C, after which the guest shuts down and nothing may be left; cargo has become what it has built.
    pub fn interrupt(mut self, temporary: &Path) -> Result<()> {
        ensure!(!processes(temporary).is_empty(), "no emulator runs");
        self.signal();
        let deadline = Instant::now() + Duration::from_secs(30);
        let status = loop {
            match self.child.try_wait()? {
                Some(status) => break status,
                None => ensure!(Instant::now() < deadline, "still runs 30 s after Ctrl-C"),
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        ensure!(status.code() == Some(130), "ended with {status}");
        while !processes(temporary).is_empty() {
            ensure!(Instant::now() < deadline, "left behind: {:?}", processes(temporary));
            std::thread::sleep(Duration::from_millis(20));
        }
        let left: Vec<_> = fs::read_dir(temporary)?.flatten().map(|entry| entry.path()).collect();
        ensure!(left.is_empty(), "left behind: {left:?}");
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Processes whose command line names this folder.
fn processes(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let text = folder.display().to_string();
    let lines = entries.flatten().filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " ")).filter(|line| line.contains(&text)).collect()
}

/// The page that is served at the address in a line.
pub fn fetch(line: &str) -> Result<String> {
    let port = line.split("http://localhost:").nth(1).and_then(|rest| rest.split('/').next()).unwrap_or_default();
    let port: u16 = port.parse().with_context(|| format!("no port in {line:?}"))?;
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    write!(stream, "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    Ok(answer)
}

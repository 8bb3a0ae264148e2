//! dom0's side of a qube of Qubes OS: the daemons of QubesDB and qrexec, written from the protocols.

mod checks;
pub mod domain;

use std::fs::File;
use std::io::Cursor;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

pub use self::checks::AT_LENGTH;
use crate::paths::repo;
use xen_lab::{Dom0, Lab};

/// The C files of the program in dom0.
const SOURCES: [&str; 8] = ["main.c", "channel.c", "control.c", "entries.c", "db.c", "rexec.c", "data.c", "guest.c"];

/// What the daemons begin with.
#[derive(Clone, Debug, Default)]
pub struct Beginning {
    /// QubesDB's entries: paths and values.
    pub entries: Vec<(String, String)>,
    /// Services of dom0's that the qube may call: a name, and a command of the shell's or `refuse`.
    pub services: Vec<(String, String)>,
    /// The version of qrexec's protocol, where it is not the original's newest.
    pub version: Option<u8>,
}

/// What a call of a service brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Its exit code.
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

/// The daemons of one domain. Dropping it ends them.
pub struct Dom0Qubes<'a> {
    lab: &'a Lab,
    /// How the program is called, up to the library's name.
    program: String,
    directory: String,
    /// The domain's number.
    pub id: u32,
}

impl<'a> Dom0Qubes<'a> {
    /// Starts both for a domain that may still be paused: [`domain::qube`] does that, and
    /// [`Self::wait_ready`] waits for the guest.
    pub fn start(lab: &'a Lab, id: u32, beginning: &Beginning) -> Result<Dom0Qubes<'a>> {
        let program = install(lab)?;
        let directory = format!("/tmp/qubes-{id}");
        lab.run(&format!("rm -rf {directory}; mkdir -p {directory}/db {directory}/rexec"))?;
        let qubes = Dom0Qubes { lab, program, directory, id };
        let lines = |pairs: &[(String, String)]| {
            pairs.iter().map(|(name, value)| format!("{name} {value}\n")).collect::<String>()
        };
        qubes.put("db/entries", &lines(&beginning.entries))?;
        qubes.put("rexec/services", &lines(&beginning.services))?;
        qubes.spawn("db", "")?;
        let version = beginning.version.map(|version| version.to_string()).unwrap_or_default();
        qubes.spawn("rexec", &version)?;
        Ok(qubes)
    }

    /// Waits until the guest has a copy of QubesDB, and its agent is connected.
    pub fn wait_ready(&self, seconds: u64) -> Result<()> {
        self.wait_copies(1, seconds)?;
        self.wait_log("rexec", " ready", seconds).map(drop)
    }

    /// Waits until the guest has copied QubesDB so many times, which counts connections.
    pub fn wait_copies(&self, count: u32, seconds: u64) -> Result<()> {
        self.wait(&format!("copy {count} of QubesDB"), seconds, || {
            let state = self.ask("db", "state")?;
            let copies = field(&state, "copies").and_then(|text| text.parse::<u32>().ok());
            Ok((copies >= Some(count) && field(&state, "phase") == Some("copied")).then_some(()))
        })
    }

    /// Sets an entry, and waits until the guest has acknowledged it. Without a connected guest it is kept for the next one.
    pub fn write(&self, path: &str, value: &str) -> Result<()> {
        self.ask("db", &format!("write {} {}", quote(path), quote(value))).map(drop)
    }

    /// Removes an entry, or all below a path that ends in `/`, and waits for the guest. It may be absent.
    pub fn remove(&self, path: &str) -> Result<()> {
        self.ask("db", &format!("rm {}", quote(path))).map(drop)
    }

    /// Changes several entries at once, of which those without a value are removed. The guest's acknowledgements are
    /// waited for when all has been sent.
    pub fn change(&self, entries: &[(&str, Option<&str>)]) -> Result<()> {
        let mut words = String::new();
        for (path, value) in entries {
            words += &match value {
                Some(value) => format!("write {} {} ", quote(path), quote(value)),
                None => format!("rm {} ", quote(path)),
            };
        }
        self.ask("db", &words).map(drop)
    }

    /// Sets the rules of a client's address as Qubes OS does: removes the old ones, writes the new ones, and then the entry that
    /// says that they are complete.
    pub fn commit_rules(&self, ip: &str, policy: &str, rules: &[&str]) -> Result<()> {
        let root = format!("/qubes-firewall/{ip}");
        let rules = rules.iter().enumerate().map(|(index, rule)| (format!("{root}/{index:04}"), *rule));
        let rules: Vec<_> = [(format!("{root}/policy"), policy)].into_iter().chain(rules).collect();
        let directory = format!("{root}/");
        let mut changes = vec![(directory.as_str(), None)];
        changes.extend(rules.iter().map(|(path, rule)| (path.as_str(), Some(*rule))));
        changes.push((&root, Some("")));
        self.change(&changes)
    }

    /// An entry, as dom0 has it.
    pub fn read(&self, path: &str) -> Result<Option<String>> {
        let (status, text) = self.try_ask("db", &format!("read {}", quote(path)))?;
        Ok((status == 0).then_some(text))
    }

    /// Waits until the guest has written an entry, and returns it.
    pub fn wait_for(&self, path: &str, seconds: u64) -> Result<String> {
        self.wait(&format!("entry {path}"), seconds, || self.read(path))
    }

    /// Waits until an entry has this value.
    pub fn wait_value(&self, path: &str, value: &str, seconds: u64) -> Result<()> {
        self.wait(&format!("{value:?} at {path}"), seconds, || Ok(self.read(path)?.filter(|found| found == value)))
            .map(drop)
    }

    /// Closes QubesDB's channel, as if the daemon were started again: the guest has to connect, and copy all.
    pub fn drop_database(&self) -> Result<()> {
        self.ask("db", "close").map(drop)
    }

    /// Closes the channel to the qrexec agent, as if the daemon were started again.
    pub fn drop_agent(&self) -> Result<()> {
        self.ask("rexec", "close").map(drop)
    }

    /// Kills qrexec's daemon, and starts one of this version of the protocol, or as new as the original.
    pub fn restart_agent(&self, version: Option<u8>, seconds: u64) -> Result<()> {
        self.lab.run(&format!("kill -9 $(cat {}/rexec/pid)", self.directory))?;
        let wanted = version.unwrap_or(4).to_string();
        self.spawn("rexec", &version.map(|version| version.to_string()).unwrap_or_default())?;
        self.wait(&format!("agent of version {wanted}"), seconds, || {
            let state = self.ask("rexec", "state")?;
            Ok((field(&state, "version") == Some(&wanted)).then_some(()))
        })
    }

    /// Calls a service of the qube's as dom0 does, for instance `qubes.SetDateTime` or `name+argument`.
    pub fn exec(&self, user: &str, service: &str, stdin: &str) -> Result<Output> {
        self.command("exec", user, &format!("QUBESRPC {service} dom0"), stdin)
    }

    /// The same with a whole command, by `exec` or `just-exec`.
    pub fn command(&self, how: &str, user: &str, command: &str, stdin: &str) -> Result<Output> {
        self.put("stdin", stdin)?;
        let Dom0Qubes { directory, program, .. } = self;
        let (status, text) = self.lab.try_run(&format!(
            "cd {directory} && timeout 60 {program} {how} {directory}/rexec {} {} <stdin >stdout 2>stderr",
            quote(user),
            quote(command)
        ))?;
        ensure!(text.is_empty(), "{text}");
        let [stdout, stderr] = ["stdout", "stderr"].map(|name| self.lab.run(&format!("cat {directory}/{name}")));
        let output = Output { status, stdout: stdout?, stderr: stderr? };
        let own = output.stderr.lines().find(|line| line.starts_with("lab-qubes: "));
        ensure!(own.is_none(), "{command}: {output:?}\n{}", self.log("rexec")?);
        Ok(output)
    }

    /// Before the host is suspended: the qube is told, and then stands still.
    pub fn suspend_pre(&self) -> Result<()> {
        for service in ["qubes.SuspendPreAll", "qubes.SuspendPre"] {
            self.succeed(service)?;
        }
        self.lab.run(&format!("xl pause {}", self.id)).map(drop)
    }

    /// After that, in the other order.
    pub fn suspend_post(&self) -> Result<()> {
        self.lab.run(&format!("xl unpause {}", self.id))?;
        for service in ["qubes.SuspendPost", "qubes.SuspendPostAll"] {
            self.succeed(service)?;
        }
        Ok(())
    }

    fn succeed(&self, service: &str) -> Result<()> {
        let output = self.command("exec", "root", &format!("nogui:QUBESRPC {service} dom0"), "")?;
        ensure!(output.status == 0, "{service}: {output:?}");
        Ok(())
    }

    /// What a daemon, `db` or `rexec`, has printed: a line for each message of the guest's.
    pub fn log(&self, daemon: &str) -> Result<String> {
        self.lab.run(&format!("cat {}/{daemon}/log", self.directory))
    }

    /// Waits until a daemon has printed something.
    pub fn wait_log(&self, daemon: &str, text: &str, seconds: u64) -> Result<String> {
        self.wait(&format!("{text:?} of {daemon}"), seconds, || {
            Ok(Some(self.log(daemon)?).filter(|log| log.contains(text)))
        })
    }

    /// Checks that the guest did nothing that it must not do.
    pub fn check(&self) -> Result<()> {
        for daemon in ["db", "rexec"] {
            let log = self.log(daemon)?;
            let found: Vec<_> = log
                .lines()
                // What a call's own process says.
                .filter(|line| line.contains("COMPLAINT: ") || line.starts_with("lab-qubes: "))
                .collect();
            ensure!(found.is_empty(), "{daemon}:\n{}\nits log:\n{log}", found.join("\n"));
        }
        Ok(())
    }

    /// Waits until the daemons have ended by themselves, which they do once the domain is gone.
    pub fn wait_gone(&self, seconds: u64) -> Result<()> {
        for daemon in ["db", "rexec"] {
            self.wait_log(daemon, " is gone", seconds)?;
        }
        Ok(())
    }

    /// Ends both, and checks what they have seen.
    pub fn stop(self) -> Result<()> {
        self.check()
    }

    fn put(&self, name: &str, text: &str) -> Result<()> {
        let text = Cursor::new(text.as_bytes().to_vec());
        self.lab.put(&format!("{}/{name}", self.directory), Box::new(text))
    }

    fn spawn(&self, daemon: &str, arguments: &str) -> Result<()> {
        let Dom0Qubes { program, directory, id, .. } = self;
        let own = format!("{directory}/{daemon}");
        self.lab
            .run(&format!(
                "(setsid {program} {daemon} {id} {own} {arguments} </dev/null >>{own}/log 2>&1 & echo $! >{own}/pid)"
            ))
            .map(drop)
    }

    fn ask(&self, daemon: &str, words: &str) -> Result<String> {
        let (status, text) = self.try_ask(daemon, words)?;
        if status != 0 {
            bail!("{daemon}: {words}: {}\nits log:\n{}", text.trim(), self.log(daemon)?);
        }
        Ok(text)
    }

    fn try_ask(&self, daemon: &str, words: &str) -> Result<(i32, String)> {
        self.lab.try_run(&format!("timeout 20 /bin/lab-qubes ask {}/{daemon} {words}", self.directory))
    }

    fn wait<T>(&self, what: &str, seconds: u64, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        loop {
            // A daemon that has just been started does not answer yet.
            let instead = match ask() {
                Ok(Some(found)) => return Ok(found),
                Ok(None) => String::new(),
                Err(error) => format!("{error:#}\n"),
            };
            if Instant::now() > deadline {
                bail!("no {what} within {seconds} s:\n{instead}{}\n{}", self.log("db")?, self.log("rexec")?);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Dom0Qubes<'_> {
    fn drop(&mut self) {
        let directory = &self.directory;
        let _ = self.lab.run(&format!("kill $(cat {directory}/db/pid) $(cat {directory}/rexec/pid) 2>/dev/null; true"));
    }
}

/// Puts the program into dom0, and returns how it is called, up to the library's name.
fn install(lab: &Lab) -> Result<String> {
    let folder = repo().join("xtask/src/test/qubes");
    if lab.try_run("test -x /bin/lab-qubes")?.0 != 0 {
        let program = tempfile::NamedTempFile::new()?;
        let output = Command::new("cc")
            .args(["-O1", "-Wall", "-Wextra", "-Werror", "-D_GNU_SOURCE", "-o"])
            .arg(program.path())
            .args(SOURCES.map(|name| folder.join(name)))
            .arg("-ldl")
            .output()
            .context("cannot start cc, the C compiler")?;
        ensure!(output.status.success(), "cc: {}", String::from_utf8_lossy(&output.stderr));
        lab.put("/bin/lab-qubes", Box::new(File::open(program.path())?))?;
        lab.run("chmod 755 /bin/lab-qubes")?;
    }
    let library = lab.run("ls /usr/lib/x86_64-linux-gnu/libxenvchan.so.*")?;
    Ok(format!("/bin/lab-qubes {}", library.lines().next().context("dom0 has no libxenvchan")?))
}

/// The value of `name=value` among words.
fn field<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    text.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}

/// A word for the shell.
fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

//! `cargo xen` itself, as a user meets it.

use std::fs::{self, File};
use std::io::Cursor;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use cargo_xen::Sarab;

use super::walk::{self, Running};
use crate::apps::app;
use crate::paths::repo;
use xen_lab::Dom0;
use xen_lab::paths::which;
use xen_lab::{Lab, Options, Publish, free_port, suite};

pub type Check = fn() -> Result<String>;

/// All checks by name.
pub const ALL: &[(&str, Check)] = &[
    ("bad input", bad_input),
    ("build says where the ELF is", build),
    ("run with a disk and a published port", run_hello),
    ("run of a guest that crashes", run_crash),
    ("run: a command in dom0 beside a guest, and Ctrl-C once and twice", beside),
    ("run gate: its demo, step by step", demo),
    ("the commands of the README and of the quick start, in a clean checkout", walk::walk),
    ("new: a project of one's own, built, tested and booted", new_project),
    ("the installed program, and a project that takes Sarab from a repository", installed),
    ("a crate that calls the C library", c_library),
    ("a failed download leaves nothing behind", failed_download),
    ("run --on ssh and --on xl", other_hosts),
];

/// Not seen to pass yet: only where `--only` names them.
pub const UNSEEN: &[(&str, Check)] = &[("run web --share: a folder of this machine", share)];

fn xen(args: &[&str]) -> Result<Command> {
    let mut command = Command::new(cargo_xen::own_program()?);
    command.args(args).current_dir(repo()).stdin(Stdio::null());
    Ok(command)
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Runs a command that must fail with an error of one paragraph that holds `expected`.
fn fails(mut command: Command, expected: &str) -> Result<()> {
    let output = command.output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    let what = format!("{command:?}:\n{}", text(&output));
    ensure!(!output.status.success(), "did not fail: {what}");
    ensure!(errors.contains("error: ") && errors.contains(expected), "expected {expected:?} of {what}");
    ensure!(!errors.contains("panicked"), "{what}");
    Ok(())
}

fn bad_input() -> Result<String> {
    let dir = tempfile::tempdir()?;
    let file = |name: &str, data: &[u8]| -> Result<String> {
        let path = dir.path().join(name);
        fs::write(&path, data)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(path.display().to_string())
    };
    let script = file("script", b"#!/bin/sh\n")?;
    let apps = Sarab::at(repo()).apps()?.join(", ");
    let own = cargo_xen::own_program()?.display().to_string();
    let holder = TcpListener::bind("127.0.0.1:0")?;
    let taken = format!("{}:80", holder.local_addr()?.port());
    for (args, expected) in [
        (vec!["run", "nosuch"], &*format!("no app `nosuch` (apps: {apps})")),
        (vec!["run"], &*format!("name an app: {apps}")),
        (vec!["run", "disk"], "disk needs a disk: give it one with --disk FILE"),
        (vec!["run", "hello", "--store", "/data=1"], "`/data`: expected a key below the domain's own path"),
        (vec!["lab", "exec", "--lab", "1", "--", "true"], "--lab 1: no "),
        (vec!["run", &script], "it is not an ELF file"),
        (vec!["run", &own], "is not a guest that Xen can boot"),
        (vec!["run", "hello", "--memory", "1"], "1 MiB of memory are too little for hello"),
        (vec!["run", "hello", "--memory", "much"], "invalid value 'much'"),
        (vec!["run", "hello", "--publish", &taken], "is in use: publish the guest on another one"),
        (vec!["run", "gate", "--publish", &taken], "is in use: publish the guest on another one"),
        (vec!["run", "hello", "--publish", "80"], "expected HOSTPORT:GUESTPORT"),
        (vec!["run", "hello", "--disk", "/nonexistent"], "--disk /nonexistent: no such file"),
        (vec!["run", "web", "--site", "/nonexistent"], "--site /nonexistent: no such folder"),
        (vec!["run", "web", "--share", "/nonexistent"], "--share /nonexistent: no such folder"),
        (vec!["run", "web", "--share", ":tag"], "expected FOLDER[:TAG][,ro]"),
        (vec!["run", "web", "--share", "/tmp", "--share", "/usr"], "the tag share is taken: write --share FOLDER:TAG"),
        (vec!["run", "web", "--share", "/tmp", "--on", "ssh:host"], "cannot be shared with a guest on another one"),
        (vec!["run", "hello", "--set", "=x"], "expected key=value"),
        (vec!["run", "hello", "--suite", "sid"], "expected bookworm or trixie"),
        (vec!["run", "hello", "--on", "kvm"], "expected lab, xl, or ssh:DEST"),
        (vec!["run", "hello", "--on", "xl", "--suite", "trixie"], "--suite chooses the lab's Xen"),
        (vec!["logs", "--elf", "hello", "/nonexistent"], "cannot read /nonexistent"),
    ] {
        fails(xen(&args)?, expected)?;
    }
    drop(holder);
    let old = file(
        "qemu",
        b"#!/bin/sh\n[ \"$1\" = --version ] && { echo QEMU emulator version 2.1; exit; }\necho 'no svm' >&2\nexit 1\n",
    )?;
    for (qemu, expected) in [
        ("/nonexistent", "SARAB_QEMU: /nonexistent is not a file"),
        (script.as_str(), "does not run as a QEMU"),
        (old.as_str(), "cannot emulate the processor that Xen needs"),
    ] {
        let mut command = xen(&["run", "hello"])?;
        command.env("SARAB_QEMU", qemu);
        fails(command, expected)?;
    }
    if which("xl").is_none() {
        fails(xen(&["run", "hello", "--on", "xl"])?, "`xl` not found")?;
    }
    Ok(String::new())
}

fn build() -> Result<String> {
    let output = xen(&["build", "hello"])?.output()?;
    ensure!(output.status.success(), "{}", text(&output));
    let stdout = String::from_utf8(output.stdout)?;
    let path = Path::new(stdout.lines().last().context("no output")?);
    cargo_xen::elf::check(path)?;
    let config = fs::read_to_string(path.with_extension("cfg"))?;
    ensure!(
        config.contains("type = \"pvh\"") && config.contains(&format!("kernel = \"{}\"", path.display())),
        "{config}"
    );
    // The .debug file beside it has the strings, whichever frame this is.
    let console = tempfile::NamedTempFile::new()?;
    fs::write(console.path(), "\x1b^AAAA\x1b\\\n")?;
    let console = console.path().display().to_string();
    let logs = xen(&["logs", "--elf", &path.display().to_string(), &console])?.output()?;
    ensure!(logs.status.success() && !text(&logs).contains("no strings"), "{}", text(&logs));
    let doctor = xen(&["doctor"])?.output()?;
    ensure!(doctor.status.success() && text(&doctor).contains("boots offline"), "{}", text(&doctor));
    Ok(format!("{} bytes", fs::metadata(path)?.len()))
}

fn run_hello() -> Result<String> {
    let disk = tempfile::NamedTempFile::new()?;
    disk.as_file().set_len(3 << 20)?;
    let (disk, port) = (disk.path().display().to_string(), format!("{}:80", free_port()?));
    let args =
        ["run", "hello", "--set", "exit=now", "--set", "name=me", "--memory", "4", "--disk", &disk, "--publish", &port];
    let output = xen(&args)?.output()?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{}", text(&output));
    for expected in
        ["Hello, me\n", "memory        4096 KiB", "command line  exit=now name=me\n", "INFO  hello is up  (lib.rs:"]
    {
        ensure!(stdout.contains(expected), "no {expected:?} in:\n{}", text(&output));
    }
    Ok(String::new())
}

/// What changes in the folder is served at once.
fn share() -> Result<String> {
    let (folder, temporary) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let index = folder.path().join("index.html");
    fs::write(&index, "<h1>one</h1>")?;
    let mut command = xen(&["run", "web", "--share", &format!("{}:files,ro", folder.path().display())])?;
    command.env("TMPDIR", temporary.path());
    let mut running = Running::start(command)?;
    let address = running.wait_for("http://localhost:")?;
    let page = walk::fetch(&address)?;
    ensure!(page.contains("<h1>one</h1>"), "{page}");
    fs::write(&index, "<h1>two</h1>")?;
    let page = walk::fetch(&address)?;
    ensure!(page.contains("<h1>two</h1>"), "{page}");
    running.interrupt(temporary.path())?;
    Ok(String::new())
}

fn run_crash() -> Result<String> {
    let output = xen(&["run", "probe", "--set", "test=panic"])?.output()?;
    let all = text(&output);
    ensure!(output.status.code() == Some(1), "{:?}:\n{all}", output.status);
    for expected in ["CRASH: panic at ", "a panic on purpose", "probe crashed", "(main.rs:"] {
        ensure!(all.contains(expected), "no {expected:?} in:\n{all}");
    }
    let first = all.lines().find(|line| line.starts_with("    #0 ")).context("no backtrace")?;
    ensure!(first.contains("panic"), "the first frame has no name: {first}");
    Ok(String::new())
}

/// With the guest's last line, which has no line feed, as soon as it is there.
fn beside() -> Result<String> {
    let (own, temporary) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let start = |args: &[&str]| -> Result<Running> {
        let mut command = xen(args)?;
        command.env("XDG_RUNTIME_DIR", own.path()).env("TMPDIR", temporary.path());
        Running::start(command)
    };
    let exec = |args: &[&str]| -> Result<Output> {
        Ok(xen(&[&["lab", "exec", "--"], args].concat())?.env("XDG_RUNTIME_DIR", own.path()).output()?)
    };
    let mut hello = start(&["run", "hello", "--store", "data/greeting=it's me", "--memory", "4"])?;
    hello.wait_for("INFO  hello is up")?;
    let read = exec(&["xenstore-read /local/domain/$(xl domid hello)/data/greeting"])?;
    ensure!(read.status.success() && text(&read) == "it's me\n", "{}", text(&read));
    let status = exec(&["sh", "-c", "echo 'two  words'; exit 7"])?;
    ensure!(status.status.code() == Some(7) && text(&status) == "two  words\n", "{}", text(&status));
    hello.interrupt(temporary.path())?;
    let left: Vec<_> = fs::read_dir(own.path().join("sarab"))?.flatten().map(|entry| entry.path()).collect();
    ensure!(left.is_empty(), "left behind: {left:?}");
    ensure!(text(&exec(&["true"])?).contains("no lab is running"), "a lab is found that has ended");

    let mut stubborn = start(&["run", "probe", "--set", "test=stubborn"])?;
    stubborn.wait_for("stubborn: ready")?;
    stubborn.signal();
    stubborn.wait_for("asking probe to shut down")?;
    stubborn.wait_for("stubborn: asked to ")?;
    stubborn.interrupt(temporary.path())?;
    Ok(String::new())
}

/// Each step has come out as the demo says, and then everything stays until Ctrl-C.
fn demo() -> Result<String> {
    let (own, temporary) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let mut command = xen(&["run", "gate"])?;
    command.env("XDG_RUNTIME_DIR", own.path()).env("TMPDIR", temporary.path());
    let mut gate = Running::start(command)?;
    let mut said = String::new();
    // What has failed comes no more.
    let mut until = |gate: &mut Running, text: &str| loop {
        let line = gate.wait_for("").with_context(|| said.clone())?;
        said = format!("{said}{line}\n");
        ensure!(!line.contains("gate is still running"), "the demo failed, before {text:?}:\n{said}");
        if line.contains(text) {
            return Ok(line);
        }
    };
    for step in [
        "gate: ready",
        "demo: $ xl create ",
        "demo: $ xl network-attach 0 backend=gate ",
        "demo: address 10.86.0.",
        "demo: 2 packets transmitted, 2 packets received, 0% packet loss",
        "demo: Address: 10.86.0.9",
        "demo: <h1>",
        "demo: ok: 1 rules of store",
        "Connection refused",
        "demo: 1 packets transmitted, 1 packets received, 0% packet loss",
        "demo: error: store:6:31: expected `port` or the end of the line, found `prot`",
        "Connection refused",
        "demo: $ xl sysrq gate g",
    ] {
        until(&mut gate, step)?;
    }
    // The console comes by another way than the demo's lines.
    let mut left =
        vec!["gate: client web: up, ", "reject tcp from inside to web port 80", "demo: That is all.", "Serving at"];
    let mut page = None;
    while !left.is_empty() {
        let line = until(&mut gate, "")?;
        left.retain(|text| !line.contains(text));
        if line.contains("Serving at") {
            page = Some(walk::fetch(&line)?);
        }
    }
    let page = page.context("it serves nothing")?;
    ensure!(page.contains("<h1>"), "{page}");
    gate.interrupt(temporary.path())?;
    Ok(String::new())
}

/// Outside of the repository, but for a folder of what was built.
fn new_project() -> Result<String> {
    let dir = tempfile::tempdir()?;
    let project = dir.path().join("my-hello");
    let output = xen(&["new", &project.display().to_string()])?.output()?;
    ensure!(output.status.success(), "{}", text(&output));
    let cargo = |folder: &Path, args: &[&str]| -> Result<String> {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(args).current_dir(folder).env("CARGO_TARGET_DIR", walk::projects()).stdin(Stdio::null());
        let output = cargo.output()?;
        ensure!(output.status.success(), "cargo {args:?} in {}:\n{}", folder.display(), text(&output));
        Ok(text(&output))
    };
    let git = |args: &[&str]| -> Result<String> {
        let mut git = Command::new("git");
        git.args(["-c", "user.name=test", "-c", "user.email=test@test"]).args(args).current_dir(&project);
        let output = git.output()?;
        ensure!(output.status.success(), "git {args:?}:\n{}", text(&output));
        Ok(text(&output))
    };
    git(&["init", "--quiet"])?;
    git(&["add", "."])?;
    git(&["commit", "--quiet", "--message", "begin"])?;
    let committed = git(&["grep", "--fixed-strings", "--name-only", &repo().display().to_string()]);
    ensure!(committed.is_err(), "a path of this machine is committed: {}", committed.unwrap_or_default());
    cargo(&project.join("host"), &["test", "--locked"])?;
    cargo(&project, &["test", "--locked"])?;
    // The project's own xl file, with what the command line says.
    let file = project.join("my-hello.cfg");
    let config = fs::read_to_string(&file)?;
    fs::write(&file, config.replace("memory = 16", "memory = 4").replace("cmdline = \"\"", "cmdline = \"name=file\""))?;
    let said = cargo(&project, &["run", "--release", "--", "--set", "exit=now"])?;
    ensure!(said.contains("Hello, file\n") && said.contains("memory        4096 KiB"), "{said}");
    fs::write(&file, config)?;
    let changed = git(&["status", "--porcelain"])?;
    ensure!(changed.is_empty(), "not clean after a build: {changed}");
    let readme = fs::read_to_string(project.join("README.md"))?;
    ensure!(!readme.contains("@NAME@") && readme.starts_with("# my-hello"), "{readme}");
    fails(xen(&["new", &project.display().to_string()])?, "already exists and is not empty")?;
    fails(xen(&["new", "Bad"])?, "`Bad` cannot be a project's name")?;
    let templates = Sarab::at(repo()).templates()?.join(", ");
    fails(xen(&["new", "x", "--template", "probe"])?, &format!("--template probe: there are {templates}"))?;
    fails(xen(&["new", "x", "--local", "--git", "y"])?, "cannot be used with")?;
    Ok(String::new())
}

/// The program as it is installed, where there is no checkout; and a project as another machine has it, which takes Sarab
/// from a repository.
fn installed() -> Result<String> {
    let repository = format!("file://{}", repo().display());
    if !repo().join(".git").exists() {
        return Ok("skipped: not a git checkout".into());
    }
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build.args(["build", "--quiet", "--package", "cargo-xen"]).current_dir(repo()).stdin(Stdio::null());
    let output = build.output()?;
    ensure!(output.status.success(), "{}", text(&output));
    let program = repo().join("target/debug/cargo-xen");
    let dir = tempfile::tempdir()?;
    let project = dir.path().join("my-store");
    let run = |folder: &Path, args: &[&str]| -> Result<Output> {
        let mut command = Command::new(&program);
        // As Cargo calls it.
        command.arg("xen").args(args).current_dir(folder).env("CARGO_TARGET_DIR", walk::projects());
        Ok(command.stdin(Stdio::null()).output()?)
    };
    let output = run(dir.path(), &["new", "my-store", "--template", "store", "--git", &repository])?;
    ensure!(output.status.success(), "{}", text(&output));
    ensure!(!project.join(".cargo/local.toml").exists(), "it builds from a checkout of this machine");
    let workflow = fs::read_to_string(project.join(".github/workflows/ci.yml"))?;
    ensure!(workflow.contains(&format!("cargo install --git {repository} cargo-xen")), "{workflow}");
    let output = run(&project, &["build"])?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success() && stdout.trim().ends_with("/my-store"), "{}", text(&output));
    let none = run(dir.path(), &["build"])?;
    ensure!(text(&none).contains("no Cargo package in "), "{}", text(&none));
    Ok(String::new())
}

/// A crate that calls the C library does not link, and is named.
fn c_library() -> Result<String> {
    let dir = tempfile::tempdir()?;
    let project = dir.path().join("linux");
    let output = xen(&["new", &project.display().to_string()])?.output()?;
    ensure!(output.status.success(), "{}", text(&output));
    let main = project.join("src/lib.rs");
    let program = fs::read_to_string(&main)?;
    let call = "\n#[link(name = \"c\")]\nunsafe extern \"C\" {\n    safe fn getpid() -> i32;\n}\n";
    let program = program.replace("println!(\"Hello, {name}\")", "println!(\"Hello, {name} {}\", getpid())");
    fs::write(&main, program + call)?;
    let mut build = xen(&["build", &project.display().to_string()])?;
    build.env("CARGO_TARGET_DIR", walk::projects());
    fails(build, "does not link: src/lib.rs uses `getpid`. A guest has no C library")?;
    Ok(String::new())
}

fn failed_download() -> Result<String> {
    let empty = tempfile::tempdir()?;
    let mut command = xen(&["run", "hello"])?;
    command.env("SARAB_CACHE", empty.path());
    // Nobody listens on the discard port.
    for name in ["http_proxy", "https_proxy"] {
        command.env(name, "http://127.0.0.1:9");
    }
    fails(command, "The first run needs the network")?;
    let suite = empty.path().join("lab").join(suite::DEFAULT.codename);
    for name in ["images", "images.tmp", "root.tmp", "qemu", "qemu.tmp"] {
        ensure!(!suite.join(name).exists(), "{name} was left behind");
    }
    Ok(String::new())
}

/// The lab's dom0 plays the other Xen host, by a real ssh server; and it runs `cargo xen`'s program itself.
fn other_hosts() -> Result<String> {
    let port = free_port()?;
    let options = Options { publish_dom0: vec![Publish { host: port, guest: 22 }], ..Options::default() };
    let lab = Lab::boot(suite::DEFAULT, &options)?;
    let by_xl = on_xl(&lab)?;
    let by_ssh = match (which("ssh"), which("ssh-keygen")) {
        (Some(ssh), Some(keygen)) => on_ssh(&lab, port, &ssh, &keygen)?,
        _ => "--on ssh not tried: this machine has no ssh".into(),
    };
    Ok(format!("{by_xl}{by_ssh}"))
}

fn on_ssh(lab: &Lab, port: u16, ssh: &Path, keygen: &Path) -> Result<String> {
    let dir = tempfile::tempdir()?;
    let key = dir.path().join("key");
    let made = Command::new(keygen).args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).output()?;
    ensure!(made.status.success(), "{}", text(&made));
    let public = fs::read(key.with_extension("pub"))?;
    lab.run("mkdir -p /root/.ssh /etc/dropbear && chmod 700 /root /root/.ssh && echo /bin/sh > /etc/shells")?;
    lab.put("/root/.ssh/authorized_keys", Box::new(Cursor::new(public)))?;
    lab.run("chmod 600 /root/.ssh/authorized_keys; dropbear -R -s -p 22 </dev/null >/tmp/dropbear.log 2>&1")?;
    // What a user has in ~/.ssh/config.
    let config = format!(
        "Host dom0\n HostName 127.0.0.1\n Port {port}\n User root\n IdentityFile {}\n IdentitiesOnly yes\n \
         StrictHostKeyChecking no\n UserKnownHostsFile {}\n LogLevel ERROR\n",
        key.display(),
        dir.path().join("known").display()
    );
    fs::write(dir.path().join("config"), config)?;
    let wrapper = dir.path().join("ssh");
    fs::write(&wrapper, format!("#!/bin/sh\nexec {} -F {}/config \"$@\"\n", ssh.display(), dir.path().display()))?;
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755))?;
    let path = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap_or_default());
    let run = |args: &[&str]| -> Result<Output> { Ok(xen(args)?.env("PATH", &path).output()?) };

    let output = run(&["run", "hello", "--on", "ssh:dom0", "--set", "exit=now"])?;
    ensure!(output.status.success() && text(&output).contains("command line  exit=now"), "{}", text(&output));
    let output = run(&["run", "probe", "--on", "ssh:dom0", "--set", "test=error"])?;
    ensure!(!output.status.success() && text(&output).contains("an error on purpose"), "{}", text(&output));
    let left = lab.run("ls -d /tmp/sarab-run-* 2>/dev/null; xl list | tail -n +3; true")?;
    ensure!(left.trim().is_empty(), "left behind on the Xen host: {left}");
    // Nobody listens there.
    fs::write(dir.path().join("config"), format!("Host dom0\n HostName 127.0.0.1\n Port {}\n", free_port()?))?;
    let output = run(&["run", "hello", "--on", "ssh:dom0"])?;
    ensure!(text(&output).contains("cannot reach dom0 by ssh"), "{}", text(&output));
    Ok(String::new())
}

fn on_xl(lab: &Lab) -> Result<String> {
    let dir = tempfile::tempdir()?;
    let small = dir.path().join("xtask");
    let strip = Command::new("strip").arg("-o").arg(&small).arg(cargo_xen::own_program()?).output()?;
    ensure!(strip.status.success(), "{}", text(&strip));
    lab.put("/tmp/xtask", Box::new(File::open(&small)?))?;
    let hello = app("hello")?;
    lab.put("/tmp/hello", Box::new(File::open(&hello.image)?))?;
    let (status, output) = lab.try_run("chmod +x /tmp/xtask; /tmp/xtask --version")?;
    if status != 0 {
        // This machine's C library may be newer than the lab's.
        ensure!(output.contains("GLIBC"), "{output}");
        return Ok("--on xl not tried: this machine's C library is newer than the lab's; ".into());
    }
    let run = |args: &str| lab.try_run(&format!("/tmp/xtask run /tmp/hello --on xl {args} </dev/null"));
    let (status, output) = run("--set exit=now")?;
    ensure!(status == 0 && output.contains("command line  exit=now"), "{output}");
    let (status, output) = run("--set exit=maybe")?;
    ensure!(status == 1 && output.contains("hello crashed"), "{output}");
    let left = lab.run("xl list | tail -n +3; ls -d /tmp/sarab-run-* 2>/dev/null; true")?;
    ensure!(left.trim().is_empty(), "left behind: {left}");
    Ok(String::new())
}

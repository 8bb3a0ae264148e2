//! `cargo xen package`: the same bytes from two folders, and what is in them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

const TARGETS: [&str; 3] = ["qubes", "xl", "xcp-ng"];

fn repo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A copy of the repository's files at another place. Those that are the same already keep their times, for Cargo.
fn checkout(folder: &Path) {
    let mut git = Command::new("git");
    git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).current_dir(repo());
    let output = git.output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    for file in String::from_utf8(output.stdout).unwrap().split_terminator('\0') {
        let (from, to) = (repo().join(file), folder.join(file));
        let Ok(bytes) = fs::read(&from) else { continue };
        if fs::read(&to).ok().as_ref() != Some(&bytes) {
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::write(&to, bytes).unwrap();
        }
    }
}

/// `cargo xen package` in a checkout, with another umask.
fn package(checkout: &Path, umask: &str, args: &[&str]) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("umask {umask} && exec \"$@\""), "sh", env!("CARGO_BIN_EXE_xtask"), "package"]);
    shell.arg(checkout.join("apps/hello")).args(args).current_dir(checkout).stdin(Stdio::null());
    shell.env_remove("CARGO_TARGET_DIR").env_remove("SOURCE_DATE_EPOCH").env_remove("RUSTFLAGS");
    shell
}

/// The path and the bytes of what it makes.
fn packed(command: &mut Command) -> (PathBuf, Vec<u8>) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let path = PathBuf::from(String::from_utf8(output.stdout.clone()).unwrap().lines().last().unwrap());
    let bytes = fs::read(&path).unwrap();
    assert!(text(&output).contains(&format!("KiB, SHA-256 {}", sha256(&path))), "{}", text(&output));
    (path, bytes)
}

fn sha256(path: &Path) -> String {
    let output = Command::new("sha256sum").arg(path).output().unwrap();
    text(&output).split(' ').next().unwrap().to_owned()
}

/// The packages of hello, of the first of two folders.
fn packages() -> &'static BTreeMap<&'static str, Vec<u8>> {
    static PACKAGES: OnceLock<BTreeMap<&str, Vec<u8>>> = OnceLock::new();
    PACKAGES.get_or_init(|| {
        let folder = folder();
        checkout(&folder);
        let made = TARGETS.map(|target| (target, packed(&mut package(&folder, "022", &["--for", target])).1));
        made.into_iter().collect()
    })
}

fn folder() -> PathBuf {
    repo().join("target/package/a")
}

/// A file of a package: its mode, and what it holds.
struct Member {
    mode: u32,
    bytes: Vec<u8>,
}

impl Member {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.bytes).unwrap()
    }
}

/// The files of a package, of which owner and time are checked.
fn members(package: &[u8], time: u64) -> BTreeMap<String, Member> {
    let mut archive = tar::Archive::new(package);
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let header = entry.header().clone();
        let owner = (header.uid().unwrap(), header.gid().unwrap(), header.mtime().unwrap());
        assert_eq!(owner, (0, 0, time));
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        (entry.path().unwrap().display().to_string(), Member { mode: header.mode().unwrap(), bytes })
    });
    entries.collect()
}

fn modes(members: &BTreeMap<String, Member>) -> Vec<(&str, u32)> {
    members.iter().map(|(name, member)| (&**name, member.mode)).collect()
}

/// The commands of a README; each is one that a shell can read.
fn commands(readme: &str) -> Vec<String> {
    let blocks: Vec<_> = readme.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap()).collect();
    for block in &blocks {
        let shell = Command::new("sh").args(["-n", "-c", block]).output().unwrap();
        assert!(shell.status.success(), "{block}\n{}", text(&shell));
    }
    blocks.iter().flat_map(|block| block.lines()).map(str::to_owned).collect()
}

/// What `cargo package` takes, too.
const TIME: u64 = 1_153_704_088;

#[test]
fn the_bytes_are_the_same_from_another_folder() {
    let first = packages();
    // Cargo's own folder, with the sources of other crates, has another path as well.
    let folder = repo().join("target/package/a folder/with a longer path");
    checkout(&folder);
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.unwrap_or_else(|| Path::new(&std::env::var_os("HOME").unwrap()).join(".cargo"));
    let other_home = repo().join("target/package/home of cargo");
    let _ = fs::remove_file(&other_home);
    symlink(&home, &other_home).unwrap();
    let package = |target| {
        let mut command = package(&folder, "077", &["--for", target]);
        command.env("CARGO_HOME", &other_home);
        command
    };
    for target in TARGETS {
        let (path, bytes) = packed(&mut package(target));
        assert!(
            bytes == first[target],
            "{target}: {} differs from what {} gives",
            path.display(),
            self::folder().display()
        );
    }
    let (_, dated) = packed(package("xl").env("SOURCE_DATE_EPOCH", "86400"));
    assert_eq!(modes(&members(&dated, 86400)), modes(&members(&first["xl"], TIME)));
}

#[test]
fn nothing_of_a_folder_is_in_the_image() {
    let members = members(&packages()["xl"], TIME);
    let image = &members["hello-xl/hello"].bytes;
    for path in [&*repo().display().to_string(), "/.cargo/", "/registry/src/", "/target/"] {
        let found = image.windows(path.len()).position(|bytes| bytes == path.as_bytes());
        assert_eq!(found, None, "{path}");
    }
}

#[test]
fn the_package_for_qubes_is_a_kernels_folder() {
    let members = members(&packages()["qubes"], TIME);
    assert_eq!(modes(&members), [("hello/", 0o755), ("hello/README.md", 0o644), ("hello/vmlinuz", 0o644)]);
    let commands = commands(members["hello/README.md"].text());
    let first: Vec<_> = commands.iter().map(|command| command.split(' ').next().unwrap()).collect();
    assert_eq!(first, ["qvm-run", "sha256sum", "sudo", "qvm-create", "for", "qvm-start"], "{commands:?}");
    assert_eq!(
        commands[3],
        "qvm-create --class StandaloneVM --label red --property virt_mode=pvh --property kernel=hello --property \
         kernelopts='' --property memory=16 --property maxmem=16 --property vcpus=1 --property netvm='' --property \
         audiovm='' hello"
    );
    assert!(commands[4].starts_with("for feature in no-default-kernelopts skip-update; do "), "{}", commands[4]);
}

#[test]
fn the_package_for_xl_has_a_unit_that_systemd_takes() {
    let members = members(&packages()["xl"], TIME);
    let expected = ["", "README.md", "hello", "hello.cfg", "xen-hello.service"];
    let expected = expected.map(|name| (format!("hello-xl/{name}"), if name.is_empty() { 0o755 } else { 0o644 }));
    assert_eq!(modes(&members), expected.each_ref().map(|(name, mode)| (&**name, *mode)));
    assert!(!commands(members["hello-xl/README.md"].text()).is_empty());
    let config = members["hello-xl/hello.cfg"].text();
    assert!(config.contains("\nkernel = \"/usr/local/lib/sarab/hello\"\n"), "{config}");
    let unit = members["hello-xl/xen-hello.service"].text();
    for line in ["Type=oneshot", "RemainAfterExit=yes", "ExecStart=/usr/sbin/xl create /etc/xen/hello.cfg"] {
        assert!(unit.lines().any(|found| found == line), "no {line} in\n{unit}");
    }
    // A host without Xen has no xl, of which systemd would complain.
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("xen-hello.service");
    fs::write(&file, unit.replace("/usr/sbin/xl", "/bin/true")).unwrap();
    let Ok(verified) = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&file).output() else {
        eprintln!("systemd-analyze is not there, and has not looked at the unit");
        return;
    };
    assert!(verified.status.success() && text(&verified).is_empty(), "{}", text(&verified));
}

/// The script runs with an `xe` that knows the commands and parameters of XAPI's (xapi-cli-server, cli_frontend.ml and
/// records.ml).
#[test]
fn the_package_for_xcp_ng_makes_a_vm() {
    let members = members(&packages()["xcp-ng"], TIME);
    let expected = ["", "README.md", "create.sh", "hello"];
    let mode = |name: &str| if ["", "create.sh"].contains(&name) { 0o755 } else { 0o644 };
    let expected = expected.map(|name| (format!("hello-xcp-ng/{name}"), mode(name)));
    assert_eq!(modes(&members), expected.each_ref().map(|(name, mode)| (&**name, *mode)));
    assert!(commands(members["hello-xcp-ng/README.md"].text()).contains(&"./create.sh".to_owned()));

    let dir = tempfile::tempdir().unwrap();
    let kernels = dir.path().join("guest");
    let script = members["hello-xcp-ng/create.sh"].text();
    let run = |xe: &str, args: &[&str]| {
        fs::write(dir.path().join("hello"), "ELF").unwrap();
        fs::write(dir.path().join("create.sh"), script.replace("/var/lib/xcp/guest", kernels.to_str().unwrap()))
            .unwrap();
        fs::write(dir.path().join("xe"), format!("#!/bin/sh\necho \"$*\" >>log\n{xe}")).unwrap();
        fs::set_permissions(dir.path().join("xe"), fs::Permissions::from_mode(0o755)).unwrap();
        let _ = fs::remove_file(dir.path().join("log"));
        let path = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap());
        let mut shell = Command::new("sh");
        let output = shell.arg("create.sh").args(args).current_dir(dir.path()).env("PATH", path).output().unwrap();
        (output, fs::read_to_string(dir.path().join("log")).unwrap_or_default())
    };
    let xe = "case $1 in vm-create) echo the-vm ;; network-list) echo \"${2#uuid=}\" ;; esac\n";
    let (output, log) = run(xe, &["net-1", "net-2"]);
    assert!(output.status.success() && text(&output) == "the-vm\n", "{}", text(&output));
    assert_eq!(fs::read(kernels.join("hello")).unwrap(), b"ELF");
    let expected = format!(
        "vm-list name-label=hello --minimal\nnetwork-list uuid=net-1 --minimal\nnetwork-list uuid=net-2 --minimal\n\
         vm-create name-label=hello\n\
         vm-param-set uuid=the-vm domain-type=pvh PV-kernel={}/hello PV-args=\n\
         vm-param-set uuid=the-vm platform:pae=true platform:nx=true\n\
         vm-memory-limits-set uuid=the-vm static-min=16777216 dynamic-min=16777216 dynamic-max=16777216 \
         static-max=16777216\n\
         vif-create vm-uuid=the-vm network-uuid=net-1 device=0\nvif-create vm-uuid=the-vm network-uuid=net-2 device=1\n",
        kernels.display()
    );
    assert_eq!(log, expected);

    // What goes wrong leaves no half of a VM.
    let (output, log) = run("case $1 in vm-create) echo the-vm ;; vm-memory*) exit 1 ;; esac\n", &[]);
    assert!(!output.status.success() && log.ends_with("\nvm-destroy uuid=the-vm\n"), "{log}");
    let (output, _) = run("case $1 in vm-list) echo old ;; esac\n", &[]);
    assert!(!output.status.success() && text(&output).contains("error: a VM hello exists"), "{}", text(&output));
    let (output, _) = run("", &["nowhere"]);
    assert!(!output.status.success() && text(&output).contains("error: no network nowhere"), "{}", text(&output));
}

#[test]
fn an_interrupt_leaves_nothing() {
    packages();
    let (output, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let errors = target.path().join("errors");
    let mut command = package(&folder(), "022", &["--for", "xl", "--output"]);
    // A folder without anything: it has much to build.
    command.arg(output.path()).env("CARGO_TARGET_DIR", target.path()).stdout(Stdio::null());
    // As a terminal does, for all of its processes.
    let mut child = command.stderr(File::create(&errors).unwrap()).process_group(0).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(120);
    while !fs::read_to_string(&errors).unwrap().contains("Compiling") {
        assert!(
            Instant::now() < deadline && child.try_wait().unwrap().is_none(),
            "{}",
            fs::read_to_string(&errors).unwrap()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    // SAFETY: a signal to a process group of our own, whose first process has not been waited for.
    unsafe { libc::kill(-(child.id() as i32), libc::SIGINT) };
    assert_eq!(child.wait().unwrap().code(), Some(130), "{}", fs::read_to_string(&errors).unwrap());
    assert_eq!(fs::read_dir(output.path()).unwrap().count(), 0);
}

#[test]
fn what_is_wrong_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("guest");
    fs::write(&file, "").unwrap();
    let (file, gone) = (file.display().to_string(), format!("{}/none/a.tar", dir.path().display()));
    for (args, expected) in [
        (vec!["hello"], "--for <qubes|xl|xcp-ng>"),
        (vec!["hello", "--for", "kvm"], "invalid value 'kvm' for '--for"),
        (vec!["nosuch", "--for", "xl"], "no app `nosuch` (apps: "),
        (vec![&file, "--for", "xl"], "is a file: name the folder of its Cargo package"),
        (vec!["hello", "--for", "xl", "--output", &gone], "no folder "),
        (vec!["hello", "--for", "xl", "--output", "/dev/null"], "it exists and is not a regular file"),
        (vec!["hello", "--for", "xl", "--set", "=x"], "expected key=value"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_xtask")).arg("package").args(&args).output().unwrap();
        let said = text(&output);
        assert!(!output.status.success() && said.contains("error: ") && said.contains(expected), "{args:?}: {said}");
    }
}

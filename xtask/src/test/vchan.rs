//! Checks of vchans: against Xen's own library in dom0, and between guests of ours.

use std::fs::File;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::Fixture;
use super::checks::Check;
use crate::paths::repo;
use xen_lab::domain::{Domain, guest};
use xen_lab::{Dom0, Lab};

/// All checks by name.
pub const ALL: &[(&str, Check)] = &[
    ("vchan: our server, libxenvchan's client", our_server),
    ("vchan: libxenvchan's server, our client", our_client),
    ("vchan: a program in dom0 is killed", program_killed),
    ("vchan: our guest is destroyed", guest_destroyed),
    ("vchan: both ends ours, and either is destroyed", both_ours),
];

const MIB: u64 = 1 << 20;

/// Puts `xtask/src/test/vchan.c` into dom0, and returns how it is called, up to the library's name.
fn program(lab: &Lab) -> Result<String> {
    let program = tempfile::NamedTempFile::new()?;
    let output = Command::new("cc")
        .args(["-O1", "-Wall", "-Werror", "-o"])
        .arg(program.path())
        .arg(repo().join("xtask/src/test/vchan.c"))
        .arg("-ldl")
        .output()
        .context("cannot start cc, the C compiler")?;
    ensure!(output.status.success(), "cc: {}", String::from_utf8_lossy(&output.stderr));
    lab.put("/bin/lab-vchan", Box::new(File::open(program.path())?))?;
    lab.run("chmod 755 /bin/lab-vchan")?;
    let library = lab.run("ls /usr/lib/x86_64-linux-gnu/libxenvchan.so.*")?;
    Ok(format!("lab-vchan {}", library.lines().next().context("dom0 has no libxenvchan")?))
}

fn echo<'a>(f: &'a Fixture<'_>, name: &str, line: &str) -> Result<Domain<'a>> {
    guest(&f.lab, f.guest("echo")?, name).memory(24).command_line(line).create()
}

/// Where a server of `server`'s has its keys for `client`.
fn path(server: u32, client: u32) -> String {
    format!("/local/domain/{server}/data/vchan/{client}/7")
}

/// Starts a program in dom0 whose output goes to a file, and waits until it prints `text`.
fn start(lab: &Lab, command: &str, text: &str) -> Result<()> {
    lab.run(&format!("({command} >/tmp/vchan.log 2>&1 & echo $! >/tmp/vchan.pid)"))?;
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let log = lab.run("cat /tmp/vchan.log")?;
        if log.contains(text) {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("`{command}` did not print {text:?}; it printed:\n{log}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Waits until a guest has printed something so many times.
fn until(domain: &Domain<'_>, text: &str, times: usize) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    while domain.console()?.matches(text).count() < times {
        ensure!(Instant::now() < deadline, "not {times} times {text:?}:\n{}", domain.console()?);
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Rings in the page and of many pages; a client after the other.
fn our_server(f: &Fixture) -> Result<String> {
    let program = program(&f.lab)?;
    let mut took = Vec::new();
    for size in ["1K", "16K", "1M"] {
        let server = echo(f, "echo", &format!("size={size}"))?;
        server.wait_for("echo: listening for d0 on port 7", 20)?;
        let begin = Instant::now();
        for _ in 0..2 {
            let command = format!("timeout 60 {program} client {} {} {MIB}", server.id, path(server.id, 0));
            let told = f.lab.run(&command).with_context(|| server.console().unwrap_or_default())?;
            ensure!(told.contains(&format!("vchan: {MIB} bytes have come back")), "{told}");
        }
        took.push(format!("{size} {} ms", begin.elapsed().as_millis() / 2));
        until(&server, &format!("echo: d0 is done, {MIB} bytes"), 2)?;
        f.lab.run("xl shutdown -w echo")?;
        xen_lab::domain::destroy_all(&f.lab)?;
    }
    Ok(format!("1 MiB there and back, with rings of {}", took.join(", ")))
}

fn our_client(f: &Fixture) -> Result<String> {
    let program = program(&f.lab)?;
    let mut took = Vec::new();
    for sizes in ["1000 2000", "2048 1024", "2048 70000", "8192 4096", "1048576 1048576"] {
        // The client is there first, and waits: it cannot even see whether there are keys.
        let client = echo(f, "client", "connect")?;
        client.wait_for("echo: connecting to port 7 of d0", 20)?;
        let command = format!("timeout 60 {program} server {} {} {MIB} {sizes}", client.id, path(0, client.id));
        let begin = Instant::now();
        let told = f.lab.run(&command).with_context(|| client.console().unwrap_or_default())?;
        took.push(format!("{sizes}: {} ms", begin.elapsed().as_millis()));
        ensure!(told.contains(&format!("vchan: {MIB} bytes have come back")), "{told}");
        let (_, reason, console) = client.wait_end(20)?;
        ensure!(reason == "0" && console.contains(&format!("echo: d0 is done, {MIB} bytes")), "{reason}:\n{console}");
        xen_lab::domain::destroy_all(&f.lab)?;
    }
    Ok(format!("1 MiB there and back, with rings of {}", took.join(", ")))
}

/// As either end. Linux takes its mapping or its grant away, which says so in the page.
fn program_killed(f: &Fixture) -> Result<String> {
    let program = program(&f.lab)?;
    let server = echo(f, "echo", "size=4K")?;
    server.wait_for("echo: listening", 20)?;
    for round in 1..=3 {
        start(&f.lab, &format!("{program} client {} {} 0", server.id, path(server.id, 0)), "vchan: holding")?;
        f.lab.run("kill -9 $(cat /tmp/vchan.pid)")?;
        until(&server, "echo: d0 is done, 5 bytes", round)?;
    }
    let client = echo(f, "client", "connect")?;
    client.wait_for("echo: connecting", 20)?;
    let command = format!("{program} server {} {} 0 4096 4096", client.id, path(0, client.id));
    start(&f.lab, &command, "vchan: holding")?;
    f.lab.run("kill -9 $(cat /tmp/vchan.pid)")?;
    let (_, reason, console) = client.wait_end(20)?;
    ensure!(reason == "0" && console.contains("echo: d0 is done, 5 bytes"), "reason {reason}:\n{console}");
    Ok(String::new())
}

/// A program that holds its channel keeps no page of a guest that is gone once it ends.
fn guest_destroyed(f: &Fixture) -> Result<String> {
    let program = program(&f.lab)?;
    let server = echo(f, "echo", "")?;
    server.wait_for("echo: listening", 20)?;
    start(&f.lab, &format!("{program} client {} {} 0", server.id, path(server.id, 0)), "vchan: holding")?;
    let client = echo(f, "client", "connect")?;
    client.wait_for("echo: connecting", 20)?;
    f.lab.run(&format!("xl destroy {} && kill -9 $(cat /tmp/vchan.pid)", server.id))?;
    let command = format!("{program} server {} {} 0 4096 4096", client.id, path(0, client.id));
    start(&f.lab, &command, "vchan: holding")?;
    f.lab.run(&format!("xl destroy {} && kill -9 $(cat /tmp/vchan.pid)", client.id))?;
    f.lab.run(
        "tries=200; while [ $(xl list | wc -l) -gt 2 ]; do
           tries=$((tries - 1)); [ $tries -gt 0 ] || { xl list; exit 1; }; usleep 50000
         done",
    )?;
    Ok(String::new())
}

/// What nobody tells the other guest it finds out by itself.
fn both_ours(f: &Fixture) -> Result<String> {
    let mut took = Vec::new();
    for kills_client in [true, false] {
        // Numbers are given one after the other: each has to know that of the other.
        let last = guest(&f.lab, f.guest("hello")?, "last").memory(4).create()?.id;
        let server = echo(f, "echo", &format!("peer={}", last + 2))?;
        let client = echo(f, "client", &format!("connect peer={}", last + 1))?;
        ensure!((server.id, client.id) == (last + 1, last + 2), "{} and {} after {last}", server.id, client.id);
        client.wait_for("echo: connected", 20)?;
        server.wait_for(&format!("echo: d{} is there", client.id), 20)?;
        let (killed, stays) = if kills_client { (&client, &server) } else { (&server, &client) };
        let begin = Instant::now();
        f.lab.run(&format!("xl destroy {}", killed.id))?;
        stays.wait_for(&format!("echo: d{} is done, 0 bytes", killed.id), 20)?;
        took.push(format!("{:.1} s", begin.elapsed().as_secs_f32()));
        xen_lab::domain::destroy_all(&f.lab)?;
    }
    Ok(format!("noticed after {}", took.join(" and ")))
}

//! Checks of the store, of devices' lives and of the toolstack's requests, against the real xenstored and Linux.

use std::fs::File;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::Fixture;
use super::checks::Check;
use crate::paths::repo;
use xen_lab::Dom0;
use xen_lab::domain::{Domain, guest};
use xen_lab::{Lab, suite};

/// All checks by name.
pub const ALL: &[(&str, Check)] = &[
    ("store: every operation a guest may ask for", operations),
    ("store: ls and watch", ls_and_watch),
    ("store: bad words on the command line", bad_words),
    ("1,000 transactions (4.17: 250) of each of three domains", |f| {
        transactions(f, if f.suite == suite::DEFAULT { 1000 } else { 250 })
    }),
    ("a directory of 1,000 entries", directory),
    ("100 times (4.17: 10) attach and detach, Linux's blkback", attach_linux),
    ("50 times (4.17: 10) attach and detach, Linux's netback", attach_vif),
    ("both ends ours: a vbd from a driver domain", attach_ours),
    ("a blkback that goes away and comes back", rebind),
    ("xl shutdown and xl reboot", shutdown),
    ("an application that does not end", stubborn),
    ("sysrq and triggers", sysrq),
    ("save and restore", save_restore),
];

/// What is also checked with the other server of the store.
pub const WITH_OTHER_SERVER: &[(&str, Check)] = &[
    ("store: every operation a guest may ask for", operations),
    ("250 transactions of each of three domains", |f| transactions(f, 250)),
    ("a directory that is too long for the server", directory_too_long),
    ("attach and detach, Linux's blkback", attach_linux_briefly),
    ("xl shutdown and xl reboot", shutdown),
    ("save and restore", save_restore),
];

fn operations(f: &Fixture) -> Result<String> {
    let domain = guest(&f.lab, f.guest("store")?, "check").command_line("mode=check").create()?;
    let (_, reason, console) = domain.wait_end(60)?;
    let sum = console.lines().find(|line| line.starts_with("check: ")).unwrap_or("").to_owned();
    ensure!(sum.ends_with(" 0 failed") && reason == "0", "reason {reason}:\n{console}");
    Ok(sum)
}

fn ls_and_watch(f: &Fixture) -> Result<String> {
    let domain = guest(&f.lab, f.guest("store")?, "ls").command_line("mode=ls perms=yes").create()?;
    let (_, reason, console) = domain.wait_end(30)?;
    let own = f.lab.run(&format!("xenstore-ls /local/domain/{}", domain.id))?;
    ensure!(reason == "0", "reason {reason}:\n{console}");
    for line in own.lines().filter(|line| line.contains("domid =") || line.contains("platform-feature")) {
        ensure!(console.contains(line.trim()), "dom0 sees {line}, the guest printed:\n{console}");
    }
    ensure!(console.contains("name = \"ls\"  (n0,r"), "{console}");

    let domain = guest(&f.lab, f.guest("store")?, "watch").command_line("mode=watch path=data").create()?;
    domain.wait_for("watching data", 20)?;
    let path = format!("/local/domain/{}/data", domain.id);
    f.lab.run(&format!("xenstore-write {path}/colour 'blue green'"))?;
    domain.wait_for("data/colour = \"blue green\"", 20)?;
    f.lab.run(&format!("xenstore-rm {path}/colour"))?;
    domain.wait_for("data/colour is gone", 20)?;
    f.lab.run(&format!("xl shutdown -w {}", domain.name))?;
    ensure!(domain.console()?.contains("asked to poweroff"), "{}", domain.console()?);
    Ok(String::new())
}

fn bad_words(f: &Fixture) -> Result<String> {
    for (line, expected) in [
        ("mode=list", "error: command line: `mode=list`: expected ls, watch or check"),
        ("mode=ls path=/local/domain/0", "error: store: READ /local/domain/0: EACCES (access denied)"),
        ("mode=ls path=no/such", "error: store: READ no/such: ENOENT (no such entry)"),
        ("mode=watch path=a//b", "error: store: WATCH a//b: the path holds an empty name at byte 2"),
    ] {
        let domain = guest(&f.lab, f.guest("store")?, "bad").command_line(line).create()?;
        let (_, reason, console) = domain.wait_end(20)?;
        ensure!(console.contains(expected) && reason == "3", "reason {reason}:\n{console}");
        xen_lab::domain::destroy_all(&f.lab)?;
    }
    Ok(String::new())
}

/// A small program in dom0, made by the host's C compiler, takes part through the toolstack's own library.
fn transactions(f: &Fixture, times: u32) -> Result<String> {
    let path = "/sarab-count";
    install_program(&f.lab)?;
    f.lab.run(&format!("xenstore-rm {path}; true"))?;
    let line = format!("test=count path={path} times={times}");
    let one = guest(&f.lab, f.guest("probe")?, "count1").command_line(&line).create()?;
    let two = guest(&f.lab, f.guest("probe")?, "count2").command_line(&line).create()?;
    for domain in [&one, &two] {
        domain.wait_for("count: ready", 20)?;
    }
    let create = format!(
        "xenstore-write {path} 0; xenstore-chmod {path} n0 b{0} b{1}
         xenstore-write /local/domain/{0}/data/go 1 /local/domain/{1}/data/go 1",
        one.id, two.id
    );
    let own = f.lab.run(&format!("{create}; lab-store count {path} {times}"))?;
    let consoles = [one.wait_passed(120)?, two.wait_passed(120)?];
    let total = f.lab.run(&format!("xenstore-read {path}"))?;
    ensure!(total.trim() == (3 * times).to_string(), "{total} of {} updates are left; dom0: {own}", 3 * times);
    let begin = format!("count: {times} in ");
    let tries = |text: &str| text.lines().find_map(|line| line.strip_prefix(&begin).map(str::to_owned));
    let tries: Vec<_> = [&own, &consoles[0], &consoles[1]].into_iter().filter_map(|text| tries(text)).collect();
    ensure!(tries.len() == 3, "{own}\n{consoles:?}");
    Ok(format!("dom0 and two guests: {}", tries.join(", ")))
}

/// Compiles `xtask/src/test/store.c` and puts it into dom0.
pub fn install_program(lab: &Lab) -> Result<()> {
    let program = tempfile::NamedTempFile::new()?;
    let output = Command::new("cc")
        .args(["-O1", "-Wall", "-Werror", "-o"])
        .arg(program.path())
        .arg(repo().join("xtask/src/test/store.c"))
        .arg("-ldl")
        .output()
        .context("cannot start cc, the C compiler")?;
    ensure!(output.status.success(), "cc: {}", String::from_utf8_lossy(&output.stderr));
    lab.put("/bin/lab-store", Box::new(File::open(program.path())?))?;
    lab.run("chmod 755 /bin/lab-store").map(drop)
}

/// Has dom0 make 1,000 nodes, and a guest list them.
fn list_a_thousand(f: &Fixture) -> Result<(String, String)> {
    let path = "/sarab-names";
    f.lab.run(&format!(
        "xenstore-rm {path}; i=0; while [ $i -lt 1000 ]; do
           xenstore-write $(j=$i; while [ $j -lt $((i + 50)) ]; do echo {path}/an-entry-$j x; j=$((j + 1)); done)
           i=$((i + 50))
         done; xenstore-chmod {path} r0"
    ))?;
    let domain = guest(&f.lab, f.guest("probe")?, "names").command_line(format!("test=names path={path}")).create()?;
    let (_, reason, console) = domain.wait_end(60)?;
    f.lab.run(&format!("xenstore-rm {path}"))?;
    Ok((reason, console))
}

fn directory(f: &Fixture) -> Result<String> {
    let (_, console) = list_a_thousand(f)?;
    let sum: usize = (0..1000).sum();
    let line = console.lines().find(|line| line.starts_with("names: ")).unwrap_or_default();
    ensure!(line == format!("names: 1000 names, sum {sum}, in one packet: E2BIG"), "{console}");
    Ok(line.to_owned())
}

/// oxenstored knows no parts of directories: the error says so.
fn directory_too_long(f: &Fixture) -> Result<String> {
    let (reason, console) = list_a_thousand(f)?;
    let error = "error: store: DIRECTORY /sarab-names: E2BIG (too much at once)";
    ensure!(reason == "3" && console.contains(error), "reason {reason}:\n{console}");
    Ok(String::new())
}

/// What a probe has in use, without what its memory does: ports, grants, watches; and free memory.
fn in_use(domain: &Domain<'_>) -> Result<(String, u64)> {
    let count = |text: &str| text.lines().filter(|line| line.starts_with("use: ")).count();
    let before = count(&domain.console()?);
    domain.send("use")?;
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let console = domain.console()?;
        // The last line may still be on its way.
        let whole = console.rfind('\n').map_or("", |end| &console[..end]);
        if count(whole) > before {
            let line = whole.lines().rfind(|line| line.starts_with("use: ")).context("use")?;
            let (things, free) = line.rsplit_once(" free ").context("free")?;
            return Ok((things.to_owned(), free.parse()?));
        }
        ensure!(Instant::now() < deadline, "{} does not say what it uses:\n{console}", domain.name);
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A device that is attached and detached.
struct Cycled<'a> {
    /// `block` or `network`, as in xl's commands.
    kind: &'a str,
    class: &'a str,
    id: u32,
    /// What `xl block-attach` takes.
    spec: &'a str,
    /// Where the backends of this class have their directories.
    backend: &'a str,
}

/// Runs cycles of attach and detach in dom0, each waiting for the device to be in use.
fn cycles(f: &Fixture, domain: &Domain<'_>, device: &Cycled<'_>, count: u32) -> Result<()> {
    let Cycled { kind, class, id: device, spec, backend } = device;
    f.lab
        .run(&format!(
            "state=/local/domain/{id}/device/{class}/{device}/state
             for cycle in $(seq {count}); do
               xl {kind}-attach {id} '{spec}' >/dev/null || exit 1
               tries=400
               until [ \"$(xenstore-read $state 2>/dev/null)\" = 4 ] && \
                 [ \"$(xenstore-read {backend}/{id}/{device}/state)\" = 4 ]; do
                 tries=$((tries - 1)); [ $tries -gt 0 ] || {{ echo \"cycle $cycle: not connected\"; exit 1; }}; usleep 20000
               done
               xl {kind}-detach {id} {device} >/dev/null || exit 1
               echo cycle $cycle
               tries=400
               while xenstore-exists $state; do
                 tries=$((tries - 1)); [ $tries -gt 0 ] || {{ echo \"cycle $cycle: not detached\"; exit 1; }}; usleep 20000
               done
             done",
            id = domain.id
        ))
        .map(drop)
        .with_context(|| format!("{} printed:\n{}", domain.name, domain.console().unwrap_or_default()))
}

/// Cycles until nothing new is in use. Memory is compared after a warm-up: buffers grow to what they are used for.
fn check_cycles(f: &Fixture, domains: &[&Domain<'_>], device: &Cycled<'_>, count: u32) -> Result<String> {
    let uses = || domains.iter().map(|domain| in_use(domain)).collect::<Result<Vec<_>>>();
    let start = uses()?;
    cycles(f, domains[0], device, 5)?;
    let warm = uses()?;
    cycles(f, domains[0], device, count - 5)?;
    let end = uses()?;
    for ((start, warm), end) in start.iter().zip(&warm).zip(&end) {
        ensure!(start.0 == end.0, "at the start {}, at the end {}", start.0, end.0);
        ensure!(end.1 + 4096 >= warm.1, "{} bytes free after 5 cycles, {} after {count}", warm.1, end.1);
    }
    Ok(format!("{}, as at the start", end[0].0))
}

fn attach_vif(f: &Fixture) -> Result<String> {
    let domain = guest(&f.lab, f.guest("probe")?, "vif").command_line("test=vif").create()?;
    domain.wait_for("vbd: ready", 20)?;
    let backend = "/local/domain/0/backend/vif";
    let device = Cycled { kind: "network", class: "vif", id: 0, spec: "mac=00:16:3e:01:02:03", backend };
    let times = if f.suite == suite::DEFAULT { 50 } else { 10 };
    let note = check_cycles(f, &[&domain], &device, times)?;
    let console = domain.console()?;
    let connected = console.matches("vif 0: [00, 16, 3e, 01, 02, 03], connected").count();
    ensure!(connected == times as usize, "{connected} of {times} times connected:\n{console}");
    Ok(note)
}

fn attach_linux(f: &Fixture) -> Result<String> {
    // A second each: the other Xen gets less.
    attach(f, if f.suite == suite::DEFAULT { 100 } else { 10 })
}

fn attach_linux_briefly(f: &Fixture) -> Result<String> {
    attach(f, 10)
}

fn attach(f: &Fixture, times: u32) -> Result<String> {
    f.lab.run("dd if=/dev/zero of=/tmp/disk bs=1M count=1 2>/dev/null")?;
    let domain = guest(&f.lab, f.guest("probe")?, "front").command_line("test=vbd").create()?;
    domain.wait_for("vbd: ready", 20)?;
    let backend = "/local/domain/0/backend/vbd";
    let start = Instant::now();
    let spec = "format=raw,vdev=xvda,access=rw,target=/tmp/disk";
    let device = Cycled { kind: "block", class: "vbd", id: 51712, spec, backend };
    let note = check_cycles(f, &[&domain], &device, times)?;
    let console = domain.console()?;
    let connected = console.matches("vbd 51712: 2048 sectors, connected").count();
    ensure!(connected == times as usize, "{connected} of {times} times connected:\n{console}");
    domain.send("quit")?;
    domain.wait_passed(20)?;
    Ok(format!("{:.0} ms a cycle; {note}", start.elapsed().as_secs_f32() * 1000.0 / times as f32))
}

fn attach_ours(f: &Fixture) -> Result<String> {
    let back =
        guest(&f.lab, f.guest("probe")?, "back").command_line("test=vbd-back").line("driver_domain=1").create()?;
    back.wait_for("vbd: ready", 20)?;
    let front = guest(&f.lab, f.guest("probe")?, "front").command_line("test=vbd").create()?;
    front.wait_for("vbd: ready", 20)?;
    let disk = |params: &str| format!("format=raw,vdev=xvda,access=rw,backendtype=phy,backend=back,target={params}");
    let backend = format!("/local/domain/{}/backend/vbd", back.id);
    let device = Cycled { kind: "block", class: "vbd", id: 51712, spec: &disk("disk"), backend: &backend };
    let note = check_cycles(f, &[&front, &back], &device, 20)?;
    // What is wrong is told where xl looks for it.
    let attached = f.lab.try_run(&format!("xl block-attach {} '{}'", front.id, disk("broken")))?;
    ensure!(attached.0 != 0, "xl accepted a broken disk: {}", attached.1);
    let error = format!("/local/domain/{}/error/backend/vbd/{}/51712/error", back.id, front.id);
    let told = f.lab.run(&format!("xenstore-read {error}"))?;
    ensure!(told.trim() == "2 params = broken: there is no such disk", "{told}");
    Ok(note)
}

/// Linux's driver is taken from the device and given back to it, as when a driver domain is serviced.
fn rebind(f: &Fixture) -> Result<String> {
    f.lab.run("dd if=/dev/zero of=/tmp/disk bs=1M count=1 2>/dev/null")?;
    let domain = guest(&f.lab, f.guest("probe")?, "rebind").command_line("test=vbd").create()?;
    domain.wait_for("vbd: ready", 20)?;
    f.lab.run(&format!("xl block-attach {} 'format=raw,vdev=xvda,access=rw,target=/tmp/disk'", domain.id))?;
    let connected = |times: usize| -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(20);
        while domain.console()?.matches("vbd 51712: 2048 sectors, connected").count() < times {
            ensure!(Instant::now() < deadline, "not connected {times} times:\n{}", domain.console()?);
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    };
    connected(1)?;
    let (before, _) = in_use(&domain)?;
    for round in 2..=4 {
        f.lab.run(&format!(
            "cd /sys/bus/xen-backend/drivers/vbd && echo vbd-{0}-51712 > unbind && echo vbd-{0}-51712 > bind",
            domain.id
        ))?;
        connected(round)?;
    }
    let (after, _) = in_use(&domain)?;
    ensure!(before == after, "{before}, and after three times {after}");
    f.lab.run(&format!("xl block-detach {} xvda", domain.id))?;
    domain.wait_for("vbd 51712: Removed", 20)?;
    Ok(String::new())
}

fn shutdown(f: &Fixture) -> Result<String> {
    // The default: the application does not ask for it, and the domain ends.
    let domain = guest(&f.lab, f.guest("hello")?, "hello").memory(4).create()?;
    domain.wait_for("us since start", 20)?;
    let start = Instant::now();
    f.lab.run("xl shutdown -w hello")?;
    let took = start.elapsed();
    xen_lab::domain::destroy_all(&f.lab)?;
    // The application takes its time, and ends as it was asked to.
    for (command, word, expected) in [("xl shutdown", "poweroff", "0"), ("xl reboot", "reboot", "1")] {
        let domain = guest(&f.lab, f.guest("probe")?, word).command_line("test=shutdown").create()?;
        domain.wait_for("shutdown: ready", 20)?;
        // The toolstack makes the last of them, empty, and the guest writes beside its application.
        f.lab.run(&format!(
            "for key in poweroff reboot suspend; do
               path=/local/domain/{}/control/feature-$key; tries=400
               until [ \"$(xenstore-read $path 2>/dev/null)\" = 1 ]; do
                 tries=$((tries - 1)); [ $tries -gt 0 ] || {{ echo \"$path is $(xenstore-read $path)\"; exit 1; }}; usleep 20000
               done
             done",
            domain.id
        ))?;
        f.lab.run(&format!("{command} {word}"))?;
        let (_, reason, console) = domain.wait_end(20)?;
        ensure!(reason == expected && console.contains(&format!("shutdown: asked to {word}")), "{reason}:\n{console}");
        let left = f.lab.run(&format!("xenstore-read /local/domain/{}/control/shutdown", domain.id))?;
        ensure!(left.trim().is_empty(), "not acknowledged: {left}");
    }
    // xl itself starts a domain again that reboots.
    let config = "/tmp/again.cfg";
    f.lab.run(&format!(
        "sed -e 's/^name.*/name = \"again\"/' /tmp/hello.cfg > {config}; grep -q '^on_reboot' {config}
         xl create -q {config} && first=$(xl domid again) && log=/var/log/xen/console/guest-again.log
         until grep -q 'us since start' $log; do usleep 50000; done
         xl reboot again; tries=200
         until second=$(xl domid again 2>/dev/null) && [ \"$second\" != $first ]; do
           tries=$((tries - 1)); [ $tries -gt 0 ] || {{ echo \"not started again\"; exit 1; }}; usleep 50000
         done
         xl destroy again"
    ))?;
    for (word, expected) in [("halt", "0"), ("crash", "3")] {
        let domain = guest(&f.lab, f.guest("hello")?, word).memory(4).create()?;
        domain.wait_for("us since start", 20)?;
        f.lab.run(&format!("xenstore-write /local/domain/{}/control/shutdown {word}", domain.id))?;
        let (_, reason, console) = domain.wait_end(20)?;
        ensure!(reason == expected, "{word}: reason {reason}\n{console}");
    }
    Ok(format!("xl shutdown -w took {:.1} s", took.as_secs_f32()))
}

fn stubborn(f: &Fixture) -> Result<String> {
    let domain = guest(&f.lab, f.guest("probe")?, "stubborn").command_line("test=stubborn").create()?;
    domain.wait_for("stubborn: ready", 20)?;
    f.lab.run("xl shutdown stubborn")?;
    domain.wait_for("stubborn: asked to poweroff", 20)?;
    ensure!(domain.state()?.1 == "-", "it was to stay for once");
    f.lab.run("xl shutdown stubborn")?;
    let (_, reason, _) = domain.wait_end(20)?;
    ensure!(reason == "0", "reason {reason}");
    Ok(String::new())
}

fn sysrq(f: &Fixture) -> Result<String> {
    let domain = guest(&f.lab, f.guest("hello")?, "sysrq").memory(4).create()?;
    domain.wait_for("us since start", 20)?;
    for (key, expected) in [("h", "b reboots, o powers off"), ("m", "sysrq: memory 4096 KiB"), ("t", "hypercalls")] {
        f.lab.run(&format!("xl sysrq sysrq {key}"))?;
        domain.wait_for(expected, 20)?;
    }
    f.lab.run("xl sysrq sysrq c")?;
    let (_, reason, _) = domain.wait_end(20)?;
    ensure!(reason == "3", "reason {reason}");
    let domain = guest(&f.lab, f.guest("probe")?, "keys").command_line("test=sysrq").create()?;
    domain.wait_for("sysrq: ready", 20)?;
    f.lab.run("xl sysrq keys x")?;
    let console = domain.wait_passed(20)?;
    ensure!(console.contains("sysrq: key x"), "{console}");
    // The one trigger that a PVH guest can get: it ends a guest that hangs, with a report.
    let domain = guest(&f.lab, f.guest("hello")?, "nmi").memory(4).create()?;
    domain.wait_for("us since start", 20)?;
    f.lab.run("xl trigger nmi nmi")?;
    let (_, reason, console) = domain.wait_end(20)?;
    ensure!(reason == "3" && console.contains("(vector 2)"), "reason {reason}:\n{console}");
    Ok(String::new())
}

/// `xl save` and `xl restore`: the guest answers by itself, and its store, timers and grants go on.
fn save_restore(f: &Fixture) -> Result<String> {
    let domain = guest(&f.lab, f.guest("probe")?, "saved").command_line("test=suspend").create()?;
    domain.wait_for("suspend: ready", 20)?;
    let start = Instant::now();
    // First a copy, after which the domain goes on; then the real thing.
    let save = |options| {
        format!(
            "timeout 60 xl save {options} saved /tmp/saved.img >/tmp/save.log 2>&1 || {{ cat /tmp/save.log; exit 1; }}"
        )
    };
    f.lab.run(&save("-c"))?;
    domain.wait_for("suspend: Cancelled", 20)?;
    domain.wait_for("suspend: goes on", 20)?;
    f.lab.run(&save(""))?;
    f.lab.run("xl restore -e /tmp/saved.img >/tmp/restore.log 2>&1 || { cat /tmp/restore.log; exit 1; }")?;
    let id = f.lab.run("xl domid saved")?.trim().parse()?;
    let restored = domain.with_id(id);
    restored.wait_for("suspend: Restored", 20)?;
    restored.wait_for("suspend: Restored\nsuspend: goes on", 20)?;
    // The watches of control/shutdown were made again.
    f.lab.run(&format!("xl shutdown {id}"))?;
    let (_, reason, console) = restored.wait_end(20)?;
    ensure!(reason == "0" && !console.contains("FAIL"), "reason {reason}:\n{console}");
    Ok(format!("{:.1} s for two saves and a restore", start.elapsed().as_secs_f32()))
}

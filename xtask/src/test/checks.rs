//! What is checked on real Xen, all in one boot of the lab.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::Fixture;
use xen_lab::Dom0;
use xen_lab::domain::guest;

pub type Check = fn(&Fixture) -> Result<String>;

/// All checks by name.
pub const ALL: &[(&str, Check)] = &[
    ("hello boots at 4 MiB", hello),
    ("hello boots at 2 MiB", hello_small),
    ("exit=now powers off", exit_now),
    ("a bad argument on the command line", bad_argument),
    ("20 domains, idle", twenty),
    ("a panic is reported", |f| fault(f, "panic", &["panic at ", "main.rs", "a panic on purpose", "#0 0x"])),
    ("a stack overflow is reported", |f| {
        fault(f, "overflow", &["page fault (vector 14)", "stack overflow: the guard page", "#1 0x"])
    }),
    ("a write to read-only memory is reported", |f| {
        fault(
            f,
            "readonly",
            &["page fault (vector 14), error code 0x3", "the memory is read-only", "RIP 0x", "CR2 0x", "RAX", "#1 0x"],
        )
    }),
    ("execution of data is reported", |f| {
        fault(f, "execute", &["page fault (vector 14), error code 0x11", "the memory is not executable", "RSP"])
    }),
    ("a null pointer is reported", |f| fault(f, "null", &["page fault (vector 14)", "read at 0x10: a null pointer"])),
    ("a bad instruction is reported", |f| fault(f, "opcode", &["invalid opcode (vector 6)"])),
    ("a panic while printing is reported", |f| fault(f, "display", &["half a line", "a panic inside of a Display"])),
    ("running out of memory is reported", |f| fault(f, "oom", &["panic", "allocation"])),
    ("shutdown calls", shutdown_calls),
    ("memory functions, tasks, ports, grants", |f| probe(f, "self", 60)),
    ("a processor without random numbers", no_entropy),
    ("timers of 1 ms to 5 s", timers),
    ("the clock agrees with dom0's", clock),
    ("events and grants between two domains", pair),
    ("the grant table grows to its limit", grants),
    ("4,000 ports", ports),
    ("a flooded console drops and counts", |f| probe(f, "flood", 60)),
    ("console input", input),
    ("a module beside the guest", module),
];

/// What is done for one Xen alone.
pub const AT_LENGTH: [(&str, Check); 1] = [("ecosystem: seventy crates of others do their work", ecosystem)];

/// Those of `cargo xen test --quick`, which need hello alone.
pub const QUICK: [&str; 4] =
    ["hello boots at 4 MiB", "hello boots at 2 MiB", "exit=now powers off", "a bad argument on the command line"];

fn hello(f: &Fixture) -> Result<String> {
    let domain = guest(&f.lab, f.guest("hello")?, "hello").memory(4).command_line("exit=never").create()?;
    let banner = domain.wait_for("us since start", 20)?;
    let xen = f.lab.run("xl info xen_version")?;
    for (key, value) in [
        ("domain", format!("d{}", domain.id)),
        ("Xen", xen.trim().to_owned()),
        ("memory", "4096 KiB,".into()),
        ("command line", "exit=never".into()),
    ] {
        let line = banner
            .lines()
            .find(|line| line.trim_start().starts_with(key))
            .with_context(|| format!("no {key} in:\n{banner}"))?;
        ensure!(line.contains(&value), "expected {value} in `{line}`");
    }
    // Qubes OS takes escapes out of what it keeps of a console.
    let console = domain.console()?;
    let read = |text: &str| cargo_xen::logs::decoded(&f.guest("hello")?.debug, text.as_bytes());
    let (whole, bare) = (read(&console)?, read(&console.replace('\x1b', ""))?);
    ensure!(whole == bare && whole.contains("INFO  hello is up"), "{whole}\nwithout escapes:\n{bare}");
    let micros =
        banner.lines().find_map(|line| line.trim().strip_prefix("time")?.trim().split(' ').next()?.parse::<u64>().ok());
    ensure!(micros.is_some_and(|micros| micros > 0 && micros < 5_000_000), "time since start: {micros:?} us");
    Ok(format!("{} us to the banner", micros.unwrap_or(0)))
}

fn hello_small(f: &Fixture) -> Result<String> {
    let domain = guest(&f.lab, f.guest("hello")?, "small").memory(2).create()?;
    let banner = domain.wait_for("us since start", 20)?;
    Ok(banner.lines().find(|line| line.contains("memory")).unwrap_or("").trim().to_owned())
}

fn exit_now(f: &Fixture) -> Result<String> {
    let domain = guest(&f.lab, f.guest("hello")?, "exit").memory(4).command_line("exit=now").create()?;
    let (state, reason, console) = domain.wait_end(20)?;
    ensure!(reason == "0" && state.contains('s'), "state {state}, reason {reason}");
    ensure!(console.contains("us since start"), "the last line is missing:\n{console}");
    Ok(String::new())
}

fn bad_argument(f: &Fixture) -> Result<String> {
    for (line, expected) in [
        ("exit=maybe", "error: command line: `exit=maybe`: expected now or never"),
        ("exti=now", "error: command line: `exti=now`: unknown key; known are exit and name"),
    ] {
        let domain = guest(&f.lab, f.guest("hello")?, "bad").memory(4).command_line(line).create()?;
        let (_, reason, console) = domain.wait_end(20)?;
        ensure!(console.contains(expected) && reason == "3", "reason {reason}:\n{console}");
        xen_lab::domain::destroy_all(&f.lab)?;
    }
    Ok(String::new())
}

/// Processor time of all domains but dom0, as `xl list` shows it.
fn times(f: &Fixture) -> Result<Vec<(String, String)>> {
    let text = f.lab.run("xl list")?;
    let words = text.lines().skip(2).map(|line| line.split_whitespace().collect::<Vec<_>>());
    Ok(words.filter(|words| words.len() >= 6).map(|words| (words[0].to_owned(), words[5].to_owned())).collect())
}

fn twenty(f: &Fixture) -> Result<String> {
    let mut domains = Vec::new();
    for index in 0..20 {
        domains.push(guest(&f.lab, f.guest("hello")?, &format!("many{index}")).memory(4).create()?);
    }
    for domain in &domains {
        domain.wait_for("us since start", 30)?;
    }
    let before = times(f)?;
    ensure!(before.len() == 20, "{} domains run: {before:?}", before.len());
    std::thread::sleep(Duration::from_secs(10));
    let after = times(f)?;
    ensure!(before == after, "idle domains used processor time in 10 s:\n{before:?}\n{after:?}");
    let all: f64 = after.iter().filter_map(|(_, time)| time.parse::<f64>().ok()).sum();
    Ok(format!("{all:.1} s of processor time since their start, all together"))
}

fn fault(f: &Fixture, test: &str, expected: &[&str]) -> Result<String> {
    let domain = guest(&f.lab, f.guest("probe")?, test).memory(8).command_line(format!("test={test}")).create()?;
    let (state, reason, console) = domain.wait_end(30)?;
    ensure!(reason == "3" && state.contains('c'), "state {state}, reason {reason}:\n{console}");
    ensure!(console.contains("CRASH: ") && console.contains("backtrace"), "no report:\n{console}");
    for text in expected {
        // The emulator loses the address of a page fault under this Xen.
        let lost = f.suite.xen == "4.17" && (text.starts_with("CR2 ") || text.contains(" at 0x"));
        ensure!(lost || console.contains(text), "no {text:?} in the report:\n{console}");
    }
    let serial = std::fs::read_to_string(&f.lab.serial).unwrap_or_default();
    ensure!(serial.contains(&format!("(d{}) CRASH: ", domain.id)), "no report on the hypervisor's console");
    Ok(String::new())
}

fn shutdown_calls(f: &Fixture) -> Result<String> {
    for (test, expected) in [("reboot", "1"), ("crash", "3"), ("error", "3")] {
        let domain = guest(&f.lab, f.guest("probe")?, test).memory(8).command_line(format!("test={test}")).create()?;
        let (_, reason, console) = domain.wait_end(20)?;
        ensure!(reason == expected, "{test} ended with reason {reason}:\n{console}");
        ensure!(test != "error" || console.contains("error: an error on purpose"), "{console}");
    }
    Ok(String::new())
}

fn probe(f: &Fixture, test: &str, seconds: u64) -> Result<String> {
    let domain = guest(&f.lab, f.guest("probe")?, test).command_line(format!("test={test}")).create()?;
    Ok(sum(&domain.wait_passed(seconds)?))
}

fn no_entropy(f: &Fixture) -> Result<String> {
    let line = "cpuid = \"host,rdrand=0,rdseed=0\"";
    let domain = guest(&f.lab, f.guest("probe")?, "entropy").command_line("test=entropy").line(line).create()?;
    let console = domain.wait_passed(20)?;
    ensure!(console.contains("entropy: no source of random numbers: this processor offers neither"), "{console}");
    Ok(String::new())
}

fn timers(f: &Fixture) -> Result<String> {
    let domain = guest(&f.lab, f.guest("probe")?, "timers").command_line("test=timers").create()?;
    // The longest timer takes 6 s. Asking dom0 meanwhile would keep the processors busy that the timers wait for.
    std::thread::sleep(Duration::from_secs(6));
    Ok(sum(&domain.wait_passed(60)?))
}

fn sum(console: &str) -> String {
    let worst =
        console.lines().filter_map(|line| line.strip_suffix(" us late")?.rsplit(' ').next()?.parse::<u64>().ok()).max();
    let sum = console.lines().find_map(|line| line.strip_prefix("probe: ")).unwrap_or("");
    worst.map_or(sum.to_owned(), |worst| format!("{sum}, {worst} us late at most"))
}

/// The guest's answer must lie between two readings of dom0's clock.
fn clock(f: &Fixture) -> Result<String> {
    let domain = guest(&f.lab, f.guest("probe")?, "clock").command_line("test=clock").create()?;
    domain.wait_for("clock: ready", 20)?;
    let script = format!(
        "t=$(xenstore-read /local/domain/{}/console/tty); log=/var/log/xen/console/guest-clock.log
         now() {{ adjtimex | awk '/tv_sec/ {{ s = $NF }} /tv_usec/ {{ printf \"%d%06d\", s, $NF }}'; }}
         for round in 1 2 3 4 5; do
           before=$(now); echo r$round > $t
           until grep -q \"clock: r$round\" $log; do usleep 1000; done
           after=$(now); echo \"$before $after $(grep \"clock: r$round\" $log)\"
         done",
        domain.id
    );
    let mut worst = 0;
    let text = f.lab.run(&script)?;
    for line in text.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        let [before, after, _, _, wall, ..] = words.as_slice() else { bail!("unexpected: {line}") };
        let (before, after, wall) = (before.parse::<i64>()?, after.parse::<i64>()?, wall.parse::<i64>()?);
        let outside = (before - wall).max(wall - after).max(0);
        worst = worst.max(outside);
    }
    ensure!(text.lines().count() == 5, "{text}");
    ensure!(worst < 5000, "the guest's clock is {worst} us away from dom0's:\n{text}");
    Ok(format!("{worst} us outside of dom0's readings at most"))
}

fn pair(f: &Fixture) -> Result<String> {
    let accept = guest(&f.lab, f.guest("probe")?, "accept").command_line("test=accept").create()?;
    accept.wait_for("accept: ready", 20)?;
    let offer =
        guest(&f.lab, f.guest("probe")?, "offer").command_line(format!("test=offer peer={}", accept.id)).create()?;
    let console = offer.wait_for(" more=", 20)?;
    let line = console.lines().find_map(|line| line.strip_prefix("offer: ")).context("offer")?;
    // The line may still be on its way when its last key shows.
    let whole = offer.wait_for(&format!("{line}\n"), 20)?;
    let line = whole.lines().find_map(|line| line.strip_prefix("offer: ")).context("offer")?;
    accept.send(line)?;
    let offered = offer.wait_passed(60);
    let accepted = accept.wait_passed(60);
    let offered = offered.with_context(|| format!("accept printed:\n{}", accept.console().unwrap_or_default()))?;
    accepted?;
    Ok(offered.lines().find(|line| line.contains("a round trip")).unwrap_or("").to_owned())
}

fn grants(f: &Fixture) -> Result<String> {
    let domain = guest(&f.lab, f.guest("probe")?, "grants")
        .memory(32)
        .command_line("test=grants")
        .line("max_grant_frames=4")
        .create()?;
    let console = domain.wait_passed(60)?;
    ensure!(console.contains("grants: 2040 in use, then: all 2048 entries"), "{console}");
    ensure!(console.contains("grants: copies of frame "), "{console}");
    Ok(sum(&console))
}

fn ports(f: &Fixture) -> Result<String> {
    let domain = guest(&f.lab, f.guest("probe")?, "ports")
        .memory(32)
        .command_line("test=ports")
        .line("max_event_channels=4095")
        .create()?;
    let console = domain.wait_passed(120)?;
    Ok(console.lines().find_map(|line| line.strip_prefix("ports: ")).unwrap_or("").to_owned())
}

fn input(f: &Fixture) -> Result<String> {
    let domain = guest(&f.lab, f.guest("probe")?, "echo")
        .command_line("test=echo")
        .before(|domain| domain.send("early"))
        .create()?;
    domain.wait_for("echo: early\n", 20)?;
    let long: String = ('a'..='z').cycle().take(3000).collect();
    for line in ["one", "two  three", &long] {
        domain.send(line)?;
        domain.wait_for(&format!("echo: {line}\n"), 20)?;
    }
    domain.send("quit")?;
    domain.wait_passed(20)?;
    Ok(String::new())
}

fn module(f: &Fixture) -> Result<String> {
    let bytes: Vec<u8> = (0..3_000_001_u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let sum = bytes.iter().fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
    f.lab.put("/tmp/module", Box::new(std::io::Cursor::new(bytes)))?;
    let domain = guest(&f.lab, f.guest("probe")?, "module")
        .command_line("test=module")
        .line("ramdisk=\"/tmp/module\"")
        .create()?;
    let console = domain.wait_passed(30)?;
    ensure!(console.contains(&format!("module: 3000001 bytes, sum {sum}\n")), "expected sum {sum}:\n{console}");
    Ok(String::new())
}

fn ecosystem(f: &Fixture) -> Result<String> {
    let guest = guest(&f.lab, f.guest("ecosystem")?, "ecosystem").memory(32).create()?;
    let console = guest.wait_passed(60)?;
    let line = console.lines().rfind(|line| line.contains(" passed, ")).context("no line")?;
    Ok(line.trim().to_owned())
}

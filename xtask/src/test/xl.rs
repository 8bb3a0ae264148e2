//! The subcommands of xl, each typed at a running guest; and the table of `docs/xl.md` beside `xl help`.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::Fixture;
use super::checks::Check;
use crate::paths::repo;
use xen_lab::domain::guest;
use xen_lab::{Dom0, suite};

pub const ALL: &[(&str, Check)] = &[
    ("xl: the table of docs/xl.md has the subcommands that there are", table),
    ("xl: each subcommand at a running guest", typed),
];

/// What xl says to a command at a guest.
enum Said {
    /// It does it.
    Done,
    /// It does, or does not: the guest goes on in any case.
    Any,
    /// It refuses.
    Refused,
}
use Said::{Any, Done, Refused};

/// In this order; `GUEST` is the guest's name.
const TYPED: &[(&str, Said)] = &[
    ("list GUEST", Done),
    ("list -l GUEST", Done),
    ("vm-list", Done),
    ("domid GUEST", Done),
    ("domname ID", Done),
    ("uptime GUEST", Done),
    ("pause GUEST", Done),
    ("unpause GUEST", Done),
    ("vcpu-list GUEST", Done),
    ("vcpu-pin GUEST all 0", Done),
    ("vcpu-set GUEST 1", Done),
    ("vcpu-set GUEST 2", Refused),
    ("mem-max GUEST 20", Done),
    ("mem-set GUEST 16", Any),
    ("button-press GUEST power", Any),
    ("trigger GUEST power", Any),
    ("trigger GUEST sleep", Any),
    ("trigger GUEST init", Refused),
    ("trigger GUEST reset", Refused),
    ("trigger GUEST s3resume", Refused),
    ("sysrq GUEST h", Done),
    ("debug-keys q", Done),
    ("rename GUEST other", Done),
    ("rename other GUEST", Done),
    ("network-list GUEST", Done),
    ("network-attach GUEST mac=00:16:3e:00:00:da", Done),
    ("network-detach GUEST 0", Done),
    ("block-list GUEST", Done),
    ("block-attach GUEST format=raw,vdev=xvda,access=ro,target=/tmp/xl.img", Done),
    ("block-detach GUEST xvda", Done),
    ("channel-list GUEST", Done),
    ("vtpm-list GUEST", Any),
    ("vkb-list GUEST", Any),
    ("vdispl-list GUEST", Any),
    ("vsnd-list GUEST", Any),
    ("usb-list GUEST", Any),
    ("usbctrl-attach GUEST", Refused),
    ("usbdev-attach GUEST hostbus=1 hostaddr=1", Refused),
    ("pci-list GUEST", Done),
    ("pci-attach GUEST 00:1f.0", Refused),
    ("cd-eject GUEST hda", Refused),
    ("cd-insert GUEST hda /tmp/xl.img", Refused),
    ("qemu-monitor-command GUEST help", Refused),
    ("vncviewer GUEST", Any),
    ("console GUEST", Any),
    ("dump-core GUEST /tmp/xl.core", Any),
    ("sched-credit -d GUEST", Any),
    ("sched-credit2 -d GUEST", Done),
    ("sched-credit2 -d GUEST -w 512", Done),
    ("sched-rtds -d GUEST", Any),
    ("cpupool-list", Done),
    ("cpupool-migrate GUEST Pool-0", Done),
    ("getenforce", Any),
    ("claims", Done),
    ("info", Done),
    ("sharing", Any),
    ("dmesg", Done),
    ("suspend GUEST", Done),
    ("resume GUEST", Done),
    ("save -c GUEST /tmp/xl.save", Done),
];

/// The names of the subcommands in what `xl help` prints.
fn subcommands(help: &str) -> BTreeSet<&str> {
    let lines = help.lines().filter(|line| line.starts_with(' ') && !line.starts_with("  "));
    lines.filter_map(|line| line.split_whitespace().next()).collect()
}

/// The names in code in a cell.
fn names(cell: &str) -> BTreeSet<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// The subcommands of the table, and those of them that it says are tried.
fn documented(page: &str) -> (BTreeSet<&str>, BTreeSet<&str>) {
    let (mut all, mut tried) = (BTreeSet::new(), BTreeSet::new());
    let rows = page.lines().skip_while(|line| !line.starts_with("| subcommand ")).skip(2);
    for row in rows.take_while(|line| line.starts_with('|')) {
        let cells: Vec<_> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let own = names(cells[0]);
        let last = *cells.last().unwrap_or(&"");
        tried.extend(if last.ends_with('✓') { own.clone() } else { names(last) });
        all.extend(own);
    }
    (all, tried)
}

fn page() -> Result<String> {
    fs::read_to_string(repo().join("docs/xl.md")).context("docs/xl.md")
}

fn table(f: &Fixture) -> Result<String> {
    let (page, help) = (page()?, f.lab.run("xl help")?);
    let ((known, _), there) = (documented(&page), subcommands(&help));
    let new: Vec<_> = there.difference(&known).collect();
    ensure!(new.is_empty() && there.len() > 50, "docs/xl.md says nothing about {new:?}");
    // What the newest does not have, an older one may.
    let gone: Vec<_> = known.difference(&there).collect();
    Ok(format!("{} subcommands; not in this version: {gone:?}", there.len()))
}

fn typed(f: &Fixture) -> Result<String> {
    let domain = guest(&f.lab, f.guest("hello")?, "typed").memory(16).command_line("exit=never").create()?;
    domain.wait_for("us since start", 30)?;
    f.lab.run("head -c 65536 /dev/zero >/tmp/xl.img")?;
    let help = f.lab.run("xl help")?;
    let there = subcommands(&help);
    let alive = |times: usize| -> Result<()> {
        f.lab.run("xl sysrq typed t")?;
        let deadline = Instant::now() + Duration::from_secs(30);
        while domain.console()?.matches(" hypercalls").count() < times {
            ensure!(Instant::now() < deadline, "it does not answer:\n{}", domain.console()?);
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    };
    let (mut count, mut slowest) = (0, (Duration::ZERO, ""));
    for (line, said) in TYPED {
        let name = line.split(' ').next().unwrap_or_default();
        if !there.contains(name) {
            ensure!(f.suite != suite::DEFAULT, "this xl has no {name}");
            continue;
        }
        let command = line.replace("GUEST", "typed").replace("ID", &domain.id.to_string());
        let seconds = match name {
            // Attached until it is stopped.
            "console" | "vncviewer" => 2,
            // A core takes long: xl asks for every page below 4 GiB, of which the guest has few.
            "dump-core" => 5,
            _ => 30,
        };
        let start = Instant::now();
        let (status, text) = f.lab.try_run(&format!("timeout {seconds} xl {command} </dev/null 2>&1"))?;
        slowest = slowest.max((start.elapsed(), name));
        // Of some failures its status tells nothing.
        let is_done = status == 0 && !text.contains("error: ");
        let is_as_expected = match said {
            Done => is_done,
            Refused => !is_done,
            Any => true,
        };
        ensure!(is_as_expected, "xl {command}: status {status}: {text}");
        count += 1;
        // A suspended one has ended with that reason (SHUTDOWN_suspend, xen/include/public/sched.h), until it is resumed.
        let expected = if name == "suspend" { "2" } else { "-" };
        let reason = domain.state()?.1;
        ensure!(reason == expected, "after xl {command} it has ended, reason {reason}:\n{}", domain.console()?);
        // What may stop it: it has to answer.
        if ["unpause", "trigger", "dump-core", "block-detach", "network-detach", "resume", "save", "vcpu-pin"]
            .contains(&name)
        {
            count_alive(&domain, &alive)?;
        }
    }
    count_alive(&domain, &alive)?;
    f.lab.run("rm -f /tmp/xl.core /tmp/xl.save /tmp/xl.img; xl shutdown -w typed")?;
    Ok(format!("{count} commands, the slowest {} with {:.1} s", slowest.1, slowest.0.as_secs_f32()))
}

/// Has the guest answer once more than it has so far.
fn count_alive(domain: &xen_lab::domain::Domain<'_>, alive: &impl Fn(usize) -> Result<()>) -> Result<()> {
    alive(domain.console()?.matches(" hypercalls").count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tried by checks of their own: `store`, `moves`, and all that create guests.
    const ELSEWHERE: [&str; 8] =
        ["create", "destroy", "shutdown", "reboot", "save", "restore", "migrate", "migrate-receive"];

    #[test]
    fn what_the_table_says_is_tried_is_typed() {
        let page = page().unwrap();
        let (_, tried) = documented(&page);
        let typed = TYPED.iter().filter_map(|(line, _)| line.split(' ').next());
        let typed: BTreeSet<_> = typed.chain(ELSEWHERE).collect();
        assert_eq!(tried, typed);
    }

    #[test]
    fn help_is_read() {
        let help = "Usage xl [-vfNtT] <subcommand> [args]\n\n create              Create a domain\n\
                    \x20pci-assignable-remove \n                     Remove a device\n";
        assert_eq!(subcommands(help), BTreeSet::from(["create", "pci-assignable-remove"]));
    }
}

//! Checks of the daemons themselves: dom0 plays the qube, too, through libxenvchan.

use anyhow::{Context, Result, bail, ensure};

use super::domain::{NETVM, QUBE, entries, qube};
use super::{Beginning, Dom0Qubes, Output, install};
use crate::test::Fixture;
use crate::test::checks::Check;
use xen_lab::domain::guest;
use xen_lab::{Dom0, Lab};

/// All checks by name, for the newest Xen alone.
pub const AT_LENGTH: &[(&str, Check)] = &[
    ("qubes: dom0's QubesDB, and what ends its channel", database),
    ("qubes: dom0's qrexec, in each version", calls),
    ("qubes: the life of a qube of ours", life),
];

/// The qube's side: a process of dom0's. Dropping it ends it.
struct Qube<'a> {
    lab: &'a Lab,
    log: &'static str,
    pid: String,
}

impl<'a> Qube<'a> {
    fn start(lab: &'a Lab, log: &'static str, what: &str) -> Result<Self> {
        let program = install(lab)?;
        let pid = lab.run(&format!(": >{log}; setsid {program} guest {what} </dev/null >{log} 2>&1 & echo $!"))?;
        Ok(Qube { lab, log, pid: pid.trim().to_owned() })
    }

    fn log(&self) -> Result<String> {
        self.lab.run(&format!("cat {}", self.log))
    }
}

impl Drop for Qube<'_> {
    fn drop(&mut self) {
        // libxenvchan leaves the keys of an agent that is killed.
        let _ = self.lab.run(&format!(
            "kill {0} 2>/dev/null; tries=100; while kill -0 {0} 2>/dev/null && [ $tries -gt 0 ]; do
               tries=$((tries - 1)); usleep 50000
             done; xenstore-rm data/vchan/0/512 2>/dev/null; true",
            self.pid
        ));
    }
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// What a qube may not send, and how the daemon takes it. Only the last two leave the channel alone.
const OFFENCES: [(&str, &str); 9] = [
    ("twice", "a second MULTIREAD"),
    ("list", "a message that is not for this channel"),
    ("absent", "an RM of what is not there"),
    ("directory", "a WRITE to a path that is not an entry's"),
    ("path", "a path that cannot be"),
    ("long", "a value that is too long"),
    ("error", "an ERROR with data"),
    ("nul", "a NUL in the value of /nul"),
    ("answer", "an answer to nothing"),
];

fn database(f: &Fixture) -> Result<String> {
    let beginning =
        Beginning { entries: pairs(&[("/name", "lab"), ("/qubes-ip", "10.137.0.5")]), ..Beginning::default() };
    let daemons = Dom0Qubes::start(&f.lab, 0, &beginning)?;
    let qube = Qube::start(&f.lab, "/tmp/qube-db", "good -")?;
    daemons.wait_copies(1, 20)?;
    daemons.write("/ask/one", "it's fine")?;
    daemons.wait_value("/told/one", "it's fine", 10)?;
    ensure!(daemons.wait_for("/ask/one", 1)? == "it's fine", "dom0 has another value");
    for rules in [&["action=accept proto=tcp dstports=443-443", "action=drop"][..], &["action=accept"]] {
        daemons.commit_rules("10.137.0.9", "drop", rules)?;
    }
    daemons.remove("/name")?;
    daemons.remove("/absent")?;
    // In this order: 1 is WRITE, 4 is RM, and what was sent for the second set of rules is all of it.
    let log = qube.log()?;
    let told: Vec<_> = log.lines().filter_map(|line| Some(line.split_once("type ")?.1.trim_end())).collect();
    let expected = [
        "1 /qubes-firewall/10.137.0.9/policy = drop",
        "1 /qubes-firewall/10.137.0.9/0000 = action=accept proto=tcp dstports=443-443",
        "1 /qubes-firewall/10.137.0.9/0001 = action=drop",
        "1 /qubes-firewall/10.137.0.9 =",
        "4 /qubes-firewall/10.137.0.9/ =",
        "1 /qubes-firewall/10.137.0.9/policy = drop",
        "1 /qubes-firewall/10.137.0.9/0000 = action=accept",
        "1 /qubes-firewall/10.137.0.9 =",
        "4 /name =",
    ];
    ensure!(told.ends_with(&expected), "{log}");
    ensure!(daemons.read("/name")?.is_none() && daemons.read("/told/one")?.is_some(), "/name was removed alone");
    daemons.check()?;
    daemons.drop_database()?;
    qube_ends(&daemons, &qube)?;
    for (index, (how, complaint)) in OFFENCES.iter().enumerate() {
        let qube = Qube::start(&f.lab, "/tmp/qube-db", &format!("{how} -"))?;
        daemons.wait_log("db", &format!("COMPLAINT: {complaint}"), 20).with_context(|| (*how).to_owned())?;
        if index < 7 {
            qube_ends(&daemons, &qube).with_context(|| (*how).to_owned())?;
        } else {
            daemons.write("/ask/two", how)?;
            daemons.wait_value("/told/two", how, 10)?;
        }
    }
    ensure!(daemons.check().is_err(), "complaints were not seen");
    drop(daemons);
    nothing_left(&f.lab)?;
    Ok(format!("{} things that end the channel", OFFENCES.len() - 2))
}

/// Waits until the daemon has closed the channel of the qube's.
fn qube_ends(daemons: &Dom0Qubes<'_>, qube: &Qube<'_>) -> Result<()> {
    daemons.wait("end of the qube's channel", 20, || Ok(qube.log()?.contains("the channel has ended").then_some(())))
}

/// The daemons of dom0 itself leave no keys. Those of other domains are others'.
fn nothing_left(lab: &Lab) -> Result<()> {
    let script =
        "tries=200; while keys=$(xenstore-ls -fp data/vchan/0 2>/dev/null | grep -E '/(ring-ref|event-channel) '); do
           tries=$((tries - 1)); [ $tries -gt 0 ] || { echo \"$keys\"; exit 1; }; usleep 50000
         done";
    lab.run(script).map(drop)
}

fn calls(f: &Fixture) -> Result<String> {
    let services = [
        ("lab.Cat", "cat"),
        ("lab.Name", "echo $QREXEC_SERVICE_ARGUMENT"),
        ("lab.No", "refuse"),
        ("lab.Five", "exit 5"),
    ];
    // More than a chunk of any version, and than the rings hold.
    let long = "0123456789abcdef".repeat(20_000);
    for version in [None, Some(2), Some(3)] {
        let beginning = Beginning { services: pairs(&services), version, ..Beginning::default() };
        let daemons = Dom0Qubes::start(&f.lab, 0, &beginning)?;
        let agent = Qube::start(&f.lab, "/tmp/qube-agent", &format!("agent {}", version.unwrap_or(4)))?;
        daemons.wait_log("rexec", " ready", 20)?;
        let told = |status, stdout: &str| Output { status, stdout: stdout.to_owned(), stderr: "warning\n".to_owned() };
        let expect = |output: Output, expected: Output| match output == expected {
            true => Ok(()),
            false => {
                bail!("version {version:?}: {output:?} where {expected:?} was expected:\n{}", daemons.log("rexec")?)
            }
        };
        expect(daemons.exec("user", "lab.X+y", "in")?, told(3, "user:QUBESRPC lab.X+y dom0in"))?;
        expect(daemons.command("exec", "root", "", &long)?, told(3, &format!("root:{long}")))?;
        for (service, status, stdout) in [
            ("lab.Cat", 0, "question\n"),
            ("lab.Name+some", 0, "some\n"),
            ("lab.No", 126, ""),
            ("lab.None", 126, ""),
            ("lab.Five", 5, ""),
        ] {
            expect(daemons.command("exec", "user", &format!("call {service}"), "")?, told(status, stdout))?;
        }
        daemons.drop_agent()?;
        daemons.wait_log("rexec", "has reconnected", 20)?;
        expect(daemons.exec("user", "lab.Again", "")?, told(3, "user:QUBESRPC lab.Again dom0"))?;
        daemons.stop()?;
        drop(agent);
        // The next daemon would take keys of this agent for those of its own.
        nothing_left(&f.lab)?;
    }
    Ok(String::new())
}

fn life(f: &Fixture) -> Result<String> {
    let services = pairs(&[("lab.Cat", "cat"), ("lab.No", "refuse"), ("lab.Five", "exit 5")]);
    let beginning = Beginning { entries: entries("probe"), services, version: None };
    let probe = guest(&f.lab, f.guest("probe")?, "probe").command_line("test=qube");
    let (domain, dom0) = qube(probe, &beginning)?;
    dom0.wait_ready(30)?;
    let told = |error: anyhow::Error| error.context(domain.console().unwrap_or_default());
    domain.wait_for(&format!("qube: probe has {} entries", beginning.entries.len()), 20)?;

    dom0.write("/ask/one", "it's fine").map_err(told)?;
    dom0.wait_value("/told/one", "it's fine", 10).map_err(told)?;
    dom0.commit_rules("10.137.0.9", "drop", &["action=accept"]).map_err(told)?;
    domain.wait_for("qube: Written(\"/qubes-firewall/10.137.0.9\")", 10)?;

    let long = "0123456789abcdef".repeat(20_000);
    for (service, stdin, expected) in [
        ("lab.Cat", "in", (3, "in", "done\n")),
        ("lab.Cat", &long, (3, &long, "done\n")),
        ("lab.Call+lab.Cat", "", (0, "question\n", "")),
        ("lab.Call+lab.Five", "", (5, "", "")),
    ] {
        let output = dom0.exec("user", service, stdin).map_err(told)?;
        let found = (output.status, output.stdout.as_str(), output.stderr.as_str());
        ensure!(found == expected, "{service}: {found:?} where {expected:?} was expected");
    }
    let refused = dom0.exec("user", "lab.Call+lab.No", "").map_err(told)?;
    ensure!(refused.status == 126 && !refused.stderr.is_empty(), "{refused:?}");
    ensure!(dom0.exec("user", "lab.None", "").map_err(told)?.status == 127, "lab.None is not there");

    // The daemons in dom0 are started again.
    dom0.drop_database()?;
    dom0.wait_copies(2, 20).map_err(told)?;
    dom0.write("/ask/two", "2").map_err(told)?;
    dom0.wait_value("/told/two", "2", 10).map_err(told)?;
    dom0.drop_agent()?;
    dom0.wait_log("rexec", "has reconnected", 20).map_err(told)?;
    dom0.suspend_pre().map_err(told)?;
    dom0.suspend_post().map_err(told)?;
    for version in [Some(2), Some(3), None] {
        dom0.restart_agent(version, 20).map_err(told)?;
        let output = dom0.exec("user", "lab.Call+lab.Cat", "").map_err(told)?;
        ensure!((output.status, output.stdout.as_str()) == (0, "question\n"), "version {version:?}: {output:?}");
        let output = dom0.exec("user", "lab.Cat", &long).map_err(told)?;
        ensure!(
            (output.status, output.stdout.as_str()) == (3, long.as_str()),
            "version {version:?}: {}",
            output.status
        );
    }
    let output = dom0.command("just-exec", "user", "QUBESRPC lab.Cat dom0", "").map_err(told)?;
    ensure!(output.status == 0, "{output:?}");

    is_routed(&f.lab, domain.id)?;
    dom0.detach_netvm().map_err(told)?;
    ensure!(is_routed(&f.lab, domain.id).is_err(), "its interface is still there");
    dom0.attach_netvm().map_err(told)?;
    is_routed(&f.lab, domain.id)?;
    domain.wait_for("qube: Removed(\"/qubes-gateway\")", 10)?;
    domain.wait_for("qube: Written(\"/qubes-gateway\")", 10)?;

    f.lab.run(&format!("xl shutdown -w {}", domain.id))?;
    domain.wait_for("qube: asked to poweroff", 10)?;
    f.lab.run(&format!("xl destroy {}", domain.id))?;
    dom0.wait_gone(20)?;
    dom0.stop()?;
    Ok(String::new())
}

/// dom0 has an interface of the domain's, with the qube's address behind it, and the address and MAC of every netvm's.
fn is_routed(lab: &Lab, domain: u32) -> Result<()> {
    let shown = lab.run(&format!(
        "card=$(/usr/bin/ip route get {QUBE} | sed -n 's/.* dev \\(vif{domain}[.][0-9]*\\) .*/\\1/p')
         [ -n \"$card\" ] && /usr/bin/ip addr show dev $card"
    ))?;
    ensure!(shown.contains(&format!("inet {NETVM}/32")) && shown.contains("link/ether fe:ff:ff:ff:ff:ff"), "{shown}");
    Ok(())
}

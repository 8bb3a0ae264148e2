//! Limits that a toolstack sets: a guest that needs more says which one it is.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::Fixture;
use super::checks::Check;
use super::net::{VIF, log};
use super::web::put_site;
use xen_lab::Dom0;
use xen_lab::domain::{Builder, guest};

pub const ALL: &[(&str, Check)] = &[
    ("limits: 4 grant frames are enough for web", grants),
    ("limits: ports: the log names max_event_channels", ports),
    ("limits: watches: the log names the watch", watches),
];

/// Only where `--only` asks for it.
pub const BY_NAME: [(&str, Check); 1] = [("limits: nodes: a line of the guest agent, and xl shutdown is heard", nodes)];

fn web<'a>(f: &'a Fixture<'_>, name: &str) -> Result<Builder<'a>> {
    let site = put_site(f)?;
    let words = "ip=10.0.2.214/24";
    Ok(guest(&f.lab, f.guest("web")?, name).memory(16).command_line(words).line(VIF).line(&site))
}

fn grants(f: &Fixture) -> Result<String> {
    let web = web(f, "frames")?.line("max_grant_frames=4").create()?;
    web.wait_for("web: ready", 60)?;
    f.lab.run("wget -q -O /tmp/got http://10.0.2.214/bytes && [ $(wc -c </tmp/got) = 100000 ]")?;
    Ok(String::new())
}

/// Waits until the log of a guest has one of these texts, and returns its line.
fn says(f: &Fixture, builder: Builder<'_>, texts: &[&str]) -> Result<String> {
    let web = builder.create()?;
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let log = log(f, &web);
        if let Some(line) = log.lines().find(|line| texts.iter().all(|text| line.contains(text))) {
            return Ok(line.trim().to_owned());
        }
        ensure!(Instant::now() < deadline, "nothing of {texts:?}:\n{log}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// The store's page, the console, the timer and a disk leave none for the interface.
fn ports(f: &Fixture) -> Result<String> {
    says(f, web(f, "ports")?.line("max_event_channels=4"), &["device/vif/0", "max_event_channels="])
}

/// Runs a check with another quota of xenstored's, which counts for all domains but dom0.
fn with_quota(
    f: &Fixture,
    name: &str,
    value: u32,
    usual: u32,
    check: impl FnOnce() -> Result<String>,
) -> Result<String> {
    let (status, said) = f.lab.try_run(&format!("xenstore-control quota set {name} {value} 2>&1"))?;
    ensure!(status == 0 && !said.contains("not supported"), "xenstore-control: status {status}: {said}");
    let outcome = check();
    f.lab.run(&format!("xenstore-control quota set {name} {usual}"))?;
    outcome
}

fn watches(f: &Fixture) -> Result<String> {
    with_quota(f, "watches", 4, 128, || says(f, web(f, "watches")?, &["WATCH", "--watch-nb"]))
}

/// How many nodes of the store a running guest has, when its agent has written the last of them.
fn owned(f: &Fixture) -> Result<u32> {
    let web = web(f, "counted")?.create()?;
    let last = format!("/local/domain/{}/attr/vif/0/ipv4/0/prefix", web.id);
    let quota = f.lab.run(&format!(
        "tries=300; until xenstore-exists {last}; do tries=$((tries - 1)); [ $tries -gt 0 ] || exit 1; usleep 200000; done
         xenstore-control quota {}",
        web.id
    ));
    let quota = quota.with_context(|| log(f, &web))?;
    f.lab.run("xl destroy counted")?;
    let line = quota.lines().find(|line| line.trim_start().starts_with("nodes")).unwrap_or_default();
    let count = line.split_whitespace().find_map(|word| word.trim_matches(':').parse().ok());
    count.with_context(|| format!("xenstore-control printed {quota}"))
}

/// Two fewer than it needs: what is missing is of the addresses, since its devices were there before them.
fn nodes(f: &Fixture) -> Result<String> {
    let count = owned(f)?;
    with_quota(f, "nodes", count - 2, 1000, || {
        let web = web(f, "nodes")?.create()?;
        let console = web.wait_for("guest agent: store: WRITE ", 60)?;
        let line = console.lines().find(|line| line.starts_with("guest agent: ")).unwrap_or_default().to_owned();
        ensure!(line.contains("ENOSPC"), "{line}");
        f.lab.run("xl shutdown -w nodes")?;
        let (_, reason, console) = web.wait_end(30)?;
        ensure!(reason == "0" && console.matches("guest agent: ").count() == 1, "reason {reason}:\n{console}");
        Ok(format!("{count} nodes: {line}"))
    })
}

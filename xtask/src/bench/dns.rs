//! `dns` and a Linux guest's NSD in turn, on the same bridge of Linux's backend, with the same zones: dom0 asks both.

use std::fmt::Write;
use std::fs::File;
use std::io::Cursor;
use std::time::Instant;

use anyhow::{Context, Result};

use super::net;
use super::table::{Row, head, rounds, show, show_busy};
use crate::apps::{app, linux_load};
use crate::test::dns::{UNPACK, archive, disk, large, nsd_job};
use xen_lab::Dom0;
use xen_lab::Lab;
use xen_lab::domain::{Domain, destroy_all, guest, linux_nsd};

const VIF: &str = "vif = [\"bridge=xenbr0,mac=00:16:3e:00:00:90\"]";
const ADDRESS: &str = "10.0.2.90";
const ZONES: &str = "/tmp/bench-zones.tar";

/// What is asked, and how many questions are on their way.
const LOADS: [(&str, &str, u32); 3] = [
    ("10,000 names, 64 on their way", "there", 64),
    ("names that are not there, 64", "missing", 64),
    ("10,000 names, 1 on its way", "there", 1),
];
/// Rows of how many a second of the guest's processor gives.
const WORK: &str = "queries for a second of its CPU";
const TIME: u32 = 3000;

pub(super) fn lab(lab: &Lab, count: u32) -> Result<()> {
    let image = app("dns")?;
    let large = large();
    lab.put("/tmp/linux-load", Box::new(File::open(linux_load()?)?))?;
    let files = [("dns.conf", "zone large.test large.zone\nratelimit off\n"), ("large.zone", &*large)];
    lab.put(ZONES, Box::new(Cursor::new(archive(&files)?)))?;
    let (mut there, mut missing) = (String::new(), String::new());
    for host in 0..10_000 {
        // Writing to a string cannot fail.
        let host = host * 7919 % 10_000;
        let _ = writeln!(there, "host{host}.large.test. A");
        let _ = writeln!(missing, "host{host}.not.large.test. A");
    }
    lab.put("/tmp/there", Box::new(Cursor::new(there)))?;
    lab.put("/tmp/missing", Box::new(Cursor::new(missing)))?;
    lab.run("chmod +x /tmp/linux-load")?;
    let mut rows = LOADS.map(|_| [Row::default(), Row::default()]);
    let outcome = rounds(count, || {
        let ours = guest(lab, &image, "ours")
            .memory(64)
            .command_line(format!("ip={ADDRESS}/24"))
            .line(VIF)
            .line(&disk(ZONES))
            .create()?;
        ours.wait_for("dns: ready", 30)?;
        measure(lab, &ours, 0, &mut rows).with_context(|| ours.console().unwrap_or_default())?;
        destroy_all(lab)?;
        let zones = "zone:\n name: \"large.test\"\n zonefile: \"large.zone\"\n";
        let theirs =
            linux_nsd(lab, "linux", &nsd_job(ADDRESS, UNPACK, zones))?.line(VIF).line(&disk(ZONES)).create()?;
        theirs.wait_for("nsd started", 90)?;
        lab.run(&format!(
            "tries=100; until /tmp/linux-load ask {ADDRESS}:53 host1.large.test. A 2>/dev/null | grep -q 10.1.0.1; do
               tries=$((tries - 1)); [ $tries -gt 0 ] || {{ echo 'NSD does not answer'; exit 1; }}; usleep 100000
             done"
        ))
        .with_context(|| theirs.console().unwrap_or_default())?;
        measure(lab, &theirs, 1, &mut rows).with_context(|| theirs.console().unwrap_or_default())?;
        destroy_all(lab)
    });
    head("DNS, queries in a second", "NSD");
    for ((name, ..), row) in LOADS.iter().zip(&rows) {
        show(name, "/s", &row[0].values);
    }
    println!("  {WORK}");
    for ((name, ..), row) in LOADS.iter().zip(&rows) {
        show(name, "/s", &row[1].values);
    }
    println!("  How much of the time a processor was in use, the guest's and dom0's");
    for ((name, ..), row) in LOADS.iter().zip(&rows) {
        show_busy(name, &row[0].busy);
    }
    outcome
}

fn measure(lab: &Lab, guest: &Domain<'_>, column: usize, rows: &mut [[Row; 2]]) -> Result<()> {
    for ((_, file, in_flight), row) in LOADS.iter().zip(rows) {
        let (used, start) = (net::used(lab, guest)?, Instant::now());
        let told = lab.run(&format!("/tmp/linux-load queries {ADDRESS}:53 {TIME} {in_flight} /tmp/{file}"))?;
        let busy = net::busy(lab, guest, used, start)?;
        let after = net::used(lab, guest)?[0] - used[0];
        let speed = told.trim().rsplit(": ").next().and_then(|text| text.split(' ').next());
        let speed: f64 = speed.and_then(|text| text.parse().ok()).with_context(|| told.clone())?;
        let answers: f64 = told.split(' ').next().and_then(|text| text.parse().ok()).with_context(|| told.clone())?;
        row[0].values[column].push(speed);
        row[0].busy[column].push(busy);
        row[1].values[column].push(answers / after);
    }
    Ok(())
}

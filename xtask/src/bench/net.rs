//! Our frontend and Linux's in turn, on the same bridge of Linux's backend: dom0's iperf3 is the client.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::table::{Row, head, rounds, show, show_busy, spread};
use crate::apps::app;
use xen_lab::Dom0;
use xen_lab::Lab;
use xen_lab::domain::{Domain, destroy_all, guest, linux};

/// Always the same address of each kind: dom0 remembers them.
const VIF: &str = "vif = [\"bridge=xenbr0,mac=00:16:3e:00:00:90\"]";
const ADDRESS: &str = "10.0.2.90";

/// What is measured, the words for iperf3, and whether packets are counted instead of bits.
const LOADS: [(&str, &str, bool); 6] = [
    ("TCP guest to dom0, 1 stream", "-R", false),
    ("TCP guest to dom0, 8 streams", "-R -P 8", false),
    ("TCP dom0 to guest, 1 stream", "", false),
    ("TCP dom0 to guest, 8 streams", "-P 8", false),
    ("UDP 64 bytes guest to dom0", "-u -b 0 -l 64 -R", true),
    ("UDP 64 bytes dom0 to guest", "-u -b 0 -l 64", true),
];
const PING: &str = "round trip";

/// By what is measured.
type Rows = BTreeMap<&'static str, Row>;

pub(super) fn lab(lab: &Lab, count: u32) -> Result<()> {
    let image = app("iperf")?;
    let mut rows: Rows =
        LOADS.iter().map(|(name, ..)| *name).chain([PING]).map(|name| (name, Row::default())).collect();
    let mut costs = String::new();
    let outcome = rounds(count, || {
        let words = format!("ip={ADDRESS}/24");
        let ours = guest(lab, &image, "ours").memory(64).command_line(words).line(VIF).create()?;
        ours.wait_for("iperf: ready", 30)?;
        measure(lab, &ours, 0, &mut rows).with_context(|| ours.console().unwrap_or_default())?;
        costs = ours.console()?;
        destroy_all(lab)?;
        let job = format!("ifconfig eth0 {ADDRESS} netmask 255.255.255.0 up; iperf3 -s --forceflush");
        let theirs = linux(lab, "linux", &job, &[])?.line(VIF).create()?;
        theirs.wait_for("Server listening", 60)?;
        measure(lab, &theirs, 1, &mut rows).with_context(|| theirs.console().unwrap_or_default())?;
        destroy_all(lab)
    });
    head("Linux's netback", "Linux's");
    for (name, unit) in LOADS.iter().map(|(name, _, packets)| (*name, if *packets { "/s" } else { " Mbit/s" })) {
        show(name, unit, &rows[name].values);
    }
    show(PING, " us", &rows[PING].values);
    println!("  How much of the time a processor was in use, the guest's and dom0's: what bounds a row is at 1.00");
    for (name, ..) in LOADS {
        show_busy(name, &rows[name].busy);
    }
    println!("  What ours has spent in the last round:");
    for line in costs.lines().filter(|line| line.contains("for each frame")) {
        println!("  {}", line.split_once("iperf: ").map_or(line, |(_, rest)| rest));
    }
    outcome
}

fn measure(lab: &Lab, guest: &Domain<'_>, column: usize, rows: &mut Rows) -> Result<()> {
    // What Linux's backend has taken from the guest: dom0's iperf3 is slower than that.
    let taken = || -> Result<f64> {
        let text = lab.run(&format!("cat /sys/class/net/vif{}.0/statistics/rx_packets", guest.id))?;
        Ok(text.trim().parse()?)
    };
    for (name, words, packets) in LOADS {
        let (before, used, start) = (taken()?, used(lab, guest)?, Instant::now());
        let text = lab.run(&format!("timeout 30 iperf3 -J -c {ADDRESS} -t 2 {words}"))?;
        let report: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
        let end = &report["end"];
        let value = match packets {
            true if words.ends_with("-R") => (taken()? - before) / seconds(&end["sum"])?,
            // What has arrived.
            true => {
                let sum = &end["sum"];
                let (all, lost) = (sum["packets"].as_f64(), sum["lost_packets"].as_f64());
                (all.context("no packets")? - lost.unwrap_or(0.0)) / seconds(sum)?
            }
            false => end["sum_received"]["bits_per_second"].as_f64().context("no speed")? / 1e6,
        };
        let busy = busy(lab, guest, used, start)?;
        let row = rows.entry(name).or_default();
        row.values[column].push(value);
        row.busy[column].push(busy);
    }
    let text = lab.run(&format!("ping -A -c 300 {ADDRESS} | sed -n 's/.*time=\\([0-9.]*\\) ms/\\1/p'"))?;
    let times: Vec<f64> = text.lines().filter_map(|line| line.trim().parse().ok()).collect();
    ensure!(times.len() > 250, "only {} of 300 pings were answered", times.len());
    rows.entry(PING).or_default().values[column].extend(spread(times).map(|(median, ..)| median * 1000.0));
    Ok(())
}

/// Of the time since then: how much of it the guest's processor was in use, and dom0's.
pub(super) fn busy(lab: &Lab, guest: &Domain<'_>, before: [f64; 2], start: Instant) -> Result<[f64; 2]> {
    let (after, took) = (used(lab, guest)?, start.elapsed().as_secs_f64());
    Ok([0, 1].map(|whose| (after[whose] - before[whose]) / took))
}

/// Seconds of processor time that the guest and dom0 have used.
pub(super) fn used(lab: &Lab, guest: &Domain<'_>) -> Result<[f64; 2]> {
    let of = |domain: u32| -> Result<f64> {
        let line = lab.run(&format!("xl list {domain} | tail -n 1"))?;
        let time = line.split_whitespace().last().context("xl list says nothing")?;
        time.parse().with_context(|| line.clone())
    };
    Ok([of(guest.id)?, of(0)?])
}

fn seconds(sum: &Value) -> Result<f64> {
    sum["seconds"].as_f64().context("no time")
}

//! Our frontend and Linux's in turn, on the same bridge of Linux's backend: dom0's iperf3 is the client.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::Value;

use super::spread;
use crate::dom0::Dom0;
use crate::guest::Guest;
use crate::lab::Lab;
use crate::test::domain::{destroy_all, guest, linux};

const VIF: &str = "vif = [\"bridge=xenbr0\"]";
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

/// Ours and Linux's, by what is measured.
type Rows = BTreeMap<&'static str, [Vec<f64>; 2]>;

pub(super) fn lab(lab: &Lab, rounds: u32) -> Result<()> {
    let image = Guest::get("iperf")?;
    let mut rows = Rows::new();
    for round in 1..=rounds {
        eprint!("\r  round {round} of {rounds}");
        let words = format!("ip={ADDRESS}/24");
        let ours = guest(lab, &image, "ours").memory(64).command_line(words).line(VIF).create()?;
        ours.wait_for("iperf: ready", 30)?;
        measure(lab, 0, &mut rows).with_context(|| ours.console().unwrap_or_default())?;
        destroy_all(lab)?;
        let job = format!("ifconfig eth0 {ADDRESS} netmask 255.255.255.0 up; echo linux: ready; iperf3 -s");
        let theirs = linux(lab, "linux", &job, &[])?.line(VIF).create()?;
        theirs.wait_for("linux: ready", 60)?;
        measure(lab, 1, &mut rows).with_context(|| theirs.console().unwrap_or_default())?;
        destroy_all(lab)?;
    }
    eprintln!("\r  {rounds} rounds, ours and Linux's in turn: medians; the ratio's least and greatest");
    println!("  {:<34} {:>12} {:>12} {:>7} {:>13}", "Linux's netback", "ours", "Linux's", "ratio", "");
    for (name, unit) in LOADS.iter().map(|(name, _, packets)| (*name, if *packets { "/s" } else { " Mbit/s" })) {
        show(name, unit, &rows[name]);
    }
    show(PING, " us", &rows[PING]);
    Ok(())
}

fn measure(lab: &Lab, column: usize, rows: &mut Rows) -> Result<()> {
    for (name, words, packets) in LOADS {
        let text = lab.run(&format!("timeout 30 iperf3 -J -c {ADDRESS} -t 2 {words}"))?;
        let report: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
        let end = &report["end"];
        let value = match packets {
            // What has arrived.
            true => {
                let sum = &end["sum"];
                let (all, lost) = (sum["packets"].as_f64(), sum["lost_packets"].as_f64());
                (all.context("no packets")? - lost.unwrap_or(0.0)) / sum["seconds"].as_f64().context("no time")?
            }
            false => end["sum_received"]["bits_per_second"].as_f64().context("no speed")? / 1e6,
        };
        rows.entry(name).or_default()[column].push(value);
    }
    let text = lab.run(&format!("ping -c 50 -i 0.05 -q {ADDRESS} | sed -n 's#.*= [0-9.]*/\\([0-9.]*\\)/.*#\\1#p'"))?;
    let mean: f64 = text.trim().parse().with_context(|| text.clone())?;
    rows.entry(PING).or_default()[column].push(mean * 1000.0);
    Ok(())
}

fn show(name: &str, unit: &str, [ours, linux]: &[Vec<f64>; 2]) {
    let (ratio, least, greatest) = spread(ours.iter().zip(linux).map(|(ours, linux)| ours / linux).collect());
    println!(
        "  {name:<34} {:>12} {:>12} {ratio:>7.2} {:>13}",
        format!("{:.0}{unit}", spread(ours.clone()).0),
        format!("{:.0}{unit}", spread(linux.clone()).0),
        format!("{least:.2}..{greatest:.2}"),
    );
}

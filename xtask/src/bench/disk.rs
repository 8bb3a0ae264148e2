//! Our frontend and Linux's in turn, on the same disk of Linux's backend: a file of 64 MiB in dom0's memory.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::spread;
use crate::apps::{app, linux_load};
use xen_lab::Dom0;
use xen_lab::Lab;
use xen_lab::domain::{Builder, destroy_all, guest, linux};

const DISK: &str = "disk = [\"format=raw,vdev=xvda,access=rw,target=/tmp/disk\"]";

/// Size, pattern, operation and requests in flight.
type Load = (u64, String, String, u64);

#[derive(Default)]
struct Row {
    ours: Vec<Value>,
    linux: Vec<Value>,
}

pub(super) fn lab(lab: &Lab, rounds: u32) -> Result<()> {
    lab.run("dd if=/dev/zero of=/tmp/disk bs=1M count=64 2>/dev/null")?;
    let image = app("disk")?;
    let program = fs::read(linux_load()?)?;
    let mut rows = BTreeMap::<Load, Row>::new();
    for round in 1..=rounds {
        eprint!("\r  round {round} of {rounds}");
        let ours = guest(lab, &image, "ours").memory(64).command_line("mode=bench write=yes ms=500");
        for line in lines(ours)? {
            rows.entry(load(&line)).or_default().ours.push(line);
        }
        let job = "/linux-load disk /dev/xvda 500 write";
        for line in lines(linux(lab, "linux", job, &[("linux-load", &program)])?)? {
            rows.entry(load(&line)).or_default().linux.push(line);
        }
    }
    eprintln!("\r  {rounds} rounds, ours and Linux's in turn: medians; the ratio's least and greatest");
    println!(
        "  {:<34} {:>9} {:>9} {:>7} {:>13} {:>15} {:>15} {:>10}",
        "Linux's blkback", "ours", "Linux's", "ratio", "", "p50 us", "p99 us", "events"
    );
    for ((size, pattern, operation, in_flight), row) in &rows {
        show(&format!("{pattern} {operation} {} KiB, {in_flight} in flight", size >> 10), *size, row)?;
    }
    Ok(())
}

/// Runs a guest to its end; its lines of JSON.
fn lines(builder: Builder<'_>) -> Result<Vec<Value>> {
    let domain = builder.line(DISK).create()?;
    let (_, reason, console) = domain.wait_end(120)?;
    ensure!(reason == "0", "{} ended with reason {reason}:\n{console}", domain.name);
    // A dom0 that is busy takes a domain's last words after its end.
    let console = domain.wait_for("\"op\":\"write\",\"pattern\":\"random\",\"size\":1048576,\"in_flight\":32", 20)?;
    destroy_all(domain.lab())?;
    let lines = console.lines().filter_map(|line| line.find("{\"op\"").map(|at| &line[at..]));
    lines.map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}

fn load(line: &Value) -> Load {
    let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
    let number = |key: &str| line[key].as_u64().unwrap_or_default();
    (number("size"), text("pattern"), text("op"), number("in_flight"))
}

fn show(name: &str, size: u64, row: &Row) -> Result<()> {
    ensure!(row.ours.len() == row.linux.len() && !row.ours.is_empty(), "{name}: measured on one side alone");
    let number = |line: &Value, key: &str| line[key].as_f64().unwrap_or(0.0);
    let median = |lines: &[Value], key: &str| spread(lines.iter().map(|line| number(line, key)).collect()).0;
    let ratios: Vec<f64> =
        row.ours.iter().zip(&row.linux).map(|(ours, linux)| number(ours, "iops") / number(linux, "iops")).collect();
    let (ratio, least, greatest) = spread(ratios);
    let speed = |lines: &[Value]| match size {
        4096 => format!("{:.0}/s", median(lines, "iops")),
        _ => format!("{:.0} MB/s", median(lines, "mb_per_s")),
    };
    let pair = |key: &str| format!("{:.0} | {:.0}", median(&row.ours, key), median(&row.linux, key));
    println!(
        "  {name:<34} {:>9} {:>9} {ratio:>7.2} {:>13} {:>15} {:>15} {:>10}",
        speed(&row.ours),
        speed(&row.linux),
        format!("{least:.2}..{greatest:.2}"),
        pair("p50_us"),
        pair("p99_us"),
        pair("events"),
    );
    Ok(())
}

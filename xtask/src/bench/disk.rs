//! Our frontend and Linux's in turn, on the same disk of Linux's backend: a file of 64 MiB in dom0's memory.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::table::{Pair, counts, median, ratios, rounds};
use crate::apps::{app, linux_load};
use xen_lab::Dom0;
use xen_lab::Lab;
use xen_lab::domain::{Builder, destroy_all, guest, linux};

const DISK: &str = "disk = [\"format=raw,vdev=xvda,access=rw,target=/tmp/disk\"]";

/// Size, pattern, operation and requests in flight.
pub(super) type Load = (u64, String, String, u64);

/// What the two have printed of each load.
pub(super) type Rows = BTreeMap<Load, Pair<Value>>;

pub(super) fn lab(lab: &Lab, count: u32) -> Result<()> {
    lab.run("dd if=/dev/zero of=/tmp/disk bs=1M count=64 2>/dev/null")?;
    let image = app("disk")?;
    let program = fs::read(linux_load()?)?;
    let mut rows = Rows::new();
    let outcome = rounds(count, || {
        let ours = guest(lab, &image, "ours").memory(64).command_line("mode=bench write=yes ms=500");
        measure(ours, 0, &mut rows)?;
        let job = "/linux-load disk /dev/xvda 500 write";
        measure(linux(lab, "linux", job, &[("linux-load", &program)])?, 1, &mut rows)
    });
    show("Linux's blkback", &rows);
    outcome?;
    ensure!(rows.values().all(|row| row[0].len() == row[1].len()), "a load was measured on one side alone");
    Ok(())
}

/// Runs a guest to its end, and keeps its lines of JSON, whatever its end is.
fn measure(builder: Builder<'_>, column: usize, rows: &mut Rows) -> Result<()> {
    let domain = builder.line(DISK).create()?;
    let outcome = domain.wait_end(120).and_then(|(_, reason, console)| {
        ensure!(reason == "0", "{} ended with reason {reason}:\n{console}", domain.name);
        // A dom0 that is busy takes a domain's last words after its end.
        domain.wait_for("\"op\":\"write\",\"pattern\":\"random\",\"size\":1048576,\"in_flight\":32", 20)
    });
    let console = outcome.as_ref().map_or_else(|_| domain.console().unwrap_or_default(), String::clone);
    for line in lines(&console) {
        match serde_json::from_str(line) {
            Ok(value) => rows.entry(load(&value)).or_default()[column].push(value),
            // The last line may be half a line where a guest is stuck.
            Err(_) if outcome.is_err() => {}
            Err(error) => return Err(error).with_context(|| line.to_owned()),
        }
    }
    outcome?;
    destroy_all(domain.lab())
}

/// The lines of JSON that a guest has printed.
pub(super) fn lines(console: &str) -> impl Iterator<Item = &str> {
    console.lines().filter_map(|line| line.find("{\"op\"").map(|at| &line[at..]))
}

pub(super) fn load(line: &Value) -> Load {
    let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
    let number = |key: &str| line[key].as_u64().unwrap_or_default();
    (number("size"), text("pattern"), text("op"), number("in_flight"))
}

/// The name of a load, for people.
pub(super) fn name((size, pattern, operation, in_flight): &Load) -> String {
    format!("{pattern} {operation} {} KiB, {in_flight} in flight", size >> 10)
}

/// A table of loads.
pub(super) fn show(what: &str, rows: &Rows) {
    println!(
        "  {:<34} {:>9} {:>9} {:>7} {:>13} {:>6} {:>15} {:>15} {:>10}",
        what, "ours", "Linux's", "ratio", "", "rounds", "p50 us", "p99 us", "events"
    );
    for (load, row) in rows {
        show_row(&name(load), load.0, row);
    }
}

fn show_row(name: &str, size: u64, row: &Pair<Value>) {
    let numbers = |key: &str| {
        row.each_ref().map(|lines| lines.iter().map(|line| line[key].as_f64().unwrap_or(0.0)).collect::<Vec<_>>())
    };
    let medians =
        |key: &str, unit: &str| numbers(key).map(|values| median(&values, |value| format!("{value:.0}{unit}")));
    let [ours, linux] = if size == 4096 { medians("iops", "/s") } else { medians("mb_per_s", " MB/s") };
    let iops = numbers("iops");
    let [ratio, between] = ratios(&iops[0], &iops[1]);
    let pair = |key: &str| medians(key, "").join(" | ");
    println!(
        "  {name:<34} {ours:>9} {linux:>9} {ratio:>7} {between:>13} {:>6} {:>15} {:>15} {:>10}",
        counts(row),
        pair("p50_us"),
        pair("p99_us"),
        pair("events"),
    );
}

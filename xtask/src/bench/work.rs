//! What the gate's work costs, by the counters that it prints (`xl sysrq gate w`).

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use xen_lab::Dom0;
use xen_lab::domain::Domain;

/// What the line begins with.
const LINE: &str = "gate: work: ";
/// Counters of packets that were not passed on.
const LOST: [&str; 7] = [
    "client_refused",
    "client_dropped",
    "uplink_unsent",
    "uplink_refused",
    "uplink_dropped",
    "uplink_overflowed",
    "dropped",
];
/// For how long the gate may be too busy to print it.
const PATIENCE: Duration = Duration::from_secs(20);

/// Counters since the gate's start, by their names.
pub(super) struct Work(BTreeMap<String, u64>);

impl Work {
    pub(super) fn read(gate: &Domain<'_>) -> Result<Work> {
        // One that has only begun is no line.
        let told = |console: &str| console.lines().filter(|line| line.contains(LINE)).count();
        let before = told(&whole_lines(gate)?);
        gate.lab().run(&format!("xl sysrq {} w", gate.id))?;
        let start = Instant::now();
        loop {
            let console = whole_lines(gate)?;
            if told(&console) > before {
                let line = console.rsplit(LINE).next().and_then(|rest| rest.lines().next()).unwrap_or_default();
                let pairs = line.split_whitespace().filter_map(|pair| pair.split_once('='));
                return pairs.map(|(key, value)| Ok((key.to_owned(), value.parse()?))).collect::<Result<_>>().map(Work);
            }
            ensure!(start.elapsed() < PATIENCE, "the gate does not answer `xl sysrq {} w`", gate.id);
            sleep(Duration::from_millis(50));
        }
    }

    /// What was done since an earlier look, for each packet that was passed on in either direction.
    pub(super) fn since(&self, before: &Work) -> String {
        let of = |key: &str| {
            let count = |work: &Work| work.0.get(key).copied().unwrap_or_default();
            count(self).saturating_sub(count(before)) as f64
        };
        let packets = of("client_in") + of("uplink_in");
        let bytes = of("client_in_bytes") + of("uplink_in_bytes");
        let each = |key: &str| of(key) / packets.max(1.0);
        let size = |way: &str| of(&format!("{way}_bytes")) / of(way).max(1.0);
        let lost: String = LOST.iter().filter(|key| of(key) > 0.0).map(|key| format!(", {} {key}", of(key))).collect();
        format!(
            "{packets} packets{lost}, from clients of {:.0} bytes, from uplinks of {:.0}; each {:.2} hypercalls ({:.2} notifications, \
             {:.2} copies of {:.2} operations), {:.2} sleeps, {:.2} polls, {:.2} allocations; {:.0} hypercalls for a MiB",
            size("client_in"),
            size("uplink_in"),
            each("hypercalls"),
            each("notifications"),
            each("client_copies"),
            each("client_operations"),
            each("sleeps"),
            each("polls"),
            each("allocations"),
            of("hypercalls") / (bytes / f64::from(1 << 20)).max(f64::MIN_POSITIVE),
        )
    }
}

/// What the gate has printed, without a line that has no end yet.
fn whole_lines(gate: &Domain<'_>) -> Result<String> {
    let mut console = gate.console()?;
    console.truncate(console.rfind('\n').map_or(0, |end| end + 1));
    Ok(console)
}

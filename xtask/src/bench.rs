//! `cargo xen bench`: how fast things are, in the simulation and on real Xen.
//!
//! The lab emulates its processors: numbers of one boot can be compared with each other, and with nothing else.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::dom0::Dom0;
use crate::guest::Guest;
use crate::lab::{Lab, Options, StoreServer, Suite, suite};
use crate::paths::repo;
use crate::run::parse_suite;
use crate::test::domain::{destroy_all, guest};
use crate::test::store::install_program;

/// What the command line says.
#[derive(clap::Args)]
pub struct BenchArgs {
    /// Only in the simulation, on this machine
    #[arg(long, conflicts_with_all = ["lab_only", "suite", "oxenstored"])]
    host_only: bool,
    /// Only in the lab
    #[arg(long)]
    lab_only: bool,
    /// Which Xen in the lab: bookworm (4.17) or trixie (4.20)
    #[arg(long, value_name = "SUITE", value_parser = parse_suite)]
    suite: Option<Suite>,
    /// With oxenstored as the store, instead of xenstored
    #[arg(long)]
    oxenstored: bool,
}

/// Runs the benchmarks that were asked for.
pub fn command(args: &BenchArgs) -> Result<()> {
    if !args.lab_only {
        host()?;
    }
    if !args.host_only {
        lab(args.suite.unwrap_or(suite::DEFAULT), args.oxenstored)?;
    }
    Ok(())
}

fn host() -> Result<()> {
    println!("In the simulation, on this machine:");
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(repo())
        .args(["bench", "--quiet", "-p", "xen-sim", "--bench", "store"])
        .stdin(Stdio::null())
        .status()
        .context("cannot start cargo")?;
    ensure!(status.success(), "the benchmarks on the host failed");
    Ok(())
}

fn lab(suite: Suite, oxenstored: bool) -> Result<()> {
    let probe = Guest::get("probe")?;
    let store = if oxenstored { StoreServer::Oxenstored } else { StoreServer::Xenstored };
    println!("In the lab, {suite}, {}:", if oxenstored { "oxenstored" } else { "xenstored" });
    let options = Options { patience: Some(Duration::from_secs(120)), store, parallel: true, ..Options::default() };
    let lab = Lab::boot(suite, &options)?;
    install_program(&lab)?;
    let domain = guest(&lab, &probe, "bench").command_line("test=bench").create()?;
    let console = domain.wait_passed(60)?;
    let path = format!("/local/domain/{}/data/bench", domain.id);
    let dom0 = lab.run(&format!("lab-store read {path} 3"))?;
    println!("  {:<34} {:>12} {:>22} {:>20}", "", "requests/s", "notifications/request", "hypercalls/request");
    for line in console.lines().filter(|line| line.starts_with("bench: ")) {
        show("Sarab guest, through the ring", line)?;
    }
    show("dom0's library, through a socket", dom0.trim())?;
    drop(domain);
    destroy_all(&lab)?;
    disk(&lab)
}

/// Linux's blkback on a file of 64 MiB in dom0's memory.
fn disk(lab: &Lab) -> Result<()> {
    lab.run("dd if=/dev/zero of=/tmp/disk bs=1M count=64 2>/dev/null")?;
    let image = Guest::get("disk")?;
    let domain = guest(lab, &image, "disk")
        .memory(64)
        .command_line("mode=bench write=yes ms=1000")
        .line("disk = [\"format=raw,vdev=xvda,access=rw,target=/tmp/disk\"]")
        .line("tsc_mode = \"native\"")
        .create()?;
    let (_, reason, _) = domain.wait_end(120)?;
    ensure!(reason == "0", "the disk program ended with reason {reason}:\n{}", domain.console()?);
    println!(
        "  {:<34} {:>8} {:>8} {:>8} {:>8} {:>14} {:>8}",
        "Linux's blkback", "MB/s", "IOPS", "p50 us", "p99 us", "notifications", "requests"
    );
    // A dom0 that is busy takes a domain's last words after its end.
    let console = domain.wait_for("\"op\":\"write\",\"pattern\":\"random\",\"size\":1048576,\"in_flight\":32", 20)?;
    for line in console.lines().filter_map(|line| line.find("{\"op\"").map(|at| &line[at..])) {
        let line: serde_json::Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        let text = |key: &str| line[key].to_string().replace('"', "");
        let size = line["size"].as_u64().unwrap_or(0) >> 10;
        println!(
            "  {:<34} {:>8} {:>8} {:>8} {:>8} {:>14} {:>8}",
            format!("{} {} {size} KiB, {} in flight", text("pattern"), text("op"), text("in_flight")),
            text("mb_per_s"),
            text("iops"),
            text("p50_us"),
            text("p99_us"),
            text("notifications"),
            text("requests")
        );
    }
    Ok(())
}

fn show(who: &str, line: &str) -> Result<()> {
    let value = |key: &str| {
        line.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('=')).unwrap_or_default().to_owned()
    };
    let hundredth = |text: String| text.parse::<f64>().map_or(String::from("-"), |n| format!("{:.2}", n / 100.0));
    println!(
        "  {:<34} {:>12} {:>22} {:>20}",
        format!("{who}, {} in flight", value("in-flight")).replace("through ", ""),
        value("per-second"),
        hundredth(value("notifications-per-100")),
        hundredth(value("hypercalls-per-100"))
    );
    Ok(())
}

//! `cargo xen bench`: how fast things are, in the simulation and on real Xen.
//!
//! The lab emulates its processors: numbers of one boot can be compared with each other, and with nothing else.

mod disk;
mod http;
mod net;
mod soak;
mod store;

use std::time::Duration;

use anyhow::Result;

use cargo_xen::parse_suite;
use xen_lab::domain::destroy_all;
use xen_lab::{Lab, Options, StoreServer, Suite, suite};

/// The command-line arguments.
#[derive(clap::Args)]
pub struct BenchArgs {
    /// Only in the simulation, on this machine
    #[arg(long, conflicts_with_all = ["lab_only", "suite", "oxenstored", "only"])]
    host_only: bool,
    /// Only in the lab
    #[arg(long)]
    lab_only: bool,
    /// Only this: store (requests to the store), disk, net or http (each beside a Linux guest), or soak (whether `web`'s
    /// memory stays as it is, which takes long and is not done otherwise)
    #[arg(long, value_name = "WHAT", value_parser = ["store", "disk", "net", "http", "soak"])]
    only: Option<String>,
    /// Which Xen in the lab: bookworm (4.17) or trixie (4.20)
    #[arg(long, value_name = "SUITE", value_parser = parse_suite)]
    suite: Option<Suite>,
    /// With oxenstored as the store, instead of xenstored
    #[arg(long)]
    oxenstored: bool,
    /// How often disk, network and HTTP are measured, ours and Linux's in turn
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=20))]
    rounds: u32,
}

/// Runs the benchmarks that were asked for.
pub fn command(args: &BenchArgs) -> Result<()> {
    let wanted = |what: &str| args.only.as_ref().is_none_or(|only| only == what);
    if !args.lab_only && wanted("store") {
        store::host()?;
    }
    if args.host_only {
        return Ok(());
    }
    let suite = args.suite.unwrap_or(suite::DEFAULT);
    let store = if args.oxenstored { StoreServer::Oxenstored } else { StoreServer::Xenstored };
    println!("In the lab, {suite}, {}:", if args.oxenstored { "oxenstored" } else { "xenstored" });
    let timeout = Some(Duration::from_secs(120));
    let options = Options { timeout, store, parallel: true, isolated: true, ..Options::default() };
    let lab = Lab::boot(suite, &options)?;
    if wanted("store") {
        store::lab(&lab)?;
        destroy_all(&lab)?;
    }
    if wanted("disk") {
        disk::lab(&lab, args.rounds)?;
    }
    if wanted("net") {
        net::lab(&lab, args.rounds)?;
    }
    if wanted("http") {
        http::lab(&lab, args.rounds)?;
    }
    if args.only.as_deref() == Some("soak") {
        soak::lab(&lab)?;
    }
    Ok(())
}

/// The median, the least and the greatest of some values.
fn spread(mut values: Vec<f64>) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let median = match values.len() % 2 {
        0 => (values[middle - 1] + values[middle]) / 2.0,
        _ => values[middle],
    };
    (median, values[0], values[values.len() - 1])
}

//! Requests to the store, one in flight and 32.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::apps::app;
use crate::paths::repo;
use crate::test::store::install_program;
use xen_lab::Dom0;
use xen_lab::Lab;
use xen_lab::domain::{destroy_all, guest};

pub(super) fn host() -> Result<()> {
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

pub(super) fn lab(lab: &Lab) -> Result<()> {
    install_program(lab)?;
    let probe = app("probe")?;
    let domain = guest(lab, &probe, "bench").command_line("test=bench").create()?;
    let outcome = domain.wait_passed(60);
    println!("  {:<34} {:>12} {:>22} {:>20}", "", "requests/s", "notifications/request", "hypercalls/request");
    let console = outcome.as_ref().map_or_else(|_| domain.console().unwrap_or_default(), String::clone);
    for line in console.lines().filter(|line| line.starts_with("bench: ")) {
        show("Sarab guest, through the ring", line);
    }
    outcome?;
    let path = format!("/local/domain/{}/data/bench", domain.id);
    let dom0 = lab.run(&format!("lab-store read {path} 3"))?;
    show("dom0's library, through a socket", dom0.trim());
    destroy_all(lab)
}

fn show(who: &str, line: &str) {
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
}

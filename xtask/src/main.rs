//! `cargo xen` in this repository: what the installed program does, and tests, benchmarks and fuzz targets.

mod apps;
mod bench;
mod fuzz;
mod paths;
mod soak;
mod test;

use std::process::ExitCode;

use cargo_xen::Sarab;
use clap::{Parser, Subcommand};

/// Builds Rust unikernels and runs them on real Xen.
#[derive(Parser)]
#[command(name = "cargo xen", bin_name = "cargo xen", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    #[command(flatten)]
    Guests(cargo_xen::Command),
    /// Run all tests: format, clippy, host tests, guest builds, and the lab on each Xen
    Test(test::TestArgs),
    /// Measure: requests to the store; disks, networks and HTTP beside a Linux guest
    Bench(bench::BenchArgs),
    /// Run all appliances in the lab for hours, with faults, and check each byte and what is left
    Soak(soak::SoakArgs),
    /// Feed the fuzz targets until the time is over or one fails; needs a nightly compiler and a C++ compiler
    Fuzz(fuzz::FuzzArgs),
}

fn main() -> ExitCode {
    if let Some(status) = cargo_xen::rustc() {
        return status;
    }
    cargo_xen::exit_code(match Cli::parse().command {
        Command::Guests(command) => command.run(&Sarab::at(paths::repo())),
        Command::Test(args) => test::command(args),
        Command::Bench(args) => bench::command(&args).map(|()| ExitCode::SUCCESS),
        Command::Soak(args) => soak::command(&args).map(|()| ExitCode::SUCCESS),
        Command::Fuzz(args) => fuzz::command(&args),
    })
}

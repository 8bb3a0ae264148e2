//! `cargo xen`: builds guests, runs them on real Xen, tests, and decodes their logs.

mod bench;
mod doctor;
mod dom0;
mod elf;
mod fuzz;
mod guest;
mod lab;
mod logs;
mod new;
mod paths;
mod run;
mod site;
mod test;
mod xlcfg;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::guest::Guest;
use crate::lab::{Lab, Suite, suite};
use crate::run::parse_suite;

/// Builds Rust unikernels and runs them on real Xen.
#[derive(Parser)]
#[command(name = "cargo xen", bin_name = "cargo xen", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build a guest; the last line of output is the path of its ELF file, beside which lies its xl file
    Build {
        /// An app of this repository, a folder with a Cargo package, or an ELF file
        #[arg(value_name = "APP|PATH")]
        target: String,
    },
    /// Boot a guest and show its console until it ends; fails when it crashed
    Run(run::RunArgs),
    /// Make a project of your own out of an app, outside of this repository
    New(new::NewArgs),
    /// Run all tests: format, clippy, host tests, guest builds, and the lab on each Xen
    Test(test::TestArgs),
    /// Measure: requests to the store; disks, networks and HTTP beside a Linux guest
    Bench(bench::BenchArgs),
    /// Feed the fuzz targets until the time is over or one fails; needs a nightly compiler and a C++ compiler
    Fuzz(fuzz::FuzzArgs),
    /// Decode a guest's console: text passes through, log frames become lines, addresses get names
    Logs {
        /// The guest whose console it is: an app, a folder, or its unstripped ELF file
        #[arg(long, value_name = "APP|PATH")]
        elf: Option<String>,
        /// A file with what the console printed; standard input where it is left out
        file: Option<PathBuf>,
    },
    /// The lab: real Xen with a real dom0 in an emulator
    Lab {
        #[command(subcommand)]
        command: LabCommand,
    },
    /// Check what this machine has, and say how to mend what is missing
    Doctor,
}

#[derive(Subcommand)]
enum LabCommand {
    /// Boot the lab with a shell of its dom0 on this terminal
    Shell {
        /// Which Xen: bookworm (4.17) or trixie (4.20)
        #[arg(long, value_name = "SUITE", value_parser = parse_suite)]
        suite: Option<Suite>,
    },
    /// Download and build what the lab needs, so that it boots offline
    Prepare {
        /// Which Xen: bookworm (4.17) or trixie (4.20); all where it is left out
        #[arg(long, value_name = "SUITE", value_parser = parse_suite)]
        suite: Option<Suite>,
    },
}

fn main() -> ExitCode {
    match dispatch(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> Result<ExitCode> {
    match command {
        Command::Build { target } => guest::build_command(&target)?,
        Command::Run(args) => return run::command(args),
        Command::New(args) => new::command(&args)?,
        Command::Test(args) => return test::command(args),
        Command::Fuzz(args) => return fuzz::command(&args),
        Command::Bench(args) => bench::command(&args)?,
        Command::Logs { elf, file } => {
            let elf = elf.map(|target| Guest::get(&target)).transpose()?;
            logs::command(elf.map(|guest| guest.debug), file)?;
        }
        Command::Lab { command: LabCommand::Shell { suite } } => Lab::shell(suite.unwrap_or(suite::DEFAULT))?,
        Command::Lab { command: LabCommand::Prepare { suite } } => {
            for suite in suite::SUITES.iter().filter(|known| suite.is_none_or(|suite| suite == **known)) {
                lab::prepare(*suite)?;
                eprintln!("{suite} is ready");
            }
        }
        Command::Doctor => doctor::command()?,
    }
    Ok(ExitCode::SUCCESS)
}

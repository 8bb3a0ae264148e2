//! The commands.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;
use xen_lab::{Lab, Suite, suite};

use crate::guest::Guest;
use crate::sarab::Sarab;
use crate::{doctor, guest, lab, logs, new, package, run};

/// What `cargo xen` does for guests. Programs that have further commands flatten it into theirs.
#[derive(Subcommand)]
pub enum Command {
    /// Build a guest; the last line of output is the path of its ELF file, beside which lies its xl file
    Build {
        /// A folder with a Cargo package, an ELF file, or in Sarab's repository an app; the package of this folder where it
        /// is left out
        #[arg(value_name = "APP|PATH")]
        target: Option<String>,
    },
    /// Boot a guest and show its console until it ends; fails when it crashed
    Run(Box<run::RunArgs>),
    /// Build a guest and pack it for installation on Qubes OS, on a Xen host with xl, or on XCP-ng
    Package(package::PackageArgs),
    /// Make a project of your own out of one of Sarab's apps
    New(new::NewArgs),
    /// Decode a guest's console: text passes through, log frames become lines, addresses get names
    Logs {
        /// The guest whose console it is: an app, a folder, or its ELF file; of a stripped one the .debug file beside it is
        /// read
        #[arg(long, value_name = "APP|PATH")]
        elf: Option<String>,
        /// A file with what the console printed; standard input where it is left out
        file: Option<PathBuf>,
    },
    /// The lab: real Xen with a real dom0 in an emulator
    Lab {
        /// What to do with it.
        #[command(subcommand)]
        command: LabCommand,
    },
    /// Check what this machine has, and say how to fix what is missing
    Doctor,
}

/// What to do with the lab.
#[derive(Subcommand)]
pub enum LabCommand {
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
    /// Run a command in the dom0 of a lab that runs: beside the guest of `cargo xen run` in another terminal
    Exec(lab::ExecArgs),
}

/// A suite's name, for clap.
pub fn parse_suite(name: &str) -> Result<Suite, String> {
    Suite::named(name).map_err(|error| error.to_string())
}

impl Command {
    /// Does it.
    pub fn run(self, sarab: &Sarab) -> Result<ExitCode> {
        match self {
            Command::Build { target } => guest::build_command(target.as_deref(), sarab)?,
            Command::Run(args) => return run::command(*args, sarab),
            Command::Package(args) => return package::command(&args, sarab),
            Command::New(args) => new::command(&args, sarab)?,
            Command::Logs { elf, file } => {
                let elf = elf.map(|target| Guest::get(Some(&target), sarab)).transpose()?;
                logs::command(elf.map(|guest| guest.debug), file)?;
            }
            Command::Lab { command: LabCommand::Shell { suite } } => Lab::shell(suite.unwrap_or(suite::DEFAULT))?,
            Command::Lab { command: LabCommand::Prepare { suite } } => {
                for suite in suite::SUITES.iter().filter(|known| suite.is_none_or(|suite| suite == **known)) {
                    xen_lab::prepare(*suite)?;
                    eprintln!("{suite} is ready");
                }
            }
            Command::Lab { command: LabCommand::Exec(args) } => return lab::exec(&args),
            Command::Doctor => doctor::command()?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

//! `cargo xen`: builds guests, runs them on real Xen, makes projects, and decodes consoles.
//!
//! The program is what users install (`cargo install`). The library is for programs that add to its commands, as Sarab's own
//! `xtask` does.

mod cli;
mod demo;
mod doctor;
pub mod elf;
mod guest;
mod interrupt;
mod lab;
pub mod logs;
mod manifest;
mod new;
mod package;
mod program;
mod reproduce;
mod run;
mod sarab;
mod screen;
mod share;
mod site;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

pub use cli::{Command, parse_suite};
pub use guest::Guest;
pub use program::own_program;
pub use reproduce::rustc;
pub use sarab::Sarab;

/// Builds Rust unikernels and runs them on real Xen.
#[derive(Parser)]
#[command(name = "cargo xen", bin_name = "cargo xen", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// The whole program.
pub fn main() -> ExitCode {
    if let Some(status) = rustc() {
        return status;
    }
    let mut arguments: Vec<_> = std::env::args_os().collect();
    // Cargo runs `cargo-xen xen build` for `cargo xen build`.
    if arguments.get(1).is_some_and(|first| first == "xen") {
        arguments.remove(1);
    }
    let cli = Cli::parse_from(arguments);
    exit_code(Sarab::find().and_then(|sarab| cli.command.run(&sarab)))
}

/// Prints an error.
pub fn exit_code(outcome: Result<ExitCode>) -> ExitCode {
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

//! `cargo xen`, as Cargo runs it: with the subcommand's name as the first argument.

use std::process::ExitCode;

fn main() -> ExitCode {
    cargo_xen::main()
}

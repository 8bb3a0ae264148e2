//! Runs inputs of a target again, on any compiler: `replay TARGET FILE...`.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let Some(target) = words.next().as_deref().and_then(sarab_fuzz::target) else {
        let names: Vec<_> = sarab_fuzz::TARGETS.iter().map(|target| target.name).collect();
        eprintln!("usage: replay TARGET FILE...; there are {}", names.join(", "));
        return ExitCode::FAILURE;
    };
    for path in words {
        match std::fs::read(&path) {
            Ok(input) => (target.run)(&input),
            Err(error) => {
                eprintln!("{path}: {error}");
                return ExitCode::FAILURE;
            }
        }
        println!("{path}: nothing found");
    }
    ExitCode::SUCCESS
}

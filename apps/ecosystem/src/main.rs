//! Crates of others in a guest: each does a little of its work, and is named where that is wrong. See docs/ecosystem.md.

#![no_std]
#![no_main]

extern crate alloc;

mod bytes_and_text;
mod collections;
mod crypto;
mod formats;
mod machine;

use sarab::{App, println};

/// A crate's name, and whether it does what it is for.
type Trial = (&'static str, fn() -> bool);

#[sarab::main]
async fn main(app: App) -> sarab::Result {
    let mut passed = 0;
    let mut failed = 0;
    let lists = [bytes_and_text::ALL, collections::ALL, crypto::ALL, formats::ALL, machine::ALL];
    for (name, trial) in lists.into_iter().flatten() {
        match trial() {
            true => passed += 1,
            false => {
                println!("ecosystem: {name} does not do its work");
                failed += 1;
            }
        }
    }
    for (name, outcome) in machine::asynchronous(app).await {
        match outcome {
            true => passed += 1,
            false => {
                println!("ecosystem: {name} does not do its work");
                failed += 1;
            }
        }
    }
    println!("{passed} passed, {failed} failed");
    Ok(())
}

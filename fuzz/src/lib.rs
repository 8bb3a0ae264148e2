//! What a peer, the network or the toolstack can write, as functions of bytes: a panic in one of them is a bug.
//!
//! `cargo xen fuzz` feeds them with libFuzzer; the tests of this crate feed each for a moment with random bytes, its seeds
//! and what was ever found, on the ordinary compiler. A target is a file of `src/targets`, and its `mod` in `targets.rs`.

mod disturb;
mod frame;
mod input;
mod net;
mod peer;
mod second;
#[cfg(test)]
mod short;
mod stack;
mod targets;

pub use targets::TARGETS;

/// Something that reads bytes of others.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its file's name.
    pub name: &'static str,
    /// Takes any bytes, and panics where something is wrong.
    pub run: fn(&[u8]),
    /// Inputs that lead far, to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// How many inputs the tests feed it: about a second's worth.
    pub short: u32,
}

/// The target of this name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

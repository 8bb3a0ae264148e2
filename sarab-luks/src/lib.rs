#![doc = include_str!("../README.md")]
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

extern crate alloc;

mod af;
mod area;
mod copies;
mod encrypted;
mod error;
mod hash;
mod header;
mod json;
mod kdf;
mod metadata;
mod options;
mod stack;
mod volume;
mod xts;

pub use copies::Repair;
pub use encrypted::Encrypted;
pub use error::{Cost, Error, Feature, Name};
pub use hash::Hash;
pub use header::{BadCopy, Place};
pub use metadata::KeyslotInfo;
pub use options::{Argon2Cost, FormatOptions, Kdf, Limits, MIN_ARGON2_MEMORY_KIB, OpenOptions};
pub use volume::{Info, Volume};
pub use zeroize::Zeroizing;

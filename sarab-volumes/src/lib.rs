#![doc = include_str!("../README.md")]
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod admin;
mod buffer;
mod check;
mod checked;
mod commit;
mod content;
mod disks;
mod epoch;
mod error;
mod finish;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod layout;
mod node;
mod open;
mod options;
mod overlay;
mod pool;
mod record;
mod runner;
mod scrub;
mod space;
mod state;
mod tree;
mod unmap;
mod volume;
mod write;

pub use content::{Content, identify};
pub use error::Error;
pub use layout::{CHUNK_SIZE, MAX_DISKS, MAX_NAME, MAX_VOLUMES};
pub use options::{CheckReport, Create, FormatOptions, OpenOptions, Scrub, ScrubReport, Usage, VolumeInfo};
pub use overlay::Overlay;
pub use pool::Pool;
pub use volume::Volume;
pub use xen_blkif::BlockDevice;

/// The smallest [`cache_bytes`](OpenOptions::cache_bytes).
pub const MIN_CACHE: usize = 1 << 20;

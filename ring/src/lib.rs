#![doc = include_str!("../README.md")]
#![no_std]

#[cfg(test)]
extern crate alloc;

mod bytes;
mod shared;

pub use bytes::{BadIndex, ByteReader, ByteRing, ByteWriter, Moved};
pub use shared::{SharedMemory, SharedPage};

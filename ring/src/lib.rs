#![doc = include_str!("../README.md")]
#![no_std]

#[cfg(test)]
extern crate alloc;
#[cfg(test)]
extern crate std;

mod bytes;
mod handshake;
mod shared;
mod slots;

pub use bytes::{BadIndex, ByteReader, ByteRing, ByteWriter, Moved};
pub use shared::{LentPage, SharedMapping, SharedMemory, SharedPage};
pub use slots::{BackRing, BadProducer, FrontRing, Full, Protocol, slots};

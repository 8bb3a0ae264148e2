#![doc = include_str!("../README.md")]
#![no_std]

extern crate alloc;
#[cfg(any(test, feature = "hook"))]
extern crate std;

mod bits;
mod bytes;
mod granted;
mod handshake;
#[cfg(feature = "hook")]
pub mod hook;
mod run;
mod shared;
mod slots;
mod wait;

pub use bytes::{BadIndex, ByteReader, ByteRing, ByteWriter, Transfer};
pub use granted::{GrantPagesError, GrantablePage, GrantableRun, GrantedPages};
pub use run::PageRun;
pub use shared::{ReadOnlyMapping, SharedMapping, SharedMemory, SharedPage};
pub use slots::{BackRing, BadProducer, FrontRing, Full, Indices, Protocol, slots};
pub use wait::WaitQueue;

#![doc = include_str!("../README.md")]
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod area;
pub mod back;
mod buffer;
pub mod checksum;
pub mod front;
#[doc(hidden)]
pub mod fuzzing;
pub mod headers;
mod mss;
mod offload;
mod path_mtu;
pub mod pcap;
pub mod protocol;
pub mod segment;

pub use buffer::Buffer;
pub use offload::cuts_segments;

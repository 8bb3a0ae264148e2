#![doc = include_str!("../README.md")]
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

/// The kinds of errors that `embedded-io` knows ([`front::Error::kind`]).
pub use embedded_io_async::ErrorKind;

pub mod front;
pub mod protocol;
pub mod ring;

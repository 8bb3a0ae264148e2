#![doc = include_str!("../README.md")]
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

#[macro_use]
mod fmt;
pub mod back;
pub mod device;
mod either;
pub mod front;
pub mod protocol;
pub mod ramdisk;

pub use device::{BlockDevice, Buffer, Completed, Discard, Error, Geometry};

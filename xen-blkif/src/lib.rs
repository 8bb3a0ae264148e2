#![doc = include_str!("../README.md")]
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod adapters;
pub mod back;
pub mod cache;
pub mod device;
mod either;
pub mod fair;
pub mod faulty;
pub mod front;
mod pointers;
pub mod powerloss;
pub mod protocol;
pub mod ramdisk;
pub mod rate;
pub mod slice;
mod vdev;

pub use device::{BlockDevice, Buffer, Completed, Discard, Error, Geometry};
pub use vdev::{BadVdev, Vdev};

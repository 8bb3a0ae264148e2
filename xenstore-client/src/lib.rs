#![doc = include_str!("../README.md")]
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod client;
pub mod control;
mod text;
pub mod wire;

pub use client::{
    Broken, Error, ErrorKind, FromValue, Path, Quiesced, Restart, Runner, Store, ToValue, Transaction, Tree, Watch,
    WatchEvent, connect,
};
pub use text::printable;
pub use wire::{Access, Permission};

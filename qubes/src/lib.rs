#![doc = include_str!("../README.md")]
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod bytes;
pub mod db;
pub mod firewall;
pub mod rexec;
mod waiting;

pub use db::Database;
pub use firewall::Rules;
pub use rexec::Agent;

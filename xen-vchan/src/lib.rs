#![doc = include_str!("../README.md")]
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod channel;
mod client;
mod error;
mod io;
pub mod layout;
mod link;
mod memory;
pub mod ring;
mod server;
mod sleep;

pub use channel::{Channel, ReadHalf, WriteHalf};
pub use client::Client;
pub use error::{Error, SetupError};
pub use server::Server;

#![doc = include_str!("../README.md")]
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod certificates;
mod client;
mod error;
pub mod provider;
mod record;
mod server;
mod sessions;
mod stream;
mod tickets;
mod time;
mod turn;

pub use certificates::Certificates;
pub use client::{Client, ClientOptions, Roots};
pub use error::{ClockError, ConfigError, Error};
/// The TLS library below, whose errors and names these are.
pub use rustls;
pub use server::{Server, ServerOptions};
pub use stream::{Limits, Session, TlsStream};

#![doc = include_str!("../README.md")]
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod chunked;
mod conditions;
mod connection;
mod date;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod head;
pub mod pipe;
mod pool;
mod ranges;
mod refusal;
mod request;
mod response;
mod stop;
#[cfg(feature = "embassy-net")]
mod tcp;
mod wait;

pub use chunked::Chunked;
pub use conditions::{Condition, Validators};
pub use connection::{Connection, Ended, Exchange, Limits, Service, Stream};
pub use date::HttpDate;
pub use head::Scanner;
pub use pool::{Pool, PoolGuard};
pub use ranges::Ranges;
pub use refusal::Refusal;
pub use request::{Fields, Method, Request};
pub use response::{Content, Nothing, Response, Text};
pub use stop::Stop;
#[cfg(feature = "embassy-net")]
pub use tcp::Tcp;

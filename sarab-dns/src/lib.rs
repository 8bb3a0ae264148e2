#![doc = include_str!("../README.md")]
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod answer;
mod arena;
mod builder;
mod catalog;
mod config;
mod cookie;
mod counters;
mod error;
mod message;
mod name;
mod nsec3;
mod query;
mod ratelimit;
mod server;
mod transfer;
mod tsig;
mod zone;
mod zonefile;

pub use catalog::Catalog;
pub use config::{Config, Prefix, ZoneConfig, parse_name};
pub use counters::{Counters, KINDS, TYPES};
pub use error::{LoadError, Problem};
pub use server::{Client, Question, Reply, Server, Time, notify_message};
pub use transfer::Transfer;
pub use tsig::{Algorithm, Key};
pub use zone::Zone;
pub use zonefile::{Limits, Loader, MAX_ENTRY, Step};

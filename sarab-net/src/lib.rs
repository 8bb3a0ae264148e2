#![doc = include_str!("../README.md")]
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod address;
mod claim;
mod config;
mod dhcp;
mod driver;
mod frames;
mod link;
mod neighbors;
mod random;
mod routes;
mod slaac;
mod stack;

pub use address::{is_host, is_unicast, is_unicast_v6};
pub use config::{Addresses, Config, Ipv4, Ipv6};
pub use dhcp::Loss;
pub use driver::{EthernetDevice, LinkDriver, LinkRxToken, LinkTxToken};
pub use link::{Counters, Link, News, Way};
pub use neighbors::Mac;
pub use routes::Route;
pub use smoltcp::wire::{IpCidr, Ipv4Cidr, Ipv6Cidr};
pub use stack::{Configurator, Interface, new};

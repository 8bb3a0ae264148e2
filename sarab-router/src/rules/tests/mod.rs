//! Texts and packets.

mod arbitrary;
mod counters;
mod errors;
mod evaluation;
mod model;
mod names;
mod pages;
mod statements;

use core::net::IpAddr;

use super::Config;

/// The configuration of a text that has no error.
fn parsed(text: &str) -> Config {
    Config::parse(text).unwrap_or_else(|errors| panic!("{errors}"))
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|_| panic!("{text} is no address"))
}

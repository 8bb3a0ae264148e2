//! A DNS forwarder: clients' questions are answered from the names of clients, from a cache, or by upstream servers.
//!
//! [`Desk`] is all of it but for sockets and time; [`Forwarder`] has those.
//!
//! Answers pass as the servers give them: nothing is said about private addresses in them, and the flag of checked signatures
//! (AD) is not passed on, since a forwarder that checks none cannot vouch for it.

mod answer;
mod cache;
mod desk;
mod forwarder;
mod message;
mod names;
mod upstream;

use core::fmt;

pub use self::answer::{Answer, read};
pub use self::desk::{Asked, Desk, Outcome};
pub use self::forwarder::Forwarder;
pub use self::message::{Body, Key, Transport, question};
pub use self::names::{NameError, Names};

/// What a forwarder may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// Bytes of answers that are remembered.
    pub cache_bytes: usize,
    /// Questions that the servers are asked at the same time.
    pub max_lookups: usize,
    /// Questions that wait for them.
    pub max_waiting: usize,
    /// Questions of one client's that do.
    pub max_per_client: usize,
    /// Connections of clients at the same time.
    pub max_connections: usize,
    /// Those of one client.
    pub max_connections_per_client: usize,
}

impl Default for Config {
    /// 1 MiB of answers, 128 questions to servers, 32 of each client, 8 connections, 2 of each client.
    fn default() -> Config {
        Config {
            cache_bytes: 1 << 20,
            max_lookups: 128,
            max_waiting: 512,
            max_per_client: 32,
            max_connections: 8,
            max_connections_per_client: 2,
        }
    }
}

/// What a forwarder has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Messages of clients by UDP.
    pub udp_queries: u64,
    /// Messages of clients by TCP.
    pub tcp_queries: u64,
    /// Those of them that are not right.
    pub malformed: u64,
    /// Those that are not answered: transfers, other operations and classes.
    pub refused: u64,
    /// Answers about clients' names.
    pub local: u64,
    /// Answers that were remembered.
    pub cached: u64,
    /// Questions that the servers were asked.
    pub lookups: u64,
    /// Questions that waited for the answer to another's.
    pub shared: u64,
    /// Questions without an answer of any server.
    pub failed: u64,
    /// Questions beyond the limits.
    pub limited: u64,
    /// Answers that were too long for the client.
    pub truncated: u64,
    /// Messages to servers by UDP.
    pub sent: u64,
    /// Questions to servers by TCP.
    pub sent_tcp: u64,
    /// Servers that have said nothing in time.
    pub timeouts: u64,
    /// Messages that came in place of an answer: somebody else's, late or forged.
    pub wrong: u64,
    /// Messages and connections of others than clients.
    pub strangers: u64,
    /// Answers that there was no room for to send.
    pub dropped: u64,
    /// Connections of clients beyond the limits.
    pub connections_refused: u64,
    /// Answers that are remembered now.
    pub cache_entries: u64,
    /// Bytes that they take.
    pub cache_bytes: u64,
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counters { udp_queries, tcp_queries, local, cached, lookups, failed, limited, .. } = self;
        write!(f, "{udp_queries} queries by UDP, {tcp_queries} by TCP: {local} local, {cached} cached, ")?;
        write!(f, "{lookups} forwarded, {failed} failed, {limited} over limits")
    }
}

#[cfg(test)]
mod tests;

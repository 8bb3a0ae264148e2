//! What goes wrong on purpose.

use std::time::Duration;

/// How often things go wrong, in percent of the times that they could, and how slow the store is.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Commits of transactions that the store answers with `EAGAIN` without need.
    pub eagain: u8,
    /// Grants that are refused, as with a full table.
    pub grants: u8,
    /// Pages of other domains that are refused when they are to be mapped.
    pub maps: u8,
    /// Event channels that are refused, as with no free port.
    pub ports: u8,
    /// Events that nobody has sent.
    pub spurious_events: u8,
    /// Answers that the store gives out of order.
    pub reorder: u8,
    /// How long the store takes at most for one request.
    pub store_delay: Duration,
}

//! What a server counts.

use core::cell::Cell;

use crate::answer::Kind;

/// Counters of a server, from its begin.
#[derive(Default, Debug)]
#[non_exhaustive]
pub struct Counters {
    /// Messages by UDP, and by TCP.
    pub messages: [Cell<u64>; 2],
    /// Answers by what they are, in the order of [`KINDS`].
    pub kinds: [Cell<u64>; KINDS.len()],
    /// Questions by type, in the order of [`TYPES`]; others last.
    pub types: [Cell<u64>; TYPES.len() + 1],
    /// Answers that did not fit, and say so.
    pub truncated: Cell<u64>,
    /// Messages that were not answered: no queries.
    pub ignored: Cell<u64>,
    /// Answers that a network's rate left out, and those that it replaced by an empty one.
    pub limited: [Cell<u64>; 2],
    /// Zones that were transferred.
    pub transfers: Cell<u64>,
    /// Transfers and notifications that were refused.
    pub refused_transfers: Cell<u64>,
    /// Notifications that came from those who may.
    pub notified: Cell<u64>,
    /// Questions with DNSSEC wanted.
    pub dnssec: Cell<u64>,
}

/// Kinds of answers.
pub const KINDS: [&str; 7] = ["positive", "nodata", "nxdomain", "referral", "wildcard", "refused", "error"];
/// Types of questions that are counted by themselves.
pub const TYPES: [(u16, &str); 12] = [
    (1, "A"),
    (2, "NS"),
    (5, "CNAME"),
    (6, "SOA"),
    (12, "PTR"),
    (15, "MX"),
    (16, "TXT"),
    (28, "AAAA"),
    (33, "SRV"),
    (43, "DS"),
    (48, "DNSKEY"),
    (65, "HTTPS"),
];

pub(crate) fn add(counter: &Cell<u64>) {
    counter.set(counter.get().wrapping_add(1));
}

impl Counters {
    pub(crate) fn question(&self, qtype: u16) {
        let at = TYPES.iter().position(|(known, _)| *known == qtype).unwrap_or(TYPES.len());
        add(&self.types[at]);
    }

    pub(crate) fn answer(&self, kind: Kind, truncated: bool) {
        add(&self.kinds[kind as usize]);
        if truncated {
            add(&self.truncated);
        }
    }
}

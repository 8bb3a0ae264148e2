//! What is allowed in a text, but probably not meant.

use core::fmt;
use core::net::IpAddr;

/// What is probably not meant.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WarningKind {
    /// A rule that is never reached, since an earlier one matches all of its packets.
    Unreachable {
        /// The earlier rule's line.
        line: usize,
    },
    /// A target of `publish` or `map` that is in no network of clients.
    TargetOutside {
        /// The target.
        address: IpAddr,
    },
}

impl fmt::Display for WarningKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WarningKind::Unreachable { line } => {
                write!(f, "this rule is never reached, as line {line} matches all of it: move it up, or remove it")
            }
            WarningKind::TargetOutside { address } => {
                write!(f, "{address} is in no network of clients: nothing may answer there")
            }
        }
    }
}

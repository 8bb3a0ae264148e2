//! The page that a domain shares with the store's server (`struct xenstore_domain_interface`, docs/misc/xenstore-ring.txt).

use core::fmt;

/// Where things are in the page.
pub mod offsets {
    use xen_ring::ByteRing;

    /// From the domain to the server.
    pub const REQUESTS: ByteRing = ByteRing { data: 0, size: 1024, consumer: 2048, producer: 2052 };
    /// From the server to the domain.
    pub const REPLIES: ByteRing = ByteRing { data: 1024, size: 1024, consumer: 2056, producer: 2060 };
    /// What the server offers; see [`Features`](super::Features).
    pub const SERVER_FEATURES: usize = 2064;
    /// 0 while connected; 1 while the domain asks for a new connection.
    pub const CONNECTION: usize = 2068;
    /// Why the server has stopped talking, where it tells; see [`RingError`](super::RingError).
    pub const ERROR: usize = 2072;
}

/// What a server offers (`XENSTORE_SERVER_FEATURE_*`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Features(pub u32);

impl Features {
    /// It can start over with a domain, at the domain's wish.
    pub const RECONNECTION: Features = Features(1);
    /// It says why it stopped talking.
    pub const ERROR: Features = Features(2);
    /// Watches can be limited in depth.
    pub const WATCH_DEPTH: Features = Features(4);
    /// Permissions can be given to any domain.
    pub const ANY_DOMAIN: Features = Features(8);

    /// Whether all of `other` is offered.
    pub const fn offers(self, other: Features) -> bool {
        self.0 & other.0 == other.0
    }
}

/// Why a server has stopped talking to this domain (`XENSTORE_ERROR_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum RingError {
    /// 1: communication failed.
    Communication,
    /// 2: this domain's ring indices are out of range.
    RingIndex,
    /// 3: this domain broke the protocol.
    Protocol,
    /// A number that is not known here.
    Other(u32),
}

impl RingError {
    /// The error for the number in the page, `None` for 0.
    pub const fn from_number(number: u32) -> Option<RingError> {
        match number {
            0 => None,
            1 => Some(RingError::Communication),
            2 => Some(RingError::RingIndex),
            3 => Some(RingError::Protocol),
            other => Some(RingError::Other(other)),
        }
    }
}

impl core::error::Error for RingError {}

impl fmt::Display for RingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RingError::Communication => f.write_str("communication failed (1)"),
            RingError::RingIndex => f.write_str("this domain's ring indices are out of range (2)"),
            RingError::Protocol => f.write_str("this domain broke the protocol (3)"),
            RingError::Other(number) => write!(f, "unknown reason {number}"),
        }
    }
}

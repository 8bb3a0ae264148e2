//! Messages of qrexec, without I/O. Reference: `libqrexec/qrexec.h` of qubes-core-qrexec.
//!
//! On the control channel dom0's daemon and the agent of a qube agree upon calls; each call has a data channel of its own. Both
//! begin with a `HELLO` of either end, and the older of both versions counts.

mod control;
mod data;

use core::fmt;

pub use control::{Connection, Control, ControlDecoder, MAX_COMMAND, MAX_SERVICE};
pub use data::{DataDecoder, Piece, Stream, exit_code, max_chunk};

/// The newest version, which this crate offers.
pub const VERSION: u32 = 4;
/// The oldest version.
pub const MIN_VERSION: u32 = 2;
/// Bytes of a header: type and length.
pub const HEADER_LEN: usize = 8;

/// The version that counts between this crate and a peer that offers another one.
///
/// # Errors
///
/// Where the peer's is too old.
pub fn negotiate(offered: u32) -> Result<u32, WireError> {
    match offered.min(VERSION) {
        version @ MIN_VERSION.. => Ok(version),
        _ => Err(WireError::Version { offered }),
    }
}

fn header(kind: u32, len: usize) -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    header[..4].copy_from_slice(&kind.to_le_bytes());
    header[4..].copy_from_slice(&(len as u32).to_le_bytes());
    header
}

/// A message that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WireError {
    /// A version that is too old.
    Version {
        /// What the peer offers.
        offered: u32,
    },
    /// No such type on this channel.
    UnknownType {
        /// The number that was found.
        kind: u32,
    },
    /// The length cannot be that of a message of this type.
    Length {
        /// The type.
        kind: u32,
        /// The length.
        len: usize,
    },
    /// A name of the message is not UTF-8, or does not end.
    NotText {
        /// The type.
        kind: u32,
    },
    /// A text is too long for its message, or holds a NUL.
    Text {
        /// Its bytes.
        len: usize,
        /// How many there may be.
        max: usize,
    },
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WireError::Version { offered } => {
                write!(f, "qrexec version {offered}: {MIN_VERSION} is the oldest that is supported")
            }
            WireError::UnknownType { kind } => write!(f, "unknown message type {kind:#x}"),
            WireError::Length { kind, len } => write!(f, "message of type {kind:#x} with {len} bytes"),
            WireError::NotText { kind } => write!(f, "message of type {kind:#x} with a name that is not valid UTF-8"),
            WireError::Text { len, max } => write!(f, "name of {len} bytes: at most {max} are allowed, and no NUL"),
        }
    }
}

impl core::error::Error for WireError {}

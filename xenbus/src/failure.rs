//! How a device's life ends, and why it cannot be used.

use alloc::boxed::Box;
use alloc::string::ToString;
use core::fmt;

use xen_hal::Errno;
use xenstore_client::{Error, printable};

/// How a device's life ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// The toolstack has removed the device, or asked for that.
    Removed,
    /// The driver has ended it; it can be begun anew.
    Stopped,
}

/// Why a device cannot be used, with key and value: what goes to the device's error node and to the log.
///
/// # Examples
///
/// ```
/// use xen_hal::Errno;
/// use xenbus::Failure;
///
/// let failure = Failure::new(Errno::EINVAL, format_args!("ring-page-order = {}: expected 0 to 4", 9));
/// assert_eq!(failure.to_string(), "ring-page-order = 9: expected 0 to 4 (EINVAL)");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The number that the other end's administrator sees.
    pub errno: Errno,
    pub(crate) text: Box<str>,
}

impl Failure {
    /// A failure with its number and text. What a peer has put into the text cannot harm a log or a terminal, and what is
    /// longer than a line of a log should be is cut.
    pub fn new(errno: Errno, text: impl fmt::Display) -> Failure {
        Failure { errno, text: printable(&text.to_string()) }
    }

    /// Whether it is this domain that has too little of something, of which there may be more later.
    pub(crate) fn is_shortage(&self) -> bool {
        matches!(self.errno, Errno::ENOSPC | Errno::ENOMEM)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.text, self.errno.name())
    }
}

impl core::error::Error for Failure {}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::new(error.errno().unwrap_or(Errno::EIO), error.to_string())
    }
}

//! What can go wrong with a request.

use alloc::boxed::Box;
use alloc::string::String;
use core::fmt;

use xen_hal::Errno;
use xen_ring::BadIndex;

use crate::wire::{Malformed, Op, RequestError, RingError, ServerError};

/// A request failed: which, about what, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// The operation.
    pub op: Op,
    /// The path, or what else it was about.
    pub path: Box<str>,
    /// Why it failed.
    pub kind: ErrorKind,
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// It was not sent, as the protocol does not allow it.
    Request(RequestError),
    /// The store refused.
    Refused(ServerError),
    /// The store's answer makes no sense.
    Malformed(Malformed),
    /// The value is not of the type that was asked for.
    Value {
        /// What was expected.
        expected: &'static str,
        /// What there is, as far as it is text, and not all of it where it is long.
        found: Box<str>,
    },
    /// Others kept changing what a transaction had read, or a directory while it was being listed.
    Contended {
        /// How often it was tried.
        tries: u32,
    },
    /// A list is longer than any should be: some 20,000 names.
    TooLong {
        /// Bytes of memory that a list may take.
        max: usize,
    },
    /// The connection was made anew before the answer came: whether the request was carried out is not known.
    Interrupted,
    /// There is no connection any more.
    Broken(Broken),
}

impl ErrorKind {
    /// Why a value is not of the type that was asked for.
    pub fn value(expected: &'static str, value: &[u8]) -> ErrorKind {
        const MAX_SHOWN: usize = 64;
        let text = String::from_utf8_lossy(&value[..value.len().min(MAX_SHOWN)]);
        let found = if value.len() > MAX_SHOWN { (text.into_owned() + "…").into() } else { text.into() };
        ErrorKind::Value { expected, found }
    }
}

/// Why there is no connection to the store any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum Broken {
    /// The server's ring index is out of range.
    Index {
        /// Which ring.
        requests: bool,
        /// The reader's index.
        consumer: u32,
        /// The writer's index.
        producer: u32,
    },
    /// The server sent a packet that is longer than the protocol allows.
    Oversized {
        /// Its length.
        len: u32,
        /// Its type's number.
        op: u32,
    },
    /// The server says that it has stopped talking.
    Server(RingError),
    /// The toolstack has made no connection for this domain.
    Absent,
    /// The [`Runner`](crate::Runner) was dropped.
    Stopped,
}

impl Broken {
    pub(crate) fn index(requests: bool, error: BadIndex) -> Broken {
        Broken::Index { requests, consumer: error.consumer, producer: error.producer }
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Broken::Index { requests, consumer, producer } => write!(
                f,
                "the store's index in the ring of {} is out of range: producer {producer:#x}, consumer {consumer:#x}",
                if *requests { "requests" } else { "replies" }
            ),
            Broken::Oversized { len, op } => {
                write!(f, "the store sent a packet of type {op} with {len} bytes, at most 4096 are allowed")
            }
            Broken::Server(error) => write!(f, "the store has closed the connection: {error}"),
            Broken::Absent => f.write_str("the toolstack has not set up a store connection for this domain"),
            Broken::Stopped => f.write_str("the store client has ended"),
        }
    }
}

impl core::error::Error for Broken {}

impl Error {
    /// An error of whoever asks the store for something, in the words of its own errors.
    pub fn new(op: Op, path: &str, kind: impl Into<ErrorKind>) -> Error {
        Error { op, path: path.into(), kind: kind.into() }
    }

    /// The error's number, where the store has answered with one.
    pub fn errno(&self) -> Option<Errno> {
        match &self.kind {
            ErrorKind::Refused(error) => Some(error.errno),
            _ => None,
        }
    }

    /// Whether the store has no such node.
    pub fn is_not_found(&self) -> bool {
        self.errno() == Some(Errno::ENOENT)
    }

    /// Whether the connection is gone: nothing else will work either.
    pub fn is_broken(&self) -> bool {
        matches!(self.kind, ErrorKind::Broken(_))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "store: {}", self.op)?;
        if !self.path.is_empty() {
            write!(f, " {}", self.path)?;
        }
        f.write_str(": ")?;
        match &self.kind {
            ErrorKind::Request(error) => error.fmt(f),
            ErrorKind::Refused(error) => error.fmt(f),
            ErrorKind::Malformed(what) => write!(f, "malformed reply: {what}"),
            ErrorKind::Value { expected, found } => write!(f, "expected {expected}, found {found:?}"),
            ErrorKind::Contended { tries } => write!(f, "conflicting changes; gave up after {tries} tries"),
            ErrorKind::TooLong { max } => write!(f, "the list takes more than {} KiB of memory", max / 1024),
            ErrorKind::Interrupted => f.write_str("reconnected before the reply came"),
            ErrorKind::Broken(broken) => broken.fmt(f),
        }?;
        // Which of the server's quotas it is (docs/misc/xenstore.txt; tools/xenstored/core.c, watch.c).
        match (self.op, self.errno()) {
            (Op::Watch, Some(Errno::E2BIG | Errno::ENOSPC)) => {
                f.write_str("; xenstored's quota of watches (--watch-nb)")
            }
            (Op::Write | Op::Mkdir, Some(Errno::ENOSPC)) => f.write_str("; xenstored's quota of nodes (--entry-nb)"),
            _ => Ok(()),
        }
    }
}

impl core::error::Error for Error {}

impl From<RequestError> for ErrorKind {
    fn from(error: RequestError) -> Self {
        ErrorKind::Request(error)
    }
}

impl From<ServerError> for ErrorKind {
    fn from(error: ServerError) -> Self {
        ErrorKind::Refused(error)
    }
}

impl From<Malformed> for ErrorKind {
    fn from(error: Malformed) -> Self {
        ErrorKind::Malformed(error)
    }
}

impl From<Broken> for ErrorKind {
    fn from(error: Broken) -> Self {
        ErrorKind::Broken(error)
    }
}

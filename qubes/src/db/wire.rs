//! Messages of QubesDB between two domains, without I/O. Reference: `include/qubesdb.h` and `daemon/db-cmds.c` of
//! qubes-core-qubesdb.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use crate::bytes::{Backlog, u32_at, until_nul};

/// Bytes of a header: type, path, padding, length of the value (`struct qdb_hdr`).
pub const HEADER_LEN: usize = 72;
/// Bytes of a path, at most: its field has one more, for the NUL at its end.
pub const MAX_PATH: usize = 63;
/// Bytes of a value, at most.
pub const MAX_VALUE: usize = 3071;

const PATH_OFFSET: usize = 1;
const LEN_OFFSET: usize = 68;

/// What a message is (`enum qdb_msg`). Other types are for programs and the daemon of their own domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// Set the value of a path.
    Write,
    /// Send all entries.
    MultiRead,
    /// Remove a path, or all that begin with one that ends with `/`.
    Remove,
    /// A [`Write`](Kind::Write) or [`Remove`](Kind::Remove) was carried out.
    Ok,
    /// There was nothing to remove. The original daemon closes the channel after it.
    NotFound,
    /// It was refused.
    Error,
    /// An entry of all; the end where the path is empty.
    Entry,
}

const KINDS: [(Kind, u8); 7] = [
    (Kind::Write, 1),
    (Kind::MultiRead, 2),
    (Kind::Remove, 4),
    (Kind::Ok, 7),
    (Kind::NotFound, 8),
    (Kind::Error, 9),
    (Kind::Entry, 11),
];

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// What it is.
    pub kind: Kind,
    /// The path that it is about, or that of the message that it answers. Empty in some.
    pub path: String,
    /// The value that comes after the header.
    pub value: Vec<u8>,
}

impl Message {
    /// A message without a value.
    pub fn new(kind: Kind, path: &str) -> Message {
        Message { kind, path: path.into(), value: Vec::new() }
    }

    /// Its bytes.
    ///
    /// # Errors
    ///
    /// Where a peer would not accept its path or its value.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        check_path(self.path.as_bytes())?;
        let len = self.value.len();
        if len > MAX_VALUE {
            return Err(WireError::TooLong { len });
        }
        let mut bytes = Vec::with_capacity(HEADER_LEN + len);
        let number = KINDS.iter().find(|(kind, _)| *kind == self.kind).map_or(u8::MAX, |(_, number)| *number);
        bytes.push(number);
        bytes.extend_from_slice(self.path.as_bytes());
        bytes.resize(LEN_OFFSET, 0);
        bytes.extend_from_slice(&(len as u32).to_le_bytes());
        bytes.extend_from_slice(&self.value);
        Ok(bytes)
    }
}

/// Puts messages together from pieces of any length.
#[derive(Debug, Default)]
pub struct Decoder {
    backlog: Backlog,
    /// A header that is checked, whose value is not there yet.
    header: Option<(Kind, String, usize)>,
}

impl Decoder {
    /// Adds what has come.
    pub fn push(&mut self, bytes: &[u8]) {
        self.backlog.push(bytes);
    }

    /// The next message that is there as a whole.
    ///
    /// # Errors
    ///
    /// Where a header makes no sense. What comes after it cannot be told apart.
    pub fn next_message(&mut self) -> Result<Option<Message>, WireError> {
        if self.header.is_none() {
            let Some(header) = self.backlog.take(HEADER_LEN) else { return Ok(None) };
            self.header = Some(decode_header(header)?);
        }
        let Some((kind, path, len)) = self.header.take() else { return Ok(None) };
        match self.backlog.take(len) {
            Some(value) => Ok(Some(Message { kind, value: value.to_vec(), path })),
            None => {
                self.header = Some((kind, path, len));
                Ok(None)
            }
        }
    }
}

fn decode_header(header: &[u8]) -> Result<(Kind, String, usize), WireError> {
    let number = header.first().copied().unwrap_or(u8::MAX);
    let (kind, _) = KINDS.iter().find(|(_, known)| *known == number).ok_or(WireError::UnknownType { found: number })?;
    let field = header.get(PATH_OFFSET..=PATH_OFFSET + MAX_PATH).unwrap_or_default();
    let path = check_path(until_nul(field).ok_or(WireError::BadPath)?)?;
    let len = u32_at(header, LEN_OFFSET).unwrap_or(u32::MAX) as usize;
    if len > MAX_VALUE {
        return Err(WireError::TooLong { len });
    }
    Ok((*kind, path.into(), len))
}

/// What a daemon accepts as a path, be it one of an entry or not (`verify_path`).
fn check_path(path: &[u8]) -> Result<&str, WireError> {
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"_/.:@-".contains(byte);
    if path.len() > MAX_PATH || path.first() == Some(&b'-') || !path.iter().all(allowed) {
        return Err(WireError::BadPath);
    }
    str::from_utf8(path).map_err(|_| WireError::BadPath)
}

/// Whether there can be an entry at this path.
pub fn is_entry(path: &str) -> bool {
    path.starts_with('/') && !path.ends_with('/') && check_path(path.as_bytes()).is_ok()
}

/// Whether an entry can have this value.
pub fn is_value(value: &[u8]) -> bool {
    value.len() <= MAX_VALUE && !value.contains(&0)
}

/// A message that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WireError {
    /// No such type between two domains.
    UnknownType {
        /// The number that was found.
        found: u8,
    },
    /// More than 63 bytes, or others than `A-Z a-z 0-9 _ / . : @ -`, or `-` at the beginning.
    BadPath,
    /// The value is longer than there may be.
    TooLong {
        /// Its bytes.
        len: usize,
    },
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WireError::UnknownType { found } => write!(f, "unknown message type {found}"),
            WireError::BadPath => f.write_str(
                "bad path: more than 63 bytes, or others than A-Z a-z 0-9 _ / . : @ -, or - at the beginning",
            ),
            WireError::TooLong { len } => write!(f, "value of {len} bytes: at most {MAX_VALUE} are allowed"),
        }
    }
}

impl core::error::Error for WireError {}

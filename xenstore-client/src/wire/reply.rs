//! What the server answers.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use xen_hal::Errno;

use super::header::Op;
use super::permissions::Permission;

/// A payload that is not what its operation's should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum Malformed {
    /// No request can have this payload, or no domain may send this.
    Request(Op),
    /// A text does not end with a NUL.
    NoNul,
    /// A text is no UTF-8.
    NotText,
    /// Something else where a number should be.
    NotANumber,
    /// Something else where a permission should be.
    NotAPermission,
    /// Something else where `OK` should be.
    NotOk,
    /// Something else where `T` or `F` should be.
    NotABool,
    /// Something comes after the last argument.
    TooMuch,
    /// The answer is to another operation than was asked for; its number.
    WrongType(u32),
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Malformed::Request(op) => write!(f, "not the payload of a {op} request"),
            Malformed::NoNul => f.write_str("text without a NUL at its end"),
            Malformed::NotText => f.write_str("text that is not UTF-8"),
            Malformed::NotANumber => f.write_str("expected a number"),
            Malformed::NotAPermission => f.write_str("expected a permission"),
            Malformed::NotOk => f.write_str("expected OK"),
            Malformed::NotABool => f.write_str("expected T or F"),
            Malformed::TooMuch => f.write_str("trailing bytes after the last argument"),
            Malformed::WrongType(number) => match Op::from_number(*number) {
                Some(op) => write!(f, "unexpected type {op}"),
                None => write!(f, "unknown type {number}"),
            },
        }
    }
}

impl core::error::Error for Malformed {}

/// An error that the server has answered with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerError {
    /// Which; `EINVAL` for a name that is not one of the protocol's.
    pub errno: Errno,
    /// The name, where it is not one of the protocol's.
    pub unknown: Option<Box<str>>,
}

/// The names that the wire has (`xsd_errors`).
const ERRORS: [Errno; 16] = [
    Errno::EINVAL,
    Errno::EACCES,
    Errno::EEXIST,
    Errno::EISDIR,
    Errno::ENOENT,
    Errno::ENOMEM,
    Errno::ENOSPC,
    Errno::EIO,
    Errno::ENOTEMPTY,
    Errno::ENOSYS,
    Errno::EROFS,
    Errno::EBUSY,
    Errno::EAGAIN,
    Errno::EISCONN,
    Errno::E2BIG,
    Errno::EPERM,
];

impl ServerError {
    /// Reads an `ERROR` reply's payload; any bytes are an error of some kind.
    pub fn parse(payload: &[u8]) -> ServerError {
        /// More of a server's own text is not kept.
        const MAX_SHOWN: usize = 64;
        let name = payload.strip_suffix(b"\0").unwrap_or(payload);
        let known = core::str::from_utf8(name).ok().and_then(Errno::from_name).filter(|errno| ERRORS.contains(errno));
        match known {
            Some(errno) => ServerError { errno, unknown: None },
            None => {
                let text = String::from_utf8_lossy(&name[..name.len().min(MAX_SHOWN)]);
                ServerError { errno: Errno::EINVAL, unknown: Some(text.into()) }
            }
        }
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.unknown {
            None => self.errno.fmt(f),
            Some(text) => write!(f, "unknown error {text:?}"),
        }
    }
}

impl core::error::Error for ServerError {}

/// A change under a watched path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchEvent<'a> {
    /// The node that changed, absolute or relative as the watched path was.
    pub path: &'a str,
    /// The watch's token.
    pub token: &'a str,
}

/// A part of a long list of names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryPart<'a> {
    /// The node's generation: where it differs between parts, they do not belong together.
    pub generation: &'a str,
    /// The names, whole ones.
    pub names: Vec<&'a str>,
    /// Bytes that the names took: how far the next offset is.
    pub len: usize,
    /// Whether this was the last part.
    pub last: bool,
}

fn words(payload: &[u8]) -> impl Iterator<Item = Result<&str, Malformed>> {
    payload.split_inclusive(|byte| *byte == 0).map(|word| {
        let word = word.strip_suffix(b"\0").ok_or(Malformed::NoNul)?;
        core::str::from_utf8(word).map_err(|_| Malformed::NotText)
    })
}

/// One word, with or without its NUL: servers have differed in that.
fn word(payload: &[u8]) -> Result<&str, Malformed> {
    let word = payload.strip_suffix(b"\0").unwrap_or(payload);
    match word.contains(&0) {
        true => Err(Malformed::TooMuch),
        false => core::str::from_utf8(word).map_err(|_| Malformed::NotText),
    }
}

/// The answer to most requests.
pub(crate) fn ok(payload: &[u8]) -> Result<(), Malformed> {
    match word(payload)? {
        "OK" => Ok(()),
        _ => Err(Malformed::NotOk),
    }
}

pub(crate) fn text(payload: &[u8]) -> Result<&str, Malformed> {
    word(payload)
}

pub(crate) fn number<T: core::str::FromStr>(payload: &[u8]) -> Result<T, Malformed> {
    word(payload)?.parse().map_err(|_| Malformed::NotANumber)
}

pub(crate) fn boolean(payload: &[u8]) -> Result<bool, Malformed> {
    match word(payload)? {
        "T" => Ok(true),
        "F" => Ok(false),
        _ => Err(Malformed::NotABool),
    }
}

/// Names one after the other. An empty directory has no bytes; some servers send one NUL.
pub(crate) fn names(payload: &[u8]) -> Result<Vec<&str>, Malformed> {
    words(payload).filter(|word| *word != Ok("")).collect()
}

pub(crate) fn permissions(payload: &[u8]) -> Result<Vec<Permission>, Malformed> {
    words(payload).map(|word| word?.parse().map_err(|()| Malformed::NotAPermission)).collect()
}

pub(crate) fn directory_part(payload: &[u8]) -> Result<DirectoryPart<'_>, Malformed> {
    let end = payload.iter().position(|byte| *byte == 0).ok_or(Malformed::NoNul)?;
    let generation = core::str::from_utf8(&payload[..end]).map_err(|_| Malformed::NotText)?;
    let rest = &payload[end + 1..];
    // The last part ends with one NUL more, which is an empty name.
    let (rest, last) = match rest {
        [] => (rest, true),
        [0] => (&rest[..0], true),
        [before @ .., 0, 0] => (&rest[..before.len() + 1], true),
        _ => (rest, false),
    };
    let names = words(rest).collect::<Result<Vec<_>, _>>()?;
    match names.contains(&"") {
        true => Err(Malformed::TooMuch),
        false => Ok(DirectoryPart { generation, names, len: rest.len(), last }),
    }
}

pub(crate) fn watch_event(payload: &[u8]) -> Result<WatchEvent<'_>, Malformed> {
    let mut words = words(payload);
    let path = words.next().ok_or(Malformed::NoNul)??;
    let token = words.next().ok_or(Malformed::NoNul)??;
    match words.next() {
        None => Ok(WatchEvent { path, token }),
        Some(_) => Err(Malformed::TooMuch),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Access;
    use alloc::string::ToString;
    use alloc::vec;
    use proptest::prelude::*;
    use xen_hal::DomId;

    #[test]
    fn errors_are_known_by_name_or_keep_their_text() {
        for errno in ERRORS {
            let payload = alloc::format!("{}\0", errno.name());
            assert_eq!(ServerError::parse(payload.as_bytes()), ServerError { errno, unknown: None });
        }
        for text in ["EWHAT", "", "EINTR", "no such thing"] {
            let error = ServerError::parse(text.as_bytes());
            assert_eq!((error.errno, error.unknown.as_deref()), (Errno::EINVAL, Some(text)));
        }
        assert_eq!(ServerError::parse(b"EWHAT\0").to_string(), "unknown error \"EWHAT\"");
        let long = ServerError::parse(&[b'x'; 4096]);
        assert_eq!(long.unknown.map(|text| text.len()), Some(64));
    }

    #[test]
    fn replies_are_read() {
        assert_eq!(ok(b"OK\0"), Ok(()));
        assert_eq!(ok(b"OK"), Ok(()));
        assert_eq!(ok(b"KO\0"), Err(Malformed::NotOk));
        assert_eq!(number::<u32>(b"17\0"), Ok(17));
        assert_eq!(number::<u32>(b"-1\0"), Err(Malformed::NotANumber));
        assert_eq!(boolean(b"T\0"), Ok(true));
        assert_eq!(boolean(b"x\0"), Err(Malformed::NotABool));
        assert_eq!(names(b""), Ok(vec![]));
        assert_eq!(names(b"\0"), Ok(vec![]));
        assert_eq!(names(b"a\0bc\0"), Ok(vec!["a", "bc"]));
        assert_eq!(names(b"a\0bc"), Err(Malformed::NoNul));
        assert_eq!(names(b"a\0\xff\0"), Err(Malformed::NotText));
        let expected = vec![Permission::new(DomId(0), Access::None), Permission::new(DomId(7), Access::ReadWrite)];
        assert_eq!(permissions(b"n0\0b7\0"), Ok(expected));
        assert_eq!(permissions(b"x0\0"), Err(Malformed::NotAPermission));
        assert_eq!(watch_event(b"a/b\0t\0"), Ok(WatchEvent { path: "a/b", token: "t" }));
        assert_eq!(watch_event(b"a/b\0t"), Err(Malformed::NoNul));
        assert_eq!(watch_event(b"a\0t\0x\0"), Err(Malformed::TooMuch));
        assert_eq!(watch_event(b""), Err(Malformed::NoNul));
    }

    #[test]
    fn parts_of_directories_tell_where_they_end() {
        let part = |payload| directory_part(payload).unwrap();
        let first = part(b"12\0a\0bc\0");
        assert_eq!((first.generation, &first.names[..], first.len, first.last), ("12", &["a", "bc"][..], 5, false));
        let last = part(b"12\0d\0\0");
        assert_eq!((&last.names[..], last.len, last.last), (&["d"][..], 2, true));
        assert!(part(b"12\0\0").last && part(b"12\0").last);
        assert_eq!(directory_part(b"12"), Err(Malformed::NoNul));
        assert_eq!(directory_part(b"12\0a"), Err(Malformed::NoNul));
        assert_eq!(directory_part(b"12\0a\0\0b\0"), Err(Malformed::TooMuch));
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_reader_panic(payload in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = (ok(&payload), number::<u32>(&payload), boolean(&payload), names(&payload), permissions(&payload));
            let _ = (directory_part(&payload), watch_event(&payload), text(&payload));
            let _ = ServerError::parse(&payload).to_string();
        }
    }
}

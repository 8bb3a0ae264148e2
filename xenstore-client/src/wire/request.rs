//! What a domain asks the store.

use alloc::borrow::Cow;
use alloc::string::ToString;
use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;

use xen_hal::DomId;

use super::header::{HEADER_SIZE, Header, Op};
use super::limits::{MAX_PAYLOAD, PathError, check_path, check_watch_path};
use super::permissions::Permission;
use super::reply::Malformed;

/// A request with its arguments.
///
/// Those from `Control` on are refused with `EACCES` to all but privileged domains.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[allow(missing_docs, reason = "fields are named as the documentation of the wire names them")]
pub enum Request<'a> {
    /// Names of the nodes below a node.
    Directory { path: &'a str },
    /// A part of them, from a byte offset on, with the node's generation.
    DirectoryPart { path: &'a str, offset: u32 },
    /// A node's value.
    Read { path: &'a str },
    /// Sets a node's value; makes the node and those above it.
    Write { path: &'a str, value: &'a [u8] },
    /// Makes a node and those above it; one that exists is left as it is.
    Mkdir { path: &'a str },
    /// Removes a node and all below it.
    Rm { path: &'a str },
    /// A node's permissions.
    GetPerms { path: &'a str },
    /// Sets a node's permissions; only its owner and privileged domains may.
    SetPerms { path: &'a str, permissions: Cow<'a, [Permission]> },
    /// Tells of changes of a node and below it, `depth` levels deep where that is given and offered.
    Watch { path: &'a str, token: &'a str, depth: Option<u32> },
    /// Ends a watch.
    Unwatch { path: &'a str, token: &'a str },
    /// Ends all watches and transactions of the domain.
    ResetWatches,
    /// Begins a transaction.
    TransactionStart,
    /// Ends a transaction: makes its changes, or drops them.
    TransactionEnd { commit: bool },
    /// A domain's own directory.
    GetDomainPath { domain: DomId },
    /// Whether a domain has a connection to the store.
    IsDomainIntroduced { domain: DomId },
    /// What the server offers; of another domain for the privileged.
    GetFeature { domain: Option<DomId> },
    /// Commands to the server itself.
    Control { arguments: Vec<&'a str> },
    /// Tells the server of a domain's ring page and port.
    Introduce { domain: DomId, frame: u64, port: u32 },
    /// Tells the server that a domain is gone.
    Release { domain: DomId },
    /// Tells the server that a suspended domain runs again.
    Resume { domain: DomId },
    /// Gives a domain the rights of another.
    SetTarget { domain: DomId, target: DomId },
    /// Limits what the server offers to a domain.
    SetFeature { domain: DomId, features: u32 },
    /// A quota's value, for a domain or for all new ones; without a name, the names.
    GetQuota { domain: Option<DomId>, quota: Option<&'a str> },
    /// Sets a quota, for a domain or for all new ones.
    SetQuota { domain: Option<DomId>, quota: &'a str, value: u32 },
}

/// Why a request cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum RequestError {
    /// The path is none.
    Path(PathError),
    /// Path, value and all come to more than a packet holds.
    TooLong {
        /// Bytes of payload that it would be.
        len: usize,
    },
    /// An argument holds a NUL, which would end it early.
    Nul,
    /// A list of permissions has at least the owner's entry.
    NoPermissions,
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RequestError::Path(error) => error.fmt(f),
            RequestError::TooLong { len } => {
                write!(f, "the request has {len} bytes of payload, at most {MAX_PAYLOAD} are allowed")
            }
            RequestError::Nul => f.write_str("an argument holds a NUL byte"),
            RequestError::NoPermissions => {
                f.write_str("the list of permissions is empty; its first entry is the owner")
            }
        }
    }
}

impl core::error::Error for RequestError {}

impl From<PathError> for RequestError {
    fn from(error: PathError) -> Self {
        RequestError::Path(error)
    }
}

impl<'a> Request<'a> {
    /// The operation.
    pub fn op(&self) -> Op {
        match self {
            Request::Directory { .. } => Op::Directory,
            Request::DirectoryPart { .. } => Op::DirectoryPart,
            Request::Read { .. } => Op::Read,
            Request::Write { .. } => Op::Write,
            Request::Mkdir { .. } => Op::Mkdir,
            Request::Rm { .. } => Op::Rm,
            Request::GetPerms { .. } => Op::GetPerms,
            Request::SetPerms { .. } => Op::SetPerms,
            Request::Watch { .. } => Op::Watch,
            Request::Unwatch { .. } => Op::Unwatch,
            Request::ResetWatches => Op::ResetWatches,
            Request::TransactionStart => Op::TransactionStart,
            Request::TransactionEnd { .. } => Op::TransactionEnd,
            Request::GetDomainPath { .. } => Op::GetDomainPath,
            Request::IsDomainIntroduced { .. } => Op::IsDomainIntroduced,
            Request::GetFeature { .. } => Op::GetFeature,
            Request::Control { .. } => Op::Control,
            Request::Introduce { .. } => Op::Introduce,
            Request::Release { .. } => Op::Release,
            Request::Resume { .. } => Op::Resume,
            Request::SetTarget { .. } => Op::SetTarget,
            Request::SetFeature { .. } => Op::SetFeature,
            Request::GetQuota { .. } => Op::GetQuota,
            Request::SetQuota { .. } => Op::SetQuota,
        }
    }

    /// What it is about, for messages: a path, a domain's number, a command.
    pub fn subject(&self) -> Cow<'a, str> {
        let domain = |domain: &DomId| Cow::Owned(domain.to_string());
        match self {
            Request::Directory { path }
            | Request::DirectoryPart { path, .. }
            | Request::Read { path }
            | Request::Write { path, .. }
            | Request::Mkdir { path }
            | Request::Rm { path }
            | Request::GetPerms { path }
            | Request::SetPerms { path, .. }
            | Request::Watch { path, .. }
            | Request::Unwatch { path, .. } => Cow::Borrowed(path),
            Request::ResetWatches | Request::TransactionStart | Request::TransactionEnd { .. } => Cow::Borrowed(""),
            Request::GetDomainPath { domain: id }
            | Request::IsDomainIntroduced { domain: id }
            | Request::Introduce { domain: id, .. }
            | Request::Release { domain: id }
            | Request::Resume { domain: id }
            | Request::SetTarget { domain: id, .. }
            | Request::SetFeature { domain: id, .. } => domain(id),
            Request::GetFeature { domain: id } => id.as_ref().map_or(Cow::Borrowed(""), domain),
            Request::Control { arguments } => Cow::Borrowed(arguments.first().copied().unwrap_or("")),
            Request::GetQuota { quota, .. } => Cow::Borrowed(quota.unwrap_or("")),
            Request::SetQuota { quota, .. } => Cow::Borrowed(quota),
        }
    }

    /// Appends the whole packet to `out`, with the checks that the server would make.
    ///
    /// # Errors
    ///
    /// Where it may not be sent; nothing is appended then.
    pub fn encode(&self, request: u32, transaction: u32, out: &mut Vec<u8>) -> Result<(), RequestError> {
        let start = out.len();
        out.extend_from_slice(&[0; HEADER_SIZE]);
        match self.payload(out).and_then(|()| match out.len() - start - HEADER_SIZE {
            len if len <= MAX_PAYLOAD => Ok(len),
            len => Err(RequestError::TooLong { len }),
        }) {
            Ok(len) => {
                let header = Header { op: self.op() as u32, request, transaction, len: len as u32 };
                out[start..start + HEADER_SIZE].copy_from_slice(&header.to_bytes());
                Ok(())
            }
            Err(error) => {
                out.truncate(start);
                Err(error)
            }
        }
    }

    fn payload(&self, out: &mut Vec<u8>) -> Result<(), RequestError> {
        match self {
            Request::Directory { path }
            | Request::Read { path }
            | Request::Mkdir { path }
            | Request::Rm { path }
            | Request::GetPerms { path } => node(out, path),
            Request::DirectoryPart { path, offset } => {
                node(out, path)?;
                number(out, *offset)
            }
            Request::Write { path, value } => {
                node(out, path)?;
                out.extend_from_slice(value);
                Ok(())
            }
            Request::SetPerms { path, permissions } => {
                node(out, path)?;
                if permissions.is_empty() {
                    return Err(RequestError::NoPermissions);
                }
                permissions.iter().try_for_each(|permission| number(out, permission))
            }
            Request::Watch { path, token, depth } => {
                check_watch_path(path)?;
                text(out, path)?;
                text(out, token)?;
                depth.map_or(Ok(()), |depth| number(out, depth))
            }
            Request::Unwatch { path, token } => {
                check_watch_path(path)?;
                text(out, path)?;
                text(out, token)
            }
            Request::ResetWatches | Request::TransactionStart => text(out, ""),
            Request::TransactionEnd { commit } => text(out, if *commit { "T" } else { "F" }),
            Request::GetDomainPath { domain }
            | Request::IsDomainIntroduced { domain }
            | Request::Release { domain }
            | Request::Resume { domain } => number(out, domain.0),
            Request::GetFeature { domain } => domain.map_or(Ok(()), |domain| number(out, domain.0)),
            Request::Control { arguments } => arguments.iter().try_for_each(|argument| text(out, argument)),
            Request::Introduce { domain, frame, port } => {
                number(out, domain.0)?;
                number(out, frame)?;
                number(out, port)
            }
            Request::SetTarget { domain, target } => {
                number(out, domain.0)?;
                number(out, target.0)
            }
            Request::SetFeature { domain, features } => {
                number(out, domain.0)?;
                number(out, features)
            }
            Request::GetQuota { domain, quota } => {
                domain.map_or(Ok(()), |domain| number(out, domain.0))?;
                quota.map_or(Ok(()), |quota| text(out, quota))
            }
            Request::SetQuota { domain, quota, value } => {
                domain.map_or(Ok(()), |domain| number(out, domain.0))?;
                text(out, quota)?;
                number(out, value)
            }
        }
    }

    /// Reads a request's payload, as a server does. Paths are not checked: what to answer is the server's business.
    ///
    /// # Errors
    ///
    /// Where the payload is none for the operation, or the operation is none that a domain may ask for.
    pub fn parse(op: Op, payload: &'a [u8]) -> Result<Request<'a>, Malformed> {
        let mut words = Words { rest: payload };
        let request = match op {
            Op::Directory => Request::Directory { path: words.last()? },
            Op::DirectoryPart => Request::DirectoryPart { path: words.text()?, offset: words.last_number()? },
            Op::Read => Request::Read { path: words.last()? },
            Op::Write => Request::Write { path: words.text()?, value: core::mem::take(&mut words.rest) },
            Op::Mkdir => Request::Mkdir { path: words.last()? },
            Op::Rm => Request::Rm { path: words.last()? },
            Op::GetPerms => Request::GetPerms { path: words.last()? },
            Op::SetPerms => {
                let path = words.text()?;
                let mut permissions = Vec::new();
                while !words.rest.is_empty() {
                    permissions.push(words.number()?);
                }
                Request::SetPerms { path, permissions: permissions.into() }
            }
            Op::Watch => {
                let (path, token) = (words.text()?, words.text()?);
                let depth = if words.rest.is_empty() { None } else { Some(words.number()?) };
                Request::Watch { path, token, depth }
            }
            Op::Unwatch => Request::Unwatch { path: words.text()?, token: words.last()? },
            Op::ResetWatches | Op::TransactionStart => {
                if !words.last()?.is_empty() {
                    return Err(Malformed::Request(op));
                }
                if op == Op::ResetWatches { Request::ResetWatches } else { Request::TransactionStart }
            }
            Op::TransactionEnd => match words.last()? {
                "T" => Request::TransactionEnd { commit: true },
                "F" => Request::TransactionEnd { commit: false },
                _ => return Err(Malformed::Request(op)),
            },
            Op::GetDomainPath => Request::GetDomainPath { domain: words.last_number()? },
            Op::IsDomainIntroduced => Request::IsDomainIntroduced { domain: words.last_number()? },
            Op::Release => Request::Release { domain: words.last_number()? },
            Op::Resume => Request::Resume { domain: words.last_number()? },
            Op::GetFeature if payload.is_empty() => Request::GetFeature { domain: None },
            Op::GetFeature => Request::GetFeature { domain: Some(words.last_number()?) },
            Op::Control => {
                let mut arguments = Vec::new();
                while !words.rest.is_empty() {
                    arguments.push(words.text()?);
                }
                Request::Control { arguments }
            }
            Op::Introduce => {
                Request::Introduce { domain: words.number()?, frame: words.number()?, port: words.last_number()? }
            }
            Op::SetTarget => Request::SetTarget { domain: words.number()?, target: words.last_number()? },
            Op::SetFeature => Request::SetFeature { domain: words.number()?, features: words.last_number()? },
            Op::GetQuota | Op::SetQuota => {
                let mut list = Vec::new();
                while !words.rest.is_empty() {
                    list.push(words.text()?);
                }
                let domain = |text: &str| text.parse().map(Some).map_err(|_| Malformed::Request(op));
                match (op, list.as_slice()) {
                    (Op::GetQuota, []) => Request::GetQuota { domain: None, quota: None },
                    (Op::GetQuota, [quota]) => Request::GetQuota { domain: None, quota: Some(quota) },
                    (Op::GetQuota, [id, quota]) => Request::GetQuota { domain: domain(id)?, quota: Some(quota) },
                    (Op::SetQuota, [.., value]) => {
                        let value = value.parse().map_err(|_| Malformed::Request(op))?;
                        match list.as_slice() {
                            [quota, _] => Request::SetQuota { domain: None, quota, value },
                            [id, quota, _] => Request::SetQuota { domain: domain(id)?, quota, value },
                            _ => return Err(Malformed::Request(op)),
                        }
                    }
                    _ => return Err(Malformed::Request(op)),
                }
            }
            Op::WatchEvent | Op::Error => return Err(Malformed::Request(op)),
        };
        match words.rest.is_empty() {
            true => Ok(request),
            false => Err(Malformed::Request(op)),
        }
    }
}

fn node(out: &mut Vec<u8>, path: &str) -> Result<(), RequestError> {
    check_path(path)?;
    text(out, path)
}

fn text(out: &mut Vec<u8>, text: &str) -> Result<(), RequestError> {
    if text.contains('\0') {
        return Err(RequestError::Nul);
    }
    out.extend_from_slice(text.as_bytes());
    out.push(0);
    Ok(())
}

fn number(out: &mut Vec<u8>, value: impl fmt::Display) -> Result<(), RequestError> {
    struct Bytes<'a>(&'a mut Vec<u8>);
    impl fmt::Write for Bytes<'_> {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0.extend_from_slice(text.as_bytes());
            Ok(())
        }
    }
    let _ = fmt::Write::write_fmt(&mut Bytes(out), format_args!("{value}\0"));
    Ok(())
}

/// Words that end with a NUL each.
struct Words<'a> {
    rest: &'a [u8],
}

impl<'a> Words<'a> {
    fn text(&mut self) -> Result<&'a str, Malformed> {
        let end = self.rest.iter().position(|byte| *byte == 0).ok_or(Malformed::NoNul)?;
        let (word, rest) = self.rest.split_at(end);
        self.rest = &rest[1..];
        core::str::from_utf8(word).map_err(|_| Malformed::NotText)
    }

    fn last(&mut self) -> Result<&'a str, Malformed> {
        let word = self.text()?;
        match self.rest.is_empty() {
            true => Ok(word),
            false => Err(Malformed::TooMuch),
        }
    }

    fn number<T: FromStr>(&mut self) -> Result<T, Malformed> {
        self.text()?.parse().map_err(|_| Malformed::NotANumber)
    }

    fn last_number<T: FromStr>(&mut self) -> Result<T, Malformed> {
        self.last()?.parse().map_err(|_| Malformed::NotANumber)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Access, HEADER_SIZE};
    use alloc::string::String;
    use alloc::vec;
    use proptest::prelude::*;

    fn packet(request: &Request<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        request.encode(7, 9, &mut out).unwrap();
        let header = Header::from_bytes(out[..HEADER_SIZE].try_into().unwrap());
        assert_eq!(header.op, request.op() as u32);
        assert_eq!((header.request, header.transaction), (7, 9));
        assert_eq!(header.len as usize, out.len() - HEADER_SIZE);
        out.split_off(HEADER_SIZE)
    }

    /// Payloads as docs/misc/xenstore.txt writes them, `|` for NUL.
    #[test]
    fn payloads_are_as_documented() {
        let permissions = [Permission::new(DomId(3), Access::None), Permission::new(DomId(0), Access::Read)];
        let cases: &[(Request<'_>, &str)] = &[
            (Request::Directory { path: "/a" }, "/a|"),
            (Request::DirectoryPart { path: "/a", offset: 12 }, "/a|12|"),
            (Request::Read { path: "a/b" }, "a/b|"),
            (Request::Write { path: "a", value: b"v" }, "a|v"),
            (Request::Write { path: "a", value: b"" }, "a|"),
            (Request::Write { path: "a", value: b"x\0y" }, "a|x|y"),
            (Request::Mkdir { path: "a" }, "a|"),
            (Request::Rm { path: "a" }, "a|"),
            (Request::GetPerms { path: "a" }, "a|"),
            (Request::SetPerms { path: "a", permissions: permissions[..].into() }, "a|n3|r0|"),
            (Request::Watch { path: "a", token: "t", depth: None }, "a|t|"),
            (Request::Watch { path: "@releaseDomain", token: "t", depth: Some(1) }, "@releaseDomain|t|1|"),
            (Request::Unwatch { path: "a", token: "t" }, "a|t|"),
            (Request::ResetWatches, "|"),
            (Request::TransactionStart, "|"),
            (Request::TransactionEnd { commit: true }, "T|"),
            (Request::TransactionEnd { commit: false }, "F|"),
            (Request::GetDomainPath { domain: DomId(5) }, "5|"),
            (Request::IsDomainIntroduced { domain: DomId(5) }, "5|"),
            (Request::GetFeature { domain: None }, ""),
            (Request::GetFeature { domain: Some(DomId(5)) }, "5|"),
            (Request::Control { arguments: vec!["print", "x"] }, "print|x|"),
            (Request::Introduce { domain: DomId(5), frame: 1_044_476, port: 1 }, "5|1044476|1|"),
            (Request::Release { domain: DomId(5) }, "5|"),
            (Request::Resume { domain: DomId(5) }, "5|"),
            (Request::SetTarget { domain: DomId(5), target: DomId(6) }, "5|6|"),
            (Request::SetFeature { domain: DomId(5), features: 2 }, "5|2|"),
            (Request::GetQuota { domain: None, quota: None }, ""),
            (Request::GetQuota { domain: None, quota: Some("nodes") }, "nodes|"),
            (Request::GetQuota { domain: Some(DomId(5)), quota: Some("nodes") }, "5|nodes|"),
            (Request::SetQuota { domain: Some(DomId(5)), quota: "nodes", value: 8 }, "5|nodes|8|"),
            (Request::SetQuota { domain: None, quota: "nodes", value: 8 }, "nodes|8|"),
        ];
        for (request, expected) in cases {
            let payload = packet(request);
            assert_eq!(payload, expected.replace('|', "\0").as_bytes(), "{request:?}");
            assert_eq!(Request::parse(request.op(), &payload).as_ref(), Ok(request));
        }
        let ops: alloc::collections::BTreeSet<u32> = cases.iter().map(|(request, _)| request.op() as u32).collect();
        let all = Op::ALL.iter().filter(|op| !matches!(op, Op::WatchEvent | Op::Error)).map(|op| *op as u32);
        assert_eq!(ops, all.collect(), "every operation that a domain may send is here");
    }

    #[test]
    fn what_may_not_be_sent_is_not() {
        let mut out = vec![1];
        let value = vec![0; 4090];
        for (request, expected) in [
            (Request::Write { path: "a", value: &value[..] }, None),
            (Request::Write { path: "path6", value: &value[..] }, None),
            (Request::Write { path: "path67", value: &value[..] }, Some(RequestError::TooLong { len: 4097 })),
            (Request::Read { path: "a b" }, Some(RequestError::Path(PathError::Character { character: ' ', at: 1 }))),
            (Request::Rm { path: "@introduceDomain" }, Some(RequestError::Path(PathError::Special))),
            (Request::Watch { path: "a", token: "t\0", depth: None }, Some(RequestError::Nul)),
            (Request::SetPerms { path: "a", permissions: [][..].into() }, Some(RequestError::NoPermissions)),
        ] {
            out.truncate(1);
            assert_eq!(request.encode(1, 0, &mut out).err(), expected);
            assert_eq!(out.len() == 1, expected.is_some(), "nothing of a refused request is left");
        }
    }

    proptest! {
        /// A server can read what a client writes, and reading never panics.
        #[test]
        fn any_bytes_are_read_or_refused(op in 0_u32..30, payload in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Some(op) = Op::from_number(op)
                && let Ok(request) = Request::parse(op, &payload)
            {
                let mut out = Vec::new();
                if request.encode(0, 0, &mut out).is_ok() {
                    let again = Request::parse(op, &out[HEADER_SIZE..]);
                    prop_assert_eq!(again, Ok(request));
                }
            }
        }

        #[test]
        fn writes_lead_back(path in "(/[a-z0-9@_-]{1,8}){1,5}", value in prop::collection::vec(any::<u8>(), 0..300)) {
            let request = Request::Write { path: &path, value: &value };
            let payload = packet(&request);
            prop_assert_eq!(Request::parse(Op::Write, &payload), Ok(request.clone()));
        }

        #[test]
        fn headers_lead_back(bytes in any::<[u8; HEADER_SIZE]>()) {
            let header = Header::from_bytes(&bytes);
            prop_assert_eq!(header.to_bytes(), bytes);
            prop_assert_eq!(header.payload_len().is_some(), header.len <= 4096);
        }
    }

    #[test]
    fn errors_tell_what_was_wrong() {
        let text = |request: Request<'_>| -> String { request.encode(0, 0, &mut Vec::new()).unwrap_err().to_string() };
        assert_eq!(
            text(Request::Write { path: "a", value: &[0; 5000] }),
            "the request has 5002 bytes of payload, at most 4096 are allowed"
        );
        assert_eq!(text(Request::Read { path: "a?" }), "the path holds '?' at byte 1; allowed are A-Z a-z 0-9 - / _ @");
    }
}

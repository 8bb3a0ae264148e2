//! A request, as its head tells it (RFC 9112, sections 3, 5, 6; RFC 9110, sections 7.2, 8.6, 10.1.1).

use crate::Refusal;

/// What is to be done with the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Method<'a> {
    /// Its content is asked for.
    Get,
    /// What would come before the content.
    Head,
    /// Another one of RFC 9110 and RFC 5789.
    Other(&'a str),
    /// One that nobody has heard of here: 501 and not 405 (RFC 9110, 9.1).
    Unknown(&'a str),
}

impl<'a> Method<'a> {
    fn new(name: &'a str) -> Method<'a> {
        match name {
            "GET" => Method::Get,
            "HEAD" => Method::Head,
            "POST" | "PUT" | "DELETE" | "CONNECT" | "OPTIONS" | "TRACE" | "PATCH" => Method::Other(name),
            _ => Method::Unknown(name),
        }
    }
}

/// A request whose head is whole, and in which nothing is open to interpretation.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The request line as it was sent, without its end.
    pub line: &'a str,
    /// Its method.
    pub method: Method<'a>,
    /// The host that is meant, and perhaps a port: what the target names, or else `Host`. Empty where nothing was said.
    pub host: &'a str,
    /// The path as it was sent: it begins with `/`, but for `*` of OPTIONS and for what CONNECT names.
    pub path: &'a str,
    /// What stands behind `?`.
    pub query: Option<&'a str>,
    /// Its header fields.
    pub fields: Fields<'a>,
    /// HTTP/1.0, and not a later one.
    pub is_1_0: bool,
    /// The connection is to stay for another one.
    pub keep_alive: bool,
    /// Bytes of content behind the head, where that is said in it.
    pub content: u64,
    /// The content is [chunked](crate::Chunked), and says itself where it ends.
    pub is_chunked: bool,
    /// The client waits for 100 before it sends content.
    pub expects_continue: bool,
}

impl<'a> Request<'a> {
    /// Reads a head that a [`Scanner`](crate::Scanner) has found.
    ///
    /// # Errors
    ///
    /// Where it is not one, or cannot be told from another.
    ///
    /// # Examples
    ///
    /// ```
    /// use sarab_http::{Refusal, Request};
    ///
    /// // Two readers could take different parts for the next request.
    /// let head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n";
    /// assert!(Request::parse(head).is_err());
    /// ```
    pub fn parse(head: &'a [u8]) -> Result<Request<'a>, Refusal> {
        let (line, fields) = split_line(head).ok_or(Refusal::RequestLine)?;
        let (method, target, is_1_0) = request_line(line)?;
        let Target { authority, path, query } = target_parts(method, target)?;
        let mut request = Request {
            line: core::str::from_utf8(line).map_err(|_| Refusal::RequestLine)?,
            method: Method::new(method),
            host: authority.unwrap_or_default(),
            path,
            query,
            fields: Fields(fields),
            is_1_0,
            keep_alive: !is_1_0,
            content: 0,
            is_chunked: false,
            expects_continue: false,
        };
        request.read_fields(authority.is_some())?;
        // What follows it may be no HTTP at all.
        request.keep_alive &= method != "CONNECT";
        Ok(request)
    }

    /// What the fields say of the connection and of the content.
    fn read_fields(&mut self, has_authority: bool) -> Result<(), Refusal> {
        let (mut hosts, mut length, mut encoding) = (0, None, Encoding::None);
        let (mut close, mut keep) = (false, false);
        for line in lines(self.fields.0) {
            let (name, value) = field(line)?;
            let is = |known: &str| name.eq_ignore_ascii_case(known);
            if is("host") {
                hosts += 1;
                if !is_authority(value) {
                    return Err(Refusal::Host);
                }
                // What the target names is meant, whatever is here (RFC 9112, 3.2.2).
                if !has_authority {
                    self.host = core::str::from_utf8(value).map_err(|_| Refusal::Host)?;
                }
            } else if is("content-length") {
                // Also where all say the same: one of two readers may look at the first, and one at the last.
                if length.replace(number(value).ok_or(Refusal::ContentLength)?).is_some() {
                    return Err(Refusal::ContentLength);
                }
            } else if is("transfer-encoding") {
                encoding.add(value);
            } else if is("connection") {
                close |= list(value).any(|option| option.eq_ignore_ascii_case(b"close"));
                keep |= list(value).any(|option| option.eq_ignore_ascii_case(b"keep-alive"));
            } else if is("expect") && !self.is_1_0 {
                if !value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(Refusal::Expectation);
                }
                self.expects_continue = true;
            }
        }
        match hosts {
            0 if !self.is_1_0 => return Err(Refusal::NoHost),
            0 | 1 => {}
            _ => return Err(Refusal::ManyHosts),
        }
        self.is_chunked = encoding.check(length.is_some() || self.is_1_0)?;
        self.content = length.unwrap_or(0);
        self.expects_continue &= self.content > 0 || self.is_chunked;
        self.keep_alive = !close && (!self.is_1_0 || keep);
        Ok(())
    }
}

/// What `Transfer-Encoding` says.
enum Encoding {
    None,
    /// `chunked`, once and alone.
    Chunked,
    /// Others, and `chunked` as the last.
    ChunkedLast,
    /// None of these.
    Wrong,
}

impl Encoding {
    fn add(&mut self, value: &[u8]) {
        let mut codings = list(value).peekable();
        if codings.peek().is_none() {
            *self = Encoding::Wrong;
        }
        for coding in codings {
            *self = match (&self, coding.eq_ignore_ascii_case(b"chunked")) {
                (Encoding::None, true) => Encoding::Chunked,
                (Encoding::Wrong, true) => Encoding::ChunkedLast,
                _ => Encoding::Wrong,
            };
        }
    }

    /// Whether content is chunked.
    fn check(self, ambiguous: bool) -> Result<bool, Refusal> {
        match self {
            Encoding::None => Ok(false),
            _ if ambiguous => Err(Refusal::AmbiguousLength),
            Encoding::Chunked => Ok(true),
            Encoding::ChunkedLast => Err(Refusal::UnknownEncoding),
            Encoding::Wrong => Err(Refusal::EndlessEncoding),
        }
    }
}

/// The header fields of a request.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// All of them, in their order.
    pub fn iter(self) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        lines(self.0).filter_map(|line| field(line).ok())
    }

    /// The values of all fields of this name that are text.
    pub fn all(self, name: &str) -> impl Iterator<Item = &'a str> {
        self.iter()
            .filter(move |(own, _)| own.eq_ignore_ascii_case(name))
            .filter_map(|(_, value)| core::str::from_utf8(value).ok())
    }

    /// The value of the one field of this name; nothing where there are several.
    pub fn one(self, name: &str) -> Option<&'a str> {
        let mut all = self.all(name);
        let first = all.next()?;
        all.next().is_none().then_some(first)
    }
}

/// Checks a request line, before the rest has come.
pub(crate) fn check_line(line: &[u8]) -> Result<(), Refusal> {
    let (method, target, _) = request_line(line)?;
    target_parts(method, target).map(drop)
}

/// Method, target, and whether it is HTTP/1.0.
fn request_line(line: &[u8]) -> Result<(&str, &str, bool), Refusal> {
    let mut parts = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Refusal::RequestLine);
    };
    let method = token(method).ok_or(Refusal::RequestLine)?;
    let is_1_0 = match version {
        b"HTTP/1.0" => true,
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'1'..=b'9'] => false,
        [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => return Err(Refusal::Version),
        _ => return Err(Refusal::RequestLine),
    };
    let target = core::str::from_utf8(target).map_err(|_| Refusal::Target)?;
    if target.is_empty() || target.bytes().any(|byte| matches!(byte, 0..=b' ' | 0x7f | b'#')) {
        return Err(Refusal::Target);
    }
    Ok((method, target, is_1_0))
}

/// What a target names.
struct Target<'a> {
    authority: Option<&'a str>,
    path: &'a str,
    query: Option<&'a str>,
}

/// The parts of a target (RFC 9112, 3.2).
fn target_parts<'a>(method: &str, target: &'a str) -> Result<Target<'a>, Refusal> {
    if method == "CONNECT" || (target == "*" && method == "OPTIONS") {
        return Ok(Target { authority: None, path: target, query: None });
    }
    let (authority, rest) = if target.starts_with('/') {
        (None, target)
    } else {
        // A whole URI, which a server has to take as well.
        let (scheme, rest) = target.split_once("://").ok_or(Refusal::Target)?;
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at(end);
        let known = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
        if !known || authority.is_empty() || !is_authority(authority.as_bytes()) {
            return Err(Refusal::Target);
        }
        (Some(authority), rest)
    };
    let (path, query) = match rest.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (rest, None),
    };
    // The server as a whole, as a proxy passes `*` on (3.2.4).
    let path = match path {
        "" if method == "OPTIONS" && query.is_none() => "*",
        "" => "/",
        path => path,
    };
    Ok(Target { authority, path, query })
}

/// The name and the value of a field line.
pub(crate) fn field(line: &[u8]) -> Result<(&str, &[u8]), Refusal> {
    if line.starts_with(b" ") || line.starts_with(b"\t") {
        return Err(Refusal::Folded);
    }
    let colon = line.iter().position(|byte| *byte == b':').ok_or(Refusal::FieldName)?;
    // White space before the colon is no part of a token (RFC 9112, 5.1).
    let name = token(&line[..colon]).ok_or(Refusal::FieldName)?;
    Ok((name, trim(&line[colon + 1..])))
}

/// The lines of a part of a head, up to the empty one.
fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    core::iter::from_fn(move || {
        let (line, after) = split_line(rest)?;
        rest = after;
        (!line.is_empty()).then_some(line)
    })
}

fn split_line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    Some((bytes[..end].strip_suffix(b"\r")?, &bytes[end + 1..]))
}

fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// The parts of a list that are not empty.
fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(trim).filter(|part| !part.is_empty())
}

/// A name by RFC 9110, 5.6.2.
fn token(bytes: &[u8]) -> Option<&str> {
    if bytes.is_empty() || !bytes.iter().all(|byte| is_token(*byte)) {
        return None;
    }
    core::str::from_utf8(bytes).ok()
}

/// Whether a byte may be in a name.
pub(crate) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Decimal digits and nothing else.
fn number(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    core::str::from_utf8(value).ok()?.parse().ok()
}

/// A host and perhaps a port, or nothing at all (RFC 3986, 3.2; no user may be named).
fn is_authority(value: &[u8]) -> bool {
    let (host, port) = match value {
        [b'[', rest @ ..] => {
            let end = rest.iter().position(|byte| *byte == b']').unwrap_or(0);
            if end == 0 || !rest[..end].iter().all(|byte| byte.is_ascii_hexdigit() || b":.".contains(byte)) {
                return false;
            }
            (&[][..], &rest[end + 1..])
        }
        _ => value.split_at(value.iter().position(|byte| *byte == b':').unwrap_or(value.len())),
    };
    let port_is_one = match port {
        [] => true,
        [b':', digits @ ..] => digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    // A comma could stand there, and is what becomes of two fields that somebody has joined.
    host.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+;=".contains(byte)) && port_is_one
}

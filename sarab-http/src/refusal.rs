//! Requests that are not answered as they ask.

use core::fmt;

/// Why a request is refused (RFC 9110, RFC 9112). After each of these the connection ends: where the request stops, and
/// what follows it, is not certain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// The first line is not `METHOD TARGET HTTP/1.x`.
    RequestLine,
    /// The target is neither a path nor a URI of http, or holds what none may.
    Target,
    /// A version that is not spoken here.
    Version,
    /// The first line is too long.
    TargetTooLong,
    /// All lines together are too long.
    HeadTooLarge,
    /// A line ends in LF alone, CR stands alone, or there is another control character.
    ControlCharacter,
    /// A field line begins with white space, as continued lines once did.
    Folded,
    /// A field line has no colon, or its name is no token.
    FieldName,
    /// HTTP/1.1 without `Host`.
    NoHost,
    /// Several `Host`.
    ManyHosts,
    /// A `Host` that is none.
    Host,
    /// A `Content-Length` that is no number, or several of them.
    ContentLength,
    /// `Transfer-Encoding` beside `Content-Length`, or in HTTP/1.0.
    AmbiguousLength,
    /// A `Transfer-Encoding` that does not end in `chunked`.
    EndlessEncoding,
    /// A `Transfer-Encoding` that nobody understands here.
    UnknownEncoding,
    /// Chunked content that is not written as it has to be.
    Chunk,
    /// More content than is taken.
    ContentTooLarge,
    /// `Expect` asks for something else than `100-continue`.
    Expectation,
    /// The request did not come to its end in time.
    Late,
    /// The client has ended it in the middle.
    Incomplete,
    /// There was no answer in time: others come first.
    Busy,
}

impl Refusal {
    /// The status code that says so.
    pub const fn status(self) -> u16 {
        match self {
            Refusal::Late => 408,
            Refusal::ContentTooLarge => 413,
            Refusal::TargetTooLong => 414,
            Refusal::Expectation => 417,
            Refusal::HeadTooLarge => 431,
            Refusal::UnknownEncoding => 501,
            Refusal::Busy => 503,
            Refusal::Version => 505,
            _ => 400,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refusal::RequestLine => "the request line is not METHOD TARGET HTTP/1.1",
            Refusal::Target => "the request target is neither a path nor an http URI",
            Refusal::Version => "only HTTP/1.1 and HTTP/1.0 are supported",
            Refusal::TargetTooLong => "the request line is too long",
            Refusal::HeadTooLarge => "the header fields are too long",
            Refusal::ControlCharacter => "a control character in the header; lines end in CR LF",
            Refusal::Folded => "a header line begins with white space",
            Refusal::FieldName => "a header line is not NAME: VALUE",
            Refusal::NoHost => "no Host header",
            Refusal::ManyHosts => "more than one Host header",
            Refusal::Host => "invalid Host header",
            Refusal::ContentLength => "invalid Content-Length header",
            Refusal::AmbiguousLength => "Transfer-Encoding beside Content-Length, or in HTTP/1.0",
            Refusal::EndlessEncoding => "the last transfer coding is not chunked",
            Refusal::UnknownEncoding => "unsupported transfer coding",
            Refusal::Chunk => "invalid chunked content",
            Refusal::ContentTooLarge => "the content is too large",
            Refusal::Expectation => "unsupported expectation",
            Refusal::Late => "the request took too long",
            Refusal::Incomplete => "the request ends in the middle",
            Refusal::Busy => "the server is busy",
        })
    }
}

impl core::error::Error for Refusal {}

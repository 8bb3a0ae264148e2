//! Where a request's head ends, found while it comes, byte by byte where a client sends it so.

use core::ops::Range;

use crate::Refusal;
use crate::request;

/// Looks for the end of a head in a buffer that fills. Each byte is looked at once, and a line once more when it is whole:
/// what cannot become a request is refused before the rest of it has come.
///
/// # Examples
///
/// ```
/// use sarab_http::{Refusal, Request, Scanner};
///
/// let mut scanner = Scanner::new();
/// let mut received = b"GET /docs?page=2 HTTP/1.1\r\nHost: exam".to_vec();
/// assert_eq!(scanner.scan(&received)?, None); // more is to come
/// received.extend(b"ple.org\r\n\r\n");
/// let head = scanner.scan(&received)?.expect("the head is whole");
///
/// let request = Request::parse(&received[head])?;
/// assert_eq!((request.path, request.query), ("/docs", Some("page=2")));
/// assert_eq!(request.fields.one("host"), Some("example.org"));
/// # Ok::<(), Refusal>(())
/// ```
#[derive(Debug, Default)]
pub struct Scanner {
    /// Bytes that were looked at.
    seen: usize,
    /// Where the current line begins.
    line: usize,
    /// Where the head begins: behind an empty line, if there was one.
    start: usize,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    /// Nothing has come.
    #[default]
    Begin,
    /// One empty line has come (RFC 9112, 2.2: at least one should be ignored).
    AfterEmptyLine,
    /// The request line has.
    Fields,
}

impl Scanner {
    /// One for a head that has not begun.
    pub const fn new() -> Scanner {
        Scanner { seen: 0, line: 0, start: 0, stage: Stage::Begin }
    }

    /// Looks at what is new in `buffer`, all of which has come since the last request's end. Returns where the head is
    /// once it is whole.
    ///
    /// # Errors
    ///
    /// Where it will never be one.
    pub fn scan(&mut self, buffer: &[u8]) -> Result<Option<Range<usize>>, Refusal> {
        while let Some(byte) = buffer.get(self.seen).copied() {
            let after_return = self.seen > self.line && buffer[self.seen - 1] == b'\r';
            // CR and LF stand together or not at all: others would see lines elsewhere (RFC 9112, 2.2 and 11.2).
            match byte {
                b'\n' if after_return => {}
                _ if after_return => return Err(Refusal::ControlCharacter),
                b'\r' | b'\t' | b' '..=b'~' | 0x80.. => {
                    self.seen += 1;
                    continue;
                }
                _ => return Err(Refusal::ControlCharacter),
            }
            let line = &buffer[self.line..self.seen - 1];
            self.seen += 1;
            self.line = self.seen;
            match (self.stage, line.is_empty()) {
                (Stage::Begin, true) => {
                    self.stage = Stage::AfterEmptyLine;
                    self.start = self.seen;
                }
                (Stage::AfterEmptyLine, true) => return Err(Refusal::RequestLine),
                (Stage::Begin | Stage::AfterEmptyLine, false) => {
                    request::check_line(line)?;
                    self.stage = Stage::Fields;
                }
                (Stage::Fields, true) => return Ok(Some(self.start..self.seen)),
                (Stage::Fields, false) => drop(request::field(line)?),
            }
        }
        Ok(None)
    }

    /// What it says where there is no room for more of the head.
    pub const fn too_long(&self) -> Refusal {
        match self.stage {
            Stage::Fields => Refusal::HeadTooLarge,
            _ => Refusal::TargetTooLong,
        }
    }
}

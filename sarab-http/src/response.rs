//! Answers: what they say, and what they hold.

use alloc::borrow::Cow;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;

/// What an answer holds, of a length that is known before.
#[allow(async_fn_in_trait, reason = "one core: no future has to be `Send`")]
pub trait Content {
    /// Its media type.
    fn media_type(&self) -> &str;

    /// All its bytes.
    fn length(&self) -> u64;

    /// The next of its bytes: `most` or less, and at least one. Nothing where it cannot be finished: the connection is
    /// then cut, by which a client sees that something is missing.
    ///
    /// # Cancellation
    ///
    /// Is dropped where the connection ends.
    async fn next(&mut self, most: usize) -> Option<&[u8]>;

    /// The client takes nothing at the moment: whatever can be had again is to be given back.
    fn pause(&mut self) {}
}

/// No content.
#[derive(Clone, Copy, Debug)]
pub enum Nothing {}

impl Content for Nothing {
    fn media_type(&self) -> &str {
        match *self {}
    }

    fn length(&self) -> u64 {
        match *self {}
    }

    async fn next(&mut self, _: usize) -> Option<&[u8]> {
        match *self {}
    }
}

/// A text.
#[derive(Clone, Debug)]
pub struct Text {
    media_type: &'static str,
    text: Cow<'static, str>,
    given: usize,
}

impl Text {
    /// A text of this media type.
    pub fn new(media_type: &'static str, text: impl Into<Cow<'static, str>>) -> Text {
        Text { media_type, text: text.into(), given: 0 }
    }
}

impl Content for Text {
    fn media_type(&self) -> &str {
        self.media_type
    }

    fn length(&self) -> u64 {
        self.text.len() as u64
    }

    async fn next(&mut self, most: usize) -> Option<&[u8]> {
        let start = self.given;
        self.given = self.text.len().min(start + most);
        self.text.as_bytes().get(start..self.given)
    }
}

/// An answer.
///
/// # Examples
///
/// ```
/// use sarab_http::{Response, Text};
///
/// let moved = Response::<Text>::new(301, None).with("Location", "/docs/");
/// let page = Response::new(200, Text::new("text/html", "<h1>Hello</h1>"));
/// assert!(moved.content.is_none() && page.content.is_some());
/// ```
#[derive(Clone, Debug)]
pub struct Response<C> {
    /// Its status code.
    pub status: u16,
    /// Header fields besides those of the content and of the connection.
    pub fields: Vec<(&'static str, String)>,
    /// What it holds; nothing where the client has it already.
    pub content: Option<C>,
}

impl<C: Content> Response<C> {
    /// An answer without header fields.
    pub fn new(status: u16, content: impl Into<Option<C>>) -> Response<C> {
        Response { status, fields: Vec::new(), content: content.into() }
    }

    /// With another header field.
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Response<C> {
        self.fields.push((name, value.into()));
        self
    }

    /// The head, for a client whose connection stays or does not.
    pub(crate) fn head(&self, keep_alive: bool, is_1_0: bool) -> String {
        let mut head = String::with_capacity(256);
        let mut line = |name: &str, value: &dyn core::fmt::Display| {
            let _ = write!(head, "{name}{value}\r\n");
        };
        line("HTTP/1.1 ", &format_args!("{} {}", self.status, reason(self.status)));
        match &self.content {
            Some(content) => {
                line("Content-Type: ", &content.media_type());
                line("Content-Length: ", &content.length());
            }
            // Of these nobody expects content.
            None if matches!(self.status, 100..=199 | 204 | 304) => {}
            None => line("Content-Length: ", &0),
        }
        for (name, value) in &self.fields {
            // A value that ends the line would be another field, or another answer.
            if !value.bytes().any(|byte| byte.is_ascii_control()) {
                line(name, &format_args!(": {value}"));
            }
        }
        match (keep_alive, is_1_0) {
            (false, _) => line("Connection: close", &""),
            (true, true) => line("Connection: keep-alive", &""),
            (true, false) => {}
        }
        head.push_str("\r\n");
        head
    }
}

/// What stands behind a status code.
fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        206 => "Partial Content",
        301 => "Moved Permanently",
        304 => "Not Modified",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        411 => "Length Required",
        413 => "Content Too Large",
        414 => "URI Too Long",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

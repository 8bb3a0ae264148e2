//! What is wrong in a text, and where.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use super::error::ErrorKind;
use super::warning::WarningKind;

/// The name of the text in messages, until [`Errors::named`] gives another.
pub(super) const FILE: &str = "gate.rules";
/// Characters of a line that a message shows.
const MAX_EXCERPT: usize = 100;
/// Characters before what is marked, if the line is longer than that.
const EXCERPT_BEFORE: usize = 40;

/// Where something is in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The line, from 1.
    pub line: usize,
    /// The first character's column, from 1. It can be one behind the line's last, if something is missing there.
    pub column: usize,
    /// How many characters are marked, at least 1.
    pub width: usize,
}

/// Something to say about a place in a text.
///
/// It is displayed like a compiler's message, in two or three lines: where and what, the line, and a mark below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic<K> {
    /// Where it is.
    pub span: Span,
    /// What is wrong.
    pub kind: K,
    /// The part of the line that is shown, and how many of its characters precede the mark.
    excerpt: (Box<str>, usize),
}

/// Something in a text that has no meaning.
pub type Error = Diagnostic<ErrorKind>;

/// Something in a text that is probably not what was meant.
pub type Warning = Diagnostic<WarningKind>;

impl<K> Diagnostic<K> {
    pub(super) fn new(text: &str, span: Span, kind: K) -> Self {
        let line = text.split('\n').nth(span.line.saturating_sub(1)).unwrap_or_default().trim_end();
        let body = line.trim_start();
        let before = (span.column - 1).saturating_sub(line.chars().count() - body.chars().count());
        let skipped = match body.chars().count() > MAX_EXCERPT {
            true => before.saturating_sub(EXCERPT_BEFORE),
            false => 0,
        };
        let shown: String = body.chars().skip(skipped).take(MAX_EXCERPT).map(printable).collect();
        Diagnostic { span, kind, excerpt: (shown.into(), before - skipped) }
    }
}

/// What keeps the mark below the character that it is about, and a terminal as it is.
fn printable(character: char) -> char {
    match character {
        '\t' => ' ',
        other if other.is_control() => '\u{fffd}',
        other => other,
    }
}

impl<K: fmt::Display> Diagnostic<K> {
    fn write(&self, f: &mut fmt::Formatter<'_>, file: &str, level: &str) -> fmt::Result {
        let Span { line, column, width } = self.span;
        write!(f, "{file}:{line}:{column}: {level}{}", self.kind)?;
        let (excerpt, before) = &self.excerpt;
        if excerpt.is_empty() {
            return Ok(());
        }
        let marks = width.min((excerpt.chars().count() + 1).saturating_sub(*before)).max(1);
        write!(f, "\n    {excerpt}\n    {:before$}{:^<marks$}", "", "")
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, FILE, "")
    }
}

impl core::error::Error for Error {}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, FILE, "warning: ")
    }
}

/// What is wrong in a text: at least one error, in the order of the lines, and at most [`Errors::MAX`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Errors {
    pub(super) errors: Vec<Error>,
    /// How many more there were.
    pub(super) omitted: usize,
}

impl Errors {
    /// How many errors are reported at once.
    pub const MAX: usize = 10;

    /// The errors, with their places.
    pub fn iter(&self) -> core::slice::Iter<'_, Error> {
        self.errors.iter()
    }

    /// The messages with another name of the text in place of `gate.rules`, such as the key or the path it was read from.
    pub fn named<'a>(&'a self, file: &'a str) -> impl fmt::Display + 'a {
        Named { errors: self, file }
    }
}

impl<'a> IntoIterator for &'a Errors {
    type Item = &'a Error;
    type IntoIter = core::slice::Iter<'a, Error>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

struct Named<'a> {
    errors: &'a Errors,
    file: &'a str,
}

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.errors.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            error.write(f, self.file, "")?;
        }
        match self.errors.omitted {
            0 => Ok(()),
            1 => write!(f, "\n{}: 1 more error", self.file),
            omitted => write!(f, "\n{}: {omitted} more errors", self.file),
        }
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.named(FILE).fmt(f)
    }
}

impl core::error::Error for Errors {}

//! The words of a line, one after the other.

use alloc::vec::Vec;

use crate::rules::diagnostic::Span;
use crate::rules::error::{ErrorKind, Found};

/// Something wrong at a place of the text.
#[derive(Debug)]
pub(in crate::rules) struct Fault {
    pub(in crate::rules) span: Span,
    pub(in crate::rules) kind: ErrorKind,
}

/// A value, and where it stands.
#[derive(Clone, Debug)]
pub(in crate::rules) struct At<T> {
    pub(in crate::rules) value: T,
    pub(in crate::rules) span: Span,
}

/// A word, or one of `,`, `{` and `}`.
#[derive(Clone, Copy, Debug)]
pub(in crate::rules) struct Token<'a> {
    pub(in crate::rules) text: &'a str,
    pub(in crate::rules) span: Span,
}

impl Token<'_> {
    pub(in crate::rules) fn fault(self, kind: ErrorKind) -> Fault {
        Fault { span: self.span, kind }
    }

    pub(in crate::rules) fn expected(self, expected: &'static str) -> Fault {
        self.fault(ErrorKind::Expected { expected, found: Found::word(self.text) })
    }

    pub(in crate::rules) fn at<T>(self, value: T) -> At<T> {
        At { value, span: self.span }
    }
}

/// A line.
pub(super) struct Cursor<'a> {
    tokens: Vec<Token<'a>>,
    next: usize,
    end: Span,
}

impl<'a> Cursor<'a> {
    /// The line of this number, up to a comment.
    pub(super) fn new(text: &'a str, line: usize) -> Self {
        let mut tokens = Vec::new();
        let mut end = Span { line, column: 1, width: 1 };
        // Where a word begins: its byte, its column.
        let mut word: Option<(usize, usize)> = None;
        let mut column = 0;
        for (byte, character) in text.char_indices().chain([(text.len(), '#')]) {
            column += 1;
            let is_mark = matches!(character, ',' | '{' | '}');
            if !is_mark && character != '#' && !character.is_whitespace() {
                word.get_or_insert((byte, column));
                continue;
            }
            let marks = is_mark.then_some((byte, column, byte + 1));
            let words = word.take().map(|(start, first)| (start, first, byte));
            for (start, first, until) in words.into_iter().chain(marks) {
                let text = &text[start..until];
                let span = Span { line, column: first, width: text.chars().count() };
                end.column = first + span.width;
                tokens.push(Token { text, span });
            }
            if character == '#' {
                break;
            }
        }
        Cursor { tokens, next: 0, end }
    }

    pub(super) fn peek(&self) -> Option<Token<'a>> {
        self.tokens.get(self.next).copied()
    }

    /// The next word.
    pub(super) fn next(&mut self, expected: &'static str) -> Result<Token<'a>, Fault> {
        let Some(token) = self.peek() else { return Err(self.missing(expected)) };
        self.next += 1;
        Ok(token)
    }

    /// Takes this word, if it comes next.
    pub(super) fn take(&mut self, word: &str) -> Option<Token<'a>> {
        let token = self.peek().filter(|token| token.text == word)?;
        self.next += 1;
        Some(token)
    }

    /// Takes these words. `expected` has them in quotation marks.
    pub(super) fn words(&mut self, words: &[&str], expected: &'static str) -> Result<(), Fault> {
        for word in words {
            let token = self.next(expected)?;
            if token.text != *word {
                return Err(token.expected(expected));
            }
        }
        Ok(())
    }

    /// That nothing follows.
    pub(super) fn finish(&self, expected: &'static str) -> Result<(), Fault> {
        match self.peek() {
            Some(token) => Err(token.expected(expected)),
            None => Ok(()),
        }
    }

    /// From the first word to the last one.
    pub(super) fn whole(&self) -> Span {
        let first = self.tokens.first().map_or(self.end, |token| token.span);
        Span { width: (self.end.column - first.column).max(1), ..first }
    }

    fn missing(&self, expected: &'static str) -> Fault {
        Fault { span: self.end, kind: ErrorKind::Expected { expected, found: Found::EndOfLine } }
    }
}

//! An entry's tokens as `domain` reads record data from them.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use domain::base::charstr::CharStr;
use domain::base::name::Name;
use domain::base::scan::{ConvertSymbols, EntrySymbol, Scanner, ScannerError, Symbol};
use octseq::str::Str;

use super::entry::Token;
use super::text;
use domain::dep::octseq;

/// Why record data cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bad(pub &'static str);

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl core::error::Error for Bad {}

impl ScannerError for Bad {
    fn custom(what: &'static str) -> Self {
        Bad(what)
    }

    fn end_of_entry() -> Self {
        Bad("it ends too early: a field is missing")
    }

    fn short_buf() -> Self {
        Bad("it is too long")
    }

    fn trailing_tokens() -> Self {
        Bad("something follows its last field")
    }
}

/// What is left of an entry.
pub(super) struct Fields<'a> {
    pub bytes: &'a [u8],
    pub tokens: &'a [Token],
    pub next: usize,
    /// What names without a dot at their end are relative to.
    pub origin: &'a [u8],
}

impl Fields<'_> {
    pub fn take(&mut self) -> Result<Token, Bad> {
        let token = self.tokens.get(self.next).copied().ok_or_else(Bad::end_of_entry)?;
        self.next += 1;
        Ok(token)
    }

    pub fn raw(&self, token: Token) -> &[u8] {
        &self.bytes[token.start..token.end]
    }

    fn symbols(&self, token: Token) -> Symbols<'_> {
        Symbols { bytes: self.raw(token), at: 0 }
    }
}

/// A token's symbols: what is not ASCII counts as an escaped byte.
struct Symbols<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Iterator for Symbols<'_> {
    type Item = Result<Symbol, Bad>;

    fn next(&mut self) -> Option<Self::Item> {
        let first = *self.bytes.get(self.at)?;
        if first != b'\\' {
            self.at += 1;
            return Some(Ok(match first {
                0x20..=0x7e => Symbol::Char(first as char),
                _ => Symbol::DecimalEscape(first),
            }));
        }
        let (byte, len) = match text::escaped(&self.bytes[self.at..]) {
            Ok(found) => found,
            Err(bad) => {
                self.at = self.bytes.len();
                return Some(Err(bad));
            }
        };
        self.at += len;
        Some(Ok(match (len, byte) {
            (2, 0x20..=0x7e) => Symbol::SimpleEscape(byte),
            _ => Symbol::DecimalEscape(byte),
        }))
    }
}

impl Scanner for Fields<'_> {
    type Octets = Vec<u8>;
    type OctetsBuilder = Vec<u8>;
    type Name = Name<Vec<u8>>;
    type Error = Bad;

    fn has_space(&self) -> bool {
        self.tokens.get(self.next).is_some_and(|token| !token.joined)
    }

    fn continues(&mut self) -> bool {
        self.next < self.tokens.len()
    }

    fn scan_symbols<F>(&mut self, mut op: F) -> Result<(), Bad>
    where
        F: FnMut(Symbol) -> Result<(), Bad>,
    {
        let token = self.take()?;
        self.symbols(token).try_for_each(|symbol| op(symbol?))
    }

    fn scan_entry_symbols<F>(&mut self, mut op: F) -> Result<(), Bad>
    where
        F: FnMut(EntrySymbol) -> Result<(), Bad>,
    {
        while let Ok(token) = self.take() {
            self.symbols(token).try_for_each(|symbol| op(symbol?.into()))?;
            op(EntrySymbol::EndOfToken)?;
        }
        Ok(())
    }

    fn convert_token<C: ConvertSymbols<Symbol, Bad>>(&mut self, mut convert: C) -> Result<Vec<u8>, Bad> {
        let mut to = Vec::new();
        let token = self.take()?;
        for symbol in self.symbols(token) {
            to.extend_from_slice(convert.process_symbol(symbol?)?.unwrap_or_default());
        }
        to.extend_from_slice(convert.process_tail()?.unwrap_or_default());
        Ok(to)
    }

    fn convert_entry<C: ConvertSymbols<EntrySymbol, Bad>>(&mut self, mut convert: C) -> Result<Vec<u8>, Bad> {
        let mut to = Vec::new();
        while let Ok(token) = self.take() {
            for symbol in self.symbols(token) {
                to.extend_from_slice(convert.process_symbol(symbol?.into())?.unwrap_or_default());
            }
            to.extend_from_slice(convert.process_symbol(EntrySymbol::EndOfToken)?.unwrap_or_default());
        }
        to.extend_from_slice(convert.process_tail()?.unwrap_or_default());
        Ok(to)
    }

    fn scan_octets(&mut self) -> Result<Vec<u8>, Bad> {
        let token = self.take()?;
        text::unescape(self.raw(token))
    }

    fn scan_ascii_str<F, T>(&mut self, op: F) -> Result<T, Bad>
    where
        F: FnOnce(&str) -> Result<T, Bad>,
    {
        let octets = self.scan_octets()?;
        match core::str::from_utf8(&octets) {
            Ok(text) if text.is_ascii() => op(text),
            _ => Err(Bad("expected ASCII characters")),
        }
    }

    fn scan_name(&mut self) -> Result<Name<Vec<u8>>, Bad> {
        let token = self.take()?;
        if token.quoted {
            return Err(Bad("expected a name, without quotation marks"));
        }
        let name = text::name(self.raw(token), self.origin)?;
        Name::from_octets(name).map_err(|_| Bad("not a name"))
    }

    fn scan_charstr(&mut self) -> Result<CharStr<Vec<u8>>, Bad> {
        CharStr::from_octets(self.scan_octets()?).map_err(|_| Bad("a character string is longer than 255 bytes"))
    }

    fn scan_string(&mut self) -> Result<Str<Vec<u8>>, Bad> {
        let text = String::from_utf8(self.scan_octets()?).map_err(|_| Bad("not valid UTF-8"))?;
        Ok(Str::from_string(text))
    }

    fn scan_charstr_entry(&mut self) -> Result<Vec<u8>, Bad> {
        let mut to = Vec::new();
        while self.continues() {
            let octets = self.scan_octets()?;
            let len = u8::try_from(octets.len()).map_err(|_| Bad("a character string is longer than 255 bytes"))?;
            to.push(len);
            to.extend_from_slice(&octets);
        }
        match to.len() {
            0 => Err(Bad::end_of_entry()),
            _ => Ok(to),
        }
    }

    fn scan_opt_unknown_marker(&mut self) -> Result<bool, Bad> {
        let Some(token) = self.tokens.get(self.next).filter(|token| !token.quoted) else { return Ok(false) };
        let is_it = self.raw(*token) == b"\\#";
        self.next += usize::from(is_it);
        Ok(is_it)
    }

    fn octets_builder(&mut self) -> Result<Vec<u8>, Bad> {
        Ok(Vec::new())
    }
}

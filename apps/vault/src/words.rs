//! Lines that an administrator writes: words, of which one with spaces stands between quotation marks.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use sarab::Size;
use sarab_luks::Zeroizing;

/// Most words of a line.
const MAX: usize = 16;

/// A line's words, taken one after the other. What they held is gone from memory with them: there may be keys among them.
pub struct Words {
    words: Vec<Zeroizing<String>>,
    next: usize,
}

impl Words {
    pub fn new(line: &str) -> Result<Words, String> {
        let mut words = Vec::new();
        let mut rest = line.trim_start();
        while !rest.is_empty() {
            if words.len() == MAX {
                return Err(format!("more than {MAX} words in a line"));
            }
            let (word, after) = match rest.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"').ok_or("a quotation mark without its second one")?,
                None => rest.split_once(char::is_whitespace).unwrap_or((rest, "")),
            };
            words.push(Zeroizing::new(word.to_string()));
            rest = after.trim_start();
        }
        Ok(Words { words, next: 0 })
    }

    pub fn next(&mut self) -> Option<&str> {
        let word = self.words.get(self.next)?;
        self.next += 1;
        Some(word)
    }

    /// The next word, of which the usage says `what` it is.
    pub fn require(&mut self, what: &str) -> Result<&str, String> {
        self.next().ok_or_else(|| format!("{what} is missing"))
    }

    /// Whether the next word is this one, which is then taken.
    pub fn take(&mut self, word: &str) -> bool {
        let is = self.words.get(self.next).is_some_and(|next| next.as_str() == word);
        self.next += usize::from(is);
        is
    }

    /// The words that are left are none.
    pub fn end(&mut self) -> Result<(), String> {
        match self.next() {
            None => Ok(()),
            Some(word) => Err(format!("`{word}` is not expected here")),
        }
    }

    /// As [`end`](Words::end) of a line with keys, of which none is said: what is left may be the rest of a passphrase.
    pub fn end_of_keys(&mut self) -> Result<(), String> {
        match self.next() {
            None => Ok(()),
            Some(_) => {
                Err("there are more words than expected; a passphrase with spaces stands in quotation marks".into())
            }
        }
    }

    /// The next word as sectors of 512 bytes.
    pub fn sectors(&mut self) -> Result<u64, String> {
        let word = self.require("SIZE")?;
        let Size(bytes) = word.parse().map_err(|error| format!("`{word}`: {error}"))?;
        Ok(bytes / 512)
    }
}

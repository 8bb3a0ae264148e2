//! Properties that stand before what they describe (POSIX pax, "pax Extended Header"; GNU tar, "Storing Sparse Files").

use alloc::vec;
use alloc::vec::Vec;

use xen_blkif::{BlockDevice, Error};

use crate::path::MAX_PATH;
use crate::window::Window;

/// Digits of a record's length, and the longest key that is of interest.
const BEGIN: usize = 40;

/// What comes before a file's header, and is said of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Properties {
    pub(crate) name: Option<Vec<u8>>,
    pub(crate) link: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    pub(crate) modified: Option<i64>,
    pub(crate) holes: Holes,
}

/// What GNU tar says of a file with holes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Holes {
    /// The file's name: `path` is another one then, for those who do not know of holes.
    pub(crate) name: Option<Vec<u8>>,
    /// How long it is with them.
    pub(crate) size: Option<u64>,
    /// The form of its map, from 1.0 on.
    pub(crate) major: Option<u64>,
    pub(crate) minor: Option<u64>,
    /// Where the map is, in the form 0.1.
    pub(crate) map: Option<(u64, u64)>,
    /// Where the records are that make a map, in the form 0.0.
    pub(crate) records: Option<(u64, u64)>,
}

/// Records of a pax header that are gone through: `LEN KEY=VALUE\n`, the length including itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Records {
    at: u64,
    end: u64,
}

pub(crate) struct Record {
    begin: [u8; BEGIN],
    key: (usize, usize),
    /// Where its value is.
    pub(crate) start: u64,
    pub(crate) end: u64,
}

/// What should be a record is none.
pub(crate) struct Malformed;

impl Record {
    pub(crate) fn key(&self) -> &[u8] {
        &self.begin[self.key.0..self.key.1]
    }
}

impl Records {
    pub(crate) fn new(at: u64, end: u64) -> Records {
        Records { at, end }
    }

    /// The next one; its value is not read, however long it is.
    pub(crate) async fn next<D: BlockDevice>(
        &mut self,
        window: &mut Window<D>,
    ) -> Result<Option<Result<Record, Malformed>>, Error> {
        if self.at >= self.end {
            return Ok(None);
        }
        let mut begin = [0; BEGIN];
        let known = (self.end - self.at).min(BEGIN as u64) as usize;
        window.read_all(self.at, &mut begin[..known]).await?;
        let record = self.parse(begin, known);
        // Where the next one would be is not known either.
        self.at = record.as_ref().map_or(self.end, |record| record.end + 1);
        Ok(Some(record.ok_or(Malformed)))
    }

    fn parse(&self, begin: [u8; BEGIN], known: usize) -> Option<Record> {
        let text = &begin[..known];
        let space = text.iter().position(|byte| *byte == b' ')?;
        let len = decimal(&text[..space]).filter(|len| *len <= self.end - self.at)?;
        // At least a key of one byte, `=` and the end of the line.
        let end = self.at + len.checked_sub(1).filter(|len| *len >= space as u64 + 3)?;
        let rest = &text[space + 1..];
        let key = (space + 1, space + 1 + rest.iter().position(|byte| *byte == b'=').unwrap_or(rest.len()));
        let start = self.at + key.1 as u64 + 1;
        // A key that goes on behind what was read is none that is of interest.
        (start <= end || key.1 == known).then_some(Record { begin, key, start: start.min(end), end })
    }
}

impl Properties {
    /// Takes what a pax header says; false where something in it cannot be used. The rest of it counts.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time.
    pub(crate) async fn read<D: BlockDevice>(
        &mut self,
        window: &mut Window<D>,
        start: u64,
        end: u64,
    ) -> Result<bool, Error> {
        let mut records = Records::new(start, end);
        let mut whole = true;
        while let Some(record) = records.next(window).await? {
            let Ok(record) = record else { return Ok(false) };
            match record.key() {
                b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => self.holes.records = Some((start, end)),
                b"GNU.sparse.map" => self.holes.map = Some((record.start, record.end)),
                b"path"
                | b"linkpath"
                | b"size"
                | b"mtime"
                | b"GNU.sparse.name"
                | b"GNU.sparse.size"
                | b"GNU.sparse.realsize"
                | b"GNU.sparse.major"
                | b"GNU.sparse.minor" => {
                    let len = (record.end - record.start).min(MAX_PATH as u64 + 1);
                    let mut value = vec![0; len as usize];
                    window.read_all(record.start, &mut value).await?;
                    whole &= self.add(record.key(), value);
                }
                _ => {}
            }
        }
        Ok(whole)
    }

    /// Takes a record; false where its value is none.
    fn add(&mut self, key: &[u8], value: Vec<u8>) -> bool {
        let (number, place) = match key {
            b"path" => return set(&mut self.name, Some(value)),
            b"linkpath" => return set(&mut self.link, Some(value)),
            b"GNU.sparse.name" => return set(&mut self.holes.name, Some(value)),
            b"mtime" => return set(&mut self.modified, seconds(&value)),
            b"size" => (decimal(&value), &mut self.size),
            b"GNU.sparse.major" => (decimal(&value), &mut self.holes.major),
            b"GNU.sparse.minor" => (decimal(&value), &mut self.holes.minor),
            _ => (decimal(&value), &mut self.holes.size),
        };
        set(place, number)
    }

    /// Whether they say anything of interest.
    pub(crate) fn matter(&self) -> bool {
        self.name.is_some() || self.link.is_some() || self.size.is_some() || self.modified.is_some()
    }

    /// These, and where they say nothing what others say.
    pub(crate) fn or(self, others: &Properties) -> Properties {
        Properties {
            name: self.name.or_else(|| others.name.clone()),
            link: self.link.or_else(|| others.link.clone()),
            size: self.size.or(others.size),
            modified: self.modified.or(others.modified),
            holes: self.holes,
        }
    }
}

fn set<T>(place: &mut Option<T>, value: Option<T>) -> bool {
    let is_one = value.is_some();
    if is_one {
        *place = value;
    }
    is_one
}

/// Digits alone.
pub(crate) fn decimal(text: &[u8]) -> Option<u64> {
    let text = core::str::from_utf8(text).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    text.parse().ok()
}

/// Whole seconds of a time, which may have a fraction, and be before 1970.
fn seconds(value: &[u8]) -> Option<i64> {
    let text = core::str::from_utf8(value).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = whole.strip_prefix('-').unwrap_or(whole);
    if digits.is_empty() || ![digits, fraction].iter().all(|digits| digits.bytes().all(|byte| byte.is_ascii_digit())) {
        return None;
    }
    let seconds: i64 = whole.parse().ok()?;
    let below = whole.starts_with('-') && fraction.bytes().any(|digit| digit != b'0');
    seconds.checked_sub(below.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (text, expected) in [
            ("0", Some(0)),
            ("12.75", Some(12)),
            ("-5.5", Some(-6)),
            ("-5.0", Some(-5)),
            ("-0.5", Some(-1)),
            ("", None),
            ("-", None),
            ("1.x", None),
            ("+1", None),
            ("9223372036854775808", None),
            ("-9223372036854775808.5", None),
        ] {
            assert_eq!(seconds(text.as_bytes()), expected, "{text}");
        }
    }
}

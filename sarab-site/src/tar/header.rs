//! A header of an archive, and the properties that may stand before it.

use alloc::vec::Vec;

pub(crate) const BLOCK: usize = 512;

/// What a header describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    /// A link by a name of the archive, or by a path from where it is.
    Link {
        symbolic: bool,
    },
    /// A file with holes, in GNU tar's own form.
    Sparse,
    /// GNU tar's long name, or long link, of the next one.
    LongName,
    LongLink,
    /// Properties of the next one (pax).
    Properties,
    /// Properties of all that follow: nothing that matters here.
    Defaults,
    /// Folders, devices and what nobody knows.
    Other,
}

impl Kind {
    /// Whether it describes what comes next, and is nothing by itself.
    pub(crate) fn describes(self) -> bool {
        matches!(self, Kind::LongName | Kind::LongLink | Kind::Properties | Kind::Defaults)
    }
}

/// A header whose checksum is right.
pub(crate) struct Header<'a>(&'a [u8; BLOCK]);

impl<'a> Header<'a> {
    pub(crate) fn parse(bytes: &'a [u8; BLOCK]) -> Option<Header<'a>> {
        let expected = number(&bytes[148..156])?;
        // The sum of all bytes, with spaces in its own place. Old programs have added signed bytes.
        let sum = |own: fn(u8) -> i64| -> i64 {
            bytes.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { 32 } else { own(*byte) }).sum()
        };
        let sums = [sum(i64::from), sum(|byte| i64::from(byte as i8))];
        i64::try_from(expected).is_ok_and(|expected| sums.contains(&expected)).then_some(Header(bytes))
    }

    pub(crate) fn kind(&self) -> Kind {
        match self.0[156] {
            0 | b'0' | b'7' => Kind::File,
            b'1' => Kind::Link { symbolic: false },
            b'2' => Kind::Link { symbolic: true },
            b'S' => Kind::Sparse,
            b'L' => Kind::LongName,
            b'K' => Kind::LongLink,
            b'x' => Kind::Properties,
            b'g' => Kind::Defaults,
            _ => Kind::Other,
        }
    }

    /// Bytes behind the header.
    pub(crate) fn size(&self) -> Option<u64> {
        number(&self.0[124..136])
    }

    /// In seconds since 1970.
    pub(crate) fn modified(&self) -> Option<u64> {
        number(&self.0[136..148])
    }

    pub(crate) fn name(&self) -> Vec<u8> {
        let own = until_zero(&self.0[..100]);
        let prefix = until_zero(&self.0[345..500]);
        // GNU's form of the magic has other things there.
        match &self.0[257..263] == b"ustar\0" && !prefix.is_empty() {
            true => [prefix, b"/", own].concat(),
            false => own.into(),
        }
    }

    pub(crate) fn link(&self) -> &'a [u8] {
        until_zero(&self.0[157..257])
    }
}

/// What comes before a file's header, and is said of it.
#[derive(Debug, Default)]
pub(crate) struct Properties {
    pub(crate) name: Option<Vec<u8>>,
    pub(crate) link: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    pub(crate) modified: Option<u64>,
}

impl Properties {
    /// Whether a record of a pax header is of interest here.
    pub(crate) fn wants(key: &[u8]) -> bool {
        matches!(key, b"path" | b"linkpath" | b"size" | b"mtime")
    }

    /// Takes a record; false where its value is none.
    pub(crate) fn add(&mut self, key: &[u8], value: &[u8]) -> bool {
        // Times have fractions, and may be before 1970.
        let whole = || core::str::from_utf8(value).ok()?.split('.').next()?.parse().ok();
        match key {
            b"path" => self.name = Some(value.into()),
            b"linkpath" => self.link = Some(value.into()),
            b"size" => {
                self.size = whole();
                return self.size.is_some();
            }
            b"mtime" => self.modified = whole(),
            _ => {}
        }
        true
    }
}

pub(crate) fn until_zero(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// A number in octal digits, or in base 256 where its first bit is set.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let (first, rest) = field.split_first()?;
        let start = u64::from(first & 0x7f);
        return rest.iter().try_fold(start, |value, byte| value.checked_mul(256)?.checked_add((*byte).into()));
    }
    let digits = until_zero(field).trim_ascii();
    if digits.is_empty() {
        return Some(0);
    }
    // `from_str_radix` takes a sign.
    if !digits.iter().all(|digit| matches!(digit, b'0'..=b'7')) {
        return None;
    }
    u64::from_str_radix(core::str::from_utf8(digits).ok()?, 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_both_forms() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b" 12 \0\0\0\0"), Some(0o12));
        assert_eq!(number(&[0; 8]), Some(0));
        assert_eq!(number(b"9\0"), None);
        assert_eq!(number(b"+7\0"), None);
        assert_eq!(number(b"777777777777777777777777"), None, "more than there can be");
        assert_eq!(number(&[0x80, 0, 0, 0, 2, 0, 0, 0, 1]), Some(0x2_0000_0001));
        assert_eq!(number(&[0xff; 12]), None, "more than there can be");
    }
}

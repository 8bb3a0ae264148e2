//! A header of an archive (POSIX pax, "ustar Interchange Format"; GNU tar, "Basic Tar Format").

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
    Folder,
    /// A folder with a list of its files, in GNU tar's incremental archives.
    List,
    /// A file with holes, in GNU tar's own form.
    Sparse,
    /// A character device, a block device, or a FIFO.
    Special,
    /// The rest of a file whose begin is in another archive.
    Continued,
    /// The name of the whole archive.
    Label,
    /// GNU tar's long name, or long link, of the next one.
    LongName,
    LongLink,
    /// Properties of the next one (pax).
    Properties,
    /// Properties of all that follow.
    Defaults,
    /// What nobody knows: GNU tar takes it for a file, as POSIX asks.
    Unknown(u8),
}

impl Kind {
    /// Whether it describes what comes next, and is nothing by itself.
    pub(crate) fn describes(self) -> bool {
        matches!(self, Kind::LongName | Kind::LongLink | Kind::Properties | Kind::Defaults)
    }

    /// Whether bytes follow it. For folders the size says how much may be in them, for links how long the file is (POSIX).
    pub(crate) fn has_bytes(self) -> bool {
        !matches!(self, Kind::Link { .. } | Kind::Folder | Kind::Special)
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
            b'3' | b'4' | b'6' => Kind::Special,
            b'5' => Kind::Folder,
            b'D' => Kind::List,
            b'S' => Kind::Sparse,
            b'M' => Kind::Continued,
            b'V' => Kind::Label,
            b'L' => Kind::LongName,
            b'K' => Kind::LongLink,
            // Solaris' own letter came before POSIX'.
            b'x' | b'X' => Kind::Properties,
            b'g' => Kind::Defaults,
            other => Kind::Unknown(other),
        }
    }

    /// Bytes behind the header.
    pub(crate) fn size(&self) -> Option<u64> {
        number(&self.0[124..136])
    }

    /// In seconds since 1970.
    pub(crate) fn modified(&self) -> Option<i64> {
        let field = &self.0[136..148];
        // In base 256 it may be before that.
        match field[0] {
            0xff => Some(i64::from_be_bytes(*field.last_chunk()?)),
            _ => i64::try_from(number(field)?).ok(),
        }
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

    /// How long a file of GNU tar's is with its holes.
    pub(crate) fn whole_size(&self) -> Option<u64> {
        (&self.0[257..263] == b"ustar ").then_some(&self.0[483..495]).and_then(number)
    }
}

pub(crate) fn until_zero(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// A number in octal digits, or in base 256 where its first bit is set.
pub(crate) fn number(field: &[u8]) -> Option<u64> {
    if field.first()? & 0x80 != 0 {
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

//! How the fields of messages lie in them: little-endian numbers, and lengths before what has no fixed one.

use alloc::vec::Vec;

/// A message is longer than messages may be, or one of its strings than strings may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

impl core::fmt::Display for TooLong {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("longer than a message may be")
    }
}

impl core::error::Error for TooLong {}

/// Why a field cannot be read.
pub(super) type Why = &'static str;

/// What has not been read yet of a body.
pub(super) struct Decoder<'a>(pub(super) &'a [u8]);

impl<'a> Decoder<'a> {
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Why> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or("too short")?;
        self.0 = rest;
        Ok(*bytes)
    }

    pub(super) fn slice(&mut self, len: usize) -> Result<&'a [u8], Why> {
        let (bytes, rest) = self.0.split_at_checked(len).ok_or("too short")?;
        self.0 = rest;
        Ok(bytes)
    }
}

/// A field of a message.
pub(super) trait Field<'a>: Sized {
    fn put(&self, to: &mut Vec<u8>) -> Result<(), TooLong>;
    fn get(from: &mut Decoder<'a>) -> Result<Self, Why>;
}

macro_rules! numbers {
    ($($number:ty)*) => {$(
        impl Field<'_> for $number {
            fn put(&self, to: &mut Vec<u8>) -> Result<(), TooLong> {
                to.extend(self.to_le_bytes());
                Ok(())
            }

            fn get(from: &mut Decoder<'_>) -> Result<Self, Why> {
                from.array().map(<$number>::from_le_bytes)
            }
        }
    )*};
}

numbers!(u8 u16 u32 u64);

/// A string of any bytes, as names of files are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text<'a>(pub &'a [u8]);

impl<'a> Field<'a> for Text<'a> {
    fn put(&self, to: &mut Vec<u8>) -> Result<(), TooLong> {
        u16::try_from(self.0.len()).map_err(|_| TooLong)?.put(to)?;
        to.extend(self.0);
        Ok(())
    }

    fn get(from: &mut Decoder<'a>) -> Result<Self, Why> {
        let len = u16::get(from)?;
        from.slice(len.into()).map(Text)
    }
}

impl<'a> Field<'a> for &'a str {
    fn put(&self, to: &mut Vec<u8>) -> Result<(), TooLong> {
        Text(self.as_bytes()).put(to)
    }

    fn get(from: &mut Decoder<'a>) -> Result<Self, Why> {
        core::str::from_utf8(Text::get(from)?.0).map_err(|_| "a string that is not UTF-8")
    }
}

/// Bytes of a file, or entries of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Data<'a>(pub &'a [u8]);

impl<'a> Field<'a> for Data<'a> {
    fn put(&self, to: &mut Vec<u8>) -> Result<(), TooLong> {
        u32::try_from(self.0.len()).map_err(|_| TooLong)?.put(to)?;
        to.extend(self.0);
        Ok(())
    }

    fn get(from: &mut Decoder<'a>) -> Result<Self, Why> {
        let len = u32::get(from)?;
        from.slice(usize::try_from(len).map_err(|_| "too short")?).map(Data)
    }
}

/// The names of a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Names<'a> {
    count: u16,
    raw: &'a [u8],
}

impl<'a> Names<'a> {
    /// How many.
    pub const fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Each.
    pub fn iter(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut from = Decoder(self.raw);
        core::iter::from_fn(move || Text::get(&mut from).ok().map(|name| name.0))
    }
}

/// The names of a walk, to be put into it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamesBuf {
    count: u16,
    raw: Vec<u8>,
}

impl NamesBuf {
    /// Of these names.
    ///
    /// # Errors
    ///
    /// Where there are more than 65535, or one has more bytes.
    pub fn new<'n>(names: impl IntoIterator<Item = &'n [u8]>) -> Result<NamesBuf, TooLong> {
        let mut made = NamesBuf::default();
        for name in names {
            Text(name).put(&mut made.raw)?;
            made.count = made.count.checked_add(1).ok_or(TooLong)?;
        }
        Ok(made)
    }

    /// As a message takes them.
    pub fn names(&self) -> Names<'_> {
        Names { count: self.count, raw: &self.raw }
    }
}

impl<'a> Field<'a> for Names<'a> {
    fn put(&self, to: &mut Vec<u8>) -> Result<(), TooLong> {
        self.count.put(to)?;
        to.extend(self.raw);
        Ok(())
    }

    fn get(from: &mut Decoder<'a>) -> Result<Self, Why> {
        let count = u16::get(from)?;
        let all = from.0;
        for _ in 0..count {
            Text::get(from)?;
        }
        Ok(Names { count, raw: &all[..all.len() - from.0.len()] })
    }
}

/// What the server knows a file by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Qid {
    /// `QTDIR` (0x80), `QTSYMLINK` (0x02) and the like.
    pub kind: u8,
    /// Another one after each change of the file, where the server counts them.
    pub version: u32,
    /// A number that no other file of the server has.
    pub path: u64,
}

/// A directory, in [`Qid::kind`].
pub const QTDIR: u8 = 0x80;
/// A symbolic link, in [`Qid::kind`].
pub const QTSYMLINK: u8 = 0x02;

impl Qid {
    /// Bytes of one.
    pub const SIZE: usize = 13;
}

impl Field<'_> for Qid {
    fn put(&self, to: &mut Vec<u8>) -> Result<(), TooLong> {
        self.kind.put(to)?;
        self.version.put(to)?;
        self.path.put(to)
    }

    fn get(from: &mut Decoder<'_>) -> Result<Self, Why> {
        Ok(Qid { kind: Field::get(from)?, version: Field::get(from)?, path: Field::get(from)? })
    }
}

/// What a walk has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Qids<'a> {
    raw: &'a [u8],
}

impl<'a> Qids<'a> {
    /// Those whose bytes, one after the other, are these; what is left over is not among them.
    pub fn of(raw: &'a [u8]) -> Qids<'a> {
        Qids { raw: &raw[..raw.len() - raw.len() % Qid::SIZE] }
    }

    /// How many.
    pub const fn len(&self) -> usize {
        self.raw.len() / Qid::SIZE
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.raw.is_empty()
    }

    /// Each.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Qid> + use<'a> {
        let qid = |bytes| Qid::get(&mut Decoder(bytes)).ok();
        self.raw.chunks_exact(Qid::SIZE).filter_map(qid)
    }
}

impl<'a> Field<'a> for Qids<'a> {
    fn put(&self, to: &mut Vec<u8>) -> Result<(), TooLong> {
        u16::try_from(self.len()).map_err(|_| TooLong)?.put(to)?;
        to.extend(self.raw);
        Ok(())
    }

    fn get(from: &mut Decoder<'a>) -> Result<Self, Why> {
        let count = u16::get(from)?;
        from.slice(usize::from(count) * Qid::SIZE).map(|raw| Qids { raw })
    }
}

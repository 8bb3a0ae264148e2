//! Files with holes: a map says where in the file each part of what is stored belongs (GNU tar, "Storing Sparse Files").
//!
//! A map may be far larger than what there is of memory: it is gone through on the disk, from its begin or from where it was
//! read last, and never kept.

use core::fmt;

use xen_blkif::{BlockDevice, Error};

use super::header::{BLOCK, number};
use super::properties::{Holes, Records, decimal};
use crate::window::Window;

/// Parts of a file. Each request may have to go through all of them.
const MAX_PARTS: u32 = 1 << 16;
/// A part in GNU tar's headers: where it belongs, and how long it is.
const PART: usize = 24;
/// Parts that have a place in a header, where they begin in it, and what says that more of them follow it.
const IN_HEADER: (u64, u64, u64) = (4, 386, 482);
/// The same for a block that follows.
const IN_BLOCK: (u64, u64, u64) = (21, 0, 504);

/// A file with holes.
#[derive(Clone, Debug)]
pub(crate) struct Sparse {
    /// Its bytes, holes included.
    pub(crate) size: u64,
    /// Where its stored bytes are.
    start: u64,
    end: u64,
    map: Map,
}

/// Where its map is, and how far it was read.
#[derive(Clone, Copy, Debug)]
enum Map {
    /// In slots of a header, and of blocks behind it.
    Slots {
        block: u64,
        slot: u64,
        form: (u64, u64, u64),
    },
    /// Numbers, each with this behind it. How many parts there are may stand before them.
    Text {
        at: u64,
        end: u64,
        behind: u8,
        parts: Option<u64>,
    },
    /// In records of a pax header.
    Records(Records),
    Over,
}

/// A part of a file.
#[derive(Clone, Copy, Debug)]
struct Part {
    offset: u64,
    len: u64,
    /// Where it is on the device.
    at: u64,
}

/// Where a file is read.
#[derive(Clone, Debug)]
pub(crate) struct Position {
    map: Map,
    /// The file's bytes before this one lie behind the reader.
    from: u64,
    part: Option<Part>,
    /// Where the next part's bytes are.
    next: u64,
}

/// Why the map of a file with holes cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Problem {
    /// It is not one, or does not fit what is stored.
    Malformed,
    /// It has more parts than are looked at.
    Parts,
    /// A version that is not known.
    Version,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Malformed => f.write_str("malformed map"),
            Problem::Parts => write!(f, "more than {MAX_PARTS} parts"),
            Problem::Version => f.write_str("unknown version of the map"),
        }
    }
}

/// What a disk, or what is on it, has against it.
pub(crate) enum Failure {
    Disk(Error),
    Map(Problem),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Disk(error)
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Failure::Map(problem)
    }
}

/// Where the blocks end that hold more of the map of a GNU header; nothing where that is not on the device.
pub(crate) async fn end_of_slots<D: BlockDevice>(window: &mut Window<D>, header: u64) -> Result<Option<u64>, Error> {
    let mut end = header + BLOCK as u64;
    let mut flag = [0];
    window.read_all(header + IN_HEADER.2, &mut flag).await?;
    while flag != [0] {
        if end.checked_add(BLOCK as u64).is_none_or(|end| end > window.size()) {
            return Ok(None);
        }
        window.read_all(end + IN_BLOCK.2, &mut flag).await?;
        end += BLOCK as u64;
    }
    Ok(Some(end))
}

impl Sparse {
    /// Of a GNU header at `header`, whose bytes are from `start` on.
    pub(crate) async fn of_header<D: BlockDevice>(
        window: &mut Window<D>,
        header: u64,
        start: u64,
        whole: Option<u64>,
        size: u64,
    ) -> Result<Sparse, Failure> {
        let (whole, end) = whole.zip(start.checked_add(size)).ok_or(Problem::Malformed)?;
        let map = Map::Slots { block: header, slot: 0, form: IN_HEADER };
        Sparse { size: whole, start, end, map }.checked(window).await
    }

    /// Of a file between these bytes with properties that speak of holes; nothing where they do not.
    pub(crate) async fn of_properties<D: BlockDevice>(
        window: &mut Window<D>,
        holes: &Holes,
        start: u64,
        end: u64,
    ) -> Result<Option<Sparse>, Failure> {
        let version = (holes.major.unwrap_or(0), holes.minor.unwrap_or(0));
        let map = match (version, holes.map, holes.records) {
            ((0, _), Some((at, end)), _) => Map::Text { at, end, behind: b',', parts: None },
            ((0, _), None, Some((at, end))) => Map::Records(Records::new(at, end)),
            ((0, _), None, None) => return Ok(None),
            ((1, 0), ..) => {
                let mut map = Map::Text { at: start, end, behind: b'\n', parts: None };
                let parts = map.number(window).await?.ok_or(Problem::Malformed)?;
                match map {
                    Map::Text { at, end, behind, .. } => Map::Text { at, end, behind, parts: Some(parts) },
                    other => other,
                }
            }
            _ => return Err(Problem::Version.into()),
        };
        let size = holes.size.ok_or(Problem::Malformed)?;
        let mut start = start;
        if version.0 == 1 {
            // The bytes begin in the block behind the map.
            let mut rest = map;
            for _ in 0..=MAX_PARTS {
                match rest.next(window).await? {
                    Some(_) => {}
                    None => break,
                }
            }
            let Map::Text { at, .. } = rest else { return Err(Problem::Malformed.into()) };
            start += (at - start).next_multiple_of(BLOCK as u64);
        }
        let sparse = Sparse { size, start, end, map };
        Ok(Some(sparse.checked(window).await?))
    }

    /// Goes through the whole map: its parts are in order, in the file, and stored.
    async fn checked<D: BlockDevice>(self, window: &mut Window<D>) -> Result<Sparse, Failure> {
        let mut position = self.begin();
        let mut parts = 0;
        while position.advance(&self, window).await? {
            parts += 1;
            if parts > MAX_PARTS {
                return Err(Problem::Parts.into());
            }
        }
        Ok(self)
    }

    pub(crate) fn begin(&self) -> Position {
        Position { map: self.map, from: 0, part: None, next: self.start }
    }

    /// Reads from byte `at` on, which is in the file: from a part, or zeroes; something in any case.
    pub(crate) async fn read<D: BlockDevice>(
        &self,
        position: &mut Position,
        map: &mut Window<D>,
        data: &mut Window<D>,
        at: u64,
        to: &mut [u8],
    ) -> Result<usize, Failure> {
        if at < position.from {
            *position = self.begin();
        }
        while position.part.is_none_or(|part| part.offset + part.len <= at) {
            if !position.advance(self, map).await? {
                break;
            }
        }
        let part = position.part.filter(|part| part.offset + part.len > at);
        let (hole, part) = match part {
            Some(part) if part.offset <= at => (0, Some(part)),
            Some(part) => (part.offset - at, None),
            None => (self.size - at, None),
        };
        let Some(part) = part else {
            let len = usize::try_from(hole).unwrap_or(usize::MAX).min(to.len());
            to[..len].fill(0);
            return Ok(len);
        };
        let skipped = at - part.offset;
        let len = usize::try_from(part.len - skipped).unwrap_or(usize::MAX).min(to.len());
        Ok(data.read(part.at + skipped, &mut to[..len]).await?)
    }
}

impl Position {
    /// Goes to the next part; false where there is none.
    async fn advance<D: BlockDevice>(&mut self, file: &Sparse, window: &mut Window<D>) -> Result<bool, Failure> {
        let before = self.part.map_or(0, |part| part.offset + part.len);
        self.from = before;
        let Some((offset, len)) = self.map.next(window).await? else { return Ok(false) };
        let end = offset.checked_add(len).filter(|end| offset >= before && *end <= file.size);
        // Each begins with a block of its own. The last one may be empty, and say where the file ends.
        let stored = self.next.checked_add(len).filter(|stored| *stored <= file.end || len == 0);
        let (Some(_), Some(stored)) = (end, stored) else { return Err(Problem::Malformed.into()) };
        self.part = Some(Part { offset, len, at: self.next });
        self.next = stored.checked_next_multiple_of(BLOCK as u64).ok_or(Problem::Malformed)?;
        Ok(true)
    }
}

impl Map {
    /// The next part: where it belongs, and how long it is.
    async fn next<D: BlockDevice>(&mut self, window: &mut Window<D>) -> Result<Option<(u64, u64)>, Failure> {
        match self {
            Map::Over => Ok(None),
            Map::Slots { block, slot, form } => {
                if *slot == form.0 {
                    let mut flag = [0];
                    window.read_all(*block + form.2, &mut flag).await?;
                    if flag == [0] {
                        *self = Map::Over;
                        return Ok(None);
                    }
                    (*block, *slot, *form) = (*block + BLOCK as u64, 0, IN_BLOCK);
                }
                let mut part = [0; PART];
                window.read_all(*block + form.1 + *slot * PART as u64, &mut part).await?;
                *slot += 1;
                if part[12] == 0 {
                    // The last one: then nothing more of the map follows.
                    let mut flag = [0];
                    window.read_all(*block + form.2, &mut flag).await?;
                    *self = Map::Over;
                    return if flag == [0] { Ok(None) } else { Err(Problem::Malformed.into()) };
                }
                let (offset, len) = part.split_at(PART / 2);
                Ok(Some(number(offset).zip(number(len)).ok_or(Problem::Malformed)?))
            }
            Map::Text { parts: Some(0), .. } => Ok(None),
            Map::Text { .. } => {
                let Some(offset) = self.number(window).await? else { return Ok(None) };
                let len = self.number(window).await?.ok_or(Problem::Malformed)?;
                if let Map::Text { parts: Some(parts), .. } = self {
                    *parts -= 1;
                }
                Ok(Some((offset, len)))
            }
            Map::Records(records) => {
                let mut offset = None;
                while let Some(record) = records.next(window).await? {
                    let record = record.map_err(|_| Problem::Malformed)?;
                    let is_offset = record.key() == b"GNU.sparse.offset";
                    if !is_offset && record.key() != b"GNU.sparse.numbytes" {
                        continue;
                    }
                    let mut digits = [0; 20];
                    let len = usize::try_from(record.end - record.start).unwrap_or(usize::MAX);
                    let digits = digits.get_mut(..len).ok_or(Problem::Malformed)?;
                    window.read_all(record.start, digits).await?;
                    let value = decimal(digits).ok_or(Problem::Malformed)?;
                    match (is_offset, offset) {
                        (true, None) => offset = Some(value),
                        (false, Some(offset)) => return Ok(Some((offset, value))),
                        _ => return Err(Problem::Malformed.into()),
                    }
                }
                if offset.is_some() { Err(Problem::Malformed.into()) } else { Ok(None) }
            }
        }
    }

    /// The next number of a map in text. Where it does not say how many parts it has, it ends with the text.
    async fn number<D: BlockDevice>(&mut self, window: &mut Window<D>) -> Result<Option<u64>, Failure> {
        let Map::Text { at, end, behind, parts } = self else { return Ok(None) };
        if *at >= *end && parts.is_none() {
            return Ok(None);
        }
        // Twenty digits, and what is behind them.
        let mut text = [0; 21];
        let known = (*end - *at).min(text.len() as u64) as usize;
        window.read_all(*at, &mut text[..known]).await?;
        let text = &text[..known];
        let digits = match text.iter().position(|byte| byte == behind) {
            Some(digits) => digits,
            // A list has nothing behind its last one.
            None if *behind == b',' && known as u64 == *end - *at => known,
            None => return Err(Problem::Malformed.into()),
        };
        *at += (digits as u64 + 1).min(known as u64);
        Ok(Some(decimal(&text[..digits]).ok_or(Problem::Malformed)?))
    }
}

//! Messages to clients: written once, into the buffer that they are sent from.

use crate::name::Labels;
use crate::zone::rtype;

/// Bytes of a header.
pub(crate) const HEADER: usize = 12;
/// Names that compression remembers.
const MAX_KNOWN: usize = 96;
/// What a pointer can reach (RFC 1035, section 4.1.4).
const MAX_POINTER: usize = 0x3fff;

/// Bits of a header's second word.
pub(crate) mod flag {
    pub const QR: u16 = 0x8000;
    pub const AA: u16 = 0x0400;
    pub const TC: u16 = 0x0200;
    pub const RD: u16 = 0x0100;
    pub const CD: u16 = 0x0010;
}

/// There is no room left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

#[derive(Clone, Copy)]
pub(crate) enum Section {
    Answer,
    Authority,
    Additional,
}

pub(crate) struct Writer<'a> {
    bytes: &'a mut [u8],
    len: usize,
    /// What records may fill.
    limit: usize,
    counts: [u16; 3],
    /// Hashes of names, and where these begin.
    known: heapless::Vec<(u32, u16), MAX_KNOWN>,
}

/// Where a message was, to go back to.
#[derive(Clone, Copy)]
pub(crate) struct Mark {
    len: usize,
    counts: [u16; 3],
    known: usize,
}

impl<'a> Writer<'a> {
    /// Begins with room for a header.
    pub fn new(bytes: &'a mut [u8], limit: usize) -> Writer<'a> {
        let limit = limit.min(bytes.len());
        bytes[..HEADER].fill(0);
        Writer { bytes, len: HEADER, limit, counts: [0; 3], known: heapless::Vec::new() }
    }

    /// Repeats a question as it was asked: a name, and four bytes of type and class.
    pub fn question(&mut self, raw: &[u8], labels: &Labels) -> Result<(), Full> {
        let at = self.len;
        self.put(raw)?;
        let name = &raw[..raw.len() - 4];
        for index in 0..labels.count() {
            self.remember(labels.hash(index), at + labels.start(index, name));
        }
        self.bytes[4..6].copy_from_slice(&[0, 1]);
        Ok(())
    }

    pub fn mark(&self) -> Mark {
        Mark { len: self.len, counts: self.counts, known: self.known.len() }
    }

    pub fn back_to(&mut self, mark: Mark) {
        self.len = mark.len;
        self.counts = mark.counts;
        self.known.truncate(mark.known);
    }

    pub fn counts(&self) -> [u16; 3] {
        self.counts
    }

    /// How many bytes more there may be.
    pub fn raise_limit(&mut self, bytes: usize) {
        self.limit = (self.limit + bytes).min(self.bytes.len());
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Full> {
        let end = self.len + bytes.len();
        if end > self.limit {
            return Err(Full);
        }
        self.bytes[self.len..end].copy_from_slice(bytes);
        self.len = end;
        Ok(())
    }

    fn remember(&mut self, hash: u32, at: usize) {
        if at <= MAX_POINTER {
            // Where the list is full, names are written at length.
            let _ = self.known.push((hash, at as u16));
        }
    }

    /// Whether the name that begins here is this one.
    fn is_at(&self, at: u16, name: &[u8]) -> bool {
        let (mut at, mut rest) = (usize::from(at), name);
        loop {
            let len = self.bytes[at];
            if len >= 0xc0 {
                // Our own pointers lead back, to what is no pointer.
                at = usize::from(u16::from_be_bytes([len & 0x3f, self.bytes[at + 1]]));
                continue;
            }
            let end = usize::from(len) + 1;
            if rest.len() < end || !self.bytes[at..at + end].eq_ignore_ascii_case(&rest[..end]) {
                return false;
            }
            if len == 0 {
                return true;
            }
            at += end;
            rest = &rest[end..];
        }
    }

    /// Writes a name, as a pointer as far as possible. Returns where such a name is that a pointer reaches.
    pub fn name(&mut self, name: &[u8]) -> Result<Option<u16>, Full> {
        let labels = Labels::of(name);
        let found = (0..labels.count()).find_map(|index| {
            let (hash, suffix) = (labels.hash(index), &name[labels.start(index, name)..]);
            let is_it = |known: &&(u32, u16)| known.0 == hash && self.is_at(known.1, suffix);
            self.known.iter().find(is_it).map(|known| (index, known.1))
        });
        let begin = self.len;
        let Some((index, at)) = found else {
            self.put(name)?;
            for index in 0..labels.count() {
                self.remember(labels.hash(index), begin + labels.start(index, name));
            }
            return Ok(u16::try_from(begin).ok().filter(|at| usize::from(*at) <= MAX_POINTER));
        };
        self.put(&name[..labels.start(index, name)])?;
        self.put(&(0xc000 | at).to_be_bytes())?;
        for new in 0..index {
            self.remember(labels.hash(new), begin + labels.start(new, name));
        }
        match index {
            0 => Ok(Some(at)),
            _ => Ok(u16::try_from(begin).ok().filter(|at| usize::from(*at) <= MAX_POINTER)),
        }
    }

    /// Writes records of one name and type.
    pub fn records<'r>(
        &mut self,
        section: Section,
        owner: &[u8],
        rtype: u16,
        ttl: u32,
        records: impl Iterator<Item = &'r [u8]>,
    ) -> Result<(), Full> {
        let mut at = None;
        for data in records {
            self.record(section, owner, &mut at, rtype, ttl, data)?;
        }
        Ok(())
    }

    /// Writes a record. `at` is where its owner is in the message, once it is known.
    pub fn record(
        &mut self,
        section: Section,
        owner: &[u8],
        at: &mut Option<u16>,
        rtype: u16,
        ttl: u32,
        data: &[u8],
    ) -> Result<(), Full> {
        match *at {
            Some(at) => self.put(&(0xc000 | at).to_be_bytes())?,
            None => *at = self.name(owner)?,
        }
        let mut head = [0; 10];
        head[..2].copy_from_slice(&rtype.to_be_bytes());
        head[3] = 1;
        head[4..8].copy_from_slice(&ttl.to_be_bytes());
        self.put(&head)?;
        let begin = self.len;
        self.data(rtype, data)?;
        let len = (self.len - begin) as u16;
        self.bytes[begin - 2..begin].copy_from_slice(&len.to_be_bytes());
        self.count(section);
        Ok(())
    }

    /// Names are compressed in the types of RFC 1035 alone (RFC 3597, section 4).
    fn data(&mut self, rtype: u16, data: &[u8]) -> Result<(), Full> {
        let (before, names) = match rtype {
            rtype::NS | rtype::CNAME | 3 | 4 | 7 | 8 | 9 | 12 => (0, 1),
            rtype::SOA | 14 => (0, 2),
            15 => (2, 1),
            _ => return self.put(data),
        };
        self.put(&data[..before])?;
        let mut rest = &data[before..];
        for _ in 0..names {
            let (name, after) = rest.split_at(wire_len(rest));
            self.name(name)?;
            rest = after;
        }
        self.put(rest)
    }

    /// Writes a record of a kind that does not belong to zones, whole: its bytes are these.
    pub fn raw(&mut self, section: Section, record: &[u8]) -> Result<(), Full> {
        self.put(record)?;
        self.count(section);
        Ok(())
    }

    fn count(&mut self, section: Section) {
        self.counts[section as usize] += 1;
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// Fills in the header, and returns how long the message is.
    pub fn finish(self, id: u16, flags: u16) -> usize {
        self.bytes[..2].copy_from_slice(&id.to_be_bytes());
        self.bytes[2..4].copy_from_slice(&flags.to_be_bytes());
        for (index, count) in self.counts.iter().enumerate() {
            self.bytes[6 + 2 * index..8 + 2 * index].copy_from_slice(&count.to_be_bytes());
        }
        self.len
    }

    /// The same, to go on with.
    pub fn fill_in(&mut self, id: u16, flags: u16) {
        self.bytes[..2].copy_from_slice(&id.to_be_bytes());
        self.bytes[2..4].copy_from_slice(&flags.to_be_bytes());
        for (index, count) in self.counts.iter().enumerate() {
            self.bytes[6 + 2 * index..8 + 2 * index].copy_from_slice(&count.to_be_bytes());
        }
    }
}

/// Bytes of the name at the begin, which is not compressed.
pub(crate) fn wire_len(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(len @ 1..) = bytes.get(at).copied() {
        at += 1 + usize::from(len);
    }
    (at + 1).min(bytes.len())
}

//! The entries of a directory.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;

use super::{Error, File, FileKind, Metadata};
use crate::protocol::{Data, DirEntry, Message, Qid, Stat, is_name};

/// Most bytes of entries that are asked for at once.
const MAX_PIECE: usize = 32 << 10;
/// How often a directory of 9P2000.u is read for entries that its server has lost.
const MAX_PASSES: usize = 6;
/// Most places of a directory where its server may have lost one: that many pieces of entries.
const MAX_GAPS: usize = 4096;

/// An entry of a directory. `.` and `..` are none.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry {
    /// Its name: never empty, and without a slash.
    pub name: Box<[u8]>,
    /// What it is.
    pub kind: FileKind,
    /// What the server knows it by.
    pub qid: Qid,
    /// What else the server says of it; 9P2000.L has that in an answer of its own.
    pub metadata: Option<Metadata>,
}

impl Entry {
    /// Its name, where that is UTF-8.
    pub fn name(&self) -> Option<&str> {
        core::str::from_utf8(&self.name).ok()
    }
}

/// The entries of a directory, one after the other, in the server's order.
///
/// A server can have entries without end: whoever keeps them has a limit.
pub struct ReadDir {
    dir: File,
    offset: u64,
    data: Vec<u8>,
    /// What of it was returned, and where it ends.
    taken: usize,
    end: usize,
    lost: Lost,
}

/// Entries that a server of 9P2000.u has lost. xen-9pfsd skips the one that no longer fits into an answer (`p9_read` goes on
/// after it): it is found where the ends of answers fall between other entries.
#[derive(Default)]
struct Lost {
    pass: usize,
    /// The last entry of an answer, and the first one of the next.
    gaps: Vec<Gap>,
    /// The last entry, and whether it is of the same answer as the next.
    last: Option<(Box<[u8]>, bool)>,
}

struct Gap {
    before: Box<[u8]>,
    after: Box<[u8]>,
}

impl ReadDir {
    pub(super) fn new(dir: File) -> ReadDir {
        ReadDir { dir, offset: 0, data: Vec::new(), taken: 0, end: 0, lost: Lost::default() }
    }

    /// The next entry; `None` after the last.
    ///
    /// # Errors
    ///
    /// Where the server refuses, or what it says is not an entry, or the directory changes so often that there is no whole
    /// list of it.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time; the next call goes on.
    pub async fn next(&mut self) -> Result<Option<Entry>, Error> {
        let is_linux = self.dir.fid.session.dialect.is_linux();
        loop {
            if self.taken == self.end && !self.fetch(is_linux).await? {
                return Ok(None);
            }
            let known = self.data.get(self.taken..self.end).unwrap_or_default();
            let mut rest = known;
            let (entry, is_new, excess) = if is_linux {
                let DirEntry { qid, offset, kind, name } = DirEntry::read(&mut rest)?;
                self.offset = offset;
                (Entry { name: name.0.into(), kind: FileKind::of_entry(kind, qid), qid, metadata: None }, true, 0)
            } else {
                let (stat, excess) = Stat::take(&mut rest)?;
                let metadata = Metadata::of_stat(&stat);
                let entry =
                    Entry { name: stat.name.0.into(), kind: metadata.kind, qid: stat.qid, metadata: Some(metadata) };
                let is_new = self.lost.see(&entry.name)?;
                (entry, is_new, excess)
            };
            self.taken += known.len() - rest.len();
            self.end = self.end.checked_sub(excess).filter(|end| *end >= self.taken).ok_or(Error::Garbage)?;
            if *entry.name == *b"." || *entry.name == *b".." {
                continue;
            }
            if !is_name(&entry.name) {
                return Err(Error::Garbage);
            }
            if is_new {
                return Ok(Some(entry));
            }
        }
    }

    /// Asks for more; whether there is any.
    async fn fetch(&mut self, is_linux: bool) -> Result<bool, Error> {
        let fid = &self.dir.fid;
        let (number, offset) = (fid.number(), self.offset);
        let piece = self.dir.piece().min(MAX_PIECE);
        if is_linux {
            let answer = fid.call(&Message::Treaddir { fid: number, offset, count: piece as u32 }).await?;
            let Message::Rreaddir { data: Data(data) } = answer.message()? else { return Err(Error::Garbage) };
            self.data = data.into();
        } else {
            let count = if offset == 0 { piece / (self.lost.pass + 1) } else { piece };
            let answer = fid.call(&Message::Tread { fid: number, offset, count: count as u32 }).await?;
            let Message::Rread { data: Data(data) } = answer.message()? else { return Err(Error::Garbage) };
            if data.is_empty() && !self.lost.gaps.is_empty() {
                if self.lost.pass + 1 == MAX_PASSES {
                    return Err(Error::Garbage);
                }
                // Once more, from the begin.
                self.lost.pass += 1;
                self.lost.last = None;
                self.offset = 0;
                self.data.clear();
                (self.taken, self.end) = (0, 0);
                return Box::pin(self.fetch(is_linux)).await;
            }
            self.lost.end_answer();
            self.data = data.into();
            self.offset = self.offset.saturating_add(self.data.len() as u64);
        }
        (self.taken, self.end) = (0, self.data.len());
        Ok(!self.data.is_empty())
    }
}

impl Lost {
    /// An answer ends before the next entry.
    fn end_answer(&mut self) {
        if let Some((_, is_same)) = &mut self.last {
            *is_same = false;
        }
    }

    /// Whether the next entry is one to be returned.
    fn see(&mut self, name: &[u8]) -> Result<bool, Error> {
        let before = self.last.replace((name.into(), true));
        if self.pass == 0 {
            if let Some((last, false)) = before {
                if self.gaps.len() == MAX_GAPS {
                    return Err(Error::Garbage);
                }
                self.gaps.push(Gap { before: last, after: name.into() });
            }
            return Ok(true);
        }
        let Some((last, true)) = before else { return Ok(false) };
        let Some(index) = self.gaps.iter().position(|gap| gap.before == last) else { return Ok(false) };
        Ok(*self.gaps.swap_remove(index).after != *name)
    }
}

impl fmt::Debug for ReadDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadDir").field("dir", &self.dir).field("offset", &self.offset).finish_non_exhaustive()
    }
}

//! An open file.

use alloc::collections::VecDeque;
use core::fmt;

use embedded_io_async::{ErrorType, Read, Seek, SeekFrom, Write};

use super::fid::Fid;
use super::requests::Ticket;
use super::{Changes, Error, MAX_REQUESTS, Metadata, ops};
use crate::protocol::{Data, HEADER_SIZE, Message, Qid};

/// Bytes of a `Twrite` without its data; an `Rread` has fewer.
const WRITE_HEADER: u32 = HEADER_SIZE as u32 + 4 + 8 + 4;

/// A file of the share, open. Dropping it gives it back to the server.
///
/// Where the connection ends, all its methods fail with [`Error::Stale`] from then on.
pub struct File {
    pub(super) fid: Fid,
    qid: Qid,
    /// Most bytes of one request.
    piece: u32,
}

impl File {
    pub(super) fn new(fid: Fid, qid: Qid, iounit: u32) -> File {
        let most = fid.session.msize - WRITE_HEADER;
        let piece = if iounit == 0 { most } else { iounit.min(most) };
        File { fid: fid.keep(), qid, piece }
    }

    /// What the server knew it by when it was opened.
    pub fn qid(&self) -> Qid {
        self.qid
    }

    /// Bytes that one request can carry. Longer reads and writes have several of them in flight, up to
    /// [`MAX_REQUESTS`] while nobody else waits.
    pub fn piece(&self) -> usize {
        self.piece as usize
    }

    /// Reads from byte `offset` on; returns how many bytes came. Fewer than asked for means the end of the file, or an
    /// error after them, which the next call returns.
    ///
    /// # Errors
    ///
    /// Where nothing could be read: [`Error::Refused`], for a directory or a file that was opened to write only.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time. What was asked for is still answered, and its tags are in use until then.
    pub async fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, Error> {
        let mut flight = Flight::new(self, buffer.len());
        let mut done = 0;
        loop {
            let message =
                |at: usize, len: u32| Message::Tread { fid: self.fid.number(), offset: offset + at as u64, count: len };
            let outcome = flight.next(message).await;
            let (start, len, answer) = match outcome {
                Ok(Some(next)) => next,
                Ok(None) => return Ok(done),
                Err(error) if done == 0 => return Err(error),
                Err(_) => return Ok(done),
            };
            let Message::Rread { data: Data(bytes) } = answer.message()? else { return Err(Error::Garbage) };
            // The driver has seen that there are no more than asked for.
            let room = buffer.get_mut(start..start + bytes.len()).ok_or(Error::Garbage)?;
            room.copy_from_slice(bytes);
            done = start + bytes.len();
            if bytes.len() < len {
                return Ok(done);
            }
        }
    }

    /// Reads until `buffer` is full or the file ends; returns how many bytes came.
    ///
    /// # Errors
    ///
    /// As [`read_at`](File::read_at); what came before the error is lost.
    ///
    /// # Cancellation
    ///
    /// As [`read_at`](File::read_at).
    pub async fn read_full_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, Error> {
        let mut done = 0;
        while done < buffer.len() {
            match self.read_at(offset + done as u64, &mut buffer[done..]).await? {
                0 => break,
                read => done += read,
            }
        }
        Ok(done)
    }

    /// Writes from byte `offset` on; returns how many bytes the server took, one at least.
    ///
    /// # Errors
    ///
    /// Where it took none: [`Error::Refused`] with `ENOSPC`, `EROFS` and the like.
    ///
    /// # Cancellation
    ///
    /// What was sent is carried out: any part of `bytes` may have been written.
    pub async fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<usize, Error> {
        let mut flight = Flight::new(self, bytes.len());
        let mut done = 0;
        loop {
            let message = |at: usize, len: u32| Message::Twrite {
                fid: self.fid.number(),
                offset: offset + at as u64,
                data: Data(bytes.get(at..at + len as usize).unwrap_or_default()),
            };
            let (start, len, answer) = match flight.next(message).await {
                Ok(Some(next)) => next,
                Ok(None) => return Ok(done),
                Err(error) if done == 0 => return Err(error),
                Err(_) => return Ok(done),
            };
            let Message::Rwrite { count } = answer.message()? else { return Err(Error::Garbage) };
            let count = count as usize;
            done = start + count;
            match count {
                // Whoever goes on would never end.
                0 if done == 0 => return Err(Error::Garbage),
                count if count < len => return Ok(done),
                _ => {}
            }
        }
    }

    /// Writes all of `bytes` from byte `offset` on.
    ///
    /// # Errors
    ///
    /// As [`write_at`](File::write_at); a part may have been written.
    ///
    /// # Cancellation
    ///
    /// As [`write_at`](File::write_at).
    pub async fn write_all_at(&self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        let mut done = 0;
        while done < bytes.len() {
            done += self.write_at(offset + done as u64, &bytes[done..]).await?;
        }
        Ok(())
    }

    /// What the server says of the file now.
    ///
    /// # Errors
    ///
    /// Where it refuses, or there is no connection.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time.
    pub async fn metadata(&self) -> Result<Metadata, Error> {
        ops::metadata(&self.fid).await
    }

    /// Changes what is known of the file, its size too.
    ///
    /// # Errors
    ///
    /// Where the server refuses; xen-9pfsd cannot change anything: [`Error::Unsupported`].
    ///
    /// # Cancellation
    ///
    /// What was sent is carried out.
    pub async fn change(&self, changes: &Changes) -> Result<(), Error> {
        ops::change(&self.fid, changes, false).await
    }

    /// Waits until what was written is on the server's disk.
    ///
    /// # Errors
    ///
    /// Where it is not; xen-9pfsd cannot tell: [`Error::Unsupported`].
    ///
    /// # Cancellation
    ///
    /// What was sent is carried out.
    pub async fn sync(&self) -> Result<(), Error> {
        ops::sync(&self.fid).await
    }

    /// Gives the file back, and waits until the server has closed it. Dropping it does the same without the wait.
    ///
    /// # Errors
    ///
    /// Where the server has an error of its own then; the file is closed all the same.
    ///
    /// # Cancellation
    ///
    /// The file is closed in any case.
    pub async fn close(self) -> Result<(), Error> {
        self.fid.clunk().await
    }

    /// Reads and writes one after the other, by the traits of `embedded-io-async`, from the begin of the file on.
    pub fn cursor(&self) -> Cursor<'_> {
        Cursor { file: self, position: 0 }
    }
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("File").field("qid", &self.qid).field("piece", &self.piece).finish_non_exhaustive()
    }
}

/// The requests that make up a long read or write, a few of them in flight.
struct Flight<'a> {
    file: &'a File,
    len: usize,
    /// What has been asked for.
    asked: usize,
    tickets: VecDeque<(usize, usize, Ticket<'a>)>,
}

impl<'a> Flight<'a> {
    fn new(file: &'a File, len: usize) -> Flight<'a> {
        Flight { file, len, asked: 0, tickets: VecDeque::new() }
    }

    /// The answer to the next piece: where it begins, how many bytes were asked for, and what came. `None` after the last.
    async fn next<'m>(
        &mut self,
        message: impl Fn(usize, u32) -> Message<'m>,
    ) -> Result<Option<(usize, usize, super::requests::Answer)>, Error> {
        let Fid { shared, session, .. } = &self.file.fid;
        while self.asked < self.len {
            let is_more = !self.tickets.is_empty();
            if is_more && (self.tickets.len() >= MAX_REQUESTS || !shared.requests.has_spare_place()) {
                break;
            }
            let len = (self.file.piece as usize).min(self.len - self.asked);
            let ticket = match shared.queue(*session, &message(self.asked, len as u32)).await {
                Ok(ticket) => ticket,
                // The answers to those before come first.
                Err(_) if is_more => break,
                Err(error) => return Err(error),
            };
            self.tickets.push_back((self.asked, len, ticket));
            self.asked += len;
        }
        let Some((start, len, ticket)) = self.tickets.pop_front() else { return Ok(None) };
        Ok(Some((start, len, ticket.answer().await?)))
    }
}

/// A file that is read and written one byte after the other.
#[derive(Debug)]
pub struct Cursor<'a> {
    file: &'a File,
    position: u64,
}

impl Cursor<'_> {
    /// The byte that comes next.
    pub fn position(&self) -> u64 {
        self.position
    }
}

impl ErrorType for Cursor<'_> {
    type Error = Error;
}

impl Read for Cursor<'_> {
    async fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        let read = self.file.read_at(self.position, buffer).await?;
        self.position += read as u64;
        Ok(read)
    }
}

impl Write for Cursor<'_> {
    async fn write(&mut self, bytes: &[u8]) -> Result<usize, Error> {
        let written = self.file.write_at(self.position, bytes).await?;
        self.position += written as u64;
        Ok(written)
    }

    /// Nothing is held back here: what was written is the server's. [`File::sync`] waits for its disk.
    async fn flush(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

impl Seek for Cursor<'_> {
    async fn seek(&mut self, to: SeekFrom) -> Result<u64, Error> {
        let (from, by) = match to {
            SeekFrom::Start(at) => (at, 0),
            SeekFrom::Current(by) => (self.position, by),
            SeekFrom::End(by) => (self.file.metadata().await?.size, by),
        };
        let invalid = Error::Refused(xen_hal::Errno::EINVAL);
        self.position = from.checked_add_signed(by).ok_or(invalid)?;
        Ok(self.position)
    }
}

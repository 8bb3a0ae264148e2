//! An open channel, as an application uses it.

use alloc::rc::Rc;
use core::ops::Range;

use xen_hal::{DomId, EventChannels, Port, Xen};
use xen_ring::BadIndex;
use xenbus::Turn;

use crate::error::Error;
use crate::layout::{self, End, Layout};
use crate::link::{Link, Origin};
use crate::memory::Memory;
use crate::ring::{Moved, Reader, Writer};
use crate::sleep::{Half, Woken};

/// What a step costs of a turn besides its bytes.
const STEP_COST: usize = 512;

/// Two streams of bytes, one in each direction, between this domain and another.
///
/// It implements `Read` and `Write` of `embedded-io-async`. Dropping it closes it: the peer is notified, can read what it has
/// not read yet, and then finds the end. Whether it does nobody knows: [`flush`](Channel::flush) waits until it has read
/// everything.
pub struct Channel<X: Xen> {
    read: ReadHalf<X>,
    write: WriteHalf<X>,
}

/// The half of a channel that is read. The channel is closed when both halves are dropped.
pub struct ReadHalf<X: Xen> {
    link: Rc<Link<X>>,
    reader: Reader,
    turn: Turn,
}

/// The half of a channel that is written to. The channel is closed when both halves are dropped.
pub struct WriteHalf<X: Xen> {
    link: Rc<Link<X>>,
    writer: Writer,
    turn: Turn,
}

impl<X: Xen> Channel<X> {
    pub(crate) fn new(
        xen: X,
        (memory, layout): (Memory<X>, Layout),
        port: <X as EventChannels>::Port,
        origin: Origin,
    ) -> Result<Channel<X>, BadIndex> {
        let reader = Reader::attach(layout, origin.end, memory.page())?;
        let writer = Writer::attach(layout, origin.end, memory.page())?;
        let link = Rc::new(Link::new(xen, (memory, layout), port, origin));
        Ok(Channel {
            read: ReadHalf { link: link.clone(), reader, turn: Turn::default() },
            write: WriteHalf { link, writer, turn: Turn::default() },
        })
    }

    /// A client says that it is there, and wakes the server to find it.
    pub(crate) fn announce(&self) {
        layout::attach(self.read.link.page());
        self.read.link.port.notify();
    }

    /// The domain at the other end.
    pub fn peer(&self) -> DomId {
        self.read.link.origin.peer
    }

    /// Which end this is.
    pub fn end(&self) -> End {
        self.read.link.origin.end
    }

    /// How large the rings are.
    pub fn layout(&self) -> Layout {
        self.read.link.layout
    }

    /// Whether the peer is there, for all that is known: it may have ended just now. What it has written can be read in any
    /// case.
    pub fn is_open(&self) -> bool {
        self.read.link.is_open()
    }

    /// As [`ReadHalf::read`].
    ///
    /// # Errors
    ///
    /// As that.
    ///
    /// # Cancellation
    ///
    /// As that.
    pub async fn read(&mut self, to: &mut [u8]) -> Result<usize, Error> {
        self.read.read(to).await
    }

    /// As [`WriteHalf::write`].
    ///
    /// # Errors
    ///
    /// As that.
    ///
    /// # Cancellation
    ///
    /// As that.
    pub async fn write(&mut self, from: &[u8]) -> Result<usize, Error> {
        self.write.write(from).await
    }

    /// As [`WriteHalf::write_message`].
    ///
    /// # Errors
    ///
    /// As that.
    ///
    /// # Cancellation
    ///
    /// As that.
    pub async fn write_message(&mut self, message: &[u8]) -> Result<(), Error> {
        self.write.write_message(message).await
    }

    /// As [`WriteHalf::flush`].
    ///
    /// # Errors
    ///
    /// As that.
    ///
    /// # Cancellation
    ///
    /// As that.
    pub async fn flush(&mut self) -> Result<(), Error> {
        self.write.flush().await
    }

    /// Two halves, for two tasks.
    pub fn split(self) -> (ReadHalf<X>, WriteHalf<X>) {
        (self.read, self.write)
    }
}

impl<X: Xen> ReadHalf<X> {
    /// Waits until there is something to read, and reads it: as much as there is and fits into `to`. It is 0 where the peer
    /// has closed the channel or is gone, and all was read; and where `to` is empty.
    ///
    /// # Errors
    ///
    /// [`Error::BadIndex`] where the peer has broken the protocol.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time; nothing is lost.
    pub async fn read(&mut self, to: &mut [u8]) -> Result<usize, Error> {
        if to.is_empty() {
            return Ok(0);
        }
        take_turns(&mut self.turn).await;
        let mut woken = Woken::default();
        loop {
            if let Some(bytes) = self.try_read(to)? {
                self.turn.spend(STEP_COST + bytes);
                return Ok(bytes);
            }
            self.link.sleep(Half::Read, &mut woken).await;
            self.turn.begin();
        }
    }

    fn try_read(&mut self, to: &mut [u8]) -> Result<Option<usize>, Error> {
        let link = &*self.link;
        link.check()?;
        for asked in [false, true] {
            // Looked at before the index: what the peer wrote before it closed the channel still counts.
            let open = link.is_open();
            let most = to.len();
            let copy = |offset: usize, range: Range<usize>| link.memory.read(link.layout, offset, &mut to[range]);
            let moved = self.reader.read(link.page(), most, copy).map_err(|error| link.fail(error))?;
            if let Some(bytes) = record(link, moved) {
                return Ok(Some(bytes));
            }
            if !open {
                return Ok(Some(0));
            }
            if !asked {
                self.reader.request_notify(link.page());
            }
        }
        Ok(None)
    }
}

impl<X: Xen> WriteHalf<X> {
    /// Waits until there is room, and writes what there is room for. The peer can read it at once.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`], [`Error::BadIndex`].
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time; nothing was written then.
    pub async fn write(&mut self, from: &[u8]) -> Result<usize, Error> {
        if from.is_empty() {
            return Ok(0);
        }
        self.write_at_least(1, from).await
    }

    /// Waits until there is room for all of a message, and writes it at once: a peer that reads whole messages never sees a
    /// part of one.
    ///
    /// # Errors
    ///
    /// [`Error::TooLong`] where it is longer than the ring; and as [`write`](WriteHalf::write).
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time; nothing was written then.
    pub async fn write_message(&mut self, message: &[u8]) -> Result<(), Error> {
        let (len, size) = (message.len(), self.writer.size());
        match len {
            0 => Ok(()),
            _ if len > size => Err(Error::TooLong { len, size }),
            _ => self.write_at_least(len, message).await.map(drop),
        }
    }

    /// Waits until the peer has read everything.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`] where it has not, and never will; [`Error::BadIndex`].
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time.
    pub async fn flush(&mut self) -> Result<(), Error> {
        let mut woken = Woken::default();
        while !self.is_flushed()? {
            self.link.sleep(Half::Write, &mut woken).await;
            self.turn.begin();
        }
        Ok(())
    }

    fn is_flushed(&self) -> Result<bool, Error> {
        let link = &*self.link;
        link.check()?;
        for asked in [false, true] {
            let open = link.is_open();
            if self.writer.unread(link.page()).map_err(|error| link.fail(error))? == 0 {
                return Ok(true);
            }
            if !open {
                return Err(Error::Closed);
            }
            if !asked {
                self.writer.request_notify(link.page());
            }
        }
        Ok(false)
    }

    async fn write_at_least(&mut self, least: usize, from: &[u8]) -> Result<usize, Error> {
        take_turns(&mut self.turn).await;
        let mut woken = Woken::default();
        loop {
            if let Some(bytes) = self.try_write(least, from)? {
                self.turn.spend(STEP_COST + bytes);
                return Ok(bytes);
            }
            self.link.sleep(Half::Write, &mut woken).await;
            self.turn.begin();
        }
    }

    fn try_write(&mut self, least: usize, from: &[u8]) -> Result<Option<usize>, Error> {
        let link = &*self.link;
        link.check()?;
        for asked in [false, true] {
            if !link.is_open() {
                return Err(Error::Closed);
            }
            let copy = |offset: usize, range: Range<usize>| link.memory.write(link.layout, offset, &from[range]);
            let moved = self.writer.write(link.page(), least, from.len(), copy).map_err(|error| link.fail(error))?;
            if let Some(bytes) = record(link, moved) {
                return Ok(Some(bytes));
            }
            if !asked {
                self.writer.request_notify(link.page());
            }
        }
        Ok(None)
    }
}

/// Tells the peer of what was moved, where it wants that; `None` where nothing was.
fn record<X: Xen>(link: &Link<X>, moved: Moved) -> Option<usize> {
    if moved.bytes == 0 {
        return None;
    }
    link.record_work(moved.notify);
    Some(moved.bytes)
}

/// Lets other tasks run where this half has moved much without waiting.
async fn take_turns(turn: &mut Turn) {
    if turn.is_over() {
        turn.end().await;
    }
}

//! The requests of a share's users, by tag: a driver takes each once, and answers it at most once.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use xen_ring::WaitQueue;

use super::Error;
use super::fids::Fids;
use crate::protocol::{Kind, Message, NOFID, TooLong};

/// Requests of users in flight.
pub const MAX_REQUESTS: usize = 8;
/// Fids that are given back at the same time, with tags of their own: users cannot keep them from it.
pub(super) const MAX_CLUNKS: usize = 4;
/// The tag of the request that follows that for the version.
pub(super) const ATTACH_TAG: u16 = MAX_REQUESTS as u16;
/// The first tag of those that give fids back.
const FIRST_CLUNK_TAG: u16 = ATTACH_TAG + 1;

/// What a user asks for.
#[derive(Debug)]
pub(super) struct Request {
    /// The whole message; its tag is written when it is sent.
    bytes: Vec<u8>,
    /// The session that its fids are of.
    session: u32,
    asked: Asked,
}

/// What is to be known of a request until its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) kind: Kind,
    /// Most bytes, or parts, of the answer.
    pub(super) limit: u32,
    /// Fids that it uses.
    uses: [u32; 2],
    /// The fid that is there if it succeeds.
    makes: Option<u32>,
}

impl Request {
    /// # Errors
    ///
    /// Where it is longer than `msize`, or a string of it too long.
    pub(super) fn new(message: &Message<'_>, session: u32, msize: u32) -> Result<Request, Error> {
        let bytes = message.encode(0, msize).map_err(|TooLong| Error::TooLong { msize })?;
        let (limit, uses, makes) = match *message {
            Message::Twalk { fid, newfid, names } => {
                (names.len() as u32, [fid, NOFID], Some(newfid).filter(|newfid| *newfid != fid))
            }
            Message::Tread { fid, count, .. } | Message::Treaddir { fid, count, .. } => (count, [fid, NOFID], None),
            Message::Twrite { fid, data, .. } => (data.0.len() as u32, [fid, NOFID], None),
            Message::Tlink { dfid, fid, .. } => (0, [dfid, fid], None),
            Message::Trenameat { from, to, .. } => (0, [from, to], None),
            // All others begin with the only fid that they have.
            _ => {
                let fid = bytes.get(7..11).and_then(|bytes| bytes.try_into().ok()).map_or(NOFID, u32::from_le_bytes);
                (0, [fid, NOFID], None)
            }
        };
        Ok(Request { bytes, session, asked: Asked { kind: message.kind(), limit, uses, makes } })
    }
}

/// What a user gets: a message that was checked, without its header.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) kind: Kind,
    pub(super) body: Vec<u8>,
    /// Whether the fid that it was to make is there.
    pub(super) made: bool,
}

impl Answer {
    pub(super) fn message(&self) -> Result<Message<'_>, Error> {
        Ok(Message::decode(self.kind, &self.body)?)
    }
}

/// What has become of the request of a place.
enum Place {
    Free,
    Queued(Request),
    /// The backend has it.
    Sent(Asked),
    /// The same, and nobody waits for the answer. The tag is the backend's until that has come.
    Abandoned(Asked),
    /// Here, for its user; the fid is there.
    Done(Result<Answer, Error>, Option<u32>),
}

/// Who is answered by a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    User(usize, Asked),
    Clunk(usize),
}

struct Places {
    places: [Place; MAX_REQUESTS],
    /// Those that are queued, in their order.
    queue: VecDeque<usize>,
    /// Fids that the backend is to give back.
    clunks: [Option<u32>; MAX_CLUNKS],
}

/// Requests that were made and are not over, and the fids of the session.
pub(super) struct Requests {
    places: RefCell<Places>,
    pub(super) fids: Fids,
    pub(super) changes: WaitQueue,
    /// Users for whom there was no place.
    waiting: Cell<usize>,
}

impl Requests {
    pub(super) fn new() -> Requests {
        let places = Places {
            places: [const { Place::Free }; MAX_REQUESTS],
            queue: VecDeque::new(),
            clunks: [None; MAX_CLUNKS],
        };
        let (fids, changes) = (Fids::default(), WaitQueue::new());
        Requests { places: RefCell::new(places), fids, changes, waiting: Cell::new(0) }
    }

    /// Queues a request once there is a place for it. `check` says why it cannot be queued any more.
    pub(super) async fn queue(
        &self,
        request: Request,
        check: impl Fn() -> Result<(), Error>,
    ) -> Result<Ticket<'_>, Error> {
        struct Waiting<'a>(&'a Cell<usize>);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.set(self.0.get() - 1);
            }
        }
        let (mut request, mut waiting) = (Some(request), None);
        let place = self.changes.wait_until(|| match check() {
            Ok(()) => self.enter(&mut request).map(Ok).or_else(|| {
                waiting.get_or_insert_with(|| {
                    self.waiting.set(self.waiting.get() + 1);
                    Waiting(&self.waiting)
                });
                None
            }),
            Err(error) => Some(Err(error)),
        });
        Ok(Ticket { requests: self, place: place.await? })
    }

    /// Whether one more request can be queued without keeping another user from it.
    pub(super) fn has_spare_place(&self) -> bool {
        let places = self.places.borrow();
        self.waiting.get() == 0 && places.places.iter().any(|place| matches!(place, Place::Free))
    }

    fn enter(&self, request: &mut Option<Request>) -> Option<usize> {
        let mut places = self.places.borrow_mut();
        let index = places.places.iter().position(|place| matches!(place, Place::Free))?;
        places.places[index] = Place::Queued(request.take()?);
        places.queue.push_back(index);
        Some(index)
    }

    /// Has the backend give a fid back, of which nothing is known any more here.
    pub(super) fn release(&self, fid: u32) {
        self.fids.release(fid);
        self.changes.wake_all();
    }

    /// For the driver: the next message to send. Fids come first: a server may have few.
    pub(super) fn next(&self, session: u32) -> Option<Vec<u8>> {
        if let Some(bytes) = self.next_clunk() {
            return Some(bytes);
        }
        loop {
            let mut places = self.places.borrow_mut();
            let index = places.queue.pop_front()?;
            let place = &mut places.places[index];
            match core::mem::replace(place, Place::Free) {
                Place::Queued(request) if request.session == session => {
                    *place = Place::Sent(request.asked);
                    let mut bytes = request.bytes;
                    bytes[5..7].copy_from_slice(&(index as u16).to_le_bytes());
                    return Some(bytes);
                }
                Place::Queued(request) => {
                    *place = Place::Queued(request);
                    drop(places);
                    self.finish(index, Err(Error::Stale));
                }
                other => *place = other,
            }
        }
    }

    fn next_clunk(&self) -> Option<Vec<u8>> {
        let mut places = self.places.borrow_mut();
        let index = places.clunks.iter().position(Option::is_none)?;
        let fid = self.fids.next_released(|fid| places.uses(fid))?;
        places.clunks[index] = Some(fid);
        Message::Tclunk { fid }.encode(FIRST_CLUNK_TAG + index as u16, u32::MAX).ok()
    }

    /// For the driver: who has asked with a tag that the backend has.
    pub(super) fn asked(&self, tag: u16) -> Option<Who> {
        let places = self.places.borrow();
        match places.places.get(usize::from(tag)) {
            Some(Place::Sent(asked) | Place::Abandoned(asked)) => Some(Who::User(tag.into(), *asked)),
            Some(_) => None,
            None => {
                let index = usize::from(tag.checked_sub(FIRST_CLUNK_TAG)?);
                places.clunks.get(index)?.map(|_| Who::Clunk(index))
            }
        }
    }

    /// For the driver: a request of a user is over.
    pub(super) fn finish(&self, index: usize, outcome: Result<Answer, Error>) {
        {
            let mut places = self.places.borrow_mut();
            let place = &mut places.places[index];
            let (makes, abandoned) = match place {
                Place::Sent(asked) => (asked.makes, false),
                Place::Abandoned(asked) => (asked.makes, true),
                Place::Queued(request) => (request.asked.makes, false),
                Place::Free | Place::Done(..) => return,
            };
            let made = outcome.as_ref().is_ok_and(|answer| answer.made);
            if let Some(fid) = makes {
                match (made, abandoned) {
                    (false, _) => self.fids.free(fid),
                    (true, true) => self.fids.release(fid),
                    (true, false) => {}
                }
            }
            *place = if abandoned { Place::Free } else { Place::Done(outcome, makes.filter(|_| made)) };
        }
        // Woken with nothing borrowed: a task that goes with its last waker may ask for something.
        self.changes.wake_all();
    }

    /// For the driver: the backend has given a fid back, or says that there is none.
    pub(super) fn finish_clunk(&self, index: usize) {
        let fid = self.places.borrow_mut().clunks.get_mut(index).and_then(Option::take);
        if let Some(fid) = fid {
            self.fids.free(fid);
            self.changes.wake_all();
        }
    }

    /// For the driver: how many requests the backend has.
    pub(super) fn count_sent(&self) -> usize {
        let places = self.places.borrow();
        let sent = |place: &&Place| matches!(place, Place::Sent(_) | Place::Abandoned(_));
        places.places.iter().filter(sent).count() + places.clunks.iter().flatten().count()
    }

    /// Fids that are given back and may be used again soon.
    pub(super) fn count_clunks(&self) -> usize {
        self.fids.count_released() + self.places.borrow().clunks.iter().flatten().count()
    }

    /// For the driver: the session is over, and with it all requests of it and all fids.
    pub(super) fn end_session(&self, sent: Error, queued: Error) {
        self.fids.reset();
        self.places.borrow_mut().clunks = [None; MAX_CLUNKS];
        for index in 0..MAX_REQUESTS {
            let error = match &mut self.places.borrow_mut().places[index] {
                Place::Sent(_) | Place::Abandoned(_) => sent,
                Place::Queued(_) => queued,
                Place::Free => continue,
                // Whoever takes it finds that it is of no use; who does not, is not to have the fid given back.
                Place::Done(_, made) => {
                    *made = None;
                    continue;
                }
            };
            self.finish(index, Err(error));
        }
        self.places.borrow_mut().queue.clear();
        // Numbers that came back from requests of the old session are the new one's already.
        self.fids.reset();
        // Those without a place, too.
        self.changes.wake_all();
    }
}

impl Places {
    /// Whether the backend has a request that uses a fid.
    fn uses(&self, fid: u32) -> bool {
        self.places.iter().any(|place| match place {
            Place::Sent(asked) | Place::Abandoned(asked) => asked.uses.contains(&fid),
            _ => false,
        })
    }
}

/// A user who waits for an answer.
pub(super) struct Ticket<'a> {
    requests: &'a Requests,
    place: usize,
}

impl Ticket<'_> {
    /// Waits for the answer.
    pub(super) async fn answer(self) -> Result<Answer, Error> {
        let requests = self.requests;
        requests.changes.wait_until(|| requests.take_answer(self.place)).await
    }
}

impl Requests {
    fn take_answer(&self, index: usize) -> Option<Result<Answer, Error>> {
        let place = &mut self.places.borrow_mut().places[index];
        match core::mem::replace(place, Place::Free) {
            Place::Done(outcome, _) => {
                // For the ticket, which frees it.
                *place = Place::Done(Err(Error::Gone), None);
                Some(outcome)
            }
            other => {
                *place = other;
                None
            }
        }
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let Requests { places, fids, changes, .. } = self.requests;
        {
            let mut places = places.borrow_mut();
            let Places { places: all, queue, .. } = &mut *places;
            let place = &mut all[self.place];
            let now = match core::mem::replace(place, Place::Free) {
                Place::Sent(asked) | Place::Abandoned(asked) => Place::Abandoned(asked),
                // What nobody has taken.
                Place::Done(_, Some(fid)) => {
                    fids.release(fid);
                    Place::Free
                }
                Place::Queued(request) => {
                    if let Some(fid) = request.asked.makes {
                        fids.free(fid);
                    }
                    queue.retain(|index| *index != self.place);
                    Place::Free
                }
                Place::Done(_, None) | Place::Free => Place::Free,
            };
            *place = now;
        }
        changes.wake_all();
    }
}

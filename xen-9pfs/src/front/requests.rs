//! The requests of a share's users, by tag: a driver takes each once, and answers it at most once.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::cell::RefCell;

use xen_ring::WaitQueue;

use super::Error;
use crate::protocol::{Kind, Message, NOFID, NOTAG, Qid, VERSION};

/// Requests in flight, besides that for the version.
pub const MAX_REQUESTS: usize = 8;
/// The place of the request for the version, which has no tag.
const VERSION_PLACE: usize = MAX_REQUESTS;

/// What a user asks for.
#[derive(Debug)]
pub(super) enum Request {
    Version,
    Attach { fid: u32, uname: Box<str>, aname: Box<str>, n_uname: u32 },
}

impl Request {
    fn message(&self, msize: u32) -> Message<'_> {
        match self {
            Request::Version => Message::Tversion { msize, version: VERSION },
            Request::Attach { fid, uname, aname, n_uname } => {
                Message::Tattach { fid: *fid, afid: NOFID, uname, aname, n_uname: *n_uname }
            }
        }
    }
}

/// What a user gets.
#[derive(Debug)]
pub(super) enum Answer {
    Version { msize: u32 },
    Attach { qid: Qid },
}

/// What has become of the request of a place.
enum Place {
    Free,
    Queued(Request),
    /// The backend has it.
    Sent(Kind),
    /// The same, and nobody waits for the answer. The tag is the backend's until that has come.
    Abandoned(Kind),
    /// Here, for its user.
    Done(Result<Answer, Error>),
}

struct Places {
    places: [Place; MAX_REQUESTS + 1],
    /// Those that are queued, in their order.
    queue: VecDeque<usize>,
}

/// Requests that were made and are not over.
pub(super) struct Requests {
    places: RefCell<Places>,
    changes: WaitQueue,
}

impl Requests {
    pub(super) fn new() -> Requests {
        let places = Places { places: [const { Place::Free }; MAX_REQUESTS + 1], queue: VecDeque::new() };
        Requests { places: RefCell::new(places), changes: WaitQueue::new() }
    }

    /// Queues a request once there is a place for it, has `notify` tell the driver, and waits for its end. `check` says
    /// why it cannot be queued any more.
    pub(super) async fn submit(
        &self,
        request: Request,
        check: impl Fn() -> Result<(), Error>,
        notify: impl FnOnce(),
    ) -> Result<Answer, Error> {
        let mut request = Some(request);
        let place = self.changes.wait_until(|| match check() {
            Ok(()) => self.enter(&mut request).map(Ok),
            Err(error) => Some(Err(error)),
        });
        let ticket = Ticket { requests: self, place: place.await? };
        notify();
        self.changes.wait_until(|| self.take_answer(ticket.place)).await
    }

    fn enter(&self, request: &mut Option<Request>) -> Option<usize> {
        let mut places = self.places.borrow_mut();
        let range = match request {
            Some(Request::Version) => VERSION_PLACE..=VERSION_PLACE,
            _ => 0..=MAX_REQUESTS - 1,
        };
        let index = range.into_iter().find(|index| matches!(places.places[*index], Place::Free))?;
        places.places[index] = Place::Queued(request.take()?);
        places.queue.push_back(index);
        Some(index)
    }

    fn take_answer(&self, index: usize) -> Option<Result<Answer, Error>> {
        let place = &mut self.places.borrow_mut().places[index];
        match core::mem::replace(place, Place::Free) {
            Place::Done(outcome) => {
                // For the ticket, which frees it.
                *place = Place::Done(Err(Error::Gone));
                Some(outcome)
            }
            other => {
                *place = other;
                None
            }
        }
    }

    /// For the driver: the next request to send, and its type. A request for the version begins a session of messages of
    /// `offered` bytes at most, and comes alone: a server gives up what it is doing then. `msize` is that of the session
    /// that there is.
    pub(super) fn next(&self, msize: Option<u32>, offered: u32) -> Option<(Kind, Vec<u8>)> {
        loop {
            let mut places = self.places.borrow_mut();
            let index = *places.queue.front()?;
            let is_version = index == VERSION_PLACE;
            if places.is_sent(VERSION_PLACE) || is_version && places.count_sent() > 0 {
                return None;
            }
            places.queue.pop_front();
            let Place::Queued(request) = &places.places[index] else { continue };
            let tag = if is_version { NOTAG } else { index as u16 };
            let message = request.message(offered);
            let kind = message.kind();
            let limit = if is_version { Some(offered) } else { msize };
            let encoded = match limit {
                Some(limit) => message.encode(tag, limit).map_err(|_| Error::TooLong { msize: limit }),
                None => Err(Error::NoVersion),
            };
            match encoded {
                Ok(bytes) => {
                    places.places[index] = Place::Sent(kind);
                    return Some((kind, bytes));
                }
                Err(error) => {
                    drop(places);
                    self.finish(index, Err(error));
                }
            }
        }
    }

    /// For the driver: what was asked with a tag that the backend has, and its place.
    pub(super) fn asked(&self, tag: u16) -> Option<(usize, Kind)> {
        let index = match tag {
            NOTAG => VERSION_PLACE,
            tag => Some(usize::from(tag)).filter(|index| *index < MAX_REQUESTS)?,
        };
        match self.places.borrow().places[index] {
            Place::Sent(kind) | Place::Abandoned(kind) => Some((index, kind)),
            _ => None,
        }
    }

    /// For the driver: a request is over.
    pub(super) fn finish(&self, index: usize, outcome: Result<Answer, Error>) {
        {
            let place = &mut self.places.borrow_mut().places[index];
            *place = match place {
                Place::Abandoned(_) | Place::Free => Place::Free,
                _ => Place::Done(outcome),
            };
        }
        // Woken with nothing borrowed: a task that goes with its last waker may ask for something.
        self.changes.wake_all();
    }

    /// For the driver: how many requests the backend has.
    pub(super) fn count_sent(&self) -> usize {
        self.places.borrow().count_sent()
    }

    /// For the driver: the backend answers nothing any more of what it has.
    pub(super) fn fail_sent(&self, error: Error) {
        for index in 0..=MAX_REQUESTS {
            if self.places.borrow().is_sent(index) {
                self.finish(index, Err(error));
            }
        }
    }

    /// For the driver: there is no backend, and may never be one.
    pub(super) fn fail_all(&self, error: Error) {
        self.fail_sent(error);
        loop {
            let Some(index) = self.places.borrow_mut().queue.pop_front() else { break };
            self.finish(index, Err(error));
        }
        // Those without a place, too.
        self.changes.wake_all();
    }
}

impl Places {
    fn is_sent(&self, index: usize) -> bool {
        matches!(self.places[index], Place::Sent(_) | Place::Abandoned(_))
    }

    fn count_sent(&self) -> usize {
        (0..=MAX_REQUESTS).filter(|index| self.is_sent(*index)).count()
    }
}

/// A user who waits for an answer.
struct Ticket<'a> {
    requests: &'a Requests,
    place: usize,
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let mut places = self.requests.places.borrow_mut();
        let Places { places: all, queue } = &mut *places;
        let place = &mut all[self.place];
        *place = match place {
            Place::Sent(kind) | Place::Abandoned(kind) => Place::Abandoned(*kind),
            _ => Place::Free,
        };
        queue.retain(|index| *index != self.place || !matches!(place, Place::Free));
        drop(places);
        self.requests.changes.wake_all();
    }
}

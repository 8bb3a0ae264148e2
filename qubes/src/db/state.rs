//! What a connection to dom0's daemon is about, without I/O: messages go in and out.
//!
//! The daemon ends the channel at a second [`Kind::MultiRead`] of a connection, and at any type but those that are sent here.

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use super::copy::{Bounds, Copy};
use super::wire::{Kind, Message, is_entry, is_value};
use super::{Change, Error};

/// How often a request is sent. One that is not answered may be why the daemon closes the channel.
const MAX_SENT: u8 = 2;

/// The copy, and what is between the two domains.
#[derive(Debug)]
pub(crate) struct Replica {
    bounds: Bounds,
    copy: Copy,
    phase: Phase,
    answers: VecDeque<Message>,
    /// Our own requests. The first may have been sent; the others follow one by one, since a removal of what is not there
    /// ends the channel.
    requests: VecDeque<Request>,
    is_sent: bool,
    last_id: u64,
    events: VecDeque<Event>,
}

#[derive(Debug)]
enum Phase {
    Disconnected,
    /// All entries are still to be asked for.
    Connected,
    Copying(Copy),
    Following,
}

/// What this domain asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Write(Vec<u8>),
    Remove,
}

#[derive(Debug)]
struct Request {
    id: u64,
    path: String,
    operation: Operation,
    sent: u8,
    /// Nobody waits for it.
    is_abandoned: bool,
}

/// What has happened.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Changed(Change),
    /// A copy is complete; this is how it differs from the one before.
    Copied(Vec<Change>),
    /// A request is over.
    Answered(u64, Result<(), Error>),
    /// An entry has no room.
    NoRoom(String),
    /// A change of the daemon's that cannot be.
    Refused(String),
}

impl Replica {
    pub(crate) fn new(bounds: Bounds) -> Replica {
        Replica {
            bounds,
            copy: Copy::default(),
            phase: Phase::Disconnected,
            answers: VecDeque::new(),
            requests: VecDeque::new(),
            is_sent: false,
            last_id: 0,
            events: VecDeque::new(),
        }
    }

    /// The entries as they were when the last copy was complete, with all changes since.
    pub(crate) fn copy(&self) -> &Copy {
        &self.copy
    }

    pub(crate) fn is_following(&self) -> bool {
        matches!(self.phase, Phase::Following)
    }

    pub(crate) fn is_copying(&self) -> bool {
        matches!(self.phase, Phase::Copying(_))
    }

    /// Whether a request was sent that is not answered yet.
    pub(crate) fn is_waiting(&self) -> bool {
        self.is_sent
    }

    /// Requests that are not answered yet.
    pub(crate) fn requests(&self) -> usize {
        self.requests.len()
    }

    /// There is a new channel.
    pub(crate) fn connect(&mut self) {
        self.disconnect();
        self.phase = Phase::Connected;
    }

    /// The channel is gone. The copy stays as it is; a request that was sent will be sent again, but not for ever.
    pub(crate) fn disconnect(&mut self) {
        self.phase = Phase::Disconnected;
        self.answers.clear();
        if core::mem::take(&mut self.is_sent)
            && self.requests.front().is_some_and(|request| request.sent >= MAX_SENT || request.is_abandoned)
            && let Some(request) = self.requests.pop_front()
        {
            self.events.push_back(Event::Answered(request.id, Err(Error::Unanswered { path: request.path })));
        }
    }

    /// A request of this domain's, whose path and value are checked. Its end is an event with the number returned.
    pub(crate) fn request(&mut self, path: &str, operation: Operation) -> u64 {
        self.last_id += 1;
        self.requests.push_back(Request {
            id: self.last_id,
            path: path.into(),
            operation,
            sent: 0,
            is_abandoned: false,
        });
        self.last_id
    }

    /// Nobody waits for this request any more. It is not sent if it was not; otherwise it may be carried out.
    pub(crate) fn cancel(&mut self, id: u64) {
        match self.requests.front_mut() {
            Some(request) if self.is_sent && request.id == id => request.is_abandoned = true,
            _ => self.requests.retain(|request| request.id != id),
        }
    }

    pub(crate) fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// What is to be sent next.
    pub(crate) fn next_to_send(&mut self) -> Option<Message> {
        if let Some(answer) = self.answers.pop_front() {
            return Some(answer);
        }
        match self.phase {
            Phase::Disconnected | Phase::Copying(_) => None,
            Phase::Connected => {
                self.phase = Phase::Copying(Copy::default());
                Some(Message::new(Kind::MultiRead, ""))
            }
            Phase::Following => self.next_request(),
        }
    }

    fn next_request(&mut self) -> Option<Message> {
        if self.is_sent {
            return None;
        }
        loop {
            let request = self.requests.front_mut()?;
            let message = match &request.operation {
                Operation::Write(value) => {
                    Message { kind: Kind::Write, path: request.path.clone(), value: value.clone() }
                }
                Operation::Remove if self.copy.may_have(&request.path) => Message::new(Kind::Remove, &request.path),
                Operation::Remove => {
                    // It was sent before, and the daemon carried it out just before the channel ended.
                    let outcome =
                        if request.sent > 0 { Ok(()) } else { Err(Error::NotFound { path: request.path.clone() }) };
                    self.finish(outcome);
                    continue;
                }
            };
            request.sent += 1;
            self.is_sent = true;
            return Some(message);
        }
    }

    /// A message of the daemon's.
    ///
    /// # Errors
    ///
    /// Where it breaks the protocol: the channel is to be closed.
    pub(crate) fn receive(&mut self, message: Message) -> Result<(), ProtocolError> {
        match message.kind {
            Kind::Entry => self.entry(message),
            Kind::Write => self.written(message),
            Kind::Remove => self.removed(message),
            Kind::Ok => self.answered(&message.path, Ok(())),
            Kind::NotFound => {
                let path = message.path.clone();
                self.answered(&message.path, Err(Error::NotFound { path }))
            }
            Kind::Error => {
                let path = message.path.clone();
                self.answered(&message.path, Err(Error::Refused { path }))
            }
            Kind::MultiRead => Err(ProtocolError::MultiRead),
        }
    }

    fn entry(&mut self, message: Message) -> Result<(), ProtocolError> {
        let Phase::Copying(copy) = &mut self.phase else { return Err(ProtocolError::Entry { path: message.path }) };
        if message.path.is_empty() {
            let copy = core::mem::take(copy);
            self.events.push_back(Event::Copied(copy.differences(&self.copy)));
            self.copy = copy;
            self.phase = Phase::Following;
            return Ok(());
        }
        if !is_entry(&message.path) || !is_value(&message.value) {
            return Err(ProtocolError::BadEntry { path: message.path });
        }
        if !copy.write(&message.path, &message.value, self.bounds) {
            self.events.push_back(Event::NoRoom(message.path));
        }
        Ok(())
    }

    fn written(&mut self, message: Message) -> Result<(), ProtocolError> {
        if !is_entry(&message.path) || !is_value(&message.value) {
            self.answers.push_back(Message::new(Kind::Error, &message.path));
            self.events.push_back(Event::Refused(message.path));
            return Ok(());
        }
        self.answers.push_back(Message::new(Kind::Ok, &message.path));
        match &mut self.phase {
            Phase::Copying(copy) => {
                if !copy.write(&message.path, &message.value, self.bounds) {
                    self.events.push_back(Event::NoRoom(message.path));
                }
            }
            _ => self.write(message.path, &message.value),
        }
        Ok(())
    }

    fn removed(&mut self, message: Message) -> Result<(), ProtocolError> {
        if message.path.is_empty() || !message.value.is_empty() {
            self.answers.push_back(Message::new(Kind::Error, &message.path));
            self.events.push_back(Event::Refused(message.path));
            return Ok(());
        }
        // Never that it was not there: that would end the channel.
        self.answers.push_back(Message::new(Kind::Ok, &message.path));
        match &mut self.phase {
            Phase::Copying(copy) => drop(copy.remove(&message.path)),
            _ => self.remove(&message.path),
        }
        Ok(())
    }

    /// The daemon answers one request after the other, and changes the same entry before or after that: ours counts from
    /// its answer on.
    fn answered(&mut self, path: &str, outcome: Result<(), Error>) -> Result<(), ProtocolError> {
        let request = match self.requests.front() {
            Some(request) if self.is_sent => request,
            _ => return Ok(()),
        };
        if request.path != path {
            return Err(ProtocolError::Answer { path: path.into() });
        }
        if outcome.is_ok() {
            let path = request.path.clone();
            match request.operation.clone() {
                Operation::Write(value) => self.write(path, &value),
                Operation::Remove => self.remove(&path),
            }
        }
        self.finish(outcome);
        Ok(())
    }

    fn finish(&mut self, outcome: Result<(), Error>) {
        self.is_sent = false;
        if let Some(request) = self.requests.pop_front() {
            self.events.push_back(Event::Answered(request.id, outcome));
        }
    }

    fn write(&mut self, path: String, value: &[u8]) {
        if !self.copy.write(&path, value, self.bounds) {
            self.events.push_back(Event::NoRoom(path.clone()));
        }
        self.events.push_back(Event::Changed(Change::Written(path)));
    }

    fn remove(&mut self, pattern: &str) {
        let removed = self.copy.remove(pattern);
        self.events.extend(removed.iter().map(|path| Event::Changed(Change::Removed(String::from(&**path)))));
    }
}

/// What the daemon may not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ProtocolError {
    /// It asks for all entries, which are its own.
    MultiRead,
    /// An entry that was not asked for.
    Entry { path: String },
    /// There can be no such entry.
    BadEntry { path: String },
    /// An answer to something else than what was asked.
    Answer { path: String },
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProtocolError::MultiRead => f.write_str("asks for all entries"),
            ProtocolError::Entry { path } => write!(f, "sends the entry \"{path}\", for which nobody has asked"),
            ProtocolError::BadEntry { path } => {
                write!(f, "sends \"{path}\", which can be no entry, or a NUL in its value")
            }
            ProtocolError::Answer { path } => {
                write!(f, "answers a request about \"{path}\", which was not the last one")
            }
        }
    }
}

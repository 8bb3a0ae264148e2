//! What the agent keeps of calls: data channels that are open, and calls of this domain's that wait for an answer.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use xenbus::Notify;

use super::CallError;
use super::wire::{Connection, Control};

/// Data channels, and what dom0 is to be told of them.
#[derive(Default)]
pub(super) struct Connections {
    open: RefCell<Vec<(u64, Connection)>>,
    last_id: Cell<u64>,
    /// Ports that are free again.
    ended: RefCell<VecDeque<Connection>>,
    pub(super) work: Notify,
}

/// A data channel that dom0 has named. It is told when this is dropped.
pub(super) struct Data {
    connections: Rc<Connections>,
    id: u64,
}

impl Connections {
    /// dom0 has named a channel. A daemon that was restarted knows nothing of one before on the same port, whose end must not
    /// free that of the new one.
    pub(super) fn begin(self: &Rc<Self>, connection: Connection) -> Data {
        self.ended.borrow_mut().retain(|ended| *ended != connection);
        self.open.borrow_mut().retain(|(_, open)| *open != connection);
        let id = self.last_id.get() + 1;
        self.last_id.set(id);
        self.open.borrow_mut().push((id, connection));
        Data { connections: self.clone(), id }
    }

    /// A message that is due.
    pub(super) fn next_message(&self) -> Option<Control> {
        self.ended.borrow_mut().pop_front().map(Control::Terminated)
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        let mut open = self.connections.open.borrow_mut();
        if let Some(index) = open.iter().position(|(id, _)| *id == self.id) {
            let (_, connection) = open.swap_remove(index);
            self.connections.ended.borrow_mut().push_back(connection);
            self.connections.work.notify();
        }
    }
}

/// Calls of this domain's that dom0 has not answered, or whose channel is not open yet.
pub(super) struct Outgoing<T> {
    calls: BTreeMap<u64, State<T>>,
    last_id: u64,
}

pub(super) enum State<T> {
    /// To be sent.
    New { target: String, service: String },
    /// dom0 decides.
    Sent,
    /// The channel is being opened.
    Opening,
    /// It is over, or begins.
    Done(Result<T, CallError>),
}

impl<T> Default for Outgoing<T> {
    fn default() -> Self {
        Outgoing { calls: BTreeMap::new(), last_id: 0 }
    }
}

impl<T> Outgoing<T> {
    pub(super) fn len(&self) -> usize {
        self.calls.len()
    }

    pub(super) fn add(&mut self, target: &str, service: &str) -> u64 {
        self.last_id += 1;
        self.calls.insert(self.last_id, State::New { target: target.into(), service: service.into() });
        self.last_id
    }

    /// Whether somebody still waits for it.
    pub(super) fn has(&self, id: u64) -> bool {
        self.calls.contains_key(&id)
    }

    pub(super) fn remove(&mut self, id: u64) -> Option<State<T>> {
        self.calls.remove(&id)
    }

    /// Its outcome, if there is one.
    pub(super) fn take_outcome(&mut self, id: u64) -> Option<Result<T, CallError>> {
        match self.calls.remove(&id)? {
            State::Done(outcome) => Some(outcome),
            other => {
                self.calls.insert(id, other);
                None
            }
        }
    }

    /// It has an outcome, for which somebody waits; otherwise it is returned.
    pub(super) fn finish(&mut self, id: u64, outcome: Result<T, CallError>) -> Result<(), Result<T, CallError>> {
        match self.calls.get_mut(&id) {
            Some(state) => {
                *state = State::Done(outcome);
                Ok(())
            }
            None => Err(outcome),
        }
    }

    /// The next message that asks for a call. A name that does not fit into this version's fails the call.
    pub(super) fn next_message(&mut self, version: u32) -> Option<Vec<u8>> {
        for (id, state) in &mut self.calls {
            let State::New { target, service } = state else { continue };
            let (target, service) = (core::mem::take(target), core::mem::take(service));
            let message = Control::Trigger { target, service, ident: ident(*id) }.encode(version);
            match message {
                Ok(message) => {
                    *state = State::Sent;
                    return Some(message);
                }
                Err(error) => *state = State::Done(Err(CallError::Name(error))),
            }
        }
        None
    }

    /// dom0 has answered the call of this name. Of a call that it was not asked for, or was answered, nothing is known.
    pub(super) fn answered(&mut self, name: &str) -> Option<u64> {
        let (id, state) = self.calls.iter_mut().find(|(id, _)| ident(**id) == name)?;
        match state {
            State::Sent => {
                *state = State::Opening;
                Some(*id)
            }
            _ => None,
        }
    }

    /// dom0's daemon is gone, with all that it was asked.
    pub(super) fn disconnected(&mut self) {
        for state in self.calls.values_mut() {
            if matches!(state, State::Sent) {
                *state = State::Done(Err(CallError::Disconnected));
            }
        }
    }
}

/// What dom0 calls a call: it accepts letters, digits, `_`, `-`, `.` and space.
fn ident(id: u64) -> String {
    format!("call-{id}")
}

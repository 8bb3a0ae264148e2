//! What a client keeps of sessions, to resume them.

use alloc::collections::VecDeque;
use core::fmt;

use pki_types::ServerName;
use rustls::NamedGroup;
use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use spin::Mutex;

/// Tickets of TLS 1.3 that are kept of one server: each is good for one connection.
const TICKETS: usize = 2;

struct Entry {
    name: ServerName<'static>,
    group: Option<NamedGroup>,
    tls12: Option<Tls12ClientSessionValue>,
    tls13: VecDeque<Tls13ClientSessionValue>,
}

/// Sessions with so many servers; the one that was not used for the longest time makes room for another one.
pub(crate) struct Sessions {
    servers: usize,
    /// The latest at the end.
    entries: Mutex<VecDeque<Entry>>,
}

impl Sessions {
    pub(crate) fn new(servers: usize) -> Sessions {
        Sessions { servers, entries: Mutex::default() }
    }

    fn look<T>(&self, name: &ServerName<'_>, use_it: impl FnOnce(&mut Entry) -> Option<T>) -> Option<T> {
        self.entries.lock().iter_mut().find(|entry| entry.name == *name).and_then(use_it)
    }

    fn change(&self, name: ServerName<'static>, change: impl FnOnce(&mut Entry)) {
        let mut entries = self.entries.lock();
        let known = entries.iter().position(|entry| entry.name == name).and_then(|place| entries.remove(place));
        if known.is_none() && entries.len() >= self.servers {
            entries.pop_front();
        }
        let mut entry = known.unwrap_or(Entry { name, group: None, tls12: None, tls13: VecDeque::new() });
        change(&mut entry);
        entries.push_back(entry);
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions").field("servers", &self.servers).finish_non_exhaustive()
    }
}

impl ClientSessionStore for Sessions {
    fn set_kx_hint(&self, name: ServerName<'static>, group: NamedGroup) {
        self.change(name, |entry| entry.group = Some(group));
    }

    fn kx_hint(&self, name: &ServerName<'_>) -> Option<NamedGroup> {
        self.look(name, |entry| entry.group)
    }

    fn set_tls12_session(&self, name: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.change(name, |entry| entry.tls12 = Some(value));
    }

    fn tls12_session(&self, name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.look(name, |entry| entry.tls12.clone())
    }

    fn remove_tls12_session(&self, name: &ServerName<'static>) {
        self.look(name, |entry| entry.tls12.take());
    }

    fn insert_tls13_ticket(&self, name: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.change(name, |entry| {
            if entry.tls13.len() == TICKETS {
                entry.tls13.pop_front();
            }
            entry.tls13.push_back(value);
        });
    }

    fn take_tls13_ticket(&self, name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.look(name, |entry| entry.tls13.pop_back())
    }
}

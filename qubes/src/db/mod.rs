//! QubesDB: what dom0 tells a qube of its configuration, and what the qube reports.
//!
//! dom0's daemon answers no questions of other domains: it sends all entries once, and then each change. [`Database`] keeps
//! this copy.

mod changes;
mod copy;
#[cfg(test)]
mod model;
mod runner;
mod state;
#[cfg(test)]
mod tests;
pub mod wire;

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::fmt;
use core::task::{Context, Poll};

use xen_hal::{DomId, Xen};
use xenbus::{Notify, RateLimit, WakerSlot};
use xenstore_client::Store;

pub use changes::{Change, Changes};

use crate::waiting::Waiters;
use changes::Watches;
use copy::Bounds;
use state::{Operation, Replica};
use wire::{is_entry, is_value};

/// Requests that wait for their turn, at most.
const MAX_REQUESTS: usize = 64;

/// Where the daemon is, and how much is kept of what it sends.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// The domain of the daemon: dom0.
    pub server: DomId,
    /// Its vchan port: 111.
    pub port: u32,
    /// Entries, at most: 8192.
    pub max_entries: usize,
    /// Bytes of all paths and values, each entry counted with 96 bytes more, at most: 1 MiB.
    pub max_bytes: usize,
    /// Changes that a watch keeps until they are taken: 1024.
    pub max_changes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options { server: DomId(0), port: 111, max_entries: 8192, max_bytes: 1 << 20, max_changes: 1024 }
    }
}

/// A copy of this domain's QubesDB that follows dom0's: a small handle, to be cloned into tasks.
///
/// Patterns are QubesDB's: one that ends with `/`, or is empty, is for all entries that begin with it; any other is for the
/// entry of exactly that path.
///
/// Without a connection the copy stays as it was. The runner connects again by itself, and what has changed meanwhile counts
/// as changes then.
#[derive(Clone)]
pub struct Database {
    shared: Rc<Shared>,
    _users: Rc<Users>,
}

/// When the last one is dropped, the runner ends.
struct Users(Rc<Shared>);

pub(crate) struct Shared {
    replica: RefCell<Replica>,
    watches: Watches,
    /// Requests that somebody waits for, by number, and the answers that are there.
    waiting: RefCell<BTreeSet<u64>>,
    answers: RefCell<BTreeMap<u64, Result<(), Error>>>,
    /// Who waits for the first copy, or for an answer.
    waiters: Waiters,
    /// For the runner: there is something to send.
    work: Notify,
    /// For the runner: there is no handle any more.
    unused: WakerSlot,
    is_ready: Cell<bool>,
    is_over: Cell<bool>,
    is_unused: Cell<bool>,
    has_warned_of_room: Cell<bool>,
    lines: RefCell<RateLimit>,
    max_changes: usize,
}

impl Database {
    /// A handle, and the runner that is to be spawned: it connects, copies and follows, until the last handle is dropped.
    ///
    /// # Cancellation
    ///
    /// A runner that is dropped closes the channel. Requests fail with [`Error::Stopped`], watches end, and the copy stays as
    /// it is.
    pub fn new<X: Xen>(xen: X, store: &Store, options: Options) -> (Database, impl Future<Output = ()> + use<X>) {
        let bounds = Bounds { entries: options.max_entries, bytes: options.max_bytes };
        let shared = Rc::new(Shared {
            replica: RefCell::new(Replica::new(bounds)),
            watches: Watches::default(),
            waiting: RefCell::default(),
            answers: RefCell::default(),
            waiters: Waiters::default(),
            work: Notify::default(),
            unused: WakerSlot::default(),
            is_ready: Cell::new(false),
            is_over: Cell::new(false),
            is_unused: Cell::new(false),
            has_warned_of_room: Cell::new(false),
            lines: RefCell::new(RateLimit::for_log_lines()),
            max_changes: options.max_changes,
        });
        let runner = runner::Runner::new(xen, store, &options, shared.clone());
        (Database { _users: Rc::new(Users(shared.clone())), shared }, runner.run())
    }

    /// Waits for the first complete copy.
    ///
    /// # Errors
    ///
    /// [`Error::Stopped`].
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time.
    pub async fn ready(&self) -> Result<(), Error> {
        let shared = &self.shared;
        let look = || match (shared.is_ready.get(), shared.is_over.get()) {
            (true, _) => Some(Ok(())),
            (false, true) => Some(Err(Error::Stopped)),
            (false, false) => None,
        };
        shared.waiters.wait(look).await
    }

    /// Whether the copy is complete and changes come in.
    pub fn is_connected(&self) -> bool {
        self.shared.replica.borrow().is_following()
    }

    /// The value at a path.
    pub fn get(&self, path: &str) -> Option<Rc<[u8]>> {
        self.shared.replica.borrow().copy().get(path).cloned()
    }

    /// The value at a path as text, if it is UTF-8.
    pub fn text(&self, path: &str) -> Option<String> {
        let value = self.get(path)?;
        str::from_utf8(&value).ok().map(String::from)
    }

    /// All entries that match a pattern, by path.
    pub fn list(&self, pattern: &str) -> Vec<(String, Rc<[u8]>)> {
        let replica = self.shared.replica.borrow();
        replica.copy().matching(pattern).map(|(path, value)| (path.to_string(), value.clone())).collect()
    }

    /// The names below a directory, sorted: of `/a/b`, `/a/c/d` and `/a/c/e` those of `/a` are `b` and `c`.
    pub fn children(&self, directory: &str) -> Vec<String> {
        let mut pattern = String::from(directory);
        if !pattern.ends_with('/') {
            pattern.push('/');
        }
        let replica = self.shared.replica.borrow();
        let names =
            replica.copy().matching(&pattern).filter_map(|(path, _)| path.get(pattern.len()..)?.split('/').next());
        // One name can be apart from itself: `-` and `.` come before `/`.
        let names: BTreeSet<&str> = names.collect();
        names.into_iter().map(String::from).collect()
    }

    /// Whether something that matches the pattern is not kept, for want of room (see [`Options`]). A list of rules may
    /// then have gaps.
    pub fn is_incomplete(&self, pattern: &str) -> bool {
        self.shared.replica.borrow().copy().is_incomplete(pattern)
    }

    /// The changes of entries that match a pattern, from now on: those of dom0 and of this domain. The first copy counts as
    /// changes too.
    ///
    /// # Examples
    ///
    /// ```
    /// use qubes::Database;
    /// use qubes::db::Change;
    ///
    /// /// Follows the rules of all qubes: dom0 writes an empty value to `/qubes-firewall/ADDRESS` when those of one are
    /// /// complete.
    /// async fn follow(db: &Database, mut apply: impl FnMut(&str)) {
    ///     let mut changes = db.watch("/qubes-firewall/");
    ///     while let Some(change) = changes.next().await {
    ///         match change {
    ///             Change::Resynced => db.children("/qubes-firewall").iter().for_each(|address| apply(address)),
    ///             Change::Written(path) => match path["/qubes-firewall/".len()..].split_once('/') {
    ///                 None => apply(&path["/qubes-firewall/".len()..]),
    ///                 Some(_) => {} // a rule; the marker is still to come
    ///             },
    ///             Change::Removed(_) => {}
    ///         }
    ///     }
    /// }
    /// ```
    pub fn watch(&self, pattern: &str) -> Changes {
        self.shared.watches.add(pattern, self.shared.max_changes, self.shared.is_over.get())
    }

    /// Writes an entry, in dom0's database and then in this copy, and waits until that is done. Without a connection it waits
    /// for one; a connection that ends meanwhile is no error, and the entry is written on the next one.
    ///
    /// # Errors
    ///
    /// Where there can be no such entry, dom0 refuses, or twice closes the channel instead of an answer.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time; if it was sent, it may be carried out.
    pub async fn write(&self, path: &str, value: &[u8]) -> Result<(), Error> {
        if !is_entry(path) {
            return Err(Error::BadPath { path: path.into() });
        }
        if !is_value(value) {
            return Err(Error::BadValue { path: path.into(), len: value.len() });
        }
        self.request(path, Operation::Write(value.to_vec())).await
    }

    /// Removes an entry, or all below a path that ends with `/`. Otherwise as [`write`](Database::write).
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] where nothing is there, and as [`write`](Database::write).
    ///
    /// # Cancellation
    ///
    /// As [`write`](Database::write).
    pub async fn remove(&self, path: &str) -> Result<(), Error> {
        if !is_entry(path.strip_suffix('/').unwrap_or(path)) {
            return Err(Error::BadPath { path: path.into() });
        }
        self.request(path, Operation::Remove).await
    }

    async fn request(&self, path: &str, operation: Operation) -> Result<(), Error> {
        let shared = &*self.shared;
        if shared.is_over.get() {
            return Err(Error::Stopped);
        }
        if shared.replica.borrow().requests() >= MAX_REQUESTS {
            return Err(Error::Busy);
        }
        let request = PendingRequest { shared, id: shared.replica.borrow_mut().request(path, operation) };
        shared.waiting.borrow_mut().insert(request.id);
        shared.work.notify();
        let look = || match shared.answers.borrow_mut().remove(&request.id) {
            None if shared.is_over.get() => Some(Err(Error::Stopped)),
            answer => answer,
        };
        shared.waiters.wait(look).await
    }
}

impl Shared {
    /// Keeps an answer for whoever waits for it. Of a request that was dropped there may be one too.
    fn answer(&self, id: u64, outcome: Result<(), Error>) {
        if self.waiting.borrow_mut().remove(&id) {
            self.answers.borrow_mut().insert(id, outcome);
        }
    }

    fn poll_unused(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_unused.get() {
            return Poll::Ready(());
        }
        self.unused.register(cx.waker());
        Poll::Pending
    }

    /// The runner has ended.
    fn end(&self) {
        self.is_over.set(true);
        self.replica.borrow_mut().disconnect();
        self.watches.end();
        self.waiters.wake();
    }
}

/// Somebody waits for the answer.
struct PendingRequest<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Drop for PendingRequest<'_> {
    fn drop(&mut self) {
        self.shared.replica.borrow_mut().cancel(self.id);
        self.shared.waiting.borrow_mut().remove(&self.id);
        self.shared.answers.borrow_mut().remove(&self.id);
    }
}

impl Drop for Users {
    fn drop(&mut self) {
        self.0.is_unused.set(true);
        self.0.unused.wake();
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").field("connected", &self.is_connected()).finish_non_exhaustive()
    }
}

/// Why a request has failed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// There can be no entry at this path.
    BadPath {
        /// The path.
        path: String,
    },
    /// No entry can have this value.
    BadValue {
        /// Where it was to be written.
        path: String,
        /// Its bytes.
        len: usize,
    },
    /// Nothing is there that could be removed.
    NotFound {
        /// The path.
        path: String,
    },
    /// dom0 has answered with an error.
    Refused {
        /// The path.
        path: String,
    },
    /// dom0 has closed the channel instead of an answer, twice.
    Unanswered {
        /// The path.
        path: String,
    },
    /// Too many requests wait for dom0.
    Busy,
    /// The database's runner has ended.
    Stopped,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::BadPath { path } => write!(
                f,
                "QubesDB: \"{}\" is not a path: expected / and up to 63 bytes in all of A-Z a-z 0-9 _ / . : @ -",
                xenstore_client::printable(path)
            ),
            Error::BadValue { path, len } => {
                write!(f, "QubesDB: value of {len} bytes for {path}: at most 3071 are allowed, and no NUL")
            }
            Error::NotFound { path } => write!(f, "QubesDB: nothing to remove at {path}"),
            Error::Refused { path } => write!(f, "QubesDB: dom0 refuses to change {path}"),
            Error::Unanswered { path } => {
                write!(
                    f,
                    "QubesDB: dom0 has closed the channel instead of answering about {path}; see its qubesdb daemon's log"
                )
            }
            Error::Busy => write!(f, "QubesDB: {MAX_REQUESTS} requests wait for dom0; wait for some of them first"),
            Error::Stopped => f.write_str("QubesDB: the runner has ended; spawn it, and keep its task"),
        }
    }
}

impl core::error::Error for Error {}

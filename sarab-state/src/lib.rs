#![doc = include_str!("../README.md")]
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod disk;
mod error;
mod log;
mod pages;
mod transaction;

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::future::poll_fn;
use core::ops::Bound;
use core::pin::Pin;

use async_lock::Mutex;
use xen_blkif::BlockDevice;

pub use error::{Error, Foreign};
use log::{Changes, Log};
pub use transaction::Transaction;

/// Bytes of a key, at most.
pub const MAX_KEY: usize = 256;
/// Bytes of a value, at most.
pub const MAX_VALUE: usize = 16 << 10;
/// Bytes of a transaction at most: its keys and values, and 64 for each.
pub const MAX_TRANSACTION: usize = 56 << 10;

/// What is done with a disk that holds no store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// It is made into one if it is empty: zeroes from begin to end, as far as the store reaches, and at its very end.
    #[default]
    IfEmpty,
    /// It is refused.
    Never,
    /// It is made into one, whatever is on it. A store is left as it is.
    Always,
}

/// How a store is opened.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Options {
    /// What is done with a disk that holds no store.
    pub format: Format,
    /// Bytes of keys and values, and 64 for each, that may be in memory: all that there are. The disk may have less room.
    pub memory: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options { format: Format::IfEmpty, memory: 1 << 20 }
    }
}

impl Options {
    /// With another way to treat a disk without a store.
    pub fn format(self, format: Format) -> Options {
        Options { format, ..self }
    }

    /// With more memory, or less.
    pub fn memory(self, bytes: usize) -> Options {
        Options { memory: bytes, ..self }
    }
}

/// A store on a disk. Handles can be cloned; operations of several tasks are done one after the other.
///
/// # Examples
///
/// ```
/// use sarab_state::{Error, Options, Store};
/// use xen_blkif::ramdisk::RamDisk;
///
/// # let xen = xen_sim::Xen::new(1);
/// # let domain = xen.domain();
/// # xen.run(async move {
/// let disk = RamDisk::new(domain, 4096)?;
/// let store = Store::open(disk.clone(), Options::default()).await?;
/// store.set(b"user/1", b"Ada").await?;
/// store.set(b"user/2", b"Grace").await?;
///
/// let mut transaction = store.transaction();
/// transaction.remove(b"user/1")?;
/// transaction.set(b"user/3", b"Barbara")?;
/// transaction.commit().await?;
/// drop(store);
///
/// let store = Store::open(disk, Options::default()).await?;
/// assert_eq!(store.get(b"user/1").await?, None);
/// let mut users = store.scan(b"user/");
/// let mut names = Vec::new();
/// while let Some((_, name)) = users.next().await? {
///     names.push(name);
/// }
/// assert_eq!(names, [&b"Grace"[..], b"Barbara"]);
/// # Ok::<(), Error>(())
/// # })?;
/// # Ok::<(), Error>(())
/// ```
pub struct Store<D: BlockDevice> {
    state: Rc<Mutex<State<D>>>,
}

/// A log, and what was made of its disk's requests and is not done.
struct State<D: BlockDevice> {
    /// Not here while it is in what follows.
    log: Option<Box<Log<D>>>,
    /// A commit, which goes on if whoever waited for it does not: a write that was sent arrives in any case, and must not do
    /// so after later ones.
    commit: Option<Commit<D>>,
}

type Commit<D> = Pin<Box<dyn Future<Output = (Box<Log<D>>, Result<(), Error>)>>>;

impl<D: BlockDevice + 'static> State<D> {
    /// Waits for the commit that is not done, if there is one.
    async fn finish(&mut self) -> Result<(), Error> {
        let Some(commit) = &mut self.commit else { return Ok(()) };
        let (log, outcome) = poll_fn(|context| commit.as_mut().poll(context)).await;
        (self.log, self.commit) = (Some(log), None);
        outcome
    }

    /// The log, with nothing under way.
    async fn log(&mut self) -> Result<&mut Log<D>, Error> {
        // Who has begun it was to know how it ends.
        let _ = self.finish().await;
        self.log.as_deref_mut().ok_or(Error::Damaged)
    }

    async fn commit(&mut self, changes: Changes) -> Result<(), Error> {
        let _ = self.finish().await;
        let mut log = self.log.take().ok_or(Error::Damaged)?;
        self.commit = Some(Box::pin(async move {
            let outcome = log.commit(changes).await;
            (log, outcome)
        }));
        self.finish().await
    }
}

impl<D: BlockDevice> Clone for Store<D> {
    fn clone(&self) -> Self {
        Store { state: self.state.clone() }
    }
}

impl<D: BlockDevice + 'static> Store<D> {
    /// Opens the store on a disk, or makes one there. It takes the disk from the begin on, up to 8.1 MiB;
    /// [`Slice`](xen_blkif::slice::Slice) chooses another part.
    ///
    /// # Errors
    ///
    /// Where the disk holds something else, is too small, is damaged or fails, or there is too little memory.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time. A disk that is being made into a store is opened as an empty one then; what was sent to it
    /// has to have arrived before.
    pub async fn open(disk: D, options: Options) -> Result<Store<D>, Error> {
        let head = disk::open(&disk, options.format).await?;
        let log = Log::open(Rc::new(disk), head, options.memory).await?;
        Ok(Store { state: Rc::new(Mutex::new(State { log: Some(Box::new(log)), commit: None })) })
    }

    /// The value of a key, if there is one. It is in memory: the disk is asked only after a write that has failed.
    ///
    /// # Errors
    ///
    /// Where the key is too long, or the disk fails or is damaged.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time.
    pub async fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        check_key(key)?;
        Ok(self.state.lock().await.log().await?.entries().await?.get(key).cloned())
    }

    /// Sets a key's value. It is on the disk when this returns.
    ///
    /// # Errors
    ///
    /// Where key or value is too long, or the disk is full, fails or is damaged.
    ///
    /// # Cancellation
    ///
    /// If it is dropped, the value is set before the next operation, or not at all.
    pub async fn set(&self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        let mut transaction = self.transaction();
        transaction.set(key, value)?;
        transaction.commit().await
    }

    /// Removes a key, if it is there. It is gone from the disk when this returns.
    ///
    /// # Errors
    ///
    /// As [`set`](Store::set), but for a full disk: what makes the store smaller is always possible.
    ///
    /// # Cancellation
    ///
    /// As [`set`](Store::set).
    pub async fn remove(&self, key: &[u8]) -> Result<(), Error> {
        let mut transaction = self.transaction();
        transaction.remove(key)?;
        transaction.commit().await
    }

    /// Begins a transaction. Nothing is written before it is committed.
    pub fn transaction(&self) -> Transaction<D> {
        Transaction::new(self.clone())
    }

    /// The keys with a prefix and their values, in the order of their bytes. What is changed meanwhile is seen or not.
    pub fn scan(&self, prefix: &[u8]) -> Scan<D> {
        Scan { store: self.clone(), prefix: prefix.to_vec(), last: None }
    }
}

/// Keys and their values, one after the other.
pub struct Scan<D: BlockDevice> {
    store: Store<D>,
    prefix: Vec<u8>,
    /// The key that was read last.
    last: Option<Vec<u8>>,
}

impl<D: BlockDevice + 'static> Scan<D> {
    /// The next one.
    ///
    /// # Errors
    ///
    /// Where the disk fails or is damaged.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time; the next call returns what this one would have.
    pub async fn next(&mut self) -> Result<Option<(Vec<u8>, Vec<u8>)>, Error> {
        let mut state = self.store.state.lock().await;
        let log = state.log().await?;
        let begin = self.last.as_ref().map_or(Bound::Included(&self.prefix), Bound::Excluded);
        let mut entries = log.entries().await?.range::<Vec<u8>, _>((begin, Bound::Unbounded));
        let next = entries.next().filter(|(key, _)| key.starts_with(&self.prefix));
        let next = next.map(|(key, value)| (key.clone(), value.clone()));
        if let Some((key, _)) = &next {
            self.last = Some(key.clone());
        }
        Ok(next)
    }
}

fn check_key(key: &[u8]) -> Result<(), Error> {
    match key.len() {
        0 => Err(Error::NoKey),
        len if len > MAX_KEY => Err(Error::LongKey { len }),
        _ => Ok(()),
    }
}

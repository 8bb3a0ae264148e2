//! What is in memory, and the log of it on the disk.
//!
//! The disk has two logs. One is in use: first all that there was when it was begun, then a record for each transaction. When it
//! is full, the other one is begun, and a sector says that it is in use from then on.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;

use sequential_storage::cache::page_pointers::HeapPagePointers;
use sequential_storage::cache::page_states::HeapPageStates;
use sequential_storage::cache::{Cache, Uncached};
use sequential_storage::queue::{QueueConfig, QueueStorage};
use xen_blkif::BlockDevice;

use crate::disk::{self, Head};
use crate::error::Error;
use crate::pages::{Failed, PAGE, Pages};
use crate::{Format, MAX_KEY, MAX_VALUE};

/// Bytes of the records of a log's begin, where an entry is not longer.
const PIECE: usize = 4 << 10;
/// What is before a record's changes: its number. Numbers begin at 1 in each log.
const NUMBER: usize = 8;
/// What is before a change's key and value: their lengths.
const LENGTHS: usize = 6;
/// The length of a value that is removed.
const REMOVED: u32 = u32::MAX;
/// Bytes of an entry in memory beside its key and value; on the disk it has fewer.
const ENTRY: usize = 64;

type Queue<D> = QueueStorage<Pages<D>, Cache<HeapPageStates, HeapPagePointers, Uncached>>;
/// Changes in the order of their keys; no value is a removal.
pub(crate) type Changes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

pub(crate) struct Log<D: BlockDevice> {
    disk: Rc<D>,
    head: Head,
    queue: Box<Queue<D>>,
    entries: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Bytes of them, and how many there may be.
    used: usize,
    limit: usize,
    /// The next record's.
    number: u64,
    /// What is in memory need not be what is on the disk: a write has failed.
    stale: bool,
}

/// Bytes that an entry counts for.
pub(crate) fn cost(key: &[u8], value: &[u8]) -> usize {
    ENTRY + key.len() + value.len()
}

impl<D: BlockDevice> Log<D> {
    /// Reads the log in use, or begins one.
    pub(crate) async fn open(disk: Rc<D>, head: Head, memory: usize) -> Result<Log<D>, Error> {
        let limit = (head.pages as usize * PAGE / 2).min(memory);
        let queue = queue(&disk, head);
        let mut log = Log { disk, head, queue, entries: BTreeMap::new(), used: 0, limit, number: 1, stale: true };
        match head.epoch {
            0 => log.begin().await?,
            _ => log.load().await?,
        }
        Ok(log)
    }

    /// What is in the store.
    pub(crate) async fn entries(&mut self) -> Result<&BTreeMap<Vec<u8>, Vec<u8>>, Error> {
        if self.stale {
            // The other log may be in use already.
            self.head = disk::open(&*self.disk, Format::Never).await?;
            self.load().await?;
        }
        Ok(&self.entries)
    }

    /// Makes changes, on the disk and then in memory.
    pub(crate) async fn commit(&mut self, changes: Changes) -> Result<(), Error> {
        let entries = self.entries().await?;
        let old = |key: &Vec<u8>| entries.get(key).map_or(0, |value| cost(key, value));
        let before: usize = changes.keys().map(old).sum();
        let after: usize = changes.iter().flat_map(|(key, value)| Some(cost(key, value.as_ref()?))).sum();
        let used = self.used - before + after;
        // What makes it smaller is always possible.
        if used > self.limit && used > self.used {
            return Err(Error::Full { used: self.used, limit: self.limit });
        }
        if changes.is_empty() {
            return Ok(());
        }
        let mut record = self.number.to_le_bytes().to_vec();
        changes.iter().for_each(|(key, value)| encode(&mut record, key, value.as_deref()));
        self.stale = true;
        match self.queue.push(&record, false).await {
            Err(sequential_storage::Error::FullStorage) => {
                self.begin().await?;
                record[..NUMBER].copy_from_slice(&self.number.to_le_bytes());
                self.stale = true;
                self.queue.push(&record, false).await.map_err(|error| self.failure(error))?;
            }
            pushed => pushed.map_err(|error| self.failure(error))?,
        }
        for (key, value) in changes {
            match value {
                Some(value) => drop(self.entries.insert(key, value)),
                None => drop(self.entries.remove(&key)),
            }
        }
        self.number += 1;
        self.used = used;
        self.stale = false;
        Ok(())
    }

    /// Begins the other log with all that is in memory.
    async fn begin(&mut self) -> Result<(), Error> {
        let head = self.head.next();
        let mut queue = queue(&self.disk, head);
        queue.erase_all().await.map_err(|error| self.failure(error))?;
        let mut number = 1_u64;
        let mut entries = self.entries.iter().peekable();
        while entries.peek().is_some() {
            let mut record = number.to_le_bytes().to_vec();
            while let Some((key, value)) =
                entries.next_if(|(key, value)| record.len() == NUMBER || record.len() + cost(key, value) <= PIECE)
            {
                encode(&mut record, key, Some(value));
            }
            queue.push(&record, false).await.map_err(|error| self.failure(error))?;
            number += 1;
        }
        disk::write(&*self.disk, head).await?;
        (self.head, self.queue, self.number, self.stale) = (head, queue, number, false);
        Ok(())
    }

    /// Reads all that is in the log in use.
    async fn load(&mut self) -> Result<(), Error> {
        (self.queue, self.number, self.used) = (queue(&self.disk, self.head), 1, 0);
        self.entries.clear();
        let mut buffer = vec![0; PAGE];
        let (limit, full) = (self.limit, self.failure(sequential_storage::Error::FullStorage));
        let mut records = match self.queue.iter().await {
            Ok(records) => records,
            Err(error) => return Err(failure(error, full)),
        };
        while let Some(record) = records.next(&mut buffer).await.map_err(|error| failure(error, full))? {
            let (number, mut rest) = record.split_first_chunk::<NUMBER>().ok_or(Error::Damaged)?;
            // Each is there: what cannot be read is passed over by the queue.
            if u64::from_le_bytes(*number) != self.number {
                return Err(Error::Damaged);
            }
            self.number += 1;
            while !rest.is_empty() {
                let (key, value, after) = decode(rest).ok_or(Error::Damaged)?;
                let old = match value {
                    Some(value) => {
                        self.used += cost(key, value);
                        self.entries.insert(key.to_vec(), value.to_vec())
                    }
                    None => self.entries.remove(key),
                };
                self.used -= old.map_or(0, |old| cost(key, &old));
                rest = after;
                // A record may be larger than what it leaves.
                if self.used > limit + 2 * PAGE {
                    return Err(Error::Memory { limit });
                }
            }
        }
        self.stale = false;
        Ok(())
    }

    fn failure(&self, error: sequential_storage::Error<Failed>) -> Error {
        failure(error, Error::Full { used: self.used, limit: self.limit })
    }
}

fn failure(error: sequential_storage::Error<Failed>, full: Error) -> Error {
    match error {
        sequential_storage::Error::Storage { value, .. } => Error::Disk(value.0),
        sequential_storage::Error::FullStorage => full,
        _ => Error::Damaged,
    }
}

/// The log of a head.
fn queue<D: BlockDevice>(disk: &Rc<D>, head: Head) -> Box<Queue<D>> {
    let pages = head.pages as usize;
    let first = 1 + head.log() as usize * pages;
    let config = QueueConfig::new((first * PAGE) as u32..((first + pages) * PAGE) as u32);
    let cache = Cache::new(HeapPageStates::new(pages), HeapPagePointers::new(pages), Uncached);
    Box::new(QueueStorage::new(Pages::new(disk.clone(), 1 + 2 * pages), config, cache))
}

fn encode(record: &mut Vec<u8>, key: &[u8], value: Option<&[u8]>) {
    record.extend((key.len() as u16).to_le_bytes());
    record.extend(value.map_or(REMOVED, |value| value.len() as u32).to_le_bytes());
    record.extend(key);
    record.extend(value.unwrap_or_default());
}

/// A change: its key, its value, and what is behind it.
type Decoded<'a> = (&'a [u8], Option<&'a [u8]>, &'a [u8]);

fn decode(record: &[u8]) -> Option<Decoded<'_>> {
    let (lengths, rest) = record.split_first_chunk::<LENGTHS>()?;
    let key_len = usize::from(u16::from_le_bytes([lengths[0], lengths[1]]));
    let value_len = u32::from_le_bytes([lengths[2], lengths[3], lengths[4], lengths[5]]);
    let (key, rest) = rest.split_at_checked(key_len).filter(|(key, _)| (1..=MAX_KEY).contains(&key.len()))?;
    if value_len == REMOVED {
        return Some((key, None, rest));
    }
    let value_len = usize::try_from(value_len).ok().filter(|len| *len <= MAX_VALUE)?;
    let (value, rest) = rest.split_at_checked(value_len)?;
    Some((key, Some(value), rest))
}

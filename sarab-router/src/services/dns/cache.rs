//! What servers have said, for as long as it holds, up to a number of bytes.

use alloc::rc::Rc;
use core::hash::BuildHasher;
use core::time::Duration;

use lru::LruCache;
use siphasher::sip::SipHasher13;

use super::message::{Body, Key};

/// What an entry takes besides question and records.
const OVERHEAD: usize = 192;

/// Clients choose what is asked for, so that they must not be able to choose where it is kept.
#[derive(Clone, Copy)]
struct Hash(u64, u64);

impl BuildHasher for Hash {
    type Hasher = SipHasher13;

    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_keys(self.0, self.1)
    }
}

pub(super) struct Cache {
    entries: LruCache<Rc<Key>, Entry, Hash>,
    bytes: usize,
    max: usize,
}

struct Entry {
    body: Rc<Body>,
    since: Duration,
    until: Duration,
}

fn size(key: &Key, body: &Body) -> usize {
    OVERHEAD + key.question.len() + body.size()
}

impl Cache {
    /// One of at most so many bytes.
    pub(super) fn new(max: usize, secret: (u64, u64)) -> Cache {
        Cache { entries: LruCache::unbounded_with_hasher(Hash(secret.0, secret.1)), bytes: 0, max }
    }

    /// What is known, and how old that is in seconds.
    pub(super) fn get(&mut self, key: &Key, now: Duration) -> Option<(Rc<Body>, u32)> {
        let entry = self.entries.get(key)?;
        if entry.until <= now {
            self.remove(key);
            return None;
        }
        let age = now.saturating_sub(entry.since).as_secs().min(u32::MAX.into()) as u32;
        Some((entry.body.clone(), age))
    }

    /// Remembers something for so many seconds. What was not used for longest makes room for it.
    pub(super) fn put(&mut self, key: &Rc<Key>, body: Rc<Body>, seconds: u32, now: Duration) {
        self.remove(key);
        let size = size(key, &body);
        if seconds == 0 || size > self.max {
            return;
        }
        self.bytes += size;
        let until = now + Duration::from_secs(seconds.into());
        self.entries.put(key.clone(), Entry { body, since: now, until });
        while self.bytes > self.max {
            let Some((key, entry)) = self.entries.pop_lru() else { return };
            self.bytes -= self::size(&key, &entry.body);
        }
    }

    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
    }

    /// Entries, and the bytes that they take.
    pub(super) fn usage(&self) -> (usize, usize) {
        (self.entries.len(), self.bytes)
    }

    fn remove(&mut self, key: &Key) {
        if let Some(entry) = self.entries.pop(key) {
            self.bytes -= size(key, &entry.body);
        }
    }
}

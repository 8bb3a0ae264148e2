//! What servers have said, for as long as it holds.

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::string::String;
use core::net::IpAddr;

use embassy_time::{Duration, Instant};

use super::answer::Family;

/// Names whose addresses, or lack of them, are remembered.
const MAX_ENTRIES: usize = 256;
/// Bytes that they take together.
const MAX_BYTES: usize = 32 << 10;
/// What an entry takes besides name and addresses.
const OVERHEAD: usize = 96;

/// What is known of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Known {
    Addresses(Rc<[IpAddr]>),
    NoAddress,
    NoName,
}

#[derive(Default)]
pub(super) struct Cache {
    entries: BTreeMap<(Rc<str>, Family), Entry>,
    bytes: usize,
    /// Counts uses.
    uses: u64,
}

struct Entry {
    known: Known,
    until: Instant,
    used: u64,
}

fn size(name: &str, known: &Known) -> usize {
    let addresses = if let Known::Addresses(addresses) = known { addresses.len() } else { 0 };
    OVERHEAD + name.len() + addresses * size_of::<IpAddr>()
}

impl Cache {
    pub(super) fn get(&mut self, name: &Rc<str>, family: Family, now: Instant) -> Option<Known> {
        let key = (name.clone(), family);
        if self.entries.get(&key)?.until <= now {
            self.remove(&key);
            return None;
        }
        self.uses += 1;
        let entry = self.entries.get_mut(&key)?;
        entry.used = self.uses;
        Some(entry.known.clone())
    }

    /// Remembers something for so many seconds. What was not used for longest makes room for it.
    pub(super) fn put(&mut self, name: &Rc<str>, family: Family, known: Known, seconds: u32, now: Instant) {
        let key = (name.clone(), family);
        self.remove(&key);
        if seconds == 0 {
            return;
        }
        self.bytes += size(name, &known);
        self.uses += 1;
        let until = now + Duration::from_secs(seconds.into());
        self.entries.insert(key, Entry { known, until, used: self.uses });
        while self.entries.len() > MAX_ENTRIES || self.bytes > MAX_BYTES {
            // What holds no more goes first.
            let rank = |entry: &Entry| if entry.until <= now { 0 } else { entry.used };
            let oldest = self.entries.iter().min_by_key(|(_, entry)| rank(entry)).map(|(key, _)| key.clone());
            let Some(oldest) = oldest else { return };
            self.remove(&oldest);
        }
    }

    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
    }

    fn remove(&mut self, key: &(Rc<str>, Family)) {
        if let Some(entry) = self.entries.remove(key) {
            self.bytes -= size(&key.0, &entry.known);
        }
    }
}

impl core::fmt::Debug for Cache {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let names: alloc::vec::Vec<String> = self.entries.keys().map(|(name, _)| String::from(&**name)).collect();
        f.debug_struct("Cache").field("names", &names).field("bytes", &self.bytes).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use core::net::Ipv4Addr;

    fn addresses(count: usize) -> Known {
        Known::Addresses((0..count).map(|at| IpAddr::from(Ipv4Addr::from_bits(at as u32 + 1))).collect())
    }

    fn name(number: usize) -> Rc<str> {
        format!("host-{number}.example.org").into()
    }

    #[test]
    fn what_is_known_holds_as_long_as_it_should() {
        let mut cache = Cache::default();
        let second = Instant::from_secs;
        cache.put(&name(1), Family::V4, addresses(2), 10, second(100));
        cache.put(&name(1), Family::V6, Known::NoAddress, 5, second(100));
        assert_eq!(cache.get(&name(1), Family::V4, second(109)), Some(addresses(2)));
        assert_eq!(cache.get(&name(1), Family::V6, second(104)), Some(Known::NoAddress));
        assert_eq!(cache.get(&name(1), Family::V6, second(105)), None);
        assert_eq!(cache.get(&name(1), Family::V4, second(110)), None);
        assert_eq!((cache.entries.len(), cache.bytes), (0, 0));
        cache.put(&name(1), Family::V4, Known::NoName, 0, second(0));
        assert_eq!(cache.get(&name(1), Family::V4, second(0)), None, "nothing that holds for no time");
        cache.put(&name(1), Family::V4, Known::NoName, 9, second(0));
        cache.put(&name(1), Family::V4, addresses(1), 9, second(1));
        assert_eq!(cache.get(&name(1), Family::V4, second(2)), Some(addresses(1)), "the later one counts");
    }

    #[test]
    fn it_holds_a_bounded_number_of_names_and_bytes() {
        for count in [1, 16] {
            let mut cache = Cache::default();
            let now = Instant::from_secs(7);
            for number in 0..2000 {
                cache.put(&name(number), Family::V4, addresses(count), 100, now);
                assert!(cache.entries.len() <= MAX_ENTRIES && cache.bytes <= MAX_BYTES);
                assert!(cache.get(&name(0), Family::V4, now).is_some(), "it is in use");
                assert!(cache.get(&name(number), Family::V4, now).is_some());
            }
            assert!(cache.entries.len() > 50);
            assert!(cache.get(&name(1), Family::V4, now).is_none());
            cache.clear();
            assert_eq!((cache.entries.len(), cache.bytes), (0, 0));
        }
    }
}

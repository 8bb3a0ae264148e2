//! What names stand for, and when to ask again.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::net::IpAddr;
use core::time::Duration;

use sarab_net::{is_unicast, is_unicast_v6};

use super::{NameId, Names};
use crate::rules::rule::Family;

/// Addresses of a name and a family that are known at a time.
const MAX_ADDRESSES: usize = 64;
/// A name is asked for no more often than this.
const MIN_TTL: Duration = Duration::from_secs(10);
/// A name is asked for at least so often.
const MAX_TTL: Duration = Duration::from_secs(3600);
/// For how long an address counts once its TTL is over: clients may have got it later, or hold on to it.
const KEEP: Duration = Duration::from_secs(300);
/// For how long an answer is waited for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Until a name is asked for again that has failed once, and often.
const RETRY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));

/// The addresses of the rules' names, as far as they are known, and what to ask for next.
///
/// It asks nobody: whoever holds it takes a [`Question`] of [`due`](NameTable::due), and reports the answer to
/// [`resolved`](NameTable::resolved) or [`failed`](NameTable::failed). `now` is the time since any moment before, the same one
/// in all calls.
///
/// ```
/// # use std::time::Duration;
/// # use sarab_router::rules::{Config, Family, NameTable};
/// let config = Config::parse("policy drop\naccept tcp to example.org port 443\n")?;
/// let mut names = NameTable::default();
/// names.reload(config.rules.names(), Duration::ZERO);
/// let question = names.due(Duration::ZERO).unwrap();
/// assert_eq!((question.name, question.family), ("example.org", Family::V4));
/// let addresses = ["192.0.2.1".parse()?];
/// assert!(names.resolved("example.org", Family::V4, &addresses, Duration::from_secs(60), Duration::ZERO));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct NameTable {
    /// In the order of their names.
    entries: Vec<Entry>,
}

/// What to ask a DNS server for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question<'a> {
    /// The name, without a dot at its end.
    pub name: &'a str,
    /// Which addresses: A records or AAAA records.
    pub family: Family,
}

#[derive(Clone, Debug)]
struct Entry {
    name: Box<str>,
    v4: Schedule,
    v6: Schedule,
    /// Of both families.
    addresses: Vec<IpAddr>,
    /// Until when each of them counts.
    until: Vec<Duration>,
}

#[derive(Clone, Copy, Debug)]
struct Schedule {
    /// When to ask, or to ask again.
    due: Duration,
    failures: u32,
    /// Until when the last answer counts, whatever it was.
    known: Option<Duration>,
}

impl NameTable {
    /// Takes over the names of rules, which have just been read. What is known about names that were there remains.
    pub fn reload(&mut self, names: &[Box<str>], now: Duration) {
        let mut old = core::mem::take(&mut self.entries).into_iter().peekable();
        let fresh = Schedule { due: now, failures: 0, known: None };
        for name in names {
            while old.next_if(|entry| entry.name < *name).is_some() {}
            let known = old.next_if(|entry| entry.name == *name);
            self.entries.push(known.unwrap_or_else(|| Entry {
                name: name.clone(),
                v4: fresh,
                v6: fresh,
                addresses: Vec::new(),
                until: Vec::new(),
            }));
        }
    }

    /// What to ask now: the question that waits longest. It counts as asked then, and comes again if nothing is reported
    /// about it for half a minute.
    pub fn due(&mut self, now: Duration) -> Option<Question<'_>> {
        let schedules = |entry: &Entry| [(Family::V4, entry.v4.due), (Family::V6, entry.v6.due)];
        let all = self
            .entries
            .iter()
            .enumerate()
            .flat_map(|(index, entry)| schedules(entry).map(|(family, due)| (due, index, family)));
        let (_, index, family) = all.filter(|(due, ..)| *due <= now).min()?;
        let entry = self.entries.get_mut(index)?;
        entry.schedule(family).due = now.saturating_add(ANSWER_TIMEOUT);
        Some(Question { name: &entry.name, family })
    }

    /// What is known of a name: the addresses of both families.
    pub fn addresses(&self, name: &str) -> &[IpAddr] {
        self.get(name).map_or(&[], |entry| &entry.addresses)
    }

    /// Whether the addresses of a family are known, even if there are none: somebody has answered, and not too long ago.
    pub fn is_known(&self, name: &str, family: Family) -> bool {
        self.get(name).is_some_and(|entry| match family {
            Family::V4 => entry.v4.known.is_some(),
            Family::V6 => entry.v6.known.is_some(),
        })
    }

    /// When to call [`due`](NameTable::due) and [`expire`](NameTable::expire) again; none if there are no names.
    pub fn next(&self) -> Option<Duration> {
        let times = |entry: &Entry| {
            let (until, known) = (entry.until.iter().copied(), [entry.v4.known, entry.v6.known]);
            [entry.v4.due, entry.v6.due].into_iter().chain(until).chain(known.into_iter().flatten()).min()
        };
        self.entries.iter().filter_map(times).min()
    }

    /// Reports an answer: all addresses of a name and a family, perhaps none, and for how long they hold.
    ///
    /// Returns whether the name stands for other addresses than before: then flows are to be evaluated again. Addresses of the
    /// other family, or that are no host's, are left out, and answers about other names.
    pub fn resolved(&mut self, name: &str, family: Family, addresses: &[IpAddr], ttl: Duration, now: Duration) -> bool {
        let Some(entry) = self.entry(name) else { return false };
        let ttl = ttl.clamp(MIN_TTL, MAX_TTL);
        let until = now.saturating_add(ttl + KEEP);
        *entry.schedule(family) = Schedule { due: now.saturating_add(ttl), failures: 0, known: Some(until) };
        let mut is_changed = entry.expire(now);
        for address in addresses.iter().filter(|address| is_host(**address, family)).take(MAX_ADDRESSES) {
            is_changed |= entry.insert(*address, until);
        }
        is_changed
    }

    /// Reports that there was no answer: neither addresses nor that there are none. The question comes again later, and
    /// less and less often.
    pub fn failed(&mut self, name: &str, family: Family, now: Duration) {
        let Some(entry) = self.entry(name) else { return };
        let schedule = entry.schedule(family);
        let (first, last) = RETRY;
        let wait = first.saturating_mul(1 << schedule.failures.min(16)).min(last);
        *schedule = Schedule {
            due: now.saturating_add(wait),
            failures: schedule.failures.saturating_add(1),
            known: schedule.known,
        };
    }

    /// Has all names that have failed asked for at once: others are asked now.
    pub fn retry(&mut self, now: Duration) {
        let all = self.entries.iter_mut().flat_map(|entry| [&mut entry.v4, &mut entry.v6]);
        for schedule in all.filter(|schedule| schedule.failures > 0) {
            (schedule.due, schedule.failures) = (now, 0);
        }
    }

    /// Forgets addresses that nobody has seen for long, and what is [known](NameTable::is_known). Returns whether there was
    /// anything, as [`resolved`](NameTable::resolved) does.
    pub fn expire(&mut self, now: Duration) -> bool {
        // All of them, not only up to the first.
        self.entries.iter_mut().filter_map(|entry| entry.expire(now).then_some(())).count() > 0
    }

    fn get(&self, name: &str) -> Option<&Entry> {
        let index = self.entries.binary_search_by(|entry| (*entry.name).cmp(name)).ok()?;
        self.entries.get(index)
    }

    fn entry(&mut self, name: &str) -> Option<&mut Entry> {
        let index = self.entries.binary_search_by(|entry| (*entry.name).cmp(name)).ok()?;
        self.entries.get_mut(index)
    }
}

impl Names for NameTable {
    fn lookup(&self, name: NameId) -> &[IpAddr] {
        self.entries.get(name.0 as usize).map_or(&[], |entry| &entry.addresses)
    }
}

impl Entry {
    fn schedule(&mut self, family: Family) -> &mut Schedule {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }

    fn expire(&mut self, now: Duration) -> bool {
        let before = self.addresses.len();
        let mut until = self.until.iter();
        self.addresses.retain(|_| until.next().is_some_and(|until| *until > now));
        self.until.retain(|until| *until > now);
        let mut is_changed = self.addresses.len() != before;
        for schedule in [&mut self.v4, &mut self.v6] {
            is_changed |= schedule.known.take_if(|until| *until <= now).is_some();
        }
        is_changed
    }

    /// Returns whether it is new. If there are too many, the one goes that would be the next to go.
    fn insert(&mut self, address: IpAddr, until: Duration) -> bool {
        if let Some(index) = self.addresses.iter().position(|known| *known == address) {
            self.until[index] = self.until[index].max(until);
            return false;
        }
        let family = Family::of(address);
        let own = || self.addresses.iter().enumerate().filter(|(_, known)| Family::of(**known) == family);
        if own().count() >= MAX_ADDRESSES
            && let Some((oldest, _)) = own().min_by_key(|(index, _)| self.until[*index])
        {
            self.addresses.swap_remove(oldest);
            self.until.swap_remove(oldest);
        }
        self.addresses.push(address);
        self.until.push(until);
        true
    }
}

/// Whether it is an address of this family that a host can have.
fn is_host(address: IpAddr, family: Family) -> bool {
    Family::of(address) == family
        && match address {
            IpAddr::V4(address) => is_unicast(address),
            IpAddr::V6(address) => is_unicast_v6(address) && !address.is_unicast_link_local(),
        }
}

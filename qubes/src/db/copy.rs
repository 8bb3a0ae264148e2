//! All entries, within bounds.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Bound;

use super::Change;

/// What an entry takes besides the bytes of its path and value.
const ENTRY_COST: usize = 96;
/// Paths that are remembered of entries that had no room.
const MAX_MISSING: usize = 64;

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) entries: usize,
    pub(crate) bytes: usize,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Copy {
    entries: BTreeMap<Rc<str>, Rc<[u8]>>,
    bytes: usize,
    /// Entries that had no room.
    missing: BTreeSet<Rc<str>>,
    /// There were more of these than are remembered.
    more_missing: bool,
}

impl Copy {
    pub(crate) fn get(&self, path: &str) -> Option<&Rc<[u8]>> {
        self.entries.get(path)
    }

    /// The entries that a pattern matches: those below it if it ends with `/` or is empty, otherwise its own.
    pub(crate) fn matching<'a>(&'a self, pattern: &'a str) -> impl Iterator<Item = (&'a Rc<str>, &'a Rc<[u8]>)> {
        self.entries
            .range::<str, _>((Bound::Included(pattern), Bound::Unbounded))
            .take_while(move |(path, _)| path.starts_with(pattern))
            .filter(move |(path, _)| matches(pattern, path))
    }

    /// Whether something that the pattern matches had no room.
    pub(crate) fn is_incomplete(&self, pattern: &str) -> bool {
        self.more_missing || self.missing.iter().any(|path| matches(pattern, path))
    }

    /// Whether it is there or had no room.
    pub(crate) fn may_have(&self, pattern: &str) -> bool {
        self.matching(pattern).next().is_some() || self.is_incomplete(pattern)
    }

    /// Sets an entry; `false` where there is no room, and then there is none.
    pub(crate) fn write(&mut self, path: &str, value: &[u8], bounds: Bounds) -> bool {
        let path: Rc<str> = path.into();
        self.forget(&path);
        let cost = cost(&path, value);
        if self.entries.len() < bounds.entries && cost <= bounds.bytes.saturating_sub(self.bytes) {
            self.bytes += cost;
            self.entries.insert(path, value.into());
            return true;
        }
        if self.missing.len() < MAX_MISSING {
            self.missing.insert(path);
        } else {
            self.more_missing = true;
        }
        false
    }

    /// Removes what the pattern matches, and returns their paths.
    pub(crate) fn remove(&mut self, pattern: &str) -> Vec<Rc<str>> {
        let paths: Vec<Rc<str>> = self.matching(pattern).map(|(path, _)| path.clone()).collect();
        paths.iter().for_each(|path| self.forget(path));
        self.missing.retain(|path| !matches(pattern, path));
        paths
    }

    /// What has changed from `old` to this one.
    pub(crate) fn differences(&self, old: &Copy) -> Vec<Change> {
        let gone = old.entries.keys().filter(|path| !self.entries.contains_key(*path));
        let gone = gone.map(|path| Change::Removed(String::from(&**path)));
        let new = self.entries.iter().filter(|(path, value)| old.entries.get(*path) != Some(value));
        gone.chain(new.map(|(path, _)| Change::Written(String::from(&**path)))).collect()
    }

    fn forget(&mut self, path: &Rc<str>) {
        if let Some(value) = self.entries.remove(path) {
            self.bytes -= cost(path, &value);
        }
        self.missing.remove(path);
    }
}

fn cost(path: &str, value: &[u8]) -> usize {
    path.len() + value.len() + ENTRY_COST
}

/// Whether a pattern is for this path.
pub(crate) fn matches(pattern: &str, path: &str) -> bool {
    match pattern.is_empty() || pattern.ends_with('/') {
        true => path.starts_with(pattern),
        false => path == pattern,
    }
}

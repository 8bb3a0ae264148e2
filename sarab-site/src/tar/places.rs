//! Where the files of an archive are, by a hash of their names: sixteen bytes for each, however long its name is. The name
//! itself is on the disk, in front of the file's bytes, and is compared when they are read.

use alloc::boxed::Box;
use alloc::vec::Vec;

/// The places that are kept in one piece of memory. It grows by such pieces, so that it never takes more than it says.
const CHUNK: usize = 1024;
/// Blocks of a [`Place`] that says how long it is.
const MAX_BLOCKS: u64 = 0xffff;

/// Where what belongs to a file begins, and how much it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) kind: Kind,
    /// In bytes.
    pub(crate) at: u64,
    /// In bytes, headers included; nothing where it is more than can be said here.
    pub(crate) len: Option<u64>,
}

/// What a place is kept for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A file, or a symbolic link.
    File,
    HardLink,
    /// What is not served, in the place of what had the name before.
    Hidden,
    /// A folder; not kept once everything was looked at.
    Folder,
    /// A name that a hard link needs, from here on; not kept either.
    Wanted,
}

impl Kind {
    const ALL: [Kind; 5] = [Kind::File, Kind::HardLink, Kind::Hidden, Kind::Folder, Kind::Wanted];

    fn is_entry(self) -> bool {
        matches!(self, Kind::File | Kind::HardLink | Kind::Hidden)
    }
}

/// A hash, and a place: its first block, what it is kept for, and its blocks.
type Item = (u64, u64);

fn item(hash: u64, kind: Kind, at: u64, len: u64) -> Option<Item> {
    let (block, blocks) = (at / 512, len.div_ceil(512).min(MAX_BLOCKS));
    (block >> 45 == 0).then_some((hash, block << 19 | (kind as u64) << 16 | blocks))
}

fn place((_, value): Item) -> Place {
    Place {
        kind: Kind::ALL[((value >> 16) & 7) as usize % Kind::ALL.len()],
        at: (value >> 19) * 512,
        len: Some(value & 0xffff).filter(|blocks| *blocks < MAX_BLOCKS).map(|blocks| blocks * 512),
    }
}

/// Places by the hashes of names.
#[derive(Default)]
pub(crate) struct Places {
    /// All full but for the last.
    chunks: Vec<Box<[Item; CHUNK]>>,
    len: usize,
    /// Names that something is served under.
    names: usize,
    /// There is no memory for more, and they are in order.
    full: bool,
    /// Some are not what the last ones of their names are.
    tangled: bool,
}

impl Places {
    /// Bytes of memory that so many places take.
    pub(crate) const fn memory(places: usize) -> usize {
        places.div_ceil(CHUNK) * (CHUNK * size_of::<Item>() + 2 * size_of::<usize>())
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// How many names there are, once everything was looked at.
    pub(crate) fn names(&self) -> usize {
        self.names
    }

    /// Adds a place behind all others on the disk; false where it cannot be kept. Then it still is in the place of what has
    /// its name.
    pub(crate) fn push(&mut self, name: &str, kind: Kind, at: u64, len: u64, memory: usize) -> bool {
        let hash = hash(name);
        let Some(item) = item(hash, kind, at, len) else { return false };
        if !self.full && Places::memory(self.len + 1) > memory {
            self.sort();
            self.full = true;
        }
        if self.full {
            return self.replace(item, kind);
        }
        if self.len.is_multiple_of(CHUNK) {
            self.chunks.push(Box::new([(0, 0); CHUNK]));
        }
        self.len += 1;
        self.set(self.len - 1, item);
        true
    }

    /// Says that the places are not enough to tell what is there.
    pub(crate) fn entangle(&mut self) {
        self.tangled = true;
    }

    /// Puts a place where the last one of its name is.
    fn replace(&mut self, item: Item, kind: Kind) -> bool {
        let Some(index) = self.behind(item.0).checked_sub(1).filter(|index| self.get(*index).0 == item.0) else {
            return false;
        };
        let before = place(self.get(index)).kind;
        match (before.is_entry(), kind.is_entry()) {
            (true, true) => self.set(index, item),
            _ if kind == Kind::Wanted || before == Kind::Wanted => {}
            (before, now) => self.tangled |= before != now,
        }
        true
    }

    /// Brings all into order, and keeps what names something. False where the last place of a name need not be what it
    /// names: where it is a folder as well, or where a hard link needs what is no file before it.
    pub(crate) fn settle(&mut self) -> bool {
        self.sort();
        let (mut kept, mut start) = (0, 0);
        while start < self.len {
            let hash = self.get(start).0;
            let (mut entry, mut folder, mut end) = (None, false, start);
            while end < self.len && self.get(end).0 == hash {
                let item = self.get(end);
                let found = place(item);
                match found.kind {
                    Kind::Folder => folder = true,
                    Kind::Wanted => {
                        let before = (start..end).rev().map(|index| place(self.get(index)));
                        let mut before = before.filter(|place| place.kind.is_entry() && place.at < found.at);
                        self.tangled |= !self.full && before.next().is_none_or(|place| place.kind == Kind::HardLink);
                    }
                    _ => entry = Some(found.kind),
                }
                end += 1;
            }
            self.tangled |= folder && entry.is_some();
            self.names += usize::from(entry.is_some_and(|kind| kind != Kind::Hidden));
            for index in start..end {
                let item = self.get(index);
                if place(item).kind.is_entry() {
                    self.set(kept, item);
                    kept += 1;
                }
            }
            start = end;
        }
        self.len = kept;
        self.chunks.truncate(kept.div_ceil(CHUNK));
        !self.tangled
    }

    /// Brings them into the order of their hashes, and of the disk where these are the same. In place: there may be no
    /// memory for another copy.
    fn sort(&mut self) {
        for root in (0..self.len / 2).rev() {
            self.sift(root, self.len);
        }
        for end in (1..self.len).rev() {
            let (first, last) = (self.get(0), self.get(end));
            self.set(0, last);
            self.set(end, first);
            self.sift(0, end);
        }
    }

    /// Moves an item of a heap down to where it belongs.
    fn sift(&mut self, root: usize, end: usize) {
        let item = self.get(root);
        let mut hole = root;
        loop {
            let mut child = 2 * hole + 1;
            if child >= end {
                break;
            }
            if child + 1 < end && self.get(child + 1) > self.get(child) {
                child += 1;
            }
            if self.get(child) <= item {
                break;
            }
            self.set(hole, self.get(child));
            hole = child;
        }
        self.set(hole, item);
    }

    /// Where a file of this name may be: the last one first, since that is what unpacking would leave.
    pub(crate) fn find(&self, name: &str) -> impl Iterator<Item = Place> + use<'_> {
        let hash = hash(name);
        let same = (0..self.behind(hash)).rev().map(|index| self.get(index));
        same.take_while(move |item| item.0 == hash).map(place)
    }

    /// The index behind all with a hash.
    fn behind(&self, hash: u64) -> usize {
        let (mut low, mut high) = (0, self.len);
        while low < high {
            let middle = low.midpoint(high);
            if self.get(middle).0 <= hash { low = middle + 1 } else { high = middle }
        }
        low
    }

    fn get(&self, index: usize) -> Item {
        self.chunks[index / CHUNK][index % CHUNK]
    }

    fn set(&mut self, index: usize, item: Item) {
        self.chunks[index / CHUNK][index % CHUNK] = item;
    }
}

/// FNV-1a, with its bits mixed once more at the end.
pub(crate) fn hash(name: &str) -> u64 {
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    (hash ^ hash >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    #[test]
    fn places_are_found_again() {
        for count in [0, 1, 2, 3, 1023, 1024, 1025, 20_000] {
            let name = |index: u64| format!("a/{}", index * 7919 % 50_021);
            let mut places = Places::default();
            for index in 0..count {
                assert!(places.push(&name(index), Kind::File, index * 1024, index * 300, usize::MAX));
            }
            places.push("a", Kind::Folder, 0, 0, usize::MAX);
            // Each second name once more, behind the others.
            for index in (0..count).step_by(2) {
                places.push(&name(index), Kind::HardLink, (count + index) * 1024, 512, usize::MAX);
            }
            assert!(places.settle());
            assert_eq!((places.names(), places.len()), (count as usize, (count + count.div_ceil(2)) as usize));
            for index in 0..count {
                let found: Vec<_> = places.find(&name(index)).collect();
                let len = Some((index * 300).next_multiple_of(512));
                let first = Place { kind: Kind::File, at: index * 1024, len };
                let second = Place { kind: Kind::HardLink, at: (count + index) * 1024, len: Some(512) };
                if index % 2 == 0 {
                    assert_eq!(found, [second, first]);
                } else {
                    assert_eq!(found, [first]);
                }
            }
            assert_eq!(places.find("b").count(), 0);
        }
    }

    #[test]
    fn places_take_the_memory_that_they_may() {
        let file = Kind::File;
        let mut places = Places::default();
        let limit = Places::memory(5000);
        assert!(limit < 5 * 1024 * 17);
        let kept = (0..10_000).filter(|index| places.push(&format!("{index}"), file, *index, 1, limit)).count();
        assert_eq!(kept, 5 * 1024);
        // What has no place of its own takes that of its name, as unpacking would have it.
        assert!(places.push("7", Kind::Hidden, 1 << 20, 1, limit) && !places.push("9000", file, 1 << 20, 1, limit));
        assert!(places.settle() && places.names() == kept - 1);
        assert_eq!(places.find("7").next().map(|place| (place.kind, place.at)), Some((Kind::Hidden, 1 << 20)));
        assert!(!Places::default().push("a", file, 0, 1, Places::memory(1) - 1));
        assert!(!places.push("far", file, 1 << 57, 1, usize::MAX));
        let mut large = Places::default();
        assert!(large.push("a", file, 512, 1 << 40, usize::MAX));
        large.settle();
        assert_eq!(large.find("a").next(), Some(Place { kind: file, at: 512, len: None }));
    }

    #[test]
    fn what_the_last_place_does_not_tell() {
        use Kind::{File, Folder, HardLink, Hidden, Wanted};
        for (pushed, expected) in [
            (&[("a", File), ("b", Folder)][..], true),
            (&[("a", File), ("a", Folder)], false),
            (&[("a", Folder), ("a", Hidden)], false),
            (&[("a", File), ("b", HardLink), ("a", Wanted), ("a", File)], true),
            (&[("b", HardLink), ("a", Wanted), ("a", File)], false),
            (&[("a", File), ("b", HardLink), ("a", Wanted), ("c", HardLink), ("b", Wanted)], false),
        ] {
            let mut places = Places::default();
            for (index, (name, kind)) in pushed.iter().enumerate() {
                places.push(name, *kind, index as u64 * 512, 512, usize::MAX);
            }
            assert_eq!(places.settle(), expected, "{pushed:?}");
        }
    }
}

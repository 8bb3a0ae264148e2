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
    /// In bytes.
    pub(crate) at: u64,
    /// In bytes, headers included; nothing where it is more than can be said here.
    pub(crate) len: Option<u64>,
}

type Item = (u64, u64);

/// Places by the hashes of names.
#[derive(Default)]
pub(crate) struct Places {
    /// All full but for the last.
    chunks: Vec<Box<[Item; CHUNK]>>,
    len: usize,
    /// Different names.
    names: usize,
}

impl Places {
    /// Bytes of memory that so many places take.
    pub(crate) const fn memory(places: usize) -> usize {
        places.div_ceil(CHUNK) * (CHUNK * size_of::<Item>() + 2 * size_of::<usize>())
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// How many names there are, once it is sorted.
    pub(crate) fn names(&self) -> usize {
        self.names
    }

    /// Adds a place behind all others on the disk; false where it cannot be kept.
    pub(crate) fn push(&mut self, name: &str, at: u64, len: u64, memory: usize) -> bool {
        let (block, blocks) = (at / 512, len.div_ceil(512));
        if block >> 48 != 0 || Places::memory(self.len + 1) > memory {
            return false;
        }
        if self.len.is_multiple_of(CHUNK) {
            self.chunks.push(Box::new([(0, 0); CHUNK]));
        }
        let blocks = if blocks < MAX_BLOCKS { blocks } else { MAX_BLOCKS };
        self.len += 1;
        self.set(self.len - 1, (hash(name), block << 16 | blocks));
        true
    }

    /// Brings them into the order of their hashes, and of the disk where these are the same. In place: there may be no
    /// memory for another copy.
    pub(crate) fn sort(&mut self) {
        for root in (0..self.len / 2).rev() {
            self.sift(root, self.len);
        }
        for end in (1..self.len).rev() {
            let (first, last) = (self.get(0), self.get(end));
            self.set(0, last);
            self.set(end, first);
            self.sift(0, end);
        }
        self.names = (0..self.len).filter(|index| *index == 0 || self.get(*index).0 != self.get(index - 1).0).count();
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
        let (mut low, mut high) = (0, self.len);
        while low < high {
            let middle = low.midpoint(high);
            if self.get(middle).0 <= hash { low = middle + 1 } else { high = middle }
        }
        let same = (0..low).rev().map(|index| self.get(index)).take_while(move |item| item.0 == hash);
        same.map(|(_, place)| Place {
            at: (place >> 16) * 512,
            len: Some(place & 0xffff).filter(|blocks| *blocks < MAX_BLOCKS).map(|blocks| blocks * 512),
        })
    }

    fn get(&self, index: usize) -> Item {
        self.chunks[index / CHUNK][index % CHUNK]
    }

    fn set(&mut self, index: usize, item: Item) {
        self.chunks[index / CHUNK][index % CHUNK] = item;
    }
}

/// FNV-1a, with its bits mixed once more at the end.
fn hash(name: &str) -> u64 {
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
            let mut places = Places::default();
            for index in 0..count {
                let pushed =
                    places.push(&format!("a/{}", index * 7919 % 50_021), index * 1024, index * 300, usize::MAX);
                assert!(pushed);
            }
            // Each second name once more, behind the others.
            for index in (0..count).step_by(2) {
                places.push(&format!("a/{}", index * 7919 % 50_021), (count + index) * 1024, 512, usize::MAX);
            }
            places.sort();
            assert_eq!((places.names(), places.len()), (count as usize, (count + count.div_ceil(2)) as usize));
            for index in 0..count {
                let found: Vec<_> = places.find(&format!("a/{}", index * 7919 % 50_021)).collect();
                let first = Place { at: index * 1024, len: Some((index * 300).next_multiple_of(512)) };
                let second = Place { at: (count + index) * 1024, len: Some(512) };
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
        let mut places = Places::default();
        let limit = Places::memory(5000);
        assert!(limit < 5 * 1024 * 17);
        let kept = (0..10_000).filter(|index| places.push(&format!("{index}"), *index, 1, limit)).count();
        assert_eq!(kept, 5 * 1024);
        assert!(!Places::default().push("a", 0, 1, Places::memory(1) - 1));
        assert!(!places.push("far", 1 << 57, 1, usize::MAX));
        let mut large = Places::default();
        assert!(large.push("a", 512, 1 << 40, usize::MAX));
        large.sort();
        assert_eq!(large.find("a").next(), Some(Place { at: 512, len: None }));
    }
}

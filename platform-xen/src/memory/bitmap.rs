//! A set of numbers below a bound, one bit each, from which runs are taken and given back.

/// Numbers in an extent: as many as pages of 4 KiB in one of 2 MiB.
pub(crate) const EXTENT: usize = 512;
const WORDS: usize = EXTENT / 64;

/// Which of the first `64 * words.len()` numbers are free. A set bit is a free number.
pub(crate) struct Bitmap<'a> {
    words: &'a mut [u64],
    free: usize,
    /// No number below this word's is free.
    first: usize,
}

impl<'a> Bitmap<'a> {
    /// A set with nothing free in it.
    pub fn new(words: &'a mut [u64]) -> Bitmap<'a> {
        words.fill(0);
        Bitmap { words, free: 0, first: usize::MAX }
    }

    /// How many numbers are free.
    pub fn free_count(&self) -> usize {
        self.free
    }

    /// Takes the lowest free number.
    pub fn take(&mut self) -> Option<usize> {
        let start = self.first.min(self.words.len());
        for (index, word) in self.words.iter_mut().enumerate().skip(start) {
            if *word != 0 {
                let bit = word.trailing_zeros() as usize;
                *word &= *word - 1;
                self.free -= 1;
                self.first = index;
                return Some(index * 64 + bit);
            }
        }
        self.first = self.words.len();
        None
    }

    /// Takes `count` numbers in a row and returns the first of them.
    pub fn take_run(&mut self, count: usize) -> Option<usize> {
        match count {
            0 => return None,
            1 => return self.take(),
            _ if count > self.free => return None,
            _ => {}
        }
        let mut number = self.first.min(self.words.len()) * 64;
        let mut run = 0;
        while number < self.words.len() * 64 {
            match self.words[number / 64] {
                0 if number.is_multiple_of(64) => {
                    run = 0;
                    number += 64;
                    continue;
                }
                u64::MAX if number.is_multiple_of(64) && run + 64 < count => {
                    run += 64;
                    number += 64;
                    continue;
                }
                word if word >> (number % 64) & 1 == 1 => run += 1,
                _ => run = 0,
            }
            number += 1;
            if run == count {
                let start = number - count;
                for taken in start..number {
                    self.words[taken / 64] &= !(1 << (taken % 64));
                }
                self.free -= count;
                return Some(start);
            }
        }
        None
    }

    /// Takes `count` numbers from `start` on, where all of them are free.
    pub fn take_at(&mut self, start: usize, count: usize) -> bool {
        let end = start + count;
        let free = |number: usize| self.words.get(number / 64).is_some_and(|word| word >> (number % 64) & 1 == 1);
        if !(start..end).all(free) {
            return false;
        }
        for taken in start..end {
            self.words[taken / 64] &= !(1 << (taken % 64));
        }
        self.free -= count;
        true
    }

    /// Takes the highest extent, 512 numbers from a multiple of 512 on, of which all are free.
    pub fn take_extent(&mut self) -> Option<usize> {
        let (extents, _) = self.words.as_chunks_mut::<WORDS>();
        let (index, extent) = extents.iter_mut().enumerate().rev().find(|(_, extent)| **extent == [u64::MAX; WORDS])?;
        extent.fill(0);
        self.free -= EXTENT;
        Some(index * EXTENT)
    }

    /// Takes up to `numbers.len()` numbers from above, of extents first of which some are taken anyway; returns how many.
    pub fn take_high(&mut self, numbers: &mut [u64]) -> usize {
        let mut count = 0;
        for broken in [true, false] {
            for (index, extent) in self.words.chunks_mut(WORDS).enumerate().rev() {
                if *extent == [0; WORDS] || (broken && *extent == [u64::MAX; WORDS]) {
                    continue;
                }
                for (at, word) in extent.iter_mut().enumerate().rev() {
                    while *word != 0 && count < numbers.len() {
                        let bit = 63 - word.leading_zeros();
                        *word &= !(1 << bit);
                        numbers[count] = (index * EXTENT + at * 64) as u64 + u64::from(bit);
                        count += 1;
                    }
                }
                if count == numbers.len() {
                    self.free -= count;
                    return count;
                }
            }
        }
        self.free -= count;
        count
    }

    /// Gives back `count` numbers from `start` on.
    ///
    /// # Panics
    ///
    /// Where one of them is free already or beyond the bound: somebody would have it twice.
    pub fn give(&mut self, start: usize, count: usize) {
        for number in start..start + count {
            let bit = 1 << (number % 64);
            let word = &mut self.words[number / 64];
            assert!(*word & bit == 0, "number {number} was given back twice");
            *word |= bit;
        }
        self.free += count;
        self.first = self.first.min(start / 64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn behaves_like_a_set() {
        let mut words = [0; 8];
        let mut bitmap = Bitmap::new(&mut words);
        bitmap.give(3, 500);
        let mut model: BTreeSet<usize> = (3..503).collect();
        let mut taken: Vec<(usize, usize)> = Vec::new();
        let mut seed = 1_u64;
        for _ in 0..20_000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let random = (seed >> 33) as usize;
            if random.is_multiple_of(2) && !taken.is_empty() {
                let (start, count) = taken.swap_remove(random / 2 % taken.len());
                bitmap.give(start, count);
                model.extend(start..start + count);
            } else {
                let count = 1 + random / 2 % if random.is_multiple_of(7) { 200 } else { 5 };
                let fits = |start: &usize| (*start..*start + count).all(|number| model.contains(&number));
                let expected = model.iter().find(|start| fits(start)).copied();
                assert_eq!(bitmap.take_run(count), expected, "{count} in {model:?}");
                if let Some(start) = expected {
                    (start..start + count).for_each(|number| assert!(model.remove(&number)));
                    taken.push((start, count));
                }
            }
            assert_eq!(bitmap.free_count(), model.len());
        }
    }

    #[test]
    fn whole_extents_come_from_above_and_single_numbers_from_broken_ones() {
        let mut words = [0; 28];
        let mut bitmap = Bitmap::new(&mut words);
        // Three extents, of which the second lacks a number, and half of one, which is never whole.
        bitmap.give(0, 28 * 64);
        assert!(bitmap.take_at(700, 1) && !bitmap.take_at(699, 2) && !bitmap.take_at(28 * 64 - 1, 2));
        assert_eq!((bitmap.take_extent(), bitmap.free_count()), (Some(1024), 28 * 64 - 513));
        let mut numbers = [0; 300];
        assert_eq!(bitmap.take_high(&mut numbers), 300);
        let expected: Vec<u64> = (1536..1792).rev().chain((980..1024).rev()).collect();
        assert_eq!(numbers.as_slice(), expected, "the first extent stays whole");
        assert_eq!(bitmap.take_extent(), Some(0));
        assert_eq!(bitmap.take_extent(), None);
        let mut numbers = [0; 600];
        assert_eq!(bitmap.take_high(&mut numbers), 467);
        assert_eq!((numbers[0], numbers[466], bitmap.free_count(), bitmap.take()), (979, 512, 0, None));
        bitmap.give(5, 1);
        assert_eq!(bitmap.take(), Some(5));
    }

    #[test]
    #[should_panic(expected = "twice")]
    fn a_number_cannot_come_back_twice() {
        let mut words = [0; 1];
        let mut bitmap = Bitmap::new(&mut words);
        bitmap.give(1, 1);
        bitmap.give(1, 1);
    }
}

//! A few things by their numbers.

use alloc::vec::Vec;

/// Things by number. There are some dozens at most, and looking through them all is both faster and much less code
/// than a search tree.
pub(super) struct Table<T> {
    entries: Vec<(u32, T)>,
    next: u32,
}

impl<T> Table<T> {
    pub(super) const fn new() -> Self {
        Table { entries: Vec::new(), next: 0 }
    }

    /// Puts something in, under a number that is free and was not used for long.
    pub(super) fn insert(&mut self, value: T) -> u32 {
        while self.position(self.next).is_some() {
            self.next = self.next.wrapping_add(1);
        }
        let number = self.next;
        self.next = number.wrapping_add(1);
        self.entries.push((number, value));
        number
    }

    fn position(&self, number: u32) -> Option<usize> {
        self.entries.iter().position(|(known, _)| *known == number)
    }

    pub(super) fn get(&self, number: u32) -> Option<&T> {
        self.position(number).map(|index| &self.entries[index].1)
    }

    pub(super) fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        self.position(number).map(|index| &mut self.entries[index].1)
    }

    pub(super) fn remove(&mut self, number: u32) -> Option<T> {
        self.position(number).map(|index| self.entries.swap_remove(index).1)
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.entries.iter().map(|(number, value)| (*number, value))
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.entries.iter_mut().map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_use_are_not_given_again() {
        let mut table = Table::new();
        assert_eq!([table.insert('a'), table.insert('b'), table.insert('c')], [0, 1, 2]);
        assert_eq!(table.remove(0), Some('a'));
        assert_eq!((table.get(0), table.get(2).copied(), table.len()), (None, Some('c'), 2));
        table.next = u32::MAX;
        assert_eq!([table.insert('d'), table.insert('e'), table.insert('f')], [u32::MAX, 0, 3]);
    }
}

//! A disk's requests by number, and in the order in which they wait for the ring.

use slab::Slab;

/// Values with numbers that stay theirs, of which some stand in a queue. Each step takes the same time, however many
/// there are; a number that is free again is used again.
pub(super) struct Jobs<T> {
    entries: Slab<Entry<T>>,
    first: Option<usize>,
    last: Option<usize>,
}

struct Entry<T> {
    value: T,
    /// Whether it stands in the queue, and between whom.
    queued: bool,
    before: Option<usize>,
    after: Option<usize>,
}

impl<T> Jobs<T> {
    pub(super) const fn new() -> Jobs<T> {
        Jobs { entries: Slab::new(), first: None, last: None }
    }

    /// Adds a value, which does not stand in the queue yet.
    pub(super) fn insert(&mut self, value: T) -> usize {
        self.entries.insert(Entry { value, queued: false, before: None, after: None })
    }

    /// Takes a value away, out of the queue too.
    pub(super) fn remove(&mut self, index: usize) -> Option<T> {
        self.unlink(index);
        self.entries.try_remove(index).map(|entry| entry.value)
    }

    pub(super) fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        self.entries.get_mut(index).map(|entry| &mut entry.value)
    }

    /// The first in the queue.
    pub(super) fn front(&self) -> Option<usize> {
        self.first
    }

    /// Whether nobody stands in the queue.
    pub(super) fn is_queue_empty(&self) -> bool {
        self.first.is_none()
    }

    /// Has a value stand at the queue's end, if it does not stand in it.
    pub(super) fn push_back(&mut self, index: usize) {
        self.link(index, self.last, None);
    }

    /// Has a value stand at the queue's head, if it does not stand in it.
    pub(super) fn push_front(&mut self, index: usize) {
        self.link(index, None, self.first);
    }

    /// Takes the first out of the queue.
    pub(super) fn pop_front(&mut self) -> Option<usize> {
        let first = self.first?;
        self.unlink(first);
        Some(first)
    }

    fn link(&mut self, index: usize, before: Option<usize>, after: Option<usize>) {
        match self.entries.get_mut(index) {
            Some(entry) if !entry.queued => (entry.queued, entry.before, entry.after) = (true, before, after),
            _ => return,
        }
        *self.after(before) = Some(index);
        *self.before(after) = Some(index);
    }

    /// Takes a value out of the queue, wherever it stands.
    pub(super) fn unlink(&mut self, index: usize) {
        let Some(entry) = self.entries.get_mut(index).filter(|entry| entry.queued) else { return };
        entry.queued = false;
        let (before, after) = (entry.before, entry.after);
        *self.after(before) = after;
        *self.before(after) = before;
    }

    /// Where it says who stands after `index`, or first.
    fn after(&mut self, index: Option<usize>) -> &mut Option<usize> {
        match index {
            Some(index) => &mut self.entries[index].after,
            None => &mut self.first,
        }
    }

    /// Where it says who stands before `index`, or last.
    fn before(&mut self, index: Option<usize>) -> &mut Option<usize> {
        match index {
            Some(index) => &mut self.entries[index].before,
            None => &mut self.last,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::VecDeque;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    proptest! {
        /// Against a queue that is looked through for each step.
        #[test]
        fn the_queue_is_a_queue(steps in prop::collection::vec((0..6, 0_usize..12), 0..300)) {
            let mut jobs = Jobs::new();
            let (mut model, mut values, mut most) = (VecDeque::new(), Vec::new(), 0);
            for (step, number) in steps {
                let chosen = values.get(number % values.len().max(1)).map(|(index, _)| *index);
                match (step, chosen) {
                    (0, _) => {
                        let index = jobs.insert(number);
                        values.push((index, number));
                        most = values.len().max(most);
                        prop_assert!(index < most, "numbers are used again");
                    }
                    (1 | 2, Some(index)) => {
                        if step == 1 { jobs.push_back(index) } else { jobs.push_front(index) }
                        if !model.contains(&index) {
                            if step == 1 { model.push_back(index) } else { model.push_front(index) }
                        }
                    }
                    (3, _) => prop_assert_eq!(jobs.pop_front(), model.pop_front()),
                    (4, Some(index)) => {
                        jobs.unlink(index);
                        model.retain(|other| *other != index);
                    }
                    (5, Some(index)) => {
                        let at = values.iter().position(|(other, _)| *other == index).unwrap();
                        prop_assert_eq!(jobs.remove(index), Some(values.swap_remove(at).1));
                        prop_assert_eq!(jobs.remove(index), None);
                        model.retain(|other| *other != index);
                    }
                    _ => {}
                }
                prop_assert_eq!(jobs.is_queue_empty(), model.is_empty());
            }
            while let Some(index) = model.pop_front() {
                prop_assert_eq!(jobs.pop_front(), Some(index));
            }
            prop_assert_eq!(jobs.pop_front(), None);
        }
    }
}

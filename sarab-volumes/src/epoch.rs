//! When what was freed can be taken again: not before the requests have ended that may still read or write it.

use alloc::collections::{BTreeSet, VecDeque};
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::Cell;

use event_listener::{Event, EventListener};

struct Epoch {
    is_closed: Cell<bool>,
    ended: Rc<Event>,
}

/// What a request holds while it uses blocks and chunks: none that is freed meanwhile gets another use.
pub(crate) struct Token(Rc<Epoch>);

impl Drop for Token {
    fn drop(&mut self) {
        // The other one is the queue's.
        if self.0.is_closed.get() && Rc::strong_count(&self.0) == 2 {
            self.0.ended.notify(usize::MAX);
        }
    }
}

/// Blocks and chunks that are free, and cannot be taken yet: the last commit still needs them, or a request does.
pub(crate) struct Withheld {
    all: BTreeSet<u32>,
    /// Units below this are blocks.
    limit: u32,
    blocks: usize,
    /// Freed since the last commit.
    now: Vec<u32>,
    current: Rc<Epoch>,
    /// Freed before, with the requests that had begun by then.
    waiting: VecDeque<(Rc<Epoch>, Vec<u32>)>,
    ended: Rc<Event>,
}

impl Withheld {
    pub(crate) fn new(limit: u32) -> Withheld {
        let ended = Rc::new(Event::new());
        let current = Rc::new(Epoch { is_closed: Cell::new(false), ended: ended.clone() });
        Withheld { all: BTreeSet::new(), limit, blocks: 0, now: Vec::new(), current, waiting: VecDeque::new(), ended }
    }

    pub(crate) fn token(&self) -> Token {
        Token(self.current.clone())
    }

    pub(crate) fn add(&mut self, unit: u32) {
        if self.all.insert(unit) {
            self.now.push(unit);
            self.blocks += usize::from(unit < self.limit);
        }
    }

    pub(crate) fn contains(&self, unit: u32) -> bool {
        self.all.contains(&unit)
    }

    /// How many of them are blocks.
    pub(crate) fn blocks(&self) -> usize {
        self.blocks
    }

    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    /// A commit is durable that does without all that was freed before.
    pub(crate) fn committed(&mut self) {
        let next = Rc::new(Epoch { is_closed: Cell::new(false), ended: self.ended.clone() });
        let closed = core::mem::replace(&mut self.current, next);
        closed.is_closed.set(true);
        self.waiting.push_back((closed, core::mem::take(&mut self.now)));
    }

    /// What can be taken from now on.
    pub(crate) fn release(&mut self) -> Vec<u32> {
        let mut released = Vec::new();
        while self.waiting.front().is_some_and(|(epoch, _)| Rc::strong_count(epoch) == 1) {
            released.extend(self.waiting.pop_front().into_iter().flat_map(|(_, units)| units));
        }
        for unit in &released {
            self.all.remove(unit);
            self.blocks -= usize::from(*unit < self.limit);
        }
        released
    }

    /// Whether commits alone do not help: requests have to end.
    pub(crate) fn waits_for_requests(&self) -> bool {
        !self.waiting.is_empty()
    }

    pub(crate) fn listen(&self) -> EventListener {
        self.ended.listen()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_freed_waits_for_a_commit_and_for_the_requests_before_it() {
        let mut withheld = Withheld::new(6);
        let before = withheld.token();
        withheld.add(5);
        assert_eq!(withheld.release(), []);
        withheld.committed();
        let after = withheld.token();
        assert_eq!(withheld.release(), []);
        withheld.add(6);
        assert_eq!((withheld.len(), withheld.blocks()), (2, 1));
        withheld.committed();
        drop(before);
        assert_eq!(withheld.release(), [5]);
        assert!(!withheld.contains(5) && withheld.contains(6));
        drop(after);
        assert_eq!(withheld.release(), [6]);
        assert!(withheld.len() == 0 && !withheld.waits_for_requests());
    }
}

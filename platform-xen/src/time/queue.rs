//! Who is to be woken when: one entry a waker, found by deadline and by waker.

use alloc::collections::BTreeMap;
use core::task::Waker;

/// A waker's identity: what it wakes, and how.
type Key = (usize, usize);

fn key(waker: &Waker) -> Key {
    (waker.data().addr(), core::ptr::from_ref(waker.vtable()).addr())
}

/// The timers. Memory is bounded by the number of tasks that wait, not by how often they changed their mind.
pub(crate) struct Queue {
    by_deadline: BTreeMap<(u64, Key), Waker>,
    by_waker: BTreeMap<Key, u64>,
}

impl Queue {
    pub const fn new() -> Queue {
        Queue { by_deadline: BTreeMap::new(), by_waker: BTreeMap::new() }
    }

    pub fn is_empty(&self) -> bool {
        self.by_deadline.is_empty()
    }

    /// The earliest deadline.
    pub fn next(&self) -> Option<u64> {
        self.by_deadline.first_key_value().map(|((at, _), _)| *at)
    }

    /// Has `waker` come up at `at`, or at the earlier time that it waits for already.
    pub fn schedule(&mut self, at: u64, waker: &Waker) {
        let key = key(waker);
        if let Some(earlier) = self.by_waker.get(&key) {
            if *earlier <= at {
                return;
            }
            self.by_deadline.remove(&(*earlier, key));
        }
        self.by_waker.insert(key, at);
        self.by_deadline.insert((at, key), waker.clone());
    }

    /// Takes the earliest waker whose deadline is not after `now`.
    pub fn pop_due(&mut self, now: u64) -> Option<Waker> {
        let entry = self.by_deadline.first_entry().filter(|entry| entry.key().0 <= now)?;
        self.by_waker.remove(&entry.key().1);
        Some(entry.remove())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::task::Wake;

    struct Count;
    impl Wake for Count {
        fn wake(self: Arc<Self>) {}
    }

    #[test]
    fn wakers_come_in_order_of_deadline_once_each() {
        let tasks: Vec<Arc<Count>> = (0..3).map(|_| Arc::new(Count)).collect();
        let wakers: Vec<Waker> = tasks.iter().map(|task| Waker::from(task.clone())).collect();
        let mut queue = Queue::new();
        queue.schedule(30, &wakers[0]);
        queue.schedule(20, &wakers[1]);
        queue.schedule(20, &wakers[2]);
        queue.schedule(10, &wakers[0]);
        queue.schedule(40, &wakers[1]);
        assert_eq!(queue.next(), Some(10));
        assert!(queue.pop_due(9).is_none());
        assert!(queue.pop_due(25).unwrap().will_wake(&wakers[0]));
        let rest = [queue.pop_due(25).unwrap(), queue.pop_due(25).unwrap()];
        assert!(rest.iter().any(|waker| waker.will_wake(&wakers[1])));
        assert!(rest.iter().any(|waker| waker.will_wake(&wakers[2])));
        assert!(queue.is_empty() && queue.by_waker.is_empty());
    }
}

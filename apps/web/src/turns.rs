//! Turns at memory that is not enough for all at once.

use alloc::collections::VecDeque;
use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::task::{Poll, Waker};
use core::time::Duration;

/// So long a turn is kept while others wait: a client that reads slowly all the time delays them, and does not lock them
/// out.
const TURN: Duration = Duration::from_millis(500);

/// So many turns at once, given in the order in which they are asked for: what ends a turn and asks for another one comes
/// after all that wait, which a semaphore does not promise.
pub struct Turns {
    free: Cell<usize>,
    /// Who waits, by number.
    queue: RefCell<VecDeque<(u64, Waker)>>,
    next: Cell<u64>,
}

impl Turns {
    pub fn new(count: usize) -> Turns {
        Turns { free: Cell::new(count), queue: RefCell::default(), next: Cell::new(0) }
    }

    /// Waits for a turn.
    pub async fn wait(&self, now: impl Fn() -> Duration) -> Turn<'_> {
        let number = self.next.replace(self.next.get() + 1);
        let _leave = Leave(self, number);
        poll_fn(|cx| {
            let mut queue = self.queue.borrow_mut();
            let place = queue.iter().position(|(waiting, _)| *waiting == number);
            if self.free.get() > 0 && place.unwrap_or(queue.len()) == 0 {
                self.free.set(self.free.get() - 1);
                return Poll::Ready(());
            }
            match place {
                Some(place) if queue[place].1.will_wake(cx.waker()) => {}
                Some(place) => {
                    let displaced = core::mem::replace(&mut queue[place].1, cx.waker().clone());
                    // Dropped with nothing borrowed: a task may go with its last waker.
                    drop(queue);
                    drop(displaced);
                }
                None => queue.push_back((number, cx.waker().clone())),
            }
            Poll::Pending
        })
        .await;
        Turn { turns: self, since: now() }
    }

    /// Whoever is first looks again, where there is a turn to be had.
    fn wake(&self) {
        let first = self.queue.borrow().front().filter(|_| self.free.get() > 0).map(|(_, waker)| waker.clone());
        first.into_iter().for_each(Waker::wake);
    }
}

/// Who does not wait any more leaves the queue.
struct Leave<'a>(&'a Turns, u64);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        let Leave(turns, number) = self;
        let left = {
            let mut queue = turns.queue.borrow_mut();
            queue.iter().position(|(waiting, _)| waiting == number).and_then(|place| queue.remove(place))
        };
        drop(left);
        turns.wake();
    }
}

/// A turn, which ends when this is dropped.
pub struct Turn<'a> {
    turns: &'a Turns,
    since: Duration,
}

impl Turn<'_> {
    /// Whether others are to have theirs.
    pub fn is_over(&self, now: Duration) -> bool {
        now >= self.since + TURN && !self.turns.queue.borrow().is_empty()
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.turns.free.set(self.turns.free.get() + 1);
        self.turns.wake();
    }
}

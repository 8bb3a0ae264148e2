//! In which order tasks run, and when events and timers are looked at. No hardware.
//!
//! What holds, whatever tasks do, and whoever wakes them:
//! - A task that is woken runs after all that were ready then have run once. One that wakes itself without end has its
//!   turn among the others, not before them.
//! - Between two looks at events at most [`POLLS`] tasks are polled, and none twice. Timers are looked at with the events,
//!   after [`POLLS`] polls at the latest, and always before the processor sleeps.
//!
//! How long one poll takes is up to the task: the drivers' loops have budgets of their own.

use alloc::collections::VecDeque;
use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::task::{Context, Poll};

use async_task::Runnable;

/// Tasks that are polled, at most, between two looks at events and timers.
pub(crate) const POLLS: usize = 8;
/// Times in one poll that a task is served at once by what never runs dry; see [`RunQueue::poll_budget`].
const BUDGET: u32 = 64;

/// The tasks that are ready.
pub(crate) struct RunQueue {
    ready: RefCell<VecDeque<Runnable>>,
    /// Polls since timers were looked at.
    polls: Cell<usize>,
    /// What is left of the running task's [`BUDGET`].
    budget: Cell<u32>,
}

impl RunQueue {
    pub(crate) const fn new() -> RunQueue {
        RunQueue { ready: RefCell::new(VecDeque::new()), polls: Cell::new(0), budget: Cell::new(BUDGET) }
    }

    /// A task was woken.
    pub(crate) fn push(&self, runnable: Runnable) {
        self.ready.borrow_mut().push_back(runnable);
    }

    /// Polls tasks, and looks at events and timers. Returns how many tasks were polled, and whether there is nothing left
    /// to do.
    pub(crate) fn turn(&self, mut events: impl FnMut(), mut timers: impl FnMut()) -> (usize, bool) {
        // Those that become ready meanwhile have their turn after the look.
        let count = self.ready.borrow().len().min(POLLS);
        for _ in 0..count {
            // Not held while the task runs: it may spawn and wake.
            let Some(runnable) = self.ready.borrow_mut().pop_front() else { break };
            self.budget.set(BUDGET);
            runnable.run();
        }
        events();
        self.polls.set(self.polls.get() + count);
        if self.polls.get() >= POLLS || self.ready.borrow().is_empty() {
            self.polls.set(0);
            timers();
        }
        (count, self.ready.borrow().is_empty())
    }

    /// For what may always have something for its user, such as a console that somebody floods: ready a number of times
    /// in a poll of the running task, then pending, and the task is woken.
    pub(crate) fn poll_budget(&self, cx: &Context<'_>) -> Poll<()> {
        match self.budget.get().checked_sub(1) {
            Some(left) => {
                self.budget.set(left);
                Poll::Ready(())
            }
            None => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }
}

/// Lets other tasks run once.
///
/// # Cancellation
///
/// May be dropped at any time.
pub async fn yield_now() {
    let mut yielded = false;
    poll_fn(|cx| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Queue;
    use async_task::{Builder, Task};
    use std::future::Future;
    use std::rc::Rc;
    use std::task::Waker;

    /// A guest's loop, with a clock that goes on by one with each poll.
    struct Loop {
        queue: RunQueue,
        now: Cell<u64>,
        timers: RefCell<Queue>,
        /// Who waits for an event, and how often events were looked at.
        event: RefCell<Option<Waker>>,
        looks: Cell<u64>,
    }

    impl Loop {
        fn new() -> &'static Loop {
            Box::leak(Box::new(Loop {
                queue: RunQueue::new(),
                now: Cell::new(0),
                timers: RefCell::new(Queue::new()),
                event: RefCell::default(),
                looks: Cell::new(0),
            }))
        }

        fn spawn<T: 'static>(&'static self, future: impl Future<Output = T> + 'static) -> Task<T> {
            struct OneThread(&'static Loop);
            // SAFETY: each test has a loop of its own, and one thread.
            unsafe impl Send for OneThread {}
            // SAFETY: as above.
            unsafe impl Sync for OneThread {}
            let whole = OneThread(self);
            let schedule = move |runnable| {
                let OneThread(owner) = &whole;
                owner.queue.push(runnable);
            };
            // SAFETY: as above; future and output are 'static.
            let (runnable, task) = unsafe { Builder::new().spawn_unchecked(move |()| future, schedule) };
            runnable.schedule();
            task
        }

        fn turn(&self) -> (usize, bool) {
            self.queue.turn(
                || {
                    self.looks.set(self.looks.get() + 1);
                    self.event.take().into_iter().for_each(Waker::wake);
                },
                || {
                    while let Some(waker) = { self.timers.borrow_mut().pop_due(self.now.get()) } {
                        waker.wake();
                    }
                },
            )
        }

        /// Wakes itself for ever; `polls` are counted, and are what time goes on by.
        async fn spin(&self, polls: Rc<Cell<u64>>) {
            loop {
                polls.set(polls.get() + 1);
                self.now.set(self.now.get() + 1);
                yield_now().await;
            }
        }

        async fn sleep_until(&self, at: u64) {
            poll_fn(|cx| {
                if self.now.get() >= at {
                    return Poll::Ready(());
                }
                self.timers.borrow_mut().schedule(at, cx.waker());
                Poll::Pending
            })
            .await;
        }
    }

    #[test]
    fn a_task_that_wakes_itself_for_ever_starves_neither_timers_nor_events_nor_tasks() {
        for spinners in [1, 3, 8, 100] {
            let guest = Loop::new();
            let polls: Vec<Rc<Cell<u64>>> = (0..spinners).map(|_| Rc::default()).collect();
            for polls in &polls {
                guest.spawn(guest.spin(polls.clone())).detach();
            }
            let (late, timers) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
            let (worst, count) = (late.clone(), timers.clone());
            guest
                .spawn(async move {
                    for at in (100..).step_by(100) {
                        guest.sleep_until(at).await;
                        worst.set(u64::max(worst.get(), guest.now.get() - at));
                        count.set(count.get() + 1);
                    }
                })
                .detach();
            let events = Rc::new(Cell::new(0));
            let seen = events.clone();
            guest
                .spawn(async move {
                    loop {
                        let before = guest.now.get();
                        let mut waited = false;
                        poll_fn(|cx| {
                            if std::mem::replace(&mut waited, true) {
                                return Poll::Ready(());
                            }
                            *guest.event.borrow_mut() = Some(cx.waker().clone());
                            Poll::Pending
                        })
                        .await;
                        // After the look, and after those that were ready before.
                        assert!(guest.now.get() - before <= (POLLS + spinners + 2) as u64);
                        seen.set(seen.get() + 1);
                    }
                })
                .detach();
            while guest.now.get() < 20_000 {
                let (count, idle) = guest.turn();
                assert!(count <= POLLS && !idle);
            }
            assert!(timers.get() >= 198, "{} of 199 timers", timers.get());
            // A timer is seen after as many polls as there may be between two looks, and then all that are ready come first.
            assert!(
                late.get() <= (POLLS + spinners + 2) as u64,
                "{spinners}: a timer was late by {} polls",
                late.get()
            );
            assert!(events.get() > 20_000 / (POLLS + spinners + 2) as u64 / 2, "{} events", events.get());
            let (least, most) = polls
                .iter()
                .fold((u64::MAX, 0), |(least, most), polls| (least.min(polls.get()), most.max(polls.get())));
            assert!(most - least <= 1, "no task runs twice before another has: {least} to {most}");
        }
    }

    #[test]
    fn timers_are_looked_at_before_the_loop_sleeps() {
        let guest = Loop::new();
        guest.spawn(async { guest.sleep_until(5).await }).detach();
        assert_eq!(guest.turn(), (1, true));
        guest.now.set(5);
        assert_eq!(guest.turn(), (0, false), "the task is due");
        assert_eq!(guest.turn(), (1, true));
        assert!(guest.timers.borrow().is_empty());
    }

    #[test]
    fn what_never_runs_dry_is_given_in_pieces() {
        let guest = Loop::new();
        let taken = Rc::new(Cell::new(0_u32));
        let (counted, other) = (taken.clone(), Rc::<Cell<u64>>::default());
        guest
            .spawn(async move {
                loop {
                    poll_fn(|cx| guest.queue.poll_budget(cx)).await;
                    counted.set(counted.get() + 1);
                }
            })
            .detach();
        guest.spawn(guest.spin(other.clone())).detach();
        for turn in 1..100 {
            guest.turn();
            assert_eq!((taken.get(), other.get()), (turn * BUDGET, u64::from(turn)));
        }
    }
}

//! One core, one run queue. Tasks are `async-task`'s; what is ours is the queue, and how to sleep.

mod run_queue;

use alloc::rc::Rc;
use core::cell::{Cell, RefCell};
use core::future::{Future, poll_fn};
use core::task::{Poll, Waker};

use async_task::{Builder, Runnable, Task};

use crate::cell::OneCore;
use crate::{counters, events, shared_info, time, traps};
use run_queue::RunQueue;
pub use run_queue::yield_now;

static QUEUE: OneCore<RunQueue> = OneCore::new(RunQueue::new());

fn schedule(runnable: Runnable) {
    QUEUE.push(runnable);
}

/// Starts a task. Dropping what is returned cancels it; [`Task::detach`] lets it run on by itself; awaiting it waits
/// for its output.
///
/// # Cancellation
///
/// A cancelled task's future is dropped when it would run next.
pub fn spawn<T: 'static>(future: impl Future<Output = T> + 'static) -> Task<T> {
    // SAFETY: a future that is not `Send`, and a waker that is: but there is only one core, and nothing wakes from the
    // interrupt handler. Future and output are 'static; `schedule` is Send, Sync and 'static.
    let (runnable, task) = unsafe { Builder::new().spawn_unchecked(move |()| future, schedule) };
    runnable.schedule();
    task
}

/// Runs tasks until the domain ends. Called by the runtime, once.
pub(crate) fn run() -> ! {
    loop {
        let (polls, idle) = QUEUE.turn(events::dispatch, time::expire);
        counters::POLLS.add(polls as u64);
        if idle {
            time::arm();
            sleep();
        }
    }
}

/// Gives the processor back until something happens.
fn sleep() {
    if shared_info::upcall_is_due() {
        return;
    }
    counters::SLEEPS.add_one();
    traps::sleep();
}

/// Lets other tasks run, where the one that asks has been served at once too often; see [`RunQueue::poll_budget`].
pub(crate) async fn budget() {
    poll_fn(|cx| QUEUE.poll_budget(cx)).await;
}

/// A flag that one task waits for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Signal(Rc<SignalState>);

#[derive(Debug, Default)]
struct SignalState {
    raised: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Signal {
    /// Raises the flag and wakes who waits for it.
    pub(crate) fn raise(&self) {
        self.0.raised.set(true);
        let waker = self.0.waker.borrow_mut().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Waits for the flag and lowers it.
    pub(crate) async fn wait(&self) {
        poll_fn(|cx| {
            if self.0.raised.replace(false) {
                return Poll::Ready(());
            }
            *self.0.waker.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

#[cfg(feature = "guest")]
mod critical {
    use critical_section::{Impl, RawRestoreState, set_impl};
    use x86_64::instructions::interrupts;

    struct OneCore;
    set_impl!(OneCore);

    // SAFETY: with interrupts off nothing else runs on the only core.
    unsafe impl Impl for OneCore {
        unsafe fn acquire() -> RawRestoreState {
            let enabled = interrupts::are_enabled();
            interrupts::disable();
            enabled
        }

        unsafe fn release(enabled: RawRestoreState) {
            if enabled {
                interrupts::enable();
            }
        }
    }
}

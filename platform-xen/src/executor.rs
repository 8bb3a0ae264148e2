//! One core, one run queue. Tasks are `async-task`'s; what is ours is the queue, and how to sleep.

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use core::cell::{Cell, RefCell};
use core::future::{Future, poll_fn};
use core::task::{Poll, Waker};

use async_task::{Builder, Runnable, Task};

use crate::cell::Global;
use crate::{counters, events, shared_info, time, traps};

/// How many tasks are polled before events and timers are looked at again.
const BATCH: usize = 64;

static READY: Global<VecDeque<Runnable>> = Global::new(VecDeque::new());

fn schedule(runnable: Runnable) {
    READY.get().push_back(runnable);
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
        for _ in 0..BATCH {
            // Not held while the task runs: it may spawn and wake.
            let Some(runnable) = READY.get().pop_front() else { break };
            counters::POLLS.add_one();
            runnable.run();
        }
        events::dispatch();
        time::expire();
        if READY.get().is_empty() {
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

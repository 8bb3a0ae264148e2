//! How both halves of a channel wait for its one event channel.

use alloc::sync::Arc;
use alloc::task::Wake;
use core::cell::Cell;
use core::task::{Context, Poll, Waker};

use futures_util::task::AtomicWaker;
use xen_hal::{Port, PortNumber, Xen};

use crate::link::Link;

/// One half, which sleeps by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Half {
    Read,
    Write,
}

impl Half {
    fn other(self) -> Half {
        match self {
            Half::Read => Half::Write,
            Half::Write => Half::Read,
        }
    }
}

/// The tasks of both halves. A port has one waiter: it is given a waker that wakes both.
pub(crate) struct Sleepers {
    wakers: Arc<Wakers>,
    both: Waker,
    /// An event that the other half has taken, by half.
    events: [Cell<bool>; 2],
}

#[derive(Default)]
struct Wakers([AtomicWaker; 2]);

impl Wake for Wakers {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.iter().for_each(AtomicWaker::wake);
    }
}

impl Default for Sleepers {
    fn default() -> Self {
        let wakers = Arc::<Wakers>::default();
        Sleepers { both: Waker::from(wakers.clone()), wakers, events: Default::default() }
    }
}

impl Sleepers {
    /// Has both halves look around.
    pub(crate) fn wake_both(&self) {
        self.events.iter().for_each(|event| event.set(true));
        self.both.wake_by_ref();
    }

    fn poll(&self, half: Half, port: &impl Port, cx: &mut Context<'_>) -> Poll<()> {
        self.wakers.0[half as usize].register(cx.waker());
        if port.poll_wait(&mut Context::from_waker(&self.both)).is_ready() {
            self.events[half.other() as usize].set(true);
            self.wakers.0[half.other() as usize].wake();
            self.events[half as usize].set(false);
            return Poll::Ready(());
        }
        if self.events[half as usize].take() { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// The channel's port, as one half has it: each event is for both.
struct HalfPort<'a, X: Xen>(&'a Link<X>, Half);

impl<X: Xen> Port for HalfPort<'_, X> {
    fn number(&self) -> PortNumber {
        self.0.port.number()
    }

    fn notify(&self) {
        self.0.port.notify();
    }

    fn is_bound(&self) -> bool {
        self.0.port.is_bound()
    }

    fn is_current(&self) -> bool {
        self.0.port.is_current()
    }

    fn poll_wait(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.sleepers.poll(self.1, &self.0.port, cx)
    }
}

/// Whether the peer has woken a half for nothing, which is known at its next look.
#[derive(Default)]
pub(crate) struct Woken(Option<u64>);

impl<X: Xen> Link<X> {
    /// Sleeps until the peer may have done something. `woken` says how it was the last time: an event for which neither
    /// half has found work is a spurious one.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time.
    pub(crate) async fn sleep(&self, half: Half, woken: &mut Woken) {
        if woken.0.take() == Some(self.moves.get()) {
            let mut throttle = self.throttle.get();
            throttle.record_spurious();
            self.throttle.set(throttle);
        }
        let (throttle, moves) = (self.throttle.get(), self.moves.get());
        let port = HalfPort(self, half);
        let wake = throttle.wait(&self.xen, &[&port], Some(self.next_check()), |_| Poll::Pending).await;
        if wake.is_event() {
            woken.0 = Some(moves);
        }
        self.check_peer();
    }
}

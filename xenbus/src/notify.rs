//! How tasks of one domain wake each other.

use core::cell::{Cell, RefCell};
use core::task::{Context, Poll, Waker};

/// The one task that waits, if it does; one that begins to wait takes another's place.
#[derive(Debug, Default)]
pub struct WakerSlot(RefCell<Option<Waker>>);

impl WakerSlot {
    /// Whom to wake.
    #[inline]
    pub fn register(&self, waker: &Waker) {
        let mut slot = self.0.borrow_mut();
        if slot.as_ref().is_some_and(|known| known.will_wake(waker)) {
            return;
        }
        let displaced = slot.replace(waker.clone());
        drop(slot);
        // With nothing borrowed: a task that goes with its last waker may use the slot.
        drop(displaced);
    }

    /// Wakes it. It has to register again.
    #[inline]
    pub fn wake(&self) {
        let waker = self.0.borrow_mut().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Tells one task that there is something to look at. Notifications do not count: any number of them before a look are
/// one.
///
/// # Examples
///
/// ```
/// use core::task::{Context, Waker};
/// use xenbus::Notify;
///
/// let notify = Notify::default();
/// let mut cx = Context::from_waker(Waker::noop());
/// assert!(notify.poll_notified(&mut cx).is_pending());
/// notify.notify();
/// notify.notify();
/// assert!(notify.poll_notified(&mut cx).is_ready());
/// assert!(notify.poll_notified(&mut cx).is_pending(), "two notifications are one");
/// ```
#[derive(Debug, Default)]
pub struct Notify {
    notified: Cell<bool>,
    waker: WakerSlot,
}

impl Notify {
    /// Has the task look around.
    #[inline]
    pub fn notify(&self) {
        if !self.notified.replace(true) {
            self.waker.wake();
        }
    }

    /// Takes the notification since the last look, or arranges for the task to be woken by the next one.
    #[inline]
    pub fn poll_notified(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.notified.replace(false) {
            return Poll::Ready(());
        }
        self.waker.register(cx.waker());
        Poll::Pending
    }

    /// The task is about to look at everything.
    #[inline]
    pub fn clear(&self) {
        self.notified.set(false);
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use alloc::sync::Arc;
    use alloc::task::Wake;
    use core::sync::atomic::{AtomicUsize, Ordering};

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_notification_is_never_lost_and_wakes_once() {
        let (notify, woken) = (Notify::default(), Arc::<Woken>::default());
        let waker = Waker::from(woken.clone());
        let mut cx = Context::from_waker(&waker);
        notify.notify();
        assert!(notify.poll_notified(&mut cx).is_ready());
        assert!(notify.poll_notified(&mut cx).is_pending());
        notify.notify();
        notify.notify();
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        assert!(notify.poll_notified(&mut cx).is_ready());
        notify.notify();
        notify.clear();
        assert!(notify.poll_notified(&mut cx).is_pending());
        notify.notify();
        assert_eq!(woken.0.load(Ordering::Relaxed), 2);
    }

    std::thread_local! {
        static SLOT: WakerSlot = const { WakerSlot(RefCell::new(None)) };
    }

    /// A task that ends with its last waker, and uses the same slot then.
    struct Uses;

    impl Wake for Uses {
        fn wake(self: Arc<Self>) {}
    }

    impl Drop for Uses {
        fn drop(&mut self) {
            SLOT.with(WakerSlot::wake);
        }
    }

    #[test]
    fn what_goes_with_a_waker_may_use_the_slot() {
        SLOT.with(|slot| {
            slot.register(&Waker::from(Arc::new(Uses)));
            slot.register(&Waker::from(Arc::new(Uses)));
            slot.register(Waker::noop());
            slot.wake();
        });
    }
}

//! What a device's users and its driver have in common, whatever its class.

use alloc::rc::Rc;
use core::cell::Cell;
use core::fmt;
use core::ops::Deref;

use xen_ring::WaitQueue;

use crate::notify::Notify;

/// How a device stands, for those who use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// No other end serves it yet, or again.
    Waiting,
    /// In use.
    Up,
    /// It was removed, or its other end has failed; one that begins anew can bring it back.
    Gone,
}

/// Statistics, counted from wherever there is something to count.
#[derive(Default)]
pub struct Counters<S>(Cell<S>);

impl<S: Copy> Counters<S> {
    /// Counts something.
    #[inline]
    pub fn count(&self, change: impl FnOnce(&mut S)) {
        let mut statistics = self.0.get();
        change(&mut statistics);
        self.0.set(statistics);
    }

    /// As they are now.
    #[inline]
    pub fn get(&self) -> S {
        self.0.get()
    }
}

/// How many use a device, and how they tell the driver that there is something to look at: their last one's end, too.
#[derive(Debug, Default)]
pub struct Users {
    count: Cell<usize>,
    notify: Notify,
}

impl Users {
    /// Whether the device has no users: the driver ends then.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.count.get() == 0
    }

    /// Notifies the driver, and waits for notifications in it.
    #[inline]
    pub fn notify(&self) -> &Notify {
        &self.notify
    }

    /// For the driver: waits until the device has no users.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time.
    pub async fn gone(&self) {
        core::future::poll_fn(|cx| {
            if self.is_empty() {
                return core::task::Poll::Ready(());
            }
            while self.notify.poll_notified(cx).is_ready() {}
            core::task::Poll::Pending
        })
        .await;
    }
}

/// What users and driver share, of which this is the part that is the same in all classes: phase, information `I` on the
/// device, statistics `S`, and who waits for a change of either.
///
/// # Examples
///
/// ```
/// use std::rc::Rc;
/// use xenbus::{Handle, Phase, Status, Users};
///
/// /// What a device's users and its driver share.
/// struct Shared {
///     status: Status<u64, u32>,
/// }
///
/// impl AsRef<Users> for Shared {
///     fn as_ref(&self) -> &Users {
///         self.status.users()
///     }
/// }
///
/// let shared = Rc::new(Shared { status: Status::new(0) });
/// let handle = Handle::new(shared.clone());
/// shared.status.set_info(1024);
/// shared.status.set_phase(Phase::Up);
///
/// let xen = xen_sim::Xen::new(1);
/// let user = handle.clone();
/// assert_eq!(xen.run(async move { user.status.ready().await }), Some(1024));
/// drop(handle);
/// assert!(shared.status.users().is_empty(), "the driver ends");
/// ```
pub struct Status<I, S> {
    phase: Cell<Phase>,
    info: Cell<I>,
    statistics: Counters<S>,
    users: Users,
    changes: WaitQueue,
}

impl<I: Copy, S: Copy + Default> Status<I, S> {
    /// A device that waits for its other end; `info` stands until that says more.
    pub fn new(info: I) -> Status<I, S> {
        Status {
            phase: Cell::new(Phase::Waiting),
            info: Cell::new(info),
            statistics: Counters::default(),
            users: Users::default(),
            changes: WaitQueue::new(),
        }
    }

    /// How it stands.
    #[inline]
    pub fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// What is known of it.
    #[inline]
    pub fn info(&self) -> I {
        self.info.get()
    }

    /// Sets the phase, and tells who waits for a change.
    pub fn set_phase(&self, phase: Phase) {
        self.phase.set(phase);
        self.changes.wake_all();
    }

    /// Sets what is known, and tells who waits for a change.
    pub fn set_info(&self, info: I) {
        self.info.set(info);
        self.changes.wake_all();
    }

    /// Statistics.
    #[inline]
    pub fn statistics(&self) -> &Counters<S> {
        &self.statistics
    }

    /// Counts something.
    #[inline]
    pub fn count(&self, change: impl FnOnce(&mut S)) {
        self.statistics.count(change);
    }

    /// Who uses it.
    #[inline]
    pub fn users(&self) -> &Users {
        &self.users
    }

    /// Has the driver look around.
    #[inline]
    pub fn notify(&self) {
        self.users.notify.notify();
    }

    /// Waits until `done` gives something, which it may whenever phase or information change.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time.
    pub async fn changed<T>(&self, done: impl Fn() -> Option<T>) -> T {
        self.changes.wait_until(done).await
    }

    /// Waits until the device can be used, and says what is known of it; `None` where it is gone.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time.
    pub async fn ready(&self) -> Option<I> {
        self.changed(|| match self.phase() {
            Phase::Waiting => None,
            Phase::Up => Some(Some(self.info())),
            Phase::Gone => Some(None),
        })
        .await
    }
}

/// What a device's users hold: clones count, and the driver is told when the last one is dropped.
pub struct Handle<T: AsRef<Users>>(Rc<T>);

impl<T: AsRef<Users>> Handle<T> {
    /// One user more.
    pub fn new(shared: Rc<T>) -> Handle<T> {
        let count = &(*shared).as_ref().count;
        count.set(count.get() + 1);
        Handle(shared)
    }

    /// What is shared, not counted as a user.
    pub fn shared(&self) -> &Rc<T> {
        &self.0
    }
}

impl<T: AsRef<Users>> Clone for Handle<T> {
    fn clone(&self) -> Self {
        Handle::new(self.0.clone())
    }
}

impl<T: AsRef<Users>> Drop for Handle<T> {
    fn drop(&mut self) {
        let users = (*self.0).as_ref();
        users.count.set(users.count.get() - 1);
        if users.is_empty() {
            users.notify.notify();
        }
    }
}

impl<T: AsRef<Users>> Deref for Handle<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: AsRef<Users>> fmt::Debug for Handle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Handle").field(&(*self.0).as_ref().count.get()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::task::{Context, Waker};

    struct Shared(Status<u32, u32>);

    impl AsRef<Users> for Shared {
        fn as_ref(&self) -> &Users {
            self.0.users()
        }
    }

    #[test]
    fn the_last_user_tells_the_driver() {
        let shared = Rc::new(Shared(Status::new(7)));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(shared.0.users().is_empty());
        let first = Handle::new(shared.clone());
        let second = first.clone();
        drop(first);
        assert!(!shared.0.users().is_empty());
        assert!(shared.0.users().notify().poll_notified(&mut cx).is_pending());
        drop(second);
        assert!(shared.0.users().is_empty());
        assert!(shared.0.users().notify().poll_notified(&mut cx).is_ready());
    }
}

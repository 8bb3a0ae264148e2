//! Global state on one core.

use core::cell::{RefCell, RefMut};
use core::ops::Deref;

/// A global that code outside interrupt handlers uses.
///
/// A guest has one virtual CPU and takes interrupts only while it sleeps in the idle loop, and the one interrupt
/// handler there is touches no global of this type. So nothing can come between a borrow and its end but the borrower
/// itself, which the `RefCell` watches.
pub(crate) struct Global<T>(RefCell<T>);

// SAFETY: see above: there is no second thread of execution.
unsafe impl<T> Sync for Global<T> {}

impl<T> Global<T> {
    pub(crate) const fn new(value: T) -> Self {
        Global(RefCell::new(value))
    }

    /// Borrows the value until the end of the expression or block.
    #[track_caller]
    pub(crate) fn get(&self) -> RefMut<'_, T> {
        self.0.borrow_mut()
    }

    /// The value, whoever has borrowed it: for a domain's last words, which come in the middle of anything.
    ///
    /// # Safety
    ///
    /// No code that holds a borrow ever runs again.
    #[allow(clippy::mut_from_ref, reason = "the caller is the last user")]
    pub(crate) unsafe fn seize(&self) -> &mut T {
        // SAFETY: the caller's promise: nothing else uses the value from here on.
        unsafe { &mut *self.0.as_ptr() }
    }
}

/// A global that watches over its borrows itself, such as a queue with a `RefCell` in it.
pub(crate) struct OneCore<T>(T);

// SAFETY: as for `Global`: there is no second thread of execution.
unsafe impl<T> Sync for OneCore<T> {}

impl<T> OneCore<T> {
    pub(crate) const fn new(value: T) -> Self {
        OneCore(value)
    }
}

impl<T> Deref for OneCore<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

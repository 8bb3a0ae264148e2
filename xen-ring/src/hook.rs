//! For simulations of a domain's peers: each access to shared memory is reported before its reader goes on.
//!
//! On a real machine a peer has processors of its own, which change a word between any two instructions here. A simulation
//! in one thread has them run from this hook.

use alloc::rc::Rc;
use core::cell::RefCell;

std::thread_local! {
    static HOOK: RefCell<Option<Hook>> = const { RefCell::new(None) };
}

/// What is called after each access.
pub type Hook = Rc<dyn Fn(Access)>;

/// An access to shared memory that has just been made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Where the bytes are in this process.
    pub address: usize,
    /// How many there are.
    pub len: usize,
    /// Whether they were written.
    pub write: bool,
}

/// Has `hook` called after each access of this thread, or nothing. Returns what was called before.
///
/// While the hook runs, its own accesses are not reported.
pub fn set(hook: Option<Hook>) -> Option<Hook> {
    HOOK.replace(hook)
}

pub(crate) fn accessed(address: usize, len: usize, write: bool) {
    let Some(hook) = HOOK.take() else { return };
    hook(Access { address, len, write });
    HOOK.set(Some(hook));
}

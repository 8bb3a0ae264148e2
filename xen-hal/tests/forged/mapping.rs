//! A mapping of pages that are at no address.

use core::ptr::NonNull;

use xen_hal::{GrantStatus, Mapping};

struct Forged;

// SAFETY: never run.
unsafe impl Mapping for Forged {
    fn len(&self) -> usize {
        1 << 20
    }

    fn page(&self, _index: usize) -> Result<NonNull<u8>, GrantStatus> {
        Ok(NonNull::dangling())
    }

    fn is_writable(&self) -> bool {
        true
    }
}

fn main() {
    fn mapping(_: impl Mapping) {}
    mapping(Forged);
}

//! A page that is at no address.

use core::ptr::NonNull;

use xen_hal::{Frame, Page};

struct Forged;

// SAFETY: never run.
unsafe impl Page for Forged {
    fn as_ptr(&self) -> NonNull<u8> {
        NonNull::dangling()
    }

    fn frame(&self) -> Frame {
        Frame(0)
    }
}

fn main() {
    fn page(_: impl Page) {}
    page(Forged);
}

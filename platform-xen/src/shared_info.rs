//! The page that Xen shares with the domain: pending events, clocks. Its writers are the hypervisor and this domain.

use core::sync::atomic::{AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering};

use xen_hal::Errno;

use crate::abi::{self, shared};
use crate::{hypercall, memory::address_space};

/// The page. A symbol of its own, as the upcall's stub reads it.
pub(crate) static PAGE: AtomicPtr<u8> = AtomicPtr::new(core::ptr::null_mut());

/// Has Xen put the page into the address space: at start, and again after a resume, when it is a new one.
pub(crate) fn map() -> Result<(), Errno> {
    let frame = address_space::shared_info_frame();
    // SAFETY: the address space keeps this frame for the page, and there is no RAM.
    unsafe { hypercall::add_to_physmap(abi::XENMAPSPACE_SHARED_INFO, 0, frame.0) }?;
    PAGE.store((frame.0 << 12) as *mut u8, Ordering::Relaxed);
    Ok(())
}

/// Whether the page is there yet.
pub(crate) fn is_mapped() -> bool {
    !PAGE.load(Ordering::Relaxed).is_null()
}

macro_rules! field {
    ($name:ident, $atomic:ty) => {
        /// A field by its offset, always accessed as an atomic.
        pub(crate) fn $name(offset: usize) -> &'static $atomic {
            let page = PAGE.load(Ordering::Relaxed);
            assert!(!page.is_null() && offset + size_of::<$atomic>() <= 4096 && offset % align_of::<$atomic>() == 0);
            // SAFETY: within the mapped page, aligned, and an atomic as the hypervisor writes it too.
            unsafe { &*page.add(offset).cast::<$atomic>() }
        }
    };
}

field!(byte, AtomicU8);
field!(word, AtomicU32);
field!(quad, AtomicU64);

/// Takes back an upcall that has become needless: its events are about to be looked at.
pub(crate) fn clear_upcall() {
    let flag = byte(shared::UPCALL_PENDING);
    if flag.load(Ordering::SeqCst) != 0 {
        flag.store(0, Ordering::SeqCst);
    }
}

/// Whether an upcall is due, without taking it.
pub(crate) fn upcall_is_due() -> bool {
    byte(shared::UPCALL_PENDING).load(Ordering::SeqCst) != 0
}

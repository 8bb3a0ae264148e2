//! The heap: talc, which takes pages as it needs them.

use core::alloc::Layout;

use talc::DefaultBinning;
use talc::base::Talc;
use talc::base::binning::Binning;
use talc::source::Source;
use talc::sync::TalcLock;
use xen_hal::PAGE_SIZE;

use super::pages::{allocate_run, memory};

#[global_allocator]
static HEAP: TalcLock<OneCore, FromPages, DefaultBinning> = TalcLock::new(FromPages);

/// How many allocations there have been.
pub(crate) fn allocations() -> u64 {
    HEAP.lock().counters().total_allocation_count
}

/// A lock without contention: see [`Global`](crate::cell::Global).
struct OneCore;

// SAFETY: one core, and the interrupt handler allocates nothing.
unsafe impl lock_api::RawMutex for OneCore {
    #[allow(clippy::declare_interior_mutable_const, reason = "the trait's way to make one")]
    const INIT: Self = OneCore;
    type GuardMarker = lock_api::GuardNoSend;

    fn lock(&self) {}

    fn try_lock(&self) -> bool {
        true
    }

    unsafe fn unlock(&self) {}
}

/// Where the heap gets its memory.
#[derive(Debug)]
struct FromPages;

// SAFETY: takes pages from the page allocator, which uses no heap.
unsafe impl Source for FromPages {
    fn acquire<B: Binning>(talc: &mut Talc<Self, B>, layout: Layout) -> Result<(), ()> {
        // Room for the allocation wherever it comes to lie, and for talc's own first bookkeeping.
        let least = (layout.size() + layout.align() + PAGE_SIZE).div_ceil(PAGE_SIZE);
        // An eighth of what is free, up to 1 MiB: few steps in a large domain, little waste in a small one.
        let wish = (memory().free as usize / PAGE_SIZE / 8).min(256);
        let (start, count) = match allocate_run(least.max(wish)) {
            Some(start) => (start, least.max(wish)),
            None => (allocate_run(least).ok_or(())?, least),
        };
        // SAFETY: the pages were just taken, and are not given back.
        unsafe { talc.claim(start.as_ptr(), count * PAGE_SIZE) }.map(drop).ok_or(())
    }
}

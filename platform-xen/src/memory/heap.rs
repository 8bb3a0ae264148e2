//! The heap: large allocations are pages of their own, talc has the small ones in pages that it takes as it needs them.
//! What is free goes back to the page allocator.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::NonNull;

use talc::DefaultBinning;
use talc::base::Talc;
use talc::base::binning::Binning;
use talc::source::Source;
use talc::sync::TalcLock;
use xen_hal::PAGE_SIZE;

use super::pages::{allocate_at, allocate_run, free_run, memory};
use crate::counters::Counter;

#[global_allocator]
static HEAP: Heap = Heap { small: TalcLock::new(FromPages) };

/// From this size on an allocation has pages of its own, of which at most an eighth is waste.
const LARGE: usize = 8 * PAGE_SIZE;
/// What talc's heaps keep at their end, once more than twice that is free there.
const KEPT: usize = 8 * PAGE_SIZE;

static LARGE_ALLOCATIONS: Counter = Counter::new();

/// How many allocations there have been.
pub(crate) fn allocations() -> u64 {
    HEAP.small.lock().counters().total_allocation_count + LARGE_ALLOCATIONS.get()
}

struct Heap {
    small: TalcLock<OneCore, FromPages, DefaultBinning>,
}

fn is_large(layout: Layout) -> bool {
    layout.size() >= LARGE && layout.align() <= PAGE_SIZE
}

// SAFETY: an allocation is talc's, or pages that are taken for it alone; which of the two follows from its layout.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if is_large(layout) {
            LARGE_ALLOCATIONS.add_one();
            return allocate_run(layout.size().div_ceil(PAGE_SIZE)).map_or(core::ptr::null_mut(), NonNull::as_ptr);
        }
        // SAFETY: the caller's.
        unsafe { self.small.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        match is_large(layout) {
            // SAFETY: the pages were taken for this allocation, which the caller gives up.
            true => unsafe { free_run(at.addr(), layout.size().div_ceil(PAGE_SIZE)) },
            // SAFETY: the caller's.
            false => unsafe { self.small.dealloc(at, layout) },
        }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller vouches for the size.
        let new = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        match (is_large(layout), is_large(new)) {
            // SAFETY: the caller's.
            (false, false) => return unsafe { self.small.realloc(at, layout, size) },
            (true, true) => {
                let (before, after) = (layout.size().div_ceil(PAGE_SIZE), size.div_ceil(PAGE_SIZE));
                if after <= before {
                    // SAFETY: the allocation's own pages, beyond its new end.
                    unsafe { free_run(at.addr() + after * PAGE_SIZE, before - after) };
                    return at;
                }
                // Where the next pages are free it grows where it is. Memory is mapped one to one, and pointers into it
                // are made from numbers.
                if allocate_at(at.addr() + before * PAGE_SIZE, after - before) {
                    return core::ptr::with_exposed_provenance_mut(at.expose_provenance());
                }
            }
            _ => {}
        }
        // SAFETY: as `GlobalAlloc::realloc` does it: a new allocation of which the old one's bytes are the first.
        unsafe {
            let moved = self.alloc(new);
            if !moved.is_null() {
                moved.copy_from_nonoverlapping(at, layout.size().min(size));
                self.dealloc(at, layout);
            }
            moved
        }
    }
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

/// Where talc gets its memory.
#[derive(Debug)]
struct FromPages;

// SAFETY: takes pages from the page allocator, which uses no heap.
unsafe impl Source for FromPages {
    fn acquire<B: Binning>(talc: &mut Talc<Self, B>, layout: Layout) -> Result<(), ()> {
        // Room for the allocation wherever it comes to lie, and for talc's own first bookkeeping.
        let least = (layout.size() + layout.align() + PAGE_SIZE).div_ceil(PAGE_SIZE);
        // An eighth of what is free, up to 1 MiB: few steps in a large domain, little waste in a small one.
        let wish = (memory().free as usize / PAGE_SIZE / 8).min(256);
        let (start, count) = match (wish > least).then(|| allocate_run(wish)).flatten() {
            Some(start) => (start, wish),
            None => (allocate_run(least).ok_or(())?, least),
        };
        // SAFETY: the pages were just taken, and are not used before `resize` gives them back.
        unsafe { talc.claim(start.as_ptr(), count * PAGE_SIZE) }.map(drop).ok_or(())
    }

    const TRACK_HEAP_END: bool = true;

    // A heap is whole pages, so its end is a page's, and its base lies in its first page.
    unsafe fn resize(&mut self, chunk_base: *mut u8, heap_end: *mut u8, is_heap_base: bool) -> *mut u8 {
        let (end, used) = (heap_end.addr(), chunk_base.addr());
        let (keep, result) = match is_heap_base {
            // Nothing is left in it.
            true => (used / PAGE_SIZE * PAGE_SIZE, chunk_base),
            false if end - used > 2 * KEPT => {
                let keep = used.next_multiple_of(PAGE_SIZE) + KEPT;
                (keep, chunk_base.wrapping_add(keep - used))
            }
            false => return heap_end,
        };
        // SAFETY: pages that `acquire` has taken, of which talc uses nothing from here on.
        unsafe { free_run(keep, (end - keep) / PAGE_SIZE) };
        result
    }
}

//! The owner of all RAM: whole pages, from which the heap takes its share.

use core::ops::Range;
use core::ptr::NonNull;

use xen_hal::{Frame, OutOfPages, PAGE_SIZE, Page, Pages};

use super::bitmap::Bitmap;
use super::map::MemoryMap;
use crate::cell::Global;

static FREE: Global<Option<State>> = Global::new(None);

struct State {
    frames: Bitmap<'static>,
    ram: u64,
    least_free: usize,
}

/// Takes over the RAM in `map` but for `reserved`, which are addresses.
///
/// # Safety
///
/// Called once, while all RAM in `map` below 4 GiB is mapped writable, and nothing uses it but what is `reserved`.
pub(crate) unsafe fn init(map: &MemoryMap, reserved: &[Range<u64>]) {
    // The allocator's own bits lie in the first free RAM that is large enough for them.
    let words = (map.ram_end() / 4096).div_ceil(64) as usize;
    let own_frames = (words * 8).div_ceil(4096) as u64;
    let own = map
        .free_frames(reserved)
        .find(|range| range.end - range.start >= own_frames && range.start + own_frames <= 1 << 20)
        .expect("out of memory: no room for the page allocator")
        .start;
    let start = core::ptr::with_exposed_provenance_mut::<u64>((own * 4096) as usize);
    // SAFETY: free RAM, by the caller's word; from here on it belongs to the bitmap.
    let mut frames = unsafe {
        start.write_bytes(0, words);
        Bitmap::new(core::slice::from_raw_parts_mut(start, words))
    };
    for range in map.free_frames(reserved) {
        let range = if range.start == own { range.start + own_frames..range.end } else { range };
        frames.give(range.start as usize, (range.end - range.start) as usize);
    }
    let least_free = frames.free_count();
    *FREE.get() = Some(State { frames, ram: map.ram_size(), least_free });
}

/// Takes `count` pages in a row; they hold whatever they held.
pub(crate) fn allocate_run(count: usize) -> Option<NonNull<u8>> {
    let mut state = FREE.get();
    let state = state.as_mut()?;
    let start = state.frames.take_run(count)?;
    state.least_free = state.least_free.min(state.frames.free_count());
    NonNull::new(core::ptr::with_exposed_provenance_mut(start * PAGE_SIZE))
}

fn free(frame: u64) {
    if let Some(state) = FREE.get().as_mut() {
        state.frames.give(frame as usize, 1);
    }
}

/// How much memory there is, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryInfo {
    /// All RAM in the memory map that the toolstack made.
    pub total: u64,
    /// Free pages: used by neither the heap nor a grant.
    pub free: u64,
    /// The smallest that `free` ever was.
    pub least_free: u64,
}

/// How much memory there is.
pub fn memory() -> MemoryInfo {
    FREE.get().as_ref().map_or(MemoryInfo { total: 0, free: 0, least_free: 0 }, |state| MemoryInfo {
        total: state.ram,
        free: (state.frames.free_count() * PAGE_SIZE) as u64,
        least_free: (state.least_free * PAGE_SIZE) as u64,
    })
}

/// The domain's page allocator.
#[derive(Clone, Copy, Debug, Default)]
pub struct RamPages;

impl Pages for RamPages {
    type Page = RamPage;

    fn alloc_page(&self) -> Result<RamPage, OutOfPages> {
        let page = allocate_run(1).ok_or(OutOfPages)?;
        // SAFETY: the page was just taken, and has no other owner.
        unsafe { page.write_bytes(0, PAGE_SIZE) };
        Ok(RamPage { start: page })
    }

    fn alloc_run(&self, count: usize, take: &mut dyn FnMut(RamPage)) -> Result<(), OutOfPages> {
        if count == 0 {
            return Ok(());
        }
        let start = allocate_run(count).ok_or(OutOfPages)?;
        // SAFETY: the pages were just taken, and have no other owner.
        unsafe { start.write_bytes(0, count * PAGE_SIZE) };
        for index in 0..count {
            // SAFETY: within what was just taken.
            take(RamPage { start: unsafe { start.add(index * PAGE_SIZE) } });
        }
        Ok(())
    }
}

/// A page of RAM; dropping it frees it.
#[derive(Debug)]
pub struct RamPage {
    start: NonNull<u8>,
}

// SAFETY: the page belongs to this value alone until it is dropped, and memory is mapped one to one. Its address is built
// from a number, so it may be used for the pages beside it.
unsafe impl Page for RamPage {
    fn as_ptr(&self) -> NonNull<u8> {
        self.start
    }

    fn frame(&self) -> Frame {
        Frame((self.start.addr().get() / PAGE_SIZE) as u64)
    }
}

impl Drop for RamPage {
    fn drop(&mut self) {
        free(self.frame().0);
    }
}

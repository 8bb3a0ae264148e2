//! The owner of all RAM: whole pages, from which the heap takes its share.

use core::ops::Range;
use core::ptr::NonNull;

use xen_hal::{Errno, Frame, OutOfPages, PAGE_SIZE, Page, Pages, Reservation, ReservationSize};

use super::map::MemoryMap;
use super::ram::{BATCH, Ram};
use crate::cell::Global;
use crate::hypercall;

static RAM: Global<Option<Ram<'static>>> = Global::new(None);

/// What of the memory map the toolstack may have populated but for this: its special pages and the like, which the map does
/// not call RAM.
const BESIDE: u64 = 32;

/// Takes over the RAM in `map` but for `reserved`, which are addresses.
///
/// # Safety
///
/// Called once, while all RAM in `map` below 4 GiB is mapped writable, and nothing uses it but what is `reserved`.
pub(crate) unsafe fn init(map: &MemoryMap, reserved: &[Range<u64>]) {
    // The allocator's own bits lie in the first free RAM that is large enough for them.
    let words = (map.ram_end() / 4096).div_ceil(64) as usize;
    let own_frames = (2 * words * 8).div_ceil(4096) as u64;
    let own = map
        .free_frames(reserved)
        .find(|range| range.end - range.start >= own_frames && range.start + own_frames <= 1 << 20)
        .expect("out of memory: no room for the page allocator")
        .start;
    let start = core::ptr::with_exposed_provenance_mut::<u64>((own * 4096) as usize);
    // SAFETY: free RAM, by the caller's word; from here on it belongs to the bitmaps.
    let (frames, absent) = unsafe {
        start.write_bytes(0, 2 * words);
        core::slice::from_raw_parts_mut(start, 2 * words).split_at_mut(words)
    };
    let mut ram = Ram::new(frames, absent, map.ram_size() / 4096);
    for range in map.free_frames(reserved) {
        let range = if range.start == own { range.start + own_frames..range.end } else { range };
        ram.add(range.start as usize, (range.end - range.start) as usize);
    }
    give_back_what_is_not_there(&mut ram);
    *RAM.get() = Some(ram);
}

/// A domain that is created with less memory than its maximum has all of it in its map, and a page gets memory when it is
/// first used (populate on demand). The hypervisor ends a domain that uses more than there is: so what it has not is given
/// back before anything is used.
fn give_back_what_is_not_there(ram: &mut Ram<'_>) {
    let Ok(there) = hypercall::current_reservation() else { return };
    let missing = ram.size().maximum.saturating_sub(there);
    if missing == 0 {
        return;
    }
    let target = there.saturating_sub(BESIDE);
    loop {
        let wish = ram.size().current.saturating_sub(target);
        if wish == 0 || !matches!(ram.decrease(wish, &mut release), Ok(1..)) {
            break;
        }
    }
}

fn release(extents: &[u64], order: u32) -> Result<usize, Errno> {
    // SAFETY: the pages are taken from the free ones, and have no user before they are populated again.
    unsafe { hypercall::decrease_reservation(extents, order) }
}

fn populate(extents: &[u64], order: u32) -> Result<usize, Errno> {
    // SAFETY: the pages were given back before.
    unsafe { hypercall::populate_physmap(extents, order) }
}

/// Takes `count` pages in a row; they hold whatever they held.
pub(crate) fn allocate_run(count: usize) -> Option<NonNull<u8>> {
    let mut ram = RAM.get();
    let ram = ram.as_mut()?;
    let start = match ram.take(count) {
        Some(start) => start,
        None => {
            // Better to have more than the toolstack wants than to end: it allows a little more, which the balloon gives
            // back. Where it does not, the hypervisor refuses.
            let wish = (count as u64).max(BATCH as u64);
            let populated = ram.absent() > 0 && matches!(ram.increase(wish, &mut populate), Ok(1..));
            populated.then(|| ram.take(count)).flatten()?
        }
    };
    NonNull::new(core::ptr::with_exposed_provenance_mut(start * PAGE_SIZE))
}

/// Takes the pages from an address on, where they are free.
#[cfg(feature = "guest")]
pub(super) fn allocate_at(start: usize, count: usize) -> bool {
    RAM.get().as_mut().is_some_and(|ram| ram.take_at(start / PAGE_SIZE, count))
}

/// Frees pages in a row.
///
/// # Safety
///
/// They are the caller's, from [`allocate_run`], and nothing uses them any more.
pub(super) unsafe fn free_run(start: usize, count: usize) {
    if let Some(ram) = RAM.get().as_mut() {
        ram.give(start / PAGE_SIZE, count);
    }
}

impl Reservation for RamPages {
    fn size(&self) -> ReservationSize {
        RAM.get().as_ref().map_or(ReservationSize { maximum: 0, current: 0, free: 0 }, Ram::size)
    }

    fn decrease(&self, pages: u64) -> Result<u64, Errno> {
        RAM.get().as_mut().map_or(Ok(0), |ram| ram.decrease(pages, &mut release))
    }

    fn increase(&self, pages: u64) -> Result<u64, Errno> {
        RAM.get().as_mut().map_or(Ok(0), |ram| ram.increase(pages, &mut populate))
    }
}

/// How much memory there is, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryInfo {
    /// What the domain has now: what the toolstack wants it to have (`xl mem-set`), as far as the balloon could do that.
    pub total: u64,
    /// Free pages of these: used by neither the heap nor a grant.
    pub free: u64,
    /// The smallest that `free` ever was after an allocation.
    pub least_free: u64,
    /// All RAM in the memory map that the toolstack made: what the domain can have at most (`maxmem=`).
    pub maximum: u64,
    /// What the toolstack wants the domain to have. Without a balloon that is `total`.
    pub target: u64,
}

/// How much memory there is. `target` is `total`: the platform does not ask the toolstack.
pub fn memory() -> MemoryInfo {
    let bytes = |pages: u64| pages * PAGE_SIZE as u64;
    let size = RamPages.size();
    let least_free = RAM.get().as_ref().map_or(0, Ram::least_free) as u64;
    MemoryInfo {
        total: bytes(size.current),
        free: bytes(size.free),
        least_free: bytes(least_free),
        maximum: bytes(size.maximum),
        target: bytes(size.current),
    }
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
        // SAFETY: the page is this value's own.
        unsafe { free_run(self.start.addr().get(), 1) };
    }
}

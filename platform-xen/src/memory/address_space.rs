//! Physical address space that is not RAM: where Xen's own pages and other domains' pages are put.

use core::ops::Range;

use xen_hal::{Frame, PAGE_SIZE};

use super::bitmap::Bitmap;
use super::map::MemoryMap;
use crate::cell::Global;

/// Below this the processor's interrupt controllers have their registers.
const CONTROLLERS: u64 = 0xfec0_0000;
/// How much is set aside at most.
const MAX_SIZE: u64 = 224 << 20;
const LARGE_PAGE: u64 = 2 << 20;
/// Frames kept for the grant table; a table of 64 frames is usual.
const GRANT_FRAMES: u64 = 2048;

static WINDOW: Global<Option<Window>> = Global::new(None);

struct Window {
    first: u64,
    frames: u64,
    foreign: Option<Bitmap<'static>>,
}

/// Chooses the addresses: whole 2 MiB pages in a hole of the map. What is there is the shared info page, the grant
/// table, and then foreign pages. Devices may have what lies between the map's highest end and `devices_end`.
pub(crate) fn choose(map: &MemoryMap, devices_end: u64) -> Range<u64> {
    let below = map
        .regions()
        .iter()
        .filter(|region| region.start < CONTROLLERS)
        .map(|region| region.end)
        .max()
        .unwrap_or(0)
        .next_multiple_of(LARGE_PAGE);
    match CONTROLLERS.checked_sub(below) {
        Some(size) if size >= 16 << 20 => CONTROLLERS - size.min(MAX_SIZE)..CONTROLLERS,
        _ => {
            // RAM reaches up to the controllers: take what is above everything.
            let top = map.regions().iter().map(|region| region.end).max().unwrap_or(0);
            let top = top.max(devices_end).next_multiple_of(1 << 30);
            top..top + MAX_SIZE
        }
    }
}

/// Takes the addresses into use, once they are mapped.
pub(crate) fn init(window: Range<u64>) {
    let (first, end) = (window.start / 4096, window.end / 4096);
    *WINDOW.get() = Some(Window { first, frames: end - first, foreign: None });
}

fn with<R>(action: impl FnOnce(&mut Window) -> R) -> R {
    action(WINDOW.get().as_mut().expect("the address space is set up at start"))
}

/// Where the shared info page goes.
pub(crate) fn shared_info_frame() -> Frame {
    with(|window| Frame(window.first))
}

/// Where frame `index` of the grant table goes; `None` beyond what was set aside.
pub(crate) fn grant_table_frame(index: u32) -> Option<Frame> {
    (u64::from(index) < GRANT_FRAMES).then(|| with(|window| Frame(window.first + 1 + u64::from(index))))
}

/// Takes addresses for `count` foreign pages in a row.
pub(crate) fn take(count: usize) -> Option<Frame> {
    with(|window| {
        let base = window.first + 1 + GRANT_FRAMES;
        let size = (window.frames - 1 - GRANT_FRAMES) as usize;
        let bitmap = window.foreign.get_or_insert_with(|| {
            // Only a domain that maps foreign pages pays for this.
            let words = alloc::vec![0_u64; size.div_ceil(64)].leak();
            let mut bitmap = Bitmap::new(words);
            bitmap.give(0, size);
            bitmap
        });
        bitmap.take_run(count).map(|start| Frame(base + start as u64))
    })
}

/// Gives addresses back after their pages were unmapped.
pub(crate) fn give(start: Frame, count: usize) {
    with(|window| {
        let base = window.first + 1 + GRANT_FRAMES;
        if let Some(bitmap) = &mut window.foreign {
            bitmap.give((start.0 - base) as usize, count);
        }
    });
}

/// The address of a frame; memory is mapped one to one.
pub(crate) fn address(frame: Frame) -> usize {
    frame.0 as usize * PAGE_SIZE
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::E820Entry;

    fn chosen_beside(devices_end: u64, regions: &[(u64, u64)]) -> Range<u64> {
        let entries = regions.iter().map(|(start, end)| E820Entry { addr: *start, size: end - start, kind: 1 });
        choose(&MemoryMap::new(entries), devices_end)
    }

    fn chosen(regions: &[(u64, u64)]) -> Range<u64> {
        chosen_beside(0, regions)
    }

    #[test]
    fn the_window_lies_where_no_memory_is() {
        let small = chosen(&[(0, 4 << 20), (0xfeff_8000, 0xff00_0000)]);
        assert_eq!(small, CONTROLLERS - MAX_SIZE..CONTROLLERS);
        let usual =
            chosen(&[(0, 0xf000_0000), (0xfc00_0000, 0xfc01_0000), (0xfeff_8000, 0xff00_0000), (1 << 32, 8 << 30)]);
        assert_eq!(usual, 0xfc20_0000..CONTROLLERS);
        let full = chosen(&[(0, 0xfe80_0000), (1 << 32, (8 << 30) + 4096)]);
        assert_eq!(full, 9 << 30..(9 << 30) + MAX_SIZE);
        // As SeaBIOS tells it: all up to 4 GiB is taken.
        let hvm = [(0, 16 << 20), (0xfc00_0000, 1 << 32)];
        assert_eq!(chosen(&hvm), 4 << 30..(4 << 30) + MAX_SIZE);
        assert_eq!(chosen_beside((20 << 30) + 1, &hvm), 21 << 30..(21 << 30) + MAX_SIZE);
    }
}

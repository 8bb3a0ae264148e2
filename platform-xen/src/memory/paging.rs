//! The final page tables: one to one, and each thing with just the permissions that it needs.

use core::ops::Range;
use core::ptr::NonNull;

use x86_64::PhysAddr;
use x86_64::registers::control::{Cr3, Cr3Flags};
use x86_64::structures::paging::{PageTable, PageTableFlags as Flags, PhysFrame};

use super::map::MemoryMap;
use crate::image;

const LARGE_PAGE: u64 = 2 << 20;
const HUGE_PAGE: u64 = 1 << 30;
/// Where the toolstack puts the pages of store and console (X86_HVM_END_SPECIAL_REGION, xen/include/public/arch-x86),
/// whether the memory map lists them or not.
const SPECIAL_PAGES: Range<u64> = 0xfeff_0000..0xff00_0000;

/// Makes and loads the tables. What is mapped: the image with its permissions, RAM, Xen's special pages, and `window`.
/// Everything else, the null page and the page under the stack faults.
///
/// Takes pages by `allocate`, whose pages must lie where the tables in use map them, below 4 GiB.
pub(crate) fn init(map: &MemoryMap, window: &Range<u64>, mut allocate: impl FnMut() -> NonNull<u8>) {
    let mut table = || -> &'static mut PageTable {
        let page = allocate().cast::<PageTable>();
        // SAFETY: a fresh page, mapped writable, never freed.
        unsafe {
            page.write(PageTable::new());
            &mut *page.as_ptr()
        }
    };
    let address = |table: &PageTable| PhysAddr::new(table as *const PageTable as u64);
    let parent = Flags::PRESENT | Flags::WRITABLE;
    let data = Flags::PRESENT | Flags::WRITABLE | Flags::NO_EXECUTE;

    let root = table();
    let top = table();
    root[0].set_addr(address(top), parent);
    let highest = map.regions().iter().map(|region| region.end).chain([window.end]).max().unwrap_or(0);
    let huge_pages =
        raw_cpuid::CpuId::new().get_extended_processor_and_feature_identifiers().is_some_and(|id| id.has_1gib_pages());
    // 512 GiB fit below one entry of the root table.
    for gib in 0..highest.div_ceil(HUGE_PAGE).min(512) {
        let range = gib * HUGE_PAGE..(gib + 1) * HUGE_PAGE;
        if !wanted(map, window, &range) {
            continue;
        }
        let all_ram =
            map.regions().iter().any(|region| region.ram && region.start <= range.start && region.end >= range.end);
        if huge_pages && all_ram && gib > 0 {
            top[gib as usize].set_addr(PhysAddr::new(range.start), data | Flags::HUGE_PAGE);
            continue;
        }
        let directory = table();
        top[gib as usize].set_addr(address(directory), parent);
        for index in 0..512_usize {
            let start = range.start + index as u64 * LARGE_PAGE;
            let large = start..start + LARGE_PAGE;
            let whole = image::whole();
            if start == 0 || (large.start < whole.end && large.end > whole.start) {
                let pages = table();
                directory[index].set_addr(address(pages), parent);
                for (page, entry) in pages.iter_mut().enumerate() {
                    let page = start + page as u64 * 4096;
                    if let Some(flags) = permissions(page) {
                        entry.set_addr(PhysAddr::new(page), flags);
                    }
                }
            } else if wanted(map, window, &large) {
                directory[index].set_addr(PhysAddr::new(start), data | Flags::HUGE_PAGE);
            }
        }
    }
    // SAFETY: the tables map all that is in use where it was, with permissions that its users need.
    unsafe { Cr3::write(PhysFrame::containing_address(address(root)), Cr3Flags::empty()) };
}

/// Whether anything in `range` is to be mapped.
fn wanted(map: &MemoryMap, window: &Range<u64>, range: &Range<u64>) -> bool {
    let overlaps = |start: u64, end: u64| start < range.end && end > range.start;
    map.regions().iter().any(|region| overlaps(region.start, region.end))
        || overlaps(window.start, window.end)
        || overlaps(SPECIAL_PAGES.start, SPECIAL_PAGES.end)
}

/// How a page in the image's neighbourhood is mapped.
fn permissions(page: u64) -> Option<Flags> {
    if page == 0 || image::stack_guard().contains(&page) {
        None
    } else if image::text().contains(&page) {
        Some(Flags::PRESENT)
    } else if image::rodata().contains(&page) {
        Some(Flags::PRESENT | Flags::NO_EXECUTE)
    } else {
        Some(Flags::PRESENT | Flags::WRITABLE | Flags::NO_EXECUTE)
    }
}

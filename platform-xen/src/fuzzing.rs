//! What the fuzz targets feed with any bytes: a panic is a bug.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ptr::NonNull;

use xen_hal::PAGE_SIZE;
use xen_ring::SharedMemory;

use crate::console::ring::Ring;
use crate::memory::address_space;
use crate::multiboot;
use crate::start_info::{PhysicalMemory, StartInfo};

/// Where the start info of [`start_info`] is.
pub const START_INFO: u64 = 0x10_0000;

/// Memory that begins at [`START_INFO`].
struct Memory<'m>(&'m [u8]);

impl<'m> PhysicalMemory<'m> for Memory<'m> {
    fn bytes(&self, address: u64, len: u64) -> Option<&'m [u8]> {
        let start = usize::try_from(address.checked_sub(START_INFO)?).ok()?;
        self.0.get(start..start.checked_add(usize::try_from(len).ok()?)?)
    }
}

/// What the toolstack leaves in memory for a guest's start: the start info, and all that it leads to.
pub fn start_info(memory: &[u8]) {
    if let Ok(info) = StartInfo::parse(&Memory(memory), START_INFO) {
        check(&info);
    }
}

/// What a boot loader leaves in memory for an HVM guest's start: the information of Multiboot 1 or 2.
pub fn multiboot(memory: &[u8], second: bool) {
    let memory = Memory(memory);
    let info = if second { multiboot::parse_2(&memory, START_INFO) } else { multiboot::parse_1(&memory, START_INFO) };
    if let Ok(info) = info {
        check(&info);
    }
}

fn check(info: &StartInfo<'_>) {
    assert!(!info.command_line().contains(&0));
    assert!(info.modules().iter().all(|module| !module.command_line().contains(&0)));
    let Some(map) = info.memory_map() else { return };
    let reserved = info.reserved();
    let free: Vec<_> = map.free_frames(&reserved).collect();
    for (index, frames) in free.iter().enumerate() {
        let bytes = frames.start * 4096..frames.end * 4096;
        let overlaps = |start: u64, end: u64| start < bytes.end && end > bytes.start;
        assert!(!frames.is_empty());
        assert!(
            map.regions().iter().any(|r| r.ram && r.start <= bytes.start && r.end >= bytes.end),
            "{frames:?} is RAM"
        );
        assert!(!map.regions().iter().any(|region| !region.ram && overlaps(region.start, region.end)));
        assert!(!reserved.iter().any(|range| overlaps(range.start, range.end)), "{frames:?} is reserved");
        assert!(!free[..index].iter().any(|other| other.start < frames.end && other.end > frames.start));
    }
    let window = address_space::choose(&map, 0);
    assert!(window.start < window.end);
    assert!(!map.regions().iter().any(|region| region.start < window.end && region.end > window.start && region.ram));
}

#[repr(align(4096))]
struct Page([u8; PAGE_SIZE]);

/// The console's ring, whose other end writes anything into the page.
pub fn console(data: &[u8]) {
    let mut page = Box::new(Page([0; PAGE_SIZE]));
    let at = NonNull::from(&mut page.0).cast::<u8>();
    // SAFETY: a page of this function's own, which outlives all that is made here.
    let peer = unsafe { SharedMemory::new(at, PAGE_SIZE) };
    // SAFETY: as above; a ring is not used any more once the next one is made.
    let new = || unsafe { Ring::new(at) };
    let mut ring = new().ok();
    let mut input = data.iter().copied();
    while let Some(choice) = input.next() {
        let mut word = || u32::from_le_bytes(core::array::from_fn(|_| input.next().unwrap_or(0)));
        match (choice % 6, &mut ring) {
            (0, _) => {
                let index = [3072, 3076, 3080, 3084][usize::from(choice / 6) % 4];
                let value = word();
                peer.store(index, if choice > 127 { value } else { value % 3000 });
            }
            (1, _) => peer.write(word() as usize % (PAGE_SIZE - 4), &word().to_le_bytes()),
            (2, Some(ring)) => {
                let text = [b'x'; 3000];
                let wanted = word() as usize % text.len();
                if let Ok(written) = ring.write(&text[..wanted]) {
                    assert!(written <= wanted && written <= 2048);
                }
            }
            (3, Some(ring)) => {
                let mut text = [0; 1500];
                let wanted = word() as usize % text.len();
                if let Ok(read) = ring.read(&mut text[..wanted]) {
                    assert!(read.bytes <= wanted && read.bytes <= 1024);
                }
            }
            (4, Some(ring)) => assert!(ring.unread() <= 2048),
            // A resume takes the page over as it is.
            _ => {
                ring = new().ok();
            }
        }
    }
}

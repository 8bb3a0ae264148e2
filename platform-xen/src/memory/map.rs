//! The memory map: which physical addresses are RAM.

use core::ops::Range;

use crate::abi::E820Entry;

/// The processor architecture's type for usable RAM (E820, and `XEN_HVM_MEMMAP_TYPE_RAM`).
const RAM: u32 = 1;

/// Most entries that are taken; the toolstack makes fewer than ten.
pub(crate) const MAX_ENTRIES: usize = 64;

/// The processor has no more bits for an address: what a map says beyond is left out.
const ADDRESSES_END: u64 = 1 << 52;

/// An entry that is there, whatever its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Region {
    pub start: u64,
    pub end: u64,
    pub ram: bool,
}

/// The map, as far as it makes sense: entries that reach beyond physical addresses are left out.
pub(crate) struct MemoryMap {
    regions: [Region; MAX_ENTRIES],
    len: usize,
}

impl MemoryMap {
    pub fn new(entries: impl Iterator<Item = E820Entry>) -> MemoryMap {
        let mut map = MemoryMap { regions: [Region { start: 0, end: 0, ram: false }; MAX_ENTRIES], len: 0 };
        for entry in entries.take(MAX_ENTRIES) {
            let (start, size) = (entry.addr, entry.size);
            if let Some(end) = start.checked_add(size)
                && size > 0
                && end <= ADDRESSES_END
            {
                map.regions[map.len] = Region { start, end, ram: entry.kind == RAM };
                map.len += 1;
            }
        }
        map
    }

    pub fn regions(&self) -> &[Region] {
        &self.regions[..self.len]
    }

    /// The RAM that can be used, in whole frames: RAM entries less what other entries and `reserved` say. What two of them
    /// have in common comes once.
    pub fn free_frames<'a>(&'a self, reserved: &'a [Range<u64>]) -> impl Iterator<Item = Range<u64>> + 'a {
        let regions = self.regions();
        regions.iter().enumerate().filter(|(_, region)| region.ram).flat_map(move |(index, region)| {
            let earlier = move |other: usize| other < index;
            let taken = move || {
                let others = regions.iter().enumerate().filter(move |(other, region)| !region.ram || earlier(*other));
                others.map(|(_, other)| other.start..other.end).chain(reserved.iter().cloned())
            };
            let mut next = region.start.div_ceil(4096) * 4096;
            let end = region.end / 4096 * 4096;
            core::iter::from_fn(move || {
                while next < end {
                    if let Some(range) = taken().find(|range| range.start < next + 4096 && range.end > next) {
                        next = (range.end.div_ceil(4096) * 4096).max(next + 4096);
                        continue;
                    }
                    let stop = taken().map(|range| range.start).filter(|start| *start > next).min();
                    let stop = stop.map_or(end, |start| start.min(end));
                    let range = next / 4096..stop / 4096;
                    next = stop.div_ceil(4096) * 4096;
                    return Some(range);
                }
                None
            })
        })
    }

    /// The end of the highest RAM.
    pub fn ram_end(&self) -> u64 {
        self.regions().iter().filter(|region| region.ram).map(|region| region.end).max().unwrap_or(0)
    }

    /// All RAM, in bytes.
    pub fn ram_size(&self) -> u64 {
        self.regions().iter().filter(|region| region.ram).map(|region| region.end - region.start).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(addr: u64, size: u64, kind: u32) -> E820Entry {
        E820Entry { addr, size, kind }
    }

    #[test]
    fn free_frames_leave_out_what_is_reserved() {
        let map = MemoryMap::new(
            [
                entry(0, 0x40_0000, 1),
                entry(0xfeff_8000, 0x8000, 2),
                entry(u64::MAX - 5, 10, 1),
                entry(0x1_0000_0000, 0x3800, 1),
            ]
            .into_iter(),
        );
        assert_eq!(map.regions().len(), 3);
        let reserved = [0..0x1000, 0x10_0000..0x12_3456, 0x12_4800..0x12_4801];
        let free: Vec<_> = map.free_frames(&reserved).collect();
        assert_eq!(free, [1..0x100, 0x125..0x400, 0x10_0000..0x10_0003]);
        assert_eq!(map.ram_size(), 0x40_3800);
        assert_eq!(map.ram_end(), 0x1_0000_3800);
    }

    #[test]
    fn overlapping_reservations_end() {
        let map = MemoryMap::new([entry(0x800, 0x10_0000, 1), entry(0x2000, 0x3000, 2)].into_iter());
        let free: Vec<_> = map.free_frames(&[0x1800..0x2800, 0x4fff..0x5001]).collect();
        assert!(matches!(free.as_slice(), [only] if *only == (6..0x100)), "{free:?}");
    }

    #[test]
    fn overlapping_ram_is_free_once() {
        let map =
            MemoryMap::new([entry(0x1000, 0x8000, 1), entry(0x5000, 0x8000, 1), entry(0x6000, 0x1000, 1)].into_iter());
        let free: Vec<_> = map.free_frames(&[]).collect();
        assert_eq!(free, [1..9, 9..13]);
    }

    #[test]
    fn what_is_beyond_all_addresses_is_left_out() {
        let map = MemoryMap::new(
            [entry(u64::MAX - 8191, 4096, 1), entry((1 << 52) - 4096, 4096, 1), entry(1 << 52, 1, 1)].into_iter(),
        );
        assert_eq!((map.regions().len(), map.ram_end()), (1, 1 << 52));
        assert_eq!(map.free_frames(&[]).collect::<Vec<_>>().len(), 1);
    }
}

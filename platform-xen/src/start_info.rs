//! What a guest is told at its start: command line, modules, memory map. A PVH guest's toolstack does it by `struct
//! hvm_start_info` (xen/include/public/arch-x86/hvm/start_info.h), boot loaders in an HVM guest by Multiboot's
//! structures ([`multiboot`](crate::multiboot)).
//!
//! It is read before there is a heap, and with checks: where it points outside of memory there is an error to be printed.

use core::fmt;
use core::ops::Range;

use crate::abi::E820Entry;
use crate::memory::map::{MAX_ENTRIES, MemoryMap};

const MAGIC: u32 = 0x336e_c578;
/// Bytes in version 0, and from version 1 on, which has the memory map.
const SIZES: [u64; 2] = [40, 56];
const MODULE: u64 = 32;
const MAP_ENTRY: u64 = 24;

/// Most modules that are taken; `xl` loads one.
pub(crate) const MAX_MODULES: usize = 16;
/// Longest command line, its end included; the toolstack has shorter limits.
pub(crate) const MAX_COMMAND_LINE: u64 = 64 << 10;

/// Physical memory, as far as it may be read.
pub(crate) trait PhysicalMemory<'m> {
    /// So many bytes at an address; `None` where they are not all there.
    fn bytes(&self, address: u64, len: u64) -> Option<&'m [u8]>;
}

/// A file that the toolstack has loaded.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LoadedModule<'m> {
    pub data: Located<'m>,
    pub command_line: Located<'m>,
}

/// Bytes, and their address.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Located<'m> {
    pub address: u64,
    pub bytes: &'m [u8],
}

impl Located<'_> {
    fn range(&self) -> Range<u64> {
        self.address..self.address + self.bytes.len() as u64
    }
}

/// The start info, taken apart.
#[derive(Debug)]
pub(crate) struct StartInfo<'m> {
    pub own: Located<'m>,
    pub command_line: Located<'m>,
    pub module_list: Located<'m>,
    modules: [LoadedModule<'m>; MAX_MODULES],
    module_count: usize,
    pub map: Located<'m>,
    pub map_entries: MapEntries,
}

/// How the entries of a memory map lie one after the other. Each begins with address and length, of 64 bits, and the
/// type, of 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MapEntries {
    /// Each has so many bytes, at least 20.
    Fixed(usize),
    /// Before each are 32 bits with its size, which do not count themselves.
    Sized,
}

impl MapEntries {
    /// The first entry of `map`, and what comes after it; `None` at the end, and where the entry is not whole.
    pub fn next(self, map: &[u8]) -> Option<(E820Entry, &[u8])> {
        let (at, end) = match self {
            MapEntries::Fixed(size) => (0, size),
            MapEntries::Sized => (4, 4_usize.checked_add(u32::from_le_bytes(*map.first_chunk()?) as usize)?),
        };
        let entry = map.get(at..end).filter(|entry| entry.len() >= 20)?;
        Some((E820Entry { addr: long(entry, 0), size: long(entry, 8), kind: word(entry, 16) }, &map[end..]))
    }
}

/// Ranges of physical addresses that [`StartInfo::reserved`] names.
pub(crate) const RESERVED: usize = 4 + 2 * MAX_MODULES;

impl<'m> StartInfo<'m> {
    /// Takes `hvm_start_info` apart.
    pub fn parse(memory: &impl PhysicalMemory<'m>, address: u64) -> Result<StartInfo<'m>, BadStartInfo> {
        let own = located(memory, "the start info", address, Some(SIZES[0]))?;
        let magic = word(own.bytes, 0);
        if magic != MAGIC {
            return Err(BadStartInfo::Magic { magic, expected: MAGIC });
        }
        let has_map = word(own.bytes, 4) >= 1;
        let own = if has_map { located(memory, "the start info", address, Some(SIZES[1]))? } else { own };

        let mut info = StartInfo::new(own, MapEntries::Fixed(MAP_ENTRY as usize));
        info.command_line = text(memory, long(own.bytes, 24))?;
        let (count, list) = (word(own.bytes, 12), long(own.bytes, 16));
        let count = if list == 0 { 0 } else { count };
        info.module_list = module_list(memory, list, count, MODULE)?;
        for entry in info.module_list.bytes.chunks(MODULE as usize) {
            info.add_module(memory, long(entry, 0), long(entry, 8), text(memory, long(entry, 16))?)?;
        }

        if has_map {
            let (address, count) = (long(own.bytes, 40), u64::from(word(own.bytes, 48)));
            if address != 0 && count > 0 {
                info.map = located(memory, "the memory map", address, count.checked_mul(MAP_ENTRY))?;
            }
        }
        Ok(info)
    }

    /// One that has nothing yet but its own bytes.
    pub fn new(own: Located<'m>, map_entries: MapEntries) -> StartInfo<'m> {
        let none = Located::default();
        let modules = [LoadedModule::default(); MAX_MODULES];
        StartInfo { own, command_line: none, module_list: none, modules, module_count: 0, map: none, map_entries }
    }

    /// Adds a module that lies at an address.
    pub fn add_module(
        &mut self,
        memory: &impl PhysicalMemory<'m>,
        address: u64,
        len: u64,
        command_line: Located<'m>,
    ) -> Result<(), BadStartInfo> {
        let Some(module) = self.modules.get_mut(self.module_count) else {
            return Err(BadStartInfo::Modules(self.module_count as u32 + 1));
        };
        if len > 0 {
            module.data = located(memory, "a module", address, Some(len))?;
        }
        module.command_line = command_line;
        self.module_count += 1;
        Ok(())
    }

    /// The command line, without its end.
    pub fn command_line(&self) -> &'m [u8] {
        without_end(self.command_line.bytes)
    }

    pub fn modules(&self) -> &[LoadedModule<'m>] {
        &self.modules[..self.module_count]
    }

    /// The memory map; `None` where there is none, as with toolstacks from before version 1 of the start info.
    pub fn memory_map(&self) -> Option<MemoryMap> {
        let mut rest = self.map.bytes;
        let entries = core::iter::from_fn(|| {
            let (entry, after) = self.map_entries.next(rest)?;
            rest = after;
            Some(entry)
        });
        (!self.map.bytes.is_empty()).then(|| MemoryMap::new(entries.take(MAX_ENTRIES)))
    }

    /// Where all of it is: memory that is not to be used for anything else.
    pub fn reserved(&self) -> [Range<u64>; RESERVED] {
        let mut ranges = core::array::from_fn(|_| 0..0);
        let fixed = [self.own, self.command_line, self.module_list, self.map];
        let of_modules = self.modules.iter().flat_map(|module| [module.data, module.command_line]);
        for (range, located) in ranges.iter_mut().zip(fixed.into_iter().chain(of_modules)) {
            *range = located.range();
        }
        ranges
    }
}

impl LoadedModule<'_> {
    /// Its command line, without its end.
    pub fn command_line(&self) -> &[u8] {
        without_end(self.command_line.bytes)
    }
}

/// What is at an address.
pub(crate) fn located<'m>(
    memory: &impl PhysicalMemory<'m>,
    what: &'static str,
    address: u64,
    len: Option<u64>,
) -> Result<Located<'m>, BadStartInfo> {
    let bytes = len.and_then(|len| memory.bytes(address, len));
    bytes.map(|bytes| Located { address, bytes }).ok_or(BadStartInfo::Outside { what, address })
}

/// A list of modules, each of so many bytes.
pub(crate) fn module_list<'m>(
    memory: &impl PhysicalMemory<'m>,
    address: u64,
    count: u32,
    size: u64,
) -> Result<Located<'m>, BadStartInfo> {
    match count {
        0 => Ok(Located::default()),
        count if count as usize > MAX_MODULES => Err(BadStartInfo::Modules(count)),
        count => located(memory, "the list of modules", address, Some(u64::from(count) * size)),
    }
}

/// A text with its end, a zero byte; nothing at address 0.
pub(crate) fn text<'m>(memory: &impl PhysicalMemory<'m>, address: u64) -> Result<Located<'m>, BadStartInfo> {
    if address == 0 {
        return Ok(Located::default());
    }
    let outside = BadStartInfo::Outside { what: "a command line", address };
    for len in 1..=MAX_COMMAND_LINE {
        let last = address.checked_add(len - 1).and_then(|at| memory.bytes(at, 1)).ok_or(outside)?;
        if last == [0] {
            let bytes = memory.bytes(address, len).ok_or(outside)?;
            return Ok(Located { address, bytes });
        }
    }
    Err(BadStartInfo::CommandLine(address))
}

pub(crate) fn without_end(text: &[u8]) -> &[u8] {
    text.strip_suffix(&[0]).unwrap_or(text)
}

pub(crate) fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*bytes[at..].first_chunk().expect("within the structure"))
}

pub(crate) fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*bytes[at..].first_chunk().expect("within the structure"))
}

/// Why a start info cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadStartInfo {
    /// It begins with another number.
    Magic { magic: u32, expected: u32 },
    /// Something is not in memory that can be read.
    Outside { what: &'static str, address: u64 },
    /// More modules than are taken.
    Modules(u32),
    /// A command line without end.
    CommandLine(u64),
    /// Its parts do not fit into each other.
    Damaged { what: &'static str, offset: usize },
}

impl fmt::Display for BadStartInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadStartInfo::Magic { magic, expected } => write!(f, "magic number {magic:#x}, expected {expected:#x}"),
            BadStartInfo::Outside { what, address } => write!(f, "{what} at {address:#x} is outside of memory"),
            BadStartInfo::Modules(count) => write!(f, "{count} modules, at most {MAX_MODULES} can be used"),
            BadStartInfo::CommandLine(address) => {
                write!(f, "the command line at {address:#x} has more than {MAX_COMMAND_LINE} bytes")
            }
            BadStartInfo::Damaged { what, offset } => write!(f, "{what} at offset {offset} is damaged"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use alloc::vec;
    use alloc::vec::Vec;

    /// Where the memory begins.
    const BASE: u64 = 0x10_0000;

    struct Memory(&'static [u8]);

    impl PhysicalMemory<'static> for Memory {
        fn bytes(&self, address: u64, len: u64) -> Option<&'static [u8]> {
            let start = usize::try_from(address.checked_sub(BASE)?).ok()?;
            self.0.get(start..start.checked_add(usize::try_from(len).ok()?)?)
        }
    }

    /// As `xl` makes it: a command line, a module of its own, and a memory map of two entries.
    fn usual() -> Vec<u8> {
        let mut memory = vec![0; 0x1000];
        let mut put = |at: usize, bytes: &[u8]| memory[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &MAGIC.to_le_bytes());
        put(4, &1_u32.to_le_bytes());
        put(12, &1_u32.to_le_bytes());
        for (at, value) in [(16, 0x100), (24, 0x200), (40, 0x300)] {
            put(at, &(BASE + value).to_le_bytes());
        }
        put(48, &2_u32.to_le_bytes());
        put(0x100, &(BASE + 0x400).to_le_bytes());
        put(0x108, &5_u64.to_le_bytes());
        put(0x200, b"a=1 b\0");
        for (entry, (address, size, kind)) in [(0, 0x80_0000, 1_u32), (0xfee0_0000, 0x1000_u64, 2)].iter().enumerate() {
            put(0x300 + entry * 24, &u64::to_le_bytes(*address));
            put(0x308 + entry * 24, &u64::to_le_bytes(*size));
            put(0x310 + entry * 24, &kind.to_le_bytes());
        }
        put(0x400, b"hello");
        memory
    }

    fn parse(memory: Vec<u8>) -> Result<StartInfo<'static>, BadStartInfo> {
        StartInfo::parse(&Memory(memory.leak()), BASE)
    }

    #[test]
    fn what_xl_makes_is_read() {
        let info = parse(usual()).unwrap();
        assert_eq!(info.command_line(), b"a=1 b");
        let [module] = info.modules() else { panic!("one module: {info:?}") };
        assert_eq!((module.data.bytes, module.command_line()), (b"hello".as_slice(), b"".as_slice()));
        let map = info.memory_map().unwrap();
        assert_eq!((map.regions().len(), map.ram_size()), (2, 0x80_0000));
        let reserved: Vec<_> = info.reserved().into_iter().filter(|range| !range.is_empty()).collect();
        let at = |start: u64, len: u64| BASE + start..BASE + start + len;
        assert_eq!(reserved, [at(0, 56), at(0x200, 6), at(0x100, 32), at(0x300, 48), at(0x400, 5)]);
    }

    #[test]
    fn version_0_has_no_map() {
        let mut memory = usual();
        memory[4] = 0;
        let info = parse(memory).unwrap();
        assert!(info.memory_map().is_none() && info.reserved()[0] == (BASE..BASE + 40));
    }

    #[test]
    fn what_points_nowhere_is_an_error() {
        let broken = |at: usize, value: u64| {
            let mut memory = usual();
            memory[at..at + 8].copy_from_slice(&value.to_le_bytes());
            parse(memory).unwrap_err().to_string()
        };
        for (at, value, expected) in [
            (0, 7, "magic number 0x7, expected 0x336ec578"),
            (24, u64::MAX, "a command line at 0xffffffffffffffff is outside of memory"),
            (16, u64::MAX - 3, "the list of modules at 0xfffffffffffffffc is outside of memory"),
            (8, 17 << 32, "17 modules, at most 16 can be used"),
            (0x108, u64::MAX, "a module at 0x100400 is outside of memory"),
            (48, u32::MAX.into(), "the memory map at 0x100300 is outside of memory"),
        ] {
            assert_eq!(broken(at, value), expected);
        }
        let short = StartInfo::parse(&Memory(usual().leak()), BASE + 0xff0).unwrap_err();
        assert_eq!(short.to_string(), "the start info at 0x100ff0 is outside of memory");
        let mut endless = usual();
        endless.resize(0x2_0000, b'x');
        endless[24..32].copy_from_slice(&(BASE + 0x1000).to_le_bytes());
        assert_eq!(parse(endless).unwrap_err(), BadStartInfo::CommandLine(BASE + 0x1000));
    }
}

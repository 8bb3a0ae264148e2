//! What a boot loader tells an HVM guest: the information structures of Multiboot 1 (version 0.6.96, section 3.3), which
//! QEMU writes for `kernel=`, and Multiboot 2 (version 2.0, section 3.6), which GRUB writes.

use crate::start_info::{
    BadStartInfo, Located, MapEntries, PhysicalMemory, StartInfo, located, module_list, text, without_end, word,
};

/// What a loader of Multiboot 1 leaves in EAX.
pub(crate) const MAGIC_1: u32 = 0x2bad_b002;
/// What a loader of Multiboot 2 leaves in EAX.
pub(crate) const MAGIC_2: u32 = 0x36d7_6289;

/// Bytes of Multiboot 1's structure up to the loader's name, the last thing that is read.
const SIZE_1: u64 = 68;
const MODULE_1: u64 = 16;
/// Bits of its flags: which fields are valid.
const HAS_COMMAND_LINE: u32 = 1 << 2;
const HAS_MODULES: u32 = 1 << 3;
const HAS_MAP: u32 = 1 << 6;
const HAS_LOADER: u32 = 1 << 9;

/// Longest structure of Multiboot 2; GRUB's has a few KiB.
const MAX_SIZE_2: u32 = 1 << 20;
/// Types of its tags.
const END: u32 = 0;
const COMMAND_LINE: u32 = 1;
const MODULE: u32 = 3;
const MAP: u32 = 6;
/// Bytes of a tag before what is its own: type and size.
const TAG: usize = 8;

/// Takes apart the structure of Multiboot 1.
pub(crate) fn parse_1<'m>(memory: &impl PhysicalMemory<'m>, address: u64) -> Result<StartInfo<'m>, BadStartInfo> {
    let own = located(memory, "the Multiboot information", address, Some(SIZE_1))?;
    let flags = word(own.bytes, 0);
    let field = |at| u64::from(word(own.bytes, at));
    let mut info = StartInfo::new(own, MapEntries::Sized);

    if flags & HAS_COMMAND_LINE != 0 {
        let loader = if flags & HAS_LOADER != 0 { text(memory, field(64))? } else { Located::default() };
        info.command_line = without_image(text(memory, field(16))?, loader.bytes);
    }
    if flags & HAS_MODULES != 0 {
        info.module_list = module_list(memory, field(24), word(own.bytes, 20), MODULE_1)?;
        for (index, entry) in info.module_list.bytes.chunks(MODULE_1 as usize).enumerate() {
            let len = word(entry, 4).checked_sub(word(entry, 0));
            let len = len.ok_or(BadStartInfo::Damaged { what: "a module", offset: index * MODULE_1 as usize })?;
            let command_line = text(memory, word(entry, 8).into())?;
            info.add_module(memory, word(entry, 0).into(), len.into(), command_line)?;
        }
    }
    if flags & HAS_MAP != 0 {
        let len = field(44);
        if len > 0 {
            info.map = located(memory, "the memory map", field(48), Some(len))?;
        }
        check_map(&info)?;
    }
    Ok(info)
}

/// Loaders of Multiboot 1 put the image's path before the command line; GRUB 2 does not.
fn without_image<'m>(line: Located<'m>, loader: &[u8]) -> Located<'m> {
    if loader.starts_with(b"GRUB 2") {
        return line;
    }
    let path = without_end(line.bytes).iter().take_while(|byte| **byte != b' ').count();
    let rest = &line.bytes[path..];
    let spaces = rest.iter().take_while(|byte| **byte == b' ').count();
    Located { address: line.address + (path + spaces) as u64, bytes: &rest[spaces..] }
}

/// Takes apart the structure of Multiboot 2.
pub(crate) fn parse_2<'m>(memory: &impl PhysicalMemory<'m>, address: u64) -> Result<StartInfo<'m>, BadStartInfo> {
    let what = "the Multiboot 2 information";
    let size = word(located(memory, what, address, Some(TAG as u64))?.bytes, 0);
    if size < 2 * TAG as u32 || size > MAX_SIZE_2 {
        return Err(BadStartInfo::Damaged { what, offset: 0 });
    }
    let own = located(memory, what, address, Some(size.into()))?;
    let mut info = StartInfo::new(own, MapEntries::Sized);
    let mut offset = TAG;
    loop {
        let damaged = BadStartInfo::Damaged { what: "a tag of Multiboot 2", offset };
        let rest = own.bytes.get(offset..).filter(|rest| rest.len() >= TAG).ok_or(damaged)?;
        let (kind, len) = (word(rest, 0), word(rest, 4) as usize);
        let tag = rest.get(..len).filter(|tag| tag.len() >= TAG).ok_or(damaged)?;
        let body = &tag[TAG..];
        let at = address + (offset + TAG) as u64;
        match kind {
            END => break,
            COMMAND_LINE => info.command_line = own_text(body, at).ok_or(damaged)?,
            MODULE if body.len() > 8 => {
                let (start, end) = (word(body, 0), word(body, 4));
                let len = end.checked_sub(start).ok_or(damaged)?;
                let command_line = own_text(&body[8..], at + 8).ok_or(damaged)?;
                info.add_module(memory, start.into(), len.into(), command_line)?;
            }
            MAP if body.len() >= 8 => {
                info.map_entries = MapEntries::Fixed(word(body, 0) as usize);
                info.map = Located { address: at + 8, bytes: &body[8..] };
                check_map(&info)?;
            }
            MODULE | MAP => return Err(damaged),
            _ => {}
        }
        offset += len.next_multiple_of(8);
    }
    Ok(info)
}

/// A text within a tag, up to its end.
fn own_text(body: &[u8], address: u64) -> Option<Located<'_>> {
    let len = body.iter().position(|byte| *byte == 0)? + 1;
    Some(Located { address, bytes: &body[..len] })
}

/// Whether all entries of the map are whole.
fn check_map(info: &StartInfo<'_>) -> Result<(), BadStartInfo> {
    let mut rest = info.map.bytes;
    while !rest.is_empty() {
        let offset = info.map.bytes.len() - rest.len();
        (_, rest) =
            info.map_entries.next(rest).ok_or(BadStartInfo::Damaged { what: "an entry of the memory map", offset })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use alloc::vec;
    use alloc::vec::Vec;

    /// Where the memory begins.
    const BASE: u64 = 0x9000;

    struct Memory(&'static [u8]);

    impl PhysicalMemory<'static> for Memory {
        fn bytes(&self, address: u64, len: u64) -> Option<&'static [u8]> {
            let start = usize::try_from(address.checked_sub(BASE)?).ok()?;
            self.0.get(start..start.checked_add(usize::try_from(len).ok()?)?)
        }
    }

    fn put(memory: &mut [u8], at: usize, words: &[u32]) {
        for (index, word) in words.iter().enumerate() {
            memory[at + 4 * index..][..4].copy_from_slice(&word.to_le_bytes());
        }
    }

    /// As QEMU writes it: path and command line, a module with its own, a map of two entries.
    fn qemus() -> Vec<u8> {
        let mut memory = vec![0; 0x400];
        let at = |offset: u32| BASE as u32 + offset;
        put(&mut memory, 0, &[HAS_COMMAND_LINE | HAS_MODULES | HAS_MAP | HAS_LOADER, 639, 15360, 0]);
        put(&mut memory, 16, &[at(0x80), 1, at(0xc0)]);
        put(&mut memory, 44, &[48, at(0x100)]);
        put(&mut memory, 64, &[at(0x78)]);
        memory[0x78..0x7d].copy_from_slice(b"qemu\0");
        memory[0x80..0x92].copy_from_slice(b"/srv/web  ip=dhcp\0");
        put(&mut memory, 0xc0, &[at(0x200), at(0x205), at(0xe0), 0]);
        memory[0xe0..0xe9].copy_from_slice(b"/srv/mod\0");
        put(&mut memory, 0x100, &[20, 0, 0, 0x9_fc00, 0, 1]);
        put(&mut memory, 0x118, &[20, 0x10_0000, 0, 0xef_f000, 0, 1]);
        memory[0x200..0x205].copy_from_slice(b"hello");
        memory
    }

    fn first(memory: Vec<u8>) -> Result<StartInfo<'static>, BadStartInfo> {
        parse_1(&Memory(memory.leak()), BASE)
    }

    #[test]
    fn what_qemu_writes_is_read() {
        let info = first(qemus()).unwrap();
        assert_eq!(info.command_line(), b"ip=dhcp");
        let [module] = info.modules() else { panic!("one module: {info:?}") };
        assert_eq!((module.data.bytes, module.command_line()), (b"hello".as_slice(), b"/srv/mod".as_slice()));
        assert_eq!(info.memory_map().unwrap().ram_size(), 0x9_fc00 + 0xef_f000);
        let reserved: Vec<_> = info.reserved().into_iter().filter(|range| !range.is_empty()).collect();
        let at = |start: u64, len: u64| BASE + start..BASE + start + len;
        assert_eq!(reserved, [at(0, 68), at(0x8a, 8), at(0xc0, 16), at(0x100, 48), at(0x200, 5), at(0xe0, 9)]);
    }

    #[test]
    fn grub_2_writes_no_path() {
        let mut memory = qemus();
        memory[0x78..0x7f].copy_from_slice(b"GRUB 2\0");
        memory[0x80..0x88].copy_from_slice(b"ip=dhcp\0");
        assert_eq!(first(memory).unwrap().command_line(), b"ip=dhcp");
        // A path alone is an empty line.
        let mut memory = qemus();
        memory[0x88] = 0;
        assert_eq!(first(memory).unwrap().command_line(), b"");
    }

    #[test]
    fn fields_without_a_flag_are_not_read() {
        let mut memory = qemus();
        memory[0..4].fill(0);
        memory[16..68].fill(0xff);
        let info = first(memory).unwrap();
        assert!(info.command_line().is_empty() && info.modules().is_empty() && info.memory_map().is_none());
    }

    #[test]
    fn what_is_damaged_in_the_first_is_an_error() {
        for (at, word, expected) in [
            (20, 17, "17 modules, at most 16 can be used"),
            (24, u32::MAX, "the list of modules at 0xffffffff is outside of memory"),
            (16, 0x10, "a command line at 0x10 is outside of memory"),
            (0xc4, 0, "a module at offset 0 is damaged"),
            (0xc4, u32::MAX, "a module at 0x9200 is outside of memory"),
            (44, 0x1000, "the memory map at 0x9100 is outside of memory"),
            (44, 47, "an entry of the memory map at offset 24 is damaged"),
            (0x100, 0, "an entry of the memory map at offset 0 is damaged"),
            (0x118, u32::MAX, "an entry of the memory map at offset 24 is damaged"),
        ] {
            let mut memory = qemus();
            put(&mut memory, at, &[word]);
            assert_eq!(first(memory).unwrap_err().to_string(), expected);
        }
    }

    /// As GRUB writes it, with a tag that is not read.
    fn grubs() -> Vec<u8> {
        let mut memory = vec![0; 0x400];
        let mut at = 8;
        let mut tag = |kind: u32, body: &[u8]| {
            let len = 8 + body.len();
            put(&mut memory, at, &[kind, len as u32]);
            memory[at + 8..at + len].copy_from_slice(body);
            at += len.next_multiple_of(8);
            put(&mut memory, 0, &[at as u32, 0]);
        };
        tag(COMMAND_LINE, b"ip=dhcp\0");
        tag(2, b"GRUB 2.12\0");
        tag(MODULE, &[&0x9200_u32.to_le_bytes(), &0x9205_u32.to_le_bytes(), b"a=1\0".as_slice()].concat());
        let mut map = vec![0; 8 + 2 * 24];
        put(&mut map, 0, &[24, 0, 0, 0, 0x9_fc00, 0, 1, 0, 0x10_0000, 0, 0xef_f000, 0, 1, 0]);
        tag(MAP, &map);
        tag(END, b"");
        memory[0x200..0x205].copy_from_slice(b"hello");
        memory
    }

    fn second(memory: Vec<u8>) -> Result<StartInfo<'static>, BadStartInfo> {
        parse_2(&Memory(memory.leak()), BASE)
    }

    #[test]
    fn what_grub_writes_is_read() {
        let info = second(grubs()).unwrap();
        assert_eq!(info.command_line(), b"ip=dhcp");
        let [module] = info.modules() else { panic!("one module: {info:?}") };
        assert_eq!((module.data.bytes, module.command_line()), (b"hello".as_slice(), b"a=1".as_slice()));
        assert_eq!(info.memory_map().unwrap().ram_size(), 0x9_fc00 + 0xef_f000);
        // All but the modules lies in the structure.
        let size = u64::from(word(&grubs(), 0));
        let outside = |range: &core::ops::Range<u64>| !range.is_empty() && range.end > BASE + size;
        let reserved = info.reserved();
        assert!(reserved[0] == (BASE..BASE + size));
        assert!(reserved.into_iter().filter(outside).eq(core::iter::once(0x9200..0x9205)));
    }

    #[test]
    fn what_is_damaged_in_the_second_is_an_error() {
        // The tags are at 8, 24, 48 and 72; the map's entries have their size at 80.
        for (at, word, expected) in [
            (0, 8, "the Multiboot 2 information at offset 0 is damaged"),
            (0, 2 << 20, "the Multiboot 2 information at offset 0 is damaged"),
            (0, 0x500, "the Multiboot 2 information at 0x9000 is outside of memory"),
            (0, 72, "a tag of Multiboot 2 at offset 72 is damaged"),
            (12, 7, "a tag of Multiboot 2 at offset 8 is damaged"),
            (12, u32::MAX, "a tag of Multiboot 2 at offset 8 is damaged"),
            (12, 12, "a tag of Multiboot 2 at offset 8 is damaged"),
            (52, 16, "a tag of Multiboot 2 at offset 48 is damaged"),
            (60, 0, "a tag of Multiboot 2 at offset 48 is damaged"),
            (60, u32::MAX, "a module at 0x9200 is outside of memory"),
            (80, 0, "an entry of the memory map at offset 0 is damaged"),
            (80, 32, "an entry of the memory map at offset 32 is damaged"),
        ] {
            let mut memory = grubs();
            put(&mut memory, at, &[word]);
            assert_eq!(second(memory).unwrap_err().to_string(), expected, "{word} at {at}");
        }
        let many: Vec<u8> =
            (0..17).flat_map(|_| [3_u32, 24, 0x9200, 0x9200, 0, 0]).flat_map(u32::to_le_bytes).collect();
        let mut memory = grubs();
        memory[8..8 + many.len()].copy_from_slice(&many);
        put(&mut memory, 0, &[0x300]);
        assert_eq!(second(memory).unwrap_err(), BadStartInfo::Modules(17));
    }
}

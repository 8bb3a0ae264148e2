//! Whether a file can be booted as a PVH guest, and what it needs.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use object::read::elf::{ElfFile64, FileHeader, ProgramHeader};
use object::{Endianness, elf};

/// `XEN_ELFNOTE_PHYS32_ENTRY` (xen/include/public/elfnote.h).
const PHYS32_ENTRY: u32 = 18;

/// What a PVH image needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Where Xen enters it.
    pub entry: u64,
    /// The end of its last segment in memory.
    pub end: u64,
}

impl Image {
    /// The least memory that it can run in, in MiB: what is loaded, and 640 KiB to start with.
    pub fn min_memory(&self) -> u64 {
        (self.end + 640 * 1024).div_ceil(1 << 20)
    }
}

/// Reads and checks an image.
pub fn check(path: &Path) -> Result<Image> {
    let data = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&data).with_context(|| format!("{} is not a guest that Xen can boot", path.display()))
}

fn parse(data: &[u8]) -> Result<Image> {
    ensure!(data.starts_with(b"\x7fELF"), "it is not an ELF file (a guest is built with `cargo xen build`)");
    ensure!(data.get(4) == Some(&2), "it is not a 64-bit ELF file");
    let file = ElfFile64::<Endianness>::parse(data).context("its ELF headers are damaged")?;
    let (header, endian) = (file.elf_header(), file.endian());
    ensure!(header.e_machine(endian) == elf::EM_X86_64, "it is built for another processor, not x86-64");
    ensure!(
        header.e_type(endian) == elf::ET_EXEC,
        "it is a shared object or a position-independent program, not linked as a guest \
         (its build.rs must pass on the link arguments of `sarab`)"
    );
    let mut entry = None;
    let mut end = 0;
    for segment in header.program_headers(endian, data).context("its program headers are damaged")? {
        if segment.p_type(endian) == elf::PT_LOAD {
            end = end.max(segment.p_paddr(endian).saturating_add(segment.p_memsz(endian)));
        }
        let Some(mut notes) = segment.notes(endian, data).context("its notes are damaged")? else { continue };
        while let Some(note) = notes.next().context("its notes are damaged")? {
            if note.name() == b"Xen" && note.n_type(endian) == PHYS32_ENTRY {
                let mut bytes = [0; 8];
                match note.desc() {
                    desc if desc.len() == 4 || desc.len() == 8 => bytes[..desc.len()].copy_from_slice(desc),
                    desc => bail!("its PVH note is {} bytes long, not 4 or 8", desc.len()),
                }
                entry = Some(u64::from_le_bytes(bytes));
            }
        }
    }
    let entry = entry.context(
        "it has no XEN_ELFNOTE_PHYS32_ENTRY note, so it is no PVH guest \
         (an ordinary program? a guest depends on `sarab` with the feature `guest`)",
    )?;
    ensure!(end > 0 && entry < end, "its PVH note names an entry ({entry:#x}) outside of what is loaded");
    Ok(Image { entry, end })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(data: &[u8]) -> String {
        parse(data).unwrap_err().to_string()
    }

    /// An ELF file of one PT_LOAD and one PT_NOTE with the given note.
    fn image(kind: u16, machine: u16, note: &[u8]) -> Vec<u8> {
        let mut data = b"\x7fELF\x02\x01\x01".to_vec();
        data.resize(16, 0);
        data.extend(kind.to_le_bytes());
        data.extend(machine.to_le_bytes());
        data.extend(1_u32.to_le_bytes());
        for word in [0x10_0000_u64, 64, 0] {
            data.extend(word.to_le_bytes());
        }
        data.extend(0_u32.to_le_bytes());
        for half in [64_u16, 56, 2, 64, 0, 0] {
            data.extend(half.to_le_bytes());
        }
        let mut segment = |kind: u32, offset: u64, paddr: u64, filesz: u64, memsz: u64| {
            data.extend(kind.to_le_bytes());
            data.extend(5_u32.to_le_bytes());
            for word in [offset, paddr, paddr, filesz, memsz, 4] {
                data.extend(word.to_le_bytes());
            }
        };
        segment(1, 0, 0x10_0000, 64, 0x2_0000);
        segment(4, 64 + 2 * 56, 0x10_0000, note.len() as u64, note.len() as u64);
        data.extend(note);
        data
    }

    fn note(kind: u32, desc: &[u8]) -> Vec<u8> {
        let mut data = Vec::new();
        for word in [4, desc.len() as u32, kind] {
            data.extend(word.to_le_bytes());
        }
        data.extend(b"Xen\0");
        data.extend(desc);
        data
    }

    #[test]
    fn a_pvh_image_is_recognised() {
        let image = image(2, 62, &note(18, &0x10_0010_u64.to_le_bytes()));
        assert_eq!(parse(&image).unwrap(), Image { entry: 0x10_0010, end: 0x12_0000 });
        assert_eq!(Image { entry: 0, end: 0x12_0000 }.min_memory(), 2);
    }

    #[test]
    fn everything_else_is_refused_with_a_reason() {
        let good = note(18, &0x10_0000_u32.to_le_bytes());
        assert!(error(b"#!/bin/sh\n").contains("not an ELF file"));
        assert!(error(b"\x7fELF\x01").contains("not a 64-bit"));
        assert!(error(&image(2, 62, &good)[..50]).contains("damaged"));
        assert!(error(&image(2, 62, &good)[..100]).contains("damaged"));
        assert!(error(&image(3, 62, &good)).contains("position-independent"));
        assert!(error(&image(2, 183, &good)).contains("another processor"));
        assert!(error(&image(2, 62, &note(17, &[0; 8]))).contains("no XEN_ELFNOTE_PHYS32_ENTRY"));
        assert!(error(&image(2, 62, &note(18, &[0; 5]))).contains("5 bytes long"));
        assert!(error(&image(2, 62, &note(18, &0x20_0000_u64.to_le_bytes()))).contains("outside of what is loaded"));
        assert!(error(&image(2, 62, &good[..10])).contains("damaged"));
    }
}

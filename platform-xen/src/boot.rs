//! From the entries to Rust: 32-bit protected mode without paging to 64-bit long mode.
//!
//! Xen enters a PVH guest by an ELF note (docs/misc/pvh.pandoc). In an HVM guest a boot loader does it by one of two
//! headers: QEMU, with `kernel=` in the xl file, by Multiboot 1 (section 3.1; QEMU takes no 64-bit ELF file without the
//! addresses in that header), GRUB by either, mostly Multiboot 2 (section 3.1). All three leave the processor in the same
//! state, but for the registers: EBX has the address of what the loader tells, and with Multiboot EAX has a magic number.
//!
//! The page tables made here map the first 4 GiB one to one, writable and executable; [`paging`](crate::paging) takes
//! that back as soon as it knows where things are.

use core::arch::global_asm;

pvh::xen_elfnote_phys32_entry!(sarab_pvh_entry);

unsafe extern "C" {
    fn sarab_pvh_entry() -> !;
}

// Loaders look for these in the first 8 KiB of the file (Multiboot 1) and the first 32 KiB (2): `sarab.ld` puts them first.
#[cfg(feature = "hvm")]
global_asm!(
    r#"
    .section .text.multiboot, "ax"
    .balign 8
    .long {magic_1}
    .long {flags}
    .long {checksum_1}
    .long __image_start                 // of this header
    .long __image_start                 // where the file is loaded, from this header on
    .long __data_end
    .long __image_end                   // zeros up to here
    .long sarab_multiboot_entry

    .balign 8
    .long {magic_2}
    .long 0                             // i386: 32-bit protected mode
    .long {length_2}
    .long {checksum_2}
    .short 3, 0                         // the entry, which is not the ELF file's
    .long 12, sarab_multiboot_entry, 0
    .short 6, 0                         // modules on pages
    .long 8
    .short 0, 0                         // the end
    .long 8
    .text
    "#,
    magic_1 = const MULTIBOOT_1,
    flags = const FLAGS_1,
    checksum_1 = const 0_u32.wrapping_sub(MULTIBOOT_1).wrapping_sub(FLAGS_1),
    magic_2 = const MULTIBOOT_2,
    length_2 = const LENGTH_2,
    checksum_2 = const 0_u32.wrapping_sub(MULTIBOOT_2).wrapping_sub(LENGTH_2),
);

/// What the two headers begin with.
#[cfg(feature = "hvm")]
const MULTIBOOT_1: u32 = 0x1bad_b002;
#[cfg(feature = "hvm")]
const MULTIBOOT_2: u32 = 0xe852_50d6;
/// Modules on pages, a memory map is wanted, and the header has addresses.
#[cfg(feature = "hvm")]
const FLAGS_1: u32 = 1 | 1 << 1 | 1 << 16;
/// Bytes of the second header: its own fields, and three tags.
#[cfg(feature = "hvm")]
const LENGTH_2: u32 = 16 + 16 + 8 + 8;

global_asm!(
    r#"
    .section .text.boot, "ax"
    .code32
    .global sarab_pvh_entry
sarab_pvh_entry:
    xor eax, eax
sarab_multiboot_entry:
    cld
    cli
    mov esp, offset __stack_top
    mov edi, ebx                        // what the loader tells, the first argument of sarab_start
    mov esi, eax                        // by which protocol, the second: 0 for hvm_start_info

    // Four page directories of 2 MiB pages: present, writable, large.
    mov eax, 0x83
    mov ebx, offset __boot_pd
    mov ecx, 2048
2:  mov dword ptr [ebx], eax
    mov dword ptr [ebx + 4], 0
    add eax, 0x200000
    add ebx, 8
    loop 2b

    mov eax, offset __boot_pd + 3
    mov ebx, offset __boot_pdpt
    mov ecx, 4
3:  mov dword ptr [ebx], eax
    mov dword ptr [ebx + 4], 0
    add eax, 0x1000
    add ebx, 8
    loop 3b

    mov eax, offset __boot_pdpt + 3
    mov dword ptr [__boot_pml4], eax
    mov eax, offset __boot_pml4
    mov cr3, eax

    mov eax, 0x620                      // PAE, OSFXSR, OSXMMEXCPT: compiled code, even core, uses SSE
    mov cr4, eax
    mov ecx, 0xc0000080                 // EFER
    rdmsr
    or eax, 0x900                       // LME, NXE
    wrmsr
    mov eax, 0x80010033                 // PG, WP, NE, ET, MP, PE; EM and TS clear
    mov cr0, eax

    lgdt [__boot_gdtr]
    .byte 0xea                          // jmp far 0x08:sarab_long_mode
    .long sarab_long_mode
    .word 0x08

    .code64
sarab_long_mode:
    xor eax, eax
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov fs, eax
    mov gs, eax
    mov edi, edi
    mov esi, esi
    xor ebp, ebp                        // ends the chain of frames
    call {start}
    ud2

    .section .rodata.boot, "a"
    .align 8
__boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff            // 64-bit code
__boot_gdtr:
    .word 15
    .long __boot_gdt

    .section .bss.boot, "aw", @nobits
    .align 4096
__boot_pml4: .skip 4096
__boot_pdpt: .skip 4096
    .global __boot_pd
__boot_pd:   .skip 4 * 4096
    .text
    "#,
    start = sym crate::start::sarab_start,
);

//! From Xen's entry to Rust: 32-bit protected mode without paging (docs/misc/pvh.pandoc) to 64-bit long mode.
//!
//! The page tables made here map the first 4 GiB one to one, writable and executable; [`paging`](crate::paging) takes
//! that back as soon as it knows where things are.

use core::arch::global_asm;

pvh::xen_elfnote_phys32_entry!(sarab_pvh_entry);

unsafe extern "C" {
    fn sarab_pvh_entry() -> !;
}

global_asm!(
    r#"
    .section .text.boot, "ax"
    .code32
    .global sarab_pvh_entry
sarab_pvh_entry:
    cld
    cli
    mov esp, offset __stack_top
    mov edi, ebx                        // hvm_start_info, the first argument of sarab_start

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

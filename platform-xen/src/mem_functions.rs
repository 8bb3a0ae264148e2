//! The memory functions that compiled code calls. The compiler's own runtime leaves them to the C library on this
//! target, and Rust loops would be compiled into calls of themselves.

use core::arch::global_asm;

global_asm!(
    r#"
    .section .text.mem, "ax"

    .global memcpy
    .type memcpy, @function
memcpy:
    mov rax, rdi
    cmp rdx, 16
    jb 4f
    cmp rdx, 32
    jbe 3f
    mov rcx, rdx
    shr rcx, 3
    and edx, 7
    rep movsq
    mov ecx, edx
    rep movsb
    ret
3:  movups xmm0, [rsi]                  // 16 to 32 bytes: two loads that may overlap
    movups xmm1, [rsi + rdx - 16]
    movups [rdi], xmm0
    movups [rdi + rdx - 16], xmm1
    ret
4:  cmp edx, 8
    jb 5f
    mov rcx, [rsi]
    mov r8, [rsi + rdx - 8]
    mov [rdi], rcx
    mov [rdi + rdx - 8], r8
    ret
5:  cmp edx, 4
    jb 6f
    mov ecx, [rsi]
    mov r8d, [rsi + rdx - 4]
    mov [rdi], ecx
    mov [rdi + rdx - 4], r8d
    ret
6:  mov ecx, edx
    rep movsb
    ret

    .global memmove
    .type memmove, @function
memmove:
    mov rcx, rdi
    sub rcx, rsi
    cmp rcx, rdx                        // unsigned: below means that dst lies within src
    jae memcpy
    mov rax, rdi
    mov rcx, rdx
    lea rsi, [rsi + rdx - 1]
    lea rdi, [rdi + rdx - 1]
    std
    rep movsb
    cld
    ret

    .global memset
    .type memset, @function
memset:
    mov r8, rdi
    movzx eax, sil
    mov r9, 0x0101010101010101
    imul rax, r9
    mov rcx, rdx
    shr rcx, 3
    and edx, 7
    rep stosq
    mov ecx, edx
    rep stosb
    mov rax, r8
    ret

    .global memcmp
    .global bcmp
    .type memcmp, @function
    .type bcmp, @function
memcmp:
bcmp:
    cmp rdx, 8
    jb 8f
7:  mov rax, [rdi]
    mov rcx, [rsi]
    cmp rax, rcx
    jne 9f
    add rdi, 8
    add rsi, 8
    sub rdx, 8
    cmp rdx, 8
    jae 7b
8:  test rdx, rdx
    jz 10f
    movzx eax, byte ptr [rdi]
    movzx ecx, byte ptr [rsi]
    inc rdi
    inc rsi
    dec rdx
    sub eax, ecx
    jz 8b
    ret
9:  bswap rax                           // the first byte that differs decides
    bswap rcx
    cmp rax, rcx
    sbb eax, eax
    or eax, 1
    ret
10: xor eax, eax
    ret

    .global strlen
    .type strlen, @function
strlen:
    xor eax, eax
11: cmp byte ptr [rdi + rax], 0
    je 12f
    inc rax
    jmp 11b
12: ret

    // Named by the precompiled alloc crate, which is built for unwinding; guests abort.
    .global rust_eh_personality
    .global _Unwind_Resume
rust_eh_personality:
_Unwind_Resume:
    ud2
    .text
    "#
);

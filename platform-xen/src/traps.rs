//! Exceptions: every one ends the domain with a readable report. And the one interrupt: Xen's event upcall.

use core::arch::{global_asm, naked_asm};
use core::cell::UnsafeCell;

use x86_64::VirtAddr;
use x86_64::instructions::tables::load_tss;
use x86_64::registers::control::Cr2;
use x86_64::registers::segmentation::{CS, SS, Segment};
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable, SegmentSelector};
use x86_64::structures::idt::InterruptDescriptorTable;
use x86_64::structures::tss::TaskStateSegment;

use crate::report::{self, Report};
use crate::{image, shared_info};

/// The vector that Xen injects when an event is pending.
pub(crate) const UPCALL_VECTOR: u8 = 0x30;

/// Interrupt-stack-table entries: exceptions run on a stack of their own, since the usual one may be what failed; and
/// a fault while reporting a fault runs on yet another.
const EXCEPTION_STACK: u16 = 0;
const DOUBLE_FAULT_STACK: u16 = 1;

/// A page-aligned stack.
#[repr(align(4096))]
struct Stack<const N: usize>(UnsafeCell<[u8; N]>);
// SAFETY: only the processor uses it, as a stack.
unsafe impl<const N: usize> Sync for Stack<N> {}

static EXCEPTION_STACK_MEMORY: Stack<16384> = Stack(UnsafeCell::new([0; 16384]));
static DOUBLE_FAULT_STACK_MEMORY: Stack<8192> = Stack(UnsafeCell::new([0; 8192]));

impl<const N: usize> Stack<N> {
    fn top(&self) -> VirtAddr {
        VirtAddr::from_ptr(self.0.get()) + N as u64
    }
}

/// The processor's tables, written once at start.
struct Tables(UnsafeCell<(TaskStateSegment, GlobalDescriptorTable, InterruptDescriptorTable)>);
// SAFETY: written by `init` alone, before anything reads them.
unsafe impl Sync for Tables {}

static TABLES: Tables =
    Tables(UnsafeCell::new((TaskStateSegment::new(), GlobalDescriptorTable::new(), InterruptDescriptorTable::new())));

/// Loads segments and interrupt vectors. Called once, first thing.
pub(crate) fn init() {
    // SAFETY: called once, on the only CPU.
    let (tss, gdt, idt) = unsafe { &mut *TABLES.0.get() };
    tss.interrupt_stack_table[usize::from(EXCEPTION_STACK)] = EXCEPTION_STACK_MEMORY.top();
    tss.interrupt_stack_table[usize::from(DOUBLE_FAULT_STACK)] = DOUBLE_FAULT_STACK_MEMORY.top();
    let code = gdt.append(Descriptor::kernel_code_segment());
    // SAFETY: the TSS is a static.
    let task = gdt.append(unsafe { Descriptor::tss_segment_unchecked(tss) });
    // SAFETY: the table is a static, and holds a flat 64-bit code segment and a valid TSS.
    unsafe {
        gdt.load_unsafe();
        CS::set_reg(code);
        SS::set_reg(SegmentSelector::NULL);
        load_tss(task);
    }

    let stub = |vector: usize| VirtAddr::new(&raw const sarab_vectors as u64 + (vector * STUB_SIZE) as u64);
    macro_rules! set {
        ($($vector:literal $entry:ident)*) => {
            // SAFETY: each stub takes the frame that the processor pushes for its vector, and never returns; the
            // stacks are used by nothing else.
            unsafe {
                $(idt.$entry.set_handler_addr(stub($vector)).set_stack_index(EXCEPTION_STACK);)*
            }
        };
    }
    set! {
        0 divide_error 1 debug 2 non_maskable_interrupt 3 breakpoint 4 overflow 5 bound_range_exceeded
        6 invalid_opcode 7 device_not_available 10 invalid_tss 11 segment_not_present 12 stack_segment_fault
        13 general_protection_fault 14 page_fault 16 x87_floating_point 17 alignment_check 18 machine_check
        19 simd_floating_point 20 virtualization 21 cp_protection_exception 28 hv_injection_exception
        29 vmm_communication_exception 30 security_exception
    }
    // SAFETY: as above; the upcall returns and changes no register.
    unsafe {
        idt.double_fault.set_handler_addr(stub(8)).set_stack_index(DOUBLE_FAULT_STACK);
        idt[UPCALL_VECTOR].set_handler_addr(VirtAddr::from_ptr(upcall as *const ()));
        idt.load_unsafe();
    }
}

/// Sleeps until an interrupt, with interrupts on for just that long. What came since they were off ends the sleep at
/// once.
#[unsafe(naked)]
pub(crate) extern "C" fn sleep() {
    naked_asm!("sti", ".global sarab_hlt", "sarab_hlt:", "hlt", "cli", "ret")
}

/// Xen's event upcall. It only says that it came: the idle loop looks at the pending bits afterwards. Without the
/// store Xen would inject it again at once (`struct vcpu_info`, xen/include/public/xen.h).
///
/// A processor takes no interrupt between `sti` and the instruction after it, but guests under Xen in QEMU 7.2 were seen
/// asleep with an event pending and its upcall gone, as if it had come right there. So a `hlt` that an upcall comes
/// before is stepped over.
#[unsafe(naked)]
extern "C" fn upcall() {
    naked_asm!(
        "push rax",
        "mov rax, [rip + {page}]",
        "mov byte ptr [rax + {pending}], 0",
        "lea rax, [rip + sarab_hlt]",
        "cmp [rsp + 8], rax",
        "jne 2f",
        "inc qword ptr [rsp + 8]",
        "2:",
        "pop rax",
        "iretq",
        page = sym shared_info::PAGE,
        pending = const crate::abi::shared::UPCALL_PENDING,
    )
}

/// Bytes between two stubs.
const STUB_SIZE: usize = 16;

unsafe extern "C" {
    static sarab_vectors: u8;
}

// One stub for each of the processor's 32 vectors: vector and error code (0 where the processor pushes none) lie on
// the stack in the same way for all.
global_asm!(
    r#"
    .section .text.vectors, "ax"
    .balign 16
    .global sarab_vectors
sarab_vectors:
    .set vector, 0
    .rept 32
    .balign 16
    // Vectors for which the processor pushes an error code: 8, 10 to 14, 17, 21, 29, 30.
    .if ((1 << vector) & 0x60227d00) == 0
    push 0
    .endif
    push vector
    jmp sarab_exception
    .set vector, vector + 1
    .endr

    .balign 16
sarab_exception:
    push rax
    push rbx
    push rcx
    push rdx
    push rsi
    push rdi
    push rbp
    push r8
    push r9
    push r10
    push r11
    push r12
    push r13
    push r14
    push r15
    cld
    mov rdi, rsp
    xor ebp, ebp
    and rsp, -16
    call {handler}
    ud2
    .text
    "#,
    handler = sym exception,
);

/// What the stubs leave on the stack.
#[repr(C)]
struct Frame {
    r15: u64,
    r14: u64,
    r13: u64,
    r12: u64,
    r11: u64,
    r10: u64,
    r9: u64,
    r8: u64,
    rbp: u64,
    rdi: u64,
    rsi: u64,
    rdx: u64,
    rcx: u64,
    rbx: u64,
    rax: u64,
    vector: u64,
    error_code: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

const NAMES: [&str; 32] = [
    "divide error",
    "debug exception",
    "non-maskable interrupt",
    "breakpoint",
    "overflow",
    "bound range exceeded",
    "invalid opcode",
    "device not available",
    "double fault",
    "coprocessor segment overrun",
    "invalid TSS",
    "segment not present",
    "stack-segment fault",
    "general protection fault",
    "page fault",
    "reserved exception",
    "x87 floating-point exception",
    "alignment check",
    "machine check",
    "SIMD floating-point exception",
    "virtualization exception",
    "control protection exception",
    "reserved exception",
    "reserved exception",
    "reserved exception",
    "reserved exception",
    "reserved exception",
    "reserved exception",
    "hypervisor injection exception",
    "VMM communication exception",
    "security exception",
    "reserved exception",
];

extern "C" fn exception(frame: &Frame) -> ! {
    let cr2 = Cr2::read_raw();
    let name = NAMES.get(frame.vector as usize).unwrap_or(&"unknown exception");
    let mut report = Report::begin();
    report.line(format_args!(
        "CRASH: {name} (vector {}), error code {:#x}, RIP {:#x}, CR2 {cr2:#x}",
        frame.vector, frame.error_code, frame.rip
    ));
    if frame.vector == 14 {
        explain_page_fault(&mut report, frame, cr2);
    }
    report.line(format_args!(
        "  RAX {:016x} RBX {:016x} RCX {:016x} RDX {:016x}",
        frame.rax, frame.rbx, frame.rcx, frame.rdx
    ));
    report.line(format_args!(
        "  RSI {:016x} RDI {:016x} RBP {:016x} RSP {:016x}",
        frame.rsi, frame.rdi, frame.rbp, frame.rsp
    ));
    report.line(format_args!(
        "  R8  {:016x} R9  {:016x} R10 {:016x} R11 {:016x}",
        frame.r8, frame.r9, frame.r10, frame.r11
    ));
    report.line(format_args!(
        "  R12 {:016x} R13 {:016x} R14 {:016x} R15 {:016x}",
        frame.r12, frame.r13, frame.r14, frame.r15
    ));
    report.line(format_args!("  CS {:#x} SS {:#x} RFLAGS {:#x}", frame.cs, frame.ss, frame.rflags));
    report.backtrace(Some(frame.rip), frame.rbp, frame.rsp);
    report::crash(report)
}

fn explain_page_fault(report: &mut Report, frame: &Frame, address: u64) {
    let code = frame.error_code;
    let access = match code {
        code if code & 16 != 0 => "execute",
        code if code & 2 != 0 => "write",
        _ => "read",
    };
    let guard = image::stack_guard();
    let what = match code & 1 {
        _ if guard.contains(&address) || guard.contains(&frame.rsp) => {
            "stack overflow: the guard page under the stack was hit"
        }
        1 if code & 16 != 0 => "the memory is not executable",
        1 if code & 2 != 0 => "the memory is read-only",
        1 => "the access is not allowed there",
        _ if address < 0x1000 => "a null pointer, or close to one",
        _ => "nothing is mapped there",
    };
    report.line(format_args!("  {access} at {address:#x}: {what}"));
}

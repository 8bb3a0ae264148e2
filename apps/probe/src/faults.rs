//! Mistakes on purpose: each must end in a readable report.

use core::hint::black_box;

/// Recursion without end: ends at the guard page.
pub fn overflow() -> ! {
    #[inline(never)]
    fn deeper(depth: u64) -> u64 {
        let frame = black_box([depth; 64]);
        match black_box(true) {
            true => deeper(depth + 1) + frame[black_box(3)],
            false => depth,
        }
    }
    panic!("{}", deeper(0))
}

/// A store to a constant.
pub fn write_to_read_only() -> ! {
    static CONSTANT: u64 = 42;
    let address = black_box(&raw const CONSTANT).cast_mut();
    // SAFETY: none: this is the mistake. The page tables catch it.
    unsafe { address.write_volatile(43) };
    panic!("the store went through")
}

/// A call into the heap.
pub fn execute_data() -> ! {
    let code = black_box(alloc::vec![0xc3_u8; 16]);
    // SAFETY: none: this is the mistake. The page tables catch it.
    let function: extern "C" fn() = unsafe { core::mem::transmute(code.as_ptr()) };
    function();
    panic!("the call went through")
}

/// A load near address 0.
pub fn null() -> ! {
    let address = black_box(16_usize) as *const u64;
    // SAFETY: none: this is the mistake. The page tables catch it.
    let value = unsafe { address.read_volatile() };
    panic!("the load went through: {value}")
}

/// An instruction that is none.
pub fn bad_opcode() -> ! {
    // SAFETY: raises an exception, which never returns.
    unsafe { core::arch::asm!("ud2", options(noreturn)) }
}

/// A panic in the middle of a `println!`, while the console is in use.
pub fn panic_while_printing() -> ! {
    struct Broken;
    impl core::fmt::Display for Broken {
        fn fmt(&self, _: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
            panic!("a panic inside of a Display")
        }
    }
    sarab::println!("half a line, then {Broken}");
    panic!("it was printed")
}

/// More memory than there is.
pub fn out_of_memory() -> ! {
    let mut hoard = alloc::vec::Vec::new();
    loop {
        hoard.push(black_box(alloc::vec![1_u8; 1 << 16]));
    }
}

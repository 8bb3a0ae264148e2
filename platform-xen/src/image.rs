//! Where the linker has put the guest's parts (`sarab.ld`).

use core::ops::Range;

unsafe extern "C" {
    static __image_start: u8;
    static __text_start: u8;
    static __text_end: u8;
    static __rodata_start: u8;
    static __rodata_end: u8;
    static __stack_guard: u8;
    static __stack_bottom: u8;
    static __stack_top: u8;
    static __image_end: u8;
}

macro_rules! range {
    ($(#[$doc:meta])* $name:ident, $start:ident, $end:ident) => {
        $(#[$doc])*
        pub(crate) fn $name() -> Range<u64> {
            &raw const $start as u64..&raw const $end as u64
        }
    };
}

range!(
    /// All of it, page-aligned.
    whole, __image_start, __image_end
);
range!(
    /// Code.
    text, __text_start, __text_end
);
range!(
    /// Constants.
    rodata, __rodata_start, __rodata_end
);
range!(
    /// The page under the stack that nothing is mapped at.
    stack_guard, __stack_guard, __stack_bottom
);
range!(
    /// The stack.
    stack, __stack_bottom, __stack_top
);

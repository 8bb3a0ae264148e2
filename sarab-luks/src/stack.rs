//! What work with keys leaves on the stack: copies of what was moved, and spilled registers.
//!
//! It matters there, and elsewhere too: a value with parts that are not initialised takes what was on the stack along when it is
//! moved to the heap.

use core::hint::black_box;

use zeroize::Zeroize;

/// More than the ciphers and hash functions use.
const LEN: usize = 12 << 10;

/// Does work that handles keys, and overwrites the stack that it had.
#[inline(never)]
pub(crate) fn wiped<T>(work: impl FnOnce() -> T) -> T {
    let output = call(work);
    wipe();
    output
}

/// Has a frame of its own, which lies where [`wipe`]'s will be.
#[inline(never)]
fn call<T>(work: impl FnOnce() -> T) -> T {
    black_box(work())
}

#[inline(never)]
fn wipe() {
    let mut bytes = [0_u8; LEN];
    black_box(&mut bytes).zeroize();
}

//! Bytes of buffers.

use xen_blkif::Buffer;

use crate::layout::BLOCK;

/// Copies from one buffer to another.
pub(crate) fn copy(from: &impl Buffer, at: usize, to: &impl Buffer, to_at: usize, len: usize) {
    from.copy(at, len, to, to_at);
}

pub(crate) fn zero(buffer: &impl Buffer, at: usize, len: usize) {
    const ZEROES: [u8; BLOCK] = [0; BLOCK];
    for done in (0..len).step_by(BLOCK) {
        buffer.write(at + done, &ZEROES[..BLOCK.min(len - done)]);
    }
}

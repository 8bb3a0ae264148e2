//! Bytes that have come and were not decoded yet.

use alloc::vec::Vec;

/// Collects what comes in pieces of any length, until a whole message is there.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    bytes: Vec<u8>,
    /// What was taken, and not removed yet.
    taken: usize,
}

impl Backlog {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        // All of it at once: whoever moves the rest for each message does so many times for a piece with many of them.
        self.bytes.drain(..self.taken);
        self.taken = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next `len` bytes, if there are so many.
    pub(crate) fn take(&mut self, len: usize) -> Option<&[u8]> {
        let start = self.taken;
        let bytes = self.bytes.get(start..start.checked_add(len)?)?;
        self.taken += len;
        Some(bytes)
    }
}

/// The `u32` in these four bytes, which Qubes has in the byte order of x86.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// What is before the first NUL.
pub(crate) fn until_nul(bytes: &[u8]) -> Option<&[u8]> {
    bytes.iter().position(|byte| *byte == 0).map(|end| &bytes[..end])
}

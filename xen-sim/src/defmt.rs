//! What a guest logs with defmt, for tests of whole guests: the frames are for `cargo xen logs`, and are dropped here.

use defmt::{Logger, global_logger, timestamp};

#[global_logger]
struct NullLogger;

// SAFETY: nothing is written, so that nothing can be interleaved.
unsafe impl Logger for NullLogger {
    fn acquire() {}

    unsafe fn flush() {}

    unsafe fn release() {}

    unsafe fn write(_: &[u8]) {}
}

timestamp!("");

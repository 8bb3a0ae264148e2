//! The first serial port of an HVM guest (`serial=` in its xl file), a 16550 at 0x3f8: crash reports, and what is printed
//! where the domain has no other console. Each byte costs an exit to the device model, so ordinary output does not go
//! there.

use core::sync::atomic::{AtomicBool, Ordering};

use x86_64::instructions::port::Port;

const BASE: u16 = 0x3f8;
const LINE_STATUS: u16 = 5;
const SCRATCH: u16 = 7;
/// The line status' bit for room in the transmitter.
const TRANSMITTER_EMPTY: u8 = 1 << 5;
/// How often the status is read for one byte: some 0.1 s. A port whose reader takes nothing is given up then.
const TRIES: u32 = 10_000;

/// Whether there is one that takes bytes.
static PRESENT: AtomicBool = AtomicBool::new(false);

fn is_present() -> bool {
    cfg!(feature = "hvm") && PRESENT.load(Ordering::Relaxed)
}

fn read(register: u16) -> u8 {
    // SAFETY: the registers of a serial port; where there is none, nothing is read.
    unsafe { Port::new(BASE + register).read() }
}

fn write_register(register: u16, value: u8) {
    // SAFETY: as above; no memory is reached through them.
    unsafe { Port::new(BASE + register).write(value) }
}

/// Looks for the port, and sets it to 115,200 bits per second, 8 bits, no parity.
pub(crate) fn init() {
    let is_kept = |value| {
        write_register(SCRATCH, value);
        read(SCRATCH) == value
    };
    if is_kept(0x5a) && is_kept(0xa5) {
        // No interrupts; divisor 1; 8 bits; queues on and empty; ready to send.
        for (register, value) in [(1, 0), (3, 0x80), (0, 1), (1, 0), (3, 3), (2, 7), (4, 3)] {
            write_register(register, value);
        }
        PRESENT.store(true, Ordering::Relaxed);
    }
}

/// Writes text, with a carriage return before each line feed that lacks one.
pub(crate) fn write(text: &[u8]) {
    if !is_present() {
        return;
    }
    let mut last = 0;
    for byte in text {
        if *byte == b'\n' && last != b'\r' {
            write_byte(b'\r');
        }
        write_byte(*byte);
        last = *byte;
    }
}

fn write_byte(byte: u8) {
    if !is_present() {
        return;
    }
    match (0..TRIES).any(|_| read(LINE_STATUS) & TRANSMITTER_EMPTY != 0) {
        true => write_register(0, byte),
        false => PRESENT.store(false, Ordering::Relaxed),
    }
}

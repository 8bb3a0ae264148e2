//! defmt's output on the console, between the text for people.
//!
//! A frame travels as a *privacy message* (`ESC ^ … ESC \`, ECMA-48 section 8.3.94), base64 inside: terminals do not
//! show it, so `xl console` stays readable; `cargo xen logs` decodes it.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use defmt::Encoder;

use crate::cell::Global;
use crate::console;

/// The longest frame; a longer one is dropped and counted.
const MAX_LEN: usize = 1024;

#[defmt::global_logger]
struct Logger;

struct State {
    encoder: Encoder,
    frame: [u8; MAX_LEN],
    len: usize,
    overflow: bool,
}

static STATE: Global<State> =
    Global::new(State { encoder: Encoder::new(), frame: [0; MAX_LEN], len: 0, overflow: false });

impl State {
    fn push(frame: &mut [u8; MAX_LEN], len: &mut usize, overflow: &mut bool, bytes: &[u8]) {
        match frame.get_mut(*len..*len + bytes.len()) {
            Some(room) => {
                room.copy_from_slice(bytes);
                *len += bytes.len();
            }
            None => *overflow = true,
        }
    }

    fn encode(&mut self, step: impl FnOnce(&mut Encoder, &mut dyn FnMut(&[u8]))) {
        let State { encoder, frame, len, overflow } = self;
        step(encoder, &mut |bytes| State::push(frame, len, overflow, bytes));
    }
}

// SAFETY: one core and no logging from interrupts: frames cannot interleave. A log statement inside the formatting of
// another is caught by `Global`.
unsafe impl defmt::Logger for Logger {
    fn acquire() {
        let mut state = STATE.get();
        state.len = 0;
        state.overflow = false;
        state.encode(|encoder, out| encoder.start_frame(out));
    }

    unsafe fn flush() {}

    unsafe fn release() {
        let mut state = STATE.get();
        state.encode(|encoder, out| encoder.end_frame(out));
        if state.overflow {
            console::write_message(&[b"[log: a message was too long]\r\n"]);
            return;
        }
        let mut text = [0; MAX_LEN.div_ceil(3) * 4];
        if let Ok(count) = BASE64_STANDARD_NO_PAD.encode_slice(&state.frame[..state.len], &mut text) {
            console::write_message(&[b"\x1b^", &text[..count], b"\x1b\\"]);
        }
    }

    unsafe fn write(bytes: &[u8]) {
        STATE.get().encode(|encoder, out| encoder.write(bytes, out));
    }
}

defmt::timestamp!("{=u64:us}", crate::time::now_ns() / 1000);

//! The domain's console. Output never waits: it goes through a bounded buffer that drops and counts what the other end
//! does not take in time. Where the toolstack gave the domain no console, text goes to the hypervisor's.

mod buffer;
pub(crate) mod ring;

use alloc::vec::Vec;
use core::convert::Infallible;
use core::fmt::{self, Write as _};
use core::future::poll_fn;
use core::ptr::NonNull;
use core::task::{Poll, Waker};

use xen_hal::Port as _;
use xen_ring::{BadIndex, WaitQueue};

use crate::cell::{Global, OneCore};
use crate::events::{XenEventChannels, XenPort};
use crate::executor::{budget, yield_now};
use crate::time::now_ns;
use crate::{abi, domain, executor, hypercall};
use buffer::Buffer;
use ring::Ring;

/// Bytes that may wait for the other end.
const BUFFER: usize = 16 * 1024;

static CONSOLE: Global<Option<State>> = Global::new(None);
/// Tasks that wait for input, for room, or for everything to be taken.
static WAITING: OneCore<WaitQueue> = OneCore::new(WaitQueue::new());

struct State {
    buffer: Buffer,
    channel: Option<Channel>,
    /// The task of [`start`], while the domain has no channel to wait on.
    mover: Option<Waker>,
}

struct Channel {
    ring: Ring,
    port: XenPort,
}

/// Finds the console that the toolstack made. At start, and again after a resume.
pub(crate) fn init() {
    let channel = find();
    let mut console = CONSOLE.get();
    match &mut *console {
        // The old port is from before the resume; dropping it touches nothing.
        Some(state) => state.channel = channel,
        None => *console = Some(State { buffer: Buffer::new(BUFFER), channel, mover: None }),
    }
}

fn find() -> Option<Channel> {
    let frame = domain::param(abi::HVM_PARAM_CONSOLE_PFN)?;
    let port = domain::param(abi::HVM_PARAM_CONSOLE_EVTCHN)?;
    let page =
        NonNull::new(core::ptr::with_exposed_provenance_mut::<u8>(usize::try_from(frame).ok()?.checked_mul(4096)?))?;
    // SAFETY: the toolstack has put the console's page there for this domain; the page tables map it; the old ring's
    // value is dropped with its channel.
    let ring = unsafe { Ring::new(page) }.map_err(warn).ok()?;
    Some(Channel { ring, port: XenEventChannels.adopt(u32::try_from(port).ok()?)? })
}

fn warn(error: BadIndex) {
    // Without the heap: the domain may be about to end.
    struct Hypervisor;
    impl fmt::Write for Hypervisor {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            hypercall::console_write(text.as_bytes());
            Ok(())
        }
    }
    let _ = writeln!(Hypervisor, "sarab: console: {error}; using the hypervisor's console");
}

/// Starts the task that moves bytes when the other end makes room or sends some.
pub(crate) fn start() {
    executor::spawn(async {
        loop {
            poll_fn(|cx| {
                with(|state| {
                    state.mover = Some(cx.waker().clone());
                    match &state.channel {
                        Some(channel) => channel.port.poll_wait(cx),
                        None => Poll::Pending,
                    }
                })
                .unwrap_or(Poll::Pending)
            })
            .await;
            with(|state| state.pump());
            WAITING.wake_all();
            // The daemon may send events faster than they are taken.
            yield_now().await;
        }
    })
    .detach();
}

/// Has everybody look at the console again after a resume, which has brought a new port.
pub(crate) fn wake() {
    let mover = with(|state| state.mover.take()).flatten();
    mover.into_iter().for_each(Waker::wake);
    WAITING.wake_all();
}

fn with<R>(action: impl FnOnce(&mut State) -> R) -> Option<R> {
    CONSOLE.get().as_mut().map(action)
}

impl State {
    /// Moves what fits from the buffer to the other end.
    fn pump(&mut self) {
        let Some(channel) = &mut self.channel else {
            while !self.buffer.is_empty() {
                let part = self.buffer.front();
                hypercall::console_write(part);
                let count = part.len();
                self.buffer.consume(count);
            }
            return;
        };
        let mut moved = false;
        while !self.buffer.is_empty() {
            match channel.ring.write(self.buffer.front()) {
                Ok(0) => break,
                Ok(count) => {
                    moved = true;
                    self.buffer.consume(count);
                }
                Err(error) => return self.give_up(error),
            }
        }
        if moved {
            channel.port.notify();
        }
    }

    /// Takes what the other end has sent, as far as it fits.
    fn read(&mut self, buffer: &mut [u8]) -> usize {
        let Some(channel) = &mut self.channel else { return 0 };
        match channel.ring.read(buffer) {
            Ok(moved) => {
                if moved.notify {
                    channel.port.notify();
                }
                moved.bytes
            }
            Err(error) => {
                self.give_up(error);
                0
            }
        }
    }

    /// The console daemon has written invalid indices: the console is lost, the domain goes on.
    fn give_up(&mut self, error: BadIndex) {
        self.channel = None;
        warn(error);
        self.pump();
    }

    /// Moves everything to the other end, for as long as that takes something now and then, but not for ever.
    fn drain(&mut self) {
        let latest = now_ns() + DRAIN_TIMEOUT;
        let mut deadline = now_ns() + FINAL_OUTPUT_TIMEOUT;
        let mut reminder = now_ns() + NOTIFY_INTERVAL;
        let mut least = usize::MAX;
        loop {
            self.pump();
            // The daemon ignores events for a while where they are many; this one would not be sent again.
            if now_ns() >= reminder {
                reminder = now_ns() + NOTIFY_INTERVAL;
                if let Some(channel) = &self.channel {
                    channel.port.notify();
                }
            }
            let unread = self.channel.as_ref().map_or(0, |channel| channel.ring.unread());
            let left = self.buffer.len() + unread;
            if left < least {
                (least, deadline) = (left, now_ns() + FINAL_OUTPUT_TIMEOUT);
            }
            if left == 0 || now_ns() >= deadline.min(latest) {
                return;
            }
            hypercall::sched_yield();
        }
    }
}

/// Prints, whole or, where the buffer is full, not at all. For [`print!`](crate::print) and [`println!`](crate::println).
#[doc(hidden)]
pub fn print(text: fmt::Arguments<'_>) {
    struct Lines<'a>(&'a mut Buffer);
    impl fmt::Write for Lines<'_> {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            // A console in raw mode does not go back to the first column by itself.
            for part in text.split_inclusive('\n') {
                match part.strip_suffix('\n') {
                    Some(line) => {
                        self.0.add(line.as_bytes());
                        self.0.add(b"\r\n");
                    }
                    None => self.0.add(part.as_bytes()),
                }
            }
            Ok(())
        }
    }
    with(|state| {
        state.buffer.begin();
        let _ = Lines(&mut state.buffer).write_fmt(text);
        state.buffer.end();
        state.pump();
    });
}

/// Puts bytes out as they are, whole or not at all.
pub(crate) fn write_message(parts: &[&[u8]]) {
    with(|state| {
        state.buffer.begin();
        parts.iter().for_each(|part| state.buffer.add(part));
        state.buffer.end();
        state.pump();
    });
}

/// Prints to the console, without waiting: where the console's other end lags behind by more than 16 KiB, the whole
/// text is dropped, and a line that counts what is missing comes in its place.
#[macro_export]
macro_rules! print {
    ($($arg:tt)*) => { $crate::console::print(::core::format_args!($($arg)*)) };
}

/// [`print!`](crate::print) with a line feed.
#[macro_export]
macro_rules! println {
    () => { $crate::print!("\n") };
    ($($arg:tt)*) => { $crate::console::print(::core::format_args!("{}\n", ::core::format_args!($($arg)*))) };
}

/// The console as a stream of bytes in both directions.
#[derive(Clone, Copy, Debug, Default)]
pub struct Console {
    _private: (),
}

impl Console {
    pub(crate) const fn new() -> Console {
        Console { _private: () }
    }

    /// Bytes dropped so far because the other end did not take them in time.
    pub fn dropped(&self) -> u64 {
        with(|state| state.buffer.total_dropped()).unwrap_or(0)
    }

    /// Waits for input and takes up to `buffer.len()` bytes of it.
    ///
    /// # Cancellation
    ///
    /// Takes nothing unless it completes.
    pub async fn read(&self, buffer: &mut [u8]) -> usize {
        if buffer.is_empty() {
            return 0;
        }
        budget().await;
        WAITING.wait_until(|| with(|state| state.read(buffer)).filter(|count| *count > 0)).await
    }

    /// Waits for a line of input, without its end; a line of more than `most` bytes is cut there.
    ///
    /// # Cancellation
    ///
    /// Dropping the future loses the part of a line that was read.
    pub async fn read_line(&self, most: usize) -> alloc::string::String {
        let mut line = Vec::new();
        loop {
            let mut byte = [0];
            self.read(&mut byte).await;
            match byte[0] {
                b'\n' | b'\r' if line.is_empty() => {}
                b'\n' | b'\r' => break,
                byte => line.push(byte),
            }
            if line.len() >= most {
                break;
            }
        }
        alloc::string::String::from_utf8_lossy(&line).into_owned()
    }

    /// Puts out bytes as they are, waiting for room in the buffer rather than dropping; returns how many it took.
    ///
    /// # Cancellation
    ///
    /// Takes nothing unless it completes.
    pub async fn write(&self, bytes: &[u8]) -> usize {
        if bytes.is_empty() {
            return 0;
        }
        budget().await;
        WAITING
            .wait_until(|| {
                let written = with(|state| {
                    let count = state.buffer.add_some(bytes);
                    state.pump();
                    count
                });
                Some(written.unwrap_or(bytes.len())).filter(|count| *count > 0)
            })
            .await
    }

    /// Waits until the other end has taken everything.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time.
    pub async fn flush(&self) {
        WAITING
            .wait_until(|| {
                let flushed = with(|state| {
                    state.pump();
                    state.buffer.is_empty() && state.channel.as_ref().is_none_or(|channel| channel.ring.unread() == 0)
                });
                flushed.unwrap_or(true).then_some(())
            })
            .await;
    }
}

impl embedded_io_async::ErrorType for Console {
    type Error = Infallible;
}

impl embedded_io_async::Read for Console {
    async fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Infallible> {
        Ok(Console::read(self, buffer).await)
    }
}

impl embedded_io_async::Write for Console {
    async fn write(&mut self, bytes: &[u8]) -> Result<usize, Infallible> {
        Ok(Console::write(self, bytes).await)
    }

    async fn flush(&mut self) -> Result<(), Infallible> {
        Console::flush(self).await;
        Ok(())
    }
}

/// How long the last words may wait for the console daemon to take any of them.
const FINAL_OUTPUT_TIMEOUT: u64 = 5_000_000_000;
/// How long it may take to take them all.
const DRAIN_TIMEOUT: u64 = 30_000_000_000;
/// How often the daemon is notified meanwhile.
const NOTIFY_INTERVAL: u64 = 50_000_000;

/// Gives the console daemon a while to take what is there.
pub(crate) fn drain() {
    with(|state| state.drain());
}

/// The console at a domain's end, for the report of why it ends.
///
/// # Safety
///
/// The domain ends: nothing that ran before runs again.
pub(crate) unsafe fn final_output() -> Option<FinalOutput> {
    // SAFETY: the caller's promise.
    unsafe { CONSOLE.seize() }.as_mut().map(|state| {
        // A message that was being written when the domain crashed stays as it is.
        state.buffer.end();
        state.drain();
        FinalOutput { state }
    })
}

/// A console that nothing else uses any more.
pub(crate) struct FinalOutput {
    state: &'static mut State,
}

impl FinalOutput {
    /// Writes text, waiting a while for room.
    pub(crate) fn write(&mut self, text: &[u8]) {
        for part in text.split_inclusive(|byte| *byte == b'\n') {
            let (line, end): (_, &[u8]) = match part.strip_suffix(b"\n") {
                Some(line) => (line, b"\r\n"),
                None => (part, b""),
            };
            push(self.state, line);
            push(self.state, end);
        }
    }

    /// Gives the console daemon a while to take it.
    pub(crate) fn drain(&mut self) {
        self.state.drain();
    }
}

fn push(state: &mut State, mut bytes: &[u8]) {
    let Some(channel) = &mut state.channel else { return };
    let deadline = now_ns() + FINAL_OUTPUT_TIMEOUT;
    while !bytes.is_empty() && now_ns() < deadline {
        let Ok(count) = channel.ring.write(bytes) else { return };
        bytes = &bytes[count..];
        channel.port.notify();
        if count == 0 {
            hypercall::sched_yield();
        }
    }
}

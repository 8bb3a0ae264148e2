//! The machine below an [`App`](crate::App): a domain of a simulated Xen, of which there may be several on a thread.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::format;
use alloc::rc::{Rc, Weak};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::convert::Infallible;
use core::fmt;
use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;
use std::panic::{self, AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Mutex, Once};
use std::thread_local;

use embedded_hal_async::delay::DelayNs;
use rand_core::{TryCryptoRng, TryRng};
use xen_hal::{Clock, DomId, Errno, PAGE_SIZE, Reservation, ReservationSize};
use xen_ring::WaitQueue;

use crate::app::Domain;
use crate::args::Args;
use crate::testing::End;

pub(crate) use platform_xen::{Counters, EntropyError, MemoryInfo, Resumed, ShutdownReason};
pub(crate) use xen_sim::Domain as XenPlatform;
pub(crate) use xen_sim::Domain as XenEventChannels;
pub(crate) use xen_sim::Domain as XenGrantTable;
pub(crate) use xen_sim::Domain as XenStoreChannel;

pub(crate) use crate::println;

/// A task of a simulated domain.
pub type Task<T> = platform_xen::Task<T, Option<DomId>>;

/// Xen's wall clock where the simulation starts: 2026-01-01 00:00 UTC.
const START: Duration = Duration::from_secs(1_767_225_600);

/// The part of `platform-xen` that a simulated domain has.
pub mod platform {
    pub use super::{
        Console, Entropy, Task, XenClock, XenVersion, console_handle, counters, crash, domain_id, memory, poweroff,
        reboot, shutdown, spawn, suspend, xen_version,
    };
    pub use crate::{print, println};
    pub use platform_xen::{Counters, EntropyError, MemoryInfo, Resumed, ShutdownReason};
    pub use xen_sim::Domain as XenPlatform;
    pub use xen_sim::Domain as XenEventChannels;
    pub use xen_sim::Domain as XenGrantTable;
    pub use xen_sim::Domain as XenStoreChannel;
    pub use xen_sim::{
        SimEventChannelError as XenEventChannelError, SimGrant as XenGrant, SimGrantError as XenGrantError,
        SimMapping as XenMapping, SimPort as XenPort,
    };
    pub use xenbus::yield_now;
}

/// A guest in the simulation: what there is once in it.
pub(crate) struct Machine {
    number: u64,
    pub(crate) domain: xen_sim::Domain,
    arguments: Args,
    modules: Vec<&'static [u8]>,
    own: Domain,
    pub(crate) console: RefCell<Vec<u8>>,
    input: RefCell<VecDeque<u8>>,
    /// For output, input and the end.
    pub(crate) changed: WaitQueue,
    pub(crate) end: RefCell<Option<End>>,
    random: Cell<u64>,
    /// What the wall clock lacks, in nanoseconds.
    wall_offset: Cell<i64>,
    polls: Cell<u64>,
}

thread_local! {
    /// The one whose task is polled.
    static CURRENT: RefCell<Option<Rc<Machine>>> = const { RefCell::new(None) };
    static MACHINES: RefCell<BTreeMap<u64, Weak<Machine>>> = const { RefCell::new(BTreeMap::new()) };
    /// Where the latest panic was.
    static PLACE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Unwinds a task of a domain that has ended.
struct Ended;

impl Machine {
    pub(crate) fn new(
        domain: xen_sim::Domain,
        command_line: &str,
        memory: u64,
        modules: Vec<&'static [u8]>,
        seed: u64,
    ) -> Rc<Machine> {
        let pages = memory / PAGE_SIZE as u64;
        domain.set_reservation(ReservationSize { maximum: pages, current: pages, free: pages / 8 * 7 });
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let before = panic::take_hook();
            panic::set_hook(Box::new(move |info| {
                // A guest's panic is on its console, and tells its end. A backtrace would also take more memory than a run may.
                match current() {
                    Some(_) => PLACE.set(info.location().map_or_else(String::new, |at| format!(" at {at}"))),
                    None => before(info),
                }
            }));
        });
        MACHINES.with_borrow_mut(|machines| {
            machines.retain(|_, machine| machine.strong_count() > 0);
            let number = machines.last_key_value().map_or(0, |(last, _)| last + 1);
            let machine = Rc::new(Machine {
                number,
                domain,
                arguments: Args::new(kept(command_line)),
                modules,
                own: Domain::default(),
                console: RefCell::default(),
                input: RefCell::default(),
                changed: WaitQueue::new(),
                end: RefCell::default(),
                random: Cell::new(seed),
                wall_offset: Cell::new(0),
                polls: Cell::new(0),
            });
            machines.insert(number, Rc::downgrade(&machine));
            machine
        })
    }

    pub(crate) fn own(&self) -> Own {
        Own(self.number)
    }

    /// Ends the domain, if it has not ended.
    pub(crate) fn finish(&self, end: End) {
        self.end.borrow_mut().get_or_insert(end);
        self.domain.destroy();
        self.changed.wake_all();
    }

    pub(crate) fn type_in(&self, bytes: &[u8]) {
        self.input.borrow_mut().extend(bytes);
        self.changed.wake_all();
    }

    fn print(&self, text: &[u8]) {
        self.console.borrow_mut().extend_from_slice(text);
        self.changed.wake_all();
    }

    fn next_random(&self) -> u64 {
        // SplitMix64.
        let state = self.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random.set(state);
        let mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }
}

/// The text for as long as the program runs, as arguments are in a guest: each once, however many runs use it.
fn kept(text: &str) -> &'static [u8] {
    static ALL: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let mut all = ALL.lock().expect("nothing panics with it");
    if let Some(known) = all.get(text) {
        return known.as_bytes();
    }
    let text: &'static str = Box::leak(text.into());
    all.insert(text);
    text.as_bytes()
}

fn current() -> Option<Rc<Machine>> {
    CURRENT.try_with(|current| current.borrow().clone()).ok().flatten()
}

/// The one whose task this is.
fn here() -> Rc<Machine> {
    current().expect("this belongs into a task of a guest in the simulation: one of App::spawn")
}

/// A task's future, which knows its domain while it is polled or dropped.
struct Inside<F> {
    machine: Rc<Machine>,
    future: Option<Pin<Box<F>>>,
}

/// Until it is dropped, the thread is in a domain.
struct Entered(Option<Rc<Machine>>);

impl Entered {
    fn new(machine: &Rc<Machine>) -> Entered {
        Entered(CURRENT.replace(Some(machine.clone())))
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}

impl<F: Future> Future for Inside<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let machine = self.machine.clone();
        let _entered = Entered::new(&machine);
        machine.polls.set(machine.polls.get() + 1);
        let Some(future) = self.future.as_mut() else { return Poll::Pending };
        // Unwinding is a task's way out of a domain that ends: nothing of it is used again.
        match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
            Ok(poll) => poll,
            Err(cause) => {
                if !cause.is::<Ended>() {
                    let text = message(&*cause);
                    let text = format!("panic{}: {text}", PLACE.take());
                    machine.print(format!("CRASH: {text}\n").as_bytes());
                    machine.finish(End::Panic(text));
                }
                self.future = None;
                Poll::Pending
            }
        }
    }
}

impl<F> Drop for Inside<F> {
    fn drop(&mut self) {
        let _entered = Entered::new(&self.machine);
        self.future = None;
    }
}

fn message(cause: &(dyn core::any::Any + Send)) -> &str {
    match (cause.downcast_ref::<&str>(), cause.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text,
        _ => "of no text",
    }
}

/// One of the domains on this thread.
#[derive(Clone, Copy)]
pub(crate) struct Own(u64);

impl Own {
    fn machine(self) -> Rc<Machine> {
        let found = MACHINES.with_borrow(|machines| machines.get(&self.0).and_then(Weak::upgrade));
        found.expect("the guest of this App has ended")
    }

    pub(crate) fn args(self) -> Args {
        self.machine().arguments
    }

    pub(crate) fn domain(self) -> impl core::ops::Deref<Target = Domain> {
        struct Part(Rc<Machine>);
        impl core::ops::Deref for Part {
            type Target = Domain;
            fn deref(&self) -> &Domain {
                &self.0.own
            }
        }
        Part(self.machine())
    }

    pub(crate) fn console(self) -> Console {
        Console { own: self }
    }

    pub(crate) fn clock(self) -> XenClock {
        XenClock(self)
    }

    pub(crate) fn xen(self) -> XenPlatform {
        self.machine().domain.clone()
    }

    pub(crate) fn event_channels(self) -> XenEventChannels {
        self.xen()
    }

    pub(crate) fn grant_table(self) -> XenGrantTable {
        self.xen()
    }

    pub(crate) fn store_channel(self) -> XenStoreChannel {
        self.xen()
    }

    pub(crate) fn entropy(self) -> Result<Entropy, EntropyError> {
        Ok(Entropy(self))
    }

    pub(crate) fn add_entropy(self, bytes: &[u8]) {
        let machine = self.machine();
        for byte in bytes {
            machine.random.set(machine.random.get().rotate_left(8) ^ u64::from(*byte));
            machine.next_random();
        }
    }

    pub(crate) fn spawn<T: 'static>(self, future: impl Future<Output = T> + 'static) -> Task<T> {
        let machine = self.machine();
        let domain = machine.domain.clone();
        domain.spawn(Inside { machine, future: Some(Box::pin(future)) })
    }

    pub(crate) fn domain_id(self) -> Option<DomId> {
        Some(self.machine().domain.id())
    }

    pub(crate) fn xen_version(self) -> XenVersion {
        XenVersion { major: 4, minor: 20 }
    }

    pub(crate) fn modules(self) -> Vec<&'static [u8]> {
        self.machine().modules.clone()
    }

    /// The simulation has none, as a PVH guest.
    pub(crate) fn pci(self) -> Vec<platform_xen::pci::Function> {
        Vec::new()
    }

    pub(crate) fn memory(self) -> MemoryInfo {
        let (domain, bytes) = (self.machine().domain.clone(), |pages: u64| pages * PAGE_SIZE as u64);
        let (xen, size) = (domain.machine(), domain.size());
        let total = bytes(size.current);
        // The heap is that of all domains, and of the test.
        let left = |held: usize| total.saturating_sub(held as u64);
        MemoryInfo {
            total,
            free: left(xen.allocation()),
            least_free: left(xen.peak_allocation()),
            maximum: bytes(size.maximum),
            target: total,
        }
    }
}

/// Starts a task; as [`App::spawn`](crate::App::spawn).
pub fn spawn<T: 'static>(future: impl Future<Output = T> + 'static) -> Task<T> {
    here().own().spawn(future)
}

/// Ends the domain.
pub fn shutdown(reason: ShutdownReason) -> ! {
    here().finish(match reason {
        ShutdownReason::Poweroff => End::PowerOff,
        ShutdownReason::Reboot => End::Reboot,
        ShutdownReason::Crash => End::Crash,
    });
    // Not a panic: the hook is not called, and the task's future catches it.
    resume_unwind(Box::new(Ended))
}

/// Powers the domain off.
pub fn poweroff() -> ! {
    shutdown(ShutdownReason::Poweroff)
}

/// Ends the domain so that the toolstack starts it again.
pub fn reboot() -> ! {
    shutdown(ShutdownReason::Reboot)
}

/// Ends the domain as crashed.
pub fn crash() -> ! {
    shutdown(ShutdownReason::Crash)
}

/// Suspends the domain, which is restored at once.
///
/// # Errors
///
/// None in the simulation.
pub fn suspend() -> Result<Resumed, Errno> {
    here().domain.suspend_and_restore();
    Ok(Resumed::Restored)
}

/// How much memory the domain was given; the simulation does not count what of it is used.
pub fn memory() -> MemoryInfo {
    here().own().memory()
}

/// What the domain has done: the simulation counts polls alone.
pub fn counters() -> Counters {
    let mut counters = Counters::default();
    counters.polls = here().polls.get();
    counters
}

/// The domain's number.
pub fn domain_id() -> Option<DomId> {
    here().own().domain_id()
}

/// The version of Xen that the simulation is like.
pub fn xen_version() -> XenVersion {
    here().own().xen_version()
}

/// The domain's console.
pub fn console_handle() -> Console {
    here().own().console()
}

/// A version of Xen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XenVersion {
    /// The first number.
    pub major: u16,
    /// The second number.
    pub minor: u16,
}

impl fmt::Display for XenVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}-simulated", self.major, self.minor)
    }
}

/// The domain's clock, which is the simulation's.
#[derive(Clone, Copy)]
pub struct XenClock(Own);

impl fmt::Debug for XenClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("XenClock")
    }
}

impl XenClock {
    /// The wall clock: time since 1970-01-01 00:00 UTC.
    pub fn wall(self) -> Duration {
        let (wall, offset) = (START + self.now(), self.0.machine().wall_offset.get());
        let by = Duration::from_nanos(offset.unsigned_abs());
        if offset < 0 { wall.saturating_sub(by) } else { wall.saturating_add(by) }
    }

    /// Sets this domain's wall clock, which goes on from there.
    pub fn set_wall(self, to: Duration) {
        let difference = to.as_nanos() as i128 - (START + self.now()).as_nanos() as i128;
        self.0.machine().wall_offset.set(difference.clamp(i64::MIN.into(), i64::MAX.into()) as i64);
    }
}

impl Clock for XenClock {
    fn now(&self) -> Duration {
        self.0.xen().now()
    }

    fn poll_until(&self, deadline: Duration, cx: &mut Context<'_>) -> Poll<()> {
        self.0.xen().poll_until(deadline, cx)
    }
}

impl DelayNs for XenClock {
    async fn delay_ns(&mut self, ns: u32) {
        self.sleep(Duration::from_nanos(ns.into())).await;
    }
}

/// Random numbers, which are the same for the same seed.
#[derive(Clone, Copy)]
pub struct Entropy(Own);

impl fmt::Debug for Entropy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Entropy")
    }
}

impl Entropy {
    /// The generator of the domain whose task this is.
    ///
    /// # Errors
    ///
    /// None in the simulation.
    pub fn new() -> Result<Entropy, EntropyError> {
        here().own().entropy()
    }
}

impl TryRng for Entropy {
    type Error = EntropyError;

    fn try_next_u32(&mut self) -> Result<u32, EntropyError> {
        self.try_next_u64().map(|value| value as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, EntropyError> {
        Ok(self.0.machine().next_random())
    }

    fn try_fill_bytes(&mut self, dst: &mut [u8]) -> Result<(), EntropyError> {
        for chunk in dst.chunks_mut(8) {
            chunk.copy_from_slice(&self.try_next_u64()?.to_le_bytes()[..chunk.len()]);
        }
        Ok(())
    }
}

impl TryCryptoRng for Entropy {}

/// The console as a stream of bytes in both directions.
#[derive(Clone, Copy)]
pub struct Console {
    own: Own,
}

impl fmt::Debug for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Console")
    }
}

impl Console {
    /// Bytes dropped so far: none in the simulation.
    pub fn dropped(&self) -> u64 {
        0
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
        let machine = self.own.machine();
        let read = || {
            let mut input = machine.input.borrow_mut();
            let count = buffer.len().min(input.len());
            buffer.iter_mut().zip(input.drain(..count)).for_each(|(to, byte)| *to = byte);
            (count > 0).then_some(count)
        };
        machine.changed.wait_until(read).await
    }

    /// Waits for a line of input, without its end; a line of more than `most` bytes is cut there.
    ///
    /// # Cancellation
    ///
    /// Dropping the future loses the part of a line that was read.
    pub async fn read_line(&self, most: usize) -> String {
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
        String::from_utf8_lossy(&line).into_owned()
    }

    /// Puts out bytes as they are; returns how many it took.
    ///
    /// # Cancellation
    ///
    /// Takes nothing unless it completes.
    pub async fn write(&self, bytes: &[u8]) -> usize {
        self.own.machine().print(bytes);
        bytes.len()
    }

    /// Waits until the other end has taken everything.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time.
    pub async fn flush(&self) {}
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

/// For [`print!`](crate::print) and [`println!`](crate::println).
#[doc(hidden)]
pub fn print_text(text: fmt::Arguments<'_>) {
    match current() {
        Some(machine) => machine.print(text.to_string().as_bytes()),
        // The test's own.
        None => std::print!("{text}"),
    }
}

/// Prints to the console of the domain whose task this is; outside of all, to the test's output.
#[macro_export]
macro_rules! print {
    ($($arg:tt)*) => { $crate::__private::print_text(::core::format_args!($($arg)*)) };
}

/// [`print!`](crate::print) with a line feed.
#[macro_export]
macro_rules! println {
    () => { $crate::print!("\n") };
    ($($arg:tt)*) => { $crate::__private::print_text(::core::format_args!("{}\n", ::core::format_args!($($arg)*))) };
}

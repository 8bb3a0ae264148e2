//! Time: Xen's paravirtual clock, the wall clock, and timers on the one-shot timer of virtual CPU 0.

mod pvclock;
mod queue;

use core::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use core::task::{Context, Poll, Waker};
use core::time::Duration;

use embedded_hal_async::delay::DelayNs;
use xen_hal::Clock;

use crate::abi::shared;
use crate::cell::Global;
use crate::{counters, hypercall, shared_info};
use pvclock::Scale;
pub(crate) use queue::Queue;

/// Xen's system time at the guest's time zero. A resume moves it, so that the guest's time goes on where it stopped.
static ZERO: AtomicU64 = AtomicU64::new(0);
/// The latest time that was read, which none may come before.
static LATEST: AtomicU64 = AtomicU64::new(0);
/// What Xen's wall clock lacks, in nanoseconds.
static WALL_OFFSET: AtomicI64 = AtomicI64::new(0);
static TIMERS: Global<Timers> = Global::new(Timers { queue: Queue::new(), armed: u64::MAX });

struct Timers {
    queue: Queue,
    /// What the hardware timer is set to, in guest time; `u64::MAX` for nothing.
    armed: u64,
}

/// Begins the guest's time.
pub(crate) fn init() {
    ZERO.store(system_time(), Ordering::Relaxed);
}

/// Goes on after a resume, when Xen's own time may be any.
pub(crate) fn resume() {
    ZERO.store(system_time().wrapping_sub(LATEST.load(Ordering::Relaxed)), Ordering::Relaxed);
    TIMERS.get().armed = u64::MAX;
}

/// Xen's system time, in nanoseconds (`struct vcpu_time_info`, xen/include/public/xen.h).
fn system_time() -> u64 {
    loop {
        let version = shared_info::word(shared::TIME_VERSION).load(Ordering::Acquire);
        let scale = Scale {
            tsc_timestamp: shared_info::quad(shared::TIME_TSC_TIMESTAMP).load(Ordering::Relaxed),
            system_time: shared_info::quad(shared::TIME_SYSTEM_TIME).load(Ordering::Relaxed),
            multiplier: shared_info::word(shared::TIME_TSC_TO_SYSTEM_MUL).load(Ordering::Relaxed),
            shift: shared_info::byte(shared::TIME_TSC_SHIFT).load(Ordering::Relaxed) as i8,
        };
        let tsc = pvclock::read_tsc();
        core::sync::atomic::fence(Ordering::Acquire);
        // An odd version is an update under way.
        if version & 1 == 0 && shared_info::word(shared::TIME_VERSION).load(Ordering::Relaxed) == version {
            return scale.time_at(tsc);
        }
        core::hint::spin_loop();
    }
}

/// Nanoseconds since the guest's start; 0 before there is a clock.
pub(crate) fn now_ns() -> u64 {
    if !shared_info::is_mapped() {
        return 0;
    }
    let now = system_time().wrapping_sub(ZERO.load(Ordering::Relaxed));
    // A step back of the underlying clock shows as a very large number: time then stands still until it is over.
    let latest = LATEST.load(Ordering::Relaxed);
    let now = if (now as i64) < latest as i64 { latest } else { now };
    LATEST.store(now, Ordering::Relaxed);
    now
}

/// Wakes what is due. Called by the run loop.
pub(crate) fn expire() {
    if TIMERS.get().queue.is_empty() {
        return;
    }
    let now = now_ns();
    loop {
        let due = {
            let mut timers = TIMERS.get();
            if timers.armed <= now {
                timers.armed = u64::MAX;
            }
            timers.queue.pop_due(now)
        };
        match due {
            Some(waker) => waker.wake(),
            None => return,
        }
    }
}

/// Sets the hardware timer for the next timer, before sleeping. Where it is set for an earlier moment already, that
/// stands: an early wake-up is cheaper than a hypercall for each time-out that is put off.
pub(crate) fn arm() {
    let mut timers = TIMERS.get();
    let Some(next) = timers.queue.next() else { return };
    if next < timers.armed {
        counters::TIMERS_SET.add_one();
        let deadline = next.saturating_add(ZERO.load(Ordering::Relaxed));
        if hypercall::set_timer(deadline).is_ok() {
            timers.armed = next;
        }
    }
}

/// Stops the hardware timer before a suspend.
pub(crate) fn disarm() {
    hypercall::stop_timer();
    TIMERS.get().armed = u64::MAX;
}

/// Has `waker` woken at `at` nanoseconds. A task has one timer; the earliest of its deadlines counts until it is woken,
/// and it asks again then.
fn schedule(at: u64, waker: &Waker) {
    TIMERS.get().queue.schedule(at, waker);
}

/// The domain's clock: time since the guest's start. The time between a save and the restore does not count.
#[derive(Clone, Copy, Debug, Default)]
pub struct XenClock;

impl XenClock {
    /// The wall clock: time since 1970-01-01 00:00 UTC, as Xen keeps it, or as it was [set](XenClock::set_wall).
    pub fn wall(self) -> Duration {
        let offset = WALL_OFFSET.load(Ordering::Relaxed);
        let by = Duration::from_nanos(offset.unsigned_abs());
        let wall = Self::xen_wall();
        if offset < 0 { wall.saturating_sub(by) } else { wall.saturating_add(by) }
    }

    /// Sets this domain's wall clock, which goes on from there as Xen's does. Up to 292 years apart from Xen's.
    pub fn set_wall(self, to: Duration) {
        let difference = to.as_nanos() as i128 - Self::xen_wall().as_nanos() as i128;
        WALL_OFFSET.store(difference.clamp(i64::MIN.into(), i64::MAX.into()) as i64, Ordering::Relaxed);
    }

    fn xen_wall() -> Duration {
        loop {
            let version = shared_info::word(shared::WC_VERSION).load(Ordering::Acquire);
            let low = shared_info::word(shared::WC_SEC).load(Ordering::Relaxed);
            let high = shared_info::word(shared::WC_SEC_HI).load(Ordering::Relaxed);
            let nanos = shared_info::word(shared::WC_NSEC).load(Ordering::Relaxed);
            core::sync::atomic::fence(Ordering::Acquire);
            if version & 1 == 0 && shared_info::word(shared::WC_VERSION).load(Ordering::Relaxed) == version {
                let boot =
                    Duration::new(u64::from(high) << 32 | u64::from(low), 0) + Duration::from_nanos(nanos.into());
                return boot + Duration::from_nanos(system_time());
            }
            core::hint::spin_loop();
        }
    }
}

impl Clock for XenClock {
    fn now(&self) -> Duration {
        Duration::from_nanos(now_ns())
    }

    fn poll_until(&self, deadline: Duration, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = u64::try_from(deadline.as_nanos()).unwrap_or(u64::MAX);
        if now_ns() >= deadline {
            return Poll::Ready(());
        }
        schedule(deadline, cx.waker());
        Poll::Pending
    }
}

impl DelayNs for XenClock {
    async fn delay_ns(&mut self, ns: u32) {
        self.sleep(Duration::from_nanos(ns.into())).await;
    }

    async fn delay_us(&mut self, us: u32) {
        self.sleep(Duration::from_micros(us.into())).await;
    }

    async fn delay_ms(&mut self, ms: u32) {
        self.sleep(Duration::from_millis(ms.into())).await;
    }
}

#[cfg(feature = "guest")]
mod embassy {
    use core::task::Waker;

    struct Driver;

    const NS_PER_TICK: u64 = 1_000_000_000 / embassy_time_driver::TICK_HZ;

    impl embassy_time_driver::Driver for Driver {
        fn now(&self) -> u64 {
            super::now_ns() / NS_PER_TICK
        }

        fn schedule_wake(&self, at: u64, waker: &Waker) {
            super::schedule(at.saturating_mul(NS_PER_TICK), waker);
        }
    }

    embassy_time_driver::time_driver_impl!(static DRIVER: Driver = Driver);
}

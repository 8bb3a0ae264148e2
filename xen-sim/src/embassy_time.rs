//! Simulated time for whatever uses embassy-time: that of the thread's latest machine.

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::task::Waker;
use std::time::Duration;

use embassy_time_driver::{Driver, TICK_HZ, time_driver_impl};

use crate::world::World;

thread_local! {
    static WORLD: RefCell<Weak<World>> = const { RefCell::new(Weak::new()) };
}

const MICROSECONDS_PER_TICK: u64 = 1_000_000 / TICK_HZ;

struct Simulated;

impl Driver for Simulated {
    fn now(&self) -> u64 {
        let world = WORLD.with_borrow(Weak::upgrade);
        world.map_or(0, |world| world.now.get().as_micros() as u64 / MICROSECONDS_PER_TICK)
    }

    fn schedule_wake(&self, at: u64, waker: &Waker) {
        if let Some(world) = WORLD.with_borrow(Weak::upgrade) {
            world.set_timer(Duration::from_micros(at.saturating_mul(MICROSECONDS_PER_TICK)), waker);
        }
    }
}

time_driver_impl!(static DRIVER: Simulated = Simulated);

pub(crate) fn set_world(world: &Rc<World>) {
    WORLD.set(Rc::downgrade(world));
}

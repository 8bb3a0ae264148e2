#![doc = include_str!("../README.md")]
#![no_std]

#[cfg(test)]
extern crate alloc;

mod app;
mod args;

pub use app::{App, Exit};
pub use args::{ArgError, Args, FromArg, Size};
pub use embassy_time as time;
pub use platform_xen as platform;
pub use platform_xen::{Console, Entropy, Task, XenClock, print, println};
pub use sarab_macros::main;
pub use xen_hal as hal;

#[doc(hidden)]
#[cfg(feature = "guest")]
pub mod __private {
    pub use crate::app::start;
}

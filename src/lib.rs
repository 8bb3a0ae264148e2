#![doc = include_str!("../README.md")]
#![no_std]

extern crate alloc;

mod app;
mod args;
#[cfg_attr(not(all(feature = "guest", feature = "control")), allow(dead_code))]
mod control;
mod disks;
#[cfg(feature = "net")]
pub mod network;

pub use app::{App, Exit};
pub use args::{ArgError, Args, FromArg, Size};
pub use control::SuspendError;
pub use disks::{Disk, DiskError, DiskOptions};
pub use embassy_time as time;
pub use platform_xen as platform;
pub use platform_xen::{Console, Entropy, Task, XenClock, print, println};
pub use sarab_macros::main;
pub use xen_blkif as block;
pub use xen_hal as hal;
pub use xenbus;
pub use xenstore_client as store;
pub use xenstore_client::Store;
pub use xenstore_client::control::Shutdown;

#[doc(hidden)]
#[cfg(feature = "guest")]
pub mod __private {
    pub use crate::app::start;
}

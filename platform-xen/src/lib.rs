#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]
// Without its entry point most of the machine is reached by nothing; guests build it with everything checked.
#![cfg_attr(not(feature = "guest"), allow(dead_code, unused_imports))]

extern crate alloc;

mod abi;
#[cfg(feature = "guest")]
mod boot;
mod cell;
#[doc(hidden)]
pub mod console;
mod counters;
mod domain;
mod entropy;
mod events;
mod executor;
#[doc(hidden)]
pub mod fuzzing;
mod grants;
mod hvm;
mod hypercall;
mod image;
#[cfg(feature = "guest")]
mod log;
#[cfg(feature = "guest")]
mod mem_functions;
mod memory;
mod multiboot;
pub mod pci;
mod platform;
mod report;
mod serial;
mod shared_info;
#[cfg(feature = "guest")]
mod start;
mod start_info;
mod store;
mod time;
mod traps;

pub use console::Console;
pub use counters::{Counters, counters};
pub use domain::{
    Resumed, ShutdownReason, XenVersion, crash, domain_id, poweroff, processor_vendor, reboot, shutdown, suspend,
    xen_version,
};
pub use entropy::{Entropy, EntropyError, add_entropy};
pub use events::{XenEventChannelError, XenEventChannels, XenPort};
pub use executor::{spawn, yield_now};
pub use grants::{GrantUse, XenGrant, XenGrantError, XenGrantTable, XenMapping, grant_use};
pub use memory::{MemoryInfo, RamPage, RamPages, memory};
pub use platform::XenPlatform;
#[cfg(feature = "guest")]
pub use start::{BootProtocol, Module, boot_protocol, command_line, modules};
pub use store::{StorePage, XenStoreChannel};
pub use time::XenClock;

pub use async_task::Task;

/// The console of this domain. One value for all: its methods take `&self`.
pub const fn console_handle() -> Console {
    Console::new()
}

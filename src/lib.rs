//! Unikernels for Xen: write an `async fn main`, link it with the components that it uses, and boot the ELF file as a
//! PVH guest.
//!
//! ```no_run
//! #![no_std]
//! #![no_main]
//!
//! use sarab::{App, println};
//!
//! #[sarab::main]
//! async fn main(app: App) -> sarab::Result {
//!     let name = app.args().get::<&str>("name")?.unwrap_or("world");
//!     println!("Hello, {name}");
//!     Ok(())
//! }
//! ```
//!
//! [`App`] is what an application has of its domain: the command line, the store, disks, networks, the clock, tasks. The
//! [guide] goes from the first guest to running on a Xen host; the repository's README has the tools.
//!
//! # Features
//!
//! - `control` (default): the domain acts on `xl shutdown`, `reboot`, `save` and `sysrq`.
//! - `balloon` (default): the domain's memory follows `xl mem-set` and `xl create` with less memory than `maxmem=`.
//! - `guest-agent` (default): the toolstack sees what runs in the domain, its addresses and memory, as from a guest agent
//!   (`attr/`, `data/`; XCP-ng and XenServer show them).
//! - `hvm` (default): the image also starts as an HVM guest, by Multiboot.
//! - `net`: network interfaces, and a TCP/IP stack on them.
//! - `9pfs`: directories of other domains (`sarab::shares`).
//! - `vchan`: byte streams to other domains, and to programs in dom0 (libvchan).
//! - `qubes`: a qube's side of Qubes OS (QubesDB, qrexec, firewall rules); with it `vchan`.
//! - `state`: a durable key-value store on a disk, `sarab::state`.
//! - `embedded-storage-async`: a disk as flash memory ([`block::adapters`]).
//! - `guest`: the entry point, allocator and panic handler; for the final program only.
//! - `log`: the drivers' log lines are text, not defmt's frames.
//! - `sim`: `App` is of a simulated domain, and `testing` runs a whole `main` in `cargo test`; for tests on the host only.
#![no_std]

extern crate alloc;
#[cfg(feature = "sim")]
extern crate std;

#[cfg(all(feature = "guest", feature = "sim"))]
compile_error!(
    "`guest` is for the program that boots, `sim` for its tests on the host: let the tests depend on the app without its \
     default features"
);

mod app;
mod args;
#[cfg(feature = "balloon")]
#[cfg_attr(not(any(feature = "guest", feature = "sim")), allow(dead_code))]
mod balloon;
#[cfg_attr(not(all(feature = "guest", feature = "control")), allow(dead_code))]
mod control;
mod disks;
mod error;
#[cfg(feature = "guest-agent")]
#[cfg_attr(not(any(feature = "guest", feature = "sim")), allow(dead_code))]
mod guest_agent;
pub mod guide;
#[cfg_attr(not(feature = "sim"), path = "machine/xen.rs")]
#[cfg_attr(feature = "sim", path = "machine/sim.rs")]
mod machine;
#[cfg(feature = "net")]
pub mod network;
#[cfg(not(feature = "net"))]
mod no_network;
#[cfg(feature = "qubes")]
pub mod qubes;
#[cfg(feature = "9pfs")]
pub mod shares;
#[cfg(feature = "sim")]
pub mod testing;
#[cfg(feature = "vchan")]
pub mod vchan;

pub use app::{App, Exit};
pub use args::{ArgError, Args, BadSize, FromArg, Size};
pub use control::SuspendError;
pub use disks::{Disk, DiskError, DiskOptions};
pub use embassy_time as time;
pub use error::{Context, Error, Result, bail, ensure, format_err};
#[cfg(feature = "sim")]
pub use machine::{Console, Entropy, Task, XenClock, platform};
#[cfg(not(feature = "sim"))]
pub use platform_xen as platform;
pub use platform_xen::pci;
#[cfg(not(feature = "sim"))]
pub use platform_xen::{Console, Entropy, Task, XenClock, print, println};
pub use sarab_macros::main;
#[cfg(feature = "state")]
pub use sarab_state as state;
pub use xen_blkif as block;
pub use xen_hal as hal;
pub use xen_ring as ring;
pub use xenbus;
pub use xenstore_client as store;
pub use xenstore_client::Store;
pub use xenstore_client::control::Shutdown;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[doc(hidden)]
pub mod __private {
    pub use crate::app::start;
    #[cfg(feature = "sim")]
    pub use crate::machine::print_text;
}

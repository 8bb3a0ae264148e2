//! A whole application on the host: its `main` as a guest of a simulated Xen, in `cargo test`.
//!
//! [`check`] runs a test with many seeds. A seed chooses in what order tasks of all domains run and events arrive, so that
//! each run is another one, and the same seed gives the same run again. In a test a [`Guest`] is described as an xl file
//! describes it, and run:
//!
//! ```
//! use sarab::testing::{End, Guest, check};
//! use sarab::{App, println};
//!
//! async fn greet(app: App) -> sarab::Result {
//!     let name = app.args().get::<&str>("name")?.unwrap_or("world");
//!     println!("Hello, {name}");
//!     Ok(())
//! }
//!
//! check("a greeting", 10, |xen| {
//!     let ended = Guest::new(xen).command_line("name=me").run(greet);
//!     assert_eq!(ended.console(), "Hello, me\n");
//!     assert_eq!(ended.how(), End::PowerOff);
//! });
//! ```
//!
//! While a guest runs, the test is its toolstack:
//!
//! ```
//! use sarab::testing::{End, Guest, check};
//! use sarab::{App, println};
//!
//! async fn wait(app: App) {
//!     println!("ready");
//!     let request = app.shutdown().await;
//!     println!("asked to {request}");
//! }
//!
//! check("a shutdown", 10, |xen| {
//!     let guest = Guest::new(xen);
//!     xen.run(async move {
//!         let running = guest.start(wait).await;
//!         running.wait_for("ready").await;
//!         running.reboot().await;
//!         let ended = running.ended().await;
//!         assert_eq!(ended.how(), End::Reboot);
//!     });
//! });
//! ```
//!
//! # What is simulated
//!
//! Event channels, grants, the store, its server, time and the toolstack are the simulation's; drivers, and the backends of
//! disks and networks, are those of real guests. Not simulated: use of memory and processor, what the console loses where
//! nobody reads it, and defmt's lines, which go nowhere. A task that never waits hangs the test.
//!
//! Command lines are kept until the test program ends.

use alloc::string::String;

#[cfg(feature = "net")]
mod dhcp;
mod guest;
mod running;
#[cfg(feature = "net")]
mod wire;

pub use guest::Guest;
pub use running::{Ended, Running};
pub use xen_sim::{Budgets, Faults, Xen, check};

/// How a guest ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Powered off: `main` returned, or `xl shutdown` ended it.
    PowerOff,
    /// To be started again.
    Reboot,
    /// As crashed: `main` returned an error, whose text is on the console.
    Crash,
    /// A task panicked, with this text.
    Panic(String),
    /// By [`Running::destroy`].
    Destroyed,
}

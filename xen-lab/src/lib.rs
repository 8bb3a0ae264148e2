//! The lab: real Xen with a real dom0, inside an emulator, as an ordinary user.
//!
//! [`Lab::boot`] boots Debian's Xen and a dom0 with its toolstack in QEMU, which needs neither KVM nor root. What it is made
//! of is downloaded as Debian packages at the first boot, into a cache of its own. A test creates domains in it, and looks
//! at their consoles:
//!
//! ```no_run
//! use std::path::Path;
//!
//! use xen_lab::{Dom0, Lab, Options, domain, suite};
//!
//! # fn main() -> anyhow::Result<()> {
//! let lab = Lab::boot(suite::DEFAULT, &Options::default())?;
//! let image = Path::new("target/xen/hello/hello");
//! let hello = domain::guest(&lab, image, "hello").memory(4).command_line("exit=now").create()?;
//! hello.wait_for("Hello, world", 20)?;
//! let (_, reason, _) = hello.wait_end(20)?;
//! assert_eq!(reason, "0");
//! println!("{}", lab.run("xl list")?);
//! # Ok(())
//! # }
//! ```
//!
//! [`Dom0`] is any place with `xl`: the lab, this machine, or another one over ssh.

mod agent;
mod apt;
pub mod dom0;
pub mod domain;
mod hvm;
mod images;
mod initramfs;
mod lab;
mod marker;
pub mod paths;
mod process;
pub mod qemu;
pub mod running;
pub mod suite;
pub mod xlfile;

pub use agent::Agent;
pub use dom0::{Dom0, Local, Ssh, Stream};
pub use images::{headers, is_prepared, prepare};
pub use lab::{Lab, Options, Publish, SharedFolder, StoreServer, check_ports, free_port, token};
pub use marker::Marker;
pub use suite::Suite;

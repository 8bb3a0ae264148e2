#![doc = include_str!("../README.md")]

mod allocation;
mod check;
mod clock;
#[cfg(feature = "defmt")]
mod defmt;
mod domain;
#[cfg(feature = "embassy-time")]
mod embassy_time;
mod events;
mod faults;
mod grants;
mod log;
mod memory;
mod processors;
mod reservation;
mod script;
pub mod store;
mod toolstack;
mod world;

pub use self::log::{keep_log, take_log};
pub use check::check;
pub use domain::{Domain, Usage};
pub use events::{SimEventChannelError, SimPort};
pub use faults::Faults;
pub use grants::{SimGrant, SimGrantError, SimMapping};
pub use memory::SimPage;
pub use processors::Accessed;
pub use script::{Script, script};
pub use toolstack::Toolstack;
pub use world::{Budgets, Xen};

//! The domain's memory: what there is, who has it.

pub(crate) mod address_space;
mod bitmap;
#[cfg(feature = "guest")]
mod heap;
pub(crate) mod map;
mod pages;
pub(crate) mod paging;
mod ram;

#[cfg(feature = "guest")]
pub(crate) use heap::allocations;
pub use pages::{MemoryInfo, RamPage, RamPages, memory};
pub(crate) use pages::{allocate_run, init};

//! A XenStore server: nodes with permissions, transactions with conflicts, watches, quotas.
//!
//! [`Server`] is the store without any I/O: packets go in, packets come out. In the machine a task for each domain
//! carries them between it and the domain's ring page.

mod serve;
mod server;
mod transaction;
mod tree;

pub(crate) use serve::serve;
pub use server::{Quotas, Server};
pub use tree::{Node, Tree};

//! The client: one task owns the ring, any number of handles ask.

mod call;
mod error;
mod events;
mod link;
mod runner;
mod store;
mod table;
mod transaction;
mod tree;
mod value;
mod watch;

pub use error::{Broken, Error, ErrorKind};
pub use events::WatchEvent;
pub use runner::Runner;
pub use store::{Quiesced, Restart, Store, connect};
pub use transaction::Transaction;
pub use tree::Tree;
pub use value::{FromValue, Path, ToValue};
pub use watch::Watch;

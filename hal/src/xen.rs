//! The whole platform in one value.

use crate::{Clock, EventChannels, Memory};

/// All that a driver needs of the platform under it: memory that peers can be given access to, event channels, and time.
///
/// It is implemented for whatever implements the three; clones stand for the same domain.
pub trait Xen: Memory + EventChannels + Clock {}

impl<T: Memory + EventChannels + Clock> Xen for T {}

//! What goes wrong on purpose.

use std::time::Duration;

/// How often things go wrong, in percent of the times that they could, and how slow the store is.
///
/// # Examples
///
/// ```
/// use xen_hal::{Access, GrantTable, Pages};
/// use xen_sim::{Faults, Xen};
///
/// let xen = Xen::new(1);
/// let domain = xen.domain();
/// xen.set_faults(Faults { grants: 100, ..Faults::default() });
/// let page = domain.alloc_page().unwrap();
/// let refused = domain.grant(page, domain.id(), Access::ReadOnly).err().expect("all are refused");
/// drop(refused.page); // it came back
/// ```
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Commits of transactions that the store answers with `EAGAIN` without need.
    pub eagain: u8,
    /// Grants that are refused, as with a full table.
    pub grants: u8,
    /// Pages of other domains that are refused when they are to be mapped.
    pub maps: u8,
    /// Event channels that are refused, as with no free port.
    pub ports: u8,
    /// Changes of a domain's memory reservation that the hypervisor refuses, or of which it does a part.
    pub reservation: u8,
    /// Events that nobody has sent.
    pub spurious_events: u8,
    /// Answers that the store gives out of order.
    pub reorder: u8,
    /// How long the store takes at most for one request.
    pub store_delay: Duration,
}

//! How much memory a domain has, and giving it back.

use crate::Errno;

/// The memory of a domain, in pages of 4 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct ReservationSize {
    /// What the memory map has at most: the domain cannot grow beyond it.
    pub maximum: u64,
    /// What it has now, used or not.
    pub current: u64,
    /// What of it nobody uses.
    pub free: u64,
}

/// The memory reservation of this domain, which its balloon driver makes smaller and larger: XENMEM_decrease_reservation
/// and XENMEM_populate_physmap (xen/include/public/memory.h).
///
/// Only pages that nobody uses are given back: none that is granted, mapped, or holds anything. Each call does a bounded
/// part, a few hundred pages, so that the caller can yield between two.
///
/// # Examples
///
/// ```
/// use xen_hal::{Errno, Reservation};
///
/// /// Gives back what is free, down to `target` pages; returns what the domain has then.
/// fn shrink(domain: &impl Reservation, target: u64) -> Result<u64, Errno> {
///     loop {
///         let size = domain.size();
///         let wish = size.current.saturating_sub(target).min(size.free);
///         if wish == 0 || domain.decrease(wish)? == 0 {
///             return Ok(domain.size().current);
///         }
///     }
/// }
/// # let xen = xen_sim::Xen::new(1);
/// # let domain = xen.domain();
/// # domain.set_reservation(xen_hal::ReservationSize { maximum: 1000, current: 1000, free: 700 });
/// # assert_eq!(shrink(&domain, 500), Ok(500));
/// # assert_eq!(shrink(&domain, 200), Ok(300));
/// ```
pub trait Reservation {
    /// How much memory there is.
    fn size(&self) -> ReservationSize;

    /// Gives up to `pages` free pages back to the hypervisor; returns how many it has taken. Fewer than asked, unless
    /// nothing, is not the end: the next call goes on.
    ///
    /// # Errors
    ///
    /// What the hypervisor says, where it takes none.
    fn decrease(&self, pages: u64) -> Result<u64, Errno>;

    /// Takes up to `pages` pages from the hypervisor, which are free then; returns how many it has given. `Ok(0)` is
    /// that it gives none now: the host has no memory, or the toolstack allows the domain no more.
    ///
    /// # Errors
    ///
    /// What the hypervisor says, where that is something else.
    fn increase(&self, pages: u64) -> Result<u64, Errno>;
}

impl<T: Reservation + ?Sized> Reservation for &T {
    fn size(&self) -> ReservationSize {
        T::size(self)
    }

    fn decrease(&self, pages: u64) -> Result<u64, Errno> {
        T::decrease(self, pages)
    }

    fn increase(&self, pages: u64) -> Result<u64, Errno> {
        T::increase(self, pages)
    }
}

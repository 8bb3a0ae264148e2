//! What all classes do to share a ring and an event channel with the other end.

use core::fmt;

use xen_hal::{Access, Errno, EventChannels, GrantRef, GrantTable, MapRequest, Memory, PortNumber};
use xen_ring::{BackRing, GrantedPages, Protocol, SharedMapping, SharedMemory};

use crate::device::Device;
use crate::failure::Failure;

impl Device {
    /// Grants the other end so many zeroed pages, for a ring that `name` names in a failure.
    ///
    /// # Errors
    ///
    /// `ENOSPC` where there are no pages, or no grant table entries.
    pub fn grant_ring<M: Memory>(
        &self,
        memory: &M,
        name: &str,
        pages: usize,
    ) -> Result<GrantedPages<<M as GrantTable>::Grant>, Failure> {
        GrantedPages::grant(memory, pages, self.other_domain(), Access::ReadWrite)
            .map_err(|error| Failure::new(Errno::ENOSPC, format_args!("{name}: {error}")))
    }

    /// Maps the pages of a ring of the other end's by `map`, which calls [`GrantTable::map`].
    ///
    /// # Errors
    ///
    /// `ENOMEM` where `map` fails; `EINVAL` where the other end has granted no such pages.
    pub fn map_ring<M: xen_hal::Mapping, E: fmt::Display>(
        &self,
        name: &str,
        references: &[GrantRef],
        map: impl FnOnce(&[MapRequest]) -> Result<M, E>,
    ) -> Result<SharedMapping<M>, Failure> {
        let request = |reference: &GrantRef| MapRequest {
            peer: self.other_domain(),
            reference: *reference,
            access: Access::ReadWrite,
        };
        let requests: alloc::vec::Vec<_> = references.iter().map(request).collect();
        let mapping = map(&requests).map_err(|error| Failure::new(Errno::ENOMEM, error))?;
        SharedMapping::new(mapping).map_err(|status| Failure::new(Errno::EINVAL, format_args!("{name}: {status}")))
    }

    /// Opens an event channel for the other end to bind to.
    ///
    /// # Errors
    ///
    /// `ENOSPC` where there is none.
    pub fn alloc_port<E: EventChannels>(&self, events: &E) -> Result<E::Port, Failure> {
        events.alloc_unbound(self.other_domain()).map_err(|error| Failure::new(Errno::ENOSPC, error))
    }

    /// Binds to an event channel that the other end has opened.
    ///
    /// # Errors
    ///
    /// `EINVAL` where it has not.
    pub fn bind_port<E: EventChannels>(&self, events: &E, port: PortNumber) -> Result<E::Port, Failure> {
        events.bind_interdomain(self.other_domain(), port).map_err(|error| Failure::new(Errno::EINVAL, error))
    }
}

/// Begins with a frontend's ring, wherever it is.
///
/// # Errors
///
/// `EIO` where its indices make no sense.
pub fn attach_ring<P: Protocol>(protocol: P, memory: &SharedMemory) -> Result<BackRing<P>, Failure> {
    BackRing::attach(protocol, memory).map_err(|error| Failure::new(Errno::EIO, error))
}

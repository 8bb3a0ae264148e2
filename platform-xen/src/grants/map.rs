//! Other domains' pages in this domain's address space.

use alloc::vec::Vec;
use core::ptr::NonNull;

use xen_hal::{Access, Frame, GrantStatus, MapRequest, Mapping};

use super::{TRIES, XenGrantError};
use crate::memory::address_space;
use crate::{abi, hypercall};

pub(crate) fn map(requests: &[MapRequest]) -> Result<XenMapping, XenGrantError> {
    if requests.is_empty() {
        return Ok(XenMapping { start: Frame(0), writable: true, pages: Vec::new() });
    }
    let start = address_space::take(requests.len()).ok_or(XenGrantError::NoAddressSpace { pages: requests.len() })?;
    let mut operations: Vec<_> = requests
        .iter()
        .enumerate()
        .map(|(index, request)| abi::MapGrantRef {
            host_addr: address_of(start, index),
            flags: match request.access {
                Access::ReadOnly => abi::GNTMAP_HOST_MAP | abi::GNTMAP_READONLY,
                Access::ReadWrite => abi::GNTMAP_HOST_MAP,
            },
            reference: request.reference.0,
            dom: request.peer.0,
            // Stays where the hypervisor gives up half-way.
            status: GrantStatus::GeneralError.number(),
            handle: 0,
            dev_bus_addr: 0,
        })
        .collect();
    // SAFETY: the addresses were just taken.
    if let Err(errno) = unsafe { hypercall::grant_map(&mut operations) } {
        // What was mapped before it gave up is unmapped by the value's `Drop`.
        drop(XenMapping::new(start, &operations));
        return Err(XenGrantError::Hypervisor(errno));
    }
    for operation in &mut operations {
        for _ in 0..TRIES {
            if operation.status != GrantStatus::Eagain.number() {
                break;
            }
            hypercall::sched_yield();
            // SAFETY: as above: nothing is mapped at this address yet.
            let _ = unsafe { hypercall::grant_map(core::slice::from_mut(operation)) };
        }
    }
    Ok(XenMapping::new(start, &operations))
}

fn address_of(start: Frame, index: usize) -> u64 {
    address_space::address(Frame(start.0 + index as u64)) as u64
}

/// Pages of peers, mapped side by side; dropping it unmaps them.
#[derive(Debug)]
pub struct XenMapping {
    start: Frame,
    writable: bool,
    /// The hypervisor's handle of each page, or why it is not mapped.
    pages: Vec<Result<u32, GrantStatus>>,
}

impl XenMapping {
    fn new(start: Frame, operations: &[abi::MapGrantRef]) -> XenMapping {
        let outcome = |operation: &abi::MapGrantRef| GrantStatus::check(operation.status).map(|()| operation.handle);
        let writable = operations.iter().all(|operation| operation.flags & abi::GNTMAP_READONLY == 0);
        XenMapping { start, writable, pages: operations.iter().map(outcome).collect() }
    }
}

// SAFETY: the addresses were taken from the window for this value alone, lie one after the other, and stay mapped as the
// hypervisor was asked until `drop`. Only raw pointers are made of them.
unsafe impl Mapping for XenMapping {
    fn len(&self) -> usize {
        self.pages.len()
    }

    fn is_writable(&self) -> bool {
        self.writable
    }

    fn page(&self, index: usize) -> Result<NonNull<u8>, GrantStatus> {
        self.pages[index]?;
        let address = address_of(self.start, index) as usize;
        Ok(NonNull::new(core::ptr::with_exposed_provenance_mut(address)).expect("the window does not begin at 0"))
    }
}

impl Drop for XenMapping {
    fn drop(&mut self) {
        let mut operations = Vec::with_capacity(self.pages.len());
        for (index, page) in self.pages.iter().enumerate() {
            match page {
                Ok(handle) => operations.push(abi::UnmapGrantRef {
                    host_addr: address_of(self.start, index),
                    dev_bus_addr: 0,
                    handle: *handle,
                    status: GrantStatus::GeneralError.number(),
                }),
                Err(_) => address_space::give(Frame(self.start.0 + index as u64), 1),
            }
        }
        if operations.is_empty() {
            return;
        }
        // SAFETY: the value that gave access to the pages is gone.
        let _ = unsafe { hypercall::grant_unmap(&mut operations) };
        for operation in operations {
            // An address that may still be mapped is never used again.
            if operation.status == 0 {
                address_space::give(Frame(operation.host_addr >> 12), 1);
            }
        }
    }
}

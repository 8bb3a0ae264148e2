//! Copies by the hypervisor, without mapping.

use alloc::vec::Vec;

use xen_hal::{CopyOp, DomId, GrantStatus};

use super::{TRIES, XenGrantError};
use crate::{abi, hypercall};

pub(crate) fn copy(operations: &mut [CopyOp<'_>]) -> Result<(), XenGrantError> {
    if operations.is_empty() {
        return Ok(());
    }
    let mut copies: Vec<_> = operations.iter().map(translate).collect();
    // SAFETY: `CopyOp`'s constructors vouch for the local side; memory is mapped one to one.
    let result = unsafe { hypercall::grant_copy(&mut copies) };
    for (operation, copy) in operations.iter_mut().zip(&mut copies) {
        for _ in 0..TRIES {
            if copy.status != GrantStatus::Eagain.number() {
                break;
            }
            hypercall::sched_yield();
            // SAFETY: as above.
            let _ = unsafe { hypercall::grant_copy(core::slice::from_mut(copy)) };
        }
        operation.set_result(GrantStatus::check(copy.status));
    }
    result.map_err(XenGrantError::Hypervisor)
}

fn translate(operation: &CopyOp<'_>) -> abi::GrantCopy {
    let remote = operation.remote();
    let address = operation.local().addr().get();
    let far = abi::CopyPtr { gref_or_gmfn: remote.reference.0.into(), domid: remote.peer.0, offset: remote.offset };
    let near =
        abi::CopyPtr { gref_or_gmfn: (address / 4096) as u64, domid: DomId::SELF.0, offset: (address % 4096) as u16 };
    let (source, dest, flags) = match operation.is_write() {
        true => (near, far, abi::GNTCOPY_DEST_GREF),
        false => (far, near, abi::GNTCOPY_SOURCE_GREF),
    };
    // Stays where the hypervisor gives up half-way.
    let status = GrantStatus::GeneralError.number();
    abi::GrantCopy { source, dest, len: operation.byte_count(), flags, status }
}

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

#[cfg(test)]
mod tests {
    use core::ptr::NonNull;

    use xen_hal::{GrantRef, Remote};

    use super::*;

    /// Xen before the fix of XSA-523 took a frame number for a grant reference of the same value in the next copy of a
    /// batch, where both were of the same domain: ours never are.
    #[test]
    fn xsa_523_frames_are_ours_and_references_are_a_peers() {
        #[repr(align(4096))]
        struct Own([u8; 4096]);
        let mut own = Own([0; 4096]);
        let frame = NonNull::from(&mut own).addr().get() as u64 / 4096;
        // A reference that is the frame's number, as far as one can be.
        let remote = Remote { peer: DomId(7), reference: GrantRef(frame as u32), offset: 8 };
        for (operation, to_peer) in
            [(CopyOp::write(&[1; 16], remote), true), (CopyOp::read(remote, &mut own.0[32..48]), false)]
        {
            let copy = translate(&operation);
            let (near, far) = if to_peer { (copy.source, copy.dest) } else { (copy.dest, copy.source) };
            assert_eq!((near.domid, far.domid), (DomId::SELF.0, 7));
            let flag = if to_peer { abi::GNTCOPY_DEST_GREF } else { abi::GNTCOPY_SOURCE_GREF };
            assert_eq!(copy.flags, flag, "one reference, and it is the peer's");
            assert_eq!((far.gref_or_gmfn, far.offset, copy.len), (remote.reference.0.into(), 8, 16));
            if !to_peer {
                assert_eq!((near.gref_or_gmfn, near.offset), (frame, 32));
            }
            assert_eq!(GrantStatus::check(copy.status), Err(GrantStatus::GeneralError), "until Xen has said otherwise");
        }
    }
}

//! Pages of a guest that stay mapped, for a guest that asks for the same ones again and again.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::num::NonZeroUsize;

use lru::LruCache;
use xen_hal::{Access, DomId, GrantRef, GrantTable, MapRequest, PAGE_SIZE};
use xen_ring::{SharedMapping, SharedMemory};

use crate::front::Memory;
use crate::protocol::Segment;

/// Most pages that stay mapped for one guest, as Linux's backend has it for a ring.
const MOST: NonZeroUsize = NonZeroUsize::new(1056).expect("not zero");

/// The pages of one guest, those that were not used for longest going first.
pub(super) struct Persistent<M: GrantTable> {
    pages: LruCache<u32, Mapped<M>>,
}

/// A page: where it lies in what was mapped together with it.
struct Mapped<M: GrantTable> {
    batch: Rc<SharedMapping<M::Mapping>>,
    offset: usize,
}

impl<M: GrantTable> Clone for Mapped<M> {
    fn clone(&self) -> Self {
        Mapped { batch: self.batch.clone(), offset: self.offset }
    }
}

impl<M: Memory> Persistent<M> {
    pub(super) fn new() -> Self {
        Persistent { pages: LruCache::new(MOST) }
    }

    /// Calls `each` with the page of each segment, and where it begins in the memory that it is given; `false` where one
    /// of them cannot be mapped for writing, or they are more than stay mapped. What is not mapped yet is mapped in one
    /// call to the hypervisor.
    pub(super) fn with(
        &mut self,
        memory: &M,
        peer: DomId,
        segments: &[Segment],
        mut each: impl FnMut(&Segment, &SharedMemory, usize),
    ) -> bool {
        let mut missing: Vec<u32> = Vec::new();
        for segment in segments {
            if self.pages.get(&segment.reference).is_none() && !missing.contains(&segment.reference) {
                missing.push(segment.reference);
            }
        }
        if !missing.is_empty() {
            let requests: Vec<_> = missing
                .iter()
                .map(|reference| MapRequest { peer, reference: GrantRef(*reference), access: Access::ReadWrite })
                .collect();
            let Ok(mapping) = memory.map(&requests) else { return false };
            let Ok(batch) = SharedMapping::new(mapping).map(Rc::new) else { return false };
            for (index, reference) in missing.into_iter().enumerate() {
                self.pages.put(reference, Mapped { batch: batch.clone(), offset: index * PAGE_SIZE });
            }
        }
        for segment in segments {
            let Some(page) = self.pages.get(&segment.reference).cloned() else { return false };
            each(segment, &page.batch, page.offset);
        }
        true
    }
}

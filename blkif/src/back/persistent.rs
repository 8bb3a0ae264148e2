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

impl<M: Memory> Persistent<M> {
    pub(super) fn new() -> Self {
        Persistent { pages: LruCache::new(MOST) }
    }

    /// Maps the pages of these segments that are not mapped yet, in one call to the hypervisor: all, or none where one
    /// of them cannot be mapped for writing.
    pub(super) fn map<'s>(&mut self, memory: &M, peer: DomId, segments: impl Iterator<Item = &'s Segment>) {
        let mut missing: Vec<u32> = Vec::new();
        for segment in segments {
            // Looked up, and so the last to go.
            if self.pages.get(&segment.reference).is_none() {
                missing.push(segment.reference);
            }
        }
        missing.sort_unstable();
        missing.dedup();
        if missing.is_empty() {
            return;
        }
        let requests: Vec<_> = missing
            .iter()
            .map(|reference| MapRequest { peer, reference: GrantRef(*reference), access: Access::ReadWrite })
            .collect();
        let Ok(mapping) = memory.map(&requests) else { return };
        let Ok(batch) = SharedMapping::new(mapping).map(Rc::new) else { return };
        for (index, reference) in missing.into_iter().enumerate() {
            self.pages.put(reference, Mapped { batch: batch.clone(), offset: index * PAGE_SIZE });
        }
    }

    /// The memory in which a page is mapped, and where in it the page begins.
    pub(super) fn get(&self, reference: u32) -> Option<(&SharedMemory, usize)> {
        self.pages.peek(&reference).map(|page| (&**page.batch, page.offset))
    }
}

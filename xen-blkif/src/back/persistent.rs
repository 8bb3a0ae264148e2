//! Pages of a guest that stay mapped, for a guest that asks for the same ones again and again.

use alloc::boxed::Box;
use alloc::vec::Vec;

use hashbrown::HashMap;
use slab::Slab;
use xen_hal::{Access, DomId, GrantError, GrantErrorKind, GrantRef, GrantTable, MapRequest, Memory, PAGE_SIZE};
use xen_ring::{SharedMapping, SharedMemory};

use crate::protocol::Segment;

/// Pages of one disk's guest.
///
/// Pages that one call to the hypervisor has mapped are unmapped together, as a batch. So the batch is what counts, with all
/// its pages for as long as it is there; the one of which no page was used for longest goes first.
pub(super) struct Persistent<M: GrantTable> {
    /// By reference.
    places: HashMap<u32, Place>,
    batches: Slab<Batch<M>>,
    /// Pages in all batches, and how many there may be.
    mapped: usize,
    allowance: usize,
    /// Counts looks at requests.
    turn: u64,
}

/// Where a page is: in a batch, and there the so manyeth.
#[derive(Clone, Copy)]
struct Place {
    batch: usize,
    page: usize,
}

struct Batch<M: GrantTable> {
    memory: SharedMapping<M::Mapping>,
    references: Box<[u32]>,
    /// The last turn that a page of it was used in.
    used: u64,
}

/// No address space is left to map pages into.
#[derive(Debug)]
pub(super) struct NoAddressSpace;

impl<M: Memory> Persistent<M> {
    /// None yet, and none allowed.
    pub(super) fn new() -> Self {
        Persistent { places: HashMap::new(), batches: Slab::new(), mapped: 0, allowance: 0, turn: 0 }
    }

    /// How many pages are mapped.
    pub(super) fn mapped(&self) -> usize {
        self.mapped
    }

    /// Lets so many pages stay mapped, and unmaps what is beyond.
    pub(super) fn allow(&mut self, pages: usize) {
        self.allowance = pages;
        self.turn += 1;
        self.make_room(0);
    }

    /// Maps the pages of these lists of segments that are not mapped yet, in one call to the hypervisor: all, or none
    /// where one of them cannot be mapped for writing. A list that goes beyond what is allowed is left out whole: its
    /// pages are copied by the hypervisor, as those of other guests are.
    pub(super) fn map<'s>(
        &mut self,
        memory: &M,
        peer: DomId,
        lists: impl Iterator<Item = &'s [Segment]>,
    ) -> Result<(), NoAddressSpace> {
        self.turn += 1;
        let mut missing: Vec<u32> = Vec::new();
        // Pages of the batches that are used now, and so cannot make room.
        let mut in_use = 0;
        for list in lists {
            let before = missing.len();
            for segment in list {
                let Some(place) = self.places.get(&segment.reference) else {
                    missing.push(segment.reference);
                    continue;
                };
                let batch = &mut self.batches[place.batch];
                if batch.used != self.turn {
                    batch.used = self.turn;
                    in_use += batch.references.len();
                }
            }
            if in_use + missing.len() > self.allowance {
                missing.truncate(before);
            }
        }
        missing.sort_unstable();
        missing.dedup();
        if missing.is_empty() || in_use + missing.len() > self.allowance {
            return Ok(());
        }
        self.make_room(missing.len());
        let requests: Vec<_> = missing
            .iter()
            .map(|reference| MapRequest { peer, reference: GrantRef(*reference), access: Access::ReadWrite })
            .collect();
        let mapping = match memory.map(&requests) {
            Ok(mapping) => mapping,
            Err(error) if error.kind() == GrantErrorKind::NoAddressSpace => return Err(NoAddressSpace),
            Err(_) => return Ok(()),
        };
        let Ok(memory) = SharedMapping::new(mapping) else { return Ok(()) };
        self.mapped += missing.len();
        let batch = self.batches.vacant_key();
        self.places.extend(missing.iter().enumerate().map(|(page, reference)| (*reference, Place { batch, page })));
        self.batches.insert(Batch { memory, references: missing.into(), used: self.turn });
        Ok(())
    }

    /// The memory in which a page is mapped, and where in it the page begins.
    pub(super) fn get(&self, reference: u32) -> Option<(&SharedMemory, usize)> {
        let place = self.places.get(&reference)?;
        Some((&self.batches[place.batch].memory, place.page * PAGE_SIZE))
    }

    /// Unmaps batches that are not used in this turn, until so many pages more are allowed or none is left.
    fn make_room(&mut self, pages: usize) {
        if self.mapped + pages <= self.allowance {
            return;
        }
        let unused = self.batches.iter().filter(|(_, batch)| batch.used != self.turn);
        let mut unused: Vec<_> = unused.map(|(index, batch)| (batch.used, index)).collect();
        unused.sort_unstable();
        for (_, index) in unused {
            if self.mapped + pages <= self.allowance {
                return;
            }
            let batch = self.batches.remove(index);
            self.mapped -= batch.references.len();
            for reference in &batch.references {
                self.places.remove(reference);
            }
        }
    }
}

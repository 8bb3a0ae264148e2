//! Pages side by side, which packets take along with their bytes and bring back.

use alloc::boxed::Box;
use alloc::rc::{Rc, Weak};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::ops::Range;

use xen_hal::{Memory, OutOfPages};
use xen_ring::{GrantablePage, PageRun};

use crate::buffer::Storage;

/// The pages. Each is in its place, or away with a packet.
pub(crate) struct Area<M: Memory> {
    places: RefCell<Vec<Option<GrantablePage<M::Grant>>>>,
    away: Cell<usize>,
    /// Where the last run that was found ends.
    next: Cell<usize>,
}

/// Pages side by side that are away. They return by themselves.
pub(crate) struct Run<M: Memory> {
    /// There until it is dropped.
    pages: Option<PageRun<M::Grant>>,
    home: Weak<Area<M>>,
    /// The first one's place.
    first: usize,
}

impl<M: Memory> Area<M> {
    pub(crate) fn new(memory: &M, count: usize) -> Result<Rc<Area<M>>, OutOfPages> {
        let mut places = Vec::with_capacity(count);
        memory.alloc_run(count, &mut |page| places.push(Some(GrantablePage::new(page))))?;
        Ok(Rc::new(Area { places: RefCell::new(places), away: Cell::new(0), next: Cell::new(0) }))
    }

    /// How many pages there are, those that are away included.
    pub(crate) fn count(&self) -> usize {
        self.places.borrow().len()
    }

    /// Takes these pages along; `None` where one is away, or a peer still has it.
    pub(crate) fn take(self: &Rc<Self>, range: Range<usize>) -> Option<Run<M>> {
        let mut places = self.places.borrow_mut();
        let own = |place: &mut Option<GrantablePage<M::Grant>>| place.as_mut().is_some_and(GrantablePage::revoke);
        let wanted = places.get_mut(range.clone())?;
        if !wanted.iter_mut().all(own) {
            return None;
        }
        let mut pages = Vec::with_capacity(range.len());
        pages.extend(wanted.iter_mut().filter_map(Option::take));
        match PageRun::join(pages) {
            Ok(pages) => {
                self.away.set(self.away.get() + range.len());
                Some(Run { pages: Some(pages), home: Rc::downgrade(self), first: range.start })
            }
            // The allocator's pages are not side by side.
            Err(pages) => {
                wanted.iter_mut().zip(pages).for_each(|(place, page)| *place = Some(page));
                None
            }
        }
    }

    /// Takes so many pages along, wherever there are some; `None` where there are none.
    pub(crate) fn find(self: &Rc<Self>, count: usize) -> Option<Run<M>> {
        let total = self.count();
        let start = self.next.get();
        let found = {
            let places = self.places.borrow();
            // From there on, and then from the beginning.
            first_run(&places, start..total, count)
                .or_else(|| first_run(&places, 0..total.min(start + count.saturating_sub(1)), count))?
        };
        self.next.set((found + count) % total);
        self.take(found..found + count)
    }
}

/// Where in a range so many pages are in their places, one after the other.
fn first_run<T>(places: &[Option<T>], range: Range<usize>, count: usize) -> Option<usize> {
    let mut start = range.start;
    for index in range {
        if places[index].is_none() {
            start = index + 1;
        } else if index + 1 - start == count {
            return Some(start);
        }
    }
    None
}

impl<M: Memory> Run<M> {
    /// The pages themselves.
    pub(crate) fn pages_mut(&mut self) -> &mut PageRun<M::Grant> {
        self.pages.as_mut().expect("there until it is dropped")
    }

    fn pages(&self) -> &PageRun<M::Grant> {
        self.pages.as_ref().expect("there until it is dropped")
    }
}

impl<M: Memory> Drop for Run<M> {
    fn drop(&mut self) {
        let (Some(mut pages), Some(home)) = (self.pages.take(), self.home.upgrade()) else { return };
        // A page that a peer still has is revoked before it is used again: `take` sees to it.
        let _ = pages.revoke();
        home.away.set(home.away.get() - pages.count());
        let mut places = home.places.borrow_mut();
        places[self.first..].iter_mut().zip(pages.into_pages()).for_each(|(place, page)| *place = Some(page));
    }
}

impl<M: Memory> Storage for Run<M> {
    fn bytes(&self) -> &[u8] {
        self.pages().bytes()
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self.pages_mut().bytes_mut()
    }
}

impl<M: Memory> From<Run<M>> for Box<dyn Storage> {
    fn from(run: Run<M>) -> Self {
        Box::new(run)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use xen_hal::Access;

    #[test]
    fn pages_return_to_their_places() {
        let xen = xen_sim::Xen::new(1);
        let area = Area::new(&xen.domain(), 8).unwrap();
        let first = area.take(2..5).unwrap();
        assert!(area.take(4..6).is_none() && area.take(7..9).is_none());
        assert_eq!((area.away.get(), area.count()), (3, 8));
        drop(first);
        let mut all = area.take(0..8).unwrap();
        all.bytes_mut()[8 * 4096 - 1] = 1;
        drop(area);
        // Without a home they are the allocator's again.
        drop(all);
    }

    #[test]
    fn runs_are_found_wherever_they_are() {
        let xen = xen_sim::Xen::new(1);
        let area = Area::new(&xen.domain(), 8).unwrap();
        let mut runs: Vec<_> = (0..2).map(|_| area.find(3).unwrap()).collect();
        assert!(area.find(3).is_none());
        let last = area.find(2).unwrap();
        runs.remove(0);
        assert_eq!(area.find(3).unwrap().first, 0, "from the beginning");
        assert!(area.find(9).is_none());
        drop((runs, last));
        // Over the place where the last one has ended.
        area.next.set(5);
        let end = area.find(3).unwrap();
        area.next.set(2);
        let held = area.take(2..3).unwrap();
        assert!(area.find(3).is_none_or(|run| run.first == 3));
        drop((end, held));
        assert_eq!(area.find(8).unwrap().first, 0);
    }

    #[test]
    fn what_a_peer_still_maps_is_not_taken() {
        let xen = xen_sim::Xen::new(1);
        let (own, peer) = (xen.domain(), xen.domain());
        let area = Area::new(&own, 2).unwrap();
        let mut run = area.take(0..2).unwrap();
        let reference = run.pages_mut().grant(1, &own, peer.id()).unwrap();
        let request = xen_hal::MapRequest { peer: own.id(), reference, access: Access::ReadOnly };
        let mapping = xen_hal::GrantTable::map(&peer, &[request]).unwrap();
        drop(run);
        assert!(area.take(0..2).is_none() && area.take(0..1).is_some());
        drop(mapping);
        assert!(area.take(0..2).is_some());
    }
}

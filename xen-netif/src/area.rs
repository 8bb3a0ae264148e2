//! Pages side by side, which packets take along with their bytes and bring back.

use alloc::boxed::Box;
use alloc::rc::{Rc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::cell::{Cell, RefCell};
use core::ops::Range;

use xen_hal::{Memory, OutOfPages};
use xen_ring::{GrantablePage, PageRun};

use crate::buffer::Storage;

/// The pages. Each is in its place, where its owner may grant it to a peer, or away with a packet.
pub(crate) struct Area<M: Memory> {
    places: RefCell<Vec<Option<GrantablePage<M::Grant>>>>,
    away: Cell<usize>,
    /// Where the last run that was found ends.
    next: Cell<usize>,
    /// What the last run's pages were listed in, for the next.
    list: Cell<Vec<GrantablePage<M::Grant>>>,
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
        Ok(Rc::new(Area {
            places: RefCell::new(places),
            away: Cell::new(0),
            next: Cell::new(0),
            list: Cell::default(),
        }))
    }

    /// How many pages there are, those that are away included.
    pub(crate) fn count(&self) -> usize {
        self.places.borrow().len()
    }

    /// How many of them are away, or lost with a peer that keeps them.
    pub(crate) fn away(&self) -> usize {
        self.away.get()
    }

    /// Uses a page that is in its place; `None` where it is away.
    pub(crate) fn page<R>(&self, index: usize, use_it: impl FnOnce(&mut GrantablePage<M::Grant>) -> R) -> Option<R> {
        self.places.borrow_mut().get_mut(index)?.as_mut().map(use_it)
    }

    /// Takes these pages along; `None` where one is away, or a peer still has it.
    pub(crate) fn take(self: &Rc<Self>, range: Range<usize>) -> Option<Run<M>> {
        let mut places = self.places.borrow_mut();
        let own = |place: &mut Option<GrantablePage<M::Grant>>| place.as_mut().is_some_and(GrantablePage::revoke);
        let wanted = places.get_mut(range.clone())?;
        if !wanted.iter_mut().all(own) {
            return None;
        }
        let mut pages = self.list.take();
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
        let (Some(pages), Some(home)) = (self.pages.take(), self.home.upgrade()) else { return };
        let mut pages = pages.into_pages();
        let mut places = home.places.borrow_mut();
        for (place, mut page) in places[self.first..].iter_mut().zip(pages.drain(..)) {
            // One that a peer still has is dropped, and waits elsewhere for it to let go: its place stays empty.
            if page.revoke() {
                *place = Some(page);
                home.away.set(home.away.get() - 1);
            }
        }
        home.list.set(pages);
    }
}

impl<M: Memory> Storage for Run<M> {
    fn bytes(&self) -> &[u8] {
        self.pages().bytes()
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self.pages_mut().bytes_mut()
    }

    fn as_any(&mut self) -> &mut dyn Any {
        self
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
        assert!(area.take(4..6).is_none() && area.take(7..9).is_none() && area.page(4, |_| ()).is_none());
        assert_eq!((area.away(), area.count()), (3, 8));
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
    fn xsa_396_what_a_peer_still_maps_does_not_return() {
        let xen = xen_sim::Xen::new(1);
        let (own, peer) = (xen.domain(), xen.domain());
        let area = Area::new(&own, 3).unwrap();
        let mut run = area.take(0..2).unwrap();
        let reference = run.pages_mut().grant(1, &own, peer.id()).unwrap();
        let request = xen_hal::MapRequest { peer: own.id(), reference, access: Access::ReadOnly };
        let mapping = xen_hal::GrantTable::map(&peer, &[request]).unwrap();
        drop(run);
        assert_eq!(area.away(), 1);
        drop(mapping);
        assert!(area.take(0..2).is_none() && area.find(2).is_none() && area.take(2..3).is_some());
    }
}

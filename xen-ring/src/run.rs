//! Memory of this domain's own that peers may read, page by page.

use alloc::vec::Vec;
use core::ptr::NonNull;

use xen_hal::{Access, DomId, Grant, GrantRef, GrantTable, PAGE_SIZE};

use crate::GrantablePage;

/// Pages side by side that no peer can write: their bytes are used by reference, while a peer may read single pages.
///
/// # Examples
///
/// ```
/// use xen_hal::Pages;
/// use xen_ring::{GrantablePage, PageRun};
/// use xen_sim::SimGrant;
///
/// let xen = xen_sim::Xen::new(1);
/// let (own, peer) = (xen.domain(), xen.domain().id());
/// let mut pages = Vec::new();
/// own.alloc_run(2, &mut |page| pages.push(GrantablePage::<SimGrant>::new(page))).unwrap();
///
/// let mut run = PageRun::join(pages).ok().expect("side by side, and granted to nobody");
/// run.bytes_mut()[4090..4100].fill(7);
/// run.grant(1, &own, peer).unwrap();
/// assert_eq!(run.bytes()[4099], 7);
/// assert!(run.revoke(), "false as long as the peer maps it");
/// ```
pub struct PageRun<G: Grant> {
    start: NonNull<u8>,
    pages: Vec<GrantablePage<G>>,
}

impl<G: Grant> PageRun<G> {
    /// Makes one of pages, in their order.
    ///
    /// # Errors
    ///
    /// The pages, where there are none, where one is granted, or where they are not side by side.
    pub fn join(pages: Vec<GrantablePage<G>>) -> Result<PageRun<G>, Vec<GrantablePage<G>>> {
        let Some(start) = pages.first().map(|page| page.start) else { return Err(pages) };
        let address = |index: usize| start.addr().get() + index * PAGE_SIZE;
        let fits =
            pages.iter().enumerate().all(|(index, page)| page.is_own() && page.start.addr().get() == address(index));
        if fits { Ok(PageRun { start, pages }) } else { Err(pages) }
    }

    /// How many pages there are.
    pub fn count(&self) -> usize {
        self.pages.len()
    }

    /// All bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: by `Page`'s contract the bytes belong to the pages' owner, which is this value or a page's grant, and the
        // first page's pointer reaches them all. They were nobody else's when they were joined, and have been granted
        // for reading alone since, which `GrantTable` answers for. In this domain they are written through
        // `bytes_mut` only: the pages themselves are shown to nobody before `into_pages`.
        unsafe { core::slice::from_raw_parts(self.start.as_ptr(), self.pages.len() * PAGE_SIZE) }
    }

    /// All bytes. A peer that was granted a page may see it change.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; borrowed exclusively.
        unsafe { core::slice::from_raw_parts_mut(self.start.as_ptr(), self.pages.len() * PAGE_SIZE) }
    }

    /// Grants a page to `peer`, for reading: all of it, so that what else it holds must be nothing that the peer may not
    /// see (XSA-403).
    ///
    /// # Errors
    ///
    /// What the grant table says; the page stays as it is.
    ///
    /// # Panics
    ///
    /// Where there is no such page.
    pub fn grant<T>(&mut self, index: usize, table: &T, peer: DomId) -> Result<GrantRef, T::Error>
    where
        T: GrantTable<Grant = G, Page = G::Page>,
    {
        self.pages[index].grant(table, peer, Access::ReadOnly)
    }

    /// Revokes all grants. `false` where a peer still uses a page, whose grant stays.
    #[must_use = "a page that a peer still has may be given to nobody"]
    pub fn revoke(&mut self) -> bool {
        let mut own = true;
        for page in &mut self.pages {
            own &= page.revoke();
        }
        own
    }

    /// The pages, in their order.
    pub fn into_pages(self) -> Vec<GrantablePage<G>> {
        self.pages
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use xen_hal::{MapRequest, Pages};
    use xen_sim::{Domain, SimGrant};

    fn pages(domain: &Domain, count: usize) -> Vec<GrantablePage<SimGrant>> {
        let mut pages = Vec::new();
        domain.alloc_run(count, &mut |page| pages.push(GrantablePage::new(page))).unwrap();
        pages
    }

    #[test]
    fn only_own_pages_that_are_side_by_side_are_joined() {
        let xen = xen_sim::Xen::new(1);
        let (own, peer) = (xen.domain(), xen.domain().id());
        assert!(PageRun::<SimGrant>::join(Vec::new()).is_err());
        let mut four = pages(&own, 4);
        four.swap(1, 2);
        let mut four = PageRun::join(four).err().expect("not in their order");
        four.swap(1, 2);
        four[3].grant(&own, peer, Access::ReadWrite).unwrap();
        let mut four = PageRun::join(four).err().expect("the peer may write");
        assert!(four[3].revoke());
        let run = PageRun::join(four).ok().unwrap();
        assert_eq!((run.count(), run.bytes().len()), (4, 4 * PAGE_SIZE));
    }

    #[test]
    fn what_a_peer_maps_stays_granted() {
        let xen = xen_sim::Xen::new(1);
        let (own, peer) = (xen.domain(), xen.domain());
        let mut run = PageRun::join(pages(&own, 2)).ok().unwrap();
        let reference = run.grant(1, &own, peer.id()).unwrap();
        let request = MapRequest { peer: own.id(), reference, access: Access::ReadOnly };
        let mapping = peer.map(&[request]).unwrap();
        assert!(!run.revoke());
        drop(mapping);
        assert!(run.revoke());
        assert!(run.into_pages().iter().all(|page| page.reference().is_none()));
    }
}

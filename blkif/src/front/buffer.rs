//! Memory that a backend sees: pages that are lent to it once and used again and again, where it keeps them mapped.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::fmt;

use xen_hal::{Access, DomId, GrantRef, GrantTable, PAGE_SIZE, Pages};
use xen_ring::{LentPage, SharedMemory};

use crate::device::{self, Error};

/// What a driver needs of its domain's memory.
pub trait Memory: GrantTable + Pages<Page = <Self as GrantTable>::Page> + Clone + 'static {}

impl<T: GrantTable + Pages<Page = <T as GrantTable>::Page> + Clone + 'static> Memory for T {}

/// Pages that no buffer has and that stay for the next: as many as Linux's backend keeps mapped for a ring.
const MOST_KEPT: usize = 1056;

/// Where buffers take pages from and where they leave them.
pub(super) struct Pool<G: Memory> {
    pub(super) memory: G,
    /// Last in, first out: the backend has those mapped that were used last.
    pages: RefCell<Vec<PooledPage<G>>>,
    /// Counts connections: what was lent in an earlier one is lent to nobody who knows it now.
    epoch: Cell<u32>,
    /// Whether the backend of this connection keeps pages mapped.
    persistent: Cell<bool>,
}

/// A page, and in which connection it was lent.
pub(super) struct PooledPage<G: Memory> {
    page: LentPage<G::Grant>,
    epoch: u32,
}

impl<G: Memory> Pool<G> {
    pub(super) fn new(memory: G) -> Pool<G> {
        Pool { memory, pages: RefCell::default(), epoch: Cell::new(0), persistent: Cell::new(false) }
    }

    /// Begins a connection.
    pub(super) fn begin(&self, persistent: bool) {
        self.persistent.set(persistent);
    }

    /// Ends a connection: nothing is lent any more, as far as the peer lets go.
    pub(super) fn end(&self) {
        self.epoch.set(self.epoch.get().wrapping_add(1));
        self.pages.borrow_mut().retain_mut(|kept| kept.page.take_back());
    }

    /// A page that nobody uses; it holds zeroes or what was on this disk, and nothing else (XSA-403).
    pub(super) fn take(&self) -> Result<PooledPage<G>, Error> {
        if let Some(page) = self.pages.borrow_mut().pop() {
            return Ok(page);
        }
        let page = self.memory.alloc_page().map_err(|_| Error::OutOfMemory)?;
        Ok(PooledPage { page: LentPage::new(page), epoch: self.epoch.get() })
    }

    pub(super) fn give(&self, page: PooledPage<G>) {
        let mut pages = self.pages.borrow_mut();
        let usable = page.page.reference().is_none() || (self.persistent.get() && page.epoch == self.epoch.get());
        if usable && pages.len() < MOST_KEPT {
            pages.push(page);
        }
    }

    /// Lends a page for a request.
    pub(super) fn lend(&self, page: &mut PooledPage<G>, peer: DomId, access: Access) -> Result<GrantRef, Error> {
        if page.epoch != self.epoch.get() {
            self.reclaim(page)?;
            page.epoch = self.epoch.get();
        }
        // Whoever keeps it mapped has to be able to write to it the next time.
        let access = if self.persistent.get() { Access::ReadWrite } else { access };
        page.page.lend(&self.memory, peer, access).map_err(|_| Error::OutOfMemory)
    }

    /// After a request: ends the peer's access, unless it keeps the page mapped for the next.
    pub(super) fn settle(&self, page: &mut PooledPage<G>) -> Result<(), Error> {
        if self.persistent.get() && page.epoch == self.epoch.get() { Ok(()) } else { self.reclaim(page) }
    }

    /// Makes a page this domain's alone. A peer that does not let go keeps the old page, and a copy takes its place.
    fn reclaim(&self, page: &mut PooledPage<G>) -> Result<(), Error> {
        if page.page.take_back() {
            return Ok(());
        }
        let fresh = LentPage::<G::Grant>::new(self.memory.alloc_page().map_err(|_| Error::OutOfMemory)?);
        let mut bytes = [0; PAGE_SIZE];
        page.page.read(0, &mut bytes);
        fresh.write(0, &bytes);
        page.page = fresh;
        Ok(())
    }
}

impl<G: Memory> core::ops::Deref for PooledPage<G> {
    type Target = SharedMemory;

    fn deref(&self) -> &SharedMemory {
        &self.page
    }
}

/// Memory that a backend reads and writes in place.
pub struct Buffer<G: Memory> {
    pub(super) pages: Vec<PooledPage<G>>,
    len: usize,
    pool: Rc<Pool<G>>,
}

impl<G: Memory> Buffer<G> {
    pub(super) fn new(pool: &Rc<Pool<G>>, len: usize) -> Result<Buffer<G>, Error> {
        let count = len.div_ceil(PAGE_SIZE);
        let mut buffer = Buffer { pages: Vec::with_capacity(count), len, pool: pool.clone() };
        for _ in 0..count {
            buffer.pages.push(pool.take()?);
        }
        Ok(buffer)
    }
}

impl<G: Memory> device::Buffer for Buffer<G> {
    fn len(&self) -> usize {
        self.len
    }

    fn page(&self, index: usize) -> &SharedMemory {
        &self.pages[index]
    }
}

impl<G: Memory> Drop for Buffer<G> {
    fn drop(&mut self) {
        // The first page last, to be the first again.
        for page in self.pages.drain(..).rev() {
            self.pool.give(page);
        }
    }
}

impl<G: Memory> fmt::Debug for Buffer<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} bytes in {} pages)", self.len, self.pages.len())
    }
}

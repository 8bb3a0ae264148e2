//! Memory shared with a backend: pages that are granted once and used for many requests, where the backend keeps them
//! mapped.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::fmt;

use xen_hal::{Access, DomId, GrantError, GrantErrorKind, GrantRef, Memory, PAGE_SIZE};
use xen_ring::{GrantablePage, SharedMemory};

use crate::device::{self, Error};

/// Pages of buffers that stay granted (persistent grants). With [`MAX_BOUNCES`] they are as many as Linux's backend keeps
/// for a ring, 1056: it maps and unmaps any others with each request.
const MAX_DIRECT: usize = 512;
/// Pages that stay granted for the data of buffers beyond those, and for lists of segments.
const MAX_BOUNCES: usize = 544;
/// Unused pages that are kept for the next buffer.
const MAX_KEPT: usize = 512;

/// Where buffers take pages from and where they leave them.
pub(super) struct Pool<G: Memory> {
    pub(super) memory: G,
    /// Pages that stay granted. Last in, first out: the backend has those mapped that were used last.
    granted: RefCell<Vec<PooledPage<G>>>,
    plain: RefCell<Vec<PooledPage<G>>>,
    bounces: RefCell<Vec<PooledPage<G>>>,
    /// Pages of buffers, and bounce pages, with a persistent grant in this connection.
    direct_count: Cell<usize>,
    bounce_count: Cell<usize>,
    /// Counts connections: what was granted in an earlier one is of no use in this one.
    epoch: Cell<u32>,
    /// Whether the backend of this connection keeps pages mapped.
    persistent: Cell<bool>,
}

/// A page, and the connection that it was granted in.
pub(super) struct PooledPage<G: Memory> {
    page: GrantablePage<G::Grant>,
    epoch: u32,
}

impl<G: Memory> Pool<G> {
    pub(super) fn new(memory: G) -> Pool<G> {
        Pool {
            memory,
            granted: RefCell::default(),
            plain: RefCell::default(),
            bounces: RefCell::default(),
            direct_count: Cell::new(0),
            bounce_count: Cell::new(0),
            epoch: Cell::new(0),
            persistent: Cell::new(false),
        }
    }

    /// Begins a connection.
    pub(super) fn begin(&self, persistent: bool) {
        self.persistent.set(persistent);
    }

    /// Ends a connection: revokes all grants that the peer does not still use.
    pub(super) fn end(&self) {
        self.epoch.set(self.epoch.get().wrapping_add(1));
        self.direct_count.set(0);
        self.bounce_count.set(0);
        self.bounces.borrow_mut().clear();
        let mut plain = self.plain.borrow_mut();
        for mut page in self.granted.borrow_mut().drain(..) {
            if page.page.revoke() && plain.len() < MAX_KEPT {
                plain.push(page);
            }
        }
    }

    fn fresh(&self) -> Result<PooledPage<G>, Error> {
        let page = self.memory.alloc_page().map_err(|_| Error::OutOfMemory)?;
        Ok(PooledPage { page: GrantablePage::new(page), epoch: self.epoch.get() })
    }

    /// A page that nobody uses; it holds zeroes or what was on this disk, and nothing else (XSA-403).
    pub(super) fn take(&self) -> Result<PooledPage<G>, Error> {
        let kept = self.granted.borrow_mut().pop().or_else(|| self.plain.borrow_mut().pop());
        kept.map_or_else(|| self.fresh(), Ok)
    }

    pub(super) fn give(&self, page: PooledPage<G>) {
        if self.stays_granted(&page) {
            self.granted.borrow_mut().push(page);
        } else if page.page.reference().is_none() {
            let mut plain = self.plain.borrow_mut();
            if plain.len() < MAX_KEPT {
                plain.push(page);
            }
        }
    }

    /// Whether the backend keeps the page mapped for the next request with it.
    fn stays_granted(&self, page: &PooledPage<G>) -> bool {
        self.persistent.get() && page.epoch == self.epoch.get() && page.page.reference().is_some()
    }

    /// How many of these pages need a bounce page: the backend keeps no more pages mapped than are granted already.
    pub(super) fn beyond(&self, pages: &[PooledPage<G>]) -> usize {
        match self.persistent.get() {
            true => {
                let new = pages.iter().filter(|page| !self.stays_granted(page)).count();
                new.saturating_sub(MAX_DIRECT.saturating_sub(self.direct_count.get()))
            }
            false => 0,
        }
    }

    /// How many bounces can be taken.
    pub(super) fn bounces_left(&self) -> usize {
        (self.bounces.borrow().len() + MAX_BOUNCES).saturating_sub(self.bounce_count.get())
    }

    /// A page that takes the place of one of a buffer's, or holds a list, for one request. Of those that stay granted
    /// there are [`bounces_left`](Pool::bounces_left).
    pub(super) fn take_bounce(&self) -> Result<PooledPage<G>, Error> {
        if !self.persistent.get() {
            return self.take();
        }
        if let Some(page) = self.bounces.borrow_mut().pop() {
            return Ok(page);
        }
        let page = self.fresh()?;
        self.bounce_count.set(self.bounce_count.get() + 1);
        Ok(page)
    }

    pub(super) fn give_bounce(&self, mut page: PooledPage<G>) {
        match self.persistent.get() {
            true if page.epoch == self.epoch.get() => self.bounces.borrow_mut().push(page),
            _ => {
                if page.page.revoke() {
                    self.give(page);
                }
            }
        }
    }

    /// Grants a page of a buffer for a request; `None` where it is [`beyond`](Pool::beyond).
    pub(super) fn grant(
        &self,
        page: &mut PooledPage<G>,
        peer: DomId,
        access: Access,
    ) -> Result<Option<GrantRef>, Error> {
        if self.persistent.get() && !self.stays_granted(page) {
            if self.direct_count.get() >= MAX_DIRECT {
                return Ok(None);
            }
            let reference = self.grant_bounce(page, peer, access)?;
            self.direct_count.set(self.direct_count.get() + 1);
            return Ok(Some(reference));
        }
        self.grant_bounce(page, peer, access).map(Some)
    }

    /// Grants a page that was taken for one request.
    pub(super) fn grant_bounce(
        &self,
        page: &mut PooledPage<G>,
        peer: DomId,
        access: Access,
    ) -> Result<GrantRef, Error> {
        if !self.stays_granted(page) {
            self.reclaim(page, peer)?;
            page.epoch = self.epoch.get();
        }
        // Whoever keeps it mapped has to be able to write to it the next time.
        let access = if self.persistent.get() { Access::ReadWrite } else { access };
        page.page.grant(&self.memory, peer, access).map_err(|error| match error.kind() {
            GrantErrorKind::PagesKept => Error::PagesKept,
            _ => Error::OutOfMemory,
        })
    }

    /// After a request: ends the peer's access, unless it keeps the page mapped for the next.
    pub(super) fn settle(&self, page: &mut PooledPage<G>, peer: DomId) -> Result<(), Error> {
        if self.stays_granted(page) { Ok(()) } else { self.reclaim(page, peer) }
    }

    /// Makes a page this domain's alone. A peer that does not let go keeps the old page, and a copy takes its place; from
    /// one that keeps too many the page is not taken back.
    fn reclaim(&self, page: &mut PooledPage<G>, peer: DomId) -> Result<(), Error> {
        if page.page.revoke() {
            return Ok(());
        }
        if self.memory.keeps_too_many(peer) {
            return Err(Error::PagesKept);
        }
        let fresh = GrantablePage::<G::Grant>::new(self.memory.alloc_page().map_err(|_| Error::OutOfMemory)?);
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

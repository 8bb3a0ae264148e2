//! Memory of this domain that is granted to a peer.

use alloc::vec::Vec;
use core::fmt;

use xen_hal::{Access, DomId, Grant, GrantRef, GrantTable, OutOfPages, PAGE_SIZE, Page, Pages};

use crate::SharedMemory;

/// A page that is granted to a peer at times, such as a page of a buffer. Its bytes stay where they are.
///
/// # Examples
///
/// ```
/// use xen_hal::{Access, Pages};
/// use xen_ring::LentPage;
/// use xen_sim::SimGrant;
///
/// let xen = xen_sim::Xen::new(1);
/// let (own, peer) = (xen.domain(), xen.domain().id());
/// let mut page = LentPage::<SimGrant>::new(own.alloc_page().unwrap());
/// page.write(0, b"for the peer");
/// let reference = page.lend(&own, peer, Access::ReadOnly).unwrap();
/// assert_eq!(page.reference(), Some(reference));
/// assert!(page.take_back(), "false as long as the peer maps it");
/// ```
pub struct LentPage<G: Grant> {
    memory: SharedMemory,
    state: Option<State<G>>,
}

enum State<G: Grant> {
    Own(G::Page),
    Lent(G, Access),
}

impl<G: Grant> LentPage<G> {
    /// A page that is not granted yet.
    pub fn new(page: G::Page) -> LentPage<G> {
        // SAFETY: by `Page`'s contract the bytes belong to the owner of the page, which is this value from here on, or
        // its grant: `GrantTable` and `Grant` promise to keep that very page.
        let memory = unsafe { SharedMemory::new(page.as_ptr(), PAGE_SIZE) };
        LentPage { memory, state: Some(State::Own(page)) }
    }

    /// The reference, while it is granted.
    pub fn reference(&self) -> Option<GrantRef> {
        match &self.state {
            Some(State::Lent(grant, _)) => Some(grant.reference()),
            _ => None,
        }
    }

    /// Grants it; if it is granted already, the reference stays the same.
    ///
    /// # Errors
    ///
    /// What the grant table says; the page stays as it is.
    pub fn lend<T>(&mut self, table: &T, peer: DomId, access: Access) -> Result<GrantRef, T::Error>
    where
        T: GrantTable<Grant = G, Page = G::Page>,
    {
        match self.state.take() {
            Some(State::Own(page)) => match table.grant(page, peer, access) {
                Ok(grant) => {
                    let reference = grant.reference();
                    self.state = Some(State::Lent(grant, access));
                    Ok(reference)
                }
                Err(refused) => {
                    self.state = Some(State::Own(refused.page));
                    Err(refused.error)
                }
            },
            Some(State::Lent(grant, access)) => {
                let reference = grant.reference();
                self.state = Some(State::Lent(grant, access));
                Ok(reference)
            }
            None => unreachable!("the state is only ever taken for a moment"),
        }
    }

    /// Revokes the grant. `false` if the peer still uses the page: it stays granted then.
    #[must_use = "a page that the peer still has may be given to nobody"]
    pub fn take_back(&mut self) -> bool {
        match self.state.take() {
            Some(State::Lent(grant, access)) => match grant.try_end() {
                Ok(page) => {
                    self.state = Some(State::Own(page));
                    true
                }
                Err(grant) => {
                    self.state = Some(State::Lent(grant, access));
                    false
                }
            },
            other => {
                self.state = other;
                true
            }
        }
    }
}

impl<G: Grant> core::ops::Deref for LentPage<G> {
    type Target = SharedMemory;

    fn deref(&self) -> &SharedMemory {
        &self.memory
    }
}

/// Pages side by side that are granted to a peer at times, each by itself: memory for data that may lie across them.
///
/// # Examples
///
/// ```
/// use xen_hal::Access;
/// use xen_ring::LentRun;
/// use xen_sim::SimGrant;
///
/// let xen = xen_sim::Xen::new(1);
/// let (own, peer) = (xen.domain(), xen.domain().id());
/// let mut run = LentRun::<SimGrant>::new(&own, 4).unwrap();
/// // A reference is possible as long as no peer can write there.
/// run.bytes_mut(4000, 200).unwrap().fill(1);
/// run.page_mut(1).lend(&own, peer, Access::ReadWrite).unwrap();
/// assert!(run.bytes_mut(4000, 200).is_none());
/// ```
pub struct LentRun<G: Grant> {
    memory: SharedMemory,
    pages: Vec<LentPage<G>>,
}

impl<G: Grant> LentRun<G> {
    /// Takes `count` zeroed pages side by side, which are not granted yet.
    ///
    /// # Errors
    ///
    /// Where there are none.
    ///
    /// # Panics
    ///
    /// Where `count` is zero, or what the allocator gives is not `count` pages side by side.
    pub fn new(pages: &impl Pages<Page = G::Page>, count: usize) -> Result<LentRun<G>, OutOfPages> {
        let mut run = Vec::with_capacity(count);
        pages.alloc_run(count, &mut |page| run.push(LentPage::<G>::new(page)))?;
        // An allocator takes no `unsafe` to write: its word is not enough.
        assert_eq!(run.len(), count, "pages of a run");
        let start = run.first().expect("at least a page").memory.start;
        for (index, page) in run.iter().enumerate() {
            assert_eq!(page.memory.start.addr().get(), start.addr().get() + index * PAGE_SIZE, "pages side by side");
        }
        // SAFETY: by `Page`'s contract the bytes of each page belong to its owner, which is this value or the page's
        // grant. There are `count` of them, side by side, and the first one's pointer reaches them all.
        let memory = unsafe { SharedMemory::new(start, count * PAGE_SIZE) };
        Ok(LentRun { memory, pages: run })
    }

    /// How many pages there are.
    pub fn count(&self) -> usize {
        self.pages.len()
    }

    /// A page, to grant it or to revoke its grant.
    pub fn page_mut(&mut self, index: usize) -> &mut LentPage<G> {
        &mut self.pages[index]
    }

    /// The reference of a page, while it is granted.
    pub fn reference(&self, index: usize) -> Option<GrantRef> {
        self.pages[index].reference()
    }

    /// Bytes that no peer can write: `None` where one of their pages is granted for writing.
    ///
    /// # Panics
    ///
    /// Where they are not all inside.
    pub fn bytes_mut(&mut self, start: usize, len: usize) -> Option<&mut [u8]> {
        let first = self.memory.at(start, len);
        let pages = &self.pages[start / PAGE_SIZE..(start + len).div_ceil(PAGE_SIZE)];
        let may_write = |page: &LentPage<G>| matches!(page.state, Some(State::Lent(_, Access::ReadWrite)));
        if pages.iter().any(may_write) {
            return None;
        }
        // SAFETY: inside the memory, which belongs to this value and is borrowed from it. No peer writes to it: it is
        // lent for reading at most, which `GrantTable` answers for, and no earlier grant is left, which `Grant` does.
        Some(unsafe { core::slice::from_raw_parts_mut(first.as_ptr(), len) })
    }
}

impl<G: Grant> core::ops::Deref for LentRun<G> {
    type Target = SharedMemory;

    fn deref(&self) -> &SharedMemory {
        &self.memory
    }
}

/// Pages side by side that are granted to a peer together, such as those of a ring: one piece of memory.
pub struct LentPages<G: Grant>(LentRun<G>);

impl<G: Grant> LentPages<G> {
    /// Takes zeroed pages side by side and grants them.
    ///
    /// # Errors
    ///
    /// Where there are none, or the grant table has no entries left.
    ///
    /// # Panics
    ///
    /// As [`LentRun::new`].
    pub fn lend<T>(table: &T, count: usize, peer: DomId, access: Access) -> Result<LentPages<G>, LendError<T::Error>>
    where
        T: GrantTable<Grant = G, Page = G::Page> + Pages<Page = G::Page>,
    {
        let mut run = LentRun::new(table, count).map_err(LendError::Memory)?;
        for page in &mut run.pages {
            page.lend(table, peer, access).map_err(LendError::Grant)?;
        }
        Ok(LentPages(run))
    }

    /// The pages' references, in their order.
    pub fn references(&self) -> impl ExactSizeIterator<Item = GrantRef> {
        self.0.pages.iter().map(|page| page.reference().expect("lent for as long as it is there"))
    }
}

impl<G: Grant> core::ops::Deref for LentPages<G> {
    type Target = SharedMemory;

    fn deref(&self) -> &SharedMemory {
        &self.0.memory
    }
}

/// Why pages could not be granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LendError<E> {
    /// There are no such pages.
    Memory(OutOfPages),
    /// The grant table has refused one.
    Grant(E),
}

impl<E: fmt::Display> fmt::Display for LendError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LendError::Memory(error) => error.fmt(f),
            LendError::Grant(error) => error.fmt(f),
        }
    }
}

impl<E: fmt::Debug + fmt::Display> core::error::Error for LendError<E> {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            LendError::Memory(error) => Some(error),
            LendError::Grant(_) => None,
        }
    }
}

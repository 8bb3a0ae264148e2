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
/// use xen_ring::GrantablePage;
/// use xen_sim::SimGrant;
///
/// let xen = xen_sim::Xen::new(1);
/// let (own, peer) = (xen.domain(), xen.domain().id());
/// let mut page = GrantablePage::<SimGrant>::new(own.alloc_page().unwrap());
/// page.write(0, b"for the peer");
/// let reference = page.grant(&own, peer, Access::ReadOnly).unwrap();
/// assert_eq!(page.reference(), Some(reference));
/// assert!(page.revoke(), "false as long as the peer maps it");
/// ```
pub struct GrantablePage<G: Grant> {
    memory: SharedMemory,
    state: Option<State<G>>,
}

enum State<G: Grant> {
    Own(G::Page),
    Granted(G, Access),
}

impl<G: Grant> GrantablePage<G> {
    /// A page that is not granted yet.
    pub fn new(page: G::Page) -> GrantablePage<G> {
        // SAFETY: by `Page`'s contract the bytes belong to the owner of the page, which is this value from here on, or
        // its grant: `GrantTable` and `Grant` promise to keep that very page.
        let memory = unsafe { SharedMemory::new(page.as_ptr(), PAGE_SIZE) };
        GrantablePage { memory, state: Some(State::Own(page)) }
    }

    /// Whether it is granted to nobody.
    pub fn is_own(&self) -> bool {
        matches!(self.state, Some(State::Own(_)))
    }

    /// The reference, while it is granted.
    pub fn reference(&self) -> Option<GrantRef> {
        match &self.state {
            Some(State::Granted(grant, _)) => Some(grant.reference()),
            _ => None,
        }
    }

    /// Grants it; if it is granted already, the reference stays the same.
    ///
    /// # Errors
    ///
    /// What the grant table says; the page stays as it is.
    pub fn grant<T>(&mut self, table: &T, peer: DomId, access: Access) -> Result<GrantRef, T::Error>
    where
        T: GrantTable<Grant = G, Page = G::Page>,
    {
        match self.state.take() {
            Some(State::Own(page)) => match table.grant(page, peer, access) {
                Ok(grant) => {
                    let reference = grant.reference();
                    self.state = Some(State::Granted(grant, access));
                    Ok(reference)
                }
                Err(refused) => {
                    self.state = Some(State::Own(refused.page));
                    Err(refused.error)
                }
            },
            Some(State::Granted(grant, access)) => {
                let reference = grant.reference();
                self.state = Some(State::Granted(grant, access));
                Ok(reference)
            }
            None => unreachable!("the state is only ever taken for a moment"),
        }
    }

    /// Revokes the grant. `false` if the peer still uses the page: it stays granted then.
    #[must_use = "a page that the peer still has may be given to nobody"]
    pub fn revoke(&mut self) -> bool {
        match self.state.take() {
            Some(State::Granted(grant, access)) => match grant.try_end() {
                Ok(page) => {
                    self.state = Some(State::Own(page));
                    true
                }
                Err(grant) => {
                    self.state = Some(State::Granted(grant, access));
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

impl<G: Grant> core::ops::Deref for GrantablePage<G> {
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
/// use xen_ring::GrantableRun;
/// use xen_sim::SimGrant;
///
/// let xen = xen_sim::Xen::new(1);
/// let (own, peer) = (xen.domain(), xen.domain().id());
/// let mut run = GrantableRun::<SimGrant>::new(&own, 4).unwrap();
/// // A reference is possible as long as no peer can write there.
/// run.bytes_mut(4000, 200).unwrap().fill(1);
/// run.page_mut(1).grant(&own, peer, Access::ReadWrite).unwrap();
/// assert!(run.bytes_mut(4000, 200).is_none());
/// ```
pub struct GrantableRun<G: Grant> {
    memory: SharedMemory,
    pages: Vec<GrantablePage<G>>,
}

impl<G: Grant> GrantableRun<G> {
    /// Takes `count` zeroed pages side by side, which are not granted yet.
    ///
    /// # Errors
    ///
    /// Where there are none.
    ///
    /// # Panics
    ///
    /// Where `count` is zero, or what the allocator gives is not `count` pages side by side.
    pub fn new(pages: &impl Pages<Page = G::Page>, count: usize) -> Result<GrantableRun<G>, OutOfPages> {
        let mut run = Vec::with_capacity(count);
        pages.alloc_run(count, &mut |page| run.push(GrantablePage::<G>::new(page)))?;
        // An allocator takes no `unsafe` to write: its word is not enough.
        assert_eq!(run.len(), count, "pages of a run");
        let start = run.first().expect("at least a page").memory.start;
        for (index, page) in run.iter().enumerate() {
            assert_eq!(page.memory.start.addr().get(), start.addr().get() + index * PAGE_SIZE, "pages side by side");
        }
        // SAFETY: by `Page`'s contract the bytes of each page belong to its owner, which is this value or the page's
        // grant. There are `count` of them, side by side, and the first one's pointer reaches them all.
        let memory = unsafe { SharedMemory::new(start, count * PAGE_SIZE) };
        Ok(GrantableRun { memory, pages: run })
    }

    /// How many pages there are.
    pub fn count(&self) -> usize {
        self.pages.len()
    }

    /// A page, to grant it or to revoke its grant.
    pub fn page_mut(&mut self, index: usize) -> &mut GrantablePage<G> {
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
        let may_write = |page: &GrantablePage<G>| matches!(page.state, Some(State::Granted(_, Access::ReadWrite)));
        if pages.iter().any(may_write) {
            return None;
        }
        // SAFETY: inside the memory, which belongs to this value and is borrowed from it. No peer writes to it: it is
        // granted for reading at most, which `GrantTable` answers for, and no earlier grant is left, which `Grant` does.
        Some(unsafe { core::slice::from_raw_parts_mut(first.as_ptr(), len) })
    }
}

impl<G: Grant> core::ops::Deref for GrantableRun<G> {
    type Target = SharedMemory;

    fn deref(&self) -> &SharedMemory {
        &self.memory
    }
}

/// Pages side by side that are granted to a peer together, such as those of a ring: one piece of memory.
pub struct GrantedPages<G: Grant>(GrantableRun<G>);

impl<G: Grant> GrantedPages<G> {
    /// Takes zeroed pages side by side and grants them.
    ///
    /// # Errors
    ///
    /// Where there are none, or the grant table has no entries left.
    ///
    /// # Panics
    ///
    /// As [`GrantableRun::new`].
    pub fn grant<T>(
        table: &T,
        count: usize,
        peer: DomId,
        access: Access,
    ) -> Result<GrantedPages<G>, GrantPagesError<T::Error>>
    where
        T: GrantTable<Grant = G, Page = G::Page> + Pages<Page = G::Page>,
    {
        let mut run = GrantableRun::new(table, count).map_err(GrantPagesError::Memory)?;
        for page in &mut run.pages {
            page.grant(table, peer, access).map_err(GrantPagesError::Grant)?;
        }
        Ok(GrantedPages(run))
    }

    /// The pages' references, in their order.
    pub fn references(&self) -> impl ExactSizeIterator<Item = GrantRef> {
        self.0.pages.iter().map(|page| page.reference().expect("granted for as long as it is there"))
    }
}

impl<G: Grant> core::ops::Deref for GrantedPages<G> {
    type Target = SharedMemory;

    fn deref(&self) -> &SharedMemory {
        &self.0.memory
    }
}

/// Why pages could not be granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantPagesError<E> {
    /// There are no such pages.
    Memory(OutOfPages),
    /// The grant table has refused one.
    Grant(E),
}

impl<E: fmt::Display> fmt::Display for GrantPagesError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GrantPagesError::Memory(error) => error.fmt(f),
            GrantPagesError::Grant(error) => error.fmt(f),
        }
    }
}

impl<E: fmt::Debug + fmt::Display> core::error::Error for GrantPagesError<E> {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            GrantPagesError::Memory(error) => Some(error),
            GrantPagesError::Grant(_) => None,
        }
    }
}

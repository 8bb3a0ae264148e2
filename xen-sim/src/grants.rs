//! Grant tables.

use std::fmt;
use std::ptr::NonNull;
use std::rc::{Rc, Weak};

use xen_hal::{
    Access, CopyOp, DomId, Frame, Grant, GrantError, GrantErrorKind, GrantRef, GrantStatus, GrantTable, MapRequest,
    Mapping, Page, RefusedGrant,
};

use crate::domain::{Domain, DomainState};
use crate::memory::{SimPage, Window};
use crate::world::World;

pub(crate) struct GrantState {
    /// The peer's way to the page.
    page: SimPage,
    peer: DomId,
    access: Access,
    pub(crate) mapped: usize,
    /// Its owner has dropped it, but the peer has not let go.
    ended: bool,
}

impl GrantState {
    /// Whether it gives `peer` this page.
    pub(crate) fn leads_to(&self, frame: Frame, peer: DomId) -> bool {
        self.peer == peer && self.page.frame() == frame
    }
}

/// How many pages of dropped grants a peer may keep, where it was never granted more at a time.
const MAX_KEPT: usize = 256;

impl World {
    /// The page that a reference leads `id` to.
    fn granted(&self, id: DomId, peer: DomId, reference: GrantRef, access: Access) -> Result<Frame, GrantStatus> {
        let domains = self.domains.borrow();
        let domain = domains.get(&peer.0).ok_or(GrantStatus::BadDomain)?;
        let grant = domain.grants.get(&reference.0).ok_or(GrantStatus::BadGrantRef)?;
        if grant.peer != id || grant.ended || (access == Access::ReadWrite && grant.access == Access::ReadOnly) {
            return Err(GrantStatus::GeneralError);
        }
        Ok(grant.page.frame())
    }

    fn count_mapping(&self, peer: DomId, reference: GrantRef, change: isize) {
        let done = {
            let mut domains = self.domains.borrow_mut();
            let Some(domain) = domains.get_mut(&peer.0) else { return };
            let Some(grant) = domain.grants.get_mut(&reference.0) else { return };
            grant.mapped = grant.mapped.saturating_add_signed(change);
            let done = match grant.ended && grant.mapped == 0 {
                true => domain.grants.remove(&reference.0),
                false => None,
            };
            if let Some(peer) = done.as_ref().and_then(|grant| domain.peers.get_mut(&grant.peer)) {
                peer.release();
            }
            done
        };
        if done.is_some() {
            self.deferred.set(self.deferred.get() - 1);
        }
    }

    /// Ends a domain's grants, and leaves copies of the pages to peers that have them mapped.
    pub(crate) fn leave_grants(&self, id: DomId) {
        let grants = {
            let mut domains = self.domains.borrow_mut();
            let Some(domain) = domains.get_mut(&id.0) else { return };
            domain.peers.clear();
            std::mem::take(&mut domain.grants)
        };
        let frames: Vec<Frame> =
            grants.values().filter(|grant| grant.mapped > 0).map(|grant| grant.page.frame()).collect();
        self.memory.leave_copies(&frames);
        let ended = grants.values().filter(|grant| grant.ended).count();
        self.deferred.set(self.deferred.get() - ended);
    }

    pub(crate) fn grants_of_dead(&self, state: &mut DomainState) {
        let ended = state.grants.values().filter(|grant| grant.ended).count();
        self.deferred.set(self.deferred.get() - ended);
        state.grants.clear();
    }
}

impl DomainState {
    /// How many pages of dropped grants the peer still maps, where it is granted no more for that.
    fn too_many_kept(&self, peer: DomId) -> Option<usize> {
        self.peers.get(&peer)?.too_many_kept(MAX_KEPT)
    }
}

// SAFETY: the page moves into the grant, or back with the error. Read-only pages are mapped read-only, and copies to them
// refused. A copy stays within what `CopyOp` says, and is over when it returns.
unsafe impl GrantTable for Domain {
    type Error = SimGrantError;
    type Page = SimPage;
    type Grant = SimGrant;
    type Mapping = SimMapping;

    fn grant(
        &self,
        page: SimPage,
        peer: DomId,
        access: Access,
    ) -> Result<SimGrant, RefusedGrant<SimPage, SimGrantError>> {
        let world = self.world();
        let percent = world.faults.borrow().grants;
        if world.chance(percent) {
            return Err(RefusedGrant { page, error: SimGrantError::TableFull });
        }
        let mut domains = world.domains.borrow_mut();
        let Some(domain) = domains.get_mut(&self.id.0) else {
            return Err(RefusedGrant { page, error: SimGrantError::TableFull });
        };
        if let Some(pages) = domain.too_many_kept(peer) {
            return Err(RefusedGrant { page, error: SimGrantError::PagesKept { peer, pages } });
        }
        domain.peers.entry(peer).or_default().begin();
        let reference = domain.next_grant;
        domain.next_grant += 1;
        let granted = world.memory.alias(page.frame());
        domain.grants.insert(reference, GrantState { page: granted, peer, access, mapped: 0, ended: false });
        drop(domains);
        Ok(SimGrant { world: Rc::downgrade(&world), id: self.id, reference, page: Some(page) })
    }

    fn keeps_too_many(&self, peer: DomId) -> bool {
        let world = self.world();
        let domains = world.domains.borrow();
        domains.get(&self.id.0).is_some_and(|domain| domain.too_many_kept(peer).is_some())
    }

    fn map(&self, requests: &[MapRequest]) -> Result<SimMapping, SimGrantError> {
        let world = self.world();
        if let Some(domain) = world.domains.borrow_mut().get_mut(&self.id.0) {
            if requests.len() > domain.address_space - domain.foreign {
                return Err(SimGrantError::NoAddressSpace);
            }
            domain.foreign += requests.len();
        }
        let percent = world.faults.borrow().maps;
        let outcomes: Vec<_> = requests
            .iter()
            .map(|request| {
                if world.chance(percent) {
                    return Err(GrantStatus::NoSpace);
                }
                world.granted(self.id, request.peer, request.reference, request.access)
            })
            .collect();
        let pages: Vec<_> = outcomes
            .iter()
            .zip(requests)
            .map(|(outcome, request)| outcome.ok().map(|frame| (frame, request.access)))
            .collect();
        let window = world.memory.window(&pages);
        let held = pages.iter().flatten().map(|(frame, _)| world.memory.alias(*frame)).collect();
        for (request, _) in requests.iter().zip(&outcomes).filter(|(_, outcome)| outcome.is_ok()) {
            world.count_mapping(request.peer, request.reference, 1);
        }
        let pages = requests.iter().zip(outcomes).map(|(request, outcome)| (*request, outcome.map(drop))).collect();
        Ok(SimMapping { world: Rc::downgrade(&world), id: self.id, window, pages, _held: held })
    }

    fn copy(&self, operations: &mut [CopyOp<'_>]) -> Result<(), SimGrantError> {
        let world = self.world();
        for operation in operations {
            world.count_work();
            let remote = operation.remote();
            let access = if operation.is_write() { Access::ReadWrite } else { Access::ReadOnly };
            let outcome = world.granted(self.id, remote.peer, remote.reference, access).map(|frame| {
                let page = world.memory.alias(frame);
                let (local, len) = (operation.local(), usize::from(operation.byte_count()));
                // SAFETY: `CopyOp` has checked that both sides stay within their pages, and its borrow keeps the local
                // bytes; the remote page is held.
                unsafe {
                    let far = page.as_ptr().add(usize::from(remote.offset));
                    match operation.is_write() {
                        true => local.copy_to(far, len),
                        false => far.copy_to(local, len),
                    }
                }
            });
            operation.set_result(outcome);
        }
        Ok(())
    }
}

/// A page granted to a peer.
pub struct SimGrant {
    world: Weak<World>,
    id: DomId,
    reference: u32,
    /// `None` once it has ended.
    page: Option<SimPage>,
}

impl SimGrant {
    fn is_mapped(&self) -> bool {
        let Some(world) = self.world.upgrade() else { return false };
        let domains = world.domains.borrow();
        domains.get(&self.id.0).and_then(|domain| domain.grants.get(&self.reference)).is_some_and(|g| g.mapped > 0)
    }

    fn end(&mut self) {
        let Some(world) = self.world.upgrade() else { return };
        let mut domains = world.domains.borrow_mut();
        let Some(domain) = domains.get_mut(&self.id.0) else { return };
        let Some(grant) = domain.grants.get_mut(&self.reference) else { return };
        domain.peers.entry(grant.peer).or_default().end(grant.mapped > 0);
        if grant.mapped > 0 {
            grant.ended = true;
            world.deferred.set(world.deferred.get() + 1);
        } else {
            domain.grants.remove(&self.reference);
        }
    }
}

// SAFETY: the page stays in the value until `try_end` takes it, which it does only while no peer maps it. What a peer
// still maps when the grant is dropped is kept by the mapping's own share of the page.
unsafe impl Grant for SimGrant {
    type Page = SimPage;

    fn reference(&self) -> GrantRef {
        GrantRef(self.reference)
    }

    fn page(&self) -> &SimPage {
        self.page.as_ref().expect("a grant that has not ended has its page")
    }

    fn try_end(mut self) -> Result<SimPage, SimGrant> {
        if self.is_mapped() {
            return Err(self);
        }
        self.end();
        Ok(self.page.take().expect("a grant that has not ended has its page"))
    }
}

impl Drop for SimGrant {
    fn drop(&mut self) {
        if self.page.is_some() {
            self.end();
        }
    }
}

/// Pages of peers, mapped side by side.
pub struct SimMapping {
    world: Weak<World>,
    id: DomId,
    window: Window,
    pages: Vec<(MapRequest, Result<(), GrantStatus>)>,
    /// Keeps the pages from being given to somebody else.
    _held: Vec<SimPage>,
}

// SAFETY: the window is one range of addresses of the value's own, in which the pages are mapped one after the other as
// they were asked for, until it is dropped with the value. Only raw pointers are made of them.
unsafe impl Mapping for SimMapping {
    fn len(&self) -> usize {
        self.pages.len()
    }

    fn is_writable(&self) -> bool {
        self.pages.iter().all(|(request, _)| request.access == Access::ReadWrite)
    }

    fn page(&self, index: usize) -> Result<NonNull<u8>, GrantStatus> {
        self.pages[index].1.map(|()| self.window.page(index))
    }
}

impl Drop for SimMapping {
    fn drop(&mut self) {
        let Some(world) = self.world.upgrade() else { return };
        if let Some(domain) = world.domains.borrow_mut().get_mut(&self.id.0) {
            domain.foreign -= self.pages.len();
        }
        for (request, _) in self.pages.iter().filter(|(_, outcome)| outcome.is_ok()) {
            world.count_mapping(request.peer, request.reference, -1);
        }
    }
}

/// Why a grant operation failed as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SimGrantError {
    /// The grant table is full, as the faults have it.
    TableFull,
    /// The peer still maps so many pages whose grants were dropped that it is granted no more.
    PagesKept {
        /// Who maps them.
        peer: DomId,
        /// How many.
        pages: usize,
    },
    /// The domain has no address space left to map so many pages.
    NoAddressSpace,
}

impl GrantError for SimGrantError {
    fn kind(&self) -> GrantErrorKind {
        match self {
            SimGrantError::TableFull => GrantErrorKind::NoGrants,
            SimGrantError::PagesKept { .. } => GrantErrorKind::PagesKept,
            SimGrantError::NoAddressSpace => GrantErrorKind::NoAddressSpace,
        }
    }
}

impl fmt::Display for SimGrantError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SimGrantError::TableFull => f.write_str("the grant table is full"),
            SimGrantError::PagesKept { peer, pages } => {
                write!(f, "{peer} has not unmapped {pages} pages that it is granted no longer")
            }
            SimGrantError::NoAddressSpace => f.write_str("no address space left to map foreign pages"),
        }
    }
}

impl std::error::Error for SimGrantError {}

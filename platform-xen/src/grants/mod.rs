//! Grant tables, version 1 (xen/include/public/grant_table.h).

mod copy;
mod map;
mod table;

use core::fmt;

use xen_hal::{
    Access, CopyOp, DomId, Errno, GrantError, GrantErrorKind, GrantTable, MapRequest, OutOfPages, Pages, RefusedGrant,
};

use crate::memory::{RamPage, RamPages};
pub use map::XenMapping;
pub(crate) use table::resume;
pub use table::{GrantUse, XenGrant, grant_use};

/// The domain's grant table.
#[derive(Clone, Copy, Debug, Default)]
pub struct XenGrantTable;

// SAFETY: `table::grant` moves the page into the grant, or back with the error; `GTF_readonly` is kept by the
// hypervisor; a copy is described to it by `CopyOp`'s own bounds, and is over when the hypercall returns.
unsafe impl GrantTable for XenGrantTable {
    type Error = XenGrantError;
    type Page = RamPage;
    type Grant = XenGrant;
    type Mapping = XenMapping;

    fn grant(
        &self,
        page: RamPage,
        peer: DomId,
        access: Access,
    ) -> Result<XenGrant, RefusedGrant<RamPage, XenGrantError>> {
        table::grant(page, peer, access)
    }

    fn keeps_too_many(&self, peer: DomId) -> bool {
        table::keeps_too_many(peer)
    }

    fn map(&self, requests: &[MapRequest]) -> Result<XenMapping, XenGrantError> {
        map::map(requests)
    }

    fn copy(&self, operations: &mut [CopyOp<'_>]) -> Result<(), XenGrantError> {
        copy::copy(operations)
    }
}

impl Pages for XenGrantTable {
    type Page = RamPage;

    fn alloc_page(&self) -> Result<RamPage, OutOfPages> {
        RamPages.alloc_page()
    }

    fn alloc_run(&self, count: usize, take: &mut dyn FnMut(RamPage)) -> Result<(), OutOfPages> {
        RamPages.alloc_run(count, take)
    }
}

/// A grant operation failed as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum XenGrantError {
    /// All entries are in use, and the hypervisor allows no more frames. More come with `max_grant_frames=` in the xl
    /// file.
    TableFull {
        /// Entries in the table.
        entries: u32,
    },
    /// The peer still maps so many pages whose grants were dropped that it is granted no more.
    PagesKept {
        /// Who maps them.
        peer: DomId,
        /// How many.
        pages: usize,
    },
    /// No address space is left to map that many pages side by side.
    NoAddressSpace {
        /// How many were asked for.
        pages: usize,
    },
    /// The page lies where version 1 of the table cannot name it (above 16 TiB).
    FrameTooHigh,
    /// The hypervisor refused.
    Hypervisor(Errno),
}

impl GrantError for XenGrantError {
    fn kind(&self) -> GrantErrorKind {
        match self {
            XenGrantError::TableFull { .. } => GrantErrorKind::NoGrants,
            XenGrantError::PagesKept { .. } => GrantErrorKind::PagesKept,
            XenGrantError::NoAddressSpace { .. } => GrantErrorKind::NoAddressSpace,
            XenGrantError::Hypervisor(Errno::ENOMEM) => GrantErrorKind::OutOfMemory,
            XenGrantError::FrameTooHigh | XenGrantError::Hypervisor(_) => GrantErrorKind::Other,
        }
    }
}

impl fmt::Display for XenGrantError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            XenGrantError::TableFull { entries } => {
                write!(f, "all {entries} entries of the grant table are in use (max_grant_frames= in the xl file)")
            }
            XenGrantError::PagesKept { peer, pages } => {
                write!(f, "{peer} has not unmapped {pages} pages that it is granted no longer")
            }
            XenGrantError::NoAddressSpace { pages } => write!(f, "no address space left to map {pages} foreign pages"),
            XenGrantError::FrameTooHigh => f.write_str("the page lies above 16 TiB, where it cannot be granted"),
            XenGrantError::Hypervisor(errno) => write!(f, "grant table operation failed: {errno}"),
        }
    }
}

impl core::error::Error for XenGrantError {}

/// How often an operation is tried whose page the hypervisor has to fetch first (GNTST_eagain).
const TRIES: usize = 64;

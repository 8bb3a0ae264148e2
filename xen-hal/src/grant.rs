//! Grant tables: granting pages to another domain, and using pages that another domain has granted.

use core::fmt;
use core::marker::PhantomData;
use core::ptr::NonNull;

use crate::{DomId, GrantRef, PAGE_SIZE, Page, Pages};

/// What the peer may do with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Access {
    /// Only read it.
    ReadOnly,
    /// Read it and write it.
    ReadWrite,
}

macro_rules! statuses {
    ($($name:ident = $number:literal, $text:literal;)*) => {
        /// Why the hypervisor refused one element of a grant operation (`GNTST_*`, xen/include/public/grant_table.h).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[cfg_attr(feature = "defmt", derive(defmt::Format))]
        #[non_exhaustive]
        pub enum GrantStatus {
            $(#[doc = $text] $name,)*
            /// A status that the header does not list.
            Other(i16),
        }

        impl GrantStatus {
            /// The outcome for a status that the hypervisor has written.
            ///
            /// # Errors
            ///
            /// For every status but `GNTST_okay`.
            pub const fn check(status: i16) -> Result<(), GrantStatus> {
                match status {
                    0 => Ok(()),
                    $($number => Err(GrantStatus::$name),)*
                    other => Err(GrantStatus::Other(other)),
                }
            }

            /// The number in the header.
            pub const fn number(self) -> i16 {
                match self {
                    $(GrantStatus::$name => $number,)*
                    GrantStatus::Other(number) => number,
                }
            }
        }

        impl fmt::Display for GrantStatus {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(GrantStatus::$name => f.write_str($text),)*
                    GrantStatus::Other(number) => write!(f, "unknown grant status {number}"),
                }
            }
        }
    };
}

statuses! {
    GeneralError = -1, "general error";
    BadDomain = -2, "unrecognised domain";
    BadGrantRef = -3, "unrecognised or inappropriate grant reference";
    BadHandle = -4, "unrecognised or inappropriate handle";
    BadVirtAddr = -5, "inappropriate virtual address to map to";
    BadDevAddr = -6, "inappropriate device address to unmap";
    NoDeviceSpace = -7, "out of space in the I/O MMU";
    PermissionDenied = -8, "not enough privilege for the operation";
    BadPage = -9, "the page is invalid for the operation";
    BadCopyArg = -10, "copy arguments cross a page boundary";
    AddressTooBig = -11, "the page's address is too large";
    Eagain = -12, "could not be done right now";
    NoSpace = -13, "out of space in the mapping table";
}

impl core::error::Error for GrantStatus {}

/// What every grant-table error can be reduced to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum GrantErrorKind {
    /// The table has no free entry, and the hypervisor allows it no further growth.
    NoGrants,
    /// No address space is left to map pages into.
    NoAddressSpace,
    /// No memory is left.
    OutOfMemory,
    /// The peer maps too many pages whose grants were dropped ([`GrantTable::keeps_too_many`]).
    PagesKept,
    /// Anything else.
    Other,
}

/// An error of a [`GrantTable`] implementation.
pub trait GrantError: fmt::Debug + fmt::Display {
    /// The kind, for callers that are generic over the implementation.
    fn kind(&self) -> GrantErrorKind;
}

/// A domain's grant table.
///
/// # Safety
///
/// Callers keep pointers into pages that they have granted, and go on using them until the grant gives the page back
/// (xen-ring's `GrantablePage`, `GrantableRun` and `GrantedPages`). So an implementor promises that
/// - [`grant`](GrantTable::grant) moves the very page that it was given into the [`Grant`] or into the
///   [`RefusedGrant`]: it never drops it, nor changes it for another;
/// - a peer that was given [`Access::ReadOnly`] cannot write to the page through this grant: `GrantableRun::bytes_mut` makes
///   references on the strength of it;
/// - [`copy`](GrantTable::copy) touches no memory of this domain but the [`byte_count`](CopyOp::byte_count) bytes at
///   [`local`](CopyOp::local) of each operation, writes to them only where the operation is no
///   [write](CopyOp::is_write), and leaves them alone once it has returned, even where it failed: what they are
///   borrowed from may be gone a moment later.
///
/// What [`map`](GrantTable::map) returns is bound by [`Mapping`]'s own contract.
///
/// # Examples
///
/// One domain grants a page; the other one copies out of it.
///
/// ```
/// use xen_hal::{Access, CopyOp, Grant, GrantTable, Pages, Remote};
///
/// let xen = xen_sim::Xen::new(1);
/// let (owner, user) = (xen.domain(), xen.domain());
/// let page = owner.alloc_page().unwrap();
/// let grant = owner.grant(page, user.id(), Access::ReadOnly).unwrap();
///
/// let mut bytes = [1; 16];
/// let from = Remote { peer: owner.id(), reference: grant.reference(), offset: 100 };
/// let mut copies = [CopyOp::read(from, &mut bytes)];
/// user.copy(&mut copies).unwrap();
/// assert_eq!(copies[0].result(), Ok(())); // each operation has its own outcome
/// assert_eq!(bytes, [0; 16]);
///
/// let page = grant.try_end().ok().expect("the peer has not mapped it");
/// # drop(page);
/// ```
pub unsafe trait GrantTable {
    /// Why an operation failed as a whole.
    type Error: GrantError;
    /// The pages that can be granted.
    type Page: Page + 'static;
    /// A page granted to a peer.
    type Grant: Grant<Page = Self::Page> + 'static;
    /// Pages of a peer, mapped here.
    type Mapping: Mapping + 'static;

    /// Grants `page` to `peer`.
    ///
    /// # Errors
    ///
    /// [`NoGrants`](GrantErrorKind::NoGrants) if the table is full, [`PagesKept`](GrantErrorKind::PagesKept) where
    /// [`keeps_too_many`](GrantTable::keeps_too_many). The page is returned with the error.
    fn grant(
        &self,
        page: Self::Page,
        peer: DomId,
        access: Access,
    ) -> Result<Self::Grant, RefusedGrant<Self::Page, Self::Error>>;

    /// Whether the peer still maps so many pages whose [`Grant`]s were dropped that it is granted no more. Such pages are
    /// of no use to this domain: without a bound, a peer that never lets go would take all of its memory.
    fn keeps_too_many(&self, peer: DomId) -> bool;

    /// Maps pages of peers side by side, in one call to the hypervisor.
    ///
    /// A page that the hypervisor refuses does not fail the others: each has its own outcome in the [`Mapping`].
    ///
    /// # Errors
    ///
    /// [`NoAddressSpace`](GrantErrorKind::NoAddressSpace) or [`OutOfMemory`](GrantErrorKind::OutOfMemory); nothing is
    /// mapped then.
    fn map(&self, requests: &[MapRequest]) -> Result<Self::Mapping, Self::Error>;

    /// Copies between this domain's memory and pages of peers, all in one call to the hypervisor. Each operation
    /// tells its own outcome ([`CopyOp::result`]).
    ///
    /// # Errors
    ///
    /// If the hypervisor refuses the call as a whole. Operations that were carried out before have their outcome.
    fn copy(&self, operations: &mut [CopyOp<'_>]) -> Result<(), Self::Error>;
}

// SAFETY: every call goes to `T`, which keeps the promises.
unsafe impl<T: GrantTable + ?Sized> GrantTable for &T {
    type Error = T::Error;
    type Page = T::Page;
    type Grant = T::Grant;
    type Mapping = T::Mapping;

    fn grant(
        &self,
        page: Self::Page,
        peer: DomId,
        access: Access,
    ) -> Result<Self::Grant, RefusedGrant<Self::Page, Self::Error>> {
        (**self).grant(page, peer, access)
    }

    fn keeps_too_many(&self, peer: DomId) -> bool {
        (**self).keeps_too_many(peer)
    }

    fn map(&self, requests: &[MapRequest]) -> Result<Self::Mapping, Self::Error> {
        (**self).map(requests)
    }

    fn copy(&self, operations: &mut [CopyOp<'_>]) -> Result<(), Self::Error> {
        (**self).copy(operations)
    }
}

/// What a driver needs of its domain's memory: pages, and a grant table to grant them with.
pub trait Memory: GrantTable + Pages<Page = <Self as GrantTable>::Page> + Clone + 'static {}

impl<T: GrantTable + Pages<Page = <T as GrantTable>::Page> + Clone + 'static> Memory for T {}

/// A page granted to a peer.
///
/// Dropping it ends the peer's access. Where the peer still maps the page, page and entry stay out of use until it
/// lets go: they are never given to anybody else before (XSA-396).
///
/// # Safety
///
/// xen-ring's `GrantablePage` reads and writes the page's bytes for as long as it holds the grant, and its `GrantableRun` makes
/// references to them once the page is back. So an implementor promises that
/// - the value owns the page that [`GrantTable::grant`] was given: [`page`](Grant::page) is that page for as long as the
///   value lives, wherever it is moved, and its bytes are used by nobody else in this domain;
/// - [`try_end`](Grant::try_end) returns that very page only when the peer cannot reach it any more through this grant,
///   and otherwise an equivalent of `self`;
/// - a page whose grant is dropped is not freed before the peer has let go of it.
pub unsafe trait Grant: Sized {
    /// The page that is granted.
    type Page: Page;

    /// The reference by which the peer names the page.
    fn reference(&self) -> GrantRef;

    /// The page. The peer may change it at any time.
    fn page(&self) -> &Self::Page;

    /// Ends the peer's access and returns the page, or the grant unchanged where the peer still maps it.
    ///
    /// # Errors
    ///
    /// The grant itself, while the peer still maps the page.
    fn try_end(self) -> Result<Self::Page, Self>;
}

/// A page that could not be granted, and why.
pub struct RefusedGrant<P, E> {
    /// The page, unchanged.
    pub page: P,
    /// Why it was not granted.
    pub error: E,
}

impl<P, E: fmt::Debug> fmt::Debug for RefusedGrant<P, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RefusedGrant").field("error", &self.error).finish_non_exhaustive()
    }
}

impl<P, E: fmt::Display> fmt::Display for RefusedGrant<P, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<P, E: fmt::Debug + fmt::Display> core::error::Error for RefusedGrant<P, E> {}

/// A page of a peer to be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapRequest {
    /// Who has granted the page.
    pub peer: DomId,
    /// The peer's reference for it.
    pub reference: GrantRef,
    /// How it is to be mapped; a read-only grant cannot be mapped for writing.
    pub access: Access,
}

/// Pages of peers, mapped side by side. Dropping it unmaps them.
///
/// The memory belongs to the peer, which may change it at any time: no reference may ever point into it. Writing to a
/// page that was mapped read-only ends the domain with a page fault.
///
/// # Safety
///
/// xen-ring's `SharedMapping::new` and `ReadOnlyMapping::new` turn a mapping into memory that safe code reads and
/// writes. So an implementor promises that, as long as the value lives and wherever it is moved:
/// - [`len`](Mapping::len), [`page`](Mapping::page), [`all`](Mapping::all) and [`is_writable`](Mapping::is_writable)
///   return the same each time;
/// - where `page(index)` is `Ok`, [`PAGE_SIZE`] readable bytes are mapped at that address, which is aligned to
///   [`PAGE_SIZE`], and nothing in this domain holds a reference into them;
/// - where `all()` is `Ok`, this is so for all `len()` pages, one after the other from that address, and the pointer may
///   be used for all of them;
/// - where `is_writable()` is `true`, every page that is mapped may be written, too.
///
/// # Examples
///
/// ```
/// use xen_hal::{Access, Grant, GrantTable, MapRequest, Mapping, Pages};
///
/// let xen = xen_sim::Xen::new(1);
/// let (owner, user) = (xen.domain(), xen.domain());
/// let grant = owner.grant(owner.alloc_page().unwrap(), user.id(), Access::ReadWrite).unwrap();
///
/// let request = MapRequest { peer: owner.id(), reference: grant.reference(), access: Access::ReadWrite };
/// let mapping = user.map(&[request]).unwrap();
/// assert!(mapping.page(0).is_ok() && mapping.is_writable());
/// // Granted as long as it is mapped.
/// assert!(grant.try_end().is_err());
/// # drop(mapping);
/// ```
pub unsafe trait Mapping {
    /// How many pages were asked for, refused ones included.
    fn len(&self) -> usize;

    /// Whether no page was asked for.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where page `index` is.
    ///
    /// # Errors
    ///
    /// Why it is not mapped.
    ///
    /// # Panics
    ///
    /// Where `index` is not below [`len`](Mapping::len).
    fn page(&self, index: usize) -> Result<NonNull<u8>, GrantStatus>;

    /// Whether all of its pages were asked for with [`Access::ReadWrite`].
    fn is_writable(&self) -> bool;

    /// Where all pages are, side by side.
    ///
    /// # Errors
    ///
    /// Why the first of those that were refused is not mapped.
    ///
    /// # Panics
    ///
    /// Where no page was asked for.
    fn all(&self) -> Result<NonNull<u8>, GrantStatus> {
        let first = self.page(0)?;
        for index in 1..self.len() {
            self.page(index)?;
        }
        Ok(first)
    }
}

/// A place in a page that a peer has granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remote {
    /// Who has granted the page.
    pub peer: DomId,
    /// The peer's reference for it.
    pub reference: GrantRef,
    /// Where in the page, in bytes.
    pub offset: u16,
}

/// One copy between memory of this domain and a page that a peer has granted.
///
/// The bytes on this side must lie within one page, as must those on the other.
pub struct CopyOp<'a> {
    remote: Remote,
    local: NonNull<u8>,
    len: u16,
    to_remote: bool,
    result: Result<(), GrantStatus>,
    lifetime: PhantomData<&'a mut [u8]>,
}

impl<'a> CopyOp<'a> {
    /// Copies from a peer's page into `to`.
    ///
    /// # Panics
    ///
    /// Where `to` crosses a page boundary or the remote bytes would.
    pub fn read(from: Remote, to: &'a mut [u8]) -> Self {
        let local = NonNull::from(&mut *to).cast();
        // SAFETY: the exclusive borrow makes the bytes writable and lasts as long as the operation.
        unsafe { Self::read_raw(from, local, to.len()) }
    }

    /// Copies `from` into a peer's page.
    ///
    /// # Panics
    ///
    /// Where `from` crosses a page boundary or the remote bytes would.
    pub fn write(from: &'a [u8], to: Remote) -> Self {
        let local = NonNull::from(from).cast();
        // SAFETY: the borrow makes the bytes readable and lasts as long as the operation.
        unsafe { Self::write_raw(local, from.len(), to) }
    }

    /// [`CopyOp::read`] into memory that a reference may not point to, such as a page granted to another peer.
    ///
    /// # Safety
    ///
    /// `to` is valid for writes of `len` bytes for the lifetime `'a`.
    ///
    /// # Panics
    ///
    /// As [`CopyOp::read`].
    pub unsafe fn read_raw(from: Remote, to: NonNull<u8>, len: usize) -> Self {
        Self::new(from, to, len, false)
    }

    /// [`CopyOp::write`] from memory that a reference may not point to, such as a page granted to another peer.
    ///
    /// # Safety
    ///
    /// `from` is valid for reads of `len` bytes for the lifetime `'a`.
    ///
    /// # Panics
    ///
    /// As [`CopyOp::write`].
    pub unsafe fn write_raw(from: NonNull<u8>, len: usize, to: Remote) -> Self {
        Self::new(to, from, len, true)
    }

    fn new(remote: Remote, local: NonNull<u8>, len: usize, to_remote: bool) -> Self {
        let offset = local.addr().get() % PAGE_SIZE;
        assert!(offset + len <= PAGE_SIZE, "{len} bytes at offset {offset} cross a page boundary");
        assert!(
            usize::from(remote.offset) + len <= PAGE_SIZE,
            "{len} bytes at offset {} of {} cross a page boundary",
            remote.offset,
            remote.reference
        );
        // Until the hypervisor has said otherwise nothing was copied.
        let result = Err(GrantStatus::GeneralError);
        CopyOp { remote, local, len: len as u16, to_remote, result, lifetime: PhantomData }
    }

    /// Whether the bytes were copied, once the operation was carried out.
    ///
    /// # Errors
    ///
    /// What the hypervisor said to this operation.
    pub fn result(&self) -> Result<(), GrantStatus> {
        self.result
    }

    /// For implementors of [`GrantTable::copy`]: the peer's side.
    pub fn remote(&self) -> Remote {
        self.remote
    }

    /// For implementors of [`GrantTable::copy`]: this side, valid for as many bytes as
    /// [`byte_count`](CopyOp::byte_count) says.
    pub fn local(&self) -> NonNull<u8> {
        self.local
    }

    /// For implementors of [`GrantTable::copy`]: how many bytes to copy.
    pub fn byte_count(&self) -> u16 {
        self.len
    }

    /// For implementors of [`GrantTable::copy`]: whether the peer's side is the destination.
    pub fn is_write(&self) -> bool {
        self.to_remote
    }

    /// For implementors of [`GrantTable::copy`]: says how it went.
    pub fn set_result(&mut self, result: Result<(), GrantStatus>) {
        self.result = result;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_lead_back() {
        assert_eq!(GrantStatus::check(0), Ok(()));
        for number in -20..0 {
            assert_eq!(GrantStatus::check(number).unwrap_err().number(), number);
        }
        assert_eq!(GrantStatus::check(-3), Err(GrantStatus::BadGrantRef));
    }

    #[test]
    #[should_panic(expected = "cross a page boundary")]
    fn a_copy_stays_within_the_remote_page() {
        #[repr(align(4096))]
        struct Buffer([u8; 4096]);
        let buffer = Buffer([0; 4096]);
        let remote = Remote { peer: DomId(1), reference: GrantRef(8), offset: 4000 };
        let _ = CopyOp::write(&buffer.0[..97], remote);
    }
}

//! Pages of memory that a peer may see.

use core::fmt;
use core::ptr::NonNull;

use crate::Frame;

/// Bytes in a page.
pub const PAGE_SIZE: usize = 4096;

/// One owned page of memory.
///
/// A page may be granted to another domain (see [`GrantTable::grant`](crate::GrantTable::grant)), which can then change
/// it at any time: no reference may ever point into it, only raw copies, volatile accesses and atomics.
///
/// # Safety
///
/// An implementor promises that, as long as the value lives and wherever it is moved:
/// - [`as_ptr`](Page::as_ptr) returns the same address, aligned to [`PAGE_SIZE`];
/// - the [`PAGE_SIZE`] bytes there may be read and written by the owner of the value and are used by nobody else in
///   this domain;
/// - [`frame`](Page::frame) is the guest frame of exactly these bytes;
/// - whoever owns several pages of this type that lie side by side may reach them all through the pointer to the first
///   (xen-ring's `GrantableRun`).
pub unsafe trait Page {
    /// Where the page's bytes are.
    fn as_ptr(&self) -> NonNull<u8>;

    /// The guest frame that holds the page.
    fn frame(&self) -> Frame;
}

/// An allocator of pages.
///
/// # Examples
///
/// ```
/// use xen_hal::{PAGE_SIZE, Page, Pages};
///
/// let xen = xen_sim::Xen::new(1);
/// let domain = xen.domain();
/// let mut run = Vec::new();
/// domain.alloc_run(3, &mut |page| run.push(page)).unwrap();
/// let address = |index: usize| run[index].as_ptr().addr().get();
/// assert_eq!(address(2), address(0) + 2 * PAGE_SIZE);
/// ```
pub trait Pages {
    /// A page of this allocator; dropping it gives it back.
    type Page: Page + 'static;

    /// Takes a page, all of it zero: what it held before must never reach a peer (XSA-403).
    ///
    /// # Errors
    ///
    /// If there is none left.
    fn alloc_page(&self) -> Result<Self::Page, OutOfPages>;

    /// Takes `count` pages that lie side by side, all of them zero, and hands them to `take` in their order. All or
    /// none: where it fails, `take` was not called.
    ///
    /// # Errors
    ///
    /// If there are not so many side by side.
    ///
    /// # Implementors
    ///
    /// Implementing this takes no `unsafe`, so callers check what they need: `GrantableRun` counts the pages, and looks at
    /// where they lie.
    fn alloc_run(&self, count: usize, take: &mut dyn FnMut(Self::Page)) -> Result<(), OutOfPages>;
}

impl<T: Pages + ?Sized> Pages for &T {
    type Page = T::Page;

    fn alloc_page(&self) -> Result<Self::Page, OutOfPages> {
        (**self).alloc_page()
    }

    fn alloc_run(&self, count: usize, take: &mut dyn FnMut(Self::Page)) -> Result<(), OutOfPages> {
        (**self).alloc_run(count, take)
    }
}

/// No page is left. The remedy is more memory for the domain, or fewer buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct OutOfPages;

impl fmt::Display for OutOfPages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("out of memory: no free page is left in this domain")
    }
}

impl core::error::Error for OutOfPages {}

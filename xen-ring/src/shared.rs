//! Memory that a peer can change at any time.

use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use xen_hal::{CopyOp, GrantStatus, Mapping, PAGE_SIZE, Page, Remote};

/// Memory that a peer reads and writes too.
///
/// It is used by single words, which are atomic, and by copies, whose bytes may be torn where the peer writes at the
/// same time: what was copied is to be checked in the copy, never in the shared memory.
///
/// # Examples
///
/// ```
/// use xen_hal::Pages;
/// use xen_ring::SharedPage;
///
/// let xen = xen_sim::Xen::new(1);
/// let page = SharedPage::new(xen.domain().alloc_page().unwrap()); // dereferences to `SharedMemory`
/// page.write(100, b"abc");
/// page.store(0, 3);
///
/// let mut copy = [0; 8];
/// let len = page.load(0) as usize; // loaded once, checked, then used
/// if len <= copy.len() {
///     page.read(100, &mut copy[..len]);
/// }
/// assert_eq!(&copy[..3], b"abc");
/// ```
pub struct SharedMemory {
    pub(crate) start: NonNull<u8>,
    len: usize,
}

impl SharedMemory {
    /// Memory at `start`.
    ///
    /// # Safety
    ///
    /// For as long as the value lives, the `len` bytes at `start` are mapped for reading and writing, and nothing in
    /// this domain holds a reference into them. `start` is aligned to 4 bytes.
    pub const unsafe fn new(start: NonNull<u8>, len: usize) -> SharedMemory {
        SharedMemory { start, len }
    }

    /// How many bytes there are.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    #[track_caller]
    pub(crate) fn at(&self, offset: usize, len: usize) -> NonNull<u8> {
        assert!(offset <= self.len && len <= self.len - offset, "{len} bytes at {offset} of {} shared bytes", self.len);
        // SAFETY: within the memory, as was just checked.
        unsafe { self.start.add(offset) }
    }

    #[track_caller]
    fn word(&self, offset: usize) -> &AtomicU32 {
        assert!(offset.is_multiple_of(4), "a word at the odd offset {offset}");
        // SAFETY: mapped, by the constructor's contract, and aligned. An atomic may be changed by others at any time.
        unsafe { self.at(offset, 4).cast::<AtomicU32>().as_ref() }
    }

    /// Reads a word; what is read after it is at least as new.
    ///
    /// # Panics
    ///
    /// Where the word is not all inside or `offset` is no multiple of 4. So for all methods here: offsets come from
    /// the protocol, never from the peer.
    pub fn load(&self, offset: usize) -> u32 {
        let value = self.word(offset).load(Ordering::Acquire);
        self.accessed(offset, 4, false);
        value
    }

    /// Writes a word; the peer sees everything that was written before it first.
    ///
    /// # Panics
    ///
    /// As [`load`](SharedMemory::load).
    pub fn store(&self, offset: usize, value: u32) {
        self.word(offset).store(value, Ordering::Release);
        self.accessed(offset, 4, true);
    }

    #[track_caller]
    pub(crate) fn byte(&self, offset: usize) -> &AtomicU8 {
        // SAFETY: mapped, by the constructor's contract. An atomic may be changed by others at any time.
        unsafe { self.at(offset, 1).cast::<AtomicU8>().as_ref() }
    }

    /// Reads a byte; what is read after it is at least as new.
    ///
    /// # Panics
    ///
    /// Where it is not inside.
    pub fn load_byte(&self, offset: usize) -> u8 {
        let value = self.byte(offset).load(Ordering::Acquire);
        self.accessed(offset, 1, false);
        value
    }

    /// Writes a byte; the peer sees everything that was written before it first.
    ///
    /// # Panics
    ///
    /// Where it is not inside.
    pub fn store_byte(&self, offset: usize, value: u8) {
        self.byte(offset).store(value, Ordering::Release);
        self.accessed(offset, 1, true);
    }

    /// Copies bytes out.
    ///
    /// # Panics
    ///
    /// Where they are not all inside.
    pub fn read(&self, offset: usize, to: &mut [u8]) {
        let from = self.at(offset, to.len());
        // SAFETY: inside the memory on one side, exclusively ours on the other.
        unsafe { copy(from.as_ptr(), to.as_mut_ptr(), to.len()) };
        self.accessed(offset, to.len(), false);
    }

    /// Copies bytes in.
    ///
    /// # Panics
    ///
    /// Where they would not all be inside.
    pub fn write(&self, offset: usize, from: &[u8]) {
        let to = self.at(offset, from.len());
        // SAFETY: as in `read`.
        unsafe { copy(from.as_ptr(), to.as_ptr(), from.len()) };
        self.accessed(offset, from.len(), true);
    }

    #[cfg(feature = "hook")]
    pub(crate) fn accessed(&self, offset: usize, len: usize, write: bool) {
        crate::hook::accessed(self.start.addr().get() + offset, len, write);
    }

    #[cfg(not(feature = "hook"))]
    #[inline(always)]
    pub(crate) fn accessed(&self, _offset: usize, _len: usize, _write: bool) {}
}

/// Copies bytes of which a peer may change those on one side at the same time. The compiler knows nothing of them: not
/// that they could be read twice, nor that they stay as they were.
///
/// # Safety
///
/// `len` bytes are readable at `from` and writable at `to`. Where they overlap, the bytes at `to` are any of those.
#[cfg(all(target_arch = "x86_64", not(miri)))]
unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: the caller's; the direction flag is clear by the ABI.
    unsafe {
        core::arch::asm!(
            "rep movsq",
            "mov rcx, {rest}",
            "rep movsb",
            rest = in(reg) len % 8,
            inout("rcx") len / 8 => _,
            inout("rsi") from => _,
            inout("rdi") to => _,
            options(nostack, preserves_flags),
        );
    }
}

/// As above, for other processors and for Miri.
#[cfg(not(all(target_arch = "x86_64", not(miri))))]
unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    for index in 0..len {
        // SAFETY: the caller's.
        unsafe { to.add(index).write_volatile(from.add(index).read_volatile()) };
    }
}

impl SharedMemory {
    /// Copies bytes to other shared memory.
    ///
    /// # Panics
    ///
    /// Where they are not all inside, at either end.
    pub fn copy(&self, offset: usize, len: usize, to: &SharedMemory, to_offset: usize) {
        let (from, to) = (self.at(offset, len), to.at(to_offset, len));
        // SAFETY: inside the memory on both sides. Where both are the same page of a peer's, mapped twice, what is
        // copied is any mixture, which is the peer's own loss.
        unsafe { copy(from.as_ptr(), to.as_ptr(), len) };
        self.accessed(offset, len, false);
    }

    /// An operation that copies `len` bytes at `offset` to a peer's page, for [`GrantTable::copy`](xen_hal::GrantTable::copy).
    ///
    /// # Panics
    ///
    /// Where the bytes are not all inside, or cross a page's boundary at either end.
    pub fn copy_to(&self, offset: usize, len: usize, remote: Remote) -> CopyOp<'_> {
        // SAFETY: inside the memory, which stays mapped for as long as it is borrowed.
        unsafe { CopyOp::write_raw(self.at(offset, len), len, remote) }
    }

    /// An operation that copies `len` bytes from a peer's page to `offset`, for [`GrantTable::copy`](xen_hal::GrantTable::copy).
    ///
    /// # Panics
    ///
    /// Where the bytes are not all inside, or cross a page's boundary at either end.
    pub fn copy_from(&self, offset: usize, len: usize, remote: Remote) -> CopyOp<'_> {
        // SAFETY: inside the memory, which stays mapped for as long as it is borrowed, and into which no reference
        // points.
        unsafe { CopyOp::read_raw(remote, self.at(offset, len), len) }
    }
}

impl fmt::Debug for SharedMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedMemory({} bytes at {:p})", self.len, self.start)
    }
}

/// A page that a peer reads and writes too; owns the page.
#[derive(Debug)]
pub struct SharedPage<P> {
    memory: SharedMemory,
    page: P,
}

impl<P: Page> SharedPage<P> {
    /// Takes the page.
    pub fn new(page: P) -> SharedPage<P> {
        // SAFETY: by `Page`'s contract the bytes belong to the owner of the page, which is this value from here on.
        let memory = unsafe { SharedMemory::new(page.as_ptr(), PAGE_SIZE) };
        SharedPage { memory, page }
    }

    /// The page itself.
    pub fn page(&self) -> &P {
        &self.page
    }

    /// Gives the page back.
    pub fn into_page(self) -> P {
        self.page
    }
}

impl<P> core::ops::Deref for SharedPage<P> {
    type Target = SharedMemory;

    fn deref(&self) -> &SharedMemory {
        &self.memory
    }
}

/// Pages of a peer, mapped side by side, as one piece of memory; owns the mapping.
///
/// # Examples
///
/// ```
/// use xen_hal::{Access, GrantTable, MapRequest};
/// use xen_ring::{GrantedPages, SharedMapping};
///
/// let xen = xen_sim::Xen::new(1);
/// let (front, back) = (xen.domain(), xen.domain());
/// let own = GrantedPages::grant(&front, 2, back.id(), Access::ReadWrite).unwrap();
///
/// let map = |reference| MapRequest { peer: front.id(), reference, access: Access::ReadWrite };
/// let requests: Vec<_> = own.references().map(map).collect();
/// let theirs = SharedMapping::new(back.map(&requests).unwrap()).unwrap();
/// theirs.store(4096, 7); // in the second page
/// assert_eq!(own.load(4096), 7);
/// # drop(theirs);
/// ```
pub struct SharedMapping<M> {
    memory: SharedMemory,
    _mapping: M,
}

impl<M: Mapping> SharedMapping<M> {
    /// Takes a mapping.
    ///
    /// # Errors
    ///
    /// Why a page is not mapped; [`GrantStatus::PermissionDenied`] where one was asked for with
    /// [`Access::ReadOnly`](xen_hal::Access::ReadOnly), for which there is [`ReadOnlyMapping`].
    ///
    /// # Panics
    ///
    /// Where the mapping has no pages.
    pub fn new(mapping: M) -> Result<SharedMapping<M>, GrantStatus> {
        let start = mapping.all()?;
        if !mapping.is_writable() {
            return Err(GrantStatus::PermissionDenied);
        }
        // SAFETY: by `Mapping`'s contract the pages lie there, mapped for reading and writing, for as long as it lives,
        // and no reference points into them.
        let memory = unsafe { SharedMemory::new(start, mapping.len() * PAGE_SIZE) };
        Ok(SharedMapping { memory, _mapping: mapping })
    }
}

impl<M> core::ops::Deref for SharedMapping<M> {
    type Target = SharedMemory;

    fn deref(&self) -> &SharedMemory {
        &self.memory
    }
}

/// Pages of a peer, mapped side by side, that can only be read; owns the mapping.
pub struct ReadOnlyMapping<M> {
    memory: SharedMemory,
    _mapping: M,
}

impl<M: Mapping> ReadOnlyMapping<M> {
    /// Takes a mapping, whatever access it was asked for with.
    ///
    /// # Errors
    ///
    /// Why a page is not mapped.
    ///
    /// # Panics
    ///
    /// Where the mapping has no pages.
    pub fn new(mapping: M) -> Result<ReadOnlyMapping<M>, GrantStatus> {
        let start = mapping.all()?;
        // SAFETY: by `Mapping`'s contract the pages lie there, mapped, for as long as it lives, and no reference points
        // into them. They may not be writable: the methods below, which are the only way to the memory, do not write.
        let memory = unsafe { SharedMemory::new(start, mapping.len() * PAGE_SIZE) };
        Ok(ReadOnlyMapping { memory, _mapping: mapping })
    }
}

impl<M> ReadOnlyMapping<M> {
    /// [`SharedMemory::load`].
    ///
    /// # Panics
    ///
    /// As that.
    pub fn load(&self, offset: usize) -> u32 {
        self.memory.load(offset)
    }

    /// [`SharedMemory::read`].
    ///
    /// # Panics
    ///
    /// As that.
    pub fn read(&self, offset: usize, to: &mut [u8]) {
        self.memory.read(offset, to);
    }
}

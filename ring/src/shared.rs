//! Memory that a peer can change at any time.

use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, Ordering};

use xen_hal::{PAGE_SIZE, Page};

/// Memory that a peer reads and writes too.
///
/// It is used by single words, which are atomic, and by copies, whose bytes may be torn where the peer writes at the
/// same time: what was copied is to be checked in the copy, never in the shared memory.
pub struct SharedMemory {
    start: NonNull<u8>,
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
    fn at(&self, offset: usize, len: usize) -> NonNull<u8> {
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
        self.word(offset).load(Ordering::Acquire)
    }

    /// Writes a word; the peer sees everything that was written before it first.
    ///
    /// # Panics
    ///
    /// As [`load`](SharedMemory::load).
    pub fn store(&self, offset: usize, value: u32) {
        self.word(offset).store(value, Ordering::Release);
    }

    /// Copies bytes out.
    ///
    /// # Panics
    ///
    /// Where they are not all inside.
    pub fn read(&self, offset: usize, to: &mut [u8]) {
        let from = self.at(offset, to.len());
        for (index, byte) in to.iter_mut().enumerate() {
            // SAFETY: inside the memory; volatile, as the peer may write at the same time.
            *byte = unsafe { from.add(index).read_volatile() };
        }
    }

    /// Copies bytes in.
    ///
    /// # Panics
    ///
    /// Where they would not all be inside.
    pub fn write(&self, offset: usize, from: &[u8]) {
        let to = self.at(offset, from.len());
        for (index, byte) in from.iter().enumerate() {
            // SAFETY: inside the memory; volatile, as the peer may read at the same time.
            unsafe { to.add(index).write_volatile(*byte) };
        }
    }
}

impl fmt::Debug for SharedMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedMemory({} bytes at {:p})", self.len, self.start)
    }
}

/// A page that a peer reads and writes too; owns the page.
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

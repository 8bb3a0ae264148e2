//! The machine's memory: one file in memory, so that a page can be mapped wherever a domain wants it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::rc::Rc;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use xen_hal::{Access, Frame, PAGE_SIZE, Page};

/// Pages of the machine; no more are needed at a time by what is tested here.
const FRAMES: usize = 4096;

thread_local! {
    /// What the thread's last machine has left to the next one: a test or a fuzz target makes thousands, and mapping and
    /// unmapping their memory takes longer than many a run.
    static SPARE: Cell<Option<Region>> = const { Cell::new(None) };
}

/// The file, and where all of it is mapped.
struct Region {
    file: OwnedFd,
    base: NonNull<u8>,
}

impl Region {
    /// The pages have any content.
    fn take() -> Region {
        SPARE.take().unwrap_or_else(Region::new)
    }

    fn new() -> Region {
        let file = memfd_create("xen-sim", MemfdFlags::CLOEXEC).expect("a file in memory");
        ftruncate(&file, (FRAMES * PAGE_SIZE) as u64).expect("memory for the machine");
        // SAFETY: a new mapping at an address of the kernel's choice disturbs nothing.
        let base = unsafe {
            mmap(
                std::ptr::null_mut(),
                FRAMES * PAGE_SIZE,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                &file,
                0,
            )
        };
        let base = NonNull::new(base.expect("address space for the machine").cast()).expect("no null mapping");
        Region { file, base }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and the machine that used it is gone.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), FRAMES * PAGE_SIZE) };
    }
}

pub(crate) struct Memory {
    /// There until the end.
    region: Option<Region>,
    base: NonNull<u8>,
    /// By frame, up to the last that was ever taken: how many hold it; 0 is free.
    holders: RefCell<Vec<u32>>,
    /// Those that are free again.
    free: RefCell<Vec<usize>>,
    /// By where they begin: what is mapped there, side by side.
    windows: RefCell<BTreeMap<usize, Vec<Option<Mapped>>>>,
}

/// A page of a [`Window`].
struct Mapped {
    frame: Frame,
    access: Access,
    /// Keeps a frame that took the place of the one that was mapped at first.
    _copy: Option<SimPage>,
}

impl Memory {
    pub(crate) fn new() -> Rc<Memory> {
        let region = Region::take();
        let base = region.base;
        let (holders, free, windows) = (RefCell::default(), RefCell::default(), RefCell::default());
        Rc::new(Memory { region: Some(region), base, holders, free, windows })
    }

    fn address(&self, frame: usize) -> NonNull<u8> {
        assert!(frame < FRAMES);
        // SAFETY: within the mapping.
        unsafe { self.base.add(frame * PAGE_SIZE) }
    }

    /// Takes a free page and clears it.
    pub(crate) fn allocate(self: &Rc<Self>) -> Option<SimPage> {
        let again = self.free.borrow_mut().pop();
        let frame = again.or_else(|| Some(self.holders.borrow().len()).filter(|next| *next < FRAMES))?;
        Some(self.hold(frame))
    }

    /// Takes free pages side by side and clears them.
    pub(crate) fn allocate_run(self: &Rc<Self>, count: usize) -> Option<Vec<SimPage>> {
        let start = {
            let holders = self.holders.borrow();
            (0..(FRAMES + 1).checked_sub(count)?)
                .find(|start| holders.iter().skip(*start).take(count).all(|n| *n == 0))?
        };
        self.free.borrow_mut().retain(|frame| !(start..start + count).contains(frame));
        Some((start..start + count).map(|frame| self.hold(frame)).collect())
    }

    /// A page for the first who holds it.
    fn hold(self: &Rc<Self>, frame: usize) -> SimPage {
        // SAFETY: nobody holds the page.
        unsafe { self.address(frame).write_bytes(0, PAGE_SIZE) };
        let mut holders = self.holders.borrow_mut();
        match holders.get_mut(frame) {
            Some(count) => *count = 1,
            None => {
                assert_eq!(frame, holders.len(), "frames are taken in order");
                holders.push(1);
            }
        }
        SimPage { memory: self.clone(), frame }
    }

    /// The same page in the hands of somebody in another domain.
    pub(crate) fn alias(self: &Rc<Self>, frame: Frame) -> SimPage {
        let frame = frame.0 as usize;
        let mut holders = self.holders.borrow_mut();
        assert!(holders[frame] > 0, "an alias of a free page");
        holders[frame] += 1;
        SimPage { memory: self.clone(), frame }
    }

    /// The frame that lies at an address, and where in it that is.
    pub(crate) fn frame_at(&self, address: usize) -> Option<(Frame, usize)> {
        if let Some(offset) = address.checked_sub(self.base.addr().get()).filter(|offset| *offset < FRAMES * PAGE_SIZE)
        {
            return Some((Frame((offset / PAGE_SIZE) as u64), offset % PAGE_SIZE));
        }
        let windows = self.windows.borrow();
        let (start, frames) = windows.range(..=address).next_back()?;
        let mapped = frames.get((address - start) / PAGE_SIZE)?.as_ref()?;
        Some((mapped.frame, address % PAGE_SIZE))
    }

    /// A frame's bytes, for a processor of whoever may write to it.
    pub(crate) fn cells(&self, frame: Frame) -> &[Cell<u8>] {
        // SAFETY: within the mapping, which lives as long as this value. The pages of the machine are only ever used through
        // pointers, and by this thread alone.
        unsafe { std::slice::from_raw_parts(self.address(frame.0 as usize).cast().as_ptr(), PAGE_SIZE) }
    }

    /// Pages that somebody holds.
    pub(crate) fn used(&self) -> usize {
        self.holders.borrow().len() - self.free.borrow().len()
    }

    /// Maps pages side by side; `None` leaves a hole, which faults when it is touched.
    pub(crate) fn window(self: &Rc<Self>, pages: &[Option<(Frame, Access)>]) -> Window {
        let len = pages.len().max(1) * PAGE_SIZE;
        // SAFETY: a new mapping at an address of the kernel's choice disturbs nothing.
        let start = unsafe { mmap_anonymous(std::ptr::null_mut(), len, ProtFlags::empty(), MapFlags::PRIVATE) };
        let start: *mut u8 = start.expect("address space for a mapping").cast();
        let start = NonNull::new(start).expect("no null mapping");
        for (index, page) in pages.iter().enumerate() {
            if let Some((frame, access)) = page {
                // SAFETY: a page of the range that was reserved just now, which nobody uses yet.
                unsafe { self.map_at(start.add(index * PAGE_SIZE), *frame, *access) };
            }
        }
        let mapped = |page: &Option<(Frame, Access)>| page.map(|(frame, access)| Mapped { frame, access, _copy: None });
        self.windows.borrow_mut().insert(start.expose_provenance().get(), pages.iter().map(mapped).collect());
        Window { memory: self.clone(), start, len }
    }

    /// Maps a frame at a page of a window, in the place of what is there.
    ///
    /// # Safety
    ///
    /// The page belongs to a window.
    unsafe fn map_at(&self, at: NonNull<u8>, frame: Frame, access: Access) {
        let protection = match access {
            Access::ReadOnly => ProtFlags::READ,
            Access::ReadWrite => ProtFlags::READ | ProtFlags::WRITE,
        };
        let (at, offset) = (at.as_ptr().cast::<c_void>(), frame.0 * PAGE_SIZE as u64);
        let file = &self.region.as_ref().expect("it is there until the end").file;
        // SAFETY: the caller's.
        unsafe { mmap(at, PAGE_SIZE, protection, MapFlags::SHARED | MapFlags::FIXED, file, offset) }
            .expect("a mapping");
    }

    /// Leaves a copy of these frames to whoever has them mapped, as a domain does that is saved: from here on the two
    /// are not the same memory.
    pub(crate) fn leave_copies(self: &Rc<Self>, frames: &[Frame]) {
        let copies: BTreeMap<u64, SimPage> =
            frames.iter().filter_map(|frame| Some((frame.0, self.copy(*frame)?))).collect();
        for (start, pages) in self.windows.borrow_mut().iter_mut() {
            for (index, mapped) in pages.iter_mut().enumerate() {
                let Some(mapped) = mapped else { continue };
                let Some(copy) = copies.get(&mapped.frame.0) else { continue };
                let at = NonNull::new(std::ptr::with_exposed_provenance_mut::<u8>(start + index * PAGE_SIZE));
                // SAFETY: a page of this window.
                unsafe { self.map_at(at.expect("no null mapping"), copy.frame(), mapped.access) };
                (mapped.frame, mapped._copy) = (copy.frame(), Some(self.alias(copy.frame())));
            }
        }
    }

    fn copy(self: &Rc<Self>, frame: Frame) -> Option<SimPage> {
        let copy = self.allocate()?;
        // SAFETY: two frames of the machine, of which the one was free a moment ago.
        unsafe { self.address(frame.0 as usize).copy_to(copy.as_ptr(), PAGE_SIZE) };
        Some(copy)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // Every page of it is gone: each held a reference to this. A thread that ends keeps nothing.
        let region = self.region.take();
        let _ = SPARE.try_with(|spare| spare.set(region));
    }
}

/// Pages mapped side by side.
pub(crate) struct Window {
    memory: Rc<Memory>,
    start: NonNull<u8>,
    len: usize,
}

impl Window {
    pub(crate) fn page(&self, index: usize) -> NonNull<u8> {
        assert!((index + 1) * PAGE_SIZE <= self.len);
        // SAFETY: within the mapping.
        unsafe { self.start.add(index * PAGE_SIZE) }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        self.memory.windows.borrow_mut().remove(&self.start.addr().get());
        // SAFETY: the mapping is this value's own; by `Mapping`'s contract nobody uses it after its end.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// A page of the machine, held by a domain. Dropping it frees it, unless others hold it too.
pub struct SimPage {
    memory: Rc<Memory>,
    frame: usize,
}

// SAFETY: the frame stays mapped at its address while the machine lives, which the page's reference sees to. Each
// domain has one value for it at most. All pointers come from the one mapping of the whole machine.
unsafe impl Page for SimPage {
    fn as_ptr(&self) -> NonNull<u8> {
        self.memory.address(self.frame)
    }

    fn frame(&self) -> Frame {
        Frame(self.frame as u64)
    }
}

impl Drop for SimPage {
    fn drop(&mut self) {
        let mut holders = self.memory.holders.borrow_mut();
        holders[self.frame] -= 1;
        if holders[self.frame] == 0 {
            self.memory.free.borrow_mut().push(self.frame);
        }
    }
}

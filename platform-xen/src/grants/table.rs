//! This domain's entries: granting pages, and getting them back.

use alloc::vec::Vec;
use core::mem::ManuallyDrop;
use core::sync::atomic::{AtomicU16, AtomicU32, Ordering, fence};
use core::time::Duration;

use xen_hal::{Access, Clock, DomId, Errno, Grant, GrantRef, PAGE_SIZE, Page, PeerGrants, RefusedGrant};

use super::XenGrantError;
use crate::cell::Global;
use crate::memory::{RamPage, address_space, memory};
use crate::time::XenClock;
use crate::{abi, executor, hypercall};

const ENTRIES_PER_FRAME: u32 = 512;
/// The part of the domain's memory that one peer may keep of pages whose grants were dropped, and its bounds in pages;
/// or as many as it was ever granted at a time, where that is more: a backend that is to close unmaps them only
/// afterwards.
const KEPT_PART: u64 = 16;
const KEPT_PAGES: core::ops::RangeInclusive<usize> = 256..=4096;
/// Pages that a peer keeps are looked through no more often than this for its sake.
const SWEEP_PAUSE: Duration = Duration::from_millis(1);

static TABLE: Global<Table> = Global::new(Table {
    frames: 0,
    max_frames: 0,
    free: Vec::new(),
    in_use: 0,
    deferred: Vec::new(),
    peers: Vec::new(),
    max_kept: 0,
    next_sweep: Duration::ZERO,
    sweeper: None,
    generation: 0,
});

struct Table {
    frames: u32,
    max_frames: u32,
    free: Vec<GrantRef>,
    in_use: usize,
    /// Ended here, still in use by the peer: neither entry nor page may be used again before it has let go.
    deferred: Vec<Deferred>,
    /// Those that were ever granted a page: few, of which most guests have one.
    peers: Vec<(DomId, PeerGrants)>,
    /// How many pages a peer may keep in any case.
    max_kept: usize,
    next_sweep: Duration,
    /// The task that looks after `deferred`.
    sweeper: Option<executor::Signal>,
    /// Counts resumes: entries from before one are gone.
    generation: u32,
}

struct Deferred {
    reference: GrantRef,
    peer: DomId,
    page: RamPage,
}

/// Forgets everything after a resume: the table is a new one, and no peer knows of this domain.
pub(crate) fn resume() {
    let deferred = {
        let mut table = TABLE.get();
        table.generation = table.generation.wrapping_add(1);
        table.frames = 0;
        table.free.clear();
        table.in_use = 0;
        table.peers.clear();
        core::mem::take(&mut table.deferred)
    };
    drop(deferred);
}

/// How far the table is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrantUse {
    /// Entries that are granted.
    pub in_use: usize,
    /// Entries that were ended while the peer still mapped the page.
    pub deferred: usize,
    /// Entries that the table has room for now.
    pub entries: u32,
}

/// How far the table is used: leaks show here.
pub fn grant_use() -> GrantUse {
    let table = TABLE.get();
    GrantUse { in_use: table.in_use, deferred: table.deferred.len(), entries: table.frames * ENTRIES_PER_FRAME }
}

/// The three fields of an entry (`struct grant_entry_v1`).
struct Entry {
    flags: &'static AtomicU16,
    domid: &'static AtomicU16,
    frame: &'static AtomicU32,
}

fn entry(reference: GrantRef) -> Entry {
    let frame = address_space::grant_table_frame(reference.0 / ENTRIES_PER_FRAME).expect("an entry of a mapped frame");
    let start = core::ptr::with_exposed_provenance_mut::<u8>(address_space::address(frame));
    // SAFETY: the frame is mapped since the reference was taken from it; entries are 8 bytes, and hypervisor and
    // domain use them as atomics.
    unsafe {
        let start = start.add((reference.0 % ENTRIES_PER_FRAME) as usize * 8);
        Entry { flags: &*start.cast(), domid: &*start.add(2).cast(), frame: &*start.add(4).cast() }
    }
}

impl Table {
    fn take(&mut self) -> Result<GrantRef, XenGrantError> {
        if self.free.is_empty() {
            self.sweep();
        }
        if self.free.is_empty() {
            self.grow()?;
        }
        let reference = self.free.pop().expect("growing adds entries");
        self.in_use += 1;
        Ok(reference)
    }

    /// Adds a frame to the table.
    fn grow(&mut self) -> Result<(), XenGrantError> {
        if self.frames == 0 {
            // A table that something has used before, such as a boot loader, may be of version 2.
            match hypercall::grant_set_version(1) {
                Ok(()) | Err(Errno::ENOSYS) => {}
                Err(errno) => return Err(XenGrantError::Hypervisor(errno)),
            }
            self.max_frames = hypercall::grant_query_size().map_err(XenGrantError::Hypervisor)?.1;
            let part = memory().total / KEPT_PART / PAGE_SIZE as u64;
            self.max_kept = (part as usize).clamp(*KEPT_PAGES.start(), *KEPT_PAGES.end());
        }
        let full = XenGrantError::TableFull { entries: self.frames * ENTRIES_PER_FRAME };
        if self.frames >= self.max_frames {
            return Err(full);
        }
        let index = self.frames;
        let frame = address_space::grant_table_frame(index).ok_or(full)?;
        // SAFETY: the address space keeps the frame for the grant table.
        unsafe { hypercall::add_to_physmap(abi::XENMAPSPACE_GRANT_TABLE, index.into(), frame.0) }
            .map_err(XenGrantError::Hypervisor)?;
        self.frames += 1;
        let first = if index == 0 { abi::GNTTAB_RESERVED_ENTRIES } else { index * ENTRIES_PER_FRAME };
        let end = self.frames * ENTRIES_PER_FRAME;
        self.free.reserve(end as usize);
        self.free.extend((first..end).rev().map(GrantRef));
        Ok(())
    }

    fn peer(&mut self, peer: DomId) -> &mut PeerGrants {
        let index = self.peers.iter().position(|(id, _)| *id == peer).unwrap_or_else(|| {
            self.peers.push((peer, PeerGrants::default()));
            self.peers.len() - 1
        });
        &mut self.peers[index].1
    }

    /// How many pages of dropped grants the peer still maps, where it is granted no more for that.
    fn too_many_kept(&mut self, peer: DomId) -> Option<usize> {
        let max = self.max_kept;
        self.peer(peer).too_many_kept(max)?;
        if XenClock.now() >= self.next_sweep {
            self.sweep();
            self.next_sweep = XenClock.now() + SWEEP_PAUSE;
        }
        self.peer(peer).too_many_kept(max)
    }

    /// Takes back what peers have let go of.
    fn sweep(&mut self) {
        let Table { deferred, free, peers, .. } = self;
        for Deferred { reference, peer, page } in deferred.extract_if(.., |entry| end_access(entry.reference)) {
            free.push(reference);
            if let Some((_, peer)) = peers.iter_mut().find(|(id, _)| *id == peer) {
                peer.release();
            }
            drop(page);
        }
    }
}

/// Withdraws an entry, unless the peer uses it right now. Test and withdrawal are one step (XSA-396).
fn end_access(reference: GrantRef) -> bool {
    let flags = entry(reference).flags;
    let mut current = flags.load(Ordering::Relaxed);
    loop {
        if current & (abi::GTF_READING | abi::GTF_WRITING) != 0 {
            return false;
        }
        match flags.compare_exchange(current, 0, Ordering::SeqCst, Ordering::Relaxed) {
            Ok(_) => return true,
            Err(changed) => current = changed,
        }
    }
}

pub(crate) fn grant(
    page: RamPage,
    peer: DomId,
    access: Access,
) -> Result<XenGrant, RefusedGrant<RamPage, XenGrantError>> {
    let Ok(frame) = u32::try_from(page.frame().0) else {
        return Err(RefusedGrant { page, error: XenGrantError::FrameTooHigh });
    };
    let mut table = TABLE.get();
    if let Some(pages) = table.too_many_kept(peer) {
        return Err(RefusedGrant { page, error: XenGrantError::PagesKept { peer, pages } });
    }
    let reference = match table.take() {
        Ok(reference) => reference,
        Err(error) => return Err(RefusedGrant { page, error }),
    };
    table.peer(peer).begin();
    let entry = entry(reference);
    entry.frame.store(frame, Ordering::Relaxed);
    entry.domid.store(peer.0, Ordering::Relaxed);
    // The hypervisor must not see the permission before what is permitted.
    fence(Ordering::SeqCst);
    let read_only = if access == Access::ReadOnly { abi::GTF_READONLY } else { 0 };
    entry.flags.store(abi::GTF_PERMIT_ACCESS | read_only, Ordering::SeqCst);
    Ok(XenGrant { reference, peer, page: ManuallyDrop::new(page), generation: table.generation })
}

pub(crate) fn keeps_too_many(peer: DomId) -> bool {
    TABLE.get().too_many_kept(peer).is_some()
}

/// A page granted to a peer; dropping it ends that, or has it ended as soon as the peer lets go.
#[derive(Debug)]
pub struct XenGrant {
    reference: GrantRef,
    peer: DomId,
    page: ManuallyDrop<RamPage>,
    generation: u32,
}

impl XenGrant {
    /// Ends access and returns the page, or `None` while the peer still uses it.
    ///
    /// # Safety
    ///
    /// The value is not used after a `Some`.
    unsafe fn end(&mut self) -> Option<RamPage> {
        let mut table = TABLE.get();
        // A resume has made a new table, in which the entry is somebody else's.
        if table.generation == self.generation {
            if !end_access(self.reference) {
                return None;
            }
            table.free.push(self.reference);
            table.in_use -= 1;
            table.peer(self.peer).end(false);
        }
        // SAFETY: the caller's promise: it is not taken again.
        Some(unsafe { ManuallyDrop::take(&mut self.page) })
    }
}

// SAFETY: the page is a field that only `end` gives out, after the entry was withdrawn while the peer had no mapping, or
// after a resume, when the table is a new one. A dropped grant's page waits in `deferred` until then.
unsafe impl Grant for XenGrant {
    type Page = RamPage;

    fn reference(&self) -> GrantRef {
        self.reference
    }

    fn page(&self) -> &RamPage {
        &self.page
    }

    fn try_end(self) -> Result<RamPage, Self> {
        let mut grant = ManuallyDrop::new(self);
        // SAFETY: after a `Some` the value is gone without its `Drop`.
        match unsafe { grant.end() } {
            Some(page) => Ok(page),
            None => Err(ManuallyDrop::into_inner(grant)),
        }
    }
}

impl Drop for XenGrant {
    fn drop(&mut self) {
        // SAFETY: the value is being dropped.
        if unsafe { self.end() }.is_some() {
            return;
        }
        let mut table = TABLE.get();
        // SAFETY: as above; `end` has not taken it.
        let page = unsafe { ManuallyDrop::take(&mut self.page) };
        table.in_use -= 1;
        table.peer(self.peer).end(true);
        table.deferred.push(Deferred { reference: self.reference, peer: self.peer, page });
        let sweeper = table.sweeper.get_or_insert_with(start_sweeper).clone();
        drop(table);
        sweeper.raise();
    }
}

/// A task that looks from time to time whether peers have let go.
fn start_sweeper() -> executor::Signal {
    let signal = executor::Signal::default();
    let raised = signal.clone();
    executor::spawn(async move {
        const MIN_PAUSE: Duration = Duration::from_millis(100);
        const MAX_PAUSE: Duration = Duration::from_secs(10);
        loop {
            raised.wait().await;
            let mut pause = MIN_PAUSE;
            loop {
                XenClock.sleep(pause).await;
                let mut table = TABLE.get();
                table.sweep();
                if table.deferred.is_empty() {
                    break;
                }
                pause = (pause * 2).min(MAX_PAUSE);
            }
        }
    })
    .detach();
    signal
}

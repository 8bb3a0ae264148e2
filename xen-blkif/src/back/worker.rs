//! What a guest's requests are done with: its pages, and the device.

use alloc::vec::Vec;
use core::cell::Cell;

use xen_hal::{GrantRef, Memory, PAGE_SIZE, Page, Pages, Remote, warning};
use xenbus::{Counters, Device};

use super::Statistics;
use super::guests::Share;
use super::request::{BadRequest, LIST_SIZE, Work, check_indirect};
use crate::device::{BlockDevice, Buffer, Error, Geometry, pieces};
use crate::protocol::{Body, Request, SECTOR_SIZE, SEGMENT_SIZE, Segment};
use crate::ramdisk::PageBuffer;

/// Most requests that are checked at once.
pub(super) const MAX_LISTS: usize = 16;

/// Room for indirect requests' segments.
pub(super) struct Lists<P: Page>(PageBuffer<P>);

impl<P: Page> Lists<P> {
    pub(super) fn new(pages: &impl Pages<Page = P>) -> Result<Self, Error> {
        PageBuffer::new(pages, MAX_LISTS * LIST_SIZE).map(Lists)
    }
}

// A list does not cross a page's end.
const _: () = assert!(PAGE_SIZE.is_multiple_of(LIST_SIZE));

/// A task that the device has done its part of.
pub(super) struct Done<T, B> {
    pub(super) task: T,
    /// What it has read, for the guest.
    pub(super) outcome: Result<Option<B>, BadRequest>,
}

pub(super) struct Worker<'a, M: Memory, D> {
    pub(super) memory: &'a M,
    disk: &'a D,
    share: Share<'a, M>,
    pub(super) geometry: Cell<Geometry>,
    statistics: &'a Counters<Statistics>,
    /// A connection's first bad request is logged, and few of a device; the statistics count them.
    warned: Cell<bool>,
    may_log: &'a dyn Fn() -> bool,
    path: &'a str,
}

impl<'a, M: Memory, D: BlockDevice> Worker<'a, M, D> {
    pub(super) fn new(
        memory: &'a M,
        disk: &'a D,
        device: &'a Device,
        geometry: Geometry,
        share: Share<'a, M>,
        statistics: &'a Counters<Statistics>,
        may_log: &'a dyn Fn() -> bool,
    ) -> Self {
        let (geometry, warned, path) = (Cell::new(geometry), Cell::new(false), device.path());
        Worker { memory, disk, share, geometry, statistics, warned, may_log, path }
    }

    pub(super) fn count(&self, change: impl FnOnce(&mut Statistics)) {
        self.statistics.count(change);
    }

    /// Counts a failed request, and logs the first one.
    pub(super) fn record(&self, request: &Request, outcome: Result<(), BadRequest>) {
        let Err(bad) = outcome else { return };
        self.count(|statistics| statistics.failures += 1);
        if !self.warned.replace(true) && (self.may_log)() {
            let operation = request.response_operation();
            warning!("{}: {} of {} at sector {}: {}", self.path, operation, self.share.guest, request.sector, bad);
        }
    }

    /// How many bytes more may be worked on.
    pub(super) fn room(&self) -> usize {
        self.share.room()
    }

    pub(super) fn begin(&self, bytes: usize) {
        self.share.begin(bytes);
    }

    pub(super) fn end(&self, bytes: usize) {
        self.share.end(bytes);
    }

    /// Checks up to [`MAX_LISTS`] requests. Indirect ones' segments are copied here first, once, all in one call to
    /// the hypervisor.
    pub(super) fn check(
        &self,
        requests: &[Request],
        lists: &Lists<<M as Pages>::Page>,
    ) -> Vec<Result<Work, BadRequest>> {
        let Lists(lists) = lists;
        let place = |index: usize| (index * LIST_SIZE / PAGE_SIZE, index * LIST_SIZE % PAGE_SIZE);
        let mut copies = Vec::new();
        let mut copied = Vec::new();
        for (index, request) in requests.iter().enumerate() {
            if let Body::Indirect { operation, count, pages } = request.body
                && check_indirect(operation, count).is_ok()
            {
                let (page, offset) = place(index);
                let remote = Remote { peer: self.share.guest, reference: GrantRef(pages[0]), offset: 0 };
                copies.push(lists.page(page).copy_from(offset, usize::from(count) * SEGMENT_SIZE, remote));
                copied.push(index);
            }
        }
        let called = copies.is_empty() || self.memory.copy(&mut copies).is_ok();
        let mut refused = [false; MAX_LISTS];
        for (operation, index) in copies.iter().zip(copied) {
            refused[index] = !called || operation.result().is_err();
        }
        let geometry = self.geometry.get();
        let check = |(index, request): (usize, &Request)| {
            let Body::Indirect { operation, count, .. } = request.body else {
                return Work::new(request, &[], &geometry);
            };
            check_indirect(operation, count)?;
            if refused[index] {
                return Err(BadRequest::Copy);
            }
            let mut list = [0; LIST_SIZE];
            let list = &mut list[..usize::from(count) * SEGMENT_SIZE];
            lists.read(index * LIST_SIZE, list);
            Work::new(request, list, &geometry)
        };
        requests.iter().enumerate().map(check).collect()
    }

    /// Fetches what is to be written, for all tasks in one call to the hypervisor.
    pub(super) fn prepare<T>(
        &self,
        tasks: Vec<T>,
        work: impl Fn(&T) -> &Work,
    ) -> impl Iterator<Item = (T, Result<Option<D::Buffer>, BadRequest>)> {
        let mut buffers: Vec<_> = tasks
            .iter()
            .map(|task| match work(task) {
                Work::Read { .. } => Ok(None),
                work if work.list().is_empty() => Ok(None),
                work => {
                    let buffer = match work {
                        Work::Write { sector, .. } => self.disk.buffer_at(*sector, work.len()),
                        _ => self.disk.buffer(work.len()),
                    };
                    buffer.map(Some).map_err(BadRequest::Device)
                }
            })
            .collect();
        let (copied, copies): (Vec<_>, Vec<_>) = (buffers.iter().enumerate())
            .filter_map(|(index, buffer)| Some((index, (buffer.as_ref().ok()?.as_ref()?, work(&tasks[index]).list()))))
            .unzip();
        let outcomes = self.copy(&copies, false);
        for (index, outcome) in copied.into_iter().zip(outcomes) {
            if let Err(bad) = outcome {
                buffers[index] = Err(bad);
            }
        }
        tasks.into_iter().zip(buffers)
    }

    /// Has the device do a task; `buffer` holds what is to be written.
    pub(super) async fn perform<T>(
        &self,
        task: T,
        buffer: Option<D::Buffer>,
        work: impl Fn(&T) -> &Work,
    ) -> Done<T, D::Buffer> {
        let outcome = self.perform_on_device(work(&task), buffer).await;
        Done { task, outcome }
    }

    async fn perform_on_device(&self, work: &Work, buffer: Option<D::Buffer>) -> Result<Option<D::Buffer>, BadRequest> {
        let bad = BadRequest::Device;
        match *work {
            Work::Read { sector, .. } => {
                let len = work.len();
                self.count(|statistics| {
                    statistics.reads += 1;
                    statistics.read_bytes += len as u64;
                });
                let buffer = self.disk.buffer_at(sector, len).map_err(bad)?;
                let (buffer, outcome) = self.disk.read(sector, buffer).await;
                outcome.map(|()| Some(buffer)).map_err(bad)
            }
            Work::Write { sector, .. } => self.write(sector, buffer).await.map(|()| None),
            Work::Discard { sector, sectors, secure } => {
                self.count(|statistics| statistics.discards += 1);
                self.disk.discard(sector, sectors, secure).await.map(|()| None).map_err(bad)
            }
            Work::Flush { sector, .. } => {
                self.flush().await?;
                if buffer.is_some() {
                    self.write(sector, buffer).await?;
                }
                Ok(None)
            }
            Work::Barrier { sector, .. } => {
                self.flush().await?;
                if buffer.is_some() {
                    self.write(sector, buffer).await?;
                    self.flush().await?;
                }
                Ok(None)
            }
        }
    }

    async fn write(&self, sector: u64, buffer: Option<D::Buffer>) -> Result<(), BadRequest> {
        // It was fetched before.
        let Some(buffer) = buffer else { return Err(BadRequest::Copy) };
        let len = buffer.len();
        self.count(|statistics| {
            statistics.writes += 1;
            statistics.written_bytes += len as u64;
        });
        self.disk.write(sector, buffer).await.1.map_err(BadRequest::Device)
    }

    async fn flush(&self) -> Result<(), BadRequest> {
        self.count(|statistics| statistics.flushes += 1);
        self.disk.flush().await.map_err(BadRequest::Device)
    }

    /// Copies between buffers and the guest's pages: those that stay mapped by itself, others all in one call to the
    /// hypervisor, of which each outcome counts. An outcome for each buffer.
    pub(super) fn copy(&self, copies: &[(&D::Buffer, &[Segment])], to_guest: bool) -> Vec<Result<(), BadRequest>> {
        let mut done = alloc::vec![false; copies.len()];
        if let Some(persistent) = &self.share.persistent {
            let lists = copies.iter().map(|(_, segments)| *segments);
            let outcome = persistent.borrow_mut().map(self.memory, self.share.guest, lists);
            if outcome.is_err() {
                self.share.unmap_half();
            }
            let persistent = persistent.borrow();
            for ((buffer, segments), done) in copies.iter().zip(&mut done) {
                let mut offset = 0;
                *done = segments.iter().all(|segment| {
                    let Some((memory, page)) = persistent.get(segment.reference) else { return false };
                    let start = page + usize::from(segment.first) * SECTOR_SIZE;
                    pieces(offset, bytes(segment), |page, at, range| match to_guest {
                        true => buffer.page(page).copy(at, range.len(), memory, start + range.start),
                        false => memory.copy(start + range.start, range.len(), buffer.page(page), at),
                    });
                    offset += bytes(segment);
                    true
                });
            }
        }
        let mut operations = Vec::new();
        // Where each buffer's operations end.
        let mut ends = Vec::with_capacity(copies.len());
        for ((buffer, segments), done) in copies.iter().zip(&done) {
            let mut offset = 0;
            for segment in segments.iter().filter(|_| !done) {
                let start = usize::from(segment.first) * SECTOR_SIZE;
                pieces(offset, bytes(segment), |page, at, range| {
                    let page = buffer.page(page);
                    let reference = GrantRef(segment.reference);
                    let remote = Remote { peer: self.share.guest, reference, offset: (start + range.start) as u16 };
                    operations.push(match to_guest {
                        true => page.copy_to(at, range.len(), remote),
                        false => page.copy_from(at, range.len(), remote),
                    });
                });
                offset += bytes(segment);
            }
            ends.push(operations.len());
        }
        let mut called = true;
        if !operations.is_empty() {
            self.count(|statistics| statistics.grant_copies += 1);
            called = self.memory.copy(&mut operations).is_ok();
        }
        let mut start = 0;
        let outcomes = ends.into_iter().map(|end| {
            let own = core::mem::replace(&mut start, end)..end;
            let well = own.is_empty() || called && operations[own].iter().all(|operation| operation.result().is_ok());
            if well { Ok(()) } else { Err(BadRequest::Copy) }
        });
        outcomes.collect()
    }
}

/// Bytes of a checked segment.
fn bytes(segment: &Segment) -> usize {
    usize::from(segment.last - segment.first + 1) * SECTOR_SIZE
}

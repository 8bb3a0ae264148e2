//! Builds requests for the backend: the next one of a job, with its pages granted.

use alloc::vec::Vec;
use core::ops::Range;

use xen_hal::{Access, DomId, GrantRef, Memory, PAGE_SIZE};

use super::buffer::{Pool, PooledPage};
use super::link::Features;
use super::queue::{Job, Kind};
use crate::device::Error;
use crate::protocol::{
    Body, MAX_INDIRECT_PAGES, MAX_SEGMENTS, Operation, SECTOR_SIZE, SECTORS_PER_PAGE, SEGMENT_SIZE, SEGMENTS_PER_PAGE,
    Segment,
};

/// What a request costs of a turn at the least.
pub(super) const MIN_COST: usize = 2048;

/// A request that the backend has.
pub(super) struct InFlight<M: Memory> {
    pub(super) job: usize,
    pub(super) operation: Operation,
    /// Which pages of the job's buffer.
    pub(super) pages: Range<usize>,
    /// The page of its segments, where they have one.
    pub(super) indirect: Option<PooledPage<M>>,
    /// Pages that stand for some of the buffer's, by their index in it.
    pub(super) bounces: Vec<(usize, PooledPage<M>)>,
}

impl<M: Memory> InFlight<M> {
    /// What it costs of a turn, on its way to the backend and on its way back.
    pub(super) fn cost(&self) -> usize {
        MIN_COST + self.pages.len() * 512 + self.bounces.len() * PAGE_SIZE
    }
}

/// A request that was made, on its way into the ring.
pub(super) struct NewRequest<M: Memory> {
    pub(super) body: Body,
    pub(super) sector: u64,
    pub(super) in_flight: InFlight<M>,
    /// Whether all of the job was asked for with it.
    pub(super) last: bool,
}

impl<M: Memory> NewRequest<M> {
    fn without_data(job: usize, operation: Operation, body: Body, sector: u64) -> NewRequest<M> {
        let in_flight = InFlight { job, operation, pages: 0..0, indirect: None, bounces: Vec::new() };
        NewRequest { body, sector, in_flight, last: true }
    }
}

/// Makes requests for one backend.
pub(super) struct RequestBuilder<'a, M: Memory> {
    pub(super) pool: &'a Pool<M>,
    pub(super) peer: DomId,
    pub(super) features: Features,
    /// Most segments of a request that the driver's options allow.
    pub(super) max_segments: u16,
}

impl<M: Memory> RequestBuilder<'_, M> {
    /// The next request of a job; `None` where too many pages are in use for one now.
    pub(super) fn build(&self, index: usize, job: &mut Job<M>) -> Result<Option<NewRequest<M>>, Error> {
        let (operation, access) = match job.kind {
            Kind::Read => (Operation::Read, Access::ReadWrite),
            Kind::Write => (Operation::Write, Access::ReadOnly),
            Kind::Flush => {
                let operation = match self.features {
                    Features { flush: true, .. } => Operation::Flush,
                    Features { barrier: true, .. } => Operation::Barrier,
                    _ => return Err(Error::Unsupported("flush")),
                };
                let body = Body::Direct { operation, count: 0, segments: Default::default() };
                return Ok(Some(NewRequest::without_data(index, operation, body, 0)));
            }
            Kind::Discard { sectors, secure } => {
                let body = Body::Discard { secure, sectors };
                return Ok(Some(NewRequest::without_data(index, Operation::Discard, body, job.sector)));
            }
        };
        let pool = self.pool;
        let buffer = job.buffer.as_mut().expect("reads and writes have a buffer");
        let sectors = crate::Buffer::len(buffer) / SECTOR_SIZE;
        let first = job.next as usize;
        let most = self.features.indirect.min(self.max_segments);
        let most = usize::from(most).clamp(MAX_SEGMENTS, SEGMENTS_PER_PAGE);
        let count = most.min(buffer.pages.len() - first);
        let pages = &mut buffer.pages[first..first + count];
        let listed = count > MAX_SEGMENTS;
        if pool.beyond(pages) + usize::from(listed) > pool.bounces_left() {
            return Ok(None);
        }
        let mut bounces = Vec::new();
        let mut grant = || {
            let mut segments = Vec::with_capacity(count);
            for (index, page) in (first..).zip(&mut *pages) {
                let reference = self.grant(page, access, operation, &mut bounces, index)?;
                let rest = sectors - index * usize::from(SECTORS_PER_PAGE);
                segments.push(Segment::new(reference, 0, rest.min(SECTORS_PER_PAGE.into()) as u8 - 1));
            }
            self.body(operation, &segments)
        };
        let (body, indirect) = match grant() {
            Ok(made) => made,
            Err(error) => {
                // The backend was told of none of them, but could guess.
                bounces.into_iter().for_each(|(_, bounce)| pool.give_bounce(bounce));
                for page in pages {
                    // One that the backend keeps all the same is taken back when it is used again.
                    let _ = pool.settle(page, self.peer);
                }
                return Err(error);
            }
        };
        job.next = (first + count) as u64;
        let last = first + count == buffer.pages.len();
        let sector = job.sector + (first as u64) * u64::from(SECTORS_PER_PAGE);
        let in_flight = InFlight { job: index, operation, pages: first..first + count, indirect, bounces };
        Ok(Some(NewRequest { body, sector, in_flight, last }))
    }

    /// Grants a page of a buffer, or a bounce in its place.
    fn grant(
        &self,
        page: &mut PooledPage<M>,
        access: Access,
        operation: Operation,
        bounces: &mut Vec<(usize, PooledPage<M>)>,
        index: usize,
    ) -> Result<GrantRef, Error> {
        let pool = self.pool;
        if let Some(reference) = pool.grant(page, self.peer, access)? {
            return Ok(reference);
        }
        let mut bounce = pool.take_bounce()?;
        let granted = pool.grant_bounce(&mut bounce, self.peer, access);
        if operation == Operation::Write {
            page.copy(0, PAGE_SIZE, &bounce, 0);
        }
        bounces.push((index, bounce));
        granted
    }

    /// A read or write of these segments, and the page that holds them where they are many.
    fn body(&self, operation: Operation, list: &[Segment]) -> Result<(Body, Option<PooledPage<M>>), Error> {
        if list.len() <= MAX_SEGMENTS {
            let mut segments = [Segment::default(); MAX_SEGMENTS];
            segments[..list.len()].copy_from_slice(list);
            return Ok((Body::Direct { operation, count: list.len() as u8, segments }, None));
        }
        let pool = self.pool;
        let mut page = pool.take_bounce()?;
        let reference = match pool.grant_bounce(&mut page, self.peer, Access::ReadOnly) {
            Ok(reference) => reference,
            Err(error) => {
                pool.give_bounce(page);
                return Err(error);
            }
        };
        for (at, segment) in list.iter().enumerate() {
            let mut bytes = [0; SEGMENT_SIZE];
            segment.encode(&mut bytes);
            page.write(at * SEGMENT_SIZE, &bytes);
        }
        let mut pages = [0; MAX_INDIRECT_PAGES];
        pages[0] = reference.0;
        Ok((Body::Indirect { operation, count: list.len() as u16, pages }, Some(page)))
    }
}

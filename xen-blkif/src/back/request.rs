//! What a guest asks for, checked: nothing of it is believed before.

use alloc::vec::Vec;
use core::fmt;

use xen_hal::PAGE_SIZE;

use crate::device::{Error, Geometry};
use crate::protocol::{
    Body, MAX_SEGMENTS, Operation, Request, Response, SECTOR_SIZE, SEGMENT_SIZE, SEGMENTS_PER_PAGE, Segment, Status,
};

/// Most segments of an indirect request, as Linux's backend has it.
pub(super) const MAX_INDIRECT_SEGMENTS: usize = 256;
/// Bytes that their list takes.
pub(super) const LIST_SIZE: usize = MAX_INDIRECT_SEGMENTS * SEGMENT_SIZE;

// One page holds the longest list that is accepted.
const _: () = assert!(MAX_INDIRECT_SEGMENTS <= SEGMENTS_PER_PAGE);

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadRequest {
    /// The protocol has no such operation, or it cannot be asked for in this way.
    Operation(Operation),
    /// As many segments cannot be.
    Segments {
        /// How many there are.
        count: u16,
        /// How many there may be.
        max: u16,
    },
    /// A segment is not inside of a page, or ends before it begins.
    Segment(Segment),
    /// The device does not take it.
    Device(Error),
    /// The hypervisor could not copy from or to the guest's pages.
    Copy,
}

impl BadRequest {
    /// What the guest is told.
    pub(super) fn status(self) -> Status {
        match self {
            BadRequest::Operation(_) | BadRequest::Device(Error::Unsupported(_)) => Status::Unsupported,
            _ => Status::Error,
        }
    }
}

impl fmt::Display for BadRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadRequest::Operation(operation) => write!(f, "unsupported {operation} (EOPNOTSUPP)"),
            BadRequest::Segments { count, max } => {
                write!(f, "bad number of segments in request: {count}, expected 1 to {max} (EINVAL)")
            }
            BadRequest::Segment(segment) => write!(
                f,
                "bad segment: sectors {} to {}, gref {} (EINVAL)",
                segment.first, segment.last, segment.reference
            ),
            BadRequest::Device(error) => write!(f, "{error} (EIO)"),
            BadRequest::Copy => f.write_str("invalid grant reference (EFAULT)"),
        }
    }
}

impl core::error::Error for BadRequest {}

/// What is to be done, on the device's sectors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Work {
    Read {
        sector: u64,
        segments: Vec<Segment>,
    },
    Write {
        sector: u64,
        segments: Vec<Segment>,
    },
    Discard {
        sector: u64,
        sectors: u64,
        secure: bool,
    },
    /// What was written before is to reach the medium. A write that comes with it is begun after that.
    Flush {
        sector: u64,
        segments: Vec<Segment>,
    },
    /// Everything before is to be done first, and what comes after only afterwards.
    Barrier {
        sector: u64,
        segments: Vec<Segment>,
    },
}

impl Work {
    /// Checks a request. `list` is a copy of an indirect request's segments.
    pub(super) fn new(request: &Request, list: &[u8], geometry: &Geometry) -> Result<Work, BadRequest> {
        let sector = request.sector;
        let (operation, segments) = match &request.body {
            Body::Discard { secure, sectors } => {
                if geometry.discard.is_none_or(|discard| *secure && !discard.secure) {
                    return Err(BadRequest::Operation(Operation::Discard));
                }
                geometry.check_writable().map_err(BadRequest::Device)?;
                geometry.check_sectors(sector, *sectors).map_err(BadRequest::Device)?;
                return Ok(Work::Discard { sector, sectors: *sectors, secure: *secure });
            }
            Body::Indirect { operation, count, .. } => {
                check_indirect(*operation, *count)?;
                let list = list.chunks_exact(SEGMENT_SIZE).take(usize::from(*count));
                (*operation, list.map(Segment::decode).collect::<Vec<_>>())
            }
            Body::Direct { operation, count, .. } => match request.body.segments() {
                Some(segments) => (*operation, segments.to_vec()),
                None => {
                    return Err(BadRequest::Segments { count: (*count).into(), max: MAX_SEGMENTS as u16 });
                }
            },
        };
        let mut sectors = 0_u64;
        for segment in &segments {
            sectors += u64::from(segment.sectors().ok_or(BadRequest::Segment(*segment))?);
        }
        match operation {
            Operation::Flush if segments.is_empty() => return Ok(Work::Flush { sector, segments }),
            Operation::Barrier if segments.is_empty() => return Ok(Work::Barrier { sector, segments }),
            // A flush with data is a write that begins with a flush, as in Linux's backend and QEMU's.
            Operation::Read | Operation::Write | Operation::Flush | Operation::Barrier => {}
            other => return Err(BadRequest::Operation(other)),
        }
        if segments.is_empty() {
            return Err(BadRequest::Segments { count: 0, max: MAX_SEGMENTS as u16 });
        }
        if operation != Operation::Read {
            geometry.check_writable().map_err(BadRequest::Device)?;
        }
        geometry.check_sectors(sector, sectors).map_err(BadRequest::Device)?;
        Ok(match operation {
            Operation::Read => Work::Read { sector, segments },
            Operation::Write => Work::Write { sector, segments },
            Operation::Flush => Work::Flush { sector, segments },
            _ => Work::Barrier { sector, segments },
        })
    }

    /// Its segments.
    pub(super) fn list(&self) -> &[Segment] {
        match self {
            Work::Read { segments, .. }
            | Work::Write { segments, .. }
            | Work::Flush { segments, .. }
            | Work::Barrier { segments, .. } => segments,
            Work::Discard { .. } => &[],
        }
    }

    /// Whether `next` is of the same kind and begins where this ends.
    pub(super) fn is_followed_by(&self, next: &Work) -> bool {
        match (self, next) {
            (Work::Read { sector, segments }, Work::Read { sector: next, .. })
            | (Work::Write { sector, segments }, Work::Write { sector: next, .. }) => {
                *next == sector + (len(segments) / SECTOR_SIZE) as u64
            }
            _ => false,
        }
    }

    /// Adds what [`is_followed_by`](Work::is_followed_by) is true of.
    pub(super) fn append(&mut self, next: Work) {
        match (self, next) {
            (Work::Read { segments, .. }, Work::Read { segments: more, .. })
            | (Work::Write { segments, .. }, Work::Write { segments: more, .. }) => segments.extend(more),
            _ => {}
        }
    }

    /// Takes off what was there before something was added: the first `count` segments.
    pub(super) fn split_off_front(&mut self, count: usize) -> Work {
        match self {
            Work::Read { sector, segments } | Work::Write { sector, segments } if count < segments.len() => {
                let own: Vec<_> = segments.drain(..count).collect();
                let from = *sector;
                *sector += (len(&own) / SECTOR_SIZE) as u64;
                match self {
                    Work::Read { .. } => Work::Read { sector: from, segments: own },
                    _ => Work::Write { sector: from, segments: own },
                }
            }
            _ => self.clone(),
        }
    }

    /// How many bytes it moves.
    pub(super) fn len(&self) -> usize {
        len(self.list())
    }

    /// How many bytes' worth of work moving them is: each segment is a copy of its own, however short.
    pub(super) fn load(&self) -> usize {
        self.len().max(self.list().len() * PAGE_SIZE)
    }

    /// How much of that is for bytes that come from the guest; the others go to it.
    pub(super) fn fetched(&self) -> usize {
        if matches!(self, Work::Read { .. }) { 0 } else { self.load() }
    }

    /// How many bytes of memory it takes: a buffer is of whole pages, and what has none is remembered all the same.
    pub(super) fn cost(&self) -> usize {
        self.len().next_multiple_of(PAGE_SIZE).max(PAGE_SIZE)
    }
}

/// Checks of an indirect request what can be known before its list is there.
pub(super) fn check_indirect(operation: Operation, count: u16) -> Result<(), BadRequest> {
    if !matches!(operation, Operation::Read | Operation::Write) {
        return Err(BadRequest::Operation(operation));
    }
    match usize::from(count) {
        1..=MAX_INDIRECT_SEGMENTS => Ok(()),
        _ => Err(BadRequest::Segments { count, max: MAX_INDIRECT_SEGMENTS as u16 }),
    }
}

/// Bytes of checked segments.
pub(super) fn len(segments: &[Segment]) -> usize {
    segments.iter().map(|segment| usize::from(segment.last - segment.first + 1) * SECTOR_SIZE).sum()
}

/// The answer to a request.
pub(super) fn answer(request: &Request, outcome: Result<(), BadRequest>) -> Response {
    let status = outcome.map_or_else(BadRequest::status, |()| Status::Okay);
    Response { id: request.id, operation: request.response_operation(), status }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Discard;
    use alloc::vec;

    fn direct(operation: Operation, count: u8, sector: u64, segment: (u8, u8)) -> Request {
        let segments = [Segment { reference: 9, first: segment.0, last: segment.1 }; MAX_SEGMENTS];
        Request { id: 1, sector, handle: 0, body: Body::Direct { operation, count, segments } }
    }

    fn checked(request: &Request, geometry: &Geometry) -> Result<Work, BadRequest> {
        Work::new(request, &[], geometry)
    }

    #[test]
    fn what_a_guest_may_not_ask_for() {
        let disk = Geometry::plain(100);
        use Operation::{Barrier, Discard as Trim, Flush, Indirect, Other, Read, Write};
        assert!(checked(&direct(Read, 11, 0, (0, 7)), &disk).is_ok());
        assert!(checked(&direct(Write, 1, 99, (7, 7)), &disk).is_ok());
        for (operation, count, sector, segment, why) in [
            (Read, 12, 0, (0, 0), "more segments than fit"),
            (Read, 255, 0, (0, 0), "far more segments than fit"),
            (Read, 0, 0, (0, 0), "a read of nothing"),
            (Write, 0, 0, (0, 0), "a write of nothing"),
            (Read, 1, 0, (0, 8), "a segment past its page"),
            (Read, 1, 0, (255, 255), "a segment far past its page"),
            (Write, 1, 0, (3, 2), "a segment that ends before it begins"),
            (Read, 1, 100, (0, 0), "past the end"),
            (Read, 1, 99, (0, 1), "across the end"),
            (Write, 1, u64::MAX, (0, 0), "sectors that overflow"),
            (Write, 11, u64::MAX - 40, (0, 7), "sectors that overflow on the way"),
            (Other(9), 1, 0, (0, 0), "an operation that there is not"),
        ] {
            assert!(checked(&direct(operation, count, sector, segment), &disk).is_err(), "{why}");
        }
        let read_only = Geometry { read_only: true, ..disk };
        assert!(checked(&direct(Read, 1, 0, (0, 0)), &read_only).is_ok());
        assert!(checked(&direct(Write, 1, 0, (0, 0)), &read_only).is_err());
        assert!(checked(&direct(Barrier, 1, 0, (0, 0)), &read_only).is_err());
        assert_eq!(checked(&direct(Flush, 0, 7, (0, 0)), &read_only), Ok(Work::Flush { sector: 7, segments: vec![] }));
        assert!(checked(&direct(Flush, 1, 7, (0, 0)), &disk).is_ok_and(|work| work.len() == 512));
        assert_eq!(
            checked(&direct(Flush, 1, 7, (0, 0)), &read_only),
            Err(BadRequest::Device(Error::ReadOnly)),
            "its data would be lost"
        );
        assert!(checked(&direct(Flush, 1, 100, (0, 0)), &disk).is_err());
        assert_eq!(
            checked(&direct(Barrier, 0, 0, (0, 0)), &disk),
            Ok(Work::Barrier { sector: 0, segments: vec![] }),
            "an empty barrier is legal"
        );
        let large = Geometry { sector_size: 4096, ..Geometry::plain(96) };
        assert!(checked(&direct(Read, 1, 8, (0, 7)), &large).is_ok());
        assert!(checked(&direct(Read, 1, 8, (0, 0)), &large).is_err(), "a part of a sector of 4,096 bytes");
        assert!(checked(&direct(Read, 1, 1, (0, 7)), &large).is_err(), "beside a sector of 4,096 bytes");

        let trim =
            |sector, sectors, secure| Request { id: 1, sector, handle: 0, body: Body::Discard { secure, sectors } };
        let thin = Geometry { discard: Some(Discard { granularity: 512, alignment: 0, secure: false }), ..disk };
        assert!(checked(&trim(0, 100, false), &thin).is_ok());
        assert_eq!(checked(&trim(0, 100, false), &disk), Err(BadRequest::Operation(Trim)));
        assert_eq!(checked(&trim(0, 100, true), &thin), Err(BadRequest::Operation(Trim)));
        assert!(checked(&trim(1, u64::MAX, false), &thin).is_err(), "a discard is checked as a write is");
        assert!(checked(&trim(0, 1, false), &Geometry { read_only: true, ..thin }).is_err());

        for (operation, count) in [(Indirect, 1), (Flush, 1), (Read, 0), (Read, 257), (Write, u16::MAX)] {
            assert!(check_indirect(operation, count).is_err(), "{operation} {count}");
        }
        assert_eq!(check_indirect(Write, 256), Ok(()));
    }

    #[test]
    fn an_indirect_request_is_answered_with_its_inner_operation() {
        let body = Body::Indirect { operation: Operation::Write, count: 1, pages: [0; 8] };
        let request = Request { id: 77, sector: 0, handle: 0, body };
        let expected = Response { id: 77, operation: Operation::Write, status: Status::Okay };
        assert_eq!(answer(&request, Ok(())), expected);
    }
}

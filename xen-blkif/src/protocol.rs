//! The block protocol's requests and responses as they lie in a slot of the ring (xen/include/public/io/blkif.h).
//!
//! Decoding checks nothing but the length: what a request asks for is checked by who serves it.

use core::fmt;

use xen_hal::GrantRef;
use xen_ring::Protocol;

/// Bytes of the sectors in which the protocol counts, whatever the disk's own are.
pub const SECTOR_SIZE: usize = 512;
/// Sectors in a page.
pub const SECTORS_PER_PAGE: u8 = 8;
/// Most segments of a request that holds them itself.
pub const MAX_SEGMENTS: usize = 11;
/// Largest ring, as the power of two of its pages: 16 pages, 512 requests.
pub const MAX_RING_ORDER: u32 = 4;
/// Most pages of segments of an indirect request.
pub const MAX_INDIRECT_PAGES: usize = 8;
/// Segments in a page of an indirect request.
pub const SEGMENTS_PER_PAGE: usize = 512;
/// Bytes of a segment.
pub const SEGMENT_SIZE: usize = 8;

macro_rules! operations {
    ($($name:ident = $number:literal, $text:literal;)*) => {
        /// What a request asks for (`BLKIF_OP_*`).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[cfg_attr(feature = "defmt", derive(defmt::Format))]
        pub enum Operation {
            $(#[doc = $text] $name,)*
            /// A number that the protocol does not know.
            Other(u8),
        }

        impl Operation {
            /// The operation of a number.
            pub const fn from_number(number: u8) -> Operation {
                match number {
                    $($number => Operation::$name,)*
                    other => Operation::Other(other),
                }
            }

            /// Its number.
            pub const fn number(self) -> u8 {
                match self {
                    $(Operation::$name => $number,)*
                    Operation::Other(number) => number,
                }
            }
        }

        impl fmt::Display for Operation {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Operation::$name => f.write_str($text),)*
                    Operation::Other(number) => write!(f, "operation {number}"),
                }
            }
        }
    };
}

operations! {
    Read = 0, "read";
    Write = 1, "write";
    Barrier = 2, "barrier";
    Flush = 3, "flush";
    Discard = 5, "discard";
    Indirect = 6, "indirect";
}

/// A piece of one page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// The frontend's reference for the page.
    pub reference: u32,
    /// The first sector of the page.
    pub first: u8,
    /// The last sector of the page.
    pub last: u8,
}

impl Segment {
    /// A segment of the page that `reference` grants.
    pub const fn new(reference: GrantRef, first: u8, last: u8) -> Segment {
        Segment { reference: reference.0, first, last }
    }

    /// How many sectors it holds, where it makes sense.
    pub const fn sectors(&self) -> Option<u8> {
        if self.first <= self.last && self.last < SECTORS_PER_PAGE { Some(self.last - self.first + 1) } else { None }
    }

    /// Writes it as it lies in a request or in a page of segments.
    ///
    /// # Panics
    ///
    /// Where `to` is not 8 bytes long.
    pub fn encode(&self, to: &mut [u8]) {
        to[..4].copy_from_slice(&self.reference.to_le_bytes());
        to[4..].copy_from_slice(&[self.first, self.last, 0, 0]);
    }

    /// Reads it.
    ///
    /// # Panics
    ///
    /// Where `from` is not 8 bytes long.
    pub fn decode(from: &[u8]) -> Segment {
        Segment { reference: word(from, 0), first: from[4], last: from[5] }
    }
}

/// A request as it lies in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The frontend's number for it, which the response repeats.
    pub id: u64,
    /// Where on the disk, in sectors of 512 bytes.
    pub sector: u64,
    /// The device (unused since there is a ring for each).
    pub handle: u16,
    /// What to do.
    pub body: Body,
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// Read, write, flush or barrier: with its segments, of which the first `count` are meant. `count` is not checked.
    Direct {
        /// What to do.
        operation: Operation,
        /// How many segments.
        count: u8,
        /// The segments.
        segments: [Segment; MAX_SEGMENTS],
    },
    /// Read or write with segments in pages of their own. `count` is not checked.
    Indirect {
        /// What to do.
        operation: Operation,
        /// How many segments.
        count: u16,
        /// The references of the pages.
        pages: [u32; MAX_INDIRECT_PAGES],
    },
    /// Discard.
    Discard {
        /// Whether nothing of it may be left.
        secure: bool,
        /// How many sectors.
        sectors: u64,
    },
}

impl Body {
    /// The segments that are meant; `None` where they are more than there are, or not here.
    pub fn segments(&self) -> Option<&[Segment]> {
        match self {
            Body::Direct { count, segments, .. } => segments.get(..usize::from(*count)),
            Body::Indirect { .. } => None,
            Body::Discard { .. } => Some(&[]),
        }
    }
}

impl Request {
    /// What the request's slot says that it is.
    pub fn operation(&self) -> Operation {
        match self.body {
            Body::Direct { operation, .. } => operation,
            Body::Indirect { .. } => Operation::Indirect,
            Body::Discard { .. } => Operation::Discard,
        }
    }

    /// What its response has to name: of an indirect request the inner operation, as Linux and its frontends have it.
    pub fn response_operation(&self) -> Operation {
        match self.body {
            Body::Direct { operation, .. } | Body::Indirect { operation, .. } => operation,
            Body::Discard { .. } => Operation::Discard,
        }
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Status {
    /// Well (`BLKIF_RSP_OKAY`).
    Okay,
    /// It failed (`BLKIF_RSP_ERROR`, and every number that the protocol does not know).
    Error,
    /// The backend cannot do this (`BLKIF_RSP_EOPNOTSUPP`).
    Unsupported,
}

impl Status {
    const fn from_number(number: i16) -> Status {
        match number {
            0 => Status::Okay,
            -2 => Status::Unsupported,
            _ => Status::Error,
        }
    }

    const fn number(self) -> i16 {
        match self {
            Status::Okay => 0,
            Status::Error => -1,
            Status::Unsupported => -2,
        }
    }
}

/// A response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response {
    /// The request's number.
    pub id: u64,
    /// The request's operation.
    pub operation: Operation,
    /// How it ended.
    pub status: Status,
}

/// How a frontend's compiler lays out the slots: the two differ in how 64-bit numbers are aligned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Abi {
    /// Of 64-bit frontends.
    #[default]
    X86_64,
    /// Of 32-bit frontends.
    X86_32,
}

impl Abi {
    /// Its name in the store's `protocol`.
    pub const fn name(self) -> &'static str {
        match self {
            Abi::X86_64 => "x86_64-abi",
            Abi::X86_32 => "x86_32-abi",
        }
    }

    /// The one of a name.
    pub fn from_name(name: &str) -> Option<Abi> {
        [Abi::X86_64, Abi::X86_32].into_iter().find(|abi| abi.name() == name)
    }

    /// Where the id is; the sector follows, and then what depends on the operation.
    const fn id(self) -> usize {
        match self {
            Abi::X86_64 => 8,
            Abi::X86_32 => 4,
        }
    }
}

impl fmt::Display for Abi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Protocol for Abi {
    type Request = Request;
    type Response = Response;

    fn slot_size(&self) -> usize {
        match self {
            Abi::X86_64 => 112,
            Abi::X86_32 => 108,
        }
    }

    fn encode_request(&self, request: &Request, slot: &mut [u8]) {
        let id = self.id();
        slot[0] = request.operation().number();
        slot[id..id + 8].copy_from_slice(&request.id.to_le_bytes());
        slot[id + 8..id + 16].copy_from_slice(&request.sector.to_le_bytes());
        let (head, rest) = slot.split_at_mut(id + 16);
        match &request.body {
            Body::Direct { count, segments, .. } => {
                head[1] = *count;
                head[2..4].copy_from_slice(&request.handle.to_le_bytes());
                for (segment, to) in segments.iter().zip(rest.chunks_exact_mut(SEGMENT_SIZE)).take(usize::from(*count))
                {
                    segment.encode(to);
                }
            }
            Body::Indirect { operation, count, pages } => {
                head[1] = operation.number();
                head[2..4].copy_from_slice(&count.to_le_bytes());
                rest[..2].copy_from_slice(&request.handle.to_le_bytes());
                for (page, to) in pages.iter().zip(rest[4..].chunks_exact_mut(4)) {
                    to.copy_from_slice(&page.to_le_bytes());
                }
            }
            Body::Discard { secure, sectors } => {
                head[1] = u8::from(*secure);
                head[2..4].copy_from_slice(&request.handle.to_le_bytes());
                rest[..8].copy_from_slice(&sectors.to_le_bytes());
            }
        }
    }

    fn decode_request(&self, slot: &[u8]) -> Request {
        let id = self.id();
        let rest = &slot[id + 16..];
        let short = u16::from_le_bytes([slot[2], slot[3]]);
        let (handle, body) = match Operation::from_number(slot[0]) {
            Operation::Indirect => {
                let mut pages = [0; MAX_INDIRECT_PAGES];
                for (index, page) in pages.iter_mut().enumerate() {
                    *page = word(rest, 4 + 4 * index);
                }
                let operation = Operation::from_number(slot[1]);
                (u16::from_le_bytes([rest[0], rest[1]]), Body::Indirect { operation, count: short, pages })
            }
            Operation::Discard => (short, Body::Discard { secure: slot[1] & 1 != 0, sectors: long(rest, 0) }),
            operation => {
                let mut segments = [Segment::default(); MAX_SEGMENTS];
                for (segment, from) in segments.iter_mut().zip(rest.chunks_exact(SEGMENT_SIZE)) {
                    *segment = Segment::decode(from);
                }
                (short, Body::Direct { operation, count: slot[1], segments })
            }
        };
        Request { id: long(slot, id), sector: long(slot, id + 8), handle, body }
    }

    fn encode_response(&self, response: &Response, slot: &mut [u8]) {
        slot[..8].copy_from_slice(&response.id.to_le_bytes());
        slot[8] = response.operation.number();
        slot[10..12].copy_from_slice(&response.status.number().to_le_bytes());
    }

    fn decode_response(&self, slot: &[u8]) -> Response {
        Response {
            id: long(slot, 0),
            operation: Operation::from_number(slot[8]),
            status: Status::from_number(i16::from_le_bytes([slot[10], slot[11]])),
        }
    }
}

fn word(from: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(from[at..at + 4].try_into().expect("4 bytes"))
}

fn long(from: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(from[at..at + 8].try_into().expect("8 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    fn write(count: u8) -> Request {
        let mut segments = [Segment::default(); MAX_SEGMENTS];
        for (index, segment) in segments.iter_mut().take(count.into()).enumerate() {
            *segment = Segment::new(GrantRef(0x100 + index as u32), 1, 6);
        }
        let body = Body::Direct { operation: Operation::Write, count, segments };
        Request { id: 0x1122_3344_5566_7788, sector: 0xa1a2_a3a4_a5a6, handle: 0xcafe, body }
    }

    fn encoded(abi: Abi, request: &Request) -> Vec<u8> {
        let mut slot = vec![0; abi.slot_size()];
        abi.encode_request(request, &mut slot);
        slot
    }

    /// Offsets as `offsetof` of a C compiler tells them for both (reference: xen/include/public/io/blkif.h and Linux's
    /// drivers/block/xen-blkback/common.h).
    #[test]
    fn fields_lie_where_c_puts_them() {
        let slot = encoded(Abi::X86_64, &write(2));
        assert_eq!(slot.len(), 112);
        assert_eq!(slot[..4], [1, 2, 0xfe, 0xca]);
        assert_eq!(slot[8..16], 0x1122_3344_5566_7788_u64.to_le_bytes());
        assert_eq!(slot[16..24], 0xa1a2_a3a4_a5a6_u64.to_le_bytes());
        assert_eq!(slot[24..40], [0, 1, 0, 0, 1, 6, 0, 0, 1, 1, 0, 0, 1, 6, 0, 0]);
        let slot = encoded(Abi::X86_32, &write(1));
        assert_eq!(slot.len(), 108);
        assert_eq!(slot[4..12], 0x1122_3344_5566_7788_u64.to_le_bytes());
        assert_eq!(slot[20..28], [0, 1, 0, 0, 1, 6, 0, 0]);

        let body = Body::Indirect { operation: Operation::Read, count: 0x0102, pages: [9, 8, 7, 6, 5, 4, 3, 2] };
        let slot = encoded(Abi::X86_64, &Request { id: 1, sector: 2, handle: 0x0304, body });
        assert_eq!(slot[..4], [6, 0, 2, 1]);
        assert_eq!(slot[24..32], [4, 3, 0, 0, 9, 0, 0, 0]);
        assert_eq!(slot[56..60], [2, 0, 0, 0]);
        let body = Body::Discard { secure: true, sectors: 0x0a0b };
        let slot = encoded(Abi::X86_64, &Request { id: 1, sector: 2, handle: 0, body });
        assert_eq!(slot[..2], [5, 1]);
        assert_eq!(slot[24..32], 0x0a0b_u64.to_le_bytes());
        let slot = encoded(Abi::X86_32, &Request { id: 1, sector: 2, handle: 0, body });
        assert_eq!(slot[20..28], 0x0a0b_u64.to_le_bytes());

        let mut slot = [0; 16];
        let response = Response { id: 5, operation: Operation::Flush, status: Status::Unsupported };
        Abi::X86_64.encode_response(&response, &mut slot);
        assert_eq!(slot, [5, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0xfe, 0xff, 0, 0, 0, 0]);
        assert_eq!(Abi::X86_64.decode_response(&slot), response);
    }

    proptest! {
        /// Any bytes make a request, and it makes the same request again, in both layouts.
        #[test]
        fn any_bytes_are_a_request(mut slot in prop::collection::vec(any::<u8>(), 112), operation in 0_u8..8, wide: bool) {
            let abi = if wide { Abi::X86_64 } else { Abi::X86_32 };
            slot.truncate(abi.slot_size());
            slot[0] = operation;
            let request = abi.decode_request(&slot);
            let count_fits = !matches!(request.body, Body::Direct { count, .. } if usize::from(count) < MAX_SEGMENTS);
            if count_fits {
                prop_assert_eq!(abi.decode_request(&encoded(abi, &request)), request);
            }
            let _ = request.response_operation();
        }
    }

    #[test]
    fn names_lead_back() {
        for abi in [Abi::X86_64, Abi::X86_32] {
            assert_eq!(Abi::from_name(abi.name()), Some(abi));
        }
        assert_eq!(Abi::from_name("arm-abi"), None);
        for number in 0..=255 {
            assert_eq!(Operation::from_number(number).number(), number);
        }
        assert_eq!(Segment { reference: 1, first: 3, last: 8 }.sectors(), None);
        assert_eq!(Segment { reference: 1, first: 3, last: 2 }.sectors(), None);
        assert_eq!(Segment { reference: 1, first: 0, last: 7 }.sectors(), Some(8));
    }
}

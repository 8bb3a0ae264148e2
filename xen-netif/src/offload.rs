//! What stands between a network stack and an interface: large segments and checksums, which the stack leaves to others.

use core::cell::RefCell;

use embassy_net_driver::{Capabilities, Checksum, ChecksumCapabilities};

use crate::checksum;
use crate::headers::{self, ETHERNET, Headers, TCP, UDP};
use crate::mss::Flows;
use crate::path_mtu::PathMtus;
use crate::protocol::{Gso, MAX_BYTES};
use crate::segment::Segmenter;

/// What the other end does for this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Offloads {
    pub(crate) mtu: u16,
    pub(crate) gso_v4: bool,
    pub(crate) gso_v6: bool,
    pub(crate) checksum_v4: bool,
    pub(crate) checksum_v6: bool,
}

/// How a frame of the stack's is to be sent.
#[derive(Debug)]
pub(crate) enum Outgoing {
    Whole {
        /// The checksum is left blank.
        blank: bool,
        gso: Option<(Gso, u16)>,
    },
    Pieces(Segmenter),
    TooLarge,
}

const PLAIN: Outgoing = Outgoing::Whole { blank: false, gso: None };

/// The largest frame that a stack may make where the MTU is `mtu`: what it sends by TCP is cut, and so is what it sends
/// by UDP over IPv4.
pub(crate) fn largest_frame(large: bool, mtu: u16) -> usize {
    // A packet's bytes have 16 bits in a slot.
    if large { MAX_BYTES } else { (ETHERNET + usize::from(mtu)).min(MAX_BYTES) }
}

/// What the stack is told: checksums of TCP and UDP are made and checked here, or by the other end.
pub(crate) fn capabilities(large: bool, mtu: u16) -> Capabilities {
    let mut checksum = ChecksumCapabilities::default();
    (checksum.tcp, checksum.udp) = (Checksum::None, Checksum::None);
    let mut capabilities = Capabilities::default();
    capabilities.max_transmission_unit = largest_frame(large, mtu);
    capabilities.checksum = checksum;
    capabilities
}

/// Whether the device of such capabilities is one of this crate's that cuts what a stack sends by TCP: the stack may
/// then send segments of several times the peer's MSS (`Stack::set_tcp_segmentation` of Sarab's embassy-net).
pub fn cuts_segments(capabilities: &Capabilities) -> bool {
    capabilities.max_transmission_unit == MAX_BYTES
}

/// The offload flags that come with a frame.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FrameInfo {
    /// The checksum is known to be right.
    pub(crate) good: bool,
    /// The checksum is left to this end.
    pub(crate) blank: bool,
    /// And so is its division into segments.
    pub(crate) gso: Option<(Gso, u16)>,
}

/// Segments with less payload than this nobody asks for: the smallest MSS that Linux uses is 48, and TCP options take up
/// to 40 of it (`TCP_MIN_GSO_SIZE`).
const MIN_SEGMENT: u16 = 8;

/// Whether a frame can be divided into segments as it says.
pub(crate) fn can_segment(frame: &[u8], headers: &Headers, protocol: Gso, size: u16) -> bool {
    let right = match protocol {
        Gso::TcpV4 => !headers.v6,
        Gso::TcpV6 => headers.v6,
        Gso::Other(_) => false,
    };
    right && size >= MIN_SEGMENT && headers.tcp_header(frame).is_some()
}

/// Prepares a frame for the stack, which sends large segments where there are `flows`, over a wire of this MTU; whether it
/// is good. It is not where it leaves something to the stack that cannot be done, or its checksum is wrong. Of what nobody
/// can find a checksum in, the stack would take any bytes.
pub(crate) fn incoming(
    frame: &mut [u8],
    info: FrameInfo,
    flows: Option<&RefCell<Flows>>,
    paths: &PathMtus,
    mtu: u16,
) -> bool {
    let Some(headers) = Headers::parse(frame) else {
        return !info.blank && info.gso.is_none() && !headers::is_ip(frame);
    };
    let good = match info {
        FrameInfo { gso: Some((protocol, size)), .. } => can_segment(frame, &headers, protocol, size),
        FrameInfo { blank: true, .. } => checksum::is_present(frame, &headers),
        FrameInfo { good, .. } => good || checksum::is_valid(frame, &headers),
    };
    if good {
        paths.incoming(frame, &headers);
    }
    if good
        && headers.protocol == TCP
        && let Some(flows) = flows
    {
        flows.borrow_mut().incoming(frame, &headers, mtu);
    }
    good
}

/// Makes a frame of the stack's one for the other end.
pub(crate) fn outgoing(
    frame: &mut [u8],
    offloads: Offloads,
    flows: Option<&RefCell<Flows>>,
    paths: &PathMtus,
) -> Outgoing {
    let Some(headers) = Headers::parse(frame) else { return PLAIN };
    let blank = if headers.v6 { offloads.checksum_v6 } else { offloads.checksum_v4 };
    if headers.protocol == TCP && !headers.fragment {
        let allowed = flows.and_then(|flows| flows.borrow_mut().outgoing(frame, &headers, offloads.mtu));
        let size = allowed.into_iter().chain(paths.outgoing(frame, &headers)).min();
        let payload = headers.tcp_header(frame).map_or(0, |length| headers.end - headers.transport - length);
        if let Some(size) = size
            && payload > usize::from(size)
        {
            let gso = blank && if headers.v6 { offloads.gso_v6 } else { offloads.gso_v4 };
            if !gso || size < MIN_SEGMENT {
                return Segmenter::segments(frame, &headers, size).map_or(Outgoing::TooLarge, Outgoing::Pieces);
            }
            checksum::leave_blank(frame, &headers);
            let protocol = if headers.v6 { Gso::TcpV6 } else { Gso::TcpV4 };
            return Outgoing::Whole { blank: true, gso: Some((protocol, size)) };
        }
    }
    if headers.end - headers.ip > usize::from(offloads.mtu) {
        checksum::complete(frame, &headers);
        return Segmenter::fragments(frame, &headers, offloads.mtu).map_or(Outgoing::TooLarge, Outgoing::Pieces);
    }
    if !matches!(headers.protocol, TCP | UDP) || headers.fragment {
        return PLAIN;
    }
    if blank && checksum::leave_blank(frame, &headers) {
        return Outgoing::Whole { blank: true, gso: None };
    }
    checksum::complete(frame, &headers);
    PLAIN
}

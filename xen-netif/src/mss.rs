//! How large the segments may be that a stack's large ones are cut into.
//!
//! The stack's MTU is large: it sends segments of several times the peer's maximum segment size (MSS), which it counts
//! in for congestion control. What the peer has said in its SYN is remembered, and what the stack sends is cut to that
//! size, by the backend or here. In SYNs of both directions the MSS is lowered to what the wire takes: the peer does not
//! see the stack's MTU, and the stack counts in what is really sent.
//!
//! Anybody can send a SYN in another's name. So what a SYN says is nothing but an offer until the stack takes part in the
//! handshake, and it counts for a connection only once the far end has acknowledged the stack's own sequence number,
//! which a stranger does not know. Each of these stages has a table of its own: however many handshakes begin, those of
//! them that do not end push out no connection.

use core::num::NonZeroUsize;

use lru::LruCache;

use crate::headers::Headers;

/// Connections whose MSS is remembered; of others every peer takes [`least`].
const MAX_FLOWS: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");
/// SYNs that the stack has not answered yet: more than the ring can hold, since the stack answers after it has read all
/// that was there.
const MAX_OFFERS: NonZeroUsize = NonZeroUsize::new(512).expect("not zero");
/// Handshakes that the stack takes part in: many more than it has sockets.
const MAX_HANDSHAKES: NonZeroUsize = NonZeroUsize::new(512).expect("not zero");

/// Segments are not made smaller than this, whatever a peer says: each costs all on their way.
const MIN_MSS: u16 = 88;

const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;
const KIND_END: u8 = 0;
const KIND_NOTHING: u8 = 1;
const KIND_MSS: u8 = 2;

/// A connection: the far end's address and port, and this end's.
pub(crate) type Flow = [u8; 36];

/// What the far ends of connections take.
#[derive(Debug)]
pub struct Flows {
    /// MSS of connections whose handshake is done.
    established: LruCache<Flow, u16>,
    /// By the number that the stack's SYN began with: what the far end has said, where it has said it already.
    handshakes: LruCache<(Flow, u32), Option<u16>>,
    /// By the number that the far end's SYN began with: what that SYN has said.
    offers: LruCache<(Flow, u32), u16>,
}

impl Default for Flows {
    fn default() -> Flows {
        Flows {
            established: LruCache::sparse(MAX_FLOWS),
            handshakes: LruCache::sparse(MAX_HANDSHAKES),
            offers: LruCache::sparse(MAX_OFFERS),
        }
    }
}

impl Flows {
    /// Looks at a TCP packet for the stack, and lowers the MSS in a SYN to what `mtu` allows.
    pub fn incoming(&mut self, frame: &mut [u8], headers: &Headers, mtu: u16) {
        let Some(length) = headers.tcp_header(frame) else { return };
        let flags = frame[headers.transport + 13];
        if flags & SYN != 0 {
            self.incoming_syn(frame, headers, length, mtu);
        } else if flags & (ACK | RST) == ACK && !self.handshakes.is_empty() {
            let key = (flow(frame, headers, true), acknowledged(frame, headers));
            if let Some(mss) = self.handshakes.peek(&key).copied().flatten() {
                self.handshakes.pop(&key);
                self.established.put(key.0, mss);
            }
        }
    }

    fn incoming_syn(&mut self, frame: &mut [u8], headers: &Headers, length: usize, mtu: u16) {
        let flow = flow(frame, headers, true);
        let option = mss_option(frame, headers, length);
        let said = option.map(|at| u16::from_be_bytes([frame[at], frame[at + 1]]));
        let mss = said.map_or(least(headers.v6), |said| said.max(MIN_MSS));
        if frame[headers.transport + 13] & ACK != 0 {
            // The answer to the stack's own SYN. Nobody else knows the number; the stack ignores others, too.
            if self.handshakes.pop(&(flow, acknowledged(frame, headers))).is_none() {
                return;
            }
            self.established.put(flow, mss);
        } else {
            // The first one counts for the stack as well.
            self.offers.get_or_insert((flow, number(frame, headers)), || mss);
        }
        if let (Some(at), Some(said)) = (option, said) {
            // `MIN_MSS` here as well: the stack counts in what it is cut to.
            frame[at..at + 2].copy_from_slice(&said.max(MIN_MSS).min(wire(headers.v6, mtu)).to_be_bytes());
        }
    }

    /// Looks at a TCP packet of the stack's, and lowers the MSS in a SYN to what `mtu` allows. Returns the most payload
    /// that its segments may have.
    pub fn outgoing(&mut self, frame: &mut [u8], headers: &Headers, mtu: u16) -> Option<u16> {
        let length = headers.tcp_header(frame)?;
        let wire = wire(headers.v6, mtu);
        let flow = flow(frame, headers, false);
        if frame[headers.transport + 13] & SYN != 0 {
            if let Some(at) = mss_option(frame, headers, length) {
                let own = u16::from_be_bytes([frame[at], frame[at + 1]]);
                frame[at..at + 2].copy_from_slice(&own.min(wire).to_be_bytes());
            }
            self.outgoing_syn(frame, headers, flow);
        }
        let known = self.established.get(&flow).copied();
        let size = known.unwrap_or(least(headers.v6)).min(wire);
        // An MSS is told without options, which take their part of it (RFC 6691).
        Some(size.saturating_sub(length as u16 - 20).max(1))
    }

    /// The stack takes part in a handshake: it begins one, or answers a SYN.
    fn outgoing_syn(&mut self, frame: &[u8], headers: &Headers, flow: Flow) {
        let answers = frame[headers.transport + 13] & ACK != 0;
        let offer = if answers { self.offers.pop(&(flow, acknowledged(frame, headers))) } else { None };
        let said = self.handshakes.get_or_insert_mut((flow, number(frame, headers)), || None);
        if answers && said.is_none() {
            // Where the offer was pushed out, the connection goes on with segments that everybody takes.
            *said = Some(offer.unwrap_or(least(headers.v6)));
        }
    }
}

/// Where a packet's bytes begin among those of its sender.
pub(crate) fn number(frame: &[u8], headers: &Headers) -> u32 {
    u32::from_be_bytes(*frame[headers.transport + 4..].first_chunk().expect("a whole TCP header"))
}

/// The number of the last byte that a packet's sender has got from the other end.
pub(crate) fn acknowledged(frame: &[u8], headers: &Headers) -> u32 {
    let next = u32::from_be_bytes(*frame[headers.transport + 8..].first_chunk().expect("a whole TCP header"));
    next.wrapping_sub(1)
}

/// The MSS that a wire of this MTU takes.
fn wire(v6: bool, mtu: u16) -> u16 {
    mtu.saturating_sub(if v6 { 60 } else { 40 }).max(1)
}

/// What each host takes where nothing was said (RFC 9293, 3.7.1).
fn least(v6: bool) -> u16 {
    if v6 { 1220 } else { 536 }
}

/// The connection of a TCP packet, which the stack gets or sends.
pub(crate) fn flow(frame: &[u8], headers: &Headers, incoming: bool) -> Flow {
    let mut flow = [0; 36];
    // Of the sender, then of the receiver.
    let (first, second) = if incoming { (0, 16) } else { (16, 0) };
    let addresses = headers.addresses(frame);
    if headers.v6 {
        flow[first..first + 16].copy_from_slice(&addresses[..16]);
        flow[second..second + 16].copy_from_slice(&addresses[16..32]);
    } else {
        flow[first..first + 4].copy_from_slice(&addresses[..4]);
        flow[second..second + 4].copy_from_slice(&addresses[4..8]);
    }
    let ports = &frame[headers.transport..headers.transport + 4];
    let (first, second) = if incoming { (32, 34) } else { (34, 32) };
    flow[first..first + 2].copy_from_slice(&ports[..2]);
    flow[second..second + 2].copy_from_slice(&ports[2..]);
    flow
}

/// Where the MSS is, in a TCP header of this length.
fn mss_option(frame: &[u8], headers: &Headers, length: usize) -> Option<usize> {
    let end = headers.transport + length;
    let mut at = headers.transport + 20;
    while at < end {
        match frame[at] {
            KIND_END => return None,
            KIND_NOTHING => at += 1,
            kind => {
                let option = usize::from(*frame[..end].get(at + 1)?);
                if kind == KIND_MSS && option == 4 && at + 4 <= end {
                    return Some(at + 2);
                }
                at += option.max(2);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use etherparse::{PacketBuilder, TcpOptionElement};
    use proptest::prelude::*;

    /// A segment between the stack's port 80 and port `far` of the other end.
    struct Segment {
        outgoing: bool,
        far: u16,
        flags: u8,
        number: u32,
        next: u32,
    }

    fn tcp(segment: Segment, options: &[TcpOptionElement]) -> Vec<u8> {
        let Segment { outgoing, far, flags, number, next } = segment;
        let (source, destination, ports) = match outgoing {
            true => ([1; 4], [2; 4], (80, far)),
            false => ([2; 4], [1; 4], (far, 80)),
        };
        let mut builder =
            PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(source, destination, 64).tcp(ports.0, ports.1, number, 4);
        builder = if flags & SYN != 0 { builder.syn() } else { builder };
        builder = if flags & RST != 0 { builder.rst() } else { builder };
        builder = if flags & ACK != 0 { builder.ack(next) } else { builder };
        let mut frame = Vec::new();
        builder.options(options).unwrap().write(&mut frame, &[]).unwrap();
        frame
    }

    fn option(frame: &[u8]) -> Option<u16> {
        let headers = Headers::parse(frame).unwrap();
        let at = mss_option(frame, &headers, headers.tcp_header(frame).unwrap())?;
        Some(u16::from_be_bytes([frame[at], frame[at + 1]]))
    }

    impl Flows {
        /// A segment from the far end's port; the MSS that the stack sees.
        fn comes(&mut self, far: u16, flags: u8, numbers: (u32, u32), options: &[TcpOptionElement]) -> Option<u16> {
            let (number, next) = numbers;
            let mut frame = tcp(Segment { outgoing: false, far, flags, number, next }, options);
            let headers = Headers::parse(&frame).unwrap();
            self.incoming(&mut frame, &headers, 1500);
            option(&frame)
        }

        /// A segment of the stack's; how large the backend may make its segments, and the MSS that the far end sees.
        fn goes(
            &mut self,
            far: u16,
            flags: u8,
            numbers: (u32, u32),
            options: &[TcpOptionElement],
        ) -> (u16, Option<u16>) {
            let (number, next) = numbers;
            let mut frame = tcp(Segment { outgoing: true, far, flags, number, next }, options);
            let headers = Headers::parse(&frame).unwrap();
            let size = self.outgoing(&mut frame, &headers, 1500).unwrap();
            (size, option(&frame))
        }

        /// The size of segments to the far end's port.
        fn size(&mut self, far: u16) -> u16 {
            self.goes(far, ACK, (9, 9), &[]).0
        }

        /// The far end connects to the stack.
        fn is_called(&mut self, far: u16, mss: u16, theirs: u32, ours: u32) {
            self.comes(far, SYN, (theirs, 0), &[MaximumSegmentSize(mss)]);
            self.goes(far, SYN | ACK, (ours, theirs.wrapping_add(1)), &[]);
            self.comes(far, ACK, (theirs.wrapping_add(1), ours.wrapping_add(1)), &[]);
        }

        fn len(&self) -> [usize; 3] {
            [self.established.len(), self.handshakes.len(), self.offers.len()]
        }
    }

    use TcpOptionElement::{MaximumSegmentSize, Noop, Timestamp, WindowScale};

    #[test]
    fn each_end_sees_what_suits_it() {
        let mut flows = Flows::default();
        let offered = [Noop, WindowScale(7), MaximumSegmentSize(1400)];
        assert_eq!(flows.comes(5000, SYN, (7, 0), &offered), Some(1400));
        let jumbo = [MaximumSegmentSize(8960)];
        assert_eq!(flows.comes(5009, SYN, (7, 0), &jumbo), Some(1460), "no more than the wire takes");
        assert_eq!(flows.goes(5000, SYN | ACK, (70, 8), &[MaximumSegmentSize(65495)]).1, Some(1460));
        flows.comes(5000, ACK, (8, 71), &[]);
        assert_eq!(flows.goes(5000, ACK, (71, 8), &[Noop, Noop, Timestamp(1, 2)]).0, 1388);
        let mut data = tcp(Segment { outgoing: true, far: 5000, flags: ACK, number: 71, next: 8 }, &[]);
        let headers = Headers::parse(&data).unwrap();
        assert_eq!(flows.outgoing(&mut data, &headers, 600), Some(560), "never more than the wire takes");
        assert_eq!(Flows::default().size(5000), 536, "nothing is known");
        assert_eq!(flows.size(5001), 536, "of another connection");
        // A peer that says nothing, or nonsense.
        flows.comes(5002, SYN, (7, 0), &[]);
        flows.goes(5002, SYN | ACK, (70, 8), &[]);
        flows.comes(5002, ACK, (8, 71), &[]);
        assert_eq!(flows.size(5002), 536);
        flows.is_called(5003, 1, 7, 70);
        assert_eq!(flows.size(5003), MIN_MSS);
        for bytes in [[2, 4, 0xff], [2, 0, 0], [9, 255, 0], [2, 5, 0]] {
            let syn = Segment { outgoing: false, far: 5000, flags: SYN, number: 3, next: 0 };
            let mut odd = tcp(syn, &[Noop, Noop, Noop, Noop]);
            odd[14 + 40..14 + 43].copy_from_slice(&bytes);
            let headers = Headers::parse(&odd).unwrap();
            flows.incoming(&mut odd, &headers, 1500);
        }
    }

    #[test]
    fn whoever_begins() {
        let mut flows = Flows::default();
        // The stack does.
        assert_eq!(flows.goes(1, SYN, (70, 0), &[MaximumSegmentSize(65495)]).1, Some(1460));
        flows.goes(1, SYN, (70, 0), &[]);
        assert_eq!(flows.comes(1, SYN | ACK, (7, 71), &[MaximumSegmentSize(1400)]), Some(1400));
        assert_eq!(flows.size(1), 1400);
        // Both do.
        flows.goes(2, SYN, (70, 0), &[]);
        assert_eq!(flows.comes(2, SYN, (7, 0), &[MaximumSegmentSize(1300)]), Some(1300));
        flows.goes(2, SYN | ACK, (70, 8), &[]);
        flows.comes(2, SYN | ACK, (7, 71), &[MaximumSegmentSize(1300)]);
        assert_eq!(flows.size(2), 1300);
        // The far end does, and both say everything twice.
        for _ in 0..2 {
            flows.comes(3, SYN, (7, 0), &[MaximumSegmentSize(1200)]);
        }
        for _ in 0..2 {
            flows.goes(3, SYN | ACK, (70, 8), &[]);
        }
        for _ in 0..2 {
            flows.comes(3, ACK, (8, 71), &[]);
        }
        assert_eq!(flows.size(3), 1200);
        assert_eq!(flows.len(), [3, 0, 0]);
    }

    /// Thousands of SYNs in the name of the far end and of others, each of which the stack may answer.
    fn forge(flows: &mut Flows, far: u16, answered: bool) {
        for index in 0..5000_u32 {
            let theirs = 1_000_000 + index * 977;
            let ours = 3_000_000_000 + index * 991;
            let from = if index % 2 == 0 { far } else { far.wrapping_add(index as u16) };
            flows.comes(from, SYN, (theirs, 0), &[MaximumSegmentSize(88)]);
            if answered {
                flows.goes(from, SYN | ACK, (ours, theirs + 1), &[]);
            }
            // What he may guess of the stack's number, and what he may say in its place.
            flows.comes(from, ACK, (theirs + 1, index), &[]);
            flows.comes(from, SYN | ACK, (theirs, index), &[MaximumSegmentSize(88)]);
        }
    }

    #[test]
    fn forged_syns_change_no_connection_and_push_none_out() {
        for answered in [false, true] {
            let mut flows = Flows::default();
            let far = 5000;
            forge(&mut flows, far, answered);
            flows.comes(far, SYN, (7, 0), &[MaximumSegmentSize(1400)]);
            // As many as fit into a ring come before the stack answers.
            for index in 0..256 {
                flows.comes(far, SYN, (9000 + index, 0), &[MaximumSegmentSize(88)]);
            }
            flows.goes(far, SYN | ACK, (70, 8), &[]);
            // And any number before the far end does, but the stack has not so many sockets that it could answer all.
            forge(&mut flows, far, false);
            flows.comes(far, ACK, (8, 71), &[]);
            assert_eq!(flows.size(far), 1400);
            forge(&mut flows, far, answered);
            assert_eq!(flows.size(far), 1400);
            // Nor does one that has been silent all the time.
            forge(&mut flows, 100, answered);
            assert_eq!(flows.size(far), 1400);
            // The same for a connection that the stack begins.
            flows.goes(6000, SYN, (80, 0), &[]);
            forge(&mut flows, 6000, false);
            flows.comes(6000, SYN | ACK, (17, 81), &[MaximumSegmentSize(1300)]);
            forge(&mut flows, 6000, answered);
            assert_eq!((flows.size(6000), flows.size(far)), (1300, 1400));
            let [established, handshakes, offers] = flows.len();
            assert!(established == 2 && handshakes <= 512 && offers <= 512, "{:?}", flows.len());
        }
    }

    #[test]
    fn a_new_connection_from_the_same_port_counts() {
        let mut flows = Flows::default();
        flows.is_called(5000, 1400, 7, 70);
        assert_eq!(flows.size(5000), 1400);
        flows.is_called(5000, 700, 1007, 1070);
        assert_eq!(flows.size(5000), 700);
        // Also where nobody knows any more what its SYN has said.
        flows.comes(5000, SYN, (2007, 0), &[MaximumSegmentSize(600)]);
        forge(&mut flows, 5000, false);
        flows.goes(5000, SYN | ACK, (2070, 2008), &[]);
        flows.comes(5000, ACK, (2008, 2071), &[]);
        assert_eq!(flows.size(5000), 536);
    }

    #[test]
    fn connections_are_forgotten_in_their_order() {
        let mut flows = Flows::default();
        for far in 0..2000 {
            flows.is_called(far, 1400, 7, 70);
            // In use.
            assert_eq!(flows.size(0), 1400, "after {far}");
        }
        assert_eq!(flows.len(), [1024, 0, 0]);
        assert_eq!((flows.size(500), flows.size(1999)), (536, 1400));
    }

    proptest! {
        /// Whatever a stranger sends who does not know the stack's numbers.
        #[test]
        fn any_segments_of_a_stranger(
            segments in prop::collection::vec((0..4_u16, any::<u8>(), 0..1000_u32, 0..1000_u32, any::<u16>()), 0..200),
        ) {
            let mut flows = Flows::default();
            flows.is_called(0, 1400, 7, 70_000);
            flows.goes(1, SYN, (80_000, 0), &[]);
            flows.comes(2, SYN, (7, 0), &[MaximumSegmentSize(1200)]);
            flows.goes(2, SYN | ACK, (90_000, 8), &[]);
            for (far, flags, number, next, mss) in segments {
                flows.comes(far, flags, (number, next), &[MaximumSegmentSize(mss)]);
            }
            flows.comes(1, SYN | ACK, (7, 80_001), &[MaximumSegmentSize(1300)]);
            flows.comes(2, ACK, (8, 90_001), &[]);
            prop_assert_eq!([0, 1, 2, 3].map(|far| flows.size(far)), [1400, 1300, 1200, 536]);
        }
    }
}

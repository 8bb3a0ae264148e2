//! The MTU of the path to a connection's far end, where a router says that it is less than that of this wire (RFC 1191,
//! RFC 8201).
//!
//! The stack does not know of it: what it sends again is cut to the size by the backend or here, as its large segments
//! are.
//!
//! Anybody can send such a message in a router's name. It counts for one connection, of which it has to quote a packet
//! that is on its way: the sequence number is what a stranger does not know (RFC 5927). And it makes segments no smaller
//! than Linux would make them.

use alloc::boxed::Box;
use core::cell::RefCell;
use core::fmt;
use core::num::NonZeroUsize;
use core::time::Duration;

use etherparse::icmpv4::DestUnreachableHeader;
use etherparse::{Icmpv4Slice, Icmpv4Type, Icmpv6Slice, Icmpv6Type, IpNumber, Ipv4HeaderSlice, Ipv6HeaderSlice};
use lru::LruCache;

use crate::checksum;
use crate::headers::{Headers, ICMP, ICMPV6, TCP};
use crate::mss::{Flow, flow, number};

/// Connections that have sent large packets, and whose paths are remembered.
const MAX_FLOWS: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");
/// After which time a path may have become better (RFC 1191, 6.3).
const FORGET_AFTER: Duration = Duration::from_secs(600);
/// The least that is believed of IPv4: no honest path has less (Linux: `min_pmtu`).
const MIN_V4: u16 = 552;
/// What every path of IPv6 takes (RFC 8200). A message that says less is to be ignored.
const MIN_V6: u16 = 1280;
/// What there is, for routers that do not say what they take (RFC 1191, 7.1).
const PLATEAUS: [u16; 8] = [32000, 17914, 8166, 4352, 2002, 1492, 1006, MIN_V4];

const SYN: u8 = 2;
const ACK: u8 = 16;

/// The paths of an interface's connections.
pub(crate) struct PathMtus {
    paths: RefCell<Paths>,
    now: Box<dyn Fn() -> Duration>,
}

impl PathMtus {
    pub(crate) fn new(now: impl Fn() -> Duration + 'static) -> PathMtus {
        PathMtus { paths: RefCell::default(), now: Box::new(now) }
    }

    /// Looks at a packet for the stack whose checksum is right, as far as it is one of TCP or UDP.
    pub(crate) fn incoming(&self, frame: &[u8], headers: &Headers) {
        match headers.protocol {
            TCP => self.paths.borrow_mut().acknowledged(frame, headers),
            ICMP | ICMPV6 => drop(self.paths.borrow_mut().told(frame, headers, (self.now)())),
            _ => {}
        }
    }

    /// Looks at a TCP packet of the stack's. Returns the most payload that its segments may have, where that is known.
    pub(crate) fn outgoing(&self, frame: &[u8], headers: &Headers) -> Option<u16> {
        self.paths.borrow_mut().outgoing(frame, headers, &*self.now)
    }
}

impl fmt::Debug for PathMtus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.paths.borrow().fmt(f)
    }
}

/// The paths themselves.
#[derive(Debug)]
pub struct Paths(LruCache<Flow, Path>);

#[derive(Debug)]
struct Path {
    /// What is on its way: from the first number that is not acknowledged up to the next that will be sent.
    first: u32,
    next: u32,
    limit: Option<Limit>,
}

#[derive(Clone, Copy, Debug)]
struct Limit {
    mtu: u16,
    until: Duration,
}

impl Default for Paths {
    fn default() -> Paths {
        Paths(LruCache::sparse(MAX_FLOWS))
    }
}

impl Paths {
    /// Looks at a TCP packet for the stack: what it acknowledges is on its way no more.
    pub fn acknowledged(&mut self, frame: &[u8], headers: &Headers) {
        if self.0.is_empty() || headers.tcp_header(frame).is_none() || frame[headers.transport + 13] & ACK == 0 {
            return;
        }
        if let Some(path) = self.0.peek_mut(&flow(frame, headers, true)) {
            let next = crate::mss::acknowledged(frame, headers).wrapping_add(1);
            if next.wrapping_sub(path.first) <= path.next.wrapping_sub(path.first) {
                path.first = next;
            }
        }
    }

    /// Looks at a TCP packet of the stack's, at the time `now`. Returns the most payload that its segments may have, where
    /// a router has said so.
    pub fn outgoing(&mut self, frame: &[u8], headers: &Headers, now: &dyn Fn() -> Duration) -> Option<u16> {
        let length = headers.tcp_header(frame)?;
        if frame[headers.transport + 13] & SYN != 0 {
            // A connection of its own, though another had its ports.
            if !self.0.is_empty() {
                self.0.pop(&flow(frame, headers, false));
            }
            return None;
        }
        // What takes every path needs no entry.
        if headers.end - headers.ip <= usize::from(if headers.v6 { MIN_V6 } else { MIN_V4 }) {
            return None;
        }
        let start = number(frame, headers);
        let end = start.wrapping_add((headers.end - headers.transport - length) as u32);
        let path =
            self.0.get_or_insert_mut(flow(frame, headers, false), || Path { first: start, next: start, limit: None });
        if is_before(start, path.first) {
            path.first = start;
        }
        if is_before(path.next, end) {
            path.next = end;
        }
        let Limit { mtu, until } = path.limit?;
        if now() >= until {
            path.limit = None;
            return None;
        }
        Some(mtu.saturating_sub((headers.transport - headers.ip + length) as u16).max(1))
    }

    /// Looks at a message of ICMP. Whether it says that a connection's path takes less than was known.
    pub fn told(&mut self, frame: &[u8], headers: &Headers, now: Duration) -> bool {
        if self.0.is_empty() || headers.fragment || !checksum::is_valid_icmp(frame, headers) {
            return false;
        }
        let message = &frame[headers.transport..headers.end];
        let found = if headers.v6 { quoted_v6(message) } else { quoted_v4(message) };
        // Whoever has sent the packet is told.
        let receiver = if headers.v6 { 16 } else { 4 };
        let Some(Quoted { flow, number, mtu }) =
            found.filter(|quoted| headers.addresses(frame)[receiver..] == quoted.flow[16..16 + receiver])
        else {
            return false;
        };
        let Some(path) = self.0.peek_mut(&flow) else { return false };
        if number.wrapping_sub(path.first) >= path.next.wrapping_sub(path.first) {
            return false;
        }
        if path.limit.is_some_and(|limit| limit.mtu <= mtu && now < limit.until) {
            return false;
        }
        path.limit = Some(Limit { mtu, until: now.saturating_add(FORGET_AFTER) });
        true
    }
}

/// Whether one sequence number is before another.
fn is_before(one: u32, other: u32) -> bool {
    (one.wrapping_sub(other) as i32) < 0
}

/// What a router says of a packet that it has not let through.
struct Quoted {
    flow: Flow,
    number: u32,
    mtu: u16,
}

/// What is quoted of a TCP packet from `source` to `destination`: at least eight bytes of its header (RFC 792).
fn quoted(source: &[u8], destination: &[u8], tcp: &[u8], mtu: u16) -> Option<Quoted> {
    let [a, b, c, d, number @ ..] = *tcp.first_chunk::<8>()?;
    let mut flow = [0; 36];
    flow[..destination.len()].copy_from_slice(destination);
    flow[16..16 + source.len()].copy_from_slice(source);
    flow[32..].copy_from_slice(&[c, d, a, b]);
    Some(Quoted { flow, number: u32::from_be_bytes(number), mtu })
}

fn quoted_v4(message: &[u8]) -> Option<Quoted> {
    let message = Icmpv4Slice::from_slice(message).ok()?;
    let Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::FragmentationNeeded { next_hop_mtu }) =
        message.icmp_type()
    else {
        return None;
    };
    let header = Ipv4HeaderSlice::from_slice(message.payload()).ok()?;
    if header.protocol() != IpNumber::TCP || header.fragments_offset().value() != 0 {
        return None;
    }
    let len = header.total_len();
    let mtu = match next_hop_mtu {
        0 => PLATEAUS.into_iter().find(|plateau| *plateau < len)?,
        mtu => mtu,
    };
    // What fits is no reason to complain.
    if mtu >= len {
        return None;
    }
    let tcp = &message.payload()[header.slice().len()..];
    quoted(&header.source(), &header.destination(), tcp, mtu.max(MIN_V4))
}

fn quoted_v6(message: &[u8]) -> Option<Quoted> {
    let message = Icmpv6Slice::from_slice(message).ok()?;
    let Icmpv6Type::PacketTooBig { mtu } = message.icmp_type() else { return None };
    let header = Ipv6HeaderSlice::from_slice(message.payload()).ok()?;
    let len = u32::from(header.payload_length()) + 40;
    if header.next_header() != IpNumber::TCP || mtu >= len || mtu < MIN_V6.into() {
        return None;
    }
    let tcp = &message.payload()[header.slice().len()..];
    quoted(&header.source(), &header.destination(), tcp, u16::try_from(mtu).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;
    use etherparse::{IcmpEchoHeader, PacketBuilder};
    use proptest::prelude::*;

    const PORT: u16 = 5000;
    const NUMBER: u32 = 0xffff_fe00;

    /// A segment from the stack's port 80 to the other end, or an acknowledgement from there.
    fn segment(v6: bool, outgoing: bool, far: u16, numbers: (u32, u32), payload: usize, syn: bool) -> Vec<u8> {
        let ends = if outgoing { [1, 2] } else { [2, 1] };
        let ports = if outgoing { [80, far] } else { [far, 80] };
        let ethernet = PacketBuilder::ethernet2([2; 6], [4; 6]);
        let mut builder = match v6 {
            true => ethernet.ipv6([ends[0]; 16], [ends[1]; 16], 64).tcp(ports[0], ports[1], numbers.0, 4),
            false => ethernet.ipv4([ends[0]; 4], [ends[1]; 4], 64).tcp(ports[0], ports[1], numbers.0, 4),
        }
        .ack(numbers.1);
        builder = if syn { builder.syn() } else { builder };
        let mut frame = Vec::new();
        builder.write(&mut frame, &vec![7; payload]).unwrap();
        frame
    }

    /// What a router answers to a packet.
    fn too_large(packet: &[u8], mtu: u16) -> Vec<u8> {
        let headers = Headers::parse(packet).unwrap();
        let quoted = &packet[headers.ip..(headers.transport + 8).max(headers.ip + 28)];
        let ethernet = PacketBuilder::ethernet2([2; 6], [4; 6]);
        let mut frame = Vec::new();
        match headers.v6 {
            true => ethernet
                .ipv6([9; 16], packet[headers.ip + 8..headers.ip + 24].try_into().unwrap(), 64)
                .icmpv6(Icmpv6Type::PacketTooBig { mtu: mtu.into() })
                .write(&mut frame, quoted),
            false => {
                let needed = DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: mtu };
                ethernet
                    .ipv4([9; 4], packet[headers.ip + 12..headers.ip + 16].try_into().unwrap(), 64)
                    .icmpv4(Icmpv4Type::DestinationUnreachable(needed))
                    .write(&mut frame, quoted)
            }
        }
        .unwrap();
        frame
    }

    impl Paths {
        fn sends(&mut self, frame: &[u8], second: u64) -> Option<u16> {
            self.outgoing(frame, &Headers::parse(frame).unwrap(), &|| Duration::from_secs(second))
        }

        fn hears(&mut self, frame: &[u8], second: u64) -> bool {
            let headers = Headers::parse(frame).unwrap();
            if headers.protocol == TCP {
                self.acknowledged(frame, &headers);
                return false;
            }
            self.told(frame, &headers, Duration::from_secs(second))
        }
    }

    #[test]
    fn a_router_lowers_one_connections_segments_for_ten_minutes() {
        for v6 in [false, true] {
            let mut paths = Paths::default();
            let header = if v6 { 60 } else { 40 };
            let packet = segment(v6, true, PORT, (NUMBER, 1), 1440, false);
            assert_eq!(paths.sends(&packet, 0), None);
            assert_eq!(paths.sends(&segment(v6, true, PORT + 1, (NUMBER, 1), 1440, false), 0), None);
            assert!(paths.hears(&too_large(&packet, 1400), 1));
            assert_eq!(paths.sends(&packet, 2), Some(1400 - header));
            assert_eq!(paths.sends(&segment(v6, true, PORT + 1, (NUMBER, 1), 1440, false), 2), None, "another one");
            assert!(!paths.hears(&too_large(&packet, 1450), 3), "not raised");
            assert!(!paths.hears(&too_large(&packet, 1400), 3), "known");
            assert!(paths.hears(&too_large(&packet, 1300), 10));
            assert_eq!(paths.sends(&packet, 609), Some(1300 - header));
            assert_eq!(paths.sends(&packet, 610), None);
            // Another connection of the same ports begins anew.
            assert!(paths.hears(&too_large(&packet, 1400), 700));
            paths.sends(&segment(v6, true, PORT, (9, 0), 0, true), 701);
            assert_eq!(paths.sends(&packet, 702), None);
        }
    }

    #[test]
    fn no_router_lowers_it_below_what_every_path_takes() {
        let mut paths = Paths::default();
        let packet = segment(false, true, PORT, (NUMBER, 1), 1440, false);
        paths.sends(&packet, 0);
        for mtu in [1, 68, 551] {
            paths.hears(&too_large(&packet, mtu), 1);
            assert_eq!(paths.sends(&packet, 2), Some(552 - 40));
        }
        let packet = segment(true, true, PORT, (NUMBER, 1), 1440, false);
        paths.sends(&packet, 0);
        for mtu in [0, 68, 1279] {
            assert!(!paths.hears(&too_large(&packet, mtu), 1), "RFC 8201");
        }
        assert!(paths.hears(&too_large(&packet, 1280), 1));
        assert_eq!(paths.sends(&packet, 2), Some(1280 - 60));
    }

    #[test]
    fn an_old_router_that_names_no_mtu_is_guessed_at() {
        for (payload, sizes) in [(1460, &[1492, 1006, 552][..]), (8960, &[8166, 4352, 2002, 1492, 1006, 552])] {
            let mut paths = Paths::default();
            let mut payload = payload;
            for size in sizes {
                let packet = segment(false, true, PORT, (NUMBER, 1), payload, false);
                paths.sends(&packet, 0);
                assert!(paths.hears(&too_large(&packet, 0), 1));
                assert_eq!(paths.sends(&packet, 1), Some(size - 40));
                payload = usize::from(size - 40);
            }
        }
    }

    #[test]
    fn what_a_stranger_says_is_ignored() {
        for v6 in [false, true] {
            let mut paths = Paths::default();
            let packet = |number, far| segment(v6, true, far, (number, 1), 1440, false);
            let sent = packet(NUMBER, PORT);
            paths.sends(&sent, 0);
            paths.sends(&packet(NUMBER.wrapping_add(1440), PORT), 0);
            // Numbers that are not on their way, ports and addresses of no connection.
            for number in [NUMBER.wrapping_sub(1), NUMBER.wrapping_add(2880), 0x7fff_ffff] {
                assert!(!paths.hears(&too_large(&packet(number, PORT), 1300), 1), "{number:x}");
            }
            assert!(!paths.hears(&too_large(&packet(NUMBER, PORT + 1), 1300), 1));
            let mut other = sent.clone();
            other[if v6 { 14 + 8 } else { 14 + 12 }] ^= 1;
            assert!(!paths.hears(&too_large(&other, 1300), 1), "of another host");
            // To another host.
            let mut astray = too_large(&sent, 1300);
            astray[if v6 { 14 + 39 } else { 14 + 19 }] ^= 1;
            assert!(!paths.hears(&astray, 1));
            // A wrong checksum, a message that is cut off, one that complains of what fits.
            let mut damaged = too_large(&sent, 1300);
            *damaged.last_mut().unwrap() ^= 1;
            assert!(!paths.hears(&damaged, 1));
            assert!(!paths.hears(&too_large(&sent, 1500), 1));
            assert!(!paths.hears(&too_large(&sent, 9000), 1));
            // What was acknowledged is not on its way.
            paths.hears(&segment(v6, false, PORT, (1, NUMBER.wrapping_add(1440)), 0, false), 1);
            assert!(!paths.hears(&too_large(&sent, 1300), 2));
            assert!(paths.hears(&too_large(&packet(NUMBER.wrapping_add(1440), PORT), 1300), 2));
            paths.hears(&segment(v6, false, PORT, (1, NUMBER.wrapping_add(2880)), 0, false), 3);
            assert!(!paths.hears(&too_large(&packet(NUMBER.wrapping_add(1440), PORT), 1290), 3));
        }
        let mut paths = Paths::default();
        paths.sends(&segment(false, true, PORT, (NUMBER, 1), 1440, false), 0);
        let mut echo = Vec::new();
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([9; 4], [1; 4], 64);
        builder.icmpv4(Icmpv4Type::EchoRequest(IcmpEchoHeader { id: 1, seq: 2 })).write(&mut echo, &[0; 100]).unwrap();
        assert!(!paths.hears(&echo, 1));
    }

    #[test]
    fn small_packets_and_many_connections_take_bounded_memory() {
        let mut paths = Paths::default();
        for far in 0..5000 {
            paths.sends(&segment(false, true, far, (NUMBER, 1), 500, false), 0);
            paths.sends(&segment(true, true, far, (NUMBER, 1), 1220, false), 0);
        }
        assert_eq!(paths.0.len(), 0);
        for far in 0..5000 {
            paths.sends(&segment(false, true, far, (NUMBER, 1), 600, false), 0);
        }
        assert_eq!(paths.0.len(), MAX_FLOWS.get());
    }

    proptest! {
        /// Any message is taken, and no size is too small.
        #[test]
        fn any_messages(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            mtu in any::<u16>(), v6 in any::<bool>(), valid in any::<bool>(), len in 0..60_usize,
        ) {
            let mut paths = Paths::default();
            let packet = segment(v6, true, PORT, (NUMBER, 1), 1440, false);
            paths.sends(&packet, 0);
            let mut message = too_large(&packet, mtu);
            for (index, value) in changes {
                let at = 14 + index.index(message.len() - 14);
                message[at] = value;
            }
            message.truncate(message.len() - len.min(message.len()));
            if let Some(headers) = Headers::parse(&message).filter(|headers| matches!(headers.protocol, ICMP | ICMPV6)) {
                if valid && headers.end >= headers.transport + 4 {
                    message[headers.transport + 2..headers.transport + 4].fill(0);
                    let sum = checksum::icmp(&message, &headers);
                    message[headers.transport + 2..headers.transport + 4].copy_from_slice(&sum);
                }
                paths.told(&message, &headers, Duration::ZERO);
            }
            if let Some(size) = paths.sends(&packet, 1) {
                let least = if v6 { 1280 - 60 } else { 552 - 40 };
                prop_assert!(size >= least, "{} bytes", size);
            }
        }
    }
}

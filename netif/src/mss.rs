//! Large segments for a TCP stack that knows of none.
//!
//! A stack sends segments as large as the peer's maximum segment size (MSS) and its own MTU allow. Here the stack's MTU
//! is large, and the MSS that it sees in a peer's SYN is raised; what the peer has said is remembered, and what the
//! stack sends is cut to that size, by the backend or here. In the SYN that leaves the stack, the MSS is lowered to what
//! the wire takes. So neither the peer nor the stack notices.

use core::num::NonZeroUsize;

use lru::LruCache;

use crate::headers::Headers;

/// Connections whose MSS is remembered; of others every peer takes [`least`].
const MOST_FLOWS: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");
/// What a stack sees as its peers' MSS. A stack acknowledges at the latest what fills two segments, so this is less than
/// what fits into a packet.
const RAISED: u16 = 15 * 4096 - 128;

/// Segments are not made smaller than this, whatever a peer says: each costs all on their way.
const SMALLEST: u16 = 88;

const SYN: u8 = 2;
const KIND_END: u8 = 0;
const KIND_NOTHING: u8 = 1;
const KIND_MSS: u8 = 2;

/// A connection, by the far end's address and both ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Flow {
    address: [u8; 16],
    far: [u8; 2],
    near: [u8; 2],
}

/// What the far ends of connections take.
#[derive(Debug)]
pub struct Flows(LruCache<Flow, u16>);

impl Default for Flows {
    fn default() -> Flows {
        Flows(LruCache::new(MOST_FLOWS))
    }
}

impl Flows {
    /// Looks at a TCP packet for the stack, and raises the MSS in a SYN.
    pub fn incoming(&mut self, frame: &mut [u8], headers: &Headers) {
        let Some(length) = headers.tcp_header(frame) else { return };
        if frame[headers.transport + 13] & SYN == 0 {
            return;
        }
        let flow = flow(frame, headers, true);
        match mss_option(frame, headers, length) {
            Some(at) => {
                let said = u16::from_be_bytes([frame[at], frame[at + 1]]);
                self.0.put(flow, said.max(SMALLEST));
                frame[at..at + 2].copy_from_slice(&RAISED.max(said).to_be_bytes());
            }
            None => {
                self.0.put(flow, least(headers.v6));
            }
        }
    }

    /// Looks at a TCP packet of the stack's, and lowers the MSS in a SYN to what `mtu` allows. Returns the most payload
    /// that its segments may have.
    pub fn outgoing(&mut self, frame: &mut [u8], headers: &Headers, mtu: u16) -> Option<u16> {
        let length = headers.tcp_header(frame)?;
        let wire = mtu.saturating_sub(if headers.v6 { 60 } else { 40 });
        if frame[headers.transport + 13] & SYN != 0
            && let Some(at) = mss_option(frame, headers, length)
        {
            let own = u16::from_be_bytes([frame[at], frame[at + 1]]);
            frame[at..at + 2].copy_from_slice(&own.min(wire).to_be_bytes());
        }
        let known = self.0.get(&flow(frame, headers, false)).copied();
        let size = known.unwrap_or(least(headers.v6)).min(wire);
        // An MSS is told without options, which take their part of it (RFC 6691).
        Some(size.saturating_sub(length as u16 - 20).max(1))
    }
}

/// What each host takes where nothing was said (RFC 9293, 3.7.1).
fn least(v6: bool) -> u16 {
    if v6 { 1220 } else { 536 }
}

fn flow(frame: &[u8], headers: &Headers, incoming: bool) -> Flow {
    let addresses = headers.addresses(frame);
    let (source, destination) = addresses.split_at(addresses.len() / 2);
    let ports = &frame[headers.transport..];
    let (source_port, destination_port) = ([ports[0], ports[1]], [ports[2], ports[3]]);
    let mut address = [0; 16];
    let far = if incoming { source } else { destination };
    address[..far.len()].copy_from_slice(far);
    match incoming {
        true => Flow { address, far: source_port, near: destination_port },
        false => Flow { address, far: destination_port, near: source_port },
    }
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

    fn tcp(near: bool, syn: bool, options: &[TcpOptionElement]) -> Vec<u8> {
        let (source, destination, ports) =
            if near { ([1; 4], [2; 4], (80, 5000)) } else { ([2; 4], [1; 4], (5000, 80)) };
        let mut builder =
            PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(source, destination, 64).tcp(ports.0, ports.1, 3, 4);
        if syn {
            builder = builder.syn();
        }
        let mut frame = Vec::new();
        builder.options(options).unwrap().write(&mut frame, &[]).unwrap();
        frame
    }

    fn option(frame: &[u8]) -> Option<u16> {
        let headers = Headers::parse(frame).unwrap();
        let at = mss_option(frame, &headers, headers.tcp_header(frame).unwrap())?;
        Some(u16::from_be_bytes([frame[at], frame[at + 1]]))
    }

    #[test]
    fn each_end_sees_what_suits_it() {
        use TcpOptionElement::{MaximumSegmentSize, Noop, Timestamp, WindowScale};
        let mut flows = Flows::default();
        let mut syn = tcp(false, true, &[Noop, WindowScale(7), MaximumSegmentSize(1400)]);
        let headers = Headers::parse(&syn).unwrap();
        flows.incoming(&mut syn, &headers);
        assert_eq!(option(&syn), Some(RAISED));
        let mut answer = tcp(true, true, &[MaximumSegmentSize(65495)]);
        let headers = Headers::parse(&answer).unwrap();
        assert_eq!(flows.outgoing(&mut answer, &headers, 1500), Some(1396));
        assert_eq!(option(&answer), Some(1460));
        let mut data = tcp(true, false, &[Noop, Noop, Timestamp(1, 2)]);
        let headers = Headers::parse(&data).unwrap();
        assert_eq!(flows.outgoing(&mut data, &headers, 1500), Some(1388));
        assert_eq!(flows.outgoing(&mut data, &headers, 600), Some(548), "never more than the wire takes");
        assert_eq!(Flows::default().outgoing(&mut data, &headers, 1500), Some(524), "nothing is known");
        // A peer that says nothing, or nonsense.
        let mut silent = tcp(false, true, &[]);
        let headers = Headers::parse(&silent).unwrap();
        flows.incoming(&mut silent, &headers);
        let mut data = tcp(true, false, &[]);
        let headers = Headers::parse(&data).unwrap();
        assert_eq!(flows.outgoing(&mut data, &headers, 1500), Some(536));
        for bytes in [[2, 4, 0xff], [2, 0, 0], [9, 255, 0], [2, 5, 0]] {
            let mut odd = tcp(false, true, &[Noop, Noop, Noop, Noop]);
            odd[14 + 40..14 + 43].copy_from_slice(&bytes);
            let headers = Headers::parse(&odd).unwrap();
            flows.incoming(&mut odd, &headers);
        }
    }
}

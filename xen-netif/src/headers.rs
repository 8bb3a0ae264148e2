//! Where a frame's headers are: as much of them as checksums and segments need.

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPES_VLAN: [u16; 2] = [0x8100, 0x88a8];
/// The number of ICMP over IPv4.
pub(crate) const ICMP: u8 = 1;
/// The number of TCP.
pub const TCP: u8 = 6;
/// The number of UDP.
pub const UDP: u8 = 17;
/// The number of ICMP over IPv6.
pub(crate) const ICMPV6: u8 = 58;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;

/// Bytes of an Ethernet header.
pub const ETHERNET: usize = 14;
/// Most bytes of IP headers, those of extensions included. Linux looks no further either (`MAX_IPV6_HDR_LEN`), and each
/// segment of a packet carries all of them.
const MAX_IP: usize = 256;

/// Whether a frame says that it holds an IP packet; [`Headers::parse`] tells whether it does.
pub fn is_ip(frame: &[u8]) -> bool {
    matches!(ethertype(frame), Some((_, ETHERTYPE_IPV4 | ETHERTYPE_IPV6)))
}

/// Where a frame's payload begins, behind tags of virtual networks, and what it is.
fn ethertype(frame: &[u8]) -> Option<(usize, u16)> {
    let mut start = ETHERNET;
    let mut kind = word(frame, start - 2)?;
    // A tag in a tag.
    for _ in 0..2 {
        if ETHERTYPES_VLAN.contains(&kind) {
            start += 4;
            kind = word(frame, start - 2)?;
        }
    }
    Some((start, kind))
}

/// An IP packet in an Ethernet frame.
///
/// # Examples
///
/// ```
/// use xen_netif::headers::{Headers, TCP};
///
/// # /// An Ethernet frame with a TCP segment of 3,000 bytes.
/// # fn large_segment() -> Vec<u8> {
/// #     let mut frame = vec![0; 14 + 20 + 20 + 3000];
/// #     frame[12..14].copy_from_slice(&[0x08, 0x00]); // IPv4
/// #     frame[14] = 0x45;
/// #     frame[16..18].copy_from_slice(&3040_u16.to_be_bytes());
/// #     frame[22..24].copy_from_slice(&[64, 6]); // TCP
/// #     frame[26..34].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
/// #     frame[46] = 5 << 4;
/// #     frame
/// # }
/// let frame = large_segment();
/// let headers = Headers::parse(&frame).expect("an IP packet");
/// assert_eq!((headers.protocol, headers.ip, headers.transport), (TCP, 14, 34));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers {
    /// Where the IP header begins.
    pub ip: usize,
    /// Whether it is IPv6.
    pub v6: bool,
    /// What comes after the IP headers: [`TCP`], [`UDP`] or another.
    pub protocol: u8,
    /// Where that begins.
    pub transport: usize,
    /// Where the IP packet ends; what follows pads the frame.
    pub end: usize,
    /// Whether it is a part of a packet: its checksum is the whole one's.
    pub fragment: bool,
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

impl Headers {
    /// Finds them; `None` where the frame holds no IP packet, no whole one, or one with more than 256 bytes of headers.
    pub fn parse(frame: &[u8]) -> Option<Headers> {
        match ethertype(frame)? {
            (ip, ETHERTYPE_IPV4) => Headers::parse_v4(frame, ip),
            (ip, ETHERTYPE_IPV6) => Headers::parse_v6(frame, ip),
            _ => None,
        }
    }

    fn parse_v4(frame: &[u8], ip: usize) -> Option<Headers> {
        let first = *frame.get(ip)?;
        let length = usize::from(first & 15) * 4;
        let total = usize::from(word(frame, ip + 2)?);
        let (transport, end) = (ip + length, ip + total);
        if first >> 4 != 4 || length < 20 || total < length || end > frame.len() {
            return None;
        }
        // More fragments, or an offset.
        let fragment = word(frame, ip + 6)? & 0x3fff != 0;
        Some(Headers { ip, v6: false, protocol: frame[ip + 9], transport, end, fragment })
    }

    fn parse_v6(frame: &[u8], ip: usize) -> Option<Headers> {
        let first = *frame.get(ip)?;
        let end = ip + 40 + usize::from(word(frame, ip + 4)?);
        if first >> 4 != 6 || end > frame.len() {
            return None;
        }
        let mut headers = Headers { ip, v6: true, protocol: frame[ip + 6], transport: ip + 40, end, fragment: false };
        while matches!(headers.protocol, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION) {
            let header = frame.get(headers.transport..end)?.first_chunk::<8>()?;
            let length = match headers.protocol {
                FRAGMENT => {
                    headers.fragment |= u16::from_be_bytes([header[2], header[3]]) & 0xfff9 != 0;
                    8
                }
                _ => (usize::from(header[1]) + 1) * 8,
            };
            headers.protocol = header[0];
            headers.transport += length;
            if headers.transport - ip > MAX_IP {
                return None;
            }
        }
        (headers.transport <= end).then_some(headers)
    }

    /// Both addresses, one after the other.
    pub fn addresses<'f>(&self, frame: &'f [u8]) -> &'f [u8] {
        match self.v6 {
            true => &frame[self.ip + 8..self.ip + 40],
            false => &frame[self.ip + 12..self.ip + 20],
        }
    }

    /// The TCP header's length, where it is whole.
    pub fn tcp_header(&self, frame: &[u8]) -> Option<usize> {
        let length = usize::from(*frame.get(self.transport + 12)? >> 4) * 4;
        let whole = self.protocol == TCP && !self.fragment && length >= 20 && self.transport + length <= self.end;
        whole.then_some(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
    use proptest::prelude::*;

    #[test]
    fn finds_what_another_parser_finds() {
        for vlan in [false, true] {
            for v6 in [false, true] {
                for tcp in [false, true] {
                    let ethernet = PacketBuilder::ethernet2([2; 6], [4; 6]);
                    let mut frame = Vec::new();
                    let payload = [7; 100];
                    macro_rules! transport {
                        ($builder:expr) => {
                            match tcp {
                                true => $builder.tcp(1, 2, 3, 4).write(&mut frame, &payload).unwrap(),
                                false => $builder.udp(1, 2).write(&mut frame, &payload).unwrap(),
                            }
                        };
                    }
                    match (vlan, v6) {
                        (false, false) => transport!(ethernet.ipv4([1; 4], [2; 4], 64)),
                        (false, true) => transport!(ethernet.ipv6([1; 16], [2; 16], 64)),
                        (true, false) => {
                            transport!(ethernet.single_vlan(5.try_into().unwrap()).ipv4([1; 4], [2; 4], 64))
                        }
                        (true, true) => {
                            transport!(ethernet.single_vlan(5.try_into().unwrap()).ipv6([1; 16], [2; 16], 64))
                        }
                    }
                    // Padding of a frame belongs to nothing.
                    frame.extend([0; 5]);
                    let found = Headers::parse(&frame).unwrap();
                    assert_eq!((found.v6, found.protocol), (v6, if tcp { TCP } else { UDP }));
                    assert_eq!((found.end, found.fragment), (frame.len() - 5, false));
                    let header = if tcp { 20 } else { 8 };
                    assert_eq!(found.end - found.transport, header + payload.len());
                    assert_eq!(found.tcp_header(&frame), tcp.then_some(20));
                }
            }
        }
    }

    proptest! {
        /// No bytes make it read or promise what is not there; and where etherparse finds TCP or UDP, so does this.
        #[test]
        fn any_bytes(mut frame in prop::collection::vec(any::<u8>(), 0..200), kind in 0..4) {
            if frame.len() > 54 {
                match kind {
                    0 => (frame[12], frame[13], frame[14]) = (8, 0, 0x45),
                    1 => (frame[12], frame[13], frame[14]) = (0x86, 0xdd, 0x60),
                    2 => (frame[12], frame[13], frame[16], frame[17], frame[18]) = (0x81, 0, 8, 0, 0x46),
                    _ => {}
                }
            }
            let found = Headers::parse(&frame);
            if let Some(found) = found {
                prop_assert!(found.ip < found.transport && found.transport <= found.end && found.end <= frame.len());
                let _ = (found.addresses(&frame), found.tcp_header(&frame));
            }
            if let Ok(packet) = SlicedPacket::from_ethernet(&frame)
                && let Some(TransportSlice::Tcp(_) | TransportSlice::Udp(_)) = packet.transport
                && packet.link_exts.len() <= 1
            {
                prop_assert!(found.is_some_and(|found| matches!(found.protocol, TCP | UDP)));
            }
        }
    }
}

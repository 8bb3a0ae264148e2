//! Large packets in small ones: TCP in segments, IPv4 in fragments.

use crate::checksum;
use crate::headers::{Headers, TCP};

const FIN: u8 = 1;
const PSH: u8 = 8;
const CWR: u8 = 0x80;

/// A packet that is cut into several.
///
/// # Examples
///
/// ```
/// use xen_netif::checksum;
/// use xen_netif::headers::Headers;
/// use xen_netif::segment::Segmenter;
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
/// let cut = Segmenter::segments(&frame, &headers, 1460).expect("TCP");
/// assert_eq!(cut.count(), 3);
///
/// let mut piece = vec![0; cut.len(2)];
/// cut.write(&frame, 2, &mut piece);
/// assert_eq!(piece.len(), 54 + 3000 - 2 * 1460);
/// assert!(checksum::is_valid(&piece, &Headers::parse(&piece).unwrap()));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Segmenter {
    headers: Headers,
    /// Bytes before what is cut.
    prefix: usize,
    /// Bytes of each piece but the last.
    piece: usize,
    tcp: bool,
}

impl Segmenter {
    /// TCP in segments of at most `size` bytes of payload. `None` where it is no whole TCP packet.
    pub fn segments(frame: &[u8], headers: &Headers, size: u16) -> Option<Segmenter> {
        let length = headers.tcp_header(frame)?;
        (size > 0).then_some(Segmenter {
            headers: *headers,
            prefix: headers.transport + length,
            piece: size.into(),
            tcp: true,
        })
    }

    /// An IPv4 packet in fragments of at most `mtu` bytes, IP header included. `None` where it must not be cut.
    pub fn fragments(frame: &[u8], headers: &Headers, mtu: u16) -> Option<Segmenter> {
        let room = usize::from(mtu).checked_sub(headers.transport - headers.ip)? & !7;
        let may = !headers.v6 && headers.protocol != TCP && frame[headers.ip + 6] & 0x40 == 0 && room > 0;
        may.then_some(Segmenter { headers: *headers, prefix: headers.transport, piece: room, tcp: false })
    }

    /// How many pieces there are.
    pub fn count(&self) -> usize {
        (self.headers.end - self.prefix).div_ceil(self.piece).max(1)
    }

    /// Bytes of a piece's frame.
    pub fn len(&self, index: usize) -> usize {
        let from = self.prefix + index * self.piece;
        self.prefix + (self.headers.end - from).min(self.piece)
    }

    /// Writes a piece, of [`len`](Segmenter::len) bytes: with all checksums for segments; fragments carry that of the whole.
    pub fn write(&self, frame: &[u8], index: usize, out: &mut [u8]) {
        let Headers { ip, transport, .. } = self.headers;
        let offset = index * self.piece;
        let last = index + 1 == self.count();
        let (prefix, payload) = out.split_at_mut(self.prefix);
        prefix.copy_from_slice(&frame[..self.prefix]);
        payload.copy_from_slice(&frame[self.prefix + offset..][..payload.len()]);
        let total = out.len() - ip;
        if self.headers.v6 {
            out[ip + 4..ip + 6].copy_from_slice(&((total - 40) as u16).to_be_bytes());
        } else {
            out[ip + 2..ip + 4].copy_from_slice(&(total as u16).to_be_bytes());
            if self.tcp {
                let number = u16::from_be_bytes([frame[ip + 4], frame[ip + 5]]).wrapping_add(index as u16);
                out[ip + 4..ip + 6].copy_from_slice(&number.to_be_bytes());
            } else {
                // In units of 8 bytes, on top of the packet's own where it is a fragment itself.
                let own = u16::from_be_bytes([frame[ip + 6], frame[ip + 7]]);
                let more = if last { own & 0x2000 } else { 0x2000 };
                let place = (own & 0x1fff).wrapping_add((offset / 8) as u16) & 0x1fff;
                out[ip + 6..ip + 8].copy_from_slice(&(more | place).to_be_bytes());
            }
        }
        let headers = Headers { end: out.len(), ..self.headers };
        if !headers.v6 {
            checksum::complete_ipv4(out, &headers);
        }
        if self.tcp {
            let sequence = u32::from_be_bytes(*frame[transport + 4..].first_chunk().expect("a whole TCP header"));
            out[transport + 4..transport + 8].copy_from_slice(&sequence.wrapping_add(offset as u32).to_be_bytes());
            let flags = &mut out[transport + 13];
            if !last {
                *flags &= !(FIN | PSH);
            }
            if index > 0 {
                *flags &= !CWR;
            }
            checksum::complete(out, &headers);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;
    use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn segments_are_the_whole_in_order(len in 0..20_000_usize, size in 1..9000_u16, v6 in any::<bool>()) {
            let payload: Vec<u8> = (0..len).map(|at| (at * 7 + at / 256) as u8).collect();
            let ethernet = PacketBuilder::ethernet2([2; 6], [4; 6]);
            let mut frame = Vec::new();
            match v6 {
                true => ethernet.ipv6([1; 16], [2; 16], 64).tcp(1, 2, 0xffff_f000, 4).psh().fin().write(&mut frame, &payload),
                false => ethernet.ipv4([1; 4], [2; 4], 64).tcp(1, 2, 0xffff_f000, 4).psh().fin().write(&mut frame, &payload),
            }
            .unwrap();
            let headers = Headers::parse(&frame).unwrap();
            let cut = Segmenter::segments(&frame, &headers, size).unwrap();
            let mut found = Vec::<u8>::new();
            for index in 0..cut.count() {
                let mut out = vec![0; cut.len(index)];
                cut.write(&frame, index, &mut out);
                let own = Headers::parse(&out).unwrap();
                prop_assert_eq!(own.end, out.len());
                prop_assert!(checksum::is_valid(&out, &own));
                let packet = SlicedPacket::from_ethernet(&out).unwrap();
                if let Some(NetSlice::Ipv4(ip)) = &packet.net {
                    prop_assert_eq!(ip.header().header_checksum(), ip.header().to_header().calc_header_checksum());
                }
                let Some(TransportSlice::Tcp(tcp)) = packet.transport else { panic!("no TCP") };
                prop_assert_eq!(tcp.sequence_number(), 0xffff_f000_u32.wrapping_add(found.len() as u32));
                let last = index + 1 == cut.count();
                prop_assert_eq!((tcp.fin(), tcp.psh()), (last, last));
                prop_assert!(tcp.payload().len() <= size.into());
                found.extend(tcp.payload());
            }
            prop_assert_eq!(found, payload);
        }

        #[test]
        fn fragments_are_the_whole_in_order(len in 0..20_000_usize, mtu in 68..9000_u16) {
            let payload: Vec<u8> = (0..len).map(|at| (at * 7 + at / 256) as u8).collect();
            let mut frame = Vec::new();
            PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([1; 4], [2; 4], 64).udp(1, 2).write(&mut frame, &payload).unwrap();
            // etherparse forbids that it is cut.
            frame[20] = 0;
            let headers = Headers::parse(&frame).unwrap();
            let cut = Segmenter::fragments(&frame, &headers, mtu).unwrap();
            let mut found = Vec::<u8>::new();
            for index in 0..cut.count() {
                let mut out = vec![0; cut.len(index)];
                cut.write(&frame, index, &mut out);
                prop_assert!(out.len() <= 14 + usize::from(mtu));
                let packet = SlicedPacket::from_ethernet(&out).unwrap();
                let Some(NetSlice::Ipv4(ip)) = &packet.net else { panic!("no IPv4") };
                prop_assert_eq!(ip.header().header_checksum(), ip.header().to_header().calc_header_checksum());
                prop_assert_eq!(usize::from(ip.header().fragments_offset().value()) * 8, found.len());
                prop_assert_eq!(ip.header().more_fragments(), index + 1 < cut.count());
                found.extend(&out[34..]);
            }
            prop_assert_eq!(&found, &frame[34..]);
        }
    }
}

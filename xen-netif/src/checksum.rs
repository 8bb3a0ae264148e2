//! Checksums of TCP and UDP: left for the other end to complete, completed, or checked.

use etherparse::checksum::Sum16BitWords;

use crate::headers::{Headers, TCP, UDP};

/// Where the checksum of TCP or UDP is; `None` where the packet has none of its own, or not all of the header.
fn field(frame: &[u8], headers: &Headers) -> Option<usize> {
    if headers.fragment {
        return None;
    }
    let (header, field) = match headers.protocol {
        TCP => (headers.tcp_header(frame)?, 16),
        UDP => (8, 6),
        _ => return None,
    };
    (headers.transport + header <= headers.end).then_some(headers.transport + field)
}

/// Whether there is a checksum of TCP or UDP that can be completed.
pub fn is_present(frame: &[u8], headers: &Headers) -> bool {
    field(frame, headers).is_some()
}

/// The sum over the addresses, the protocol and the length.
fn pseudo_header(frame: &[u8], headers: &Headers) -> Sum16BitWords {
    Sum16BitWords::new()
        .add_slice(headers.addresses(frame))
        .add_4bytes(((headers.end - headers.transport) as u32).to_be_bytes())
        .add_2bytes([0, headers.protocol])
}

/// The sum's complement, as it lies in a field.
fn complement(sum: Sum16BitWords) -> [u8; 2] {
    sum.ones_complement().to_ne_bytes()
}

/// Writes the sum of the pseudo-header alone, which the other end completes. Whether there is a checksum to write.
pub fn leave_blank(frame: &mut [u8], headers: &Headers) -> bool {
    let Some(field) = field(frame, headers) else { return false };
    let [a, b] = complement(pseudo_header(frame, headers));
    // What is given is the complement, which completing it makes.
    frame[field..field + 2].copy_from_slice(&[!a, !b]);
    true
}

/// Writes the whole checksum. Whether there is one to write.
///
/// # Examples
///
/// ```
/// use xen_netif::checksum;
/// use xen_netif::headers::Headers;
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
/// let mut frame = large_segment();
/// let headers = Headers::parse(&frame).expect("an IP packet");
/// assert!(checksum::complete(&mut frame, &headers));
/// assert!(checksum::is_valid(&frame, &headers));
/// ```
pub fn complete(frame: &mut [u8], headers: &Headers) -> bool {
    let Some(field) = field(frame, headers) else { return false };
    frame[field..field + 2].fill(0);
    let sum = pseudo_header(frame, headers).add_slice(&frame[headers.transport..headers.end]);
    let value = match complement(sum) {
        // To UDP it means that there is none (RFC 768).
        [0, 0] if headers.protocol == UDP => [0xff, 0xff],
        value => value,
    };
    frame[field..field + 2].copy_from_slice(&value);
    true
}

/// Whether the checksum is right; so is none at all.
pub fn is_valid(frame: &[u8], headers: &Headers) -> bool {
    let Some(field) = field(frame, headers) else { return true };
    if headers.protocol == UDP && !headers.v6 && frame[field..field + 2] == [0, 0] {
        return true;
    }
    let sum = pseudo_header(frame, headers).add_slice(&frame[headers.transport..headers.end]);
    complement(sum) == [0, 0]
}

/// The complement of the sum over a message of ICMP; nothing where its checksum is in it and right.
pub(crate) fn icmp(frame: &[u8], headers: &Headers) -> [u8; 2] {
    // That of IPv6 covers the addresses as well (RFC 4443).
    let sum = if headers.v6 { pseudo_header(frame, headers) } else { Sum16BitWords::new() };
    complement(sum.add_slice(&frame[headers.transport..headers.end]))
}

/// Whether the checksum of a message of ICMP is right.
pub(crate) fn is_valid_icmp(frame: &[u8], headers: &Headers) -> bool {
    icmp(frame, headers) == [0, 0]
}

/// Writes the checksum of an IPv4 header.
pub fn complete_ipv4(frame: &mut [u8], headers: &Headers) {
    let length = usize::from(frame[headers.ip] & 15) * 4;
    let header = &mut frame[headers.ip..headers.ip + length];
    header[10..12].fill(0);
    let sum = complement(Sum16BitWords::new().add_slice(header));
    header[10..12].copy_from_slice(&sum);
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    /// Frames whose checksums another library has made.
    fn frames(payload: &[u8]) -> [Vec<u8>; 4] {
        let mut frames = [const { Vec::new() }; 4];
        let ethernet = || PacketBuilder::ethernet2([2; 6], [4; 6]);
        let [a, b, c, d] = &mut frames;
        ethernet().ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).tcp(1, 2, 3, 4).write(a, payload).unwrap();
        ethernet().ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).udp(1, 2).write(b, payload).unwrap();
        ethernet().ipv6([0xfe; 16], [0x20; 16], 64).tcp(1, 2, 3, 4).write(c, payload).unwrap();
        ethernet().ipv6([0xfe; 16], [0x20; 16], 64).udp(1, 2).write(d, payload).unwrap();
        frames
    }

    proptest! {
        #[test]
        fn they_are_those_of_another_library(payload in prop::collection::vec(any::<u8>(), 0..300), at in 0..300_usize) {
            for expected in frames(&payload) {
                let headers = Headers::parse(&expected).unwrap();
                prop_assert!(is_valid(&expected, &headers));
                let mut frame = expected.clone();
                prop_assert!(leave_blank(&mut frame, &headers));
                // Completing a blank one is a sum over all of it, the field included.
                let sum = complement(Sum16BitWords::new().add_slice(&frame[headers.transport..headers.end]));
                let own = field(&frame, &headers).unwrap();
                let zero = headers.protocol == UDP && sum == [0, 0];
                prop_assert!(zero || expected[own..own + 2] == sum);
                prop_assert!(complete(&mut frame, &headers));
                prop_assert_eq!(&frame, &expected);
                if let Some(byte) = frame.get_mut(headers.transport + 20 + at) {
                    *byte ^= 1;
                    prop_assert!(!is_valid(&frame, &headers));
                }
            }
        }
    }
}

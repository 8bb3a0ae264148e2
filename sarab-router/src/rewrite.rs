//! Headers changed in place, with their checksums: by the differences alone (RFC 1624), so that a packet's length does not
//! matter, and a checksum that is left open stays open.

use core::net::IpAddr;

use xen_netif::back::Checksum;
use xen_netif::headers::{Headers, TCP, UDP};

use crate::packet::{ICMP, ICMPV6, Transport, View, fold};

/// From whom and to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Endpoints {
    /// From whom.
    pub source: IpAddr,
    /// To whom.
    pub destination: IpAddr,
    /// From which port, or a query's identifier.
    pub source_port: u16,
    /// To which port, or an answer's identifier.
    pub destination_port: u16,
}

/// A sum of differences.
#[derive(Clone, Copy, Default)]
pub(crate) struct Difference(u32);

impl Difference {
    /// RFC 1624, equation 3.
    pub(crate) fn word(&mut self, old: u16, new: u16) {
        self.0 += u32::from(!old) + u32::from(new);
    }

    /// Replaces words of a frame.
    pub(crate) fn bytes(&mut self, place: &mut [u8], new: &[u8]) {
        for (old, new) in place.chunks_exact_mut(2).zip(new.chunks_exact(2)) {
            self.word(u16::from_be_bytes([old[0], old[1]]), u16::from_be_bytes([new[0], new[1]]));
            old.copy_from_slice(new);
        }
    }

    /// Corrects a checksum.
    pub(crate) fn correct(self, place: &mut [u8]) -> u16 {
        let old = u16::from_be_bytes([place[0], place[1]]);
        let new = !fold(u32::from(!old) + u32::from(fold(self.0)));
        place.copy_from_slice(&new.to_be_bytes());
        new
    }

    /// Corrects a sum that is not complemented: what an open checksum's field holds.
    fn correct_open(self, place: &mut [u8]) {
        let old = u16::from_be_bytes([place[0], place[1]]);
        place.copy_from_slice(&fold(u32::from(old) + u32::from(fold(self.0))).to_be_bytes());
    }
}

/// Where a packet's transport checksum is, from its transport header on.
fn checksum_at(headers: &Headers) -> Option<usize> {
    match headers.protocol {
        TCP => Some(16),
        UDP => Some(6),
        ICMP | ICMPV6 => Some(2),
        _ => None,
    }
}

/// Gives the IP header at `ip` other addresses. The difference, for checksums over them; `None` where they are of the other
/// family, and nothing has changed.
pub(crate) fn addresses(frame: &mut [u8], ip: usize, v6: bool, from: IpAddr, to: IpAddr) -> Option<Difference> {
    let mut difference = Difference::default();
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) if !v6 => {
            difference.bytes(&mut frame[ip + 12..ip + 16], &from.octets());
            difference.bytes(&mut frame[ip + 16..ip + 20], &to.octets());
            difference.correct(&mut frame[ip + 10..ip + 12]);
        }
        (IpAddr::V6(from), IpAddr::V6(to)) if v6 => {
            difference.bytes(&mut frame[ip + 8..ip + 24], &from.octets());
            difference.bytes(&mut frame[ip + 24..ip + 40], &to.octets());
        }
        _ => return None,
    }
    Some(difference)
}

/// Lowers the hop limit by one.
pub fn decrement_ttl(frame: &mut [u8], view: &View) {
    let ip = view.headers.ip;
    if view.headers.v6 {
        frame[ip + 7] = frame[ip + 7].saturating_sub(1);
        return;
    }
    let ttl = frame[ip + 8].saturating_sub(1);
    let mut difference = Difference::default();
    let protocol = frame[ip + 9];
    difference.bytes(&mut frame[ip + 8..ip + 10], &[ttl, protocol]);
    difference.correct(&mut frame[ip + 10..ip + 12]);
}

/// Gives a packet other addresses and ports. `checksum` is what is known of its transport checksum.
///
/// # Panics
///
/// If the addresses are of the other family.
pub fn translate(frame: &mut [u8], view: &View, checksum: Checksum, to: &Endpoints) {
    let Headers { ip, v6, transport, .. } = view.headers;
    let Some(addresses) = addresses(frame, ip, v6, to.source, to.destination) else {
        panic!("addresses of another family");
    };
    if view.fragment.is_some_and(|fragment| !fragment.is_first) {
        return;
    }
    let Some(sum) = checksum_at(&view.headers).map(|at| transport + at) else { return };
    let mut ports = Difference::default();
    match view.headers.protocol {
        TCP | UDP => {
            ports.bytes(&mut frame[transport..transport + 2], &to.source_port.to_be_bytes());
            ports.bytes(&mut frame[transport + 2..transport + 4], &to.destination_port.to_be_bytes());
        }
        _ => {
            let id = if view.is_query() { to.source_port } else { to.destination_port };
            if matches!(view.transport, Transport::Icmp { id: Some(_), .. }) {
                ports.bytes(&mut frame[transport + 4..transport + 6], &id.to_be_bytes());
            }
        }
    }
    let is_icmp_v4 = view.headers.protocol == ICMP;
    let is_udp = view.headers.protocol == UDP;
    if checksum == Checksum::Blank && !matches!(view.headers.protocol, ICMP | ICMPV6) {
        addresses.correct_open(&mut frame[sum..sum + 2]);
        return;
    }
    // None at all (RFC 768).
    if is_udp && !v6 && frame[sum..sum + 2] == [0, 0] {
        return;
    }
    let all = if is_icmp_v4 { ports } else { Difference(u32::from(fold(addresses.0)) + u32::from(fold(ports.0))) };
    if all.correct(&mut frame[sum..sum + 2]) == 0 && is_udp {
        frame[sum..sum + 2].fill(0xff);
    }
}

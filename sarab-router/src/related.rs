//! Messages of ICMP about a flow's packets: they belong to the flow, and are translated with what they quote (RFC 5508,
//! section 4).

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smoltcp::wire::{Icmpv4Packet, Icmpv6Packet};
use xen_netif::headers::{TCP, UDP};

use crate::flows::Tuple;
use crate::packet::{self, ICMP, ICMPV6, View};
use crate::rewrite::{self, Difference, Endpoints};

/// The packet that a message is about, as far as it is quoted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quoted {
    /// Where its IP header begins in the frame.
    ip: usize,
    /// And its transport header.
    transport: usize,
    pub(crate) tuple: Tuple,
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

impl Quoted {
    /// Finds it; `None` where it is none, or not enough of it.
    pub(crate) fn parse(frame: &[u8], view: &View) -> Option<Quoted> {
        let ip = view.headers.transport + 8;
        let quoted = frame.get(ip..view.headers.end)?;
        let (protocol, len, source, destination): (u8, usize, IpAddr, IpAddr) = if view.headers.v6 {
            if quoted.first()? >> 4 != 6 {
                return None;
            }
            let address = |at: usize| Some(IpAddr::V6(Ipv6Addr::from(*quoted.get(at..)?.first_chunk::<16>()?)));
            (*quoted.get(6)?, 40, address(8)?, address(24)?)
        } else {
            let first = *quoted.first()?;
            // No fragment but the first quotes ports.
            if first >> 4 != 4 || word(quoted, 6)? & 0x1fff != 0 {
                return None;
            }
            let address = |at: usize| Some(IpAddr::V4(Ipv4Addr::from(*quoted.get(at..)?.first_chunk::<4>()?)));
            (*quoted.get(9)?, usize::from(first & 15) * 4, address(12)?, address(16)?)
        };
        if len < 20 {
            return None;
        }
        // RFC 792: at least 8 bytes of it.
        let header = quoted.get(len..len + 8)?;
        let (source_port, destination_port) = match protocol {
            TCP | UDP => (word(header, 0)?, word(header, 2)?),
            ICMP | ICMPV6 => packet::query_ports(view.headers.v6, header[0], word(header, 4)?).into(),
            _ => (0, 0),
        };
        let endpoints = Endpoints { source, destination, source_port, destination_port };
        Some(Quoted { ip, transport: ip + len, tuple: Tuple { protocol, endpoints } })
    }

    /// Makes it what its sender has sent.
    fn restore(&self, frame: &mut [u8], end: usize, v6: bool, to: &Endpoints) {
        let Quoted { ip, transport, .. } = *self;
        let Some(addresses) = rewrite::addresses(frame, ip, v6, to.source, to.destination) else { return };
        let mut all = addresses;
        let checksum = match self.tuple.protocol {
            TCP | UDP => {
                all.bytes(&mut frame[transport..transport + 2], &to.source_port.to_be_bytes());
                all.bytes(&mut frame[transport + 2..transport + 4], &to.destination_port.to_be_bytes());
                if self.tuple.protocol == TCP { 16 } else { 6 }
            }
            ICMP | ICMPV6 => {
                if self.tuple.protocol == ICMP {
                    all = Difference::default();
                }
                let is_query = packet::is_query(v6, frame[transport]);
                let id = if is_query { to.source_port } else { to.destination_port };
                all.bytes(&mut frame[transport + 4..transport + 6], &id.to_be_bytes());
                2
            }
            _ => return,
        };
        let at = transport + checksum;
        let has_none = self.tuple.protocol == UDP && !v6 && frame[at..at + 2] == [0, 0];
        if at + 2 <= end && !has_none {
            all.correct(&mut frame[at..at + 2]);
        }
    }
}

/// Whether a message's own checksum is right.
pub(crate) fn is_intact(frame: &[u8], view: &View) -> bool {
    let message = &frame[view.headers.transport..view.headers.end];
    match (view.source, view.destination) {
        (IpAddr::V6(from), IpAddr::V6(to)) => Icmpv6Packet::new_unchecked(message).verify_checksum(&from, &to),
        _ => Icmpv4Packet::new_unchecked(message).verify_checksum(),
    }
}

/// Makes of a message about a translated packet one about the packet that was sent, from and to whom it is for. `view` is the
/// message's, `sent` are the packet's endpoints when it arrived here.
pub(crate) fn restore(frame: &mut [u8], view: &View, quoted: &Quoted, sent: &Endpoints, from: IpAddr) {
    change(frame, view, quoted, sent, (from, sent.source));
}

/// Has a message quote other endpoints, and gives it other addresses itself.
pub(crate) fn change(frame: &mut [u8], view: &View, quoted: &Quoted, quotes: &Endpoints, (from, to): (IpAddr, IpAddr)) {
    let headers = view.headers;
    quoted.restore(frame, headers.end, headers.v6, quotes);
    let ip = headers.ip;
    if rewrite::addresses(frame, ip, headers.v6, from, to).is_none() {
        return;
    }
    let message = &mut frame[headers.transport..headers.end];
    match (from, to) {
        (IpAddr::V6(from), IpAddr::V6(to)) => Icmpv6Packet::new_unchecked(message).fill_checksum(&from, &to),
        _ => Icmpv4Packet::new_unchecked(message).fill_checksum(),
    }
}

//! A packet as far as a router looks into it.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use xen_netif::headers::{Headers, TCP, UDP};

/// The protocol's number of ICMP over IPv4.
pub const ICMP: u8 = 1;
/// The protocol's number of ICMP over IPv6.
pub const ICMPV6: u8 = 58;

/// Flags of a TCP header (RFC 9293, section 3.1).
pub mod tcp_flags {
    /// No more data.
    pub const FIN: u8 = 1;
    /// A connection begins.
    pub const SYN: u8 = 2;
    /// A connection is broken.
    pub const RST: u8 = 4;
    /// The acknowledgement number counts.
    pub const ACK: u8 = 16;
}

/// Why a packet goes nowhere: it is none, or of a kind that no router passes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Lengths or versions are wrong, or headers are missing.
    Header,
    /// The checksum of the IPv4 header.
    HeaderChecksum,
    /// An address that no host can have.
    Address,
    /// It says itself which way it is to go (IPv4's source routes; IPv6's type 0, RFC 5095).
    SourceRoute,
    /// A fragment that hides its transport header (RFC 1858, RFC 7112).
    TinyFragment,
    /// TCP flags that mean nothing together.
    Flags,
}

/// What follows the IP headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp {
        /// Source and destination.
        ports: [u16; 2],
        /// See [`tcp_flags`].
        flags: u8,
        /// Sequence number.
        sequence: u32,
        /// Acknowledgement number.
        acknowledgement: u32,
        /// As it stands in the header, not scaled.
        window: u16,
        /// Bytes of payload, and one each for SYN and FIN.
        len: u32,
    },
    /// UDP.
    Udp {
        /// Source and destination.
        ports: [u16; 2],
    },
    /// ICMP of either family.
    Icmp {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
        /// Of queries and answers to them: the identifier.
        id: Option<u16>,
    },
    /// Another protocol, or a fragment that is not the first.
    Other,
}

/// A part of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// The packet's number.
    pub id: u32,
    /// Whether it has the transport header.
    pub is_first: bool,
    /// Whether more follow.
    pub more: bool,
}

/// A packet's headers, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// Where they are.
    pub headers: Headers,
    /// From whom.
    pub source: IpAddr,
    /// To whom.
    pub destination: IpAddr,
    /// Routers that it may still pass, this one included.
    pub ttl: u8,
    /// What follows.
    pub transport: Transport,
    /// Whether it is a part.
    pub fragment: Option<Fragment>,
    /// Whether routers may not cut it.
    pub dont_fragment: bool,
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

impl View {
    /// Reads the IP packet in an Ethernet frame.
    ///
    /// # Errors
    ///
    /// If no router passes it on.
    #[inline]
    pub fn parse(frame: &[u8]) -> Result<View, Malformed> {
        let headers = Headers::parse(frame).ok_or(Malformed::Header)?;
        let mut view = if headers.v6 { View::v6(frame, headers)? } else { View::v4(frame, headers)? };
        if view.fragment.is_none_or(|fragment| fragment.is_first) {
            view.transport = transport(frame, &headers, view.fragment.is_some())?;
        } else if headers.protocol == TCP && offset(frame, &headers) == 1 {
            return Err(Malformed::TinyFragment);
        }
        Ok(view)
    }

    #[inline]
    fn v4(frame: &[u8], headers: Headers) -> Result<View, Malformed> {
        let header = &frame[headers.ip..headers.transport];
        if header.len() > 20 && has_source_route(&header[20..]) {
            return Err(Malformed::SourceRoute);
        }
        if fold(header.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum()) != 0xffff {
            return Err(Malformed::HeaderChecksum);
        }
        let address = |at: usize| Ipv4Addr::from(*header[at..].first_chunk::<4>().expect("the header has 20 bytes"));
        let (source, destination) = (address(12), address(16));
        if !is_possible_v4(source) || destination.is_unspecified() || destination.is_loopback() {
            return Err(Malformed::Address);
        }
        let flags = u16::from_be_bytes([header[6], header[7]]);
        let fragment = headers.fragment.then(|| Fragment {
            id: u16::from_be_bytes([header[4], header[5]]).into(),
            is_first: flags & 0x1fff == 0,
            more: flags & 0x2000 != 0,
        });
        Ok(View {
            headers,
            source: source.into(),
            destination: destination.into(),
            ttl: header[8],
            transport: Transport::Other,
            fragment,
            dont_fragment: flags & 0x4000 != 0,
        })
    }

    #[inline]
    fn v6(frame: &[u8], headers: Headers) -> Result<View, Malformed> {
        let header = &frame[headers.ip..headers.transport];
        let address = |at: usize| Ipv6Addr::from(*header[at..].first_chunk::<16>().expect("the header has 40 bytes"));
        let (source, destination) = (address(8), address(24));
        if source.is_multicast() || source.is_loopback() || destination.is_unspecified() || destination.is_loopback() {
            return Err(Malformed::Address);
        }
        let fragment = extensions(header)?.filter(|_| headers.fragment);
        Ok(View {
            headers,
            source: source.into(),
            destination: destination.into(),
            ttl: header[7],
            transport: Transport::Other,
            fragment,
            dont_fragment: true,
        })
    }

    /// Source and destination port; of ICMP's queries the identifier stands for the asking side's, and the query's type for
    /// the other's: one identifier is a flow for each type.
    pub fn ports(&self) -> [u16; 2] {
        match self.transport {
            Transport::Tcp { ports, .. } | Transport::Udp { ports } => ports,
            Transport::Icmp { kind, id: Some(id), .. } => query_ports(self.headers.v6, kind, id),
            Transport::Icmp { .. } | Transport::Other => [0, 0],
        }
    }

    /// Whether it is a query of ICMP: its identifier is the sender's.
    pub fn is_query(&self) -> bool {
        matches!(self.transport, Transport::Icmp { kind, id: Some(_), .. } if is_query(self.headers.v6, kind))
    }

    /// Whether it is a message of ICMP about another packet.
    pub fn is_icmp_error(&self) -> bool {
        match self.transport {
            Transport::Icmp { kind, .. } if self.headers.v6 => kind < 128,
            Transport::Icmp { kind, .. } => matches!(kind, 3 | 4 | 5 | 11 | 12),
            _ => false,
        }
    }

    /// Bytes of the IP packet.
    pub fn packet_len(&self) -> usize {
        self.headers.end - self.headers.ip
    }
}

/// Whether a host can have the address as a packet's source.
fn is_possible_v4(address: Ipv4Addr) -> bool {
    !(address.is_multicast() || address.is_loopback() || address.octets()[0] == 0 || address.octets()[0] >= 240)
}

/// Options that name the way: loose and strict source routes (RFC 791, section 3.1).
fn has_source_route(mut options: &[u8]) -> bool {
    while let [kind, rest @ ..] = options {
        match kind {
            0 => return false,
            1 => options = rest,
            131 | 137 => return true,
            _ => match rest.first() {
                Some(len) if usize::from(*len) >= 2 => options = options.get(usize::from(*len)..).unwrap_or_default(),
                _ => return false,
            },
        }
    }
    false
}

/// Looks at IPv6's extension headers: the fragment's, if there is one.
fn extensions(header: &[u8]) -> Result<Option<Fragment>, Malformed> {
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    let (mut kind, mut at, mut fragment) = (header[6], 40, None);
    while at + 8 <= header.len() {
        let extension = &header[at..];
        let len = match kind {
            FRAGMENT => {
                let flags = u16::from_be_bytes([extension[2], extension[3]]);
                let id = u32::from_be_bytes([extension[4], extension[5], extension[6], extension[7]]);
                fragment = Some(Fragment { id, is_first: flags & 0xfff8 == 0, more: flags & 1 != 0 });
                8
            }
            // Type 0 with segments left (RFC 5095).
            ROUTING if extension[2] == 0 && extension[3] > 0 => return Err(Malformed::SourceRoute),
            _ => (usize::from(extension[1]) + 1) * 8,
        };
        kind = extension[0];
        at += len;
    }
    Ok(fragment)
}

/// Of a fragment: where it belongs, in units of 8 bytes.
fn offset(frame: &[u8], headers: &Headers) -> u16 {
    match headers.v6 {
        false => word(frame, headers.ip + 6).unwrap_or(0) & 0x1fff,
        // Any but the first: fragments of IPv6 that are that small come from nobody.
        true => 2,
    }
}

pub(crate) fn is_query(v6: bool, kind: u8) -> bool {
    if v6 { kind == 128 } else { matches!(kind, 8 | 13 | 15 | 17) }
}

/// The type of the query that a type answers.
fn query_of(v6: bool, kind: u8) -> Option<u8> {
    match (v6, kind) {
        (true, 129) => Some(128),
        (false, 0) => Some(8),
        (false, 14 | 16 | 18) => Some(kind - 1),
        _ => None,
    }
}

/// See [`View::ports`].
pub(crate) fn query_ports(v6: bool, kind: u8, id: u16) -> [u16; 2] {
    match query_of(v6, kind) {
        Some(query) => [query.into(), id],
        None if is_query(v6, kind) => [id, kind.into()],
        None => [0, 0],
    }
}

fn transport(frame: &[u8], headers: &Headers, is_fragment: bool) -> Result<Transport, Malformed> {
    let packet = &frame[..headers.end];
    let at = headers.transport;
    let short = if is_fragment { Malformed::TinyFragment } else { Malformed::Header };
    match headers.protocol {
        TCP => {
            let header = packet.get(at..at + 20).ok_or(short)?;
            let length = usize::from(header[12] >> 4) * 4;
            if length < 20 || at + length > headers.end {
                return Err(short);
            }
            let flags = header[13];
            use tcp_flags::{ACK, FIN, RST, SYN};
            // Combinations that scanners use, and nobody else (Linux: tcp_error).
            let is_odd = flags & (FIN | SYN | RST | ACK) == 0
                || flags & (SYN | FIN) == SYN | FIN
                || flags & (SYN | RST) == SYN | RST
                || flags & (FIN | RST) == FIN | RST
                || flags & (FIN | ACK) == FIN;
            if is_odd {
                return Err(Malformed::Flags);
            }
            let extra = u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
            Ok(Transport::Tcp {
                ports: [word(header, 0).unwrap_or(0), word(header, 2).unwrap_or(0)],
                flags,
                sequence: long(header, 4).unwrap_or(0),
                acknowledgement: long(header, 8).unwrap_or(0),
                window: word(header, 14).unwrap_or(0),
                len: (headers.end - at - length) as u32 + extra,
            })
        }
        UDP => {
            let header = packet.get(at..at + 8).ok_or(short)?;
            let len = usize::from(word(header, 4).unwrap_or(0));
            if len < 8 || (!is_fragment && len > headers.end - at) {
                return Err(Malformed::Header);
            }
            Ok(Transport::Udp { ports: [word(header, 0).unwrap_or(0), word(header, 2).unwrap_or(0)] })
        }
        ICMP | ICMPV6 if (headers.protocol == ICMPV6) == headers.v6 => {
            let header = packet.get(at..at + 8).ok_or(short)?;
            let kind = header[0];
            let has_id = is_query(headers.v6, kind) || query_of(headers.v6, kind).is_some();
            Ok(Transport::Icmp { kind, code: header[1], id: has_id.then(|| word(header, 4).unwrap_or(0)) })
        }
        // ICMP of the other family.
        ICMP | ICMPV6 => Err(Malformed::Header),
        _ => Ok(Transport::Other),
    }
}

/// The ones' complement sum in 16 bits.
pub(crate) fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

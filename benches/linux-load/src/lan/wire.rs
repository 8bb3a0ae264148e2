//! Frames of an interface.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, FromRawFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

pub type Mac = [u8; 6];
pub const BROADCAST: Mac = [0xff; 6];
pub const ARP: [u8; 2] = [0x08, 0x06];
pub const IPV4: [u8; 2] = [0x08, 0x00];
pub const ETHERNET: usize = 14;

pub fn shown(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// A MAC address as [`shown`] shows it.
pub fn mac(text: &str) -> Result<Mac> {
    let bytes = text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<Vec<_>, _>>();
    bytes.ok().and_then(|bytes| bytes.try_into().ok()).with_context(|| format!("{text:?} is no MAC address"))
}

/// An interface, and all of its frames.
pub struct Wire {
    socket: File,
    pub mac: Mac,
}

impl Wire {
    pub fn open(interface: &str) -> Result<Wire> {
        let read = |key: &str| {
            let path = format!("/sys/class/net/{interface}/{key}");
            std::fs::read_to_string(&path).with_context(|| path)
        };
        Wire::with_mac(interface, mac(read("address")?.trim())?)
    }

    /// An interface of the network namespace that this process is in, whose frames are sent with this MAC address.
    pub fn with_mac(interface: &str, mac: Mac) -> Result<Wire> {
        let name = std::ffi::CString::new(interface)?;
        // SAFETY: the name ends with a zero.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        ensure!(index != 0, "{interface}: {}", std::io::Error::last_os_error());
        let protocol = (libc::ETH_P_ALL as u16).to_be();
        // SAFETY: it takes no pointers.
        let socket = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol.into()) };
        ensure!(socket >= 0, "a packet socket: {}", std::io::Error::last_os_error());
        // SAFETY: the socket was made just now, and nothing else closes it.
        let socket = unsafe { File::from_raw_fd(socket) };
        // SAFETY: `sockaddr_ll` is plain data.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol;
        address.sll_ifindex = index as i32;
        let length = size_of_val(&address) as u32;
        // SAFETY: the address is as long as it says.
        let outcome = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
        ensure!(outcome == 0, "{interface}: {}", std::io::Error::last_os_error());
        Ok(Wire { socket, mac })
    }

    pub fn send(&self, frame: &[u8]) -> Result<()> {
        match (&self.socket).write(frame) {
            // What is sent faster than the interface takes it is lost, as on any network.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(()),
            outcome => outcome.map(drop).context("sending a frame"),
        }
    }

    /// The next frame; none where none comes until then.
    pub fn receive(&self, until: Instant) -> Result<Option<Vec<u8>>> {
        let left = until.saturating_duration_since(Instant::now()).max(Duration::from_micros(1));
        let timeout = libc::timeval { tv_sec: left.as_secs() as i64, tv_usec: left.subsec_micros().max(1).into() };
        let length = size_of_val(&timeout) as u32;
        let socket = self.socket.as_raw_fd();
        // SAFETY: the value is as long as it says.
        let outcome = unsafe {
            libc::setsockopt(socket, libc::SOL_SOCKET, libc::SO_RCVTIMEO, (&raw const timeout).cast(), length)
        };
        ensure!(outcome == 0, "{}", std::io::Error::last_os_error());
        let mut frame = vec![0; 2048];
        match (&self.socket).read(&mut frame) {
            Ok(length) => {
                frame.truncate(length);
                Ok(Some(frame))
            }
            Err(error) if [ErrorKind::WouldBlock, ErrorKind::Interrupted].contains(&error.kind()) => Ok(None),
            Err(error) => Err(error).context("receiving a frame"),
        }
    }
}

/// A frame with its header.
pub fn ethernet(to: Mac, from: Mac, protocol: [u8; 2], packet: &[u8]) -> Vec<u8> {
    [&to[..], &from, &protocol, packet].concat()
}

/// An ARP packet for IPv4 (RFC 826).
#[derive(Debug)]
pub struct Arp {
    pub is_request: bool,
    pub sender: (Mac, Ipv4Addr),
    pub target: (Mac, Ipv4Addr),
}

impl Arp {
    const HEADER: [u8; 7] = [0, 1, 8, 0, 6, 4, 0];

    pub fn to(&self, to: Mac) -> Vec<u8> {
        let operation = if self.is_request { 1 } else { 2 };
        let [(sender, source), (target, about)] = [self.sender, self.target].map(|(mac, ip)| (mac, ip.octets()));
        let packet = [&Self::HEADER[..], &[operation], &sender, &source, &target, &about].concat();
        ethernet(to, self.sender.0, ARP, &packet)
    }

    pub fn parse(frame: &[u8]) -> Option<Arp> {
        let packet = frame.get(ETHERNET..).filter(|_| frame[12..ETHERNET] == ARP)?;
        let operation = *packet.strip_prefix(&Self::HEADER)?.first()?;
        let host = |at: usize| {
            let (mac, ip) = packet.get(at..at + 10)?.split_at(6);
            Some((mac.try_into().ok()?, Ipv4Addr::from(<[u8; 4]>::try_from(ip).ok()?)))
        };
        Some(Arp { is_request: operation == 1, sender: host(8)?, target: host(18)? })
    }
}

/// An IPv4 packet (RFC 791).
pub fn ipv4(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = (20 + payload.len()) as u16;
    let mut header = [0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    header[2..4].copy_from_slice(&length.to_be_bytes());
    header[12..16].copy_from_slice(&from.octets());
    header[16..].copy_from_slice(&to.octets());
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum);
    [&header[..], payload].concat()
}

/// The checksum of RFC 1071, of an even number of bytes.
pub fn checksum(bytes: &[u8]) -> [u8; 2] {
    let sum: u32 = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let folded = (sum >> 16) + (sum & 0xffff);
    (!((folded >> 16) + folded) as u16).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arp_is_read_as_it_is_written() {
        let arp = Arp {
            is_request: true,
            sender: ([2, 0, 0, 0, 0, 1], Ipv4Addr::new(10, 7, 0, 1)),
            target: ([0; 6], Ipv4Addr::new(10, 7, 0, 2)),
        };
        let frame = arp.to(BROADCAST);
        assert_eq!(frame.len(), 42);
        assert_eq!(format!("{:?}", Arp::parse(&frame)), format!("{:?}", Some(arp)));
        assert!(Arp::parse(&frame[..41]).is_none() && Arp::parse(&frame[..13]).is_none());
    }

    #[test]
    fn a_header_with_its_checksum_sums_up_to_nothing() {
        let packet = ipv4(Ipv4Addr::new(10, 7, 200, 255), Ipv4Addr::new(10, 7, 0, 2), 1, &[0; 8]);
        assert_eq!(checksum(&packet[..20]), [0, 0]);
    }
}

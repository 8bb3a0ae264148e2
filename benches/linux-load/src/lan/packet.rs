//! IP packets as lines of text, both ways: `tcp 10.7.0.5:1000 198.51.100.1:80 flags=S ttl=64`.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result, bail, ensure};

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const FRAGMENT: u8 = 44;
const ICMPV6: u8 = 58;
/// In the order of their bits.
const FLAGS: &str = "FSRPAU";

/// A packet to be sent.
pub struct Packet<'a> {
    protocol: u8,
    ends: [SocketAddr; 2],
    /// Words `key=value`, or keys alone.
    words: Vec<&'a str>,
    /// What a message of ICMP is about.
    about: Option<Box<Packet<'a>>>,
}

impl<'a> Packet<'a> {
    pub fn parse(text: &'a str) -> Result<Packet<'a>> {
        let (own, about) = match text.split_once(" about ") {
            Some((own, about)) => (own, Some(Box::new(Packet::parse(about)?))),
            None => (text, None),
        };
        let mut words = own.split_whitespace();
        let mut next = || words.next().with_context(|| format!("{text:?} is no packet"));
        let (protocol, ends) = (next()?, [end(next()?)?, end(next()?)?]);
        let protocol = match (protocol, ends[0].is_ipv6()) {
            ("tcp", _) => TCP,
            ("udp", _) => UDP,
            ("icmp", false) => ICMP,
            ("icmp", true) => ICMPV6,
            (number, _) => number.parse().with_context(|| format!("{text:?}: the protocol {number}"))?,
        };
        ensure!(ends[0].is_ipv6() == ends[1].is_ipv6(), "{text:?} has two families");
        Ok(Packet { protocol, ends, words: words.collect(), about })
    }

    fn value(&self, key: &str) -> Option<&'a str> {
        self.words.iter().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
    }

    fn number(&self, key: &str, other: u32) -> Result<u32> {
        self.value(key).map_or(Ok(other), |text| text.parse().with_context(|| format!("{key}={text}")))
    }

    /// Its bytes, from the IP header on.
    pub fn bytes(&self) -> Result<Vec<u8>> {
        let mut body = self.body()?;
        let sum = self.value("sum");
        let at = match self.protocol {
            TCP => Some(16),
            UDP => Some(6),
            ICMP | ICMPV6 => Some(2),
            _ => None,
        };
        if let Some(at) = at
            && sum != Some("none")
        {
            let [high, low] = (!self.sum(&body)).to_be_bytes();
            body[at] = high ^ u8::from(sum == Some("bad"));
            body[at + 1] = low;
        }
        let (mut from, mut more) = (0, false);
        if let Some((offset, length)) = self.value("part").and_then(|part| part.split_once('+')) {
            let (offset, length): (usize, usize) = (offset.parse()?, length.parse()?);
            more = offset + length < body.len();
            body = body.get(offset..offset + length).context("the part is outside of the packet")?.to_vec();
            from = offset / 8;
        }
        let (ttl, tos) = (self.number("ttl", 64)? as u8, self.number("tos", 0)? as u8);
        let mut packet = Vec::new();
        match [self.ends[0].ip(), self.ends[1].ip()] {
            [IpAddr::V4(source), IpAddr::V4(destination)] => {
                let df = if self.words.contains(&"df") { 0x4000 } else { 0 };
                let flags = df | if more { 0x2000 } else { 0 } | from as u16;
                packet.extend([0x45, tos]);
                packet.extend((20 + body.len() as u16).to_be_bytes());
                packet.extend((self.number("number", 0x1234)? as u16).to_be_bytes());
                packet.extend(flags.to_be_bytes());
                packet.extend([ttl, self.protocol, 0, 0]);
                packet.extend(source.octets());
                packet.extend(destination.octets());
                let sum = !fold(sum_of(&packet));
                packet[10..12].copy_from_slice(&sum.to_be_bytes());
            }
            [IpAddr::V6(source), IpAddr::V6(destination)] => {
                ensure!(from == 0 && !more, "parts are of IPv4");
                packet.extend([0x60 | tos >> 4, tos << 4, 0, 0]);
                packet.extend((body.len() as u16).to_be_bytes());
                packet.extend([self.protocol, ttl]);
                packet.extend(source.octets());
                packet.extend(destination.octets());
            }
            _ => bail!("two families"),
        }
        packet.extend(body);
        Ok(packet)
    }

    /// What is behind the IP header, without its checksum.
    fn body(&self) -> Result<Vec<u8>> {
        let payload: Vec<u8> = (0..self.number("size", 0)?).map(|at| (at % 251) as u8).collect();
        let mut body = Vec::new();
        let ports = self.ends.map(|end| end.port().to_be_bytes()).concat();
        match self.protocol {
            TCP => {
                let flags = self.value("flags").unwrap_or_default();
                let flags = flags.chars().filter_map(|flag| FLAGS.find(flag)).fold(0u8, |all, bit| all | 1 << bit);
                body.extend(ports);
                body.extend(self.number("seq", 1000)?.to_be_bytes());
                body.extend(self.number("ack", 0)?.to_be_bytes());
                body.extend([0x50, flags, 0x20, 0, 0, 0, 0, 0]);
            }
            UDP => {
                body.extend(ports);
                body.extend((8 + payload.len() as u16).to_be_bytes());
                body.extend([0, 0]);
            }
            ICMP | ICMPV6 => {
                let (kind, code) = self.value("type").and_then(|text| text.split_once('/')).context("type=T/C")?;
                body.extend([kind.parse()?, code.parse()?, 0, 0]);
                match &self.about {
                    Some(about) => {
                        body.extend(self.number("mtu", 0)?.to_be_bytes());
                        body.extend(about.bytes()?);
                    }
                    None => {
                        body.extend((self.number("id", 7)? as u16).to_be_bytes());
                        body.extend([0, 1]);
                    }
                }
            }
            _ => {}
        }
        body.extend(payload);
        Ok(body)
    }

    fn sum(&self, body: &[u8]) -> u16 {
        let pseudo = pseudo([self.ends[0].ip(), self.ends[1].ip()], self.protocol, body.len());
        fold(pseudo + sum_of(body))
    }
}

/// An address, with a port or without.
fn end(text: &str) -> Result<SocketAddr> {
    let alone = || Some(SocketAddr::new(text.parse().ok()?, 0));
    text.parse().ok().or_else(alone).with_context(|| format!("{text:?} is no address"))
}

fn sum_of(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum()
}

fn fold(sum: u32) -> u16 {
    let once = (sum >> 16) + (sum & 0xffff);
    ((once >> 16) + (once & 0xffff)) as u16
}

/// What of the addresses is in a checksum: nothing where it is ICMP's.
fn pseudo(ends: [IpAddr; 2], protocol: u8, length: usize) -> u32 {
    if protocol == ICMP {
        return 0;
    }
    let addresses = ends.map(|end| match end {
        IpAddr::V4(address) => sum_of(&address.octets()),
        IpAddr::V6(address) => sum_of(&address.octets()),
    });
    addresses[0] + addresses[1] + u32::from(protocol) + length as u32
}

/// A packet of ICMPv6 that no router passes on: with the hop limit of neighbours (RFC 4861, section 4.3).
pub fn raw_icmpv6(from: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((message.len() as u16).to_be_bytes());
    packet.extend([ICMPV6, 255]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend(message);
    let sum = !fold(pseudo([from.into(), to.into()], ICMPV6, message.len()) + sum_of(message));
    packet[42..44].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// The parts of a packet that are compared.
struct View<'a> {
    protocol: u8,
    ends: [IpAddr; 2],
    ttl: u8,
    tos: u8,
    body: &'a [u8],
    /// Where it is in the whole, in bytes, and whether more follows.
    part: Option<(u16, bool)>,
    df: bool,
}

fn view(packet: &[u8]) -> Option<View<'_>> {
    let word = |at: usize| Some(u16::from_be_bytes(*packet.get(at..)?.first_chunk()?));
    match packet.first()? >> 4 {
        4 => {
            let header = usize::from(packet[0] & 15) * 4;
            let address = |at: usize| Some(IpAddr::V4(Ipv4Addr::from(*packet.get(at..)?.first_chunk::<4>()?)));
            let flags = word(6)?;
            Some(View {
                protocol: *packet.get(9)?,
                ends: [address(12)?, address(16)?],
                ttl: packet[8],
                tos: packet[1],
                // What is quoted may be less.
                body: packet.get(header..packet.len().min(word(2)?.into()))?,
                part: (flags & 0x3fff != 0).then_some(((flags & 0x1fff) * 8, flags & 0x2000 != 0)),
                df: flags & 0x4000 != 0,
            })
        }
        6 => {
            let address = |at: usize| Some(IpAddr::V6(Ipv6Addr::from(*packet.get(at..)?.first_chunk::<16>()?)));
            let mut own = View {
                protocol: *packet.get(6)?,
                ends: [address(8)?, address(24)?],
                ttl: packet[7],
                tos: packet[0] << 4 | packet[1] >> 4,
                body: packet.get(40..packet.len().min(40 + usize::from(word(4)?)))?,
                part: None,
                df: false,
            };
            if own.protocol == FRAGMENT {
                let offset = word(42)?;
                own.part = Some((offset & 0xfff8, offset & 1 != 0));
                own.protocol = *own.body.first()?;
                own.body = own.body.get(8..)?;
            }
            Some(own)
        }
        _ => None,
    }
}

/// A packet in words; none of what neighbours, routers and groups say of themselves.
pub fn describe(packet: &[u8]) -> Option<String> {
    let view = view(packet)?;
    let is_group = match view.ends[1] {
        IpAddr::V4(address) => address.is_multicast() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_multicast(),
    };
    let is_discovery = view.protocol == ICMPV6 && view.body.first().is_some_and(|kind| (133..=137).contains(kind));
    if is_group || is_discovery {
        return None;
    }
    let is_error = is_error(&view);
    let mut text = head(&view, true)?;
    if !is_error {
        let _ = write!(text, " ttl={} tos={}", view.ttl, view.tos);
    }
    let checksum = match view.protocol {
        TCP => Some(16),
        UDP => Some(6),
        ICMP | ICMPV6 => Some(2),
        _ => None,
    };
    match (view.part, checksum) {
        (Some((from, more)), _) => {
            let _ = write!(text, " part={from}+{}{}", view.body.len(), if more { " more" } else { "" });
        }
        (None, Some(at)) if view.protocol == UDP && view.body.get(at..at + 2) == Some(&[0, 0]) => text += " sum=none",
        (None, Some(_)) if !is_intact(&view, checksum) => text += " sum=bad",
        _ => {}
    }
    if view.df && !is_error {
        text += " df";
    }
    Some(text)
}

fn is_error(view: &View<'_>) -> bool {
    match (view.protocol, view.body.first()) {
        (ICMP, Some(kind)) => [3, 4, 5, 11, 12].contains(kind),
        (ICMPV6, Some(kind)) => *kind < 128,
        _ => false,
    }
}

/// Whether the checksum is right, or is left to whoever sends the packet on a wire, as inside a machine.
fn is_intact(view: &View<'_>, at: Option<usize>) -> bool {
    let pseudo = pseudo(view.ends, view.protocol, view.body.len());
    let found = at.and_then(|at| Some(u16::from_be_bytes(*view.body.get(at..)?.first_chunk()?)));
    fold(pseudo + sum_of(view.body)) == 0xffff || found == Some(fold(pseudo))
}

/// Protocol, ends, and what else there is of its header; less of what is quoted.
fn head(view: &View<'_>, is_whole: bool) -> Option<String> {
    let word = |at: usize| Some(u16::from_be_bytes(*view.body.get(at..)?.first_chunk()?));
    let long = |at: usize| Some(u32::from_be_bytes(*view.body.get(at..)?.first_chunk()?));
    let [source, destination] = view.ends;
    if view.part.is_some_and(|(from, _)| from != 0) {
        return Some(format!("{} {source} {destination}", name(view.protocol)));
    }
    Some(match view.protocol {
        TCP | UDP => {
            let ends = [SocketAddr::new(source, word(0)?), SocketAddr::new(destination, word(2)?)];
            let mut text = format!("{} {} {}", name(view.protocol), ends[0], ends[1]);
            if view.protocol == TCP && is_whole {
                let bits = *view.body.get(13)?;
                let flags: String =
                    FLAGS.chars().enumerate().filter(|(bit, _)| bits >> bit & 1 != 0).map(|(_, flag)| flag).collect();
                let _ = write!(text, " flags={flags} seq={} ack={}", long(4)?, long(8)?);
            }
            text
        }
        ICMP | ICMPV6 => {
            let mut text = format!("icmp {source} {destination} type={}/{}", view.body.first()?, view.body.get(1)?);
            if !is_error(view) {
                let _ = write!(text, " id={}", word(4)?);
                return Some(text);
            }
            let mtu = if view.protocol == ICMP { word(6)?.into() } else { long(4)? };
            if mtu != 0 {
                let _ = write!(text, " mtu={mtu}");
            }
            let quoted = self::view(view.body.get(8..)?)?;
            text + " about " + &head(&quoted, false)?
        }
        number => format!("{number} {source} {destination}"),
    })
}

fn name(protocol: u8) -> String {
    match protocol {
        TCP => "tcp".into(),
        UDP => "udp".into(),
        ICMP | ICMPV6 => "icmp".into(),
        number => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> String {
        describe(&Packet::parse(text).unwrap().bytes().unwrap()).unwrap()
    }

    #[test]
    fn a_packet_is_told_as_it_was_written() {
        for text in [
            "tcp 10.7.0.5:1000 198.51.100.1:80 flags=SA seq=5 ack=6 ttl=9 tos=16 df",
            "tcp [fd00:7::5]:1000 [2001:db8::1]:80 flags=S seq=1000 ack=0 ttl=64 tos=184",
            "udp 10.7.0.5:1 10.7.0.1:2 ttl=64 tos=0",
            "udp 10.7.0.5:1 10.7.0.1:2 ttl=64 tos=0 sum=none",
            "udp 10.7.0.5:1 10.7.0.1:2 ttl=64 tos=0 sum=bad",
            "icmp 10.7.0.5 10.7.0.1 type=8/0 id=7 ttl=64 tos=0",
            "icmp fd00::1 fd00::2 type=128/0 id=9 ttl=1 tos=0",
            "icmp 10.7.0.1 10.7.0.5 type=3/4 mtu=1400 about udp 10.7.0.5:1 198.51.100.1:2",
            "icmp fd00::1 fd00::2 type=2/0 mtu=1400 about tcp [fd00::2]:1 [fd00::3]:2",
            "47 10.7.0.5 10.7.0.1 ttl=64 tos=0",
        ] {
            assert_eq!(told(text), text);
        }
        assert_eq!(
            told("udp 10.7.0.5:1 10.7.0.1:2 size=1000 part=0+808"),
            "udp 10.7.0.5:1 10.7.0.1:2 ttl=64 tos=0 part=0+808 more"
        );
        assert_eq!(
            told("udp 10.7.0.5:1 10.7.0.1:2 size=1000 part=808+200"),
            "udp 10.7.0.5 10.7.0.1 ttl=64 tos=0 part=808+200"
        );
    }

    #[test]
    fn what_is_no_packet_is_said_to_be_none() {
        for text in ["tcp", "tcp 10.7.0.5:1000 nowhere", "tcp 10.7.0.5:1 [fd00::1]:1", "icmp 10.7.0.5 10.7.0.1"] {
            assert!(Packet::parse(text).and_then(|packet| packet.bytes()).is_err(), "{text}");
        }
        assert!(describe(&[0x45, 0, 0]).is_none());
    }
}

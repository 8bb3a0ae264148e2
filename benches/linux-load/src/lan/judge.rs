//! The hosts on both sides of a router: sends packets from one of them, and prints what comes out, on either side.
//!
//! Nothing waits for a time: behind each packet follows another one, the fence, to the other side and back. A router that
//! keeps the order of packets has dealt with the first by then.

use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::packet::{Packet, describe};
use super::wire::{ARP, Arp, BROADCAST, ETHERNET, IPV4, Mac, Wire, ethernet};

const IPV6: [u8; 2] = [0x86, 0xdd];
/// How long a fence may take: an emulator may stand still for long.
const PATIENCE: Duration = Duration::from_secs(20);
/// Until a fence is sent again that a router lost while it looked for a neighbour.
const AGAIN: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(1);

/// One side.
struct Side<'a> {
    wire: Wire,
    /// What it answers for, to whoever looks for neighbours.
    hosts: Vec<IpAddr>,
    router: Mac,
    name: &'a str,
}

/// A side as the command line has it.
pub struct End<'a> {
    pub namespace: &'a str,
    pub interface: &'a str,
    /// Of all hosts there.
    pub mac: &'a str,
    pub router: &'a str,
    /// With commas between.
    pub hosts: &'a str,
}

/// Fences, of both families: from inside to outside, each with its ports.
pub struct Fences<'a>(pub [&'a str; 2]);

/// Reads cases from the standard input: lines `# NAME`, and `in PACKET` or `out PACKET` for the side that sends.
pub fn run(ends: [End<'_>; 2], fences: &Fences<'_>) -> Result<()> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    let [inside, outside] = ends;
    let mut judge = Judge { sides: [open(inside, "in")?, open(outside, "out")?], heard: Vec::new(), count: 0 };
    for side in 0..2 {
        judge.find_router(side)?;
    }
    for fence in fences.0 {
        judge.fence(fence)?;
    }
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if line.starts_with('#') {
            println!("{line}");
            continue;
        }
        let (side, packet) = line.split_once(' ').with_context(|| line.to_owned())?;
        let side = usize::from(side == "out");
        let bytes = Packet::parse(packet)?.bytes()?;
        judge.heard.clear();
        judge.send(side, &bytes)?;
        for fence in fences.0 {
            judge.fence(fence).with_context(|| format!("after {line}"))?;
        }
        println!("{line}");
        for heard in judge.heard.drain(..) {
            println!("  {heard}");
        }
    }
    Ok(())
}

fn open<'a>(end: End<'a>, name: &'a str) -> Result<Side<'a>> {
    let path = format!("/run/netns/{}", end.namespace);
    let namespace = File::open(&path).with_context(|| path)?;
    // SAFETY: the descriptor is open, and this process has one thread.
    let outcome = unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) };
    ensure!(outcome == 0, "{}: {}", end.namespace, std::io::Error::last_os_error());
    let hosts = end.hosts.split(',').map(|host| host.parse().with_context(|| host.to_owned()));
    let mut hosts: Vec<IpAddr> = hosts.collect::<Result<_>>()?;
    hosts.push(end.router.parse().with_context(|| end.router.to_owned())?);
    Ok(Side { wire: Wire::with_mac(end.interface, super::wire::mac(end.mac)?)?, hosts, router: [0; 6], name })
}

struct Judge<'a> {
    sides: [Side<'a>; 2],
    heard: Vec<String>,
    count: u32,
}

impl Judge<'_> {
    /// Asks for the router's MAC address, which is behind the hosts' own addresses.
    fn find_router(&mut self, side: usize) -> Result<()> {
        let Some(IpAddr::V4(router)) = self.sides[side].hosts.pop() else { bail!("the router's address is of IPv4") };
        let own = self.sides[side].hosts.iter().find_map(|host| match host {
            IpAddr::V4(own) => Some(*own),
            IpAddr::V6(_) => None,
        });
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let Side { wire, .. } = &self.sides[side];
            let sender = (wire.mac, own.context("no host of IPv4")?);
            wire.send(&Arp { is_request: true, sender, target: ([0; 6], router) }.to(BROADCAST))?;
            let until = Instant::now() + AGAIN / 4;
            while let Some(frame) = self.sides[side].wire.receive(until)? {
                let reply = Arp::parse(&frame).filter(|arp| !arp.is_request && arp.sender.1 == router);
                if let Some(arp) = reply {
                    self.sides[side].router = arp.sender.0;
                    return Ok(());
                }
                self.answer(side, &frame)?;
            }
        }
        bail!("nobody is {router}")
    }

    fn send(&self, side: usize, packet: &[u8]) -> Result<()> {
        let Side { wire, router, .. } = &self.sides[side];
        let protocol = if packet[0] >> 4 == 4 { IPV4 } else { IPV6 };
        wire.send(&ethernet(*router, wire.mac, protocol, packet))
    }

    /// Sends a packet to outside and an answer back, keeping what else arrives.
    fn fence(&mut self, line: &str) -> Result<()> {
        self.count += 1;
        // Each has a length of its own.
        let size = 100 + self.count % 400;
        let text = format!("{line} size={size}");
        let packet = Packet::parse(&text)?.bytes()?;
        let deadline = Instant::now() + PATIENCE;
        let mut is_back = false;
        while !is_back {
            ensure!(Instant::now() < deadline, "the router does not pass {text} on, and the answer back");
            self.send(0, &packet)?;
            let again = Instant::now() + AGAIN;
            while !is_back && Instant::now() < again {
                for side in 0..2 {
                    let Some(frame) = self.sides[side].wire.receive(Instant::now() + LOOK)? else { continue };
                    if self.answer(side, &frame)? {
                        continue;
                    }
                    let ip = &frame[ETHERNET.min(frame.len())..];
                    match (is_fence(&packet, ip), side) {
                        (Some(_), 0) => is_back = true,
                        (Some(source), _) => self.send(1, &answer_of(ip, source)?)?,
                        (None, _) if is_any_fence(ip) => {}
                        (None, _) => {
                            let name = self.sides[side].name;
                            self.heard.extend(describe(ip).map(|text| format!("{name} {text}")));
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Answers a frame that looks for a neighbour; whether it was one.
    fn answer(&self, side: usize, frame: &[u8]) -> Result<bool> {
        let Side { wire, hosts, .. } = &self.sides[side];
        if frame.get(12..ETHERNET) == Some(&ARP) {
            if let Some(arp) = Arp::parse(frame).filter(|arp| arp.is_request && hosts.contains(&arp.target.1.into())) {
                let reply = Arp { is_request: false, sender: (wire.mac, arp.target.1), target: arp.sender };
                wire.send(&reply.to(arp.sender.0))?;
            }
            return Ok(true);
        }
        let Some(solicitation) = Solicitation::parse(frame) else { return Ok(false) };
        if hosts.contains(&solicitation.target.into()) {
            wire.send(&solicitation.answer(wire.mac)?)?;
        }
        Ok(true)
    }
}

/// The port of fences: discard.
const PORT: [u8; 2] = [0, 9];

/// Whether a packet is this fence, as sent or translated, or its answer: of UDP, with its length. Its source port.
fn is_fence(fence: &[u8], packet: &[u8]) -> Option<[u8; 2]> {
    let is_it = is_any_fence(packet) && packet[0] >> 4 == fence[0] >> 4 && packet.len() == fence.len();
    is_it.then(|| packet[udp(packet)..].first_chunk().copied())?
}

fn udp(packet: &[u8]) -> usize {
    if packet.first().is_some_and(|first| first >> 4 == 6) { 40 } else { 20 }
}

fn is_any_fence(packet: &[u8]) -> bool {
    let at = udp(packet);
    let protocol = if at == 40 { 6 } else { 9 };
    let is_port = |at: usize| packet.get(at..at + 2) == Some(&PORT);
    packet.get(protocol) == Some(&17) && (is_port(at) || is_port(at + 2))
}

/// A fence with its ends exchanged, which leaves its checksum right.
fn answer_of(packet: &[u8], source: [u8; 2]) -> Result<Vec<u8>> {
    let mut answer = packet.to_vec();
    let at = udp(packet);
    let (first, length) = if at == 40 { (8, 16) } else { (12, 4) };
    let (source_end, destination_end) = answer[first..first + 2 * length].split_at_mut(length);
    source_end.swap_with_slice(destination_end);
    answer.copy_within(at + 2..at + 4, at);
    answer[at + 2..at + 4].copy_from_slice(&source);
    Ok(answer)
}

/// A neighbour solicitation (RFC 4861, section 4.3).
struct Solicitation {
    from: (Mac, Ipv6Addr),
    target: Ipv6Addr,
}

impl Solicitation {
    fn parse(frame: &[u8]) -> Option<Solicitation> {
        let packet = frame.get(ETHERNET..).filter(|_| frame[12..ETHERNET] == IPV6)?;
        let address = |at: usize| Some(Ipv6Addr::from(*packet.get(at..)?.first_chunk::<16>()?));
        let is_it = packet.get(6) == Some(&58) && packet.get(40) == Some(&135);
        is_it.then(|| Some(Solicitation { from: (*frame[6..].first_chunk()?, address(8)?), target: address(48)? }))?
    }

    /// A solicited advertisement that overrides (section 4.4).
    fn answer(&self, mac: Mac) -> Result<Vec<u8>> {
        let (to_mac, to) = self.from;
        let mut words = vec![136, 0, 0, 0, 0x60, 0, 0, 0];
        words.extend(self.target.octets());
        words.extend([2, 1]);
        words.extend(mac);
        let packet = super::packet::raw_icmpv6(self.target, to, &words);
        Ok(ethernet(to_mac, mac, IPV6, &packet))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn a_fence_is_known_however_it_is_translated() {
        let bytes = |text: &str| Packet::parse(text).unwrap().bytes().unwrap();
        let sent = bytes("udp 10.7.0.5:7 198.51.100.7:9 size=100");
        let outside = bytes("udp 10.6.0.60:4000 198.51.100.7:9 size=100 ttl=63");
        assert_eq!(is_fence(&sent, &outside), Some(4000u16.to_be_bytes()));
        let back = answer_of(&outside, 4000u16.to_be_bytes()).unwrap();
        assert_eq!(describe(&back).unwrap(), "udp 198.51.100.7:9 10.6.0.60:4000 ttl=63 tos=0");
        assert!(is_fence(&sent, &bytes("udp 10.7.0.5:7 198.51.100.7:9 size=101")).is_none());
        assert!(is_fence(&sent, &bytes("tcp 10.7.0.5:7 198.51.100.7:9 size=88")).is_none());
        assert!(is_fence(&bytes("udp [fd00::1]:7 [fd00::2]:9 size=100"), &outside).is_none());
    }

    #[test]
    fn an_advertisement_answers_a_solicitation() {
        let from = ([2, 0, 0, 0, 0, 1], "fe80::1".parse().unwrap());
        let mut body = vec![135, 0, 0, 0, 0, 0, 0, 0];
        body.extend("fd00::2".parse::<Ipv6Addr>().unwrap().octets());
        let packet = super::super::packet::raw_icmpv6(from.1, Ipv4Addr::LOCALHOST.to_ipv6_mapped(), &body);
        let frame = ethernet(BROADCAST, from.0, IPV6, &packet);
        let found = Solicitation::parse(&frame).unwrap();
        assert_eq!((found.from, found.target), (from, "fd00::2".parse().unwrap()));
        assert_eq!(found.answer([2; 6]).unwrap().len(), ETHERNET + 40 + 32);
        assert!(Solicitation::parse(&frame[..50]).is_none());
    }
}

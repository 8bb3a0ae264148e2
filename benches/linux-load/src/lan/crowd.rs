//! Many hosts behind one interface.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::wire::{Arp, BROADCAST, ETHERNET, IPV4, Mac, Wire, checksum, ethernet, ipv4};

/// Hosts that say something, then all are quiet for a while: no more frames than an emulated machine takes.
const BATCH: u32 = 10;
const PAUSE: Duration = Duration::from_millis(20);

const ICMP: u8 = 1;
const UDP: u8 = 17;

/// Hosts with addresses that follow each other.
pub struct Crowd {
    first: u32,
    count: u32,
}

#[derive(Default)]
struct Counts {
    sent: u64,
    answered: u64,
    asked: u64,
}

impl Crowd {
    pub fn new(first: Ipv4Addr, count: u32) -> Crowd {
        Crowd { first: first.to_bits(), count: count.max(1) }
    }

    /// Each in turn looks for another one by ARP; where it is to say `all`, also for the target, and pings it, and sends a
    /// datagram to a port where nobody listens.
    pub fn run(&self, wire: &Wire, target: Ipv4Addr, time: Duration, all: bool) -> Result<()> {
        let mac = self.find(wire, target)?;
        println!("begins");
        let mut counts = Counts::default();
        let (end, mut host) = (Instant::now() + time, 0);
        while Instant::now() < end {
            for _ in 0..BATCH {
                host = (host + 1) % self.count;
                let own = self.host(host);
                wire.send(&request(own, self.host((host + 1) % self.count).1))?;
                if all {
                    wire.send(&request(own, target))?;
                    wire.send(&ethernet(mac, own.0, IPV4, &ipv4(own.1, target, ICMP, &echo(counts.sent as u16))))?;
                    wire.send(&ethernet(mac, own.0, IPV4, &ipv4(own.1, target, UDP, &[0x80, 0, 0, 9, 0, 8, 0, 0])))?;
                    counts.sent += 1;
                }
            }
            self.answer(wire, target, Instant::now() + PAUSE, &mut counts)?;
        }
        let Counts { sent, answered, asked } = counts;
        println!("{} hosts: {answered} of {sent} pings answered, asked for {asked} times", self.count);
        Ok(())
    }

    fn host(&self, index: u32) -> (Mac, Ipv4Addr) {
        let [_, high, middle, low] = index.to_be_bytes();
        ([0x02, 0, 0x0c, high, middle, low], Ipv4Addr::from_bits(self.first + index))
    }

    /// The host with an address, if it is one of these.
    fn with(&self, address: Ipv4Addr) -> Option<(Mac, Ipv4Addr)> {
        let index = address.to_bits().checked_sub(self.first).filter(|index| *index < self.count)?;
        Some(self.host(index))
    }

    fn find(&self, wire: &Wire, target: Ipv4Addr) -> Result<Mac> {
        for _ in 0..5 {
            wire.send(&request(self.host(0), target))?;
            let until = Instant::now() + Duration::from_secs(1);
            while let Some(frame) = wire.receive(until)? {
                if let Some(arp) = Arp::parse(&frame).filter(|arp| !arp.is_request && arp.sender.1 == target) {
                    return Ok(arp.sender.0);
                }
            }
        }
        None.with_context(|| format!("{target} does not answer ARP"))
    }

    /// Answers who looks for one of these, and counts what is answered to them.
    fn answer(&self, wire: &Wire, target: Ipv4Addr, until: Instant, counts: &mut Counts) -> Result<()> {
        while let Some(frame) = wire.receive(until)? {
            let arp = Arp::parse(&frame).filter(|arp| arp.is_request && arp.sender.1 == target);
            if let Some((asker, own)) = arp.and_then(|arp| Some((arp.sender, self.with(arp.target.1)?))) {
                counts.asked += 1;
                wire.send(&Arp { is_request: false, sender: own, target: asker }.to(asker.0))?;
            }
            let is_echo_reply = frame.get(12..ETHERNET + 21).is_some_and(|packet| {
                packet[..2] == IPV4 && packet[2 + 9] == ICMP && packet[14..18] == target.octets() && packet[22] == 0
            });
            counts.answered += u64::from(is_echo_reply);
            if Instant::now() >= until {
                break;
            }
        }
        Ok(())
    }
}

fn request(own: (Mac, Ipv4Addr), about: Ipv4Addr) -> Vec<u8> {
    Arp { is_request: true, sender: own, target: ([0; 6], about) }.to(BROADCAST)
}

/// An echo request.
fn echo(sequence: u16) -> Vec<u8> {
    let mut message = [8, 0, 0, 0, 0x5a, 0x5a, 0, 0];
    message[6..].copy_from_slice(&sequence.to_be_bytes());
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum);
    message.to_vec()
}

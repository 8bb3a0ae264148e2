//! Hosts of an Ethernet, frame by frame: what Linux's own network stack does not send, or does not show.

mod crowd;
mod dhcp;
mod judge;
mod packet;
mod wire;

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use self::wire::{Arp, BROADCAST, Wire, shown};

pub const USAGE: &str = "
       linux-load lan listen INTERFACE
       linux-load lan probe INTERFACE ADDRESS
       linux-load lan announce INTERFACE ADDRESS request|reply
       linux-load lan crowd INTERFACE ADDRESS FIRST COUNT SECONDS all|noise
       linux-load lan dhcp INTERFACE SERVER ADDRESS MASK LEASE [router=ADDRESS] [routes=HEX] [renew=ack|bare|nak|none]
       linux-load lan judge NAMESPACE INTERFACE MAC HOSTS ROUTER NAMESPACE INTERFACE MAC HOSTS ROUTER FENCE4 FENCE6 <CASES";

/// What the words behind `lan` ask for.
pub fn run(args: &[&str]) -> Result<()> {
    let address = |text: &str| text.parse::<Ipv4Addr>().with_context(|| format!("{text:?} is no address"));
    match *args {
        ["listen", interface] => listen(&Wire::open(interface)?),
        ["probe", interface, target] => probe(&Wire::open(interface)?, address(target)?),
        ["announce", interface, own, form] => announce(&Wire::open(interface)?, address(own)?, form == "request"),
        ["crowd", interface, target, first, count, seconds, what] => {
            let crowd = crowd::Crowd::new(address(first)?, count.parse()?);
            crowd.run(&Wire::open(interface)?, address(target)?, Duration::from_secs(seconds.parse()?), what == "all")
        }
        ["dhcp", interface, server, offered, mask, lease, ref options @ ..] => {
            let lease = dhcp::Lease {
                server: address(server)?,
                address: address(offered)?,
                mask: address(mask)?,
                seconds: lease.parse()?,
            };
            dhcp::serve(interface, &lease, options)
        }
        ["judge", ref ends @ .., fence4, fence6] if ends.len() == 10 => {
            let end = |at: usize| judge::End {
                namespace: ends[at],
                interface: ends[at + 1],
                mac: ends[at + 2],
                hosts: ends[at + 3],
                router: ends[at + 4],
            };
            judge::run([end(0), end(5)], &judge::Fences([fence4, fence6]))
        }
        _ => bail!("usage:{USAGE}"),
    }
}

/// Prints what ARP is used for, a line for each frame: what it is, who sends it, and the address that it is about. Until it
/// is ended.
fn listen(wire: &Wire) -> Result<()> {
    println!("listening");
    loop {
        let Some(frame) = wire.receive(Instant::now() + Duration::from_secs(60))? else { continue };
        let Some(arp) = Arp::parse(&frame) else { continue };
        let what = match arp {
            Arp { is_request: true, sender: (_, Ipv4Addr::UNSPECIFIED), .. } => "probe",
            Arp { sender: (_, sender), target: (_, target), .. } if sender == target => "announcement",
            Arp { is_request: true, .. } => "request",
            Arp { is_request: false, .. } => "reply",
        };
        println!("{what} {} {}", shown(arp.sender.0), arp.target.1);
    }
}

/// Asks as a host does that wants the address for itself (RFC 5227, section 2.1.1): prints who has it.
fn probe(wire: &Wire, target: Ipv4Addr) -> Result<()> {
    for _ in 0..3 {
        wire.send(
            &Arp { is_request: true, sender: (wire.mac, Ipv4Addr::UNSPECIFIED), target: ([0; 6], target) }
                .to(BROADCAST),
        )?;
        let until = Instant::now() + Duration::from_secs(1);
        while let Some(frame) = wire.receive(until)? {
            if let Some(arp) = Arp::parse(&frame).filter(|arp| !arp.is_request && arp.sender.1 == target) {
                println!("{}", shown(arp.sender.0));
                return Ok(());
            }
        }
    }
    bail!("nobody answers a probe for {target}")
}

/// Tells everybody that an address is this interface's, in one of the two forms that are in use.
fn announce(wire: &Wire, own: Ipv4Addr, is_request: bool) -> Result<()> {
    let target = if is_request { [0; 6] } else { wire.mac };
    wire.send(&Arp { is_request, sender: (wire.mac, own), target: (target, own) }.to(BROADCAST))
}

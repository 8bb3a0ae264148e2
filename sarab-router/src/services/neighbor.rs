//! Who has an address: on a client's port it is always the gate, for all addresses but the client's own (ARP, RFC 826 and
//! 5227; neighbour discovery, RFC 4861). A client that says it is somebody else is found out here.

use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetProtocol};

use super::Mac;
use super::frame::{
    self, ALL_NODES, Discovery, ETHERNET, NEIGHBOR_ADVERTISEMENT, NEIGHBOR_SOLICITATION, ROUTER_ADVERTISEMENT,
    ROUTER_SOLICITATION, SOURCE_MAC, TARGET_MAC,
};

/// Flags of an advertisement (RFC 4861, section 4.4).
const IS_ROUTER: u8 = 0x80;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

/// What a client may call itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client<'a> {
    /// Its MAC.
    pub mac: Mac,
    /// Its addresses of IPv4.
    pub v4: &'a [Ipv4Addr],
    /// Its addresses of IPv6. Link-local ones need not be here: a client may choose any but the gate's.
    pub v6: &'a [Ipv6Addr],
}

/// What a client's frame asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// An Ethernet frame for the client.
    Reply(Vec<u8>),
    /// Nothing is to be done: the frame is something else, or asks for nothing, or is not right.
    Nothing,
    /// The client says that it is somebody else. The frame is to be dropped.
    Spoofed(Spoof),
}

/// How a client has said that it is somebody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Spoof {
    /// The frame, or what is in it, is of a MAC that is not the client's.
    Mac(Mac),
    /// It is of an address that is not the client's.
    Address(IpAddr),
    /// The client says that it is a router.
    Router,
}

impl fmt::Display for Spoof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Spoof::Mac(mac) => write!(f, "the MAC {} is not the client's", EthernetAddress(*mac)),
            Spoof::Address(address) => write!(f, "the address {address} is not the client's"),
            Spoof::Router => f.write_str("the client sends router advertisements"),
        }
    }
}

impl core::error::Error for Spoof {}

impl Client<'_> {
    fn check_mac(&self, mac: Mac) -> Result<(), Spoof> {
        if mac == self.mac { Ok(()) } else { Err(Spoof::Mac(mac)) }
    }

    fn check_v4(&self, address: Ipv4Addr) -> Result<(), Spoof> {
        if self.v4.contains(&address) { Ok(()) } else { Err(Spoof::Address(address.into())) }
    }

    fn check_v6(&self, address: Ipv6Addr, gate: Mac) -> Result<(), Spoof> {
        let is_own = self.v6.contains(&address);
        let is_local = address.is_unicast_link_local() && address != frame::link_local(gate);
        if is_own || is_local { Ok(()) } else { Err(Spoof::Address(address.into())) }
    }
}

impl From<Result<Option<Vec<u8>>, Spoof>> for Answer {
    fn from(outcome: Result<Option<Vec<u8>>, Spoof>) -> Answer {
        match outcome {
            Ok(Some(frame)) => Answer::Reply(frame),
            Ok(None) => Answer::Nothing,
            Err(spoof) => Answer::Spoofed(spoof),
        }
    }
}

/// Answers an ARP packet in a frame from a client's port.
///
/// A probe for the client's own address is not answered: nobody else has it (RFC 5227). One for another address is.
pub fn arp(frame: &[u8], gate: Mac, client: &Client<'_>) -> Answer {
    answer_arp(frame, gate, client).into()
}

fn answer_arp(frame: &[u8], gate: Mac, client: &Client<'_>) -> Result<Option<Vec<u8>>, Spoof> {
    let Some((mac, _, packet)) = frame::parse(frame, EthernetProtocol::Arp) else { return Ok(None) };
    let Some(ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr,
        source_protocol_addr: source,
        target_protocol_addr: target,
        ..
    }) = ArpPacket::new_checked(packet).ok().and_then(|packet| ArpRepr::parse(&packet).ok())
    else {
        return Ok(None);
    };
    client.check_mac(mac)?;
    client.check_mac(source_hardware_addr.0)?;
    if operation != ArpOperation::Request {
        return client.check_v4(source).map(|()| None);
    }
    if !source.is_unspecified() {
        client.check_v4(source)?;
    }
    let is_host = !target.is_unspecified() && !target.is_multicast() && !target.is_broadcast() && !target.is_loopback();
    if !is_host || client.v4.contains(&target) {
        return Ok(None);
    }
    let reply = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr: EthernetAddress(gate),
        source_protocol_addr: target,
        target_hardware_addr: EthernetAddress(client.mac),
        target_protocol_addr: source,
    };
    let mut bytes = vec![0; ETHERNET + reply.buffer_len()];
    frame::header(&mut bytes, gate, client.mac, EthernetProtocol::Arp);
    reply.emit(&mut ArpPacket::new_unchecked(&mut bytes[ETHERNET..]));
    Ok(Some(bytes))
}

/// Answers a message of neighbour discovery in a frame from a client's port. What is not valid (RFC 4861, sections 6.1 and
/// 7.1) is nothing, and so is a router's solicitation, which [`solicits_router`](super::advertise::solicits_router) reads.
pub fn neighbor(frame: &[u8], gate: Mac, client: &Client<'_>) -> Answer {
    let Some(message) = Discovery::parse(frame) else { return Answer::Nothing };
    answer_neighbor(&message, gate, client).into()
}

/// The address of IPv6 that a client's message of neighbour discovery claims: that of its sender, or that which a client is
/// about to take (RFC 4862, section 5.4.2). `None` for link-local ones.
pub fn asks_about(frame: &[u8]) -> Option<Ipv6Addr> {
    let message = Discovery::parse(frame)?;
    let claimed = match message.from.is_unspecified() {
        true if message.kind == NEIGHBOR_SOLICITATION => message.target(),
        true => return None,
        false => message.from,
    };
    let is_host = !claimed.is_multicast() && !claimed.is_unspecified() && !claimed.is_unicast_link_local();
    is_host.then_some(claimed)
}

fn answer_neighbor(message: &Discovery<'_>, gate: Mac, client: &Client<'_>) -> Result<Option<Vec<u8>>, Spoof> {
    check(message, gate, client)?;
    if message.kind != NEIGHBOR_SOLICITATION {
        return Ok(None);
    }
    let target = message.target();
    let is_gate = target == frame::link_local(gate);
    // Link-local addresses are the gate's or the client's: nobody else is on the link.
    let is_other = !target.is_multicast()
        && !target.is_unspecified()
        && !target.is_loopback()
        && !target.is_unicast_link_local()
        && !client.v6.contains(&target);
    if !is_gate && !is_other {
        return Ok(None);
    }
    let is_probe = message.from.is_unspecified();
    // Nobody else on the link answers for another: there is nothing that the answer should not override.
    let flags = IS_ROUTER | OVERRIDE | if is_probe { 0 } else { SOLICITED };
    let mut reply = vec![NEIGHBOR_ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0];
    reply.extend(target.octets());
    reply.extend(frame::mac_option(TARGET_MAC, gate));
    let to = if is_probe { ALL_NODES } else { message.from };
    Ok(Some(frame::icmpv6((gate, target), (client.mac, to), &reply)))
}

/// Whether a message is the client's own.
pub(super) fn check(message: &Discovery<'_>, gate: Mac, client: &Client<'_>) -> Result<(), Spoof> {
    client.check_mac(message.mac)?;
    let (from, mac) = (message.from, message.option(SOURCE_MAC));
    if !from.is_unspecified() {
        client.check_v6(from, gate)?;
    }
    match message.kind {
        ROUTER_SOLICITATION | NEIGHBOR_SOLICITATION => mac.map_or(Ok(()), |mac| client.check_mac(mac)),
        NEIGHBOR_ADVERTISEMENT => {
            client.check_v6(message.target(), gate)?;
            message.option(TARGET_MAC).map_or(Ok(()), |mac| client.check_mac(mac))
        }
        ROUTER_ADVERTISEMENT => Err(Spoof::Router),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;

//! A DHCP server for one client (RFC 2131): the client's port has one IPv4 address, fixed in advance, and that is what every
//! answer says.
//!
//! Not done: relays (RFC 3046), BOOTP, and options in the fields of other things in answers, which are short.

mod options;

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::net::Ipv4Addr;

use smoltcp::wire::{DhcpFlags, DhcpMessageType, DhcpOpCode, DhcpPacket, EthernetAddress, EthernetProtocol, Ipv4Cidr};

use self::options::{Options, Writer};
use super::Mac;
use super::frame::{self, BROADCAST, End};

const SERVER_PORT: u16 = 67;
const CLIENT_PORT: u16 = 68;
const COOKIE: u32 = 0x6382_5363;
/// The headers of IP and UDP, which a message's largest size counts in.
const HEADERS: usize = 28;
/// What every client takes (RFC 2132, section 9.10), and what is sent at most.
const MIN_SIZE: usize = 576;
const MAX_SIZE: usize = 1500;
/// Some old clients take no shorter message: that is what BOOTP's was long.
const MIN_MESSAGE: usize = 300;
/// A client's identifier, which is repeated (RFC 6842).
const MAX_IDENTIFIER: usize = 255;

/// What a client's port has, and what else its client is told.
///
/// # Examples
///
/// ```
/// use sarab_router::services::dhcp::Offer;
///
/// let offer = Offer::new([0, 0x16, 0x3e, 0, 0, 1], [10, 137, 0, 7].into(), 32, [10, 137, 0, 1].into());
/// assert_eq!(offer.lease, 3600);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Offer {
    /// The client's MAC. Nobody else is answered.
    pub mac: Mac,
    /// The client's address.
    pub address: Ipv4Addr,
    /// The length of the client's prefix, 32 where nobody else is on its link.
    pub prefix_len: u8,
    /// The router. Where it is outside of the prefix, a route of its own leads to it (RFC 3442).
    pub router: Option<Ipv4Addr>,
    /// The server's address, which is its identifier as well.
    pub server: Ipv4Addr,
    /// The MAC that answers come from.
    pub server_mac: Mac,
    /// DNS servers.
    pub name_servers: Vec<Ipv4Addr>,
    /// The domain that names are searched in.
    pub domain: Option<String>,
    /// The network's MTU, in bytes.
    pub mtu: Option<u16>,
    /// How long the address may be used, in seconds; `u32::MAX` is without an end.
    pub lease: u32,
    /// The client's name.
    pub host_name: Option<String>,
    /// Further routes: networks, and the routers to them. A router `0.0.0.0` says that the network is on the link.
    pub routes: Vec<(Ipv4Cidr, Ipv4Addr)>,
}

impl Offer {
    /// One of a router that is the server too, for an hour, without names. Answers come from [`GATE_MAC`](super::GATE_MAC).
    pub fn new(mac: Mac, address: Ipv4Addr, prefix_len: u8, router: Ipv4Addr) -> Offer {
        Offer {
            mac,
            address,
            prefix_len: prefix_len.min(32),
            router: Some(router),
            server: router,
            server_mac: super::GATE_MAC,
            name_servers: Vec::new(),
            domain: None,
            mtu: None,
            lease: 3600,
            host_name: None,
            routes: Vec::new(),
        }
    }

    fn mask(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(u32::MAX.checked_shl(32 - u32::from(self.prefix_len.min(32))).unwrap_or(0))
    }

    /// The classless routes, where the router alone does not say it all. With them a client forgets the router (RFC 3442), so
    /// that they have to lead there too.
    fn classless_routes(&self) -> Vec<u8> {
        let mask = self.mask();
        let outside = |router: &Ipv4Addr| (*router & mask) != (self.address & mask);
        let outside = self.router.filter(outside);
        if outside.is_none() && self.routes.is_empty() {
            return Vec::new();
        }
        let everything = Ipv4Cidr::new(Ipv4Addr::UNSPECIFIED, 0);
        let on_link = outside.map(|router| (Ipv4Cidr::new(router, 32), Ipv4Addr::UNSPECIFIED));
        let has_default = self.routes.iter().any(|(network, _)| network.prefix_len() == 0);
        let default = self.router.filter(|_| !has_default).map(|router| (everything, router));
        let mut bytes = Vec::new();
        for (network, router) in on_link.iter().chain(&self.routes).chain(&default) {
            let len = network.prefix_len();
            bytes.push(len);
            bytes.extend(&network.network().address().octets()[..usize::from(len).div_ceil(8)]);
            bytes.extend(router.octets());
        }
        bytes
    }
}

/// What became of a client's frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// An Ethernet frame for the client.
    Reply(Vec<u8>),
    /// The client says that somebody else has its address (DECLINE).
    Declined,
    /// The client does not use its address any more (RELEASE).
    Released,
    /// Nothing is to be done: the frame is something else, or not right, or for another server.
    Nothing,
}

impl Response {
    /// The frame that is to be sent, if one is.
    pub fn into_frame(self) -> Option<Vec<u8>> {
        if let Response::Reply(frame) = self { Some(frame) } else { None }
    }
}

/// Whether a frame is for a DHCP server: a datagram to port 67 of an address of this server or of all.
pub fn is_request(frame: &[u8], client: &Offer) -> bool {
    parse(frame, client).is_some()
}

/// Answers a frame from a client's port with a frame. A lease always begins anew, so that no time goes in.
///
/// UDP's checksum is not looked at: between domains it may be open.
pub fn respond(frame: &[u8], client: &Offer) -> Response {
    parse(frame, client).and_then(|message| answer(message, client)).unwrap_or(Response::Nothing)
}

/// The message in a client's frame to this server.
fn parse<'a>(frame: &'a [u8], client: &Offer) -> Option<&'a [u8]> {
    let (from, to, packet) = frame::parse(frame, EthernetProtocol::Ipv4)?;
    if from != client.mac || (to != BROADCAST && to != client.server_mac) {
        return None;
    }
    let (to, message) = frame::parse_datagram(packet, SERVER_PORT)?;
    (to == Ipv4Addr::BROADCAST || to == client.server).then_some(message)
}

/// What is read of a message.
struct Request<'a> {
    packet: DhcpPacket<&'a [u8]>,
    options: Options<'a>,
    kind: DhcpMessageType,
}

impl<'a> Request<'a> {
    fn parse(message: &'a [u8], mac: Mac) -> Option<Request<'a>> {
        let packet = DhcpPacket::new_checked(message).ok()?;
        let is_of_client = packet.opcode() == DhcpOpCode::Request
            && message[1..3] == [1, 6]
            && packet.client_hardware_address().0 == mac
            && packet.relay_agent_ip().is_unspecified()
            && packet.magic_number() == COOKIE;
        if !is_of_client {
            return None;
        }
        let options = Options::new(message);
        // BOOTP has no kind.
        let [kind] = options.value(options::KIND)?[..] else { return None };
        Some(Request { kind: kind.into(), packet, options })
    }

    /// Whether it names this server, or none.
    fn is_for(&self, server: Ipv4Addr) -> bool {
        self.options.value(options::SERVER).is_none() || self.options.address(options::SERVER) == Some(server)
    }

    /// How long an answer may be.
    fn max_message(&self) -> usize {
        let value = self.options.value(options::MAX_SIZE);
        let size = value.as_ref().and_then(|value| value.first_chunk()).map_or(0, |bytes| u16::from_be_bytes(*bytes));
        usize::from(size).clamp(MIN_SIZE, MAX_SIZE) - HEADERS
    }
}

fn answer(message: &[u8], client: &Offer) -> Option<Response> {
    let request = Request::parse(message, client.mac)?;
    if !request.is_for(client.server) {
        return None;
    }
    let own = request.packet.client_ip();
    let requested = request.options.address(options::REQUESTED);
    let kind = match request.kind {
        DhcpMessageType::Discover => DhcpMessageType::Offer,
        DhcpMessageType::Request => {
            // Of a client that selects or reboots, or else that renews (RFC 2131, section 4.3.2).
            let wanted = requested.or(Some(own).filter(|own| !own.is_unspecified()))?;
            if wanted == client.address { DhcpMessageType::Ack } else { DhcpMessageType::Nak }
        }
        // It has an address by other means, which can only be its own.
        DhcpMessageType::Inform if own == client.address => DhcpMessageType::Ack,
        DhcpMessageType::Decline if requested == Some(client.address) => return Some(Response::Declined),
        DhcpMessageType::Release if own == client.address => return Some(Response::Released),
        _ => return None,
    };
    Some(Response::Reply(emit(&request, kind, client)))
}

/// An answer in a frame.
fn emit(request: &Request<'_>, kind: DhcpMessageType, client: &Offer) -> Vec<u8> {
    let is_refusal = kind == DhcpMessageType::Nak;
    let options = write_options(request, kind, client);
    let mut bytes = vec![0; (240 + options.len()).max(MIN_MESSAGE)];
    bytes[240..240 + options.len()].copy_from_slice(&options);
    let flags = request.packet.flags() & DhcpFlags::BROADCAST;
    // Whoever has the address already says so (RFC 2131, section 4.1).
    let own = request.packet.client_ip();
    let has_address = own == client.address && request.kind != DhcpMessageType::Discover;
    let mut packet = DhcpPacket::new_unchecked(&mut bytes[..]);
    packet.set_opcode(DhcpOpCode::Reply);
    packet.set_hardware_type(smoltcp::wire::ArpHardware::Ethernet);
    packet.set_hardware_len(6);
    packet.set_transaction_id(request.packet.transaction_id());
    packet.set_flags(flags);
    packet.set_client_hardware_address(EthernetAddress(client.mac));
    packet.set_magic_number(COOKIE);
    if !is_refusal {
        packet.set_client_ip(if has_address { own } else { Ipv4Addr::UNSPECIFIED });
        let yours = request.kind != DhcpMessageType::Inform;
        packet.set_your_ip(if yours { client.address } else { Ipv4Addr::UNSPECIFIED });
    }
    let to_all = is_refusal || (!has_address && flags.contains(DhcpFlags::BROADCAST));
    let (mac, address) = if to_all { (BROADCAST, Ipv4Addr::BROADCAST) } else { (client.mac, client.address) };
    let from = End { mac: client.server_mac, address: client.server, port: SERVER_PORT };
    frame::datagram(from, End { mac, address, port: CLIENT_PORT }, &bytes)
}

/// The options of an answer, those first that a client cannot do without.
fn write_options(request: &Request<'_>, kind: DhcpMessageType, client: &Offer) -> Vec<u8> {
    let mut options = Writer::new(request.max_message());
    options.push(options::KIND, &[kind.into()]);
    options.push(options::SERVER, &client.server.octets());
    if kind == DhcpMessageType::Nak {
        options.push(options::MESSAGE, b"the address is not this client's");
    } else {
        if request.kind != DhcpMessageType::Inform {
            options.push(options::LEASE, &client.lease.to_be_bytes());
        }
        options.push(options::MASK, &client.mask().octets());
        let wanted = request.options.value(options::PARAMETERS);
        let is_wanted = |kind: u8| wanted.as_ref().is_none_or(|wanted| wanted.contains(&kind));
        let mut push = |kind: u8, value: &[u8]| {
            if is_wanted(kind) {
                options.push(kind, value);
            }
        };
        push(options::ROUTES, &client.classless_routes());
        let router = client.router.map(|router| router.octets());
        push(options::ROUTER, router.as_ref().map_or(&[], |router| &router[..]));
        let servers: Vec<u8> = client.name_servers.iter().flat_map(|server| server.octets()).collect();
        push(options::NAME_SERVER, &servers);
        let mtu = client.mtu.map(u16::to_be_bytes);
        push(options::MTU, mtu.as_ref().map_or(&[], |mtu| &mtu[..]));
        push(options::HOST_NAME, text(&client.host_name));
        push(options::DOMAIN, text(&client.domain));
        push(options::SEARCH, &search(text(&client.domain)));
        if client.lease != u32::MAX && request.kind != DhcpMessageType::Inform {
            options.push(options::RENEW, &(client.lease / 2).to_be_bytes());
            options.push(options::REBIND, &(client.lease - client.lease / 8).to_be_bytes());
        }
    }
    if let Some(identifier) = request.options.value(options::CLIENT).filter(|value| value.len() <= MAX_IDENTIFIER) {
        options.push(options::CLIENT, &identifier);
    }
    options.finish()
}

fn text(text: &Option<String>) -> &[u8] {
    text.as_deref().unwrap_or_default().as_bytes()
}

/// A domain as DNS writes it; nothing where it can be none.
fn search(domain: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let domain = domain.strip_suffix(b".").unwrap_or(domain);
    for label in domain.split(|byte| *byte == b'.') {
        if label.is_empty() || label.len() > 63 {
            return Vec::new();
        }
        bytes.push(label.len() as u8);
        bytes.extend(label);
    }
    bytes.push(0);
    bytes
}

#[cfg(test)]
mod tests;

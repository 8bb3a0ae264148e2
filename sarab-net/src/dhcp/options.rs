//! What is read of a server's message.

use alloc::vec::Vec;
use core::net::Ipv4Addr;

use smoltcp::wire::{DhcpMessageType, DhcpOpCode, DhcpPacket, Ipv4Cidr};

use crate::address;
use crate::neighbors::Mac;
use crate::routes::Route;

pub(super) const MASK: u8 = 1;
pub(super) const ROUTER: u8 = 3;
pub(super) const NAME_SERVER: u8 = 6;
const LEASE: u8 = 51;
const OVERLOAD: u8 = 52;
const KIND: u8 = 53;
const SERVER: u8 = 54;
const RENEW: u8 = 58;
const REBIND: u8 = 59;
/// Classless static routes (RFC 3442).
pub(super) const ROUTES: u8 = 121;
const PAD: u8 = 0;
const END: u8 = 255;

/// Of the message's fixed part (RFC 2131, section 2).
const SERVER_NAME: core::ops::Range<usize> = 44..108;
const FILE: core::ops::Range<usize> = 108..236;
const OPTIONS: usize = 240;

const MAX_ROUTES: usize = 64;
const MAX_NAME_SERVERS: usize = 3;

/// A server's message to this client.
pub(super) struct Answer<'a> {
    pub(super) kind: DhcpMessageType,
    pub(super) your_ip: Ipv4Addr,
    pub(super) server: Option<Ipv4Addr>,
    pub(super) mask: Option<u8>,
    pub(super) lease: Option<u32>,
    pub(super) renew: Option<u32>,
    pub(super) rebind: Option<u32>,
    options: Options<'a>,
}

impl<'a> Answer<'a> {
    /// `None` where it is for another client, or not in answer to this transaction, or none.
    pub(super) fn parse(bytes: &'a [u8], mac: Mac, transaction: u32) -> Option<Answer<'a>> {
        let packet = DhcpPacket::new_checked(bytes).ok()?;
        let is_for_this = packet.opcode() == DhcpOpCode::Reply
            && packet.transaction_id() == transaction
            && packet.client_hardware_address().0 == mac
            && packet.magic_number() == 0x6382_5363;
        if !is_for_this {
            return None;
        }
        let options = Options::new(bytes);
        let number = |kind: u8| options.value(kind).first_chunk().map(|bytes| u32::from_be_bytes(*bytes));
        let mask = number(MASK).filter(|mask| mask.leading_ones() + mask.trailing_zeros() == 32);
        Some(Answer {
            kind: DhcpMessageType::from(*options.value(KIND).first()?),
            your_ip: packet.your_ip(),
            server: number(SERVER).map(Ipv4Addr::from).filter(|server| address::is_unicast(*server)),
            mask: mask.map(|mask| mask.leading_ones() as u8),
            lease: number(LEASE),
            renew: number(RENEW),
            rebind: number(REBIND),
            options,
        })
    }

    /// The address, with the prefix of its class where the server says none.
    pub(super) fn address(&self) -> Option<Ipv4Cidr> {
        let class = match self.your_ip.octets()[0] {
            0..128 => 8,
            128..192 => 16,
            192.. => 24,
        };
        Some(Ipv4Cidr::new(self.your_ip, self.mask.unwrap_or(class)))
    }

    /// The routes beside that to the address's own network. With classless routes the router does not count (RFC 3442).
    pub(super) fn routes(&self, own: Ipv4Cidr) -> Option<Vec<Route>> {
        let classless = self.options.value(ROUTES);
        if !classless.is_empty() {
            return Some(parse_routes(&classless, own.address()));
        }
        let routers = self.options.addresses(ROUTER);
        let is_router = |router: &Ipv4Addr| address::is_unicast(*router) && *router != own.address();
        // A server without a router may say 0.0.0.0.
        self.options.has(ROUTER).then(|| routers.filter(is_router).take(1).map(Route::default_via).collect())
    }

    pub(super) fn name_servers(&self) -> Option<Vec<Ipv4Addr>> {
        let servers = self.options.addresses(NAME_SERVER).filter(|server| address::is_unicast(*server));
        self.options.has(NAME_SERVER).then(|| servers.take(MAX_NAME_SERVERS).collect())
    }
}

fn parse_routes(mut bytes: &[u8], own: Ipv4Addr) -> Vec<Route> {
    let mut routes = Vec::new();
    while let [len @ 0..=32, rest @ ..] = bytes
        && routes.len() < MAX_ROUTES
    {
        let significant = usize::from(*len).div_ceil(8);
        let Some((network, rest)) = rest.split_at_checked(significant) else { break };
        let Some((gateway, rest)) = rest.split_first_chunk::<4>() else { break };
        bytes = rest;
        let mut octets = [0; 4];
        octets[..significant].copy_from_slice(network);
        let network = Ipv4Cidr::new(octets.into(), *len).network();
        match Ipv4Addr::from(*gateway) {
            Ipv4Addr::UNSPECIFIED => routes.push(Route::on_link(network)),
            gateway if address::is_unicast(gateway) && gateway != own => routes.push(Route::via(network, gateway)),
            _ => {}
        }
    }
    routes
}

/// A message's options: the usual field, and the two others that may have more (RFC 2131, section 4.1).
struct Options<'a>([&'a [u8]; 3]);

impl<'a> Options<'a> {
    fn new(bytes: &'a [u8]) -> Options<'a> {
        let mut all = Options([bytes.get(OPTIONS..).unwrap_or_default(), &[], &[]]);
        let overload = all.value(OVERLOAD).first().copied().unwrap_or(0);
        if overload & 1 != 0 {
            all.0[1] = bytes.get(FILE).unwrap_or_default();
        }
        if overload & 2 != 0 {
            all.0[2] = bytes.get(SERVER_NAME).unwrap_or_default();
        }
        all
    }

    fn iter(&self) -> impl Iterator<Item = (u8, &'a [u8])> + '_ {
        self.0.iter().flat_map(|field| {
            let mut rest = *field;
            core::iter::from_fn(move || {
                loop {
                    match rest {
                        [PAD, more @ ..] => rest = more,
                        [] | [END, ..] | [_] => return None,
                        [kind, len, more @ ..] => {
                            let (value, more) = more.split_at_checked(usize::from(*len))?;
                            rest = more;
                            return Some((*kind, value));
                        }
                    }
                }
            })
        })
    }

    fn has(&self, kind: u8) -> bool {
        self.iter().any(|(other, _)| other == kind)
    }

    /// The value of an option, all its parts in a row (RFC 3396); empty where there is none.
    fn value(&self, kind: u8) -> Vec<u8> {
        self.iter().filter(|(other, _)| *other == kind).flat_map(|(_, value)| value).copied().collect()
    }

    fn addresses(&self, kind: u8) -> impl Iterator<Item = Ipv4Addr> + use<> {
        let value = self.value(kind);
        let addresses: Vec<_> = value.as_chunks::<4>().0.iter().map(|bytes| Ipv4Addr::from(*bytes)).collect();
        addresses.into_iter()
    }
}

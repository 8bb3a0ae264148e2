//! Router advertisements (RFC 4861, with addresses by RFC 4862 and name servers by RFC 8106): what they say, and when they
//! are sent.

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::net::Ipv6Addr;
use core::time::Duration;

use smoltcp::wire::Ipv6Cidr;

use super::frame::{self, ALL_NODES, Discovery, ROUTER_ADVERTISEMENT, ROUTER_SOLICITATION, SOURCE_MAC};
use super::neighbor::{self, Client, Spoof};
use super::{GATE_MAC, Mac};

/// Options (RFC 4861, section 4.6; RFC 8106).
const PREFIX: u8 = 3;
const MTU: u8 = 5;
const NAME_SERVERS: u8 = 25;
const SEARCH: u8 = 31;
/// What an option's length, in units of eight bytes, can say.
const MAX_UNITS: usize = 255;
/// What a frame of an advertisement is long at most, so that it goes through every link (RFC 8200, section 5).
const MAX_MESSAGE: usize = 1280 - 40;

/// The least between two advertisements to all (RFC 4861, section 10).
pub const MIN_DELAY_BETWEEN_RAS: Duration = Duration::from_secs(3);
/// The first few come sooner.
const MAX_INITIAL_INTERVAL: Duration = Duration::from_secs(16);
const INITIAL: u32 = 3;
/// Between two advertisements unless something else is said: a third of the usual lifetime (RFC 4861, section 6.2.1).
const INTERVAL: Duration = Duration::from_secs(600);

/// A prefix that is advertised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// The network, with its length.
    pub network: Ipv6Cidr,
    /// Other hosts of the network are on the link. Not so where each client has a port of its own.
    pub on_link: bool,
    /// Clients make addresses of it by themselves (RFC 4862).
    pub autonomous: bool,
    /// How long an address is one, in seconds; `u32::MAX` is without an end.
    pub valid: u32,
    /// How long an address is used for new connections, in seconds; not longer than `valid`.
    pub preferred: u32,
}

impl Prefix {
    /// One of which clients make addresses, and whose other hosts are reached through the router: for a day and four hours.
    pub fn autonomous(network: Ipv6Cidr) -> Prefix {
        Prefix { network, on_link: false, autonomous: true, valid: 86_400, preferred: 14_400 }
    }
}

/// What a router advertises.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// The router's MAC, of which its link-local address is made.
    pub mac: Mac,
    /// The hop limit of clients' packets; 0 says nothing of it.
    pub hop_limit: u8,
    /// Addresses are given by DHCPv6.
    pub managed: bool,
    /// Other things are told by DHCPv6.
    pub other: bool,
    /// How long the router is one, in seconds (up to 9000 by RFC 4861); 0 where it is no default router.
    pub lifetime: u16,
    /// Networks.
    pub prefixes: Vec<Prefix>,
    /// The link's MTU, in bytes.
    pub mtu: Option<u32>,
    /// DNS servers.
    pub name_servers: Vec<Ipv6Addr>,
    /// The domains that names are searched in.
    pub search: Vec<String>,
    /// How long DNS servers and domains are used, in seconds.
    pub names_lifetime: u32,
}

impl Default for Config {
    /// A default router for half an hour, which is [`GATE_MAC`], and nothing else.
    fn default() -> Config {
        Config {
            mac: GATE_MAC,
            hop_limit: 64,
            managed: false,
            other: false,
            lifetime: 1800,
            prefixes: Vec::new(),
            mtu: None,
            name_servers: Vec::new(),
            search: Vec::new(),
            names_lifetime: 1800,
        }
    }
}

impl Config {
    /// What is sent when the router goes away (RFC 4861, section 6.2.5): neither it nor its name servers are used any more.
    pub fn ceasing(&self) -> Config {
        Config { lifetime: 0, names_lifetime: 0, ..self.clone() }
    }
}

/// An advertisement as an Ethernet frame, to all nodes, or to one of them: its MAC, and its address.
///
/// What does not fit into 1280 bytes is left out, from the end: prefixes come first, domains last.
///
/// # Examples
///
/// ```
/// use sarab_router::services::advertise::{Config, Prefix, advertisement};
///
/// let mut config = Config::default();
/// config.prefixes.push(Prefix::autonomous("fd00:1::/64".parse().unwrap()));
/// let frame = advertisement(&config, None);
/// assert_eq!(frame[..6], [0x33, 0x33, 0, 0, 0, 1]);
/// ```
pub fn advertisement(config: &Config, to: Option<(Mac, Ipv6Addr)>) -> Vec<u8> {
    let flags = u8::from(config.managed) << 7 | u8::from(config.other) << 6;
    let mut message = vec![ROUTER_ADVERTISEMENT, 0, 0, 0, config.hop_limit, flags];
    message.extend(config.lifetime.to_be_bytes());
    // Times of neighbour discovery: nothing is said of them.
    message.extend([0; 8]);
    let mut push = |option: &[u8]| {
        if message.len() + option.len() <= MAX_MESSAGE {
            message.extend(option);
        }
    };
    push(&frame::mac_option(SOURCE_MAC, config.mac));
    if let Some(mtu) = config.mtu {
        push(&[&[MTU, 1, 0, 0][..], &mtu.to_be_bytes()].concat());
    }
    for prefix in &config.prefixes {
        let flags = u8::from(prefix.on_link) << 7 | u8::from(prefix.autonomous) << 6;
        let preferred = prefix.preferred.min(prefix.valid);
        let len = prefix.network.prefix_len();
        let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
        let network = (prefix.network.address().to_bits() & mask).to_be_bytes();
        let times = [prefix.valid.to_be_bytes(), preferred.to_be_bytes(), [0; 4]].concat();
        push(&[&[PREFIX, 4, len, flags][..], &times, &network].concat());
    }
    if !config.name_servers.is_empty() {
        let servers = config.name_servers.iter().flat_map(|server| server.octets()).collect();
        push(&names(NAME_SERVERS, config.names_lifetime, servers));
    }
    let search: Vec<u8> = config.search.iter().flat_map(|domain| labels(domain)).collect();
    if !search.is_empty() {
        push(&names(SEARCH, config.names_lifetime, search));
    }
    let to = to.unwrap_or((frame::group(ALL_NODES), ALL_NODES));
    frame::icmpv6((config.mac, frame::link_local(config.mac)), to, &message)
}

/// An option of RFC 8106; nothing where it is too long.
fn names(kind: u8, lifetime: u32, mut value: Vec<u8>) -> Vec<u8> {
    value.resize(value.len().next_multiple_of(8), 0);
    let units = 1 + value.len() / 8;
    if units > MAX_UNITS {
        return Vec::new();
    }
    [&[kind, units as u8, 0, 0][..], &lifetime.to_be_bytes(), &value].concat()
}

/// A domain as DNS writes it; nothing where it can be none.
fn labels(domain: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in domain.strip_suffix('.').unwrap_or(domain).split('.') {
        if label.is_empty() || label.len() > 63 {
            return Vec::new();
        }
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

/// Whether a frame from a client's port solicits an advertisement (RFC 4861, section 6.1.1).
///
/// # Errors
///
/// The client says that it is somebody else.
pub fn solicits_router(frame: &[u8], gate: Mac, client: &Client<'_>) -> Result<bool, Spoof> {
    let Some(message) = Discovery::parse(frame).filter(|message| message.kind == ROUTER_SOLICITATION) else {
        return Ok(false);
    };
    neighbor::check(&message, gate, client)?;
    Ok(!(message.from.is_unspecified() && message.option(SOURCE_MAC).is_some()))
}

/// When a port's advertisements are due. All times are since the same moment.
///
/// A solicited one goes to all nodes, at once where the last was long enough ago: RFC 4861, section 6.2.6, has a pause of up to
/// half a second, so that the routers of a link do not answer together, and here there is one.
#[derive(Clone, Debug)]
pub struct Schedule {
    interval: Duration,
    random: u64,
    sent: u32,
    last: Option<Duration>,
    due: Duration,
}

impl Schedule {
    /// The first is due at once. `seed` has the ports' advertisements come at different times.
    pub fn new(now: Duration, seed: u64) -> Schedule {
        Schedule { interval: INTERVAL, random: seed, sent: 0, last: None, due: now }
    }

    /// At most so long between two: 4 s to 1800 s by RFC 4861, section 6.2.1.
    pub fn set_interval(&mut self, interval: Duration) {
        self.interval = interval.clamp(Duration::from_secs(4), Duration::from_secs(1800));
    }

    /// When the next advertisement is due.
    pub fn next(&self) -> Duration {
        self.due
    }

    /// A client has asked for one.
    pub fn solicit(&mut self, now: Duration) {
        self.due = self.due.min(self.earliest(now));
    }

    /// What is advertised has changed.
    pub fn restart(&mut self, now: Duration) {
        self.sent = 0;
        self.solicit(now);
    }

    /// Whether one is to be sent now, to all nodes.
    pub fn poll(&mut self, now: Duration) -> bool {
        if now < self.due {
            return false;
        }
        self.sent = self.sent.saturating_add(1);
        self.last = Some(now);
        // Between a third of it and all (RFC 4861, section 6.2.4).
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let pause = self.interval / 3 + self.interval * 2 / 3 * ((self.random >> 48) as u32) / (1 << 16);
        let pause = if self.sent < INITIAL { pause.min(MAX_INITIAL_INTERVAL) } else { pause };
        self.due = now + pause.max(MIN_DELAY_BETWEEN_RAS);
        true
    }

    fn earliest(&self, now: Duration) -> Duration {
        self.last.map_or(now, |last| now.max(last + MIN_DELAY_BETWEEN_RAS))
    }
}

#[cfg(test)]
mod tests;

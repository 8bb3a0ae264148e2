//! IPv6 addresses without a server: what router advertisements say of a network, for how long, and when to ask for them
//! (RFC 4861, 4862, 7559 and 8106). Nothing here does input or output, or reads a clock.
//!
//! smoltcp has this for its own Ethernet, with two faults: where no router answers it has the stack polled without a pause,
//! and an advertisement of nothing, which anybody can send, stops all sockets' timers.
//!
//! Not done: routers' preferences (RFC 4191), their MTU, and whether they can be reached. One address is configured at a
//! time.

use alloc::vec::Vec;
use core::net::Ipv6Addr;
use core::time::Duration;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, HardwareAddress, Icmpv6Message, Icmpv6Packet, Icmpv6Repr,
    IpProtocol, Ipv6Cidr, Ipv6Packet, Ipv6Repr, NdiscOption, NdiscOptionRepr, NdiscOptionType, NdiscPrefixInfoFlags,
    NdiscPrefixInformation, NdiscRepr,
};

/// What the stack is to be given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Configuration {
    /// With a prefix of 128 bits where the network is not on the link.
    pub(crate) address: Ipv6Cidr,
    pub(crate) gateway: Option<Ipv6Addr>,
    pub(crate) name_servers: Vec<Ipv6Addr>,
}

/// How many prefixes, and how many routers, are remembered.
const MAX_ENTRIES: usize = 4;
/// How many name servers are. The stack's configuration has room for three.
const MAX_SERVERS: usize = 3;
/// A lifetime without an end (RFC 4861, section 4.6.2).
const INFINITE: Duration = Duration::from_secs(u32::MAX as u64);
/// What a stranger cannot shorten a prefix's lifetime below (RFC 4862, section 5.5.3).
const TWO_HOURS: Duration = Duration::from_secs(2 * 60 * 60);
/// Between the first solicitation and the second, and the least between any two (RFC 7559, IRT; RFC 4861).
const FIRST_INTERVAL: Duration = Duration::from_secs(4);
/// What the interval grows to (RFC 7559, MRT).
const LAST_INTERVAL: Duration = Duration::from_secs(60 * 60);
/// The longest wait before the first. RFC 4861 would have up to a second, but a guest is up in less.
const DELAY: Duration = Duration::from_millis(100);
/// The option with name servers (RFC 8106), which smoltcp does not know.
const NAME_SERVERS: u8 = 25;

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
const ALL_ROUTERS_MAC: EthernetAddress = EthernetAddress([0x33, 0x33, 0, 0, 0, 2]);
const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0);

const SOLICIT: NdiscRepr<'static> = NdiscRepr::RouterSolicit { lladdr: None };
/// How long a solicitation is with its sender's link-layer address, as an Ethernet frame.
pub(crate) const SOLICITATION: usize = 14 + 40 + SOLICIT.buffer_len() + 8;

/// An advertised prefix or router.
struct Advertised<T> {
    /// A prefix's network, or a router.
    address: Ipv6Addr,
    what: T,
    seen: LastSeen,
}

/// When something was last advertised.
struct LastSeen {
    at: Duration,
    /// Not since the link was down: it may be another network now.
    is_stale: bool,
}

struct Prefix {
    is_on_link: bool,
    preferred_until: Duration,
    valid_until: Duration,
}

struct Router {
    until: Duration,
}

struct Server {
    address: Ipv6Addr,
    until: Duration,
}

/// What is known of the network. All times are since the same moment.
pub(crate) struct Slaac {
    mac: EthernetAddress,
    random: u64,
    is_up: bool,
    prefixes: Vec<Advertised<Prefix>>,
    routers: Vec<Advertised<Router>>,
    servers: Vec<Server>,
    /// What the stack was last given.
    prefix: Option<Ipv6Addr>,
    router: Option<Ipv6Addr>,
    /// When that was.
    configured_at: Duration,
    /// When the next solicitation is due; `None` where a router is known.
    solicit_at: Option<Duration>,
    /// Between the last solicitation and the next; none was sent where it is zero.
    interval: Duration,
    solicited_at: Option<Duration>,
}

impl Slaac {
    pub(crate) fn new(mac: [u8; 6], seed: u64) -> Slaac {
        Slaac {
            mac: EthernetAddress(mac),
            random: seed,
            is_up: false,
            prefixes: Vec::with_capacity(MAX_ENTRIES),
            routers: Vec::with_capacity(MAX_ENTRIES),
            servers: Vec::with_capacity(MAX_SERVERS),
            prefix: None,
            router: None,
            configured_at: Duration::ZERO,
            solicit_at: None,
            interval: Duration::ZERO,
            solicited_at: None,
        }
    }

    /// The link's state. After a pause the network may be another one: routers are asked again,
    /// and who answers goes before what was known. Until then that stands, for mostly it is the same.
    pub(crate) fn link(&mut self, is_up: bool, now: Duration) {
        let is_new = self.is_up != is_up;
        self.is_up = is_up;
        if is_new && is_up {
            self.prefixes.iter_mut().for_each(|prefix| prefix.seen.is_stale = true);
            self.routers.iter_mut().for_each(|router| router.seen.is_stale = true);
            let delay = DELAY * self.random(1000) / 1000;
            self.begin_to_solicit(now + delay);
        } else if is_new {
            self.solicit_at = None;
        }
    }

    fn begin_to_solicit(&mut self, at: Duration) {
        self.interval = Duration::ZERO;
        // A link that comes and goes, or a router that does, is no reason to send more.
        self.solicit_at = Some(self.solicited_at.map_or(at, |last| at.max(last + FIRST_INTERVAL)));
    }

    /// Less than `end`.
    fn random(&mut self, end: u32) -> u32 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) as u32 % end
    }

    /// When the next solicitation is due.
    pub(crate) fn solicit_at(&self) -> Option<Duration> {
        self.solicit_at
    }

    /// A solicitation that is sent now.
    pub(crate) fn solicit(&mut self, now: Duration) -> [u8; SOLICITATION] {
        self.interval = match self.interval {
            Duration::ZERO => FIRST_INTERVAL,
            last => (last * 2).min(LAST_INTERVAL),
        };
        // RFC 7559 has it a tenth more or less.
        self.interval = self.interval * (900 + self.random(200)) / 1000;
        self.solicit_at = Some(now + self.interval);
        self.solicited_at = Some(now);
        self.solicitation()
    }

    fn solicitation(&self) -> [u8; SOLICITATION] {
        let message = Icmpv6Repr::Ndisc(NdiscRepr::RouterSolicit { lladdr: Some(self.mac.into()) });
        let header = Ipv6Repr {
            src_addr: self.address(LINK_LOCAL),
            dst_addr: ALL_ROUTERS,
            next_header: IpProtocol::Icmpv6,
            payload_len: message.buffer_len(),
            hop_limit: 255,
        };
        let mut bytes = [0; SOLICITATION];
        let mut frame = EthernetFrame::new_unchecked(&mut bytes[..]);
        frame.set_src_addr(self.mac);
        frame.set_dst_addr(ALL_ROUTERS_MAC);
        frame.set_ethertype(EthernetProtocol::Ipv6);
        let mut packet = Ipv6Packet::new_unchecked(frame.payload_mut());
        header.emit(&mut packet);
        let mut packet = Icmpv6Packet::new_unchecked(packet.payload_mut());
        message.emit(&header.src_addr, &header.dst_addr, &mut packet, &ChecksumCapabilities::default());
        bytes
    }

    /// The address in a network.
    fn address(&self, network: Ipv6Addr) -> Ipv6Addr {
        interface_address(self.mac.0, network)
    }

    /// Takes what a packet says, and tells whether that was an advertisement.
    pub(crate) fn process(&mut self, packet: &[u8], now: Duration) -> bool {
        let Some(Advertisement { router, lifetime, options }) = advertisement(packet, self.address(LINK_LOCAL)) else {
            return false;
        };
        self.expire(now);
        for option in options {
            match option.option_type() {
                NdiscOptionType::PrefixInformation => {
                    if let Ok(NdiscOptionRepr::PrefixInformation(prefix)) = NdiscOptionRepr::parse(&option) {
                        self.process_prefix(&prefix, now);
                    }
                }
                NdiscOptionType::Unknown(NAME_SERVERS) => self.process_servers(option.data(), now),
                _ => {}
            }
        }
        self.process_router(router, lifetime, now);
        true
    }

    /// RFC 4862, section 5.5.3.
    fn process_prefix(&mut self, option: &NdiscPrefixInformation, now: Duration) {
        let flags = option.flags;
        let (valid, preferred) = (option.valid_lifetime.into(), option.preferred_lifetime.into());
        // The address's other half is 64 bits long.
        if !flags.contains(NdiscPrefixInfoFlags::ADDRCONF) || option.prefix_len != 64 || preferred > valid {
            return;
        }
        let network = Ipv6Addr::from_bits(option.prefix.to_bits() & !u128::from(u64::MAX));
        if network.is_unicast_link_local() || network.is_multicast() || network.is_unspecified() {
            return;
        }
        let is_on_link = flags.contains(NdiscPrefixInfoFlags::ON_LINK);
        let preferred_until = end(now, preferred);
        let seen = LastSeen { at: now, is_stale: false };
        if let Some(known) = self.prefixes.iter_mut().find(|known| known.address == network) {
            let prefix = &mut known.what;
            let left = prefix.valid_until.saturating_sub(now);
            if valid > TWO_HOURS || valid > left {
                prefix.valid_until = end(now, valid);
            } else if left > TWO_HOURS {
                prefix.valid_until = now + TWO_HOURS;
            }
            prefix.preferred_until = preferred_until;
            // Without the flag nothing is said of that.
            prefix.is_on_link |= is_on_link;
            known.seen = seen;
        } else if !valid.is_zero() {
            make_room(&mut self.prefixes, self.prefix);
            let what = Prefix { is_on_link, preferred_until, valid_until: end(now, valid) };
            self.prefixes.push(Advertised { address: network, what, seen });
        }
    }

    fn process_router(&mut self, address: Ipv6Addr, lifetime: Duration, now: Duration) {
        self.routers.retain(|router| router.address != address);
        if !lifetime.is_zero() {
            make_room(&mut self.routers, self.router);
            let seen = LastSeen { at: now, is_stale: false };
            self.routers.push(Advertised { address, what: Router { until: now + lifetime }, seen });
            self.solicit_at = None;
        }
        self.solicit_without_router(now);
    }

    fn solicit_without_router(&mut self, now: Duration) {
        if self.is_up && self.routers.is_empty() && self.solicit_at.is_none() {
            self.begin_to_solicit(now);
        }
    }

    /// RFC 8106, section 5.1.
    fn process_servers(&mut self, data: &[u8], now: Duration) {
        let Some((&[_, _, lifetime @ ..], addresses)) = data.split_first_chunk::<6>() else { return };
        let lifetime = Duration::from_secs(u32::from_be_bytes(lifetime).into());
        for &address in addresses.as_chunks::<16>().0 {
            let address = Ipv6Addr::from(address);
            if address.is_unspecified() || address.is_multicast() || address.is_loopback() {
                continue;
            }
            let is_full = self.servers.len() == MAX_SERVERS;
            match self.servers.iter_mut().find(|server| server.address == address) {
                Some(server) => server.until = end(now, lifetime),
                None if !is_full && !lifetime.is_zero() => {
                    self.servers.push(Server { address, until: end(now, lifetime) });
                }
                None => {}
            }
        }
    }

    /// Forgets what is not valid any more.
    fn expire(&mut self, now: Duration) {
        self.prefixes.retain(|prefix| prefix.what.valid_until > now);
        self.routers.retain(|router| router.what.until > now);
        self.servers.retain(|server| server.until > now);
        self.solicit_without_router(now);
    }

    /// What the stack is to be given now. What it has stands while nothing is better: a stranger's advertisement does not
    /// take its place.
    pub(crate) fn configuration(&mut self, now: Duration) -> Option<Configuration> {
        self.expire(now);
        self.configured_at = now;
        let rank = |seen: &LastSeen, is_used: bool| (!seen.is_stale, is_used, seen.at);
        let prefix = self.prefixes.iter().max_by_key(|known| {
            (known.what.preferred_until > now, rank(&known.seen, self.prefix == Some(known.address)))
        });
        let router = self.routers.iter().max_by_key(|known| rank(&known.seen, self.router == Some(known.address)));
        (self.prefix, self.router) = (prefix.map(|known| known.address), router.map(|known| known.address));
        prefix.map(|prefix| Configuration {
            address: Ipv6Cidr::new(self.address(prefix.address), if prefix.what.is_on_link { 64 } else { 128 }),
            gateway: self.router,
            name_servers: self.servers.iter().map(|server| server.address).collect(),
        })
    }

    /// When [`configuration`](Slaac::configuration) may say something else, unless an advertisement comes before that.
    pub(crate) fn changes_at(&self) -> Option<Duration> {
        let now = self.configured_at;
        let prefixes = self.prefixes.iter().flat_map(|known| [known.what.preferred_until, known.what.valid_until]);
        let routers = self.routers.iter().map(|known| known.what.until);
        let servers = self.servers.iter().map(|server| server.until);
        prefixes.chain(routers).chain(servers).filter(|until| *until > now && *until < Duration::MAX).min()
    }
}

/// A host's address in a network of 64 bits: that of its MAC (EUI-64).
pub(crate) fn interface_address(mac: [u8; 6], network: Ipv6Addr) -> Ipv6Addr {
    let network = Ipv6Cidr::new(network, 64);
    let address = Ipv6Cidr::from_link_prefix(&network, HardwareAddress::Ethernet(EthernetAddress(mac)));
    address.expect("an Ethernet address gives 64 bits").address()
}

/// Has one more find room: of what the stack does not use, that goes which was not advertised for the longest time.
fn make_room<T>(known: &mut Vec<Advertised<T>>, used: Option<Ipv6Addr>) {
    if known.len() < MAX_ENTRIES {
        return;
    }
    let oldest = (0..known.len()).min_by_key(|&at| (used == Some(known[at].address), known[at].seen.at));
    if let Some(oldest) = oldest {
        known.remove(oldest);
    }
}

fn end(now: Duration, lifetime: Duration) -> Duration {
    if lifetime == INFINITE { Duration::MAX } else { now + lifetime }
}

/// What a router says.
struct Advertisement<'a> {
    router: Ipv6Addr,
    lifetime: Duration,
    options: Options<'a>,
}

/// The advertisement in a packet for whom has this link-local address, where that is a good one (RFC 4861, section
/// 6.1.2).
fn advertisement(packet: &[u8], own: Ipv6Addr) -> Option<Advertisement<'_>> {
    let packet = Ipv6Packet::new_checked(packet).ok()?;
    let (router, to) = (packet.src_addr(), packet.dst_addr());
    // Whoever is not on the link cannot send with this hop limit.
    if packet.version() != 6 || packet.next_header() != IpProtocol::Icmpv6 || packet.hop_limit() != 255 {
        return None;
    }
    if !router.is_unicast_link_local() || router == own || (to != ALL_NODES && to != own) {
        return None;
    }
    let message = Icmpv6Packet::new_checked(packet.payload()).ok()?;
    if message.msg_type() != Icmpv6Message::RouterAdvert || message.msg_code() != 0 {
        return None;
    }
    // One option that is none, and nothing of it counts.
    let options = Options(message.payload());
    if !options.are_whole() || !message.verify_checksum(&router, &to) {
        return None;
    }
    Some(Advertisement { router, lifetime: message.router_lifetime().into(), options })
}

/// A message's options, until one that is none.
#[derive(Clone, Copy)]
struct Options<'a>(&'a [u8]);

impl Options<'_> {
    fn are_whole(mut self) -> bool {
        self.by_ref().for_each(drop);
        self.0.is_empty()
    }
}

impl<'a> Iterator for Options<'a> {
    type Item = NdiscOption<&'a [u8]>;

    fn next(&mut self) -> Option<NdiscOption<&'a [u8]>> {
        // It refuses those of no length.
        let option = NdiscOption::new_checked(self.0).ok()?;
        self.0 = &self.0[usize::from(option.data_len()) * 8..];
        Some(option)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const OWN: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0xff, 0xfe00, 1);
    const A: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0xa);
    const B: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0xb);
    const NET: Ipv6Addr = Ipv6Addr::new(0xfd12, 0, 0, 0, 0, 0, 0, 0);
    const OTHER: Ipv6Addr = Ipv6Addr::new(0xfd34, 0, 0, 0, 0, 0, 0, 0);
    const ON_LINK: u8 = 0x80;
    const AUTO: u8 = 0x40;
    const HOUR: u32 = 3600;

    /// A message from a router to all nodes, in a frame.
    fn frame(router: Ipv6Addr, message: &[u8]) -> Vec<u8> {
        let mut frame = [&[0x33, 0x33, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9, 0x86, 0xdd, 0x60, 0, 0, 0][..]].concat();
        frame.extend((message.len() as u16).to_be_bytes());
        frame.extend([58, 255]);
        frame.extend(router.octets());
        frame.extend(ALL_NODES.octets());
        frame.extend(message);
        sum(&mut frame);
        frame
    }

    fn sum(frame: &mut [u8]) {
        let (header, message) = frame.split_at_mut(54);
        let address = |at: usize| Ipv6Addr::from(*header[at..].first_chunk::<16>().unwrap());
        Icmpv6Packet::new_unchecked(message).fill_checksum(&address(22), &address(38));
    }

    fn message(lifetime: u16, options: &[Vec<u8>]) -> Vec<u8> {
        let mut message = vec![134, 0, 0, 0, 64, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        message[6..8].copy_from_slice(&lifetime.to_be_bytes());
        message.extend(options.concat());
        message
    }

    fn prefix(network: Ipv6Addr, len: u8, flags: u8, valid: u32, preferred: u32) -> Vec<u8> {
        let times = [valid.to_be_bytes(), preferred.to_be_bytes(), [0; 4]].concat();
        [&[3, 4, len, flags][..], &times, &network.octets()].concat()
    }

    fn usual(network: Ipv6Addr) -> Vec<u8> {
        prefix(network, 64, ON_LINK | AUTO, 2 * HOUR, HOUR)
    }

    fn servers(lifetime: u32, addresses: &[Ipv6Addr]) -> Vec<u8> {
        let mut option = vec![NAME_SERVERS, 1 + 2 * addresses.len() as u8, 0, 0];
        option.extend(lifetime.to_be_bytes());
        addresses.iter().for_each(|address| option.extend(address.octets()));
        option
    }

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn up() -> Slaac {
        let mut slaac = Slaac::new(MAC, 7);
        slaac.link(true, secs(0));
        slaac
    }

    impl Slaac {
        fn tell(&mut self, router: Ipv6Addr, lifetime: u16, options: &[Vec<u8>], now: u64) {
            assert!(self.process(&frame(router, &message(lifetime, options))[14..], secs(now)));
        }

        /// The address, and the gateway.
        fn next_change(&mut self, now: Duration) -> Option<Duration> {
            self.configured_at = now;
            self.changes_at()
        }

        fn now(&mut self, now: u64) -> Option<(Ipv6Cidr, Option<Ipv6Addr>)> {
            self.configuration(secs(now)).map(|config| (config.address, config.gateway))
        }
    }

    fn address(network: Ipv6Addr) -> Ipv6Cidr {
        Ipv6Cidr::new(Ipv6Addr::from_bits(network.to_bits() | OWN.to_bits() & u128::from(u64::MAX)), 64)
    }

    #[test]
    fn a_life() {
        let mut slaac = up();
        assert_eq!(slaac.now(0), None);
        slaac.tell(A, 1800, &[usual(NET)], 10);
        assert_eq!(slaac.now(10), Some((address(NET), Some(A))));
        assert_eq!(slaac.next_change(secs(10)), Some(secs(1810)));
        slaac.tell(A, 1800, &[usual(NET)], 1000);
        assert_eq!(slaac.now(2799), Some((address(NET), Some(A))), "renewed");
        assert_eq!(slaac.solicit_at(), None, "who has a router asks for none");
        assert_eq!(slaac.now(2800), Some((address(NET), None)), "the router has expired");
        assert!(slaac.solicit_at().is_some(), "another is asked for");
        assert_eq!(slaac.next_change(secs(2800)), Some(secs(4600)), "it is not preferred any more then");
        assert_eq!(slaac.next_change(secs(4600)), Some(secs(8200)));
        assert_eq!(slaac.now(8199), Some((address(NET), None)), "deprecated, and better than none");
        assert_eq!(slaac.now(8200), None);
        assert_eq!(slaac.next_change(secs(8200)), None);
    }

    #[test]
    fn a_router_that_goes_makes_way() {
        let mut slaac = up();
        slaac.tell(A, 1800, &[usual(NET)], 0);
        slaac.now(0);
        slaac.tell(B, 1800, &[], 5);
        assert_eq!(slaac.now(5), Some((address(NET), Some(A))), "who came first stays");
        slaac.tell(A, 0, &[], 6);
        assert_eq!(slaac.now(6), Some((address(NET), Some(B))));
        assert_eq!(slaac.solicit_at(), None);
        slaac.tell(B, 0, &[], 7);
        assert_eq!(slaac.now(7), Some((address(NET), None)));
        assert!(slaac.solicit_at().is_some());
    }

    #[test]
    fn what_is_preferred_goes_before_what_is_not() {
        let mut slaac = up();
        slaac.tell(A, 1800, &[usual(NET)], 0);
        slaac.now(0);
        slaac.tell(A, 1800, &[usual(OTHER)], 1);
        assert_eq!(slaac.now(1), Some((address(NET), Some(A))), "the first stays");
        slaac.tell(A, 1800, &[prefix(NET, 64, AUTO, 2 * HOUR, 0)], 2);
        assert_eq!(slaac.now(2), Some((address(OTHER), Some(A))));
    }

    #[test]
    fn infinity_has_no_end() {
        let mut slaac = up();
        let servers = servers(u32::MAX, &[NET]);
        slaac.tell(A, 0, &[prefix(NET, 64, ON_LINK | AUTO, u32::MAX, u32::MAX), servers], 0);
        assert_eq!(slaac.next_change(secs(0)), None);
        assert_eq!(slaac.now(1 << 40), Some((address(NET), None)));
    }

    #[test]
    fn a_stranger_cannot_shorten_a_lifetime_below_two_hours() {
        let hours = |hours: u64| hours * u64::from(HOUR);
        let mut slaac = up();
        let lives = |slaac: &mut Slaac, until: u64| slaac.prefixes[0].what.valid_until == secs(until);
        slaac.tell(A, 1800, &[prefix(NET, 64, AUTO, 10 * HOUR, HOUR)], 0);
        assert!(lives(&mut slaac, hours(10)));
        slaac.tell(A, 1800, &[prefix(NET, 64, AUTO, 3 * HOUR, HOUR)], 1);
        assert!(lives(&mut slaac, hours(3) + 1), "more than two hours are taken");
        for valid in [0, 1, 2 * HOUR] {
            slaac.tell(A, 1800, &[prefix(NET, 64, AUTO, valid, 0)], 1);
            assert!(lives(&mut slaac, hours(2) + 1), "{valid}");
        }
        for valid in [0, HOUR] {
            slaac.tell(A, 1800, &[prefix(NET, 64, AUTO, valid, 0)], hours(1));
            assert!(lives(&mut slaac, hours(2) + 1), "less than two hours are left, and stay");
        }
        slaac.tell(A, 1800, &[prefix(NET, 64, AUTO, HOUR + 2, 0)], hours(1));
        assert!(lives(&mut slaac, hours(2) + 2), "more than what is left");
    }

    #[test]
    fn prefixes_that_make_no_address() {
        let link_local = Ipv6Addr::new(0xfe80, 1, 0, 0, 0, 0, 0, 0);
        let multicast = Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 0, 0);
        for bad in [
            prefix(NET, 64, ON_LINK, HOUR, HOUR),
            prefix(NET, 63, AUTO, HOUR, HOUR),
            prefix(NET, 65, AUTO, HOUR, HOUR),
            prefix(NET, 0, AUTO, HOUR, HOUR),
            prefix(NET, 128, AUTO, HOUR, HOUR),
            prefix(NET, 129, AUTO, HOUR, HOUR),
            prefix(NET, 255, AUTO, HOUR, HOUR),
            prefix(NET, 64, AUTO, HOUR, HOUR + 1),
            prefix(NET, 64, AUTO, 0, 0),
            prefix(link_local, 64, AUTO, HOUR, HOUR),
            prefix(multicast, 64, AUTO, HOUR, HOUR),
            prefix(Ipv6Addr::UNSPECIFIED, 64, AUTO, HOUR, HOUR),
            prefix(Ipv6Addr::LOCALHOST, 64, AUTO, HOUR, HOUR),
        ] {
            let mut slaac = up();
            slaac.tell(A, 1800, core::slice::from_ref(&bad), 0);
            assert_eq!(slaac.now(0), None, "{bad:?}");
            slaac.tell(A, 1800, &[bad, usual(OTHER)], 0);
            assert_eq!(slaac.now(0), Some((address(OTHER), Some(A))), "a good one beside it");
        }
    }

    #[test]
    fn bits_behind_the_prefix_do_not_count() {
        let mut slaac = up();
        slaac.tell(A, 1800, &[usual(Ipv6Addr::from_bits(NET.to_bits() | 0xff << 56))], 0);
        assert_eq!(slaac.now(0), Some((address(NET), Some(A))));
    }

    #[test]
    fn what_is_not_said_to_be_on_the_link_is_not() {
        let mut slaac = up();
        slaac.tell(A, 1800, &[prefix(NET, 64, AUTO, HOUR, HOUR)], 0);
        assert_eq!(slaac.now(0).unwrap().0.prefix_len(), 128);
        for flags in [AUTO | ON_LINK, AUTO] {
            slaac.tell(A, 1800, &[prefix(NET, 64, flags, HOUR, HOUR)], 1);
            assert_eq!(slaac.now(1).unwrap().0.prefix_len(), 64);
        }
    }

    #[test]
    fn advertisements_that_are_none() {
        let good = frame(A, &message(1800, &[usual(NET)]));
        let refuses = |what: &str, frame: &[u8]| {
            let mut slaac = up();
            assert!(!slaac.process(frame.get(14..).unwrap_or_default(), secs(0)), "{what}");
            assert_eq!((slaac.now(0), slaac.routers.len()), (None, 0), "{what}");
        };
        assert!(up().process(&good[14..], secs(0)));
        for (what, at, value) in [
            ("another version", 14, 0x40),
            ("another header first", 20, 0),
            ("through a router", 21, 254),
            ("a global address", 22, 0x20),
            ("another destination", 53, 2),
            ("a solicitation", 54, 133),
            ("a code", 55, 1),
            ("no length", 71, 0),
            ("an option that is too long", 71, 5),
            ("a prefix that is too short", 71, 1),
        ] {
            let mut bad = good.clone();
            bad[at] = value;
            sum(&mut bad);
            refuses(what, &bad);
        }
        let mut bad = good.clone();
        bad[56] ^= 1;
        refuses("a bad sum", &bad);
        refuses("our own address", &frame(OWN, &message(1800, &[usual(NET)])));
        let neighbor = [&[135, 0, 0, 0, 0, 0, 7, 8][..], &NET.octets(), &usual(NET)].concat();
        refuses("another message with options", &frame(A, &neighbor));
        for len in 0..good.len() {
            refuses("cut off", &good[..len]);
        }
        let mut to_us = good.clone();
        to_us[38..54].copy_from_slice(&OWN.octets());
        sum(&mut to_us);
        assert!(up().process(&to_us[14..], secs(0)));
    }

    #[test]
    fn name_servers() {
        let bad = [Ipv6Addr::UNSPECIFIED, Ipv6Addr::LOCALHOST, ALL_NODES];
        let mut slaac = up();
        let dns = |slaac: &mut Slaac, now: u64| slaac.configuration(secs(now)).unwrap().name_servers;
        slaac.tell(A, 1800, &[usual(NET), servers(0, &[B, OTHER]), servers(100, &bad), servers(100, &[NET, A])], 0);
        assert_eq!(dns(&mut slaac, 0), [NET, A]);
        assert_eq!(slaac.next_change(secs(0)), Some(secs(100)));
        slaac.tell(A, 1800, &[servers(200, &[A]), servers(200, &[B, OTHER])], 50);
        assert_eq!(dns(&mut slaac, 50), [NET, A, B], "there is room for three");
        assert_eq!(dns(&mut slaac, 100), [A, B]);
        slaac.tell(A, 1800, &[servers(0, &[A])], 101);
        assert_eq!(dns(&mut slaac, 101), [B]);
        slaac.tell(A, 1800, &[vec![NAME_SERVERS, 1, 0, 0, 0, 0, 0, 9]], 102);
        assert_eq!(dns(&mut slaac, 102), [B]);
    }

    #[test]
    fn what_is_in_use_is_kept_and_little_else() {
        let mut slaac = up();
        slaac.tell(A, 1800, &[usual(NET), servers(3000, &[A])], 0);
        assert_eq!(slaac.now(0), Some((address(NET), Some(A))));
        for number in 1..1000 {
            let (network, router) = (NET.to_bits() | u128::from(number) << 64, B.to_bits() | u128::from(number) << 16);
            let server = Ipv6Addr::from_bits(network);
            slaac.tell(router.into(), 9000, &[usual(network.into()), servers(9000, &[server])], number);
            assert_eq!(slaac.now(number), Some((address(NET), Some(A))), "{number}");
            assert!(
                slaac.prefixes.len() <= MAX_ENTRIES
                    && slaac.routers.len() <= MAX_ENTRIES
                    && slaac.servers.len() <= MAX_SERVERS
            );
        }
        let newest = Ipv6Addr::from_bits(B.to_bits() | 999 << 16);
        assert_eq!(slaac.now(1800), Some((address(NET), Some(newest))));
    }

    #[test]
    fn who_was_silent_for_the_longest_time_makes_room() {
        let network = |number: u64| Ipv6Addr::from_bits(NET.to_bits() | u128::from(number) << 64);
        let mut slaac = up();
        for number in 0..MAX_ENTRIES as u64 {
            slaac.tell(A, 0, &[usual(network(number))], number);
        }
        slaac.now(4);
        let used = slaac.prefix.expect("one is used");
        let others: Vec<_> = (0..MAX_ENTRIES as u64).filter(|number| network(*number) != used).collect();
        slaac.tell(A, 0, &[usual(network(others[0]))], 5);
        slaac.tell(A, 0, &[prefix(OTHER, 64, AUTO, 0, 0)], 6);
        let all = |slaac: &Slaac| {
            (0..MAX_ENTRIES as u64).all(|at| slaac.prefixes.iter().any(|known| known.address == network(at)))
        };
        assert!(all(&slaac), "what is not valid takes nobody's place");
        slaac.tell(A, 0, &[usual(OTHER)], 7);
        let knows = |network: Ipv6Addr| slaac.prefixes.iter().any(|known| known.address == network);
        assert!(knows(used) && knows(OTHER) && knows(network(others[0])) && !knows(network(others[1])));
    }

    #[test]
    fn after_a_pause_of_the_link_who_answers_goes_first() {
        let mut slaac = up();
        slaac.tell(A, 1800, &[usual(NET)], 10);
        slaac.now(10);
        slaac.link(true, secs(11));
        assert!(slaac.solicit_at().is_none());
        slaac.link(false, secs(20));
        assert!(slaac.solicit_at().is_none());
        slaac.tell(A, 0, &[], 21);
        assert_eq!(slaac.solicit_at(), None, "nobody would hear it");
        slaac.tell(A, 1800, &[], 22);
        slaac.link(true, secs(30));
        let at = slaac.solicit_at().expect("it asks again");
        assert!(at >= secs(30) && at <= secs(30) + DELAY);
        assert_eq!(slaac.now(31), Some((address(NET), Some(A))), "until somebody answers");
        slaac.tell(B, 1800, &[usual(OTHER)], 32);
        assert_eq!(slaac.now(32), Some((address(OTHER), Some(B))));
        slaac.link(false, secs(33));
        slaac.link(true, secs(34));
        slaac.tell(B, 1800, &[usual(OTHER)], 35);
        slaac.tell(A, 1800, &[usual(NET)], 36);
        assert_eq!(slaac.now(36), Some((address(OTHER), Some(B))), "who was known has answered first");
    }

    #[test]
    fn solicitations_come_ever_more_slowly_and_without_end() {
        let mut slaac = up();
        let mut last = slaac.solicit_at().unwrap();
        assert!(last <= DELAY);
        let mut expected = 4000;
        for _ in 0..30 {
            slaac.solicit(last);
            let next = slaac.solicit_at().unwrap();
            let millis = (next - last).as_millis();
            assert!(millis >= expected * 9 / 10 && millis <= expected * 11 / 10, "{millis} ms, not {expected}");
            expected = (millis * 2).min(3_600_000);
            last = next;
        }
        slaac.link(false, last);
        assert_eq!(slaac.solicit_at(), None, "there is no link to send on");
    }

    #[test]
    fn neither_links_nor_routers_that_come_and_go_have_more_sent() {
        let (mut slaac, mut sent) = (up(), 0);
        for millis in (0..60_000).step_by(50) {
            let now = Duration::from_millis(millis);
            if millis % 200 == 0 {
                slaac.link(false, now);
                slaac.link(true, now);
            }
            for lifetime in [1800, 0] {
                slaac.process(&frame(A, &message(lifetime, &[]))[14..], now);
            }
            if slaac.solicit_at().is_some_and(|at| at <= now) {
                slaac.solicit(now);
                sent += 1;
            }
        }
        assert!((10..=16).contains(&sent), "{sent}");
    }

    #[test]
    fn a_solicitation() {
        let bytes = up().solicit(secs(0));
        let frame = EthernetFrame::new_checked(&bytes[..]).unwrap();
        assert_eq!((frame.dst_addr(), frame.src_addr().0), (ALL_ROUTERS_MAC, MAC));
        let packet = Ipv6Packet::new_checked(frame.payload()).unwrap();
        assert_eq!((packet.src_addr(), packet.dst_addr(), packet.hop_limit()), (OWN, ALL_ROUTERS, 255));
        let message = Icmpv6Packet::new_checked(packet.payload()).unwrap();
        assert!(message.verify_checksum(&OWN, &ALL_ROUTERS));
        assert_eq!(
            (message.msg_type(), message.payload()),
            (Icmpv6Message::RouterSolicit, &[1, 1, 2, 0, 0, 0, 0, 1][..])
        );
    }

    #[test]
    fn any_bytes_are_taken() {
        let mut random = 1_u64;
        let mut next = || {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) as usize
        };
        let mut slaac = up();
        let good = frame(A, &message(1800, &[usual(NET), servers(100, &[NET]), vec![5, 1, 0, 0, 0, 0, 5, 220]]));
        for now in 0..20_000 {
            let mut bytes = good[..good.len() - next() % 2 * (next() % good.len())].to_vec();
            for _ in 0..next() % 4 {
                let at = next() % bytes.len();
                bytes[at] = next() as u8;
            }
            if bytes.len() > 58 {
                sum(&mut bytes);
            }
            slaac.process(bytes.get(14..).unwrap_or_default(), secs(now));
            slaac.configuration(secs(now));
        }
    }
}

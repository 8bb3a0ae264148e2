//! One end of an Ethernet link: every frame goes through here, both ways. Nothing here does input or output, or reads a
//! clock.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::ops::Range;
use core::time::Duration;

use smoltcp::wire::{EthernetProtocol, Ipv4Cidr, Ipv6Cidr};

use crate::claim::{self, Claim, Conflict, Step};
use crate::config::{Addresses, Config, Ipv4, Ipv6};
use crate::dhcp::{self, Loss};
use crate::frames::{self, Arp, BROADCAST, Discovery, ETHERNET};
use crate::neighbors::{self, Mac, Neighbors, Request};
use crate::routes::{Hop, Route, Routes};
use crate::slaac::{self, Slaac};

/// Frames of this host's own that wait for room in the device. What is more is lost, as on a wire.
const MAX_OUTGOING: usize = 512;
/// An address of IPv6 that another host has is asked for again after so long: whoever answers need not have it for ever.
const RETRY: Duration = Duration::from_secs(300);
/// News that nobody has read.
const MAX_NEWS: usize = 16;

/// What an administrator is to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// Another host had the address first. A leased one is given back; of a given one this host keeps using it.
    Taken(IpAddr, Mac),
    /// Another host has taken the address.
    Contested(IpAddr, Mac),
    /// The lease ended, or was refused.
    Lost(Ipv4Addr, Loss),
    /// What a server offers is no host's address.
    Unusable(Ipv4Cidr),
}

/// What has been counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Packets of the stack that no route leads for.
    pub unroutable: u64,
    /// Packets of the stack whose neighbour did not answer, or for which too many waited.
    pub unresolved: u64,
    /// Frames that were for another host.
    pub foreign: u64,
    /// Frames with a VLAN's tag.
    pub tagged: u64,
}

/// An address of this host.
struct Own<T> {
    address: T,
    claim: Claim,
}

/// An interface's end of an Ethernet link, for whoever forwards packets: addresses, routes and neighbours, without a stack. What
/// comes goes through [`ingress`](Link::ingress); what is sent, to where [`way`](Link::way) says; and what it has to say itself
/// is taken with [`pop`](Link::pop).
pub struct Link {
    mac: Mac,
    is_up: bool,
    config: Config,
    seed: u64,
    neighbors: Neighbors,
    routes: Routes,
    outgoing: VecDeque<Vec<u8>>,
    v4: Option<Own<Ipv4Cidr>>,
    dhcp: Option<dhcp::Client>,
    link_local: Own<Ipv6Addr>,
    /// The link-local address is another host's.
    no_link_local: bool,
    v6: Option<Own<Ipv6Cidr>>,
    /// Another host was there first.
    taken_v6: Option<Ipv6Addr>,
    /// When what another host has is asked for again.
    retry_at: Option<Duration>,
    slaac: Option<Slaac>,
    addresses: Addresses,
    /// Addresses of others that this host answers for.
    proxied: Vec<IpAddr>,
    news: VecDeque<News>,
    counters: Counters,
}

fn link_local(mac: Mac) -> Ipv6Addr {
    slaac::interface_address(mac, Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0))
}

impl Link {
    /// A link that is down, of an interface with this MAC. The seed should be one that nobody knows.
    pub fn new(mac: Mac, config: Config, seed: u64) -> Link {
        let mut link = Link {
            mac,
            is_up: false,
            config: Config { ipv4: Ipv4::None, ipv6: Ipv6::None, ..Config::default() },
            seed,
            neighbors: Neighbors::new(seed),
            routes: Routes::default(),
            outgoing: VecDeque::new(),
            v4: None,
            dhcp: None,
            link_local: Own { address: link_local(mac), claim: Claim::new(true, Duration::MAX) },
            no_link_local: false,
            v6: None,
            taken_v6: None,
            retry_at: None,
            slaac: None,
            addresses: Addresses::default(),
            proxied: Vec::new(),
            news: VecDeque::new(),
            counters: Counters::default(),
        };
        link.configure(config, Duration::ZERO);
        link
    }

    /// The interface's MAC.
    pub fn mac(&self) -> Mac {
        self.mac
    }

    /// Whether there is a carrier.
    pub fn is_up(&self) -> bool {
        self.is_up
    }

    /// What addresses were asked for.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Its addresses, routes and name servers.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// What has been counted.
    pub fn counters(&self) -> Counters {
        Counters { unresolved: self.neighbors.dropped, ..self.counters }
    }

    /// How many neighbours are known.
    pub fn neighbors(&self) -> usize {
        self.neighbors.len()
    }

    /// What an administrator is to know next.
    pub fn news(&mut self) -> Option<News> {
        self.news.pop_front()
    }

    /// Whether there is any.
    pub fn has_news(&self) -> bool {
        !self.news.is_empty()
    }

    fn tell(&mut self, news: News) {
        if self.news.len() < MAX_NEWS {
            self.news.push_back(news);
        }
    }

    /// Has the interface other addresses from now on.
    pub fn configure(&mut self, config: Config, now: Duration) {
        if config.ipv4 != self.config.ipv4 {
            self.v4 = None;
            self.dhcp = None;
            match config.ipv4 {
                Ipv4::None => {}
                Ipv4::Dhcp => {
                    let mut client = dhcp::Client::new(self.mac, self.seed);
                    client.link(self.is_up, now);
                    self.dhcp = Some(client);
                }
                Ipv4::Static(address) => self.v4 = Some(self.own(address, false, now)),
            }
        }
        if config.ipv6 != self.config.ipv6 {
            self.v6 = None;
            self.slaac = None;
            match config.ipv6 {
                Ipv6::None => {}
                Ipv6::Auto => {
                    let mut slaac = Slaac::new(self.mac, self.seed);
                    slaac.link(self.is_up, now);
                    self.slaac = Some(slaac);
                }
                Ipv6::Static(address) => self.v6 = Some(self.own(address, true, now)),
            }
        }
        self.neighbors.set_permanent(config.neighbors.clone());
        self.config = config;
        self.update(now);
    }

    fn own<T>(&self, address: T, is_v6: bool, now: Duration) -> Own<T> {
        let mut claim = Claim::new(is_v6, now);
        if !self.is_up {
            claim.pause();
        }
        Own { address, claim }
    }

    /// The device's state. A new MAC is another interface in the same place.
    pub fn device(&mut self, mac: Mac, is_up: bool, now: Duration) {
        if mac != self.mac {
            self.mac = mac;
            self.link_local = self.own(link_local(mac), true, now);
            self.no_link_local = false;
            let config = core::mem::take(&mut self.config);
            self.config = Config { ipv4: Ipv4::None, ipv6: Ipv6::None, ..Config::default() };
            self.neighbors.clear();
            self.configure(config, now);
        }
        if is_up == self.is_up {
            return;
        }
        self.is_up = is_up;
        if is_up {
            self.announce(now);
        } else {
            // What waits is for whoever was there.
            self.outgoing.clear();
            self.link_local.claim.pause();
            self.v4.iter_mut().for_each(|own| own.claim.pause());
            self.v6.iter_mut().for_each(|own| own.claim.pause());
        }
        self.dhcp.iter_mut().for_each(|client| client.link(is_up, now));
        self.slaac.iter_mut().for_each(|slaac| slaac.link(is_up, now));
        self.update(now);
    }

    /// Tells everybody on the link which addresses are here: it may be another link.
    pub fn announce(&mut self, now: Duration) {
        self.neighbors.clear();
        self.retry(now);
        self.link_local.claim.restart(now);
        self.v4.iter_mut().for_each(|own| own.claim.restart(now));
        self.v6.iter_mut().for_each(|own| own.claim.restart(now));
    }

    /// Asks again for what another host had.
    fn retry(&mut self, now: Duration) {
        self.retry_at = None;
        if core::mem::take(&mut self.no_link_local) {
            self.link_local.claim.restart(now);
        }
        if self.taken_v6.take().is_some()
            && let Ipv6::Static(address) = self.config.ipv6
        {
            self.v6 = Some(self.own(address, true, now));
        }
        self.update(now);
    }

    /// Works out addresses and routes anew, from what was asked for and what the network says.
    fn update(&mut self, now: Duration) {
        let mut found = Addresses { link_local: Some(self.link_local.address), ..Addresses::default() };
        if self.no_link_local {
            found.link_local = None;
        }
        let mut routes = Vec::new();
        if let Some(client) = &self.dhcp {
            let address = client.lease().map(|lease| lease.address);
            if let Some(lease) = client.lease() {
                routes.extend(lease.routes.iter().copied());
                found.name_servers.extend(lease.name_servers.iter().copied().map(IpAddr::V4));
            }
            if address != self.v4.as_ref().map(|own| own.address) {
                self.v4 = address.map(|address| self.own(address, false, now));
            }
        }
        if let Some(slaac) = &mut self.slaac {
            let mut address = None;
            if let Some(advertised) = slaac.configuration(now) {
                address = Some(advertised.address).filter(|address| self.taken_v6 != Some(address.address()));
                routes.extend(advertised.gateway.map(Route::default_via));
                found.name_servers.extend(advertised.name_servers.into_iter().map(IpAddr::V6));
            }
            if address != self.v6.as_ref().map(|own| own.address) {
                self.v6 = address.map(|address| self.own(address, true, now));
            }
        }
        found.ipv4 = self.v4.as_ref().map(|own| own.address);
        found.ipv6 = self.v6.as_ref().map(|own| own.address);
        let networks = found.ipv4.map(|address| Route::on_link(address.network())).into_iter();
        let networks = networks.chain(found.ipv6.map(|address| Route::on_link(network_v6(address))));
        let link_local = Route::on_link(Ipv6Cidr::new(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 64));
        let all = networks.chain([link_local]).chain(self.config.routes.iter().copied()).chain(routes);
        self.routes = Routes::new(all.collect());
        found.routes = self.routes.as_slice().to_vec();
        // Those that were asked for are all that count.
        if !self.config.name_servers.is_empty() {
            found.name_servers = self.config.name_servers.clone();
        }
        self.addresses = found;
    }

    fn push(&mut self, frame: Vec<u8>) {
        if self.outgoing.len() < MAX_OUTGOING {
            self.outgoing.push_back(frame);
        }
    }

    /// A frame of this host's own that is to be sent.
    pub fn pop(&mut self) -> Option<Vec<u8>> {
        self.outgoing.pop_front()
    }

    /// Whether there is one.
    pub fn has_outgoing(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// What is due now.
    pub fn poll(&mut self, now: Duration) {
        // Where there is no room nothing is added to what waits for it.
        if !self.is_up || self.has_outgoing() {
            self.expire(now);
            return;
        }
        self.poll_claims(now);
        self.poll_dhcp(now);
        if self.slaac.as_ref().and_then(Slaac::solicit_at).is_some_and(|at| at <= now)
            && let Some(slaac) = &mut self.slaac
        {
            let frame = slaac.solicit(now).to_vec();
            self.push(frame);
        }
        let mut asked = Vec::new();
        self.neighbors.poll(now, |request| asked.push(request));
        for request in asked {
            if let Some(frame) = self.request(request) {
                self.push(frame);
            }
        }
        self.expire(now);
    }

    /// Forgets what has had its time: also without a link.
    fn expire(&mut self, now: Duration) {
        if !self.has_outgoing() && self.dhcp.as_ref().and_then(dhcp::Client::next).is_some_and(|at| at <= now) {
            self.poll_dhcp(now);
        }
        if self.is_up && self.retry_at.is_some_and(|at| at <= now) {
            self.retry(now);
        }
        let changes = self.slaac.as_ref().and_then(|slaac| slaac.changes_at());
        if changes.is_some_and(|at| at <= now) {
            self.update(now);
        }
    }

    fn poll_dhcp(&mut self, now: Duration) {
        let Some(client) = &mut self.dhcp else { return };
        let before = client.lease().map(|lease| lease.address.address());
        let (message, event) = client.poll(now);
        self.dhcp_event(event, before, now);
        if let Some(message) = message {
            self.send_dhcp(message, now);
        }
    }

    fn dhcp_event(&mut self, event: Option<dhcp::Event>, before: Option<Ipv4Addr>, now: Duration) {
        match event {
            None => return,
            Some(dhcp::Event::Leased) => {}
            Some(dhcp::Event::Lost(why)) => self.tell(News::Lost(before.unwrap_or(Ipv4Addr::UNSPECIFIED), why)),
            Some(dhcp::Event::Unusable(address)) => self.tell(News::Unusable(address)),
        }
        self.update(now);
    }

    fn send_dhcp(&mut self, message: dhcp::Message, now: Duration) {
        let dhcp::Message { from, to, bytes } = message;
        let mut frame = frames::datagram((from, dhcp::CLIENT_PORT), (to, dhcp::SERVER_PORT), &bytes);
        let len = frame.len() - ETHERNET;
        if let Some(len) = self.egress(&mut frame, len, now) {
            frame.truncate(len);
            self.push(frame);
        }
    }

    fn poll_claims(&mut self, now: Duration) {
        if let Some(own) = &mut self.v4
            && let Some(step) = own.claim.poll(now)
        {
            let address = own.address.address();
            self.push_arp_claim(address, step);
        }
        if !self.no_link_local
            && let Some(step) = self.link_local.claim.poll(now)
        {
            self.push_v6_claim(self.link_local.address, step);
        }
        if let Some(own) = &mut self.v6
            && let Some(step) = own.claim.poll(now)
        {
            let address = own.address.address();
            self.push_v6_claim(address, step);
        }
    }

    fn push_arp_claim(&mut self, address: Ipv4Addr, step: Step) {
        let sender = match step {
            Step::Probe => Ipv4Addr::UNSPECIFIED,
            Step::Announce => address,
        };
        self.push(frames::arp(true, (self.mac, sender), BROADCAST, ([0; 6], address)));
    }

    fn push_v6_claim(&mut self, address: Ipv6Addr, step: Step) {
        self.push(match step {
            Step::Probe => frames::solicit_neighbor(self.mac, Ipv6Addr::UNSPECIFIED, address, None),
            Step::Announce => frames::advertise_neighbor(self.mac, address, None),
        });
    }

    /// When something is due.
    pub fn next(&self) -> Option<Duration> {
        let claims = [
            self.v4.as_ref().and_then(|own| own.claim.due()),
            self.v6.as_ref().and_then(|own| own.claim.due()),
            self.link_local.claim.due().filter(|_| !self.no_link_local),
            self.neighbors.next(),
            self.slaac.as_ref().and_then(Slaac::solicit_at),
            self.retry_at,
        ];
        let always = [
            self.dhcp.as_ref().and_then(dhcp::Client::next).filter(|_| !self.has_outgoing()),
            self.slaac.as_ref().and_then(Slaac::changes_at),
        ];
        // A device without room has the stack come again by itself.
        let claims = claims.into_iter().filter(|_| self.is_up && !self.has_outgoing());
        claims.chain(always).flatten().min()
    }
}

/// Frames that come.
impl Link {
    /// Where in a frame the packet for the stack is, if there is one.
    pub fn ingress(&mut self, frame: &[u8], now: impl FnOnce() -> Duration) -> Option<Range<usize>> {
        const VLAN: u16 = 0x8100;
        const VLAN_ID: u16 = 0xfff;
        let to: &Mac = frame.first_chunk()?;
        if to[0] & 1 == 0 && *to != self.mac {
            self.counters.foreign += 1;
            return None;
        }
        let word = |at: usize| frame.get(at..).and_then(<[u8]>::first_chunk).map(|bytes| u16::from_be_bytes(*bytes));
        let (mut protocol, mut start) = (word(12)?, ETHERNET);
        if protocol == VLAN {
            self.counters.tagged += 1;
            // One of no VLAN has a priority alone (IEEE 802.1Q).
            if word(14)? & VLAN_ID != 0 {
                return None;
            }
            (protocol, start) = (word(16)?, ETHERNET + 4);
        }
        let packet = frame.get(start..)?;
        let is_for_stack = match EthernetProtocol::from(protocol) {
            EthernetProtocol::Arp => {
                if let Some(arp) = frames::parse_arp(packet) {
                    self.ingress_arp(arp, now());
                }
                false
            }
            EthernetProtocol::Ipv4 => packet.first()? >> 4 == 4 && !self.ingress_dhcp(packet, now),
            EthernetProtocol::Ipv6 => packet.first()? >> 4 == 6 && !self.ingress_discovery(frame, start, now),
            _ => false,
        };
        is_for_stack.then_some(start..frame.len())
    }

    fn ingress_arp(&mut self, arp: Arp, now: Duration) {
        let Arp { is_request, sender: (mac, address), target } = arp;
        if mac == self.mac {
            return;
        }
        let own = self.v4.as_ref().map(|own| own.address.address());
        let is_probe = address.is_unspecified();
        if own.is_some_and(|own| own == address) {
            self.conflict_v4(mac, now);
            return;
        }
        if is_probe && is_request && own == Some(target) && self.v4.as_ref().is_some_and(|own| own.claim.is_probing()) {
            // Two ask for the same address at the same time (RFC 5227, section 2.1.1).
            self.conflict_v4(mac, now);
        }
        let is_for_this = is_request && (own == Some(target) || self.proxied.contains(&target.into()));
        if !is_probe && !address.is_multicast() && !address.is_broadcast() {
            let neighbor = IpAddr::V4(address);
            let released = if is_for_this && self.routes.is_on_link(neighbor) {
                self.neighbors.heard(neighbor, mac, now)
            } else {
                let solicited = !is_request && own == Some(target);
                self.neighbors.claimed(neighbor, mac, neighbors::Claim { solicited, overrides: true }, now)
            };
            self.release(released, mac);
        }
        if is_for_this {
            self.push(frames::arp(false, (self.mac, target), mac, (mac, address)));
        }
    }

    fn conflict_v4(&mut self, mac: Mac, now: Duration) {
        let Some(own) = &mut self.v4 else { return };
        let address = own.address.address();
        match own.claim.conflict(now) {
            Conflict::Taken => {
                own.claim.pause();
                self.tell(News::Taken(address.into(), mac));
                let message = self.dhcp.as_mut().and_then(|client| client.decline(now));
                if let Some(message) = message {
                    self.send_dhcp(message, now);
                }
                self.update(now);
            }
            Conflict::Defend => {
                self.tell(News::Contested(address.into(), mac));
                self.push_arp_claim(address, Step::Announce);
            }
            Conflict::Known => {}
        }
    }

    /// Whether it was a server's message to the DHCP client.
    fn ingress_dhcp(&mut self, packet: &[u8], now: impl FnOnce() -> Duration) -> bool {
        let Some(client) = &mut self.dhcp else { return false };
        let Some((source, _, ports, message)) = frames::parse_datagram(packet) else { return false };
        if ports != [dhcp::SERVER_PORT, dhcp::CLIENT_PORT] {
            return false;
        }
        let (now, before) = (now(), client.lease().map(|lease| lease.address.address()));
        let event = client.process(message, source, now);
        self.dhcp_event(event, before, now);
        true
    }

    /// Whether it was neighbour discovery's, which the stack has nothing of.
    fn ingress_discovery(&mut self, frame: &[u8], start: usize, now: impl FnOnce() -> Duration) -> bool {
        let Some(discovery) = frames::parse_discovery(&frame[start..]) else { return false };
        let now = now();
        match discovery {
            Discovery::Nothing => {}
            Discovery::Solicitation { from, target, mac } => {
                let source = *frame[6..].first_chunk::<6>().expect("a frame with a packet has a header");
                self.ingress_solicitation(from, target, mac, source, now);
            }
            Discovery::Advertisement { target, mac, solicited, overrides } => {
                let source = *frame[6..].first_chunk::<6>().expect("a frame with a packet has a header");
                if self.is_own_v6(target) {
                    if source != self.mac {
                        self.conflict_v6(target, mac.unwrap_or(source), now);
                    }
                } else if let Some(mac) = mac.filter(|mac| *mac != self.mac) {
                    let claim = neighbors::Claim { solicited, overrides };
                    let released = self.neighbors.claimed(target.into(), mac, claim, now);
                    self.release(released, mac);
                }
            }
            Discovery::Router { from, mac } => {
                if let Some(slaac) = &mut self.slaac
                    && slaac.process(&frame[start..], now)
                {
                    self.update(now);
                }
                if let Some(mac) = mac.filter(|mac| *mac != self.mac && from.is_unicast_link_local()) {
                    let claim = neighbors::Claim { solicited: false, overrides: true };
                    let released = self.neighbors.claimed(from.into(), mac, claim, now);
                    self.release(released, mac);
                }
            }
        }
        true
    }

    fn ingress_solicitation(&mut self, from: Ipv6Addr, target: Ipv6Addr, mac: Option<Mac>, source: Mac, now: Duration) {
        if !(self.is_own_v6(target) || self.proxied.contains(&target.into())) || source == self.mac {
            return;
        }
        if from.is_unspecified() {
            // Somebody wants to have it.
            if self.claim_v6(target).is_some_and(|claim| claim.is_probing()) {
                self.conflict_v6(target, source, now);
            } else {
                self.push(frames::advertise_neighbor(self.mac, target, None));
            }
            return;
        }
        if let Some(mac) = mac
            && self.routes.is_on_link(from.into())
        {
            let released = self.neighbors.heard(from.into(), mac, now);
            self.release(released, mac);
        }
        let to = mac.unwrap_or(source);
        self.push(frames::advertise_neighbor(self.mac, target, Some((to, from))));
    }

    fn is_own_v6(&self, address: Ipv6Addr) -> bool {
        (self.link_local.address == address && !self.no_link_local)
            || self.v6.as_ref().is_some_and(|own| own.address.address() == address)
    }

    fn claim_v6(&mut self, address: Ipv6Addr) -> Option<&mut Claim> {
        match &mut self.v6 {
            Some(own) if own.address.address() == address => Some(&mut own.claim),
            _ => (self.link_local.address == address).then_some(&mut self.link_local.claim),
        }
    }

    fn conflict_v6(&mut self, address: Ipv6Addr, mac: Mac, now: Duration) {
        let Some(claim) = self.claim_v6(address) else { return };
        match claim.conflict(now) {
            claim::Conflict::Taken => {
                claim.pause();
                self.tell(News::Taken(address.into(), mac));
                // RFC 4862, section 5.4.5: it may not be used.
                if self.v6.as_ref().is_some_and(|own| own.address.address() == address) {
                    self.v6 = None;
                    self.taken_v6 = Some(address);
                } else {
                    self.no_link_local = true;
                }
                self.retry_at = Some(now + RETRY);
                self.update(now);
            }
            claim::Conflict::Defend => {
                self.tell(News::Contested(address.into(), mac));
                self.push_v6_claim(address, Step::Announce);
            }
            claim::Conflict::Known => {}
        }
    }

    /// Sends what has waited for a neighbour.
    fn release(&mut self, packets: VecDeque<Vec<u8>>, mac: Mac) {
        for packet in packets {
            let Some((_, protocol)) = frames::destination(&packet) else { continue };
            let mut frame = alloc::vec![0; ETHERNET + packet.len()];
            frames::header(&mut frame, self.mac, mac, protocol);
            frame[ETHERNET..].copy_from_slice(&packet);
            self.push(frame);
        }
    }
}

/// Where a packet that is forwarded goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// To this MAC.
    Mac(Mac),
    /// To this neighbour, whose MAC is not known: the packet has to [wait](Link::wait).
    Unknown(IpAddr),
    /// No route leads there.
    None,
}

/// For whoever forwards packets.
impl Link {
    /// Answers for these addresses as well, which are others'.
    pub fn set_proxied(&mut self, addresses: Vec<IpAddr>) {
        self.proxied = addresses;
    }

    /// The length of the longest prefix of a route to an address; `None` for groups and broadcast.
    pub fn route_to(&self, to: IpAddr) -> Option<u8> {
        self.routes.prefix_to(to)
    }

    /// Where a packet to this address goes.
    #[inline]
    pub fn way(&mut self, to: IpAddr, now: Duration) -> Way {
        match self.routes.next_hop(to) {
            Hop::Group(mac) => Way::Mac(mac),
            Hop::Neighbor(address) => match self.neighbors.lookup(address, now) {
                Some(mac) => Way::Mac(mac),
                None => Way::Unknown(address),
            },
            Hop::None => {
                self.counters.unroutable += 1;
                Way::None
            }
        }
    }

    /// Keeps an IP packet until its neighbour is known, or has not answered, and asks for that one. Its checksums have to be
    /// complete.
    pub fn wait(&mut self, neighbor: IpAddr, packet: &[u8], now: Duration) {
        if self.neighbors.wait(neighbor, packet, now)
            && let Some(request) = self.request(Request { address: neighbor, to: None })
        {
            self.push(request);
        }
    }
}

/// Packets of the stack.
impl Link {
    /// Makes a frame of a packet of so many bytes, which begins [`ETHERNET`] bytes into `frame`. Returns the frame's length:
    /// `None` where nothing is to be sent. Where the neighbour is not known, the frame becomes a request for it, if it has
    /// room for [`frames::MAX_REQUEST`] bytes.
    #[inline]
    pub(crate) fn egress(&mut self, frame: &mut [u8], len: usize, now: Duration) -> Option<usize> {
        let packet = &frame[ETHERNET..ETHERNET + len];
        let (to, protocol) = frames::destination(packet)?;
        let mac = match self.routes.next_hop(to) {
            Hop::Group(mac) => mac,
            Hop::Neighbor(address) => match self.neighbors.lookup(address, now) {
                Some(mac) => mac,
                None => return self.ask(address, frame, len, now),
            },
            Hop::None => {
                self.counters.unroutable += 1;
                return None;
            }
        };
        frames::header(frame, self.mac, mac, protocol);
        Some(ETHERNET + len)
    }

    /// Keeps the packet in a frame until its neighbour is known, and makes a request for that one of the frame.
    #[cold]
    fn ask(&mut self, address: IpAddr, frame: &mut [u8], len: usize, now: Duration) -> Option<usize> {
        if !self.neighbors.wait(address, &frame[ETHERNET..ETHERNET + len], now) {
            return None;
        }
        let request = self.request(Request { address, to: None })?;
        match frame.get_mut(..request.len()) {
            Some(room) => {
                room.copy_from_slice(&request);
                Some(request.len())
            }
            None => {
                self.push(request);
                None
            }
        }
    }

    fn request(&self, request: Request) -> Option<Vec<u8>> {
        match request.address {
            IpAddr::V4(address) => {
                // Nobody answers who does not know whom to.
                let own = self.v4.as_ref()?.address.address();
                let to = request.to.unwrap_or(BROADCAST);
                Some(frames::arp(true, (self.mac, own), to, ([0; 6], address)))
            }
            IpAddr::V6(address) => {
                let own = match (&self.v6, self.no_link_local) {
                    (Some(own), _) if !address.is_unicast_link_local() => own.address.address(),
                    (_, false) => self.link_local.address,
                    (Some(own), true) => own.address.address(),
                    (None, true) => return None,
                };
                Some(frames::solicit_neighbor(self.mac, own, address, request.to))
            }
        }
    }
}

fn network_v6(address: Ipv6Cidr) -> Ipv6Cidr {
    let len = address.prefix_len();
    let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
    Ipv6Cidr::new(Ipv6Addr::from_bits(address.address().to_bits() & mask), len)
}

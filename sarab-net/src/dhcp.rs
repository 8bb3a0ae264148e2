//! A DHCP client (RFC 2131): what it sends and when, and what answers mean. Nothing here does input or output, or reads a
//! clock.
//!
//! smoltcp's client knows neither routes (RFC 3442) nor what a renewal leaves out, and belongs to its Ethernet, which is not
//! used here.

mod options;

use alloc::vec;
use alloc::vec::Vec;
use core::net::Ipv4Addr;
use core::time::Duration;

use smoltcp::wire::{DhcpMessageType, DhcpOption, DhcpPacket, DhcpRepr, EthernetAddress, Ipv4Cidr};

use self::options::Answer;
use crate::address;
use crate::neighbors::Mac;
use crate::random::Random;
use crate::routes::Route;

pub(crate) const SERVER_PORT: u16 = 67;
pub(crate) const CLIENT_PORT: u16 = 68;

/// Between a message and the next where nobody answers: twice as long each time. RFC 2131 begins with 4 s; a guest is up in
/// less.
const FIRST_INTERVAL: Duration = Duration::from_secs(1);
const LAST_INTERVAL: Duration = Duration::from_secs(64);
/// So often an offer is asked for before others are.
const MAX_REQUESTS: u32 = 4;
/// The least between two attempts to renew a lease (RFC 2131 has 60 s; leases of less than that exist).
const MIN_RENEWAL: Duration = Duration::from_secs(1);
const USUAL_RENEWAL: Duration = Duration::from_secs(60);
/// After a refusal (RFC 2131, section 3.1, 5).
const PAUSE: Duration = Duration::from_secs(10);
/// The shortest lease that is taken for one.
const MIN_LEASE: Duration = Duration::from_secs(4);
/// What a message may be long.
const MAX_MESSAGE: u16 = 1472;

/// What is asked for: mask, routers, name servers, lease, server, T1, T2, classless routes first (RFC 3442).
const PARAMETERS: &[u8] = &[options::ROUTES, options::MASK, options::ROUTER, options::NAME_SERVER, 51, 54, 58, 59];

/// What a server has given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) address: Ipv4Cidr,
    pub(crate) routes: Vec<Route>,
    pub(crate) name_servers: Vec<Ipv4Addr>,
    server: Ipv4Addr,
    renew_at: Duration,
    rebind_at: Duration,
    /// `MAX` for one without an end.
    expires_at: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No link.
    Down,
    /// Nothing is sent until then.
    Waiting {
        until: Duration,
    },
    Selecting,
    Requesting {
        address: Ipv4Addr,
        server: Ipv4Addr,
    },
    /// The address of before the link was down is asked for.
    Rebooting {
        address: Ipv4Addr,
    },
    Bound,
    Renewing,
    Rebinding,
}

/// A message that is to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) from: Ipv4Addr,
    /// To all where it is `BROADCAST`.
    pub(crate) to: Ipv4Addr,
    pub(crate) bytes: Vec<u8>,
}

/// What has become of the address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// There is a lease, or it says something else now.
    Leased,
    /// The address may not be used any more.
    Lost(Loss),
    /// A server offers what cannot be an address of a host.
    Unusable(Ipv4Cidr),
}

/// Why a lease is no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Nobody has renewed it in time.
    Expired,
    /// The server has refused it (NAK).
    Refused(Ipv4Addr),
}

pub(crate) struct Client {
    mac: Mac,
    random: Random,
    state: State,
    lease: Option<Lease>,
    transaction: u32,
    /// When this transaction began.
    since: Duration,
    sent: u32,
    due: Duration,
}

impl Client {
    pub(crate) fn new(mac: Mac, seed: u64) -> Client {
        Client {
            mac,
            random: Random::new(seed),
            state: State::Down,
            lease: None,
            transaction: 0,
            since: Duration::ZERO,
            sent: 0,
            due: Duration::ZERO,
        }
    }

    pub(crate) fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref()
    }

    /// The link is there, or not any more. What was leased stands until it ends: mostly it is the same network, whose
    /// server is asked whether it is.
    pub(crate) fn link(&mut self, is_up: bool, now: Duration) {
        let state = match (&self.lease, is_up) {
            (_, false) => State::Down,
            (Some(lease), true) => State::Rebooting { address: lease.address.address() },
            (None, true) => State::Selecting,
        };
        if is_up != (self.state != State::Down) {
            self.begin(state, now);
        }
    }

    /// When something is due.
    pub(crate) fn next(&self) -> Option<Duration> {
        let expires = self.lease.as_ref().map(|lease| lease.expires_at);
        let due = (self.state != State::Down).then_some(self.due);
        expires.into_iter().chain(due).min().filter(|at| *at != Duration::MAX)
    }

    /// The address is another host's (RFC 5227): it is refused, and another one asked for after a pause.
    pub(crate) fn decline(&mut self, now: Duration) -> Option<Message> {
        let lease = self.lease.take()?;
        let message = DhcpRepr {
            requested_ip: Some(lease.address.address()),
            server_identifier: Some(lease.server),
            parameter_request_list: None,
            max_size: None,
            ..self.message(DhcpMessageType::Decline, Ipv4Addr::UNSPECIFIED, now)
        };
        let message = emit(&message, Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST);
        self.begin(State::Waiting { until: now + PAUSE }, now);
        Some(message)
    }

    /// What is due now: a message, or news.
    pub(crate) fn poll(&mut self, now: Duration) -> (Option<Message>, Option<Event>) {
        let mut event = None;
        if self.lease.as_ref().is_some_and(|lease| lease.expires_at <= now) {
            self.lease = None;
            event = Some(Event::Lost(Loss::Expired));
            if self.state != State::Down {
                self.begin(State::Selecting, now);
            }
        }
        if self.state == State::Down || self.due > now {
            return (None, event);
        }
        match (self.state, &self.lease) {
            (State::Waiting { .. }, _) => self.begin(State::Selecting, now),
            (State::Requesting { .. }, _) if self.sent == MAX_REQUESTS => self.begin(State::Selecting, now),
            // Nobody says anything to it: another network, or a server that is away. The lease stands while it lasts.
            (State::Rebooting { .. }, Some(lease)) if self.sent == MAX_REQUESTS => {
                let state = if lease.rebind_at <= now { State::Rebinding } else { State::Bound };
                self.begin(state, now);
            }
            (State::Bound, Some(lease)) => {
                let state = if lease.rebind_at <= now { State::Rebinding } else { State::Renewing };
                self.begin(state, now);
            }
            (State::Renewing, Some(lease)) if lease.rebind_at <= now => self.begin(State::Rebinding, now),
            _ => {}
        }
        if self.due > now {
            return (None, event);
        }
        (self.send(now), event)
    }

    fn begin(&mut self, state: State, now: Duration) {
        // A request has the number of the offer that it answers.
        if !matches!(state, State::Requesting { .. }) {
            self.transaction = self.random.next();
            self.since = now;
        }
        self.state = state;
        self.sent = 0;
        self.due = match state {
            State::Down => Duration::MAX,
            State::Waiting { until } => until,
            State::Bound => self.lease.as_ref().map_or(now, |lease| lease.renew_at.max(now)),
            _ => now,
        };
    }

    fn send(&mut self, now: Duration) -> Option<Message> {
        let none = Ipv4Addr::UNSPECIFIED;
        let own = self.lease.as_ref().map_or(none, |lease| lease.address.address());
        let server = self.lease.as_ref().map_or(Ipv4Addr::BROADCAST, |lease| lease.server);
        let request = DhcpMessageType::Request;
        let (message, from, to) = match self.state {
            State::Down | State::Waiting { .. } | State::Bound => return None,
            State::Selecting => (self.message(DhcpMessageType::Discover, none, now), none, Ipv4Addr::BROADCAST),
            State::Requesting { address, server } => {
                let message = DhcpRepr {
                    requested_ip: Some(address),
                    server_identifier: Some(server),
                    ..self.message(request, none, now)
                };
                (message, none, Ipv4Addr::BROADCAST)
            }
            State::Rebooting { address } => {
                let message = DhcpRepr { requested_ip: Some(address), ..self.message(request, none, now) };
                (message, none, Ipv4Addr::BROADCAST)
            }
            State::Renewing => (self.message(request, own, now), own, server),
            State::Rebinding => (self.message(request, own, now), own, Ipv4Addr::BROADCAST),
        };
        let message = emit(&message, from, to);
        self.due = now + self.pause(now);
        self.sent = self.sent.saturating_add(1);
        Some(message)
    }

    /// From a message that is sent now to the next.
    fn pause(&mut self, now: Duration) -> Duration {
        let until = match (self.state, &self.lease) {
            (State::Renewing, Some(lease)) => Some(lease.rebind_at),
            (State::Rebinding, Some(lease)) => Some(lease.expires_at),
            _ => None,
        };
        match until {
            // Half of what is left (RFC 2131, section 4.4.5).
            Some(until) => {
                let left = until.saturating_sub(now);
                (left / 2).max(USUAL_RENEWAL.min(left / 2).max(MIN_RENEWAL)).min(left.max(MIN_RENEWAL))
            }
            None => self.random.about((FIRST_INTERVAL * (1 << self.sent.min(6))).min(LAST_INTERVAL)),
        }
    }

    fn message(&self, kind: DhcpMessageType, client_ip: Ipv4Addr, now: Duration) -> DhcpRepr<'static> {
        DhcpRepr {
            message_type: kind,
            transaction_id: self.transaction,
            secs: now.saturating_sub(self.since).as_secs().min(0xffff) as u16,
            client_hardware_address: EthernetAddress(self.mac),
            client_ip,
            your_ip: Ipv4Addr::UNSPECIFIED,
            server_ip: Ipv4Addr::UNSPECIFIED,
            router: None,
            subnet_mask: None,
            relay_agent_ip: Ipv4Addr::UNSPECIFIED,
            broadcast: false,
            requested_ip: None,
            client_identifier: Some(EthernetAddress(self.mac)),
            server_identifier: None,
            parameter_request_list: Some(PARAMETERS),
            dns_servers: None,
            max_size: Some(MAX_MESSAGE),
            lease_duration: None,
            renew_duration: None,
            rebind_duration: None,
            additional_options: &[] as &[DhcpOption<'_>],
        }
    }

    /// Takes a server's message. Whoever can see the client's messages can answer them; nobody else knows their number.
    pub(crate) fn process(&mut self, message: &[u8], source: Ipv4Addr, now: Duration) -> Option<Event> {
        let answer = Answer::parse(message, self.mac, self.transaction)?;
        if !address::is_unicast(source) {
            return None;
        }
        match (self.state, answer.kind) {
            (State::Selecting, DhcpMessageType::Offer) => self.process_offer(&answer, now),
            (
                State::Requesting { .. } | State::Rebooting { .. } | State::Renewing | State::Rebinding,
                DhcpMessageType::Ack,
            ) => self.process_ack(&answer, source, now),
            (
                State::Requesting { .. } | State::Rebooting { .. } | State::Renewing | State::Rebinding,
                DhcpMessageType::Nak,
            ) => self.process_nak(&answer, now),
            _ => None,
        }
    }

    fn process_offer(&mut self, offer: &Answer<'_>, now: Duration) -> Option<Event> {
        let server = offer.server?;
        let address = offer.address()?;
        if !address::is_host(address) {
            return Some(Event::Unusable(address));
        }
        self.begin(State::Requesting { address: address.address(), server }, now);
        None
    }

    fn process_ack(&mut self, ack: &Answer<'_>, source: Ipv4Addr, now: Duration) -> Option<Event> {
        let server = ack.server.unwrap_or(source);
        match self.state {
            State::Requesting { address, server: asked } if ack.your_ip != address || server != asked => return None,
            State::Rebooting { address } if ack.your_ip != address => return None,
            _ => {}
        }
        let old = self.lease.as_ref().filter(|lease| lease.address.address() == ack.your_ip);
        let address = match (ack.mask, old) {
            (None, Some(old)) => old.address,
            _ => ack.address()?,
        };
        if !address::is_host(address) {
            return Some(Event::Unusable(address));
        }
        let duration = ack.lease?;
        let (routes, name_servers) = (ack.routes(address), ack.name_servers());
        // What a renewal leaves out has not changed.
        let routes = routes.or_else(|| old.map(|old| old.routes.clone())).unwrap_or_default();
        let name_servers = name_servers.or_else(|| old.map(|old| old.name_servers.clone())).unwrap_or_default();
        let is_endless = duration == u32::MAX;
        let lasts = Duration::from_secs(duration.into()).max(MIN_LEASE);
        // T1 and T2 as given, where they are in order.
        let given = |seconds: Option<u32>| seconds.map(|seconds| Duration::from_secs(seconds.into()));
        let rebind = given(ack.rebind).filter(|rebind| *rebind < lasts && !rebind.is_zero()).unwrap_or(lasts * 7 / 8);
        let renew = given(ack.renew)
            .filter(|renew| *renew < rebind && !renew.is_zero())
            .unwrap_or_else(|| if rebind > lasts / 2 { lasts / 2 } else { rebind * 4 / 7 });
        let end = |lasts: Duration| if is_endless { Duration::MAX } else { now + lasts };
        self.lease = Some(Lease {
            address,
            routes,
            name_servers,
            server,
            renew_at: end(renew),
            rebind_at: end(rebind),
            expires_at: end(lasts),
        });
        self.begin(State::Bound, now);
        Some(Event::Leased)
    }

    fn process_nak(&mut self, nak: &Answer<'_>, now: Duration) -> Option<Event> {
        let server = nak.server?;
        match (self.state, &self.lease) {
            (State::Requesting { server: asked, .. }, _) if server != asked => return None,
            (State::Renewing, Some(lease)) if server != lease.server => return None,
            _ => {}
        }
        let had = self.lease.take().is_some();
        // Where a server refuses all that it offers.
        let state = if self.sent > 0 && had { State::Selecting } else { State::Waiting { until: now + PAUSE } };
        self.begin(state, now);
        Some(Event::Lost(Loss::Refused(server))).filter(|_| had)
    }
}

fn emit(message: &DhcpRepr<'_>, from: Ipv4Addr, to: Ipv4Addr) -> Message {
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut DhcpPacket::new_unchecked(&mut bytes[..])).expect("the buffer is as long as the message");
    Message { from, to, bytes }
}

#[cfg(test)]
mod tests;

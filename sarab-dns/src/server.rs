//! Messages of clients, and what is said to them.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::net::IpAddr;

use domain::base::iana::{Class, Opcode, Rcode};

use crate::answer::{Answer, Kind, Outcome};
use crate::catalog::Catalog;
use crate::config::{Config, MAX_NSID};
use crate::cookie;
use crate::counters::{Counters, add};
use crate::message::{HEADER, Section, Writer, flag};
use crate::query::{Query, Unreadable};
use crate::ratelimit::{Limiter, Verdict};
use crate::transfer::{At, Transfer};
use crate::tsig::{self, Key, Rejected, Signed};
use crate::zone::{Zone, rtype};

/// Bytes of an answer to whom has no EDNS (RFC 1035, section 4.2.1).
const PLAIN: usize = 512;
/// Most bytes of the OPT record of an answer.
const MAX_OPT: usize = 11 + 4 + MAX_NSID + 4 + cookie::LEN;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// The address that its packets have.
    pub address: IpAddr,
    /// Whether it is connected: by UDP, it may be somebody else's address.
    pub tcp: bool,
}

/// When it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time {
    /// Seconds that only go on.
    pub monotonic: u32,
    /// Seconds since 1970.
    pub unix: u64,
}

/// What is done about a message.
#[derive(Debug)]
pub enum Reply {
    /// Nothing is sent.
    None,
    /// So many bytes of the buffer are sent.
    Answer(usize),
    /// The same; and the zone of this name, in wire format, is to be read again.
    Notified(usize, Box<[u8]>),
    /// The messages of a transfer are sent, one after the other.
    Transfer(Box<Transfer>),
}

/// What there is of a question, for a log.
#[derive(Debug)]
pub struct Question {
    name: crate::answer::Lower,
    qtype: u16,
}

impl core::fmt::Display for Question {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{} {}", crate::name::Text(self.name.get()), domain::base::iana::Rtype::from_int(self.qtype))
    }
}

impl Question {
    /// Of a message, if it is a query.
    pub fn of(message: &[u8]) -> Option<Question> {
        let query = Query::parse(message).ok()?;
        Some(Question { qtype: query.qtype, name: query.name })
    }
}

/// A server: its zones, its configuration, and what it has counted. It does no input or output, and waits for nothing.
///
/// # Examples
///
/// ```
/// use std::rc::Rc;
///
/// use sarab_dns::{Catalog, Client, Config, Reply, Server, Time};
///
/// let server = Server::new(Config::default(), Catalog::new(), 7);
/// // A question about example.org, which is not served: REFUSED.
/// let query = b"\x12\x34\0\0\0\x01\0\0\0\0\0\0\x07example\x03org\0\0\x01\0\x01";
/// let client = Client { address: [192, 0, 2, 1].into(), tcp: false };
/// let now = Time { monotonic: 1, unix: 1_800_000_000 };
/// let mut answer = [0; 512];
/// let Reply::Answer(len) = server.handle(query, client, now, &mut answer) else { panic!() };
/// assert_eq!((len, answer[3] & 15), (query.len(), 5));
/// ```
pub struct Server {
    catalog: RefCell<Rc<Catalog>>,
    config: RefCell<Rc<Config>>,
    keys: RefCell<Rc<[Rc<Key>]>>,
    limiter: RefCell<Limiter>,
    secret: [u8; 16],
    /// What it has counted.
    pub counters: Counters,
    log: Cell<bool>,
}

/// An answer's parts that are known before its records are.
struct Envelope {
    id: u16,
    flags: u16,
    limit: usize,
    /// The OPT record, but for the upper bits of the code.
    opt: heapless::Vec<u8, MAX_OPT>,
    /// The cookie shows that the client is where its packets say.
    is_known: bool,
}

impl Server {
    /// Serves these zones. `seed` should be such that nobody guesses it.
    pub fn new(config: Config, catalog: Catalog, seed: u128) -> Server {
        let server = Server {
            catalog: RefCell::new(Rc::new(catalog)),
            config: RefCell::default(),
            keys: RefCell::new(Rc::new([])),
            limiter: RefCell::new(Limiter::new((seed ^ (seed >> 64)) as u64)),
            secret: seed.to_be_bytes(),
            counters: Counters::default(),
            log: Cell::new(false),
        };
        server.set_config(config);
        server
    }

    /// The zones.
    pub fn catalog(&self) -> Rc<Catalog> {
        self.catalog.borrow().clone()
    }

    /// Serves these zones from now on. Transfers go on with those that they began with.
    pub fn set_catalog(&self, catalog: Catalog) {
        self.catalog.replace(Rc::new(catalog));
    }

    /// The configuration.
    pub fn config(&self) -> Rc<Config> {
        self.config.borrow().clone()
    }

    /// Does as this says from now on.
    pub fn set_config(&self, config: Config) {
        let keys: BTreeMap<_, _> =
            config.zones.values().filter_map(|zone| zone.key.clone()).map(|key| (key.name.clone(), key)).collect();
        self.keys.replace(keys.into_values().collect::<Vec<_>>().into());
        self.log.set(config.query_log);
        self.config.replace(Rc::new(config));
    }

    /// Whether the configuration asks for questions to be logged.
    pub fn logs_queries(&self) -> bool {
        self.log.get()
    }

    /// Does what a message asks for; an answer is written into `to`, which has to be of 512 bytes at least, and for clients
    /// by TCP of 65,535.
    pub fn handle(&self, message: &[u8], client: Client, now: Time, to: &mut [u8]) -> Reply {
        add(&self.counters.messages[usize::from(client.tcp)]);
        let query = match Query::parse(message) {
            Ok(query) => query,
            Err(Unreadable::Ignored) => {
                add(&self.counters.ignored);
                return Reply::None;
            }
            Err(Unreadable::Malformed) => return self.malformed(message, client, now, to),
        };
        let config = self.config();
        let mut envelope = self.envelope(&config, &query, client, now);
        let signed = match query.tsig {
            None => None,
            Some(at) => match tsig::verify(message, at, &self.keys.borrow(), now.unix) {
                Ok(signed) => Some(signed),
                Err(None) => return self.malformed(message, client, now, to),
                Err(Some(rejected)) => return self.reject(&query, envelope, *rejected, now, to),
            },
        };
        let edns = query.edns.unwrap_or_default();
        if edns.is_malformed {
            return self.error(&query, envelope, Rcode::FORMERR.to_int().into(), client, now, to);
        }
        // RFC 6891, section 6.1.3: BADVERS.
        if edns.version > 0 {
            return self.error(&query, envelope, 16, client, now, to);
        }
        match (query.opcode, query.qclass, query.qtype) {
            (Opcode::QUERY, Class::IN | Class::ANY, rtype::AXFR | rtype::IXFR) => {
                self.transfer(&config, &query, envelope, signed, client, now, to)
            }
            (Opcode::QUERY, Class::IN | Class::ANY, _) => {
                envelope.limit = envelope.limit.saturating_sub(signed.as_ref().map_or(0, Signed::room));
                self.query(&config, &query, envelope, signed, client, now, to)
            }
            (Opcode::QUERY, Class::CH, _) => self.chaos(&config, &query, envelope, client, now, to),
            (Opcode::QUERY, ..) => self.error(&query, envelope, Rcode::REFUSED.to_int().into(), client, now, to),
            (Opcode::NOTIFY, ..) => self.notify(&config, &query, envelope, signed, client, now, to),
            _ => self.error(&query, envelope, Rcode::NOTIMP.to_int().into(), client, now, to),
        }
    }

    fn envelope(&self, config: &Config, query: &Query<'_>, client: Client, now: Time) -> Envelope {
        let size = match (client.tcp, &query.edns) {
            (true, _) => usize::from(u16::MAX),
            (false, None) => PLAIN,
            (false, Some(edns)) => usize::from(edns.size.min(config.udp_size)).max(PLAIN),
        };
        // The opcode and RD as they came (RFC 1035, section 4.1.1), and CD (RFC 4035, section 3.1.6).
        let kept = query.flags & (0x7800 | flag::RD | flag::CD);
        let mut envelope =
            Envelope { id: query.id, flags: flag::QR | kept, limit: size, opt: heapless::Vec::new(), is_known: false };
        if let Some(edns) = &query.edns {
            let mut options = heapless::Vec::<u8, MAX_OPT>::new();
            // What follows is within the room for it.
            let mut option = |code: u16, data: &[u8]| {
                let _ = options.extend_from_slice(&code.to_be_bytes());
                let _ = options.extend_from_slice(&(data.len() as u16).to_be_bytes());
                let _ = options.extend_from_slice(data);
            };
            if let Some(nsid) = config.nsid.as_ref().filter(|_| edns.wants_nsid) {
                option(3, nsid.as_bytes());
            }
            if let Some(received) = edns.cookie.filter(|_| config.cookies) {
                let secret = config.cookie_secret.as_ref().unwrap_or(&self.secret);
                let unix = now.unix as u32;
                envelope.is_known = received.is_valid(secret, client.address, unix);
                option(10, &received.answer(secret, client.address, unix));
            }
            let mut head = [0; 11];
            head[2] = rtype::OPT as u8;
            head[3..5].copy_from_slice(&config.udp_size.to_be_bytes());
            head[7] = if edns.dnssec { 0x80 } else { 0 };
            head[9..11].copy_from_slice(&(options.len() as u16).to_be_bytes());
            let _ = envelope.opt.extend_from_slice(&head);
            let _ = envelope.opt.extend_from_slice(&options);
            if edns.dnssec {
                add(&self.counters.dnssec);
            }
        }
        envelope.limit -= envelope.opt.len();
        envelope
    }

    /// A message that cannot be read. Its identifier can.
    fn malformed(&self, message: &[u8], client: Client, now: Time, to: &mut [u8]) -> Reply {
        let Some(header) = message.first_chunk::<HEADER>() else { return Reply::None };
        self.counters.answer(Kind::Error, false);
        let verdict = self.limit(client, false, Kind::Error, 0, now);
        if verdict != Verdict::Send {
            return Reply::None;
        }
        let flags = u16::from_be_bytes([header[2], header[3]]) & (0x7800 | flag::RD);
        let writer = Writer::new(to, HEADER);
        let id = u16::from_be_bytes([header[0], header[1]]);
        let formerr = u16::from(Rcode::FORMERR.to_int());
        Reply::Answer(writer.finish(id, flag::QR | flags | formerr))
    }

    /// An answer with a code and nothing else.
    fn error(
        &self,
        query: &Query<'_>,
        envelope: Envelope,
        rcode: u16,
        client: Client,
        now: Time,
        to: &mut [u8],
    ) -> Reply {
        let kind = if rcode == u16::from(Rcode::REFUSED.to_int()) { Kind::Refused } else { Kind::Error };
        self.counters.answer(kind, false);
        match self.limit(client, envelope.is_known, kind, 0, now) {
            Verdict::Send => {}
            // An empty one would be as long.
            Verdict::Drop | Verdict::Slip => return Reply::None,
        }
        let mut writer = Writer::new(to, envelope.limit);
        match writer.question(query.raw, &query.labels) {
            Ok(()) => self.finish(writer, envelope, rcode, 0, None, now),
            Err(_) => Reply::None,
        }
    }

    fn reject(&self, query: &Query<'_>, envelope: Envelope, rejected: Rejected, now: Time, to: &mut [u8]) -> Reply {
        self.counters.answer(Kind::Error, false);
        add(&self.counters.refused_transfers);
        let mut writer = Writer::new(to, envelope.limit);
        if writer.question(query.raw, &query.labels).is_err() {
            return Reply::None;
        }
        writer.raise_limit(envelope.opt.len());
        if !envelope.opt.is_empty() && writer.raw(Section::Additional, &envelope.opt).is_err() {
            return Reply::None;
        }
        let flags = envelope.flags | u16::from(rejected.rcode.to_int());
        writer.fill_in(envelope.id, flags);
        writer.raise_limit(rejected.room());
        match rejected.append(&mut writer, now.unix) {
            Ok(()) => Reply::Answer(writer.finish(envelope.id, flags)),
            Err(_) => Reply::None,
        }
    }

    fn finish(
        &self,
        mut writer: Writer<'_>,
        mut envelope: Envelope,
        rcode: u16,
        flags: u16,
        signed: Option<Signed>,
        now: Time,
    ) -> Reply {
        if !envelope.opt.is_empty() {
            envelope.opt[5] = (rcode >> 4) as u8;
            writer.raise_limit(envelope.opt.len());
            if writer.raw(Section::Additional, &envelope.opt).is_err() {
                return Reply::None;
            }
        }
        let flags = envelope.flags | flags | (rcode & 15);
        if let Some(mut signed) = signed {
            writer.fill_in(envelope.id, flags);
            writer.raise_limit(signed.room());
            if signed.sign(&mut writer, now.unix).is_err() {
                return Reply::None;
            }
        }
        Reply::Answer(writer.finish(envelope.id, flags))
    }

    fn limit(&self, client: Client, is_known: bool, kind: Kind, subject: u32, now: Time) -> Verdict {
        let Some((rate, slip)) = self.config.borrow().rate.filter(|_| !client.tcp && !is_known) else {
            return Verdict::Send;
        };
        let verdict = self.limiter.borrow_mut().check(client.address, kind, subject, now.monotonic, rate, slip);
        match verdict {
            Verdict::Send => {}
            Verdict::Drop => add(&self.counters.limited[0]),
            Verdict::Slip => add(&self.counters.limited[1]),
        }
        verdict
    }

    #[expect(clippy::too_many_arguments, reason = "what a message consists of")]
    fn query(
        &self,
        _config: &Config,
        query: &Query<'_>,
        envelope: Envelope,
        signed: Option<Signed>,
        client: Client,
        now: Time,
        to: &mut [u8],
    ) -> Reply {
        self.counters.question(query.qtype);
        let catalog = self.catalog();
        // What a zone's parent knows of it the parent is asked, if it is here (RFC 4035, section 3.1.4.1).
        let is_parents = query.qtype == rtype::DS && query.labels.count() > 0;
        let zone = match is_parents {
            true => catalog.zone_of(query.name.get(), &query.labels, 1).filter(|zone| {
                // A zone that is above by more than the parent has nothing to say where another is between, which cannot be:
                // the nearest was found. It has to have the delegation.
                zone.apex.len() < query.name.get().len()
            }),
            false => None,
        };
        let zone = zone.or_else(|| catalog.zone_of(query.name.get(), &query.labels, 0));
        let Some(zone) = zone else {
            return self.error(query, envelope, Rcode::REFUSED.to_int().into(), client, now, to);
        };
        let mut writer = Writer::new(to, envelope.limit);
        if writer.question(query.raw, &query.labels).is_err() {
            return Reply::None;
        }
        let empty = writer.mark();
        let dnssec = query.edns.is_some_and(|edns| edns.dnssec);
        let mut answer = Answer::new(&catalog, &mut writer, dnssec);
        answer.resolve(zone, &query.name, &query.labels, query.qtype);
        let outcome = answer.outcome;
        drop(answer);
        let Outcome { rcode, authoritative, mut truncated, kind } = outcome;
        self.counters.answer(kind, truncated);
        let subject = match kind {
            Kind::Positive | Kind::NoData => query.labels.hash(0),
            _ => zone.hash,
        };
        match self.limit(client, envelope.is_known, kind, subject, now) {
            Verdict::Send => {}
            Verdict::Drop => return Reply::None,
            Verdict::Slip => truncated = true,
        }
        if truncated {
            writer.back_to(empty);
        }
        let flags = if authoritative { flag::AA } else { 0 } | if truncated { flag::TC } else { 0 };
        self.finish(writer, envelope, rcode.to_int().into(), flags, signed, now)
    }

    /// Names that servers have for themselves (RFC 4892).
    fn chaos(
        &self,
        config: &Config,
        query: &Query<'_>,
        envelope: Envelope,
        client: Client,
        now: Time,
        to: &mut [u8],
    ) -> Reply {
        let text = match query.name.get() {
            b"\x02id\x06server\0" | b"\x08hostname\x04bind\0" => config.identity.as_ref(),
            b"\x07version\x06server\0" | b"\x07version\x04bind\0" => config.version.as_ref(),
            _ => None,
        };
        let is_text = matches!(query.qtype, 16 | rtype::ANY);
        let Some(text) = text.filter(|_| is_text) else {
            return self.error(query, envelope, Rcode::REFUSED.to_int().into(), client, now, to);
        };
        self.counters.answer(Kind::Positive, false);
        match self.limit(client, envelope.is_known, Kind::Positive, query.labels.hash(0), now) {
            Verdict::Send => {}
            Verdict::Drop | Verdict::Slip => return Reply::None,
        }
        let mut writer = Writer::new(to, envelope.limit);
        // TXT, class CH, TTL 0.
        let mut record = Vec::from([0xc0, 12, 0, 16, 0, 3, 0, 0, 0, 0]);
        record.extend_from_slice(&(text.len() as u16 + 1).to_be_bytes());
        record.push(text.len() as u8);
        record.extend_from_slice(text.as_bytes());
        let whole = writer.question(query.raw, &query.labels).and_then(|()| writer.raw(Section::Answer, &record));
        match whole {
            Ok(()) => self.finish(writer, envelope, 0, flag::AA, None, now),
            Err(_) => Reply::None,
        }
    }

    fn own_zone(&self, query: &Query<'_>) -> Option<Rc<Zone>> {
        self.catalog.borrow().get(query.name.get()).cloned()
    }

    #[expect(clippy::too_many_arguments, reason = "what a message consists of")]
    fn transfer(
        &self,
        config: &Config,
        query: &Query<'_>,
        mut envelope: Envelope,
        signed: Option<Signed>,
        client: Client,
        now: Time,
        to: &mut [u8],
    ) -> Reply {
        let refuse = |envelope, rcode: Rcode, to: &mut [u8]| {
            add(&self.counters.refused_transfers);
            self.error(query, envelope, rcode.to_int().into(), client, now, to)
        };
        // By UDP there is none (RFC 5936, section 4.2).
        if query.qtype == rtype::AXFR && !client.tcp {
            return refuse(envelope, Rcode::FORMERR, to);
        }
        let (Some(zone), Some(own)) = (self.own_zone(query), config.zones.get(query.name.get())) else {
            return refuse(envelope, Rcode::NOTAUTH, to);
        };
        let has_key = match (&own.key, &signed) {
            (None, _) => true,
            (Some(key), Some(signed)) => Rc::ptr_eq(key, &signed.key),
            (Some(_), None) => false,
        };
        let has_address = own.transfer.iter().any(|prefix| prefix.contains(client.address));
        // With a key and no addresses, the key is enough.
        let may = has_key && (has_address || (own.transfer.is_empty() && own.key.is_some()));
        if !may {
            return refuse(envelope, Rcode::REFUSED, to);
        }
        // Who asks for changes gets the whole zone (RFC 1995, section 4), or SOA alone where there are none, or by UDP.
        let is_current = query.serial.is_some_and(|serial| {
            let order = domain::base::Serial(serial).partial_cmp(&domain::base::Serial(zone.serial));
            matches!(order, Some(core::cmp::Ordering::Equal | core::cmp::Ordering::Greater))
        });
        if query.qtype == rtype::IXFR && (!client.tcp || is_current) {
            let room = signed.as_ref().map_or(0, Signed::room);
            envelope.limit = envelope.limit.saturating_sub(room);
            let mut writer = Writer::new(to, envelope.limit);
            let whole = writer.question(query.raw, &query.labels).and_then(|()| {
                writer.records(Section::Answer, &zone.apex, rtype::SOA, zone.soa.ttl, zone.records_of(zone.soa))
            });
            return match whole {
                Ok(()) => self.finish(writer, envelope, 0, flag::AA, signed, now),
                Err(_) => Reply::None,
            };
        }
        add(&self.counters.transfers);
        Reply::Transfer(Box::new(Transfer {
            zone,
            id: query.id,
            flags: envelope.flags | flag::AA,
            question: query.raw.into(),
            signed,
            at: At::Begin,
            messages: 0,
        }))
    }

    /// RFC 1996: somebody says that a zone has changed. Whom the configuration names is believed, and it is read again.
    #[expect(clippy::too_many_arguments, reason = "what a message consists of")]
    fn notify(
        &self,
        config: &Config,
        query: &Query<'_>,
        mut envelope: Envelope,
        signed: Option<Signed>,
        client: Client,
        now: Time,
        to: &mut [u8],
    ) -> Reply {
        let own = config.zones.get(query.name.get());
        let rcode = match own {
            None => Rcode::NOTAUTH,
            Some(own) if own.notified_by.iter().any(|prefix| prefix.contains(client.address)) => Rcode::NOERROR,
            Some(_) => Rcode::REFUSED,
        };
        if rcode != Rcode::NOERROR {
            add(&self.counters.refused_transfers);
            return self.error(query, envelope, rcode.to_int().into(), client, now, to);
        }
        add(&self.counters.notified);
        envelope.limit = envelope.limit.saturating_sub(signed.as_ref().map_or(0, Signed::room));
        let mut writer = Writer::new(to, envelope.limit);
        if writer.question(query.raw, &query.labels).is_err() {
            return Reply::None;
        }
        match self.finish(writer, envelope, 0, flag::AA, signed, now) {
            Reply::Answer(len) => Reply::Notified(len, query.name.get().into()),
            other => other,
        }
    }
}

/// A message that tells a secondary server of a zone's change (RFC 1996, section 3.7), with this identifier.
pub fn notify_message(zone: &Zone, id: u16) -> Vec<u8> {
    let mut bytes = alloc::vec![0; PLAIN];
    let mut question = zone.apex.to_vec();
    question.extend_from_slice(&[0, rtype::SOA as u8, 0, 1]);
    let labels = crate::name::Labels::of(&zone.apex);
    let mut writer = Writer::new(&mut bytes, PLAIN);
    // A question and one record with names of 255 bytes fit, or the record is left out, which it may be.
    let _ = writer.question(&question, &labels);
    let mark = writer.mark();
    if writer.records(Section::Answer, &zone.apex, rtype::SOA, zone.soa.ttl, zone.records_of(zone.soa)).is_err() {
        writer.back_to(mark);
    }
    // Opcode 4, AA.
    let len = writer.finish(id, 0x2000 | flag::AA);
    bytes.truncate(len);
    bytes
}

//! Messages of DNS (RFC 1035) as a forwarder sees them: a question, and records that it passes on as they are. The formats are
//! the crate `domain`'s.

use alloc::boxed::Box;
use alloc::vec::Vec;

use domain::base::{Name, ParsedName};
use domain::dep::octseq::Parser;

/// What is sent at once by UDP, to clients and to servers: it is not cut into fragments on any usual path (DNS flag day 2020).
pub(crate) const UDP_PAYLOAD: u16 = 1232;
/// What a client takes that says nothing (RFC 1035, section 4.2.1).
pub(super) const MIN_PAYLOAD: u16 = 512;
pub(super) const HEADER: usize = 12;
/// Types.
pub(super) const SOA: u16 = 6;
pub(super) const OPT: u16 = 41;
pub(super) const TSIG: u16 = 250;
pub(super) const SIG: u16 = 24;
pub(super) const IXFR: u16 = 251;
pub(super) const AXFR: u16 = 252;
pub(super) const ANY: u16 = 255;
pub(super) const IN: u16 = 1;
/// Response codes (RFC 1035, section 4.1.1, and RFC 6891, section 9).
pub(super) const NOERROR: u16 = 0;
pub(super) const FORMERR: u16 = 1;
pub(super) const SERVFAIL: u16 = 2;
pub(super) const NXDOMAIN: u16 = 3;
pub(super) const NOTIMP: u16 = 4;
pub(super) const REFUSED: u16 = 5;
pub(super) const BADVERS: u16 = 16;
/// Flags in the two bytes behind the number.
pub(super) const QR: u16 = 0x8000;
pub(super) const AA: u16 = 0x0400;
pub(super) const TC: u16 = 0x0200;
pub(super) const RD: u16 = 0x0100;
const RA: u16 = 0x0080;
pub(super) const CD: u16 = 0x0010;
pub(super) const OPCODE: u16 = 0x7800;
/// In an OPT record's TTL (RFC 3225).
const DNSSEC_OK: u32 = 0x8000;

/// A question, and what an answer to it depends on besides.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Name, type and class as they are sent, the name in lower case.
    pub(super) question: Box<[u8]>,
    /// The asker understands DNSSEC (DO).
    pub(super) dnssec_ok: bool,
    /// Signatures are not to be checked (CD).
    pub(super) checking_disabled: bool,
}

impl Key {
    pub(super) fn name(&self) -> &[u8] {
        &self.question[..self.question.len() - 4]
    }

    pub(super) fn rtype(&self) -> u16 {
        u16_at(&self.question, self.question.len() - 4).unwrap_or(0)
    }
}

/// How a question comes, and its answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// As a datagram.
    Udp,
    /// On a connection.
    Tcp,
}

/// A client's question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    pub(super) id: u16,
    flags: u16,
    /// As the client writes it, which an answer repeats.
    question: Box<[u8]>,
    pub(super) key: Key,
    edns: Option<Edns>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Edns {
    payload: u16,
    dnssec_ok: bool,
}

/// What a client has sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    Query(Query),
    /// Not a question that is answered: what is said to it.
    Reply(Vec<u8>, u16),
    /// It is to be ignored.
    Nothing,
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
}

/// How many bytes the question of a message takes; `None` where its name is compressed, or it is cut off.
fn question_len(message: &[u8]) -> Option<usize> {
    let mut parser = Parser::from_ref(message);
    parser.advance(HEADER).ok()?;
    Name::<&[u8]>::parse(&mut parser).ok()?;
    parser.advance(4).ok()?;
    Some(parser.pos() - HEADER)
}

/// A record, and where it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record {
    /// 0 for an answer, 1 for the authority section, 2 for what is additional.
    pub(super) section: usize,
    pub(super) rtype: u16,
    pub(super) class: u16,
    pub(super) ttl: u32,
    pub(super) ttl_at: usize,
    /// Where its data ends.
    pub(super) end: usize,
}

/// The records of a message behind its question, until one that is not right.
pub(super) fn records(message: &[u8], start: usize) -> impl Iterator<Item = Option<Record>> + '_ {
    let counts = [6, 8, 10].map(|at| u16_at(message, at).unwrap_or(0));
    let mut parser = Parser::from_ref(message);
    let mut is_over = parser.advance(start).is_err();
    let sections = counts.into_iter().enumerate().flat_map(|(section, count)| (0..count).map(move |_| section));
    sections.map_while(move |section| {
        if is_over {
            return None;
        }
        let record = record(&mut parser, section);
        is_over = record.is_none();
        Some(record)
    })
}

fn record(parser: &mut Parser<'_, [u8]>, section: usize) -> Option<Record> {
    let start = parser.pos();
    ParsedName::parse_ref(parser).ok()?;
    if !has_prior_parts(parser.as_slice(), start) {
        return None;
    }
    let rtype = parser.parse_u16_be().ok()?;
    let class = parser.parse_u16_be().ok()?;
    let ttl_at = parser.pos();
    let ttl = parser.parse_u32_be().ok()?;
    let len = parser.parse_u16_be().ok()?;
    parser.advance(len.into()).ok()?;
    Some(Record { section, rtype, class, ttl, ttl_at, end: parser.pos() })
}

/// Whether the parts of a name are where they should be: each pointer leads to what stands before it (RFC 1035, section
/// 4.1.4), and none into the header. Other names would be different ones in a message with another number, or cut off.
fn has_prior_parts(message: &[u8], start: usize) -> bool {
    let (mut part, mut at, mut bound) = (start, start, message.len());
    while let Some(byte) = message.get(at).copied().filter(|_| at < bound) {
        match byte {
            0 => return true,
            1..64 => at += 1 + usize::from(byte),
            _ => {
                let Some(low) = message.get(at + 1) else { return false };
                let target = usize::from(byte & 0x3f) << 8 | usize::from(*low);
                if target < HEADER || target >= part {
                    return false;
                }
                (bound, part, at) = (part, target, target);
            }
        }
    }
    false
}

impl Query {
    /// What a client's message is.
    pub(super) fn parse(message: &[u8]) -> Parsed {
        let (Some(id), Some(flags), Some(count)) = (u16_at(message, 0), u16_at(message, 2), u16_at(message, 4)) else {
            return Parsed::Nothing;
        };
        // An answer to an answer could go round for ever.
        if message.len() < HEADER || flags & QR != 0 {
            return Parsed::Nothing;
        }
        let short = |rcode: u16| Parsed::Reply(header(id, QR | RA | flags & (OPCODE | RD) | rcode, [0; 4]), rcode);
        if flags & OPCODE != 0 {
            return short(NOTIMP);
        }
        let Some(len) = question_len(message).filter(|_| count == 1) else { return short(FORMERR) };
        let mut edns = None;
        let mut version = 0;
        for record in records(message, HEADER + len) {
            let Some(record) = record else { return short(FORMERR) };
            if record.section == 2 && record.rtype == OPT {
                if edns.is_some() {
                    return short(FORMERR);
                }
                version = record.ttl >> 16 & 0xff;
                edns = Some(Edns { payload: record.class, dnssec_ok: record.ttl & DNSSEC_OK != 0 });
            }
        }
        let question = &message[HEADER..HEADER + len];
        let (name, rest) = question.split_at(len - 4);
        let key = Key {
            question: [&name.to_ascii_lowercase(), rest].concat().into(),
            dnssec_ok: edns.is_some_and(|edns| edns.dnssec_ok),
            checking_disabled: flags & CD != 0,
        };
        let query = Query { id, flags, question: question.into(), key, edns };
        if version != 0 {
            return Parsed::Reply(query.error(BADVERS), BADVERS);
        }
        Parsed::Query(query)
    }

    pub(super) fn rtype(&self) -> u16 {
        self.key.rtype()
    }

    pub(super) fn class(&self) -> u16 {
        u16_at(&self.question, self.question.len() - 2).unwrap_or(0)
    }

    pub(super) fn wants_recursion(&self) -> bool {
        self.flags & RD != 0
    }

    /// An answer with a response code alone.
    pub(super) fn error(&self, rcode: u16) -> Vec<u8> {
        self.write(0, rcode, [0; 3], &[])
    }

    /// An answer with records, which are so many seconds old. What is longer than the client takes is left out, and it is told
    /// so (TC).
    pub(super) fn answer(&self, body: &Body, age: u32, transport: Transport) -> Vec<u8> {
        let payload = self.edns.map_or(MIN_PAYLOAD, |edns| edns.payload.clamp(MIN_PAYLOAD, UDP_PAYLOAD));
        let max = if transport == Transport::Udp { usize::from(payload) } else { usize::from(u16::MAX) };
        let flags = if body.is_authoritative { AA } else { 0 };
        let opt = if self.edns.is_some() { 11 } else { 0 };
        if HEADER + self.question.len() + body.records.len() + opt > max {
            return self.write(flags | TC, body.rcode, [0; 3], &[]);
        }
        let mut message = self.write(flags, body.rcode, body.counts, &body.records);
        for at in &body.ttls {
            let at = HEADER + self.question.len() + usize::from(*at);
            if let Some(ttl) = message.get_mut(at..).and_then(|bytes| bytes.first_chunk_mut::<4>()) {
                *ttl = u32::from_be_bytes(*ttl).saturating_sub(age).to_be_bytes();
            }
        }
        message
    }

    fn write(&self, flags: u16, rcode: u16, counts: [u16; 3], records: &[u8]) -> Vec<u8> {
        let [answers, authority, additional] = counts;
        let flags = QR | RA | self.flags & (RD | CD) | flags | rcode & 15;
        let opt = u16::from(self.edns.is_some());
        let mut message = header(self.id, flags, [1, answers, authority, additional.saturating_add(opt)]);
        message.extend(&self.question);
        message.extend(records);
        if let Some(edns) = self.edns {
            let ttl = u32::from(rcode >> 4) << 24 | if edns.dnssec_ok { DNSSEC_OK } else { 0 };
            message.extend(write_opt(ttl));
        }
        message
    }
}

fn header(id: u16, flags: u16, counts: [u16; 4]) -> Vec<u8> {
    [id, flags].into_iter().chain(counts).flat_map(u16::to_be_bytes).collect()
}

/// An OPT record without options (RFC 6891, section 6.1.2).
fn write_opt(ttl: u32) -> Vec<u8> {
    let mut record = Vec::from([0]);
    record.extend(OPT.to_be_bytes());
    record.extend(UDP_PAYLOAD.to_be_bytes());
    record.extend(ttl.to_be_bytes());
    record.extend([0, 0]);
    record
}

/// A question to a server, with or without EDNS (RFC 6891).
pub fn question(id: u16, key: &Key, edns: bool) -> Vec<u8> {
    let flags = RD | if key.checking_disabled { CD } else { 0 };
    let mut message = header(id, flags, [1, 0, 0, edns.into()]);
    message.extend(&key.question);
    if edns {
        message.extend(write_opt(if key.dnssec_ok { DNSSEC_OK } else { 0 }));
    }
    message
}

/// The records of an answer, which stand behind the question: names in them may point to it, and the question is as long in
/// every message about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    pub(super) rcode: u16,
    pub(super) is_authoritative: bool,
    pub(super) counts: [u16; 3],
    pub(super) records: Box<[u8]>,
    /// Where the TTLs are in the records.
    pub(super) ttls: Box<[u16]>,
}

impl Body {
    /// That of a message about a question, without what is between two hosts (OPT, TSIG). `None` where the message is not
    /// right.
    pub(super) fn new(message: &[u8], key: &Key) -> Option<Body> {
        let start = HEADER + key.question.len();
        let flags = u16_at(message, 2)?;
        let (mut counts, mut ttls, mut end) = ([0; 3], Vec::new(), start);
        for record in records(message, start) {
            let record = record?;
            if matches!(record.rtype, OPT | TSIG | SIG) {
                if record.section < 2 && record.rtype != SIG {
                    return None;
                }
                if record.section == 2 {
                    // Names behind it may point to each other, and nothing there is needed.
                    break;
                }
            }
            counts[record.section] += 1;
            ttls.push(u16::try_from(record.ttl_at - start).ok()?);
            end = record.end;
        }
        let records = message.get(start..end)?.into();
        Some(Body { rcode: flags & 15, is_authoritative: false, counts, records, ttls: ttls.into() })
    }

    /// Bytes that it takes.
    pub(super) fn size(&self) -> usize {
        self.records.len() + 2 * self.ttls.len()
    }
}

/// Whether a message is about a question: its only one, whatever the case of its letters.
pub(super) fn is_about(message: &[u8], key: &Key) -> bool {
    let len = key.question.len();
    let Some(question) = message.get(HEADER..HEADER + len) else { return false };
    let (name, rest) = question.split_at(len - 4);
    u16_at(message, 4) == Some(1) && name.eq_ignore_ascii_case(key.name()) && rest == &key.question[len - 4..]
}

//! What clients send.

use domain::base::iana::{Class, Opcode, OptionCode};
use domain::base::message::Message;
use domain::base::name::ToLabelIter;
use domain::base::opt::{Opt, OptRecord, UnknownOptData};
use domain::rdata::Soa;

use crate::answer::Lower;
use crate::cookie;
use crate::message::HEADER;
use crate::name::Labels;
use crate::zone::rtype;

/// Why a message is not answered as a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// It is none, or an answer: nothing is sent.
    Ignored,
    /// It is malformed, which its sender is told.
    Malformed,
}

/// EDNS(0) (RFC 6891).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Edns {
    pub size: u16,
    pub version: u8,
    pub dnssec: bool,
    pub wants_nsid: bool,
    pub cookie: Option<cookie::Received>,
    /// Its cookie has a length that none has (RFC 7873, section 5.2.2).
    pub is_malformed: bool,
}

pub(crate) struct Query<'a> {
    pub id: u16,
    /// As they came.
    pub flags: u16,
    pub opcode: Opcode,
    /// The question as it came, to be repeated.
    pub raw: &'a [u8],
    pub name: Lower,
    pub labels: Labels,
    pub qtype: u16,
    pub qclass: Class,
    pub edns: Option<Edns>,
    /// Where a TSIG record begins, the last one.
    pub tsig: Option<usize>,
    /// What the client has, where it asks for changes since (RFC 1995).
    pub serial: Option<u32>,
}

impl<'a> Query<'a> {
    pub fn parse(bytes: &'a [u8]) -> Result<Query<'a>, Unreadable> {
        let message = Message::from_slice(bytes).map_err(|_| Unreadable::Ignored)?;
        let header = message.header();
        if header.qr() {
            return Err(Unreadable::Ignored);
        }
        let counts = message.header_counts();
        let question = message.sole_question().map_err(|_| Unreadable::Malformed)?;
        let mut wire = heapless::Vec::<u8, 255>::new();
        for label in question.qname().iter_labels() {
            let bytes = label.as_slice();
            let fits = wire.push(bytes.len() as u8).is_ok() && wire.extend_from_slice(bytes).is_ok();
            if !fits {
                return Err(Unreadable::Malformed);
            }
        }
        // A name that is compressed there points to the header.
        let raw = bytes.get(HEADER..HEADER + wire.len() + 4).ok_or(Unreadable::Malformed)?;
        if raw[..wire.len()] != *wire {
            return Err(Unreadable::Malformed);
        }
        let name = Lower::new(&wire);
        let mut query = Query {
            id: header.id(),
            flags: u16::from_be_bytes([bytes[2], bytes[3]]),
            opcode: header.opcode(),
            raw,
            labels: Labels::of(name.get()),
            name,
            qtype: question.qtype().to_int(),
            qclass: question.qclass(),
            edns: None,
            tsig: None,
            serial: None,
        };
        if counts.ancount() != 0 || counts.nscount() != 0 || counts.arcount() != 0 {
            query.read_records(message).map_err(|()| Unreadable::Malformed)?;
        }
        Ok(query)
    }

    fn read_records(&mut self, message: &Message<[u8]>) -> Result<(), ()> {
        if self.qtype == rtype::IXFR {
            let authority = message.authority().map_err(drop)?;
            let soa = authority.limit_to::<Soa<_>>().next().ok_or(())?.map_err(drop)?;
            self.serial = Some(soa.data().serial().into());
        }
        let mut records = message.additional().map_err(drop)?;
        loop {
            let at = records.pos();
            let Some(record) = records.next() else { return Ok(()) };
            let record = record.map_err(drop)?;
            // Nothing follows TSIG (RFC 8945, section 5.1).
            if self.tsig.is_some() {
                return Err(());
            }
            match record.rtype().to_int() {
                rtype::OPT => {
                    let is_root = record.owner().label_count() == 1;
                    let record = record.to_record::<Opt<_>>().map_err(drop)?.ok_or(())?;
                    if self.edns.is_some() || !is_root {
                        return Err(());
                    }
                    self.edns = Some(Edns::of(&OptRecord::from(record)));
                }
                rtype::TSIG => self.tsig = Some(at),
                _ => {}
            }
        }
    }
}

impl Edns {
    fn of(record: &OptRecord<&[u8]>) -> Edns {
        let mut edns = Edns {
            size: record.udp_payload_size(),
            version: record.version(),
            dnssec: record.dnssec_ok(),
            ..Edns::default()
        };
        for option in record.opt().iter::<UnknownOptData<&[u8]>>() {
            let Ok(option) = option else {
                edns.is_malformed = true;
                break;
            };
            match option.code() {
                OptionCode::NSID => edns.wants_nsid = true,
                OptionCode::COOKIE if edns.cookie.is_none() => match cookie::Received::new(option.data()) {
                    Some(cookie) => edns.cookie = Some(cookie),
                    None => edns.is_malformed = true,
                },
                _ => {}
            }
        }
        edns
    }
}

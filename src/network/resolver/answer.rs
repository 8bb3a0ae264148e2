//! Questions to a server, and what its answers say. The formats are the crate `domain`'s.

use alloc::vec::Vec;
use core::net::IpAddr;

use domain::base::iana::{Class, Opcode, Rcode};
use domain::base::name::ToName;
use domain::base::{Message, MessageBuilder, Name, ParsedName, Rtype, Ttl};
use domain::rdata::{A, Aaaa, Cname, Soa};

/// What a server may send at once by UDP: it is not cut into fragments on any usual path (DNS flag day 2020).
pub(super) const UDP_PAYLOAD: u16 = 1232;
/// Addresses that are taken from one answer.
const MAX_ADDRESSES: usize = 16;
/// Names that lead from one to another in one answer.
const MAX_ALIASES: usize = 16;
/// Records that are looked at in one answer.
const MAX_RECORDS: usize = 256;
/// However long a server says that something holds (RFC 8767), and that something does not exist (RFC 2308).
const MAX_SECONDS: u32 = 24 * 60 * 60;
const MAX_NEGATIVE_SECONDS: u32 = 5 * 60;

/// A name as it is sent.
pub type DnsName = Name<Vec<u8>>;

/// Which addresses are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4: A records.
    V4,
    /// IPv6: AAAA records.
    V6,
}

impl Family {
    fn rtype(self) -> Rtype {
        match self {
            Family::V4 => Rtype::A,
            Family::V6 => Rtype::AAAA,
        }
    }
}

/// What a server says, and for how many seconds it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Those of the name.
    Addresses(Vec<IpAddr>, u32),
    /// The name is another's, of whose addresses the server says nothing.
    Alias(DnsName, u32),
    /// There is such a name, without an address of the family.
    NoAddress(u32),
    /// There is no such name.
    NoName(u32),
    /// The server does not answer the question.
    Refused(Rcode),
    /// The question is to be asked by TCP.
    Truncated,
}

/// A question in a message of its own.
pub(super) fn question(id: u16, name: &DnsName, family: Family, edns: bool) -> Vec<u8> {
    let mut builder = MessageBuilder::new_vec();
    builder.header_mut().set_id(id);
    builder.header_mut().set_rd(true);
    let mut builder = builder.question();
    builder.push((name, family.rtype(), Class::IN)).expect("a vector takes a question");
    let mut builder = builder.additional();
    if edns {
        let option = builder.opt(|opt| {
            opt.set_udp_payload_size(UDP_PAYLOAD);
            Ok(())
        });
        option.expect("a vector takes an option");
    }
    builder.finish()
}

/// What a message says to a question; `None` where it is no answer to it: somebody else's, or forged.
pub fn read(message: &[u8], id: u16, name: &DnsName, family: Family) -> Option<Answer> {
    let message = Message::from_slice(message).ok()?;
    let header = message.header();
    if header.id() != id || !header.qr() || header.opcode() != Opcode::QUERY {
        return None;
    }
    let asked = message.sole_question();
    // A server that does not understand the question need not repeat it.
    let Ok(asked) = asked else {
        let silent = message.header_counts().qdcount() == 0 && header.rcode() != Rcode::NOERROR;
        return silent.then_some(Answer::Refused(header.rcode()));
    };
    if asked.qname() != name || asked.qtype() != family.rtype() || asked.qclass() != Class::IN {
        return None;
    }
    if header.tc() {
        return Some(Answer::Truncated);
    }
    match header.rcode() {
        Rcode::NOERROR | Rcode::NXDOMAIN => {
            Some(records(message, name, family).unwrap_or(Answer::Refused(Rcode::FORMERR)))
        }
        rcode => Some(Answer::Refused(rcode)),
    }
}

fn seconds(ttl: Ttl) -> u32 {
    // What has the highest bit set counts as zero (RFC 2181, 8).
    let seconds = ttl.as_secs();
    if seconds > i32::MAX as u32 { 0 } else { seconds.min(MAX_SECONDS) }
}

/// A name in a message.
type Parsed<'a> = ParsedName<&'a [u8]>;

/// What the records say; `None` where they are none.
fn records(message: &Message<[u8]>, name: &DnsName, family: Family) -> Option<Answer> {
    let mut aliases: Vec<(Parsed<'_>, Parsed<'_>, u32)> = Vec::new();
    let mut found: Vec<(Parsed<'_>, IpAddr, u32)> = Vec::new();
    for record in message.answer().ok()?.take(MAX_RECORDS) {
        let record = record.ok()?;
        if record.class() != Class::IN {
            continue;
        }
        let ttl = seconds(record.ttl());
        let owner = record.owner();
        if record.rtype() == Rtype::CNAME {
            let data = record.into_record::<Cname<_>>().ok()??.into_data();
            aliases.push((owner, data.into_cname(), ttl));
        } else if record.rtype() == family.rtype() {
            let address = match family {
                Family::V4 => record.into_record::<A>().ok()??.data().addr().into(),
                Family::V6 => record.into_record::<Aaaa>().ok()??.data().addr().into(),
            };
            found.push((owner, address, ttl));
        }
    }
    let mut ttl = MAX_SECONDS;
    let mut current: Option<Parsed<'_>> = None;
    for _ in 0..MAX_ALIASES {
        let is_current = |owner: &Parsed<'_>| match &current {
            None => owner == name,
            Some(current) => owner == current,
        };
        let own = found.iter().filter(|(owner, address, _)| is_current(owner) && is_usable(*address));
        let mut addresses = Vec::new();
        for (_, address, holds) in own.take(MAX_ADDRESSES) {
            ttl = ttl.min(*holds);
            addresses.push(*address);
        }
        if !addresses.is_empty() {
            return Some(Answer::Addresses(addresses, ttl));
        }
        let Some((_, next, holds)) = aliases.iter().find(|(owner, ..)| is_current(owner)) else {
            return nothing(message, current, ttl);
        };
        ttl = ttl.min(*holds);
        current = Some(*next);
    }
    // They lead round and round.
    None
}

/// There is no address: how long that holds, the server says with a record of the zone that the name is in (RFC 2308).
/// Where it says nothing, it may not have followed an alias to its end.
fn nothing(message: &Message<[u8]>, alias: Option<Parsed<'_>>, ttl: u32) -> Option<Answer> {
    let mut negative = None;
    for record in message.authority().ok()?.take(MAX_RECORDS) {
        let record = record.ok()?;
        if record.rtype() == Rtype::SOA && record.class() == Class::IN {
            let own = seconds(record.ttl());
            let soa = record.into_record::<Soa<ParsedName<_>>>().ok()??;
            negative = Some(own.min(seconds(soa.data().minimum())).min(ttl).min(MAX_NEGATIVE_SECONDS));
            break;
        }
    }
    let no_name = message.header().rcode() == Rcode::NXDOMAIN;
    match (alias, negative) {
        (_, _) if no_name => Some(Answer::NoName(negative.unwrap_or(0))),
        (Some(alias), None) => Some(Answer::Alias(alias.try_to_name().ok()?, ttl)),
        (_, _) => Some(Answer::NoAddress(negative.unwrap_or(0))),
    }
}

/// Whether something can be sent to an address.
fn is_usable(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !address.is_unspecified() && !address.is_multicast() && !address.is_broadcast(),
        IpAddr::V6(address) => !address.is_unspecified() && !address.is_multicast(),
    }
}

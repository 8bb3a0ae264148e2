//! What a server's message says to a question.

use super::message::{
    Body, FORMERR, HEADER, IN, Key, NOERROR, NXDOMAIN, OPCODE, OPT, QR, SOA, TC, is_about, records, u16_at,
};

/// However long a server says that something holds (RFC 8767), and that something does not exist (RFC 2308).
const MAX_SECONDS: u32 = 24 * 60 * 60;
const MAX_NEGATIVE_SECONDS: u32 = 5 * 60;

/// What a server says, and for how many seconds it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Records, or that there are none, for so many seconds.
    Body(Body, u32),
    /// The question is to be asked by TCP.
    Truncated,
    /// The server does not answer the question: its response code.
    Refused(u16),
}

/// `None` where a message is no answer to the question: somebody else's, or forged.
pub fn read(message: &[u8], id: u16, key: &Key) -> Option<Answer> {
    let flags = u16_at(message, 2)?;
    if message.len() < HEADER || u16_at(message, 0)? != id || flags & QR == 0 || flags & OPCODE != 0 {
        return None;
    }
    let rcode = flags & 15;
    if !is_about(message, key) {
        // A server that does not understand the question need not repeat it.
        let is_silent = u16_at(message, 4)? == 0 && rcode != NOERROR;
        return is_silent.then_some(Answer::Refused(rcode));
    }
    if flags & TC != 0 {
        return Some(Answer::Truncated);
    }
    if rcode != NOERROR && rcode != NXDOMAIN {
        return Some(Answer::Refused(rcode));
    }
    Some(body(message, key).unwrap_or(Answer::Refused(FORMERR)))
}

fn seconds(ttl: u32, max: u32) -> u32 {
    // What has the highest bit set counts as zero (RFC 2181, section 8).
    if ttl > i32::MAX as u32 { 0 } else { ttl.min(max) }
}

/// `None` where the message is not right.
fn body(message: &[u8], key: &Key) -> Option<Answer> {
    let (mut positive, mut negative, mut is_there) = (MAX_SECONDS, None, false);
    for record in records(message, HEADER + key.question.len()) {
        let record = record?;
        match record.section {
            // The upper part of the response code is in it (RFC 6891, section 6.1.3).
            2 if record.rtype == OPT && record.ttl >> 24 == 0 => {}
            _ if record.rtype == OPT => return None,
            0 => {
                positive = positive.min(seconds(record.ttl, MAX_SECONDS));
                is_there |= record.rtype == key.rtype();
            }
            // How long nothing is there, the zone's record says twice (RFC 2308, section 5).
            1 if record.rtype == SOA && record.class == IN => {
                let minimum = message.get(record.end.checked_sub(4)?..record.end)?.first_chunk()?;
                let minimum = u32::from_be_bytes(*minimum).min(record.ttl);
                negative = negative.or(Some(seconds(minimum, MAX_NEGATIVE_SECONDS)));
            }
            _ => {}
        }
    }
    let body = Body::new(message, key)?;
    let holds = if is_there && body.rcode == NOERROR { positive } else { negative.unwrap_or(0).min(positive) };
    Some(Answer::Body(body, holds))
}

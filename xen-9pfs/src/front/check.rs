//! What an answer must be like, whatever the server is: what is not so ends the device.

use alloc::vec::Vec;
use core::fmt;

use xenbus::Failure;

use super::connection::broken;
use super::error::refused;
use super::requests::{Answer, Asked};
use super::{Dialect, Error};
use crate::protocol::{Header, Kind, Message};

/// The type of a dialect's refusals.
pub(super) const fn refusal(dialect: Dialect) -> Kind {
    match dialect {
        Dialect::Linux => Kind::RLERROR,
        Dialect::Unix => Kind::RERROR,
    }
}

/// Whether an answer's type is that of the request, or that of a refusal.
pub(super) fn kind(asked: Kind, header: Header, refusals: &[Kind]) -> Result<(), Failure> {
    let expected = Kind(asked.0 + 1);
    if header.kind == expected || refusals.contains(&header.kind) {
        return Ok(());
    }
    Err(broken(format_args!("answer to {asked} has wrong type ({} instead of {expected})", header.kind)))
}

/// What a user gets of an answer; the request's own numbers bound it.
pub(super) fn answer(asked: Asked, header: Header, body: Vec<u8>) -> Result<Result<Answer, Error>, Failure> {
    let limit = asked.limit;
    let within = |what: &dyn fmt::Display, len: usize| match u32::try_from(len) {
        Ok(len) if len <= limit => Ok(()),
        _ => Err(broken(format_args!("{}: {len} {what}: expected {limit} at most", header.kind))),
    };
    let made = match Message::decode(header.kind, &body).map_err(broken)? {
        Message::Rlerror { ecode } | Message::Rerror { ecode, .. } => return Ok(Err(refused(asked.kind, ecode))),
        Message::Rwalk { qids } => {
            within(&"qids", qids.len())?;
            qids.len() == limit as usize
        }
        Message::Rread { data } | Message::Rreaddir { data } => {
            within(&"bytes", data.0.len())?;
            false
        }
        Message::Rwrite { count } => {
            within(&"bytes written", count as usize)?;
            false
        }
        _ => false,
    };
    Ok(Ok(Answer { kind: header.kind, body, made }))
}

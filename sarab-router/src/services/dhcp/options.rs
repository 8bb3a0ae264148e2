//! A message's options: what is read of a client's, and what is written into an answer.

use alloc::vec::Vec;
use core::net::Ipv4Addr;

pub(super) const MASK: u8 = 1;
pub(super) const ROUTER: u8 = 3;
pub(super) const NAME_SERVER: u8 = 6;
pub(super) const HOST_NAME: u8 = 12;
pub(super) const DOMAIN: u8 = 15;
pub(super) const MTU: u8 = 26;
pub(super) const REQUESTED: u8 = 50;
pub(super) const LEASE: u8 = 51;
const OVERLOAD: u8 = 52;
pub(super) const KIND: u8 = 53;
pub(super) const SERVER: u8 = 54;
pub(super) const PARAMETERS: u8 = 55;
pub(super) const MESSAGE: u8 = 56;
pub(super) const MAX_SIZE: u8 = 57;
pub(super) const RENEW: u8 = 58;
pub(super) const REBIND: u8 = 59;
pub(super) const CLIENT: u8 = 61;
/// Domain search (RFC 3397).
pub(super) const SEARCH: u8 = 119;
/// Classless static routes (RFC 3442).
pub(super) const ROUTES: u8 = 121;
const PAD: u8 = 0;
const END: u8 = 255;

/// Of the message's fixed part (RFC 2131, section 2).
const SERVER_NAME: core::ops::Range<usize> = 44..108;
const FILE: core::ops::Range<usize> = 108..236;
const FIXED: usize = 240;

/// Those of a message: the usual field, and the two others that may have more (RFC 2131, section 4.1).
pub(super) struct Options<'a>([&'a [u8]; 3]);

impl<'a> Options<'a> {
    pub(super) fn new(message: &'a [u8]) -> Options<'a> {
        let mut all = Options([message.get(FIXED..).unwrap_or_default(), &[], &[]]);
        let overload = all.value(OVERLOAD).and_then(|value| value.first().copied()).unwrap_or(0);
        if overload & 1 != 0 {
            all.0[1] = message.get(FILE).unwrap_or_default();
        }
        if overload & 2 != 0 {
            all.0[2] = message.get(SERVER_NAME).unwrap_or_default();
        }
        all
    }

    /// Up to the first that is longer than what is left of its field.
    fn iter(&self) -> impl Iterator<Item = (u8, &'a [u8])> + '_ {
        self.0.iter().flat_map(|field| {
            let mut rest = *field;
            core::iter::from_fn(move || {
                loop {
                    match rest {
                        [PAD, more @ ..] => rest = more,
                        [] | [END, ..] | [_] => return None,
                        [kind, len, more @ ..] => {
                            let (value, more) = more.split_at_checked(usize::from(*len))?;
                            rest = more;
                            return Some((*kind, value));
                        }
                    }
                }
            })
        })
    }

    /// The value of an option, all its parts in a row (RFC 3396).
    pub(super) fn value(&self, kind: u8) -> Option<Vec<u8>> {
        let mut parts = self.iter().filter(|(found, _)| *found == kind).peekable();
        parts.peek()?;
        Some(parts.flat_map(|(_, value)| value).copied().collect())
    }

    /// `None` where it is not four bytes.
    pub(super) fn address(&self, kind: u8) -> Option<Ipv4Addr> {
        <[u8; 4]>::try_from(self.value(kind)?).ok().map(Ipv4Addr::from)
    }
}

/// Writes options until the client's room is over.
pub(super) struct Writer {
    bytes: Vec<u8>,
    room: usize,
}

impl Writer {
    /// Options for a message of at most `max` bytes in all.
    pub(super) fn new(max: usize) -> Writer {
        Writer { bytes: Vec::new(), room: max.saturating_sub(FIXED + 1) }
    }

    /// An option, in several parts where it is long (RFC 3396). It is left out where it does not fit.
    pub(super) fn push(&mut self, kind: u8, value: &[u8]) {
        let parts = value.len().div_ceil(255);
        if value.is_empty() || self.bytes.len() + value.len() + 2 * parts > self.room {
            return;
        }
        for part in value.chunks(255) {
            self.bytes.extend([kind, part.len() as u8]);
            self.bytes.extend(part);
        }
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.bytes.push(END);
        self.bytes
    }
}

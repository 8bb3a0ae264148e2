//! How a session begins: version and attach, before any user's request.

use core::fmt;

use xen_hal::Errno;

use super::requests::ATTACH_TAG;
use super::{Dialect, Error, Options};
use crate::front::fids::ROOT;
use crate::protocol::{Header, Kind, Message, NOFID, NOTAG, TooLong};

/// Smallest msize that Linux's client takes from a server (`p9_client_version`).
const MIN_MSIZE: u32 = 4096;

/// Where the beginning of a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The server is asked for this dialect, or is to be.
    Version(Dialect),
    /// It has agreed to the dialect, and to messages of so many bytes.
    Attach(Dialect, u32),
    /// There is a session.
    Ready(u32),
    /// There is none, and will be none.
    Refused(Error),
}

/// Whether the server has been asked.
pub(super) struct Session {
    pub(super) stage: Stage,
    pub(super) is_sent: bool,
    options: Options,
}

impl Session {
    pub(super) fn new(options: Options) -> Session {
        Session { stage: Stage::Version(options.dialect.unwrap_or(Dialect::Linux)), is_sent: false, options }
    }

    /// The next message that begins the session, if it is time for one.
    pub(super) fn next(&mut self, offered: u32) -> Option<Result<alloc::vec::Vec<u8>, Error>> {
        if self.is_sent {
            return None;
        }
        let Options { uname, aname, n_uname, .. } = self.options;
        let encoded = match self.stage {
            Stage::Version(dialect) => {
                Message::Tversion { msize: offered, version: dialect.version() }.encode(NOTAG, offered)
            }
            Stage::Attach(_, msize) => {
                Message::Tattach { fid: ROOT, afid: NOFID, uname, aname, n_uname }.encode(ATTACH_TAG, msize)
            }
            Stage::Ready(_) | Stage::Refused(_) => return None,
        };
        self.is_sent = true;
        Some(encoded.map_err(|TooLong| Error::TooLong { msize: offered }))
    }

    /// The type of what the server was asked with this tag.
    pub(super) fn asked(&self, tag: u16) -> Option<Kind> {
        match (self.stage, tag) {
            (Stage::Version(_), NOTAG) if self.is_sent => Some(Kind::TVERSION),
            (Stage::Attach(..), ATTACH_TAG) if self.is_sent => Some(Kind::TATTACH),
            _ => None,
        }
    }

    /// Most bytes of a message.
    pub(super) fn msize(&self, offered: u32) -> u32 {
        match self.stage {
            Stage::Attach(_, msize) | Stage::Ready(msize) => msize,
            Stage::Version(_) | Stage::Refused(_) => offered,
        }
    }

    /// Takes the server's answer, whose type is one that it may have.
    pub(super) fn answer(&mut self, header: Header, message: &Message<'_>, offered: u32) -> Result<(), Broken> {
        self.is_sent = false;
        self.stage = match (self.stage, *message) {
            (_, Message::Rversion { msize, .. }) if msize > offered => return Err(Broken::Msize(msize, offered)),
            (Stage::Version(dialect), Message::Rversion { msize, version }) if version == dialect.version() => {
                if msize < MIN_MSIZE { Stage::Refused(Error::SmallMsize(msize)) } else { Stage::Attach(dialect, msize) }
            }
            // "unknown", or an older dialect that it would rather speak.
            (Stage::Version(Dialect::Linux), Message::Rversion { .. }) if self.options.dialect.is_none() => {
                Stage::Version(Dialect::Unix)
            }
            (Stage::Version(_), Message::Rversion { .. }) => Stage::Refused(Error::UnknownVersion),
            (Stage::Attach(_, msize), Message::Rattach { .. }) => Stage::Ready(msize),
            (_, Message::Rlerror { ecode } | Message::Rerror { ecode, .. }) => {
                Stage::Refused(Error::Refused(match ecode {
                    0 => Errno::EIO,
                    number => Errno::from_number(number.cast_signed()),
                }))
            }
            _ => return Err(Broken::NoAnswer(header.kind)),
        };
        Ok(())
    }
}

/// What a server must not answer.
pub(super) enum Broken {
    Msize(u32, u32),
    NoAnswer(Kind),
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Broken::Msize(msize, offered) => write!(f, "Rversion: msize = {msize}: expected {offered} at most"),
            Broken::NoAnswer(kind) => write!(f, "{kind} is no answer"),
        }
    }
}

//! The messages of 9P2000.L and 9P2000.u that this crate knows, as they lie in a ring.
//!
//! Reference: <https://github.com/chaos/diod/blob/master/protocol.md> (9P2000.L), <http://ericvh.github.io/9p-rfc/rfc9p2000.u.html>
//! (9P2000.u); the header of each message also in Xen's docs/misc/9pfs.pandoc, "9pfs protocol". Decoding checks that a body is whole,
//! and nothing else.

mod attributes;
mod codec;
mod entries;
mod messages;

pub use attributes::{Attributes, DMDIR, DMSYMLINK, FileSystem, NewAttributes, Stat, Time};
pub use codec::{Data, Names, NamesBuf, QTDIR, QTSYMLINK, Qid, Qids, Text, TooLong};
pub use entries::{DirEntry, is_name};
pub use messages::{Kind, Malformed, Message};

/// The dialect that is asked for first.
pub const VERSION: &str = "9P2000.L";
/// The dialect of servers that do not speak [`VERSION`], as xen-9pfsd.
pub const VERSION_U: &str = "9P2000.u";
/// Bytes of the header.
pub const HEADER_SIZE: usize = 7;
/// The tag of a version request.
pub const NOTAG: u16 = !0;
/// No fid, as that of an attach without authentication.
pub const NOFID: u32 = !0;
/// No numeric user: the name counts.
pub const NONUNAME: u32 = !0;
/// Most names of one walk.
pub const MAX_NAMES: usize = 16;

/// What each message begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the message, this header included.
    pub size: u32,
    /// Its type.
    pub kind: Kind,
    /// Which request it is, or answers.
    pub tag: u16,
}

impl Header {
    /// As it lies in the ring.
    pub const fn to_bytes(self) -> [u8; HEADER_SIZE] {
        let ([a, b, c, d], [low, high]) = (self.size.to_le_bytes(), self.tag.to_le_bytes());
        [a, b, c, d, self.kind.0, low, high]
    }

    /// From the ring.
    pub const fn from_bytes(bytes: [u8; HEADER_SIZE]) -> Header {
        let [a, b, c, d, kind, low, high] = bytes;
        Header { size: u32::from_le_bytes([a, b, c, d]), kind: Kind(kind), tag: u16::from_le_bytes([low, high]) }
    }
}

#[cfg(test)]
mod tests;

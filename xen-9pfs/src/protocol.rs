//! The messages of 9P2000.L that this crate knows, as they lie in a ring.
//!
//! Reference: <https://github.com/chaos/diod/blob/master/protocol.md>; the header of each message also in Xen's
//! docs/misc/9pfs.pandoc, "9pfs protocol". Decoding checks that a body is whole, and nothing else.

use alloc::vec::Vec;
use core::fmt;

/// The dialect.
pub const VERSION: &str = "9P2000.L";
/// Bytes of the header.
pub const HEADER_SIZE: usize = 7;
/// The tag of a version request.
pub const NOTAG: u16 = !0;
/// No fid, as that of an attach without authentication.
pub const NOFID: u32 = !0;
/// No numeric user: the name counts.
pub const NONUNAME: u32 = !0;

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

macro_rules! kinds {
    ($($constant:ident = $number:literal, $name:literal;)*) => {
        /// The type of a message. A request's answer has the next number, or is [`RLERROR`](Kind::RLERROR).
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct Kind(pub u8);

        impl Kind {
            $(#[doc = concat!("`", $name, "`")] pub const $constant: Kind = Kind($number);)*
        }

        impl fmt::Display for Kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match *self {
                    $(Kind::$constant => f.write_str($name),)*
                    Kind(number) => write!(f, "type {number}"),
                }
            }
        }
    };
}

kinds! {
    RLERROR = 7, "Rlerror";
    TVERSION = 100, "Tversion";
    RVERSION = 101, "Rversion";
    TATTACH = 104, "Tattach";
    RATTACH = 105, "Rattach";
}

/// What the server knows a file by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Qid {
    /// `QTDIR` (0x80) and the like.
    pub kind: u8,
    /// Another one after each change of the file, where the server counts them.
    pub version: u32,
    /// A number that no other file of the server has.
    pub path: u64,
}

/// A message without its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// An answer: the request has failed.
    Rlerror {
        /// Linux's error number.
        ecode: u32,
    },
    /// Begins a session.
    Tversion {
        /// Most bytes of a message.
        msize: u32,
        /// The dialect.
        version: &'a str,
    },
    /// Its answer.
    Rversion {
        /// Most bytes of a message, no more than asked for.
        msize: u32,
        /// The dialect, or `unknown`.
        version: &'a str,
    },
    /// Makes a fid of a tree's root.
    Tattach {
        /// The fid.
        fid: u32,
        /// A fid that was authenticated, or [`NOFID`].
        afid: u32,
        /// The user.
        uname: &'a str,
        /// The tree.
        aname: &'a str,
        /// The user's number, or [`NONUNAME`].
        n_uname: u32,
    },
    /// Its answer.
    Rattach {
        /// The root.
        qid: Qid,
    },
}

/// A message is longer than messages may be, or one of its strings than strings may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

/// A body that does not make a message of its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// The type.
    pub kind: Kind,
    /// Bytes of the message, header included.
    pub size: usize,
    what: &'static str,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} bytes: {}", self.kind, self.size, self.what)
    }
}

impl core::error::Error for Malformed {}

impl<'a> Message<'a> {
    /// Its type.
    pub const fn kind(&self) -> Kind {
        match self {
            Message::Rlerror { .. } => Kind::RLERROR,
            Message::Tversion { .. } => Kind::TVERSION,
            Message::Rversion { .. } => Kind::RVERSION,
            Message::Tattach { .. } => Kind::TATTACH,
            Message::Rattach { .. } => Kind::RATTACH,
        }
    }

    /// The whole message, header included.
    ///
    /// # Errors
    ///
    /// Where it is longer than `msize`, or a string longer than 65535 bytes.
    pub fn encode(&self, tag: u16, msize: u32) -> Result<Vec<u8>, TooLong> {
        let mut to = Encoder(Vec::from([0; HEADER_SIZE]));
        match *self {
            Message::Rlerror { ecode } => to.u32(ecode),
            Message::Tversion { msize, version } | Message::Rversion { msize, version } => {
                to.u32(msize);
                to.string(version)?;
            }
            Message::Tattach { fid, afid, uname, aname, n_uname } => {
                to.u32(fid);
                to.u32(afid);
                to.string(uname)?;
                to.string(aname)?;
                to.u32(n_uname);
            }
            Message::Rattach { qid: Qid { kind, version, path } } => {
                to.0.push(kind);
                to.u32(version);
                to.0.extend(path.to_le_bytes());
            }
        }
        let size = u32::try_from(to.0.len()).ok().filter(|size| *size <= msize).ok_or(TooLong)?;
        to.0[..HEADER_SIZE].copy_from_slice(&Header { size, kind: self.kind(), tag }.to_bytes());
        Ok(to.0)
    }

    /// Makes a message of what comes after its header.
    ///
    /// # Errors
    ///
    /// Where the type is not one of these, or the body does not end where its message does.
    pub fn decode(kind: Kind, body: &'a [u8]) -> Result<Message<'a>, Malformed> {
        let malformed = |what| Malformed { kind, size: HEADER_SIZE + body.len(), what };
        let mut from = Decoder(body);
        let message = match kind {
            Kind::RLERROR => from.u32().map(|ecode| Message::Rlerror { ecode }),
            Kind::TVERSION => from.version().map(|(msize, version)| Message::Tversion { msize, version }),
            Kind::RVERSION => from.version().map(|(msize, version)| Message::Rversion { msize, version }),
            Kind::TATTACH => from.attach(),
            Kind::RATTACH => from.qid().map(|qid| Message::Rattach { qid }),
            _ => Err("not known"),
        };
        let message = message.map_err(malformed)?;
        if from.0.is_empty() { Ok(message) } else { Err(malformed("too long")) }
    }
}

struct Encoder(Vec<u8>);

impl Encoder {
    fn u32(&mut self, value: u32) {
        self.0.extend(value.to_le_bytes());
    }

    fn string(&mut self, text: &str) -> Result<(), TooLong> {
        let len = u16::try_from(text.len()).map_err(|_| TooLong)?;
        self.0.extend(len.to_le_bytes());
        self.0.extend(text.as_bytes());
        Ok(())
    }
}

struct Decoder<'a>(&'a [u8]);

impl<'a> Decoder<'a> {
    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], &'static str> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or("too short")?;
        self.0 = rest;
        Ok(*bytes)
    }

    fn u32(&mut self) -> Result<u32, &'static str> {
        self.bytes().map(u32::from_le_bytes)
    }

    fn string(&mut self) -> Result<&'a str, &'static str> {
        let len = self.bytes().map(u16::from_le_bytes)?;
        let (text, rest) = self.0.split_at_checked(len.into()).ok_or("too short")?;
        self.0 = rest;
        core::str::from_utf8(text).map_err(|_| "a string that is not UTF-8")
    }

    fn version(&mut self) -> Result<(u32, &'a str), &'static str> {
        Ok((self.u32()?, self.string()?))
    }

    fn attach(&mut self) -> Result<Message<'a>, &'static str> {
        let (fid, afid) = (self.u32()?, self.u32()?);
        let (uname, aname) = (self.string()?, self.string()?);
        Ok(Message::Tattach { fid, afid, uname, aname, n_uname: self.u32()? })
    }

    fn qid(&mut self) -> Result<Qid, &'static str> {
        let [kind] = self.bytes()?;
        Ok(Qid { kind, version: self.u32()?, path: self.bytes().map(u64::from_le_bytes)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::string::String;
    use proptest::prelude::*;

    fn decode(bytes: &[u8]) -> (Header, Result<Message<'_>, Malformed>) {
        let (header, body) = bytes.split_first_chunk().unwrap();
        let header = Header::from_bytes(*header);
        (header, Message::decode(header.kind, body))
    }

    #[test]
    fn bytes_are_those_of_the_document() {
        let version = Message::Tversion { msize: 0x2018, version: VERSION };
        assert_eq!(version.encode(NOTAG, 8192).unwrap(), b"\x15\0\0\0\x64\xff\xff\x18\x20\0\0\x08\09P2000.L");
        let attach = Message::Tattach { fid: 1, afid: NOFID, uname: "u", aname: "", n_uname: 0 };
        let expected = b"\x18\0\0\0\x68\x02\0\x01\0\0\0\xff\xff\xff\xff\x01\0u\0\0\0\0\0\0";
        assert_eq!(attach.encode(2, 8192).unwrap(), expected);
        let qid = Qid { kind: 0x80, version: 0x0102, path: 0x0304_0506 };
        let expected = b"\x14\0\0\0\x69\x02\0\x80\x02\x01\0\0\x06\x05\x04\x03\0\0\0\0";
        assert_eq!(Message::Rattach { qid }.encode(2, 8192).unwrap(), expected);
        assert_eq!(Message::Rlerror { ecode: 2 }.encode(3, 8192).unwrap(), b"\x0b\0\0\0\x07\x03\0\x02\0\0\0");
    }

    #[test]
    fn what_makes_no_message_is_named() {
        for (kind, body, expected) in [
            (Kind::RATTACH, &[0; 12][..], "Rattach of 19 bytes: too short"),
            (Kind::RATTACH, &[0; 14], "Rattach of 21 bytes: too long"),
            (Kind::RVERSION, b"\0\0\0\0\x05\0nine", "Rversion of 17 bytes: too short"),
            (Kind::RVERSION, b"\0\0\0\0\x01\0\xff", "Rversion of 14 bytes: a string that is not UTF-8"),
            (Kind(77), b"", "type 77 of 7 bytes: not known"),
        ] {
            assert_eq!(format!("{}", Message::decode(kind, body).unwrap_err()), expected);
        }
        let long: String = core::iter::repeat_n('n', 1 << 16).collect();
        let attach = |uname| Message::Tattach { fid: 0, afid: 0, uname, aname: "", n_uname: 0 };
        assert_eq!(attach(&long).encode(0, u32::MAX), Err(TooLong));
        assert_eq!(attach(&long[1..]).encode(0, 65558 - 1), Err(TooLong));
        assert_eq!(attach(&long[1..]).encode(0, 65558).unwrap().len(), 65558);
    }

    fn message<'a>(which: u8, numbers: [u32; 3], path: u64, (first, second): (&'a str, &'a str)) -> Message<'a> {
        let [a, b, c] = numbers;
        match which {
            0 => Message::Rlerror { ecode: a },
            1 => Message::Tversion { msize: a, version: first },
            2 => Message::Rversion { msize: a, version: first },
            3 => Message::Tattach { fid: a, afid: b, uname: first, aname: second, n_uname: c },
            _ => Message::Rattach { qid: Qid { kind: a as u8, version: b, path } },
        }
    }

    proptest! {
        #[test]
        fn messages_are_read_as_they_were_written(
            which in 0_u8..5, numbers: [u32; 3], path: u64, first: String, second: String, tag: u16,
        ) {
            let message = message(which, numbers, path, (&first, &second));
            let bytes = message.encode(tag, u32::MAX).unwrap();
            let header = Header { size: bytes.len() as u32, kind: message.kind(), tag };
            prop_assert_eq!(decode(&bytes), (header, Ok(message)));
            // Neither less nor more makes the same message.
            prop_assert!(decode(&bytes[..bytes.len() - 1]).1.is_err());
            prop_assert!(decode(&[&bytes[..], &[0]].concat()).1.is_err());
        }

        /// Any bytes make a message that is written as they were, or none.
        #[test]
        fn any_bytes_are_a_message_or_none(
            kind in prop_oneof![any::<u8>(), Just(7), 100_u8..106], body in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            if let Ok(message) = Message::decode(Kind(kind), &body) {
                prop_assert_eq!(&message.encode(0, u32::MAX).unwrap()[HEADER_SIZE..], &body[..]);
            }
        }
    }
}

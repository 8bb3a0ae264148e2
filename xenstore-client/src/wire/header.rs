//! The 16 bytes before every packet (`struct xsd_sockmsg`).

use core::fmt;

use super::limits::MAX_PAYLOAD;

/// Bytes of a packet's header.
pub const HEADER_SIZE: usize = 16;

macro_rules! ops {
    ($($name:ident = $number:literal, $text:literal;)*) => {
        /// What a packet is (`enum xsd_sockmsg_type`).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[cfg_attr(feature = "defmt", derive(defmt::Format))]
        #[repr(u32)]
        pub enum Op {
            $(#[doc = concat!("`", $text, "`")] $name = $number,)*
        }

        impl Op {
            /// All there are.
            pub const ALL: &[Op] = &[$(Op::$name),*];

            /// The operation with this number.
            pub const fn from_number(number: u32) -> Option<Op> {
                match number {
                    $($number => Some(Op::$name),)*
                    _ => None,
                }
            }

            /// Its name in the documentation, such as `READ`.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Op::$name => $text,)*
                }
            }
        }
    };
}

ops! {
    Control = 0, "CONTROL";
    Directory = 1, "DIRECTORY";
    Read = 2, "READ";
    GetPerms = 3, "GET_PERMS";
    Watch = 4, "WATCH";
    Unwatch = 5, "UNWATCH";
    TransactionStart = 6, "TRANSACTION_START";
    TransactionEnd = 7, "TRANSACTION_END";
    Introduce = 8, "INTRODUCE";
    Release = 9, "RELEASE";
    GetDomainPath = 10, "GET_DOMAIN_PATH";
    Write = 11, "WRITE";
    Mkdir = 12, "MKDIR";
    Rm = 13, "RM";
    SetPerms = 14, "SET_PERMS";
    WatchEvent = 15, "WATCH_EVENT";
    Error = 16, "ERROR";
    IsDomainIntroduced = 17, "IS_DOMAIN_INTRODUCED";
    Resume = 18, "RESUME";
    SetTarget = 19, "SET_TARGET";
    ResetWatches = 21, "RESET_WATCHES";
    DirectoryPart = 22, "DIRECTORY_PART";
    GetFeature = 23, "GET_FEATURE";
    SetFeature = 24, "SET_FEATURE";
    GetQuota = 25, "GET_QUOTA";
    SetQuota = 26, "SET_QUOTA";
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A packet's header. All numbers are little-endian on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The operation's number; see [`Op::from_number`].
    pub op: u32,
    /// Chosen by who asks, echoed by who answers.
    pub request: u32,
    /// The transaction, 0 for none.
    pub transaction: u32,
    /// Bytes of payload that follow.
    pub len: u32,
}

impl Header {
    /// The bytes of the header.
    pub fn to_bytes(self) -> [u8; HEADER_SIZE] {
        let mut bytes = [0; HEADER_SIZE];
        for (chunk, value) in bytes.chunks_exact_mut(4).zip([self.op, self.request, self.transaction, self.len]) {
            chunk.copy_from_slice(&value.to_le_bytes());
        }
        bytes
    }

    /// Reads a header. Any 16 bytes are one; whether it makes sense is for [`payload_len`](Header::payload_len) and
    /// [`Op::from_number`] to say.
    pub fn from_bytes(bytes: &[u8; HEADER_SIZE]) -> Header {
        let word = |index: usize| {
            u32::from_le_bytes([bytes[index * 4], bytes[index * 4 + 1], bytes[index * 4 + 2], bytes[index * 4 + 3]])
        };
        Header { op: word(0), request: word(1), transaction: word(2), len: word(3) }
    }

    /// How many bytes follow, or `None` where that is more than the protocol allows.
    pub fn payload_len(self) -> Option<usize> {
        usize::try_from(self.len).ok().filter(|len| *len <= MAX_PAYLOAD)
    }
}

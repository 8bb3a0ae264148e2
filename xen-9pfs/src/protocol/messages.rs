//! The messages of both dialects. Where a type of message is in one alone, its number is, too.

use alloc::vec::Vec;
use core::fmt;

use super::codec::{Data, Decoder, Field, Names, Qid, Qids, Text, TooLong};
use super::{Attributes, FileSystem, HEADER_SIZE, Header, NewAttributes, Stat};

/// A body that does not make a message of its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// The type.
    pub kind: Kind,
    /// Bytes of the message, header included.
    pub size: usize,
    pub(super) what: &'static str,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} bytes: {}", self.kind, self.size, self.what)
    }
}

impl core::error::Error for Malformed {}

macro_rules! messages {
    ($($(#[$doc:meta])* $name:ident $constant:ident $number:literal {
        $($(#[$field_doc:meta])* $field:ident: $kind:ty),* $(,)?
    })*) => {
        /// The type of a message. A request's answer has the next number, or is [`RLERROR`](Kind::RLERROR) or
        /// [`RERROR`](Kind::RERROR).
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct Kind(pub u8);

        impl Kind {
            $(#[doc = concat!("`", stringify!($name), "`")] pub const $constant: Kind = Kind($number);)*
            /// All that have a message.
            pub const ALL: &[Kind] = &[$(Kind::$constant),*];
        }

        impl fmt::Display for Kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match *self {
                    $(Kind::$constant => f.write_str(stringify!($name)),)*
                    Kind(number) => write!(f, "type {number}"),
                }
            }
        }

        /// A message without its header.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Message<'a> {
            $($(#[$doc])* $name { $($(#[$field_doc])* $field: $kind),* },)*
        }

        impl<'a> Message<'a> {
            /// Its type.
            pub const fn kind(&self) -> Kind {
                match self {
                    $(Message::$name { .. } => Kind::$constant,)*
                }
            }

            fn put(&self, to: &mut Vec<u8>) -> Result<(), TooLong> {
                match self {
                    $(Message::$name { $($field),* } => { $($field.put(to)?;)* })*
                }
                Ok(())
            }

            fn get(kind: Kind, from: &mut Decoder<'a>) -> Result<Message<'a>, &'static str> {
                Ok(match kind {
                    $(Kind::$constant => Message::$name { $($field: Field::get(from)?),* },)*
                    _ => return Err("not known"),
                })
            }
        }
    };
}

messages! {
    /// An answer of 9P2000.L: the request has failed.
    Rlerror RLERROR 7 {
        /// Linux's error number.
        ecode: u32,
    }
    /// The file system of a fid (9P2000.L).
    Tstatfs TSTATFS 8 {
        /// The fid.
        fid: u32,
    }
    /// Its answer.
    Rstatfs RSTATFS 9 {
        /// The file system.
        system: FileSystem,
    }
    /// Opens a fid's file (9P2000.L).
    Tlopen TLOPEN 12 {
        /// The fid.
        fid: u32,
        /// Linux's flags of `open`.
        flags: u32,
    }
    /// Its answer.
    Rlopen RLOPEN 13 {
        /// The file.
        qid: Qid,
        /// Most bytes that are read or written in one piece; 0 says nothing.
        iounit: u32,
    }
    /// Makes a file and opens it; the fid, a directory's before, is the file's then (9P2000.L).
    Tlcreate TLCREATE 14 {
        /// The fid.
        fid: u32,
        /// The file's name.
        name: Text<'a>,
        /// Linux's flags of `open`.
        flags: u32,
        /// Permissions.
        mode: u32,
        /// The group's number.
        gid: u32,
    }
    /// Its answer.
    Rlcreate RLCREATE 15 {
        /// The file.
        qid: Qid,
        /// Most bytes that are read or written in one piece; 0 says nothing.
        iounit: u32,
    }
    /// Makes a symbolic link (9P2000.L).
    Tsymlink TSYMLINK 16 {
        /// The directory.
        fid: u32,
        /// The link's name.
        name: Text<'a>,
        /// What it names.
        target: Text<'a>,
        /// The group's number.
        gid: u32,
    }
    /// Its answer.
    Rsymlink RSYMLINK 17 {
        /// The link.
        qid: Qid,
    }
    /// What a symbolic link names (9P2000.L).
    Treadlink TREADLINK 22 {
        /// The link.
        fid: u32,
    }
    /// Its answer.
    Rreadlink RREADLINK 23 {
        /// What it names.
        target: Text<'a>,
    }
    /// A file's attributes (9P2000.L).
    Tgetattr TGETATTR 24 {
        /// The fid.
        fid: u32,
        /// Which are asked for (`P9_GETATTR_*`).
        mask: u64,
    }
    /// Its answer.
    Rgetattr RGETATTR 25 {
        /// The attributes.
        attributes: Attributes,
    }
    /// Changes a file's attributes (9P2000.L).
    Tsetattr TSETATTR 26 {
        /// The fid.
        fid: u32,
        /// What they become.
        attributes: NewAttributes,
    }
    /// Its answer.
    Rsetattr RSETATTR 27 {}
    /// A directory's entries (9P2000.L).
    Treaddir TREADDIR 40 {
        /// The directory, open.
        fid: u32,
        /// Where to go on: 0, or what an entry says.
        offset: u64,
        /// Most bytes of the answer's entries.
        count: u32,
    }
    /// Its answer: entries that end whole. None means the end.
    Rreaddir RREADDIR 41 {
        /// [`DirEntry`](super::DirEntry) after [`DirEntry`](super::DirEntry).
        data: Data<'a>,
    }
    /// Has a file's bytes written to its disk (9P2000.L).
    Tfsync TFSYNC 50 {
        /// The fid.
        fid: u32,
        /// 1: without attributes that do not matter for reading it.
        datasync: u32,
    }
    /// Its answer.
    Rfsync RFSYNC 51 {}
    /// Gives a file one more name (9P2000.L).
    Tlink TLINK 70 {
        /// The new name's directory.
        dfid: u32,
        /// The file.
        fid: u32,
        /// The new name.
        name: Text<'a>,
    }
    /// Its answer.
    Rlink RLINK 71 {}
    /// Makes a directory (9P2000.L).
    Tmkdir TMKDIR 72 {
        /// Where.
        fid: u32,
        /// Its name.
        name: Text<'a>,
        /// Permissions.
        mode: u32,
        /// The group's number.
        gid: u32,
    }
    /// Its answer.
    Rmkdir RMKDIR 73 {
        /// The directory.
        qid: Qid,
    }
    /// Renames a file (9P2000.L).
    Trenameat TRENAMEAT 74 {
        /// The directory that it is in.
        from: u32,
        /// Its name there.
        old: Text<'a>,
        /// The directory that it goes into.
        to: u32,
        /// Its name there.
        new: Text<'a>,
    }
    /// Its answer.
    Rrenameat RRENAMEAT 75 {}
    /// Removes a name (9P2000.L).
    Tunlinkat TUNLINKAT 76 {
        /// The directory.
        fid: u32,
        /// The name.
        name: Text<'a>,
        /// 0, or `AT_REMOVEDIR` (0x200).
        flags: u32,
    }
    /// Its answer.
    Runlinkat RUNLINKAT 77 {}
    /// Begins a session.
    Tversion TVERSION 100 {
        /// Most bytes of a message.
        msize: u32,
        /// The dialect.
        version: &'a str,
    }
    /// Its answer.
    Rversion RVERSION 101 {
        /// Most bytes of a message, no more than asked for.
        msize: u32,
        /// The dialect, or `unknown`.
        version: &'a str,
    }
    /// Makes a fid of a tree's root.
    Tattach TATTACH 104 {
        /// The fid.
        fid: u32,
        /// A fid that was authenticated, or [`NOFID`](super::NOFID).
        afid: u32,
        /// The user.
        uname: &'a str,
        /// The tree.
        aname: &'a str,
        /// The user's number, or [`NONUNAME`](super::NONUNAME).
        n_uname: u32,
    }
    /// Its answer.
    Rattach RATTACH 105 {
        /// The root.
        qid: Qid,
    }
    /// An answer of 9P2000.u: the request has failed.
    Rerror RERROR 107 {
        /// Why.
        ename: Text<'a>,
        /// Linux's error number.
        ecode: u32,
    }
    /// Makes a fid of what is found from another one's directory by names, up to 16.
    Twalk TWALK 110 {
        /// The directory.
        fid: u32,
        /// What the new fid is to be; the same where it takes the place of the old one.
        newfid: u32,
        /// The names. Without any, both fids are the same file's.
        names: Names<'a>,
    }
    /// Its answer. Where there are fewer than names, the next one was not found, and there is no new fid.
    Rwalk RWALK 111 {
        /// What was passed.
        qids: Qids<'a>,
    }
    /// Opens a fid's file (9P2000.u).
    Topen TOPEN 112 {
        /// The fid.
        fid: u32,
        /// 0 to read, 1 to write, 2 for both; `OTRUNC` 0x10, `ORCLOSE` 0x40.
        mode: u8,
    }
    /// Its answer.
    Ropen ROPEN 113 {
        /// The file.
        qid: Qid,
        /// Most bytes that are read or written in one piece; 0 says nothing.
        iounit: u32,
    }
    /// Makes a file or a directory and opens it; the fid, a directory's before, is the new one's then (9P2000.u).
    Tcreate TCREATE 114 {
        /// The fid.
        fid: u32,
        /// Its name.
        name: Text<'a>,
        /// Permissions, and [`DMDIR`](super::DMDIR) for a directory.
        perm: u32,
        /// As in `Topen`.
        mode: u8,
        /// A symbolic link's target.
        extension: Text<'a>,
    }
    /// Its answer.
    Rcreate RCREATE 115 {
        /// The file.
        qid: Qid,
        /// Most bytes that are read or written in one piece; 0 says nothing.
        iounit: u32,
    }
    /// Bytes of a file, and in 9P2000.u the entries of a directory.
    Tread TREAD 116 {
        /// The fid, open.
        fid: u32,
        /// From which byte on.
        offset: u64,
        /// How many.
        count: u32,
    }
    /// Its answer.
    Rread RREAD 117 {
        /// The bytes; none at the end.
        data: Data<'a>,
    }
    /// Writes bytes of a file.
    Twrite TWRITE 118 {
        /// The fid, open.
        fid: u32,
        /// From which byte on.
        offset: u64,
        /// The bytes.
        data: Data<'a>,
    }
    /// Its answer.
    Rwrite RWRITE 119 {
        /// How many of them were written.
        count: u32,
    }
    /// Gives a fid back.
    Tclunk TCLUNK 120 {
        /// The fid.
        fid: u32,
    }
    /// Its answer.
    Rclunk RCLUNK 121 {}
    /// Removes a fid's file, and gives the fid back (9P2000.u).
    Tremove TREMOVE 122 {
        /// The fid.
        fid: u32,
    }
    /// Its answer.
    Rremove RREMOVE 123 {}
    /// A file's attributes (9P2000.u).
    Tstat TSTAT 124 {
        /// The fid.
        fid: u32,
    }
    /// Its answer.
    Rstat RSTAT 125 {
        /// The attributes.
        stat: Stat<'a>,
    }
    /// Changes a file's attributes (9P2000.u).
    Twstat TWSTAT 126 {
        /// The fid.
        fid: u32,
        /// What they become; what is all ones, or empty, stays.
        stat: Stat<'a>,
    }
    /// Its answer.
    Rwstat RWSTAT 127 {}
}

impl<'a> Message<'a> {
    /// The whole message, header included.
    ///
    /// # Errors
    ///
    /// Where it is longer than `msize`, or a string longer than 65535 bytes.
    pub fn encode(&self, tag: u16, msize: u32) -> Result<Vec<u8>, TooLong> {
        let mut to = Vec::from([0; HEADER_SIZE]);
        self.put(&mut to)?;
        let size = u32::try_from(to.len()).ok().filter(|size| *size <= msize).ok_or(TooLong)?;
        to[..HEADER_SIZE].copy_from_slice(&Header { size, kind: self.kind(), tag }.to_bytes());
        Ok(to)
    }

    /// Makes a message of what comes after its header.
    ///
    /// # Errors
    ///
    /// Where the type is not one of these, or the body does not end where its message does.
    pub fn decode(kind: Kind, body: &'a [u8]) -> Result<Message<'a>, Malformed> {
        let malformed = |what| Malformed { kind, size: HEADER_SIZE + body.len(), what };
        let mut from = Decoder(body);
        let message = Message::get(kind, &mut from).map_err(malformed)?;
        if from.0.is_empty() { Ok(message) } else { Err(malformed("too long")) }
    }
}

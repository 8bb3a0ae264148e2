//! Why a request has failed.

use core::fmt;

use embedded_io_async::ErrorKind;
use xen_hal::Errno;

use crate::protocol::{Kind, Malformed};

/// Why a request has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum Error {
    /// The server has refused it (`Rlerror`, `Rerror`). The numbers are Linux's, of which Xen's are some.
    Refused(Errno),
    /// A part of the path is not there. The server says so by passing fewer names than asked for.
    NotFound,
    /// A part of the path is a file, where a directory was expected.
    NotADirectory,
    /// A part of the path is a symbolic link, which the server does not follow. [`Dir::read_link`](super::Dir::read_link)
    /// says what it names.
    SymbolicLink,
    /// The path has a part `..`, or a byte 0.
    InvalidPath,
    /// The server speaks neither 9P2000.L nor 9P2000.u.
    UnknownVersion,
    /// The server takes messages of so many bytes only, which are fewer than 4096.
    SmallMsize(u32),
    /// The server's dialect has no such request.
    Unsupported,
    /// The request is longer than the session's messages may be.
    TooLong {
        /// Most bytes of a message.
        msize: u32,
    },
    /// A file has more bytes than the caller takes.
    TooLarge {
        /// The most.
        limit: usize,
    },
    /// The server has answered with what makes no sense: a directory's entry that is not whole or has no proper name, or a
    /// write of nothing.
    Garbage,
    /// The connection has ended before the answer came: the server may have done it or not.
    Disconnected,
    /// The file was opened before the connection ended; the server knows nothing of it any more. Open it again.
    Stale,
    /// The device was removed, or its backend cannot be used.
    Gone,
}

impl Error {
    /// What kind of error it is, as the traits of `embedded-io` name them.
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Error::NotFound => ErrorKind::NotFound,
            Error::NotADirectory | Error::SymbolicLink | Error::InvalidPath | Error::TooLong { .. } => {
                ErrorKind::InvalidInput
            }
            Error::UnknownVersion | Error::SmallMsize(_) | Error::Unsupported => ErrorKind::Unsupported,
            Error::TooLarge { .. } => ErrorKind::OutOfMemory,
            Error::Garbage => ErrorKind::InvalidData,
            Error::Disconnected | Error::Stale => ErrorKind::ConnectionReset,
            Error::Gone => ErrorKind::NotConnected,
            Error::Refused(errno) => match errno {
                Errno::ENOENT => ErrorKind::NotFound,
                Errno::EPERM | Errno::EACCES | Errno::EROFS => ErrorKind::PermissionDenied,
                Errno::EEXIST => ErrorKind::AlreadyExists,
                Errno::EINVAL | Errno::ENOTDIR | Errno::EISDIR | Errno::ENAMETOOLONG | Errno::EBADF | Errno::EMLINK => {
                    ErrorKind::InvalidInput
                }
                Errno::ENOMEM | Errno::ENOBUFS => ErrorKind::OutOfMemory,
                Errno::EOPNOTSUPP | Errno::ENOSYS => ErrorKind::Unsupported,
                Errno::EINTR => ErrorKind::Interrupted,
                Errno::ETIMEDOUT | Errno::ETIME => ErrorKind::TimedOut,
                _ => ErrorKind::Other,
            },
        }
    }

    /// Whether the server says that there is no such file.
    pub const fn is_not_found(&self) -> bool {
        matches!(self.kind(), ErrorKind::NotFound)
    }
}

/// Numbers that a file server uses and a hypervisor does not (Linux's uapi/asm-generic/errno.h).
fn linux_name(number: i32) -> Option<&'static str> {
    Some(match number {
        26 => "ETXTBSY (a program that runs)",
        27 => "EFBIG (file too large)",
        32 => "EPIPE (nobody reads)",
        40 => "ELOOP (a symbolic link, or too many of them)",
        116 => "ESTALE (the file was removed on the server)",
        122 => "EDQUOT (quota exceeded)",
        _ => return None,
    })
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Refused(Errno::EMFILE) => f.write_str(
                "9pfs: server returned EMFILE: too many open files; give the share a larger max-open-files= in the xl file",
            ),
            Error::Refused(Errno::Other(number)) if linux_name(*number).is_some() => {
                write!(f, "9pfs: server returned {}", linux_name(*number).unwrap_or_default())
            }
            Error::Refused(errno) => write!(f, "9pfs: server returned {errno}"),
            Error::NotFound => f.write_str("9pfs: no such file or directory"),
            Error::NotADirectory => f.write_str("9pfs: a part of the path is not a directory"),
            Error::SymbolicLink => f.write_str("9pfs: a part of the path is a symbolic link"),
            Error::InvalidPath => f.write_str("9pfs: the path has a part `..`, or a byte 0"),
            Error::UnknownVersion => {
                f.write_str("9pfs: server returned an unknown version: expected 9P2000.L or 9P2000.u")
            }
            Error::SmallMsize(msize) => write!(f, "9pfs: server returned a msize < 4096: {msize}"),
            Error::Unsupported => {
                f.write_str("9pfs: not supported by this server; of Xen's two, QEMU's (type=qemu) can do the most")
            }
            Error::TooLong { msize } => write!(f, "9pfs: request is longer than a message of {msize} bytes"),
            Error::TooLarge { limit } => write!(f, "9pfs: file has more than {limit} bytes"),
            Error::Garbage => f.write_str("9pfs: server returned what makes no sense"),
            Error::Disconnected => f.write_str("9pfs: backend has disconnected"),
            Error::Stale => f.write_str("9pfs: the file was opened before the backend disconnected; open it again"),
            Error::Gone => f.write_str("9pfs: device is gone"),
        }
    }
}

impl core::error::Error for Error {}

impl embedded_io_async::Error for Error {
    fn kind(&self) -> ErrorKind {
        Error::kind(self)
    }
}

impl From<Malformed> for Error {
    fn from(_: Malformed) -> Self {
        Error::Garbage
    }
}

/// Whether the server does not know this type of request.
pub(super) const fn is_unknown(error: &Error) -> bool {
    matches!(error, Error::Refused(Errno::EOPNOTSUPP | Errno::ENOSYS))
}

/// What `kind` failed of, as the server's number says; 0 says nothing.
pub(super) fn refused(_: Kind, ecode: u32) -> Error {
    match ecode {
        0 => Error::Refused(Errno::EIO),
        number => Error::Refused(Errno::from_number(number.cast_signed())),
    }
}

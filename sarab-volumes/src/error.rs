//! Why something about a pool fails.

use core::fmt;

use xen_blkif::Error as DiskError;

use crate::Content;

/// Why something about a pool fails. What a volume's reader or writer gets is [`xen_blkif::Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// A disk of the pool fails. Disks count from 0, in the order in which they were given.
    Disk {
        /// Which disk.
        disk: usize,
        /// What it says.
        error: DiskError,
    },
    /// A disk that is to be formatted holds something.
    NotEmpty {
        /// Which disk.
        disk: usize,
        /// What it looks like.
        content: Content,
    },
    /// A disk is of no pool.
    NoPool {
        /// Which disk.
        disk: usize,
        /// What it looks like.
        content: Content,
    },
    /// A disk is of another pool than the first one.
    Foreign {
        /// Which disk.
        disk: usize,
    },
    /// A disk is another one of the pool than was expected in this place: disks were swapped, or one is given twice.
    Swapped {
        /// Which disk.
        disk: usize,
        /// The place that its label names.
        label: usize,
    },
    /// The pool has another number of disks.
    DiskCount {
        /// How many were given.
        given: usize,
        /// How many the pool has.
        expected: usize,
    },
    /// A disk cannot be part of a pool.
    UnsuitableDisk {
        /// Which disk.
        disk: usize,
        /// Why.
        reason: &'static str,
    },
    /// The format is newer than this program.
    Version {
        /// The disk's version.
        found: u32,
    },
    /// Both copies of some metadata are damaged, or what they say cannot be.
    Damaged {
        /// Which metadata.
        what: &'static str,
    },
    /// The pool takes no changes any more, because a commit of its metadata has failed half-way. Opening it again helps.
    Failed,
    /// The pool's runner has ended.
    Gone,
    /// The pool is full.
    NoSpace,
    /// The pool's area for metadata is full.
    NoMetadataSpace,
    /// There are as many volumes as a pool can have.
    TooManyVolumes,
    /// No volume has this name.
    NotFound,
    /// A volume with this name exists.
    Exists,
    /// The volume is in use.
    InUse,
    /// A name, a size or an option cannot be.
    Invalid(&'static str),
    /// There is no memory.
    OutOfMemory,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Disk { disk, error } => write!(f, "disk {disk}: {error}"),
            Error::NotEmpty { disk, content } => {
                write!(f, "disk {disk} is not empty: it holds {content}; formatting it has to be forced")
            }
            Error::NoPool { disk, content } => write!(f, "disk {disk} is of no pool: it holds {content}"),
            Error::Foreign { disk } => write!(f, "disk {disk} is of another pool than disk 0"),
            Error::Swapped { disk, label } => {
                write!(f, "disk {disk} is disk {label} of the pool: the order is another, or a disk is given twice")
            }
            Error::DiskCount { given, expected } => {
                write!(f, "the pool is on {expected} disks, and {given} are given")
            }
            Error::UnsuitableDisk { disk, reason } => write!(f, "disk {disk} cannot be used: {reason}"),
            Error::Version { found } => {
                write!(f, "the pool has format version {found}, and this program reads {}", crate::layout::VERSION)
            }
            Error::Damaged { what } => write!(f, "the pool is damaged: {what}"),
            Error::Failed => {
                f.write_str("the pool takes no changes since a commit of its metadata has failed: open it again")
            }
            Error::Gone => f.write_str("the pool is closed: its runner has ended"),
            Error::NoSpace => f.write_str("no space left in the pool"),
            Error::NoMetadataSpace => f.write_str("no space left in the pool's area for metadata"),
            Error::TooManyVolumes => write!(f, "the pool has {} volumes, and cannot have more", crate::MAX_VOLUMES),
            Error::NotFound => f.write_str("no such volume"),
            Error::Exists => f.write_str("a volume with this name exists"),
            Error::InUse => f.write_str("the volume is in use"),
            Error::Invalid(what) => f.write_str(what),
            Error::OutOfMemory => f.write_str("out of memory"),
        }
    }
}

impl core::error::Error for Error {}

/// Of a single device, where the place among the pool's disks says nothing.
impl From<DiskError> for Error {
    fn from(error: DiskError) -> Error {
        match error {
            DiskError::NoSpace => Error::NoSpace,
            DiskError::OutOfMemory => Error::OutOfMemory,
            error => Error::Disk { disk: 0, error },
        }
    }
}

impl Error {
    /// As a volume's reader or writer is told.
    pub(crate) fn of_request(self, operation: &'static str, sector: u64) -> DiskError {
        match self {
            Error::NoSpace | Error::NoMetadataSpace => DiskError::NoSpace,
            Error::OutOfMemory => DiskError::OutOfMemory,
            Error::Gone => DiskError::Gone,
            _ => DiskError::Failed { operation, sector },
        }
    }
}

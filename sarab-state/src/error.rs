//! What goes wrong with a store.

use core::fmt;

use crate::{MAX_KEY, MAX_TRANSACTION, MAX_VALUE};

/// Why a store did not do something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The disk has failed, or refuses.
    Disk(xen_blkif::Error),
    /// The disk holds something else.
    Foreign {
        /// What it looks like.
        what: Foreign,
        /// The first byte that is not zero.
        at: u64,
    },
    /// The disk holds no store, and none was to be made.
    NoStore,
    /// The disk has too little room.
    SmallDisk {
        /// Bytes of the disk.
        bytes: u64,
        /// Bytes that it needs.
        least: u64,
    },
    /// The store is of another version of this program's.
    Version {
        /// The version.
        version: u32,
    },
    /// What is on the disk is no store's.
    Damaged,
    /// There is no room for more.
    Full {
        /// Bytes that are in use, with what is counted for each entry.
        used: usize,
        /// Bytes that may be.
        limit: usize,
    },
    /// The disk's store has more than may be in memory.
    Memory {
        /// Bytes that may be.
        limit: usize,
    },
    /// A key of no bytes.
    NoKey,
    /// The key is too long.
    LongKey {
        /// Its bytes.
        len: usize,
    },
    /// The value is too long.
    LongValue {
        /// Its bytes.
        len: usize,
    },
    /// The transaction is too large.
    LargeTransaction {
        /// Its bytes, with those that its entries take.
        bytes: usize,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Disk(error) => error.fmt(f),
            Error::Foreign { what, at } => write!(
                f,
                "the disk holds {what} (byte {at} is not zero): not overwritten; give the domain an empty disk, or clear this one"
            ),
            Error::NoStore => f.write_str("the disk holds no store"),
            Error::SmallDisk { bytes, least } => write!(f, "the disk has {bytes} bytes, and the store needs {least}"),
            Error::Version { version } => write!(f, "the disk's store has version {version}, which is unknown"),
            Error::Damaged => f.write_str("the disk's store is damaged"),
            Error::Full { used, limit } => {
                write!(
                    f,
                    "the store is full: {used} of {limit} bytes are in use; it grows with the disk and with the memory for it"
                )
            }
            Error::Memory { limit } => {
                write!(
                    f,
                    "the disk's store has more than {limit} bytes, which are all that may be in memory; give the domain more"
                )
            }
            Error::NoKey => f.write_str("the key is empty"),
            Error::LongKey { len } => write!(f, "the key has {len} bytes: at most {MAX_KEY} are possible"),
            Error::LongValue { len } => write!(f, "the value has {len} bytes: at most {MAX_VALUE} are possible"),
            Error::LargeTransaction { bytes } => {
                write!(f, "the transaction has {bytes} bytes: at most {MAX_TRANSACTION} are possible")
            }
        }
    }
}

impl core::error::Error for Error {}

impl From<xen_blkif::Error> for Error {
    fn from(error: xen_blkif::Error) -> Self {
        Error::Disk(error)
    }
}

/// What a disk looks like that holds no store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Foreign {
    /// An encrypted volume.
    Luks,
    /// A file system of the ext family.
    Ext,
    /// An XFS file system.
    Xfs,
    /// A Btrfs file system.
    Btrfs,
    /// A swap area.
    Swap,
    /// A physical volume of LVM.
    Lvm,
    /// A GUID partition table.
    Gpt,
    /// A partition table or a FAT file system.
    BootRecord,
    /// A tar archive.
    Tar,
    /// Nothing that is known.
    Unknown,
}

impl Foreign {
    /// By the first bytes of a disk.
    pub(crate) fn of(bytes: &[u8]) -> Option<Foreign> {
        let signs: [(usize, &[u8], Foreign); 9] = [
            (0, b"LUKS\xba\xbe", Foreign::Luks),
            (0, b"XFSB", Foreign::Xfs),
            (1080, &[0x53, 0xef], Foreign::Ext),
            (4086, b"SWAPSPACE2", Foreign::Swap),
            (512, b"LABELONE", Foreign::Lvm),
            (512, b"EFI PART", Foreign::Gpt),
            (4096, b"EFI PART", Foreign::Gpt),
            (510, &[0x55, 0xaa], Foreign::BootRecord),
            (257, b"ustar", Foreign::Tar),
        ];
        signs
            .into_iter()
            .find(|(at, sign, _)| bytes.get(*at..).is_some_and(|rest| rest.starts_with(sign)))
            .map(|found| found.2)
    }

    /// By the bytes behind the first 64 KiB.
    pub(crate) fn behind(bytes: &[u8]) -> Option<Foreign> {
        bytes.get(0x40..).is_some_and(|rest| rest.starts_with(b"_BHRfS_M")).then_some(Foreign::Btrfs)
    }
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Foreign::Luks => "a LUKS volume",
            Foreign::Ext => "an ext file system",
            Foreign::Xfs => "an XFS file system",
            Foreign::Btrfs => "a Btrfs file system",
            Foreign::Swap => "a swap area",
            Foreign::Lvm => "an LVM physical volume",
            Foreign::Gpt => "a GUID partition table",
            Foreign::BootRecord => "a partition table or a FAT file system",
            Foreign::Tar => "a tar archive",
            Foreign::Unknown => "something",
        })
    }
}

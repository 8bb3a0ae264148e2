//! What can be wrong with a file system.

use core::fmt;

/// Why a file system, or something in it, cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Damage {
    /// A field of the superblock has a value that it cannot have.
    Superblock {
        /// Which one, by Linux' name.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// A checksum is wrong.
    Checksum {
        /// Of what.
        of: &'static str,
        /// Its number, if it has one.
        number: u64,
    },
    /// Features that are not supported, as bits of `s_feature_incompat`.
    Features(u32),
    /// Features of the journal that are not supported.
    JournalFeatures(u32),
    /// It was not unmounted, and its journal is damaged.
    Journal,
    /// It was not unmounted, and its journal is another device.
    JournalElsewhere,
    /// It was not unmounted, and there is no memory for what is in its journal.
    JournalTooLarge,
    /// A number of a block that does not exist.
    Block(u64),
    /// A number of an inode that does not exist.
    Inode(u32),
    /// An inode that is none.
    InodeContent(u32),
    /// The blocks of a file are not told as they should be.
    Map(u32),
    /// A folder's entries are damaged.
    Folder(u32),
    /// A folder, or a path, takes more to be read than there may be.
    TooMuch,
    /// A file or folder is encrypted.
    Encrypted(u32),
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Damage::Superblock { field, value } => write!(f, "superblock: {field} is {value}"),
            Damage::Checksum { of, number } => write!(f, "checksum of {of} {number} is wrong; e2fsck repairs it"),
            Damage::Features(bits) => write!(f, "unsupported features {bits:#x}"),
            Damage::JournalFeatures(bits) => {
                write!(f, "needs recovery, and its journal has unsupported features {bits:#x}; e2fsck recovers it")
            }
            Damage::Journal => f.write_str("needs recovery, and its journal is damaged; e2fsck repairs it"),
            Damage::JournalElsewhere => f.write_str("needs recovery from an external journal; e2fsck recovers it"),
            Damage::JournalTooLarge => {
                f.write_str("needs recovery, and its journal takes more memory than there is; e2fsck recovers it")
            }
            Damage::Block(number) => write!(f, "block {number} is outside of the file system"),
            Damage::Inode(number) => write!(f, "inode {number} does not exist"),
            Damage::InodeContent(number) => write!(f, "inode {number} is damaged; e2fsck repairs it"),
            Damage::Map(number) => write!(f, "inode {number}: the block map is damaged; e2fsck repairs it"),
            Damage::Folder(number) => write!(f, "inode {number}: the directory is damaged; e2fsck repairs it"),
            Damage::TooMuch => f.write_str("a directory is too large to be searched"),
            Damage::Encrypted(number) => write!(f, "inode {number} is encrypted"),
        }
    }
}

impl core::error::Error for Damage {}

/// Why something is not read.
#[derive(Debug)]
pub(crate) enum Failure {
    Disk(xen_blkif::Error),
    Damage(Damage),
}

impl From<xen_blkif::Error> for Failure {
    fn from(error: xen_blkif::Error) -> Self {
        Failure::Disk(error)
    }
}

impl From<Damage> for Failure {
    fn from(damage: Damage) -> Self {
        Failure::Damage(damage)
    }
}

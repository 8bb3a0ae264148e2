//! What a disk looks like that is of no pool.

use alloc::vec;
use core::fmt;

use xen_blkif::{BlockDevice, Error};

/// What the begin of a disk looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Content {
    /// Nothing but zeroes.
    Nothing,
    /// A pool of this crate's.
    Pool,
    /// Something else: as `blkid` or an administrator would call it.
    Known(&'static str),
    /// Bytes that say nothing to this crate.
    Unknown,
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Content::Nothing => "nothing but zeroes",
            Content::Pool => "a pool of volumes",
            Content::Known(name) => name,
            Content::Unknown => "data of an unknown kind",
        })
    }
}

/// Bytes at the begin of a disk that are looked at.
const HEAD: usize = 68 << 10;

/// What stands where, and what it is then called.
const SIGNS: [(usize, &[u8], &str); 16] = [
    (0, b"LUKS\xba\xbe", "a LUKS container"),
    (1080, b"\x53\xef", "an ext2, ext3 or ext4 file system"),
    (0, b"XFSB", "an XFS file system"),
    (65600, b"_BHRfS_M", "a btrfs file system"),
    (512, b"LABELONE", "an LVM physical volume"),
    (0, b"LABELONE", "an LVM physical volume"),
    (4096, b"\xfc\x4e\x2b\xa9", "an md RAID member"),
    (0, b"\xfc\x4e\x2b\xa9", "an md RAID member"),
    (4086, b"SWAPSPACE2", "swap space"),
    (32769, b"CD001", "an ISO 9660 file system"),
    (257, b"ustar", "a tar archive"),
    (3, b"NTFS    ", "an NTFS file system"),
    (0, b"hsqs", "a squashfs file system"),
    (512, b"EFI PART", "a GPT partition table"),
    (4096, b"EFI PART", "a GPT partition table"),
    (510, b"\x55\xaa", "a partition table or boot sector"),
];

/// What the begin of a disk looks like.
///
/// # Errors
///
/// What the disk says.
///
/// # Cancellation
///
/// May be dropped at any time.
pub async fn identify<D: BlockDevice>(disk: &D) -> Result<Content, Error> {
    let geometry = disk.geometry();
    let unit = u64::from(geometry.sector_size.max(512));
    let len = geometry.bytes().min(HEAD as u128) as u64 / unit * unit;
    let mut head = vec![0; len as usize];
    disk.read_bytes(0, &mut head).await?;
    let has = |at: usize, sign: &[u8]| head.get(at..at + sign.len()) == Some(sign);
    if has(0, crate::layout::LABEL_MAGIC) {
        return Ok(Content::Pool);
    }
    if let Some((.., name)) = SIGNS.iter().find(|(at, sign, _)| has(*at, sign)) {
        return Ok(Content::Known(name));
    }
    Ok(if head.iter().all(|byte| *byte == 0) { Content::Nothing } else { Content::Unknown })
}

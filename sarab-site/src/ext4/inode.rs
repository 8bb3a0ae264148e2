//! Inodes (Linux, Documentation/filesystems/ext4/inodes.rst).

use alloc::vec::Vec;

use super::bytes::{u16_at, u32_at, wide};
use super::crc::crc32c;
use super::error::Damage;
use super::superblock::Superblock;

/// Bytes that tell where a file's blocks are, or hold a file that is shorter.
pub(crate) const BLOCK_FIELD: usize = 60;

const EXTENTS: u32 = 0x8_0000;
const ENCRYPTED: u32 = 0x800;
const INDEXED: u32 = 0x1000;
const INLINE: u32 = 0x1000_0000;
const CASEFOLDED: u32 = 0x4000_0000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Folder,
    Link,
    Other,
}

#[derive(Clone, Debug)]
pub(crate) struct Inode {
    pub(crate) number: u32,
    pub(crate) kind: Kind,
    pub(crate) size: u64,
    /// In seconds since 1970.
    pub(crate) modified: i64,
    /// What checksums of its blocks begin with.
    pub(crate) seed: u32,
    pub(crate) block_field: [u8; BLOCK_FIELD],
    /// All of its bytes that are not zero, where they are in the inode.
    pub(crate) inline: Option<Vec<u8>>,
    flags: u32,
}

impl Inode {
    pub(crate) fn parse(superblock: &Superblock, number: u32, bytes: &[u8]) -> Result<Inode, Damage> {
        let damaged = Damage::InodeContent(number);
        let bytes = bytes.get(..superblock.inode_size.into()).ok_or(damaged)?;
        let generation = u32_at(bytes, 0x64);
        let seed = crc32c(crc32c(superblock.seed, &number.to_le_bytes()), &generation.to_le_bytes());
        // Fields behind the first 128 bytes are there as far as this says.
        let extra = if bytes.len() > 128 { usize::from(u16_at(bytes, 0x80)) } else { 0 };
        if 128 + extra > bytes.len() {
            return Err(damaged);
        }
        if superblock.checksums && !is_whole(bytes, extra, seed) {
            return Err(Damage::Checksum { of: "inode", number: number.into() });
        }
        let kind = match u16_at(bytes, 0) & 0xf000 {
            0x8000 => Kind::File,
            0x4000 => Kind::Folder,
            0xa000 => Kind::Link,
            _ => Kind::Other,
        };
        let flags = u32_at(bytes, 0x20);
        let has_high_size = kind == Kind::File || superblock.large_folders;
        let size = wide(u32_at(bytes, 0x4), if has_high_size { u32_at(bytes, 0x6c) } else { 0 });
        // A file has no more blocks than this.
        if size.div_ceil(superblock.block_size.into()) > 1 << 32 {
            return Err(damaged);
        }
        let block_field = bytes[0x28..].first_chunk().copied().ok_or(damaged)?;
        // The time's lower bits count from 1901 on, its higher ones in units of 136 years.
        let epochs = if extra >= 0xc { u32_at(bytes, 0x88) & 3 } else { 0 };
        let modified = i64::from(u32_at(bytes, 0x10).cast_signed()) + (i64::from(epochs) << 32);
        let mut inode = Inode { number, kind, size, modified, seed, block_field, inline: None, flags };
        let blocks = wide(u32_at(bytes, 0x1c), u16_at(bytes, 0x74).into());
        // What belongs to extended attributes is none of the link's.
        let attributes = if u32_at(bytes, 0x68) != 0 { u64::from(superblock.block_size / 512) } else { 0 };
        let is_short_link = kind == Kind::Link && size < BLOCK_FIELD as u64 && blocks <= attributes;
        if flags & INLINE != 0 {
            inode.inline = Some(inline_bytes(bytes, extra, size).ok_or(damaged)?);
        } else if is_short_link {
            inode.inline = Some(inode.block_field[..size as usize].into());
        }
        Ok(inode)
    }

    pub(crate) fn has_extents(&self) -> bool {
        self.flags & EXTENTS != 0
    }

    pub(crate) fn is_encrypted(&self) -> bool {
        self.flags & ENCRYPTED != 0
    }

    /// A folder whose entries can be found by a hash. That of names in any case is another one.
    pub(crate) fn is_indexed(&self) -> bool {
        self.flags & INDEXED != 0 && self.flags & CASEFOLDED == 0
    }
}

/// Whether its checksum is right, which is taken with 0 in its own place.
fn is_whole(bytes: &[u8], extra: usize, seed: u32) -> bool {
    let crc = crc32c(crc32c(seed, &bytes[..0x7c]), &[0; 2]);
    let crc = crc32c(crc, &bytes[0x7e..128]);
    let rest = &bytes[128..];
    if rest.len() < 4 || extra < 4 {
        return crc32c(crc, rest) as u16 == u16_at(bytes, 0x7c);
    }
    let crc = crc32c(crc32c(crc32c(crc, &rest[..2]), &[0; 2]), &rest[4..]);
    crc == u32::from(u16_at(rest, 2)) << 16 | u32::from(u16_at(bytes, 0x7c))
}

/// A file that is in its inode: the begin where otherwise its blocks are told, the rest as the attribute `system.data`.
fn inline_bytes(bytes: &[u8], extra: usize, size: u64) -> Option<Vec<u8>> {
    let mut data = bytes[0x28..0x28 + BLOCK_FIELD].to_vec();
    if let Some(rest) = attribute(bytes.get(128 + extra..)?) {
        data.extend(rest);
    }
    data.truncate(usize::try_from(size).unwrap_or(usize::MAX));
    Some(data)
}

/// The value of `system.data` among an inode's attributes (Documentation/filesystems/ext4/attributes.rst).
fn attribute(attributes: &[u8]) -> Option<&[u8]> {
    const MAGIC: u32 = 0xea02_0000;
    if u32_at(attributes, 0) != MAGIC {
        return None;
    }
    let entries = attributes.get(4..)?;
    let mut rest = entries;
    // The last one is four zeroes.
    while rest.len() >= 16 && u32_at(rest, 0) != 0 {
        let name_len = usize::from(rest[0]);
        let name = rest.get(16..16 + name_len)?;
        let (at, len) = (usize::from(u16_at(rest, 2)), u32_at(rest, 8) as usize);
        // `system.` is 7, and a value elsewhere is no file's.
        if rest[1] == 7 && name == b"data" && u32_at(rest, 4) == 0 {
            return entries.get(at..)?.get(..len);
        }
        rest = rest.get((16 + name_len).next_multiple_of(4)..)?;
    }
    None
}

//! What is known of a file, and what can be changed of it.

use crate::protocol::{Attributes, DMDIR, DMSYMLINK, FileSystem, NewAttributes, QTDIR, QTSYMLINK, Qid, Stat, Time};

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    SymbolicLink,
    /// A device, a pipe, a socket.
    Other,
}

impl FileKind {
    /// By Linux's `st_mode`.
    const fn of_mode(mode: u32) -> FileKind {
        match mode & 0o170_000 {
            0o100_000 => FileKind::File,
            0o040_000 => FileKind::Dir,
            0o120_000 => FileKind::SymbolicLink,
            _ => FileKind::Other,
        }
    }

    /// By Linux's `d_type`, or by the qid where the server does not say it.
    pub(super) const fn of_entry(kind: u8, qid: Qid) -> FileKind {
        match kind {
            8 => FileKind::File,
            4 => FileKind::Dir,
            10 => FileKind::SymbolicLink,
            0 => FileKind::of_qid(qid),
            _ => FileKind::Other,
        }
    }

    const fn of_qid(qid: Qid) -> FileKind {
        if qid.kind & QTDIR != 0 {
            FileKind::Dir
        } else if qid.kind & QTSYMLINK != 0 {
            FileKind::SymbolicLink
        } else {
            FileKind::File
        }
    }
}

/// What the server says of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metadata {
    /// What it is.
    pub kind: FileKind,
    /// What the server knows it by.
    pub qid: Qid,
    /// Permissions, as the last twelve bits of Linux's `st_mode`.
    pub mode: u32,
    /// Bytes.
    pub size: u64,
    /// When its bytes were changed; in 9P2000.u without a part of a second.
    pub modified: Time,
    /// When it was read.
    pub accessed: Time,
    /// Its owner's number; xen-9pfsd says 0 of all files.
    pub uid: u32,
    /// Its group's number; xen-9pfsd says 0 of all files.
    pub gid: u32,
    /// Names that it has; 1 in 9P2000.u, which does not say it.
    pub links: u64,
}

impl Metadata {
    pub(super) const fn of_attributes(attributes: &Attributes) -> Metadata {
        let Attributes { qid, mode, uid, gid, links, size, accessed, modified, .. } = *attributes;
        let kind = FileKind::of_mode(mode);
        Metadata { kind, qid, mode: mode & 0o7777, size, modified, accessed, uid, gid, links }
    }

    pub(super) const fn of_stat(stat: &Stat<'_>) -> Metadata {
        let kind = if stat.mode & DMDIR != 0 {
            FileKind::Dir
        } else if stat.mode & DMSYMLINK != 0 {
            FileKind::SymbolicLink
        } else {
            FileKind::of_qid(stat.qid)
        };
        Metadata {
            kind,
            qid: stat.qid,
            mode: stat.mode & 0o777,
            size: stat.size,
            modified: Time { seconds: stat.modified as u64, nanoseconds: 0 },
            accessed: Time { seconds: stat.accessed as u64, nanoseconds: 0 },
            uid: stat.n_uid,
            gid: stat.n_gid,
            links: 1,
        }
    }
}

/// What is to be changed of a file. What is not named stays.
///
/// # Examples
///
/// ```
/// use xen_9pfs::front::Changes;
/// use xen_9pfs::protocol::Time;
///
/// let changes = Changes::new().size(0).mode(0o600).modified(Time { seconds: 1_700_000_000, nanoseconds: 0 });
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    mode: Option<u32>,
    owner: Option<u32>,
    group: Option<u32>,
    size: Option<u64>,
    accessed: Option<Time>,
    modified: Option<Time>,
}

impl Changes {
    /// Nothing yet.
    pub const fn new() -> Changes {
        Changes { mode: None, owner: None, group: None, size: None, accessed: None, modified: None }
    }

    /// Permissions, as the last twelve bits of Linux's `st_mode`.
    pub const fn mode(mut self, mode: u32) -> Changes {
        self.mode = Some(mode & 0o7777);
        self
    }

    /// The owner's number.
    pub const fn owner(mut self, uid: u32) -> Changes {
        self.owner = Some(uid);
        self
    }

    /// The group's number.
    pub const fn group(mut self, gid: u32) -> Changes {
        self.group = Some(gid);
        self
    }

    /// Bytes: the file is cut, or filled with zeros.
    pub const fn size(mut self, bytes: u64) -> Changes {
        self.size = Some(bytes);
        self
    }

    /// When it was read.
    pub const fn accessed(mut self, time: Time) -> Changes {
        self.accessed = Some(time);
        self
    }

    /// When its bytes were changed.
    pub const fn modified(mut self, time: Time) -> Changes {
        self.modified = Some(time);
        self
    }

    /// The bits are `P9_SETATTR_*` of Linux's include/net/9p/9p.h.
    pub(super) fn attributes(&self) -> NewAttributes {
        let mut valid = 0;
        let mut bit = |is_set: bool, bits: u32| valid |= if is_set { bits } else { 0 };
        bit(self.mode.is_some(), 1);
        bit(self.owner.is_some(), 2);
        bit(self.group.is_some(), 4);
        bit(self.size.is_some(), 8);
        bit(self.accessed.is_some(), 0x10 | 0x80);
        bit(self.modified.is_some(), 0x20 | 0x100);
        let never = Time { seconds: 0, nanoseconds: 0 };
        NewAttributes {
            valid,
            mode: self.mode.unwrap_or(0),
            uid: self.owner.unwrap_or(0),
            gid: self.group.unwrap_or(0),
            size: self.size.unwrap_or(0),
            accessed: self.accessed.unwrap_or(never),
            modified: self.modified.unwrap_or(never),
        }
    }

    /// `None` where 9P2000.u has no place for it.
    pub(super) fn stat(&self, is_dir: bool) -> Option<Stat<'static>> {
        let seconds = |time: Option<Time>| match time {
            None => Some(!0),
            Some(time) => u32::try_from(time.seconds).ok().filter(|seconds| *seconds != !0),
        };
        let mode = self.mode.map(|mode| mode & 0o777 | if is_dir { DMDIR } else { 0 });
        Some(Stat {
            mode: mode.unwrap_or(!0),
            n_uid: self.owner.unwrap_or(!0),
            n_gid: self.group.unwrap_or(!0),
            size: self.size.unwrap_or(!0),
            accessed: seconds(self.accessed)?,
            modified: seconds(self.modified)?,
            ..Stat::UNCHANGED
        })
    }
}

/// How much room there is on the share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Space {
    /// Bytes in all.
    pub total: u64,
    /// Bytes that can still be written.
    pub available: u64,
    /// Files that there may be in all; 0 where the server's file system does not count them.
    pub files: u64,
    /// Of these, how many more.
    pub free_files: u64,
    /// Most bytes of a name.
    pub name_length: u32,
}

impl Space {
    pub(super) fn of(system: &FileSystem) -> Space {
        let bytes = |blocks: u64| blocks.saturating_mul(system.block_size.into());
        Space {
            total: bytes(system.blocks),
            available: bytes(system.available),
            files: system.files,
            free_files: system.free_files,
            name_length: system.name_length,
        }
    }
}

//! What messages tell of files and of the file system.

use alloc::vec::Vec;

use super::codec::{Decoder, Field, Qid, Text, TooLong, Why};

macro_rules! structure {
    ($(#[$doc:meta])* $name:ident $(<$life:lifetime>)? { $($(#[$field_doc:meta])* $field:ident: $kind:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name $(<$life>)? {
            $($(#[$field_doc])* pub $field: $kind,)*
        }

        structure!(@field $name $(<$life>)? { $($field)* });
    };
    (@field $name:ident { $($field:ident)* }) => {
        impl Field<'_> for $name {
            fn put(&self, to: &mut Vec<u8>) -> Result<(), TooLong> {
                $(self.$field.put(to)?;)*
                Ok(())
            }

            fn get(from: &mut Decoder<'_>) -> Result<Self, Why> {
                Ok($name { $($field: Field::get(from)?,)* })
            }
        }
    };
    (@field $name:ident <$life:lifetime> { $($field:ident)* }) => {
        impl<$life> $name<$life> {
            fn put_fields(&self, to: &mut Vec<u8>) -> Result<(), TooLong> {
                $(self.$field.put(to)?;)*
                Ok(())
            }

            fn get_fields(from: &mut Decoder<$life>) -> Result<Self, Why> {
                Ok($name { $($field: Field::get(from)?,)* })
            }
        }
    };
}

structure! {
    /// A moment.
    Time {
        /// Seconds since 1970.
        seconds: u64,
        /// And so many billionths of one.
        nanoseconds: u64,
    }
}

structure! {
    /// The attributes of a file in 9P2000.L (`Rgetattr`).
    Attributes {
        /// Which of the others are true.
        valid: u64,
        /// What the server knows it by.
        qid: Qid,
        /// Linux's `st_mode`.
        mode: u32,
        /// Its owner's number.
        uid: u32,
        /// Its group's number.
        gid: u32,
        /// Names that it has.
        links: u64,
        /// For a device: which one.
        device: u64,
        /// Its bytes.
        size: u64,
        /// Bytes that are read best at once.
        block_size: u64,
        /// So many times 512 bytes are taken on the disk.
        blocks: u64,
        /// When it was read.
        accessed: Time,
        /// When its bytes were changed.
        modified: Time,
        /// When its attributes were changed.
        changed: Time,
        /// When it was made.
        created: Time,
        /// Not used.
        generation: u64,
        /// Not used.
        data_version: u64,
    }
}

structure! {
    /// What `Tsetattr` changes.
    NewAttributes {
        /// Which of the others count (`P9_SETATTR_*`).
        valid: u32,
        /// Permissions.
        mode: u32,
        /// The owner's number.
        uid: u32,
        /// The group's number.
        gid: u32,
        /// Bytes.
        size: u64,
        /// When it was read.
        accessed: Time,
        /// When its bytes were changed.
        modified: Time,
    }
}

structure! {
    /// The file system (`Rstatfs`).
    FileSystem {
        /// Its type, as Linux's `f_type`.
        kind: u32,
        /// Bytes of a block.
        block_size: u32,
        /// Blocks in all.
        blocks: u64,
        /// Of these, unused.
        free: u64,
        /// Of these, for ordinary users.
        available: u64,
        /// Files that there may be.
        files: u64,
        /// Of these, unused.
        free_files: u64,
        /// A number of the file system.
        id: u64,
        /// Most bytes of a name.
        name_length: u32,
    }
}

structure! {
    /// The attributes of a file in 9P2000.u (`Rstat`), and an entry of a directory there.
    Stat<'a> {
        /// For the kernel's use.
        kind: u16,
        /// For the kernel's use.
        device: u32,
        /// What the server knows it by.
        qid: Qid,
        /// Permissions, and above them `DMDIR` and the like.
        mode: u32,
        /// When it was read, in seconds since 1970.
        accessed: u32,
        /// When its bytes were changed, in seconds since 1970.
        modified: u32,
        /// Its bytes.
        size: u64,
        /// Its name.
        name: Text<'a>,
        /// Its owner's name.
        uid: Text<'a>,
        /// Its group's name.
        gid: Text<'a>,
        /// Who changed it last.
        muid: Text<'a>,
        /// A symbolic link's target.
        extension: Text<'a>,
        /// Its owner's number.
        n_uid: u32,
        /// Its group's number.
        n_gid: u32,
        /// The number of who changed it last.
        n_muid: u32,
    }
}

/// A directory, in [`Stat::mode`].
pub const DMDIR: u32 = 0x8000_0000;
/// A symbolic link, in [`Stat::mode`].
pub const DMSYMLINK: u32 = 0x0200_0000;

impl<'a> Stat<'a> {
    /// What changes nothing in a `Twstat`.
    pub const UNCHANGED: Stat<'static> = Stat {
        kind: !0,
        device: !0,
        qid: Qid { kind: !0, version: !0, path: !0 },
        mode: !0,
        accessed: !0,
        modified: !0,
        size: !0,
        name: Text(b""),
        uid: Text(b""),
        gid: Text(b""),
        muid: Text(b""),
        extension: Text(b""),
        n_uid: !0,
        n_gid: !0,
        n_muid: !0,
    };

    /// As it lies in a directory: its length, and itself.
    ///
    /// # Errors
    ///
    /// Where a string is longer than 65535 bytes, or all of it.
    pub fn write(&self, to: &mut Vec<u8>) -> Result<(), TooLong> {
        let start = to.len();
        0_u16.put(to)?;
        self.put_fields(to)?;
        let len = u16::try_from(to.len() - start - 2).map_err(|_| TooLong)?;
        to[start..start + 2].copy_from_slice(&len.to_le_bytes());
        Ok(())
    }

    /// Reads its fields; its length may be [`EXCESS`] too large.
    pub(super) fn read(from: &mut Decoder<'a>) -> Result<(Self, Sizes), Why> {
        let said = u16::get(from)?;
        let before = from.0.len();
        let stat = Stat::get_fields(from)?;
        let sizes = Sizes { said: said.into(), is: before - from.0.len() };
        if sizes.excess() == 0 || sizes.excess() == EXCESS {
            Ok((stat, sizes))
        } else {
            Err("a stat of another length")
        }
    }
}

/// xen-9pfsd says of each stat that it is so many bytes longer than it is (`fill_p9_stat` of Xen 4.19 to 4.22 adds 71 where
/// the fields have 61). Linux's client does not look at that number.
pub(super) const EXCESS: usize = 10;

/// The length of a stat without its own two bytes.
pub(super) struct Sizes {
    said: usize,
    is: usize,
}

impl Sizes {
    pub(super) fn excess(&self) -> usize {
        // One that is too small is none that is known.
        self.said.checked_sub(self.is).unwrap_or(usize::MAX)
    }
}

impl<'a> Field<'a> for Stat<'a> {
    /// In a message there is one more length before it.
    fn put(&self, to: &mut Vec<u8>) -> Result<(), TooLong> {
        let start = to.len();
        0_u16.put(to)?;
        self.write(to)?;
        let len = u16::try_from(to.len() - start - 2).map_err(|_| TooLong)?;
        to[start..start + 2].copy_from_slice(&len.to_le_bytes());
        Ok(())
    }

    fn get(from: &mut Decoder<'a>) -> Result<Self, Why> {
        let both = usize::from(u16::get(from)?);
        let (stat, sizes) = Stat::read(from)?;
        if both == sizes.said + 2 { Ok(stat) } else { Err("a stat of another length") }
    }
}

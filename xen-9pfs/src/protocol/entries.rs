//! The entries of a directory, as they lie in `Rreaddir` (9P2000.L) and in `Rread` (9P2000.u).

use alloc::vec::Vec;

use super::codec::{Decoder, Field, Qid, Text, TooLong};
use super::{Malformed, Stat};

/// An entry of `Rreaddir`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirEntry<'a> {
    /// What the server knows it by.
    pub qid: Qid,
    /// Where reading goes on after it.
    pub offset: u64,
    /// Linux's `d_type`.
    pub kind: u8,
    /// Its name.
    pub name: Text<'a>,
}

impl<'a> DirEntry<'a> {
    /// Appends it to others.
    ///
    /// # Errors
    ///
    /// Where the name is longer than 65535 bytes.
    pub fn write(&self, to: &mut Vec<u8>) -> Result<(), TooLong> {
        self.qid.put(to)?;
        self.offset.put(to)?;
        self.kind.put(to)?;
        self.name.put(to)
    }

    /// Takes the first entry off.
    ///
    /// # Errors
    ///
    /// Where there is no whole one.
    pub fn read(from: &mut &'a [u8]) -> Result<DirEntry<'a>, Malformed> {
        take(from, super::Kind::RREADDIR, |from| {
            Ok(DirEntry {
                qid: Field::get(from)?,
                offset: Field::get(from)?,
                kind: Field::get(from)?,
                name: Field::get(from)?,
            })
        })
    }
}

impl<'a> Stat<'a> {
    /// Takes the first entry of a directory of 9P2000.u off. With it comes how many bytes xen-9pfsd has for it after the last
    /// entry, which mean nothing.
    ///
    /// xen-9pfsd puts two lengths before each entry, as in `Rstat`, where there is to be one; and it counts both of them and
    /// the entry as longer than they are (`fill_p9_stat`, `p9_read` of Xen 4.19 to 4.22).
    ///
    /// # Errors
    ///
    /// Where there is no whole one.
    pub fn take(from: &mut &'a [u8]) -> Result<(Stat<'a>, usize), Malformed> {
        take(from, super::Kind::RREAD, |from| {
            let mut ahead = Decoder(from.0);
            let (first, second) = (u16::get(&mut ahead)?, u16::get(&mut ahead)?);
            // After one length comes the type, which is 0 or small: no entry is so short.
            let has_two = second > 2 && second.checked_add(2) == Some(first);
            if has_two {
                u16::get(from)?;
            }
            let (stat, sizes) = Stat::read(from)?;
            Ok((stat, sizes.excess().saturating_sub(if has_two { 2 } else { 0 })))
        })
    }
}

fn take<'a, T>(
    from: &mut &'a [u8],
    kind: super::Kind,
    read: impl FnOnce(&mut Decoder<'a>) -> Result<T, &'static str>,
) -> Result<T, Malformed> {
    let mut decoder = Decoder(from);
    let entry =
        read(&mut decoder).map_err(|_| Malformed { kind, size: from.len(), what: "no whole entry of a directory" })?;
    *from = decoder.0;
    Ok(entry)
}

/// Whether a name can be that of a file in a directory: a server must not make a path of it.
pub fn is_name(name: &[u8]) -> bool {
    !name.is_empty() && name != b"." && name != b".." && !name.contains(&b'/') && !name.contains(&0)
}

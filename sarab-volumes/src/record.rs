//! A volume as the pool's table has it.

use alloc::string::String;

use crate::Error;
use crate::layout::{BLOCK_SECTORS, CHUNK_SECTORS, MAX_CHUNKS, MAX_NAME, put, u32_at, u64_at};
use crate::node::{Kind, Ptr, Root};

const THICK: u8 = 1;
const INTEGRITY: u8 = 2;
const READ_ONLY: u8 = 4;
const DELETING: u8 = 8;

/// Where the name is.
const NAME: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// What no other volume of the pool ever had. Not 0.
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) sectors: u64,
    pub(crate) root: Root,
    /// Chunks that are mapped.
    pub(crate) mapped: u64,
    /// Chunks that were mapped when there had been fewer snapshots may be shared with one.
    pub(crate) shared_before: u32,
    /// The volume that this one was a snapshot of, or 0.
    pub(crate) origin: u64,
    pub(crate) thick: bool,
    pub(crate) integrity: bool,
    pub(crate) read_only: bool,
    /// Its chunks are being freed.
    pub(crate) deleting: bool,
}

impl Record {
    pub(crate) fn kind(&self) -> Kind {
        if self.integrity { Kind::CheckedMap } else { Kind::Map }
    }

    pub(crate) fn chunks(&self) -> u64 {
        self.sectors.div_ceil(CHUNK_SECTORS)
    }

    /// Chunks that are reserved for it and not mapped.
    pub(crate) fn reserved(&self) -> u64 {
        if self.thick && !self.deleting { self.chunks().saturating_sub(self.mapped) } else { 0 }
    }

    pub(crate) fn encode(&self, bytes: &mut [u8]) {
        bytes.fill(0);
        put(bytes, 0, &self.id.to_le_bytes());
        put(bytes, 8, &self.sectors.to_le_bytes());
        put(bytes, 16, &self.mapped.to_le_bytes());
        put(bytes, 24, &self.origin.to_le_bytes());
        put(bytes, 32, &self.root.ptr.encode());
        put(bytes, 40, &self.shared_before.to_le_bytes());
        let flag = |is: bool, flag: u8| if is { flag } else { 0 };
        let flags = flag(self.thick, THICK)
            | flag(self.integrity, INTEGRITY)
            | flag(self.read_only, READ_ONLY)
            | flag(self.deleting, DELETING);
        put(bytes, 44, &[self.root.levels, flags, self.name.len() as u8]);
        put(bytes, NAME, self.name.as_bytes());
    }

    /// Nothing where there is no volume.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Option<Record>, Error> {
        let id = u64_at(bytes, 0);
        if id == 0 {
            return Ok(None);
        }
        let (flags, len) = (bytes[45], usize::from(bytes[46]));
        let name = bytes.get(NAME..NAME + len).and_then(|name| core::str::from_utf8(name).ok());
        let name = name.filter(|name| check_name(name).is_ok()).ok_or(Error::Damaged { what: "a volume's name" })?;
        let record = Record {
            id,
            name: name.into(),
            sectors: u64_at(bytes, 8),
            root: Root { ptr: Ptr::decode(bytes, 32), levels: bytes[44] },
            mapped: u64_at(bytes, 16),
            shared_before: u32_at(bytes, 40),
            origin: u64_at(bytes, 24),
            thick: flags & THICK != 0,
            integrity: flags & INTEGRITY != 0,
            read_only: flags & READ_ONLY != 0,
            deleting: flags & DELETING != 0,
        };
        check_size(record.sectors).map_err(|_| Error::Damaged { what: "a volume's size" })?;
        if record.root.levels != record.kind().levels(record.chunks()) || record.mapped > record.chunks() {
            return Err(Error::Damaged { what: "a volume's counters" });
        }
        Ok(Some(record))
    }
}

pub(crate) fn check_name(name: &str) -> Result<(), Error> {
    let letters = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+_.-".contains(&byte));
    if name.is_empty() || name.len() > MAX_NAME || !letters || name.starts_with(['-', '.']) {
        return Err(Error::Invalid("a name is of 1 to 63 letters, digits and +_.- and begins with neither - nor ."));
    }
    Ok(())
}

pub(crate) fn check_size(sectors: u64) -> Result<(), Error> {
    if sectors == 0 || !sectors.is_multiple_of(BLOCK_SECTORS) || sectors > MAX_CHUNKS * CHUNK_SECTORS {
        return Err(Error::Invalid("a volume's size is a multiple of 4 KiB, up to 64 TiB"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    fn record() -> Record {
        Record {
            id: 7,
            name: "mail".into(),
            sectors: 1 << 20,
            root: Root { ptr: Ptr { address: 3, check: 4 }, levels: 1 },
            mapped: 9,
            shared_before: 2,
            origin: 6,
            thick: false,
            integrity: false,
            read_only: true,
            deleting: false,
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let mut bytes = vec![0xff; Kind::Table.entry()];
        record().encode(&mut bytes);
        assert_eq!(Record::decode(&bytes), Ok(Some(record())));
        let longest = Record { name: "x".repeat(MAX_NAME), ..record() };
        longest.encode(&mut bytes);
        assert_eq!(Record::decode(&bytes), Ok(Some(longest)));
        assert_eq!(Record::decode(&vec![0; Kind::Table.entry()]), Ok(None));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for wrong in [
            Record { name: "../up".into(), ..record() },
            Record { name: "".into(), ..record() },
            Record { sectors: 7, ..record() },
            Record { sectors: 0, ..record() },
            Record { sectors: u64::MAX / 8 * 8, ..record() },
            Record { mapped: 1 << 40, ..record() },
            Record { root: Root { levels: 2, ..record().root }, ..record() },
        ] {
            let mut bytes = vec![0; Kind::Table.entry()];
            wrong.encode(&mut bytes);
            assert!(matches!(Record::decode(&bytes), Err(Error::Damaged { .. })), "{wrong:?}");
        }
        let mut bytes = vec![0; Kind::Table.entry()];
        record().encode(&mut bytes);
        bytes[46] = 255;
        assert!(Record::decode(&bytes).is_err());
    }
}

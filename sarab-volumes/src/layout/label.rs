//! What says on each disk that it is one of a pool's.

use super::{MAX_DISKS, RECORD, VERSION, is_sealed, put, seal, u32_at};
use crate::Error;

pub(crate) const LABEL_MAGIC: &[u8; 16] = b"SarabPoolLabel\r\n";

/// A disk's label, which never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Label {
    pub(crate) uuid: [u8; 16],
    pub(crate) index: usize,
    pub(crate) disks: usize,
    /// Whole chunks of this disk.
    pub(crate) size: u32,
}

impl Label {
    pub(crate) fn encode(&self) -> [u8; RECORD] {
        let mut bytes = [0; RECORD];
        put(&mut bytes, 0, LABEL_MAGIC);
        put(&mut bytes, 16, &VERSION.to_le_bytes());
        put(&mut bytes, 20, &[self.index as u8, self.disks as u8]);
        put(&mut bytes, 24, &self.uuid);
        put(&mut bytes, 40, &self.size.to_le_bytes());
        seal(&mut bytes);
        bytes
    }

    /// Nothing where there is no whole label.
    ///
    /// # Errors
    ///
    /// [`Error::Version`] where it is a whole one of another version.
    pub(crate) fn decode(bytes: &[u8; RECORD]) -> Result<Option<Label>, Error> {
        if bytes[..16] != *LABEL_MAGIC || !is_sealed(bytes) {
            return Ok(None);
        }
        let found = u32_at(bytes, 16);
        if found != VERSION {
            return Err(Error::Version { found });
        }
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&bytes[24..40]);
        let label = Label { uuid, index: bytes[20].into(), disks: bytes[21].into(), size: u32_at(bytes, 40) };
        let possible = label.index < label.disks && label.disks <= MAX_DISKS && label.size > 2;
        Ok(possible.then_some(label))
    }
}

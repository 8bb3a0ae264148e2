//! The two copies of header and metadata on the device: the newer good one counts, and takes the other's place.

use alloc::vec::Vec;
use core::fmt;

use xen_blkif::{BlockDevice, Buffer};

use crate::error::{Error, Feature};
use crate::header::{BadCopy, Checksum, HEADER_SIZE, Header, Place, SIZES};
use crate::metadata::MAX_JSON;

/// Bytes that are read or written at once.
const STEP: usize = 64 << 10;

/// A copy that was found to be bad or old.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Repair {
    /// Which one.
    pub place: Place,
    /// What was wrong with it; `None` where it was older than the other.
    pub problem: Option<BadCopy>,
    /// The other was written in its place. A read-only device stays as it is, and one that fails at it too.
    pub written: bool,
}

impl fmt::Display for Repair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LUKS2 {} header ", self.place)?;
        match self.problem {
            Some(problem) => problem.fmt(f)?,
            None => write!(f, "is older than the {} one", self.place.other())?,
        }
        match self.written {
            true => write!(f, "; restored from the {} header", self.place.other()),
            false => write!(f, "; the {} header is used, nothing was written", self.place.other()),
        }
    }
}

/// A good copy.
pub(crate) struct Found {
    pub header: Header,
    pub json: Vec<u8>,
    /// What is wrong with the other copy.
    pub repair: Option<Repair>,
}

/// Finds the copy that counts.
///
/// # Cancellation
///
/// May be dropped at any time.
pub(crate) async fn find(device: &impl BlockDevice) -> Result<Found, Error> {
    let primary = read(device, Place::Primary, 0).await;
    if let Err(BadCopy::Unsupported(feature)) = primary
        && !matches!(feature, Feature::Checksum(_))
    {
        return Err(feature.into());
    }
    let secondary = match &primary {
        Ok((header, _)) => read(device, Place::Secondary, header.size).await,
        Err(_) => scan(device).await,
    };
    let (place, problem, (header, json)) = match (primary, secondary) {
        (Ok(first), Ok(second)) => match first.0.sequence.cmp(&second.0.sequence) {
            core::cmp::Ordering::Equal => return Ok(Found { header: first.0, json: first.1, repair: None }),
            core::cmp::Ordering::Less => (Place::Primary, None, second),
            core::cmp::Ordering::Greater => (Place::Secondary, None, first),
        },
        (Ok(first), Err(problem)) => (Place::Secondary, Some(problem), first),
        (Err(problem), Ok(second)) => (Place::Primary, Some(problem), second),
        (Err(BadCopy::NoMagic), Err(BadCopy::NoMagic)) => return Err(Error::NotLuks),
        (Err(BadCopy::Unreadable(error)), Err(_)) => return Err(error.into()),
        (Err(primary), Err(secondary)) => return Err(Error::Damaged { primary, secondary }),
    };
    let repair = Some(Repair { place, problem, written: false });
    Ok(Found { header, json, repair })
}

/// Looks for the second copy where it can be, for the first does not say where it is. The first good one is taken; if
/// there is none, what was wrong with the last that looked like one.
async fn scan(device: &impl BlockDevice) -> Result<(Header, Vec<u8>), BadCopy> {
    let mut problem = BadCopy::NoMagic;
    for offset in SIZES {
        match read(device, Place::Secondary, offset).await {
            Err(BadCopy::NoMagic | BadCopy::PastEnd) => {}
            Err(found) => problem = found,
            good => return good,
        }
    }
    Err(problem)
}

/// Reads a copy, checks it, and returns the text in its JSON area.
async fn read(device: &impl BlockDevice, place: Place, offset: u64) -> Result<(Header, Vec<u8>), BadCopy> {
    let bytes_on_device = device.geometry().bytes();
    let fits = |len: u64| u128::from(offset) + u128::from(len) <= bytes_on_device;
    if !fits(HEADER_SIZE as u64) {
        return Err(if place == Place::Primary { BadCopy::NoMagic } else { BadCopy::PastEnd });
    }
    let mut bytes = [0; HEADER_SIZE];
    device.read_bytes(offset / 512, &mut bytes).await.map_err(BadCopy::Unreadable)?;
    let (header, expected) = Header::parse(&bytes, place, offset)?;
    if !fits(header.size) {
        return Err(BadCopy::PastEnd);
    }
    let mut checksum = Checksum::new(&bytes);
    let mut json = Vec::new();
    let mut ended = false;
    let mut at = offset + HEADER_SIZE as u64;
    while at < offset + header.size {
        let len = (offset + header.size - at).min(STEP as u64) as usize;
        let buffer = device.buffer(len).map_err(BadCopy::Unreadable)?;
        let (buffer, outcome) = device.read(at / 512, buffer).await;
        outcome.map_err(BadCopy::Unreadable)?;
        for start in (0..len).step_by(HEADER_SIZE) {
            let part = &mut bytes[..(len - start).min(HEADER_SIZE)];
            buffer.read(start, part);
            checksum.update(part);
            if !ended && json.len() <= MAX_JSON {
                let text = part.split(|byte| *byte == 0).next().unwrap_or_default();
                ended = text.len() < part.len();
                json.extend_from_slice(text);
            }
        }
        at += len as u64;
    }
    if checksum.finish() != expected {
        return Err(BadCopy::Checksum);
    }
    match json.len() <= MAX_JSON {
        true => Ok((header, json)),
        false => Err(BadCopy::Unsupported(Feature::MetadataSize)),
    }
}

/// Writes both copies, one after the other: whatever happens, one of them is good.
///
/// # Cancellation
///
/// One copy may be written and not the other, or in part; the next [`find`] repairs that.
pub(crate) async fn write_both(device: &impl BlockDevice, header: &Header, json: &[u8]) -> Result<(), Error> {
    write(device, header, json, Place::Primary).await?;
    write(device, header, json, Place::Secondary).await
}

/// Writes a copy, and brings it to the medium.
///
/// # Cancellation
///
/// The copy may be written in part.
pub(crate) async fn write(device: &impl BlockDevice, header: &Header, json: &[u8], place: Place) -> Result<(), Error> {
    let offset = match place {
        Place::Primary => 0,
        Place::Secondary => header.size,
    };
    let first = header.encode(place, json);
    let mut from = 0;
    while from < header.size as usize {
        let len = (header.size as usize - from).min(STEP);
        let buffer = device.buffer(len)?;
        let mut page = [0; HEADER_SIZE];
        for start in (0..len).step_by(HEADER_SIZE) {
            match (from + start).checked_sub(HEADER_SIZE) {
                None => page = first,
                Some(at) => {
                    let rest = json.get(at..).unwrap_or_default();
                    let text = &rest[..rest.len().min(HEADER_SIZE)];
                    page[..text.len()].copy_from_slice(text);
                    page[text.len()..].fill(0);
                }
            }
            buffer.write(start, &page);
        }
        device.write((offset + from as u64) / 512, buffer).await.1?;
        from += len;
    }
    flush(device).await
}

/// Brings what was written to the medium, where the device has to be told.
///
/// # Cancellation
///
/// May be dropped at any time.
pub(crate) async fn flush(device: &impl BlockDevice) -> Result<(), Error> {
    if device.geometry().flush {
        device.flush().await?;
    }
    Ok(())
}

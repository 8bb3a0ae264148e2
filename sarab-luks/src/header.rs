//! The binary header, of which there are two copies before their JSON areas (LUKS2 On-Disk Format Specification, 2.1).

use core::fmt;

use sha2::{Digest, Sha256};

use crate::error::{Feature, Name};

/// Bytes of the binary header.
pub(crate) const HEADER_SIZE: usize = 4096;

/// Sizes that a copy, with its JSON area, may have; the second copy begins there.
pub(crate) const SIZES: [u64; 9] =
    [16 << 10, 32 << 10, 64 << 10, 128 << 10, 256 << 10, 512 << 10, 1 << 20, 2 << 20, 4 << 20];

const MAGIC: [&[u8; 6]; 2] = [b"LUKS\xba\xbe", b"SKUL\xba\xbe"];
const CHECKSUM: core::ops::Range<usize> = 448..512;
/// What a header's checksum algorithm is called.
const SHA256: &[u8; 32] = b"sha256\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

/// One of the two copies of the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The first, at the beginning of the device.
    Primary,
    /// The second.
    Secondary,
}

impl Place {
    pub(crate) fn other(self) -> Place {
        match self {
            Place::Primary => Place::Secondary,
            Place::Secondary => Place::Primary,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Place::Primary => "primary",
            Place::Secondary => "secondary",
        })
    }
}

/// What is wrong with a copy of the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BadCopy {
    /// It does not begin as a header does.
    NoMagic,
    /// It is of something that is not supported.
    Unsupported(Feature),
    /// Its size is none that a header may have.
    Size(u64),
    /// It says that it is elsewhere.
    Offset(u64),
    /// It reaches past the end of the device.
    PastEnd,
    /// Its checksum is not that of its bytes.
    Checksum,
    /// The device failed to read it.
    Unreadable(xen_blkif::Error),
}

impl fmt::Display for BadCopy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadCopy::NoMagic => f.write_str("has no LUKS signature"),
            BadCopy::Unsupported(feature) => write!(f, "cannot be used: {feature}"),
            BadCopy::Size(size) => write!(f, "has the invalid size {size}"),
            BadCopy::Offset(offset) => write!(f, "has the invalid offset {offset}"),
            BadCopy::PastEnd => f.write_str("reaches past the end of the device"),
            BadCopy::Checksum => f.write_str("has a wrong checksum"),
            BadCopy::Unreadable(error) => write!(f, "cannot be read: {error}"),
        }
    }
}

/// What both copies of the binary header have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Of a copy with its JSON area.
    pub size: u64,
    /// Counts changes: the copy with the higher one is newer.
    pub sequence: u64,
    pub label: [u8; 48],
    pub salt: [u8; 64],
    pub uuid: [u8; 40],
    pub subsystem: [u8; 48],
}

impl Header {
    /// Reads a copy's fields; returns its checksum too, of which all but the first 32 bytes are zero.
    pub(crate) fn parse(bytes: &[u8; HEADER_SIZE], place: Place, offset: u64) -> Result<(Header, [u8; 64]), BadCopy> {
        if bytes[..6] != MAGIC[place as usize][..] {
            return Err(BadCopy::NoMagic);
        }
        match u16::from_be_bytes(field(bytes, 6)) {
            1 => return Err(BadCopy::Unsupported(Feature::Luks1)),
            2 => {}
            other => return Err(BadCopy::Unsupported(Feature::Version(other))),
        }
        let size = u64::from_be_bytes(field(bytes, 8));
        if !SIZES.contains(&size) {
            return Err(BadCopy::Size(size));
        }
        let algorithm: [u8; 32] = field(bytes, 72);
        if algorithm[..7] != SHA256[..7] {
            let end = algorithm.iter().position(|byte| *byte == 0).unwrap_or(algorithm.len());
            return Err(BadCopy::Unsupported(Feature::Checksum(Name::new(&algorithm[..end]))));
        }
        let own = u64::from_be_bytes(field(bytes, 256));
        let expected = match place {
            Place::Primary => 0,
            Place::Secondary => size,
        };
        if own != offset || own != expected {
            return Err(BadCopy::Offset(own));
        }
        let header = Header {
            size,
            sequence: u64::from_be_bytes(field(bytes, 16)),
            label: field(bytes, 24),
            salt: field(bytes, 104),
            uuid: field(bytes, 168),
            subsystem: field(bytes, 208),
        };
        Ok((header, field(bytes, CHECKSUM.start)))
    }

    /// Bytes of the JSON area.
    pub(crate) fn json_size(&self) -> usize {
        self.size as usize - HEADER_SIZE
    }

    /// The bytes of a copy, with the checksum over them and the JSON area, which holds `json` and zeroes.
    pub(crate) fn encode(&self, place: Place, json: &[u8]) -> [u8; HEADER_SIZE] {
        let mut bytes = [0; HEADER_SIZE];
        let offset = match place {
            Place::Primary => 0,
            Place::Secondary => self.size,
        };
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, MAGIC[place as usize]);
        put(6, &2_u16.to_be_bytes());
        put(8, &self.size.to_be_bytes());
        put(16, &self.sequence.to_be_bytes());
        put(24, &self.label);
        put(72, SHA256);
        put(104, &self.salt);
        put(168, &self.uuid);
        put(208, &self.subsystem);
        put(256, &offset.to_be_bytes());
        let mut checksum = Checksum::new(&bytes);
        checksum.update(json);
        checksum.update_zeroes(self.json_size().saturating_sub(json.len()));
        bytes[CHECKSUM].copy_from_slice(&checksum.finish());
        bytes
    }
}

fn field<const N: usize>(bytes: &[u8; HEADER_SIZE], at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[at..at + N]);
    field
}

/// The checksum of a copy: over the binary header without the checksum itself, and the JSON area.
pub(crate) struct Checksum(Sha256);

impl Checksum {
    pub(crate) fn new(bytes: &[u8; HEADER_SIZE]) -> Checksum {
        let mut bytes = *bytes;
        bytes[CHECKSUM].fill(0);
        Checksum(Sha256::new_with_prefix(bytes))
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn update_zeroes(&mut self, mut count: usize) {
        while count > 0 {
            let len = count.min(HEADER_SIZE);
            self.update(&[0; HEADER_SIZE][..len]);
            count -= len;
        }
    }

    /// The field: the checksum, and zeroes.
    pub(crate) fn finish(self) -> [u8; 64] {
        let mut field = [0; 64];
        field[..32].copy_from_slice(&self.0.finalize());
        field
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_copies_are_parsed_as_they_were_made() {
        let header = Header {
            size: 16384,
            sequence: 7,
            label: [b'l'; 48],
            salt: [1; 64],
            uuid: [b'u'; 40],
            subsystem: [b's'; 48],
        };
        for (place, offset) in [(Place::Primary, 0), (Place::Secondary, 16384)] {
            let bytes = header.encode(place, b"{}");
            let (parsed, checksum) = Header::parse(&bytes, place, offset).unwrap();
            assert_eq!(parsed, header);
            let mut own = Checksum::new(&bytes);
            own.update(b"{}");
            own.update(&[0; 16384 - 4096 - 2]);
            assert_eq!(own.finish(), checksum);
            assert_eq!(Header::parse(&bytes, place.other(), offset), Err(BadCopy::NoMagic));
            assert!(matches!(Header::parse(&bytes, place, offset + 4096), Err(BadCopy::Offset(_))));
        }
        let mut first = header.encode(Place::Primary, b"{}");
        first[7] = 1;
        assert_eq!(Header::parse(&first, Place::Primary, 0), Err(BadCopy::Unsupported(Feature::Luks1)));
        first[7] = 3;
        assert_eq!(Header::parse(&first, Place::Primary, 0), Err(BadCopy::Unsupported(Feature::Version(3))));
        first[7] = 2;
        first[10] = 1;
        assert!(matches!(Header::parse(&first, Place::Primary, 0), Err(BadCopy::Size(_))));
    }
}

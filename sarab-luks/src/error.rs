//! Why something could not be done with a volume.

use core::fmt;

use crate::header::BadCopy;

/// Why a volume could not be read, made, opened or changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The device has failed.
    Device(xen_blkif::Error),
    /// No header of LUKS is on the device.
    NotLuks,
    /// Both copies of the header are damaged.
    Damaged {
        /// What is wrong with the first copy.
        primary: BadCopy,
        /// What is wrong with the second.
        secondary: BadCopy,
    },
    /// The volume uses something that this crate does not support.
    Unsupported(Feature),
    /// The metadata, whose checksum is right, contradicts itself or the specification.
    Metadata {
        /// The object of the JSON area: `keyslots`, `digests`, `segments`, `config`, or all of it.
        object: &'static str,
        /// What is wrong there.
        problem: &'static str,
    },
    /// Deriving a key would need more than the [`Limits`](crate::Limits) allow.
    TooCostly {
        /// The keyslot, or `None` for the volume key's digest.
        keyslot: Option<u8>,
        /// What exceeds the limit.
        cost: Cost,
        /// What the header asks for.
        asked: u64,
        /// What is allowed.
        limit: u64,
    },
    /// The domain does not have the memory that a key's derivation needs.
    OutOfMemory {
        /// How many KiB it needs.
        kib: u64,
    },
    /// No keyslot can be opened with this key.
    NoKey,
    /// A key of no bytes.
    EmptyKey,
    /// All keyslots, or all of the area for them, are in use.
    NoFreeKeyslot,
    /// The last keyslot cannot be removed: nothing could open the volume any more.
    LastKeyslot,
    /// There is no such keyslot.
    NoSuchKeyslot(u8),
    /// The device is smaller than the volume.
    TooSmall {
        /// The device's size in bytes.
        bytes: u64,
        /// What the volume needs.
        needed: u64,
    },
    /// An option for a new volume or keyslot has a value that LUKS2 does not allow.
    Option {
        /// Its name.
        name: &'static str,
        /// What is allowed.
        allowed: &'static str,
    },
    /// The source of random numbers has failed.
    Random,
}

/// What makes a key's derivation costly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cost {
    /// Argon2's memory, in KiB.
    Argon2Memory,
    /// Argon2's memory times its passes, in KiB.
    Argon2Work,
    /// Iterations of PBKDF2.
    Pbkdf2Iterations,
}

/// What a volume uses that is not supported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Feature {
    /// The header is of LUKS1.
    Luks1,
    /// Another version of the header.
    Version(u16),
    /// The header is on another device than the data.
    DetachedHeader,
    /// Another cipher or mode than aes-xts-plain64.
    Cipher(Name),
    /// A key of another size than the 512 bits of AES-256 in XTS mode.
    KeySize {
        /// Its bits.
        bits: u64,
    },
    /// A hash function.
    Hash(Name),
    /// A key derivation function.
    Kdf(Name),
    /// A checksum of the header.
    Checksum(Name),
    /// Data segments other than one of type `crypt`: a reencryption is in progress, or part of the device is not
    /// encrypted.
    Segments,
    /// Integrity tags.
    Integrity,
    /// Tokens.
    Tokens,
    /// A keyslot or digest that does not belong to the data.
    Unbound,
    /// A type of keyslot.
    Keyslot(Name),
    /// A type of digest.
    Digest(Name),
    /// A type of keyslot area.
    Area(Name),
    /// A requirement that the header states: `online-reencrypt` where a reencryption is in progress.
    Requirement(Name),
    /// Metadata of more bytes than this crate reads.
    MetadataSize,
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Feature::Luks1 => {
                f.write_str("LUKS1 is not supported (`cryptsetup convert --type luks2` converts the header)")
            }
            Feature::Version(version) => write!(f, "LUKS version {version} is not supported"),
            Feature::DetachedHeader => f.write_str("a detached header is not supported"),
            Feature::Cipher(name) => write!(f, "cipher {name} is not supported, only aes-xts-plain64"),
            Feature::KeySize { bits } => write!(f, "a key of {bits} bits is not supported, only 512 (AES-256 in XTS mode)"),
            Feature::Hash(name) => write!(f, "hash {name} is not supported, only sha256 and sha512"),
            Feature::Kdf(name) => write!(f, "PBKDF {name} is not supported, only argon2id, argon2i and pbkdf2"),
            Feature::Checksum(name) => write!(f, "header checksum {name} is not supported, only sha256"),
            Feature::Segments => f.write_str(
                "several or other data segments than one of type crypt are not supported (is a reencryption in progress?)",
            ),
            Feature::Integrity => f.write_str("integrity tags are not supported"),
            Feature::Tokens => f.write_str("tokens are not supported (`cryptsetup token remove` removes one)"),
            Feature::Unbound => f.write_str("unbound keyslots and digests are not supported"),
            Feature::Keyslot(name) => write!(f, "keyslot type {name} is not supported (is a reencryption in progress?)"),
            Feature::Digest(name) => write!(f, "digest type {name} is not supported"),
            Feature::Area(name) => write!(f, "keyslot area type {name} is not supported (is a reencryption in progress?)"),
            Feature::Requirement(name) => write!(f, "requirement {name} is not supported (is a reencryption in progress?)"),
            Feature::MetadataSize => {
                write!(f, "metadata of more than {} KiB is not supported", crate::metadata::MAX_JSON >> 10)
            }
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Device(error) => error.fmt(f),
            Error::NotLuks => f.write_str("the device is not a valid LUKS device: it has no LUKS header"),
            Error::Damaged { primary, secondary } => {
                write!(f, "both LUKS2 headers are damaged: the primary {primary}, the secondary {secondary}")
            }
            Error::Unsupported(feature) => feature.fmt(f),
            Error::Metadata { object, problem } => write!(f, "LUKS2 metadata: {object}: {problem}"),
            Error::TooCostly { keyslot, cost, asked, limit } => {
                match keyslot {
                    Some(slot) => write!(f, "keyslot {slot}")?,
                    None => f.write_str("the volume key's digest")?,
                }
                match cost {
                    Cost::Argon2Memory => write!(
                        f,
                        " asks for {asked} KiB of memory for Argon2, the limit is {limit} KiB \
                         (`cryptsetup luksConvertKey --pbkdf-memory {limit}` lowers it)"
                    ),
                    Cost::Argon2Work => write!(
                        f,
                        " asks for Argon2 over {asked} KiB in all passes, the limit is {limit} KiB \
                         (`cryptsetup luksConvertKey --pbkdf-force-iterations` lowers it)"
                    ),
                    Cost::Pbkdf2Iterations => write!(
                        f,
                        " asks for {asked} iterations of PBKDF2, the limit is {limit} \
                         (`cryptsetup luksConvertKey --pbkdf-force-iterations` lowers it)"
                    ),
                }
            }
            Error::OutOfMemory { kib } => write!(
                f,
                "the domain does not have the {kib} KiB of memory that deriving the key needs (more memory for the domain, \
                 or `cryptsetup luksConvertKey --pbkdf-memory`)"
            ),
            Error::NoKey => f.write_str("No key available with this passphrase."),
            Error::EmptyKey => f.write_str("the passphrase or key file is empty"),
            Error::NoFreeKeyslot => f.write_str("all keyslots are full"),
            Error::LastKeyslot => f.write_str("this is the last keyslot: without it nothing could open the volume"),
            Error::NoSuchKeyslot(slot) => write!(f, "keyslot {slot} is not active"),
            Error::TooSmall { bytes, needed } => {
                write!(f, "the device of {bytes} bytes is too small for the LUKS2 volume, which needs {needed}")
            }
            Error::Option { name, allowed } => write!(f, "{name} has to be {allowed}"),
            Error::Random => f.write_str("no random numbers"),
        }
    }
}

impl core::error::Error for Error {}

impl From<xen_blkif::Error> for Error {
    fn from(error: xen_blkif::Error) -> Error {
        Error::Device(error)
    }
}

impl From<Feature> for Error {
    fn from(feature: Feature) -> Error {
        Error::Unsupported(feature)
    }
}

/// The beginning of a name in a header, which may hold any bytes: shown as printable ASCII.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Name {
    bytes: [u8; Name::MAX],
    len: u8,
}

impl Name {
    const MAX: usize = 40;

    pub(crate) fn new(name: &[u8]) -> Name {
        let mut bytes = [0; Name::MAX];
        let shown = name.iter().map(|byte| if byte.is_ascii_graphic() { *byte } else { b'?' });
        let len = name.len().min(Name::MAX);
        bytes.iter_mut().zip(shown).for_each(|(to, from)| *to = from);
        Name { bytes, len: len as u8 }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match core::str::from_utf8(&self.bytes[..usize::from(self.len)]) {
            Ok("") | Err(_) => f.write_str("(none)"),
            Ok(name) => f.write_str(name),
        }
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

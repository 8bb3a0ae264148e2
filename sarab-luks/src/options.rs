//! What the caller decides: how costly keys may be, and what new volumes are like.

use crate::error::Error;
use crate::hash::Hash;

/// How much the derivation of a key may cost. A header is data from a disk: without limits it could ask for all of the
/// domain's memory, or for hours.
///
/// The limits hold for each keyslot, of which there are at most 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Argon2's memory in KiB: 1 GiB, which is the most that cryptsetup takes by itself. A domain with less memory than the
    /// keyslot asks for refuses with [`Error::OutOfMemory`].
    pub argon2_memory_kib: u32,
    /// Argon2's memory times its passes, in KiB: 16 GiB. One GiB takes half a second to a second, during which the domain
    /// does nothing else.
    pub argon2_work_kib: u64,
    /// Iterations of PBKDF2: 20 million, which take some ten seconds, in steps that let other tasks run.
    pub pbkdf2_iterations: u32,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { argon2_memory_kib: 1 << 20, argon2_work_kib: 16 << 20, pbkdf2_iterations: 20_000_000 }
    }
}

impl Limits {
    /// The same with [`argon2_memory_kib`](Limits::argon2_memory_kib) as given.
    pub const fn with_argon2_memory_kib(mut self, kib: u32) -> Limits {
        self.argon2_memory_kib = kib;
        self
    }

    /// The same with [`argon2_work_kib`](Limits::argon2_work_kib) as given.
    pub const fn with_argon2_work_kib(mut self, kib: u64) -> Limits {
        self.argon2_work_kib = kib;
        self
    }

    /// The same with [`pbkdf2_iterations`](Limits::pbkdf2_iterations) as given.
    pub const fn with_pbkdf2_iterations(mut self, iterations: u32) -> Limits {
        self.pbkdf2_iterations = iterations;
        self
    }
}

/// The least memory, in KiB, that Argon2 is given for a new keyslot where the domain does not have what was asked for.
pub const MIN_ARGON2_MEMORY_KIB: u32 = 8 << 10;

/// How a key of a new keyslot is derived from passphrase or key file.
///
/// The default is Argon2id with 64 MiB in 4 passes, which takes about a fifth of a second. Where the domain does not have the memory,
/// half of it is taken and twice the passes, down to [`MIN_ARGON2_MEMORY_KIB`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kdf {
    /// Argon2id, the one to take.
    Argon2id(Argon2Cost),
    /// Argon2i.
    Argon2i(Argon2Cost),
    /// PBKDF2, which needs no memory.
    Pbkdf2 {
        /// The hash function.
        hash: Hash,
        /// 1000 or more; some million for passphrases that people type.
        iterations: u32,
    },
}

/// What Argon2 costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Argon2Cost {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over it, 4 or more as in cryptsetup.
    pub passes: u32,
    /// Lanes (`cpus` in the header), 1 to 4: a guest computes them one after the other.
    pub lanes: u32,
}

impl Default for Kdf {
    fn default() -> Kdf {
        Kdf::Argon2id(Argon2Cost { memory_kib: 64 << 10, passes: 4, lanes: 1 })
    }
}

impl Kdf {
    /// A quick one, for keys of random bytes: passphrases need one that costs more.
    pub const fn for_random_keys() -> Kdf {
        Kdf::Pbkdf2 { hash: Hash::Sha256, iterations: 1000 }
    }

    /// Checks the bounds that cryptsetup has for keyslots.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let option = |name, allowed| Err(Error::Option { name, allowed });
        match self {
            Kdf::Argon2id(cost) | Kdf::Argon2i(cost) => {
                if !(32..=4 << 20).contains(&cost.memory_kib) {
                    return option("memory_kib", "32 to 4194304");
                }
                if cost.passes < 4 {
                    return option("passes", "4 or more");
                }
                if !(1..=4).contains(&cost.lanes) {
                    return option("lanes", "1 to 4");
                }
            }
            Kdf::Pbkdf2 { iterations, .. } => {
                if *iterations < 1000 {
                    return option("iterations", "1000 or more");
                }
            }
        }
        Ok(())
    }
}

/// What a new volume is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FormatOptions {
    /// How the first key is derived.
    pub kdf: Kdf,
    /// Bytes that are encrypted as a unit: 512 to 4096, and at least the device's sectors. `None`, the default, takes the
    /// device's physical sectors.
    pub sector_size: Option<u32>,
    /// Where the data begins, in bytes: 16 MiB, as cryptsetup has it. A multiple of 4096; 512 KiB hold one keyslot.
    pub data_offset: u64,
    /// A label, of up to 47 bytes without NUL.
    pub label: [u8; 48],
    /// The limits that the volume is used with.
    pub limits: Limits,
}

impl Default for FormatOptions {
    fn default() -> FormatOptions {
        FormatOptions {
            kdf: Kdf::default(),
            sector_size: None,
            data_offset: 16 << 20,
            label: [0; 48],
            limits: Limits::default(),
        }
    }
}

impl FormatOptions {
    /// The same with [`kdf`](FormatOptions::kdf) as given.
    pub const fn with_kdf(mut self, kdf: Kdf) -> FormatOptions {
        self.kdf = kdf;
        self
    }

    /// The same with [`sector_size`](FormatOptions::sector_size) as given.
    pub const fn with_sector_size(mut self, bytes: u32) -> FormatOptions {
        self.sector_size = Some(bytes);
        self
    }

    /// The same with [`data_offset`](FormatOptions::data_offset) as given.
    pub const fn with_data_offset(mut self, bytes: u64) -> FormatOptions {
        self.data_offset = bytes;
        self
    }

    /// The same with a label, of which the first 47 bytes are taken.
    pub fn with_label(mut self, label: &str) -> FormatOptions {
        self.label = [0; 48];
        let len = label.floor_char_boundary(47);
        self.label[..len].copy_from_slice(&label.as_bytes()[..len]);
        self
    }

    /// The same with [`limits`](FormatOptions::limits) as given.
    pub const fn with_limits(mut self, limits: Limits) -> FormatOptions {
        self.limits = limits;
        self
    }
}

/// How an open volume is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct OpenOptions {
    /// Discards are passed on. Off by default: whoever sees the device then sees which sectors are unused, and so how full
    /// the file system is and of which kind.
    pub allow_discards: bool,
    /// Writing is refused.
    pub read_only: bool,
}

impl OpenOptions {
    /// The same with [`allow_discards`](OpenOptions::allow_discards) as given.
    pub const fn with_allow_discards(mut self, allow: bool) -> OpenOptions {
        self.allow_discards = allow;
        self
    }

    /// The same with [`read_only`](OpenOptions::read_only) as given.
    pub const fn with_read_only(mut self, read_only: bool) -> OpenOptions {
        self.read_only = read_only;
        self
    }
}

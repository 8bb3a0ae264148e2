//! What of a device is not served.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

/// What of a device is not served.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Warning {
    /// A name that is no text, is too long, or leads out of the archive.
    Name {
        /// Where its header is, in bytes.
        at: u64,
        /// The name, as far as it is text.
        name: String,
    },
    /// A file that is longer than what is left of the device.
    Truncated {
        /// The file.
        name: String,
        /// Where it should end, in bytes.
        end: u64,
        /// Where the device ends.
        size: u64,
    },
    /// The archive ends without its end mark.
    NoEnd {
        /// Where the next header should be.
        at: u64,
    },
    /// What should be a header is none: nothing behind it is found.
    NoHeader {
        /// Where, in bytes.
        at: u64,
    },
    /// Properties of a file that cannot be read.
    Properties {
        /// Where they are, in bytes.
        at: u64,
    },
    /// A file with holes, in GNU tar's own form.
    Sparse {
        /// The file.
        name: String,
    },
    /// More files than there is memory for.
    TooMany {
        /// The first so many are served.
        indexed: u64,
        /// And these are not.
        left_out: u64,
        /// Bytes that their places may take.
        memory: usize,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Warning::Name { at, name } => {
                write!(
                    f,
                    "the name at byte {at}, {name:?}, is not UTF-8, too long, or leads out of the archive: left out"
                )
            }
            Warning::Truncated { name, end, size } => {
                write!(
                    f,
                    "{name:?} ends at byte {end}, and the disk at {size}: left out; was the archive copied whole?"
                )
            }
            Warning::NoEnd { at } => write!(f, "no end mark at byte {at}: was the archive copied whole?"),
            Warning::NoHeader { at } => write!(f, "no tar header at byte {at}: the rest of the archive is not served"),
            Warning::Properties { at } => {
                write!(
                    f,
                    "the extended header at byte {at} is malformed or too large: what it describes may be left out"
                )
            }
            Warning::Sparse { name } => {
                write!(f, "{name:?} has holes in GNU tar's form: left out; tar without --sparse stores it whole")
            }
            Warning::TooMany { indexed, left_out, memory } => write!(
                f,
                "{left_out} files left out: the index of {indexed} files fills its {} KiB; give the domain more memory",
                memory / 1024
            ),
        }
    }
}

/// The first of them, and how many there were.
#[derive(Debug, Default)]
pub(crate) struct Warnings {
    pub(crate) first: Vec<Warning>,
    pub(crate) count: usize,
}

impl Warnings {
    const MAX: usize = 16;

    pub(crate) fn add(&mut self, warning: Warning) {
        self.count += 1;
        if self.first.len() < Self::MAX {
            self.first.push(warning);
            return;
        }
        // How many files are missing is to be seen in any case.
        if matches!(warning, Warning::TooMany { .. }) {
            self.first[Self::MAX - 1] = warning;
        }
    }
}

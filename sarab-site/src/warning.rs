//! What of a device is not served.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use crate::tar::Problem;

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
    /// More headers that describe a file, or longer ones, than are read.
    Properties {
        /// Where they are, in bytes.
        at: u64,
    },
    /// Something in an extended header that cannot be used.
    Malformed {
        /// Where it is, in bytes.
        at: u64,
    },
    /// Extended headers for all files that follow, more of them than are kept.
    Defaults {
        /// Where, in bytes.
        at: u64,
    },
    /// A file with holes whose map cannot be used.
    Sparse {
        /// The file.
        name: String,
        /// What is wrong with it.
        problem: Problem,
    },
    /// A device or a FIFO.
    Special {
        /// Its name.
        name: String,
    },
    /// The rest of a file that begins in another archive.
    Continued {
        /// The file.
        name: String,
    },
    /// A header of a type that is not known. It is served as a file, as POSIX asks for.
    Type {
        /// The file.
        name: String,
        /// The type.
        kind: u8,
    },
    /// What cannot be unpacked: what should be its folder is none, or a folder with files is in its place.
    Blocked {
        /// Its name.
        name: String,
    },
    /// A hard link to what was not in the archive before it.
    HardLink {
        /// The link.
        name: String,
        /// What it is another name of.
        target: String,
    },
    /// More headers behind an end mark.
    EndInside {
        /// Where the end mark is, in bytes.
        at: u64,
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
                    "the extended header at byte {at} is too large, or one of too many: left out is what it describes"
                )
            }
            Warning::Malformed { at } => {
                write!(f, "malformed extended header at byte {at}: what it says may be missing from what it describes")
            }
            Warning::Defaults { at } => {
                write!(f, "too many global extended headers at byte {at}: the rest of the archive is not served")
            }
            Warning::Sparse { name, problem } => {
                write!(f, "sparse file {name:?}: {problem}: left out; tar without --sparse stores it whole")
            }
            Warning::Special { name } => write!(f, "{name:?} is a device or a FIFO: left out"),
            Warning::Continued { name } => write!(f, "{name:?} is continued from another volume: left out"),
            Warning::Type { name, kind } => {
                write!(f, "unknown file type {:?} of {name:?}: served as a normal file", char::from(*kind))
            }
            Warning::Blocked { name } => {
                write!(
                    f,
                    "{name:?} goes through what is not a folder, or where a folder with files is: left out, as by tar"
                )
            }
            Warning::HardLink { name, target } => {
                write!(f, "hard link {name:?}: {target:?} is not in the archive before it: left out")
            }
            Warning::EndInside { at } => {
                write!(f, "end mark at byte {at}, and headers behind it: not served; join archives with tar -A")
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

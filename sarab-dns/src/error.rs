//! What is wrong with a zone.

use alloc::boxed::Box;
use alloc::string::String;
use core::fmt;

use domain::base::iana::Rtype;

use crate::name::Text;

/// Why a zone cannot be loaded: `example.zone:12: …`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoadError {
    /// The file.
    pub file: Box<str>,
    /// The line in it, from 1 on; 0 where it is not about a line.
    pub line: u32,
    /// What is wrong.
    pub problem: Problem,
}

/// What is wrong at a place of a zone file, or with what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Problem {
    /// Its text.
    Text(String),
    /// The data of a record of this type.
    Data(Rtype, &'static str),
    /// A record of this name is not in the zone.
    Outside(Box<[u8]>),
    /// The zone does not fit into so many bytes of memory.
    Memory(usize),
    /// There is nothing of this type at the zone's name, where it has to be.
    Missing(Rtype),
    /// There are several of a type of which there may be one, at this name.
    Several(Rtype, Box<[u8]>),
    /// SOA at a name that is not the zone's.
    Soa(Box<[u8]>),
    /// A CNAME record and others at this name.
    Cname(Box<[u8]>),
    /// NSEC3 records have more iterations than are served.
    Iterations(u16),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file, self.problem),
            line => write!(f, "{}:{line}: {}", self.file, self.problem),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Text(text) => f.write_str(text),
            Problem::Data(rtype, what) => write!(f, "{rtype}: {what}"),
            Problem::Outside(name) => {
                write!(f, "{} is outside of the zone: is a dot missing, or too much?", Text(name))
            }
            Problem::Memory(bytes) => write!(
                f,
                "the zone does not fit into the {} KiB that there are for it; give the domain more memory",
                bytes / 1024
            ),
            Problem::Missing(rtype) => write!(f, "the zone has no {rtype} record at its own name"),
            Problem::Several(rtype, name) => {
                write!(f, "{} has several {rtype} records, of which there is one", Text(name))
            }
            Problem::Soa(name) => write!(f, "{} has a SOA record, which belongs to the zone's own name", Text(name)),
            Problem::Cname(name) => write!(f, "{} has a CNAME record and others (RFC 1034, section 3.6.2)", Text(name)),
            Problem::Iterations(count) => write!(
                f,
                "NSEC3 with {count} iterations: {} at most are served; sign the zone with 0 (RFC 9276)",
                crate::nsec3::MAX_ITERATIONS
            ),
        }
    }
}

impl core::error::Error for LoadError {}

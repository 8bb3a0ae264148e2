//! A zone as it is served: names in their order, each with its sets of records.

use alloc::boxed::Box;
use alloc::vec::Vec;

use domain::base::Serial;
use hashbrown::HashTable;

use crate::arena::{Arena, At};
use crate::name::{self, Labels};
use crate::nsec3::Nsec3;

/// No node.
pub(crate) const NONE: u32 = u32::MAX;

/// Numbers of types that matter to how an answer is made.
pub(crate) mod rtype {
    pub const A: u16 = 1;
    pub const NS: u16 = 2;
    pub const CNAME: u16 = 5;
    pub const SOA: u16 = 6;
    pub const AAAA: u16 = 28;
    pub const DNAME: u16 = 39;
    pub const OPT: u16 = 41;
    pub const DS: u16 = 43;
    pub const RRSIG: u16 = 46;
    pub const NSEC: u16 = 47;
    pub const NSEC3: u16 = 50;
    pub const NSEC3PARAM: u16 = 51;
    pub const TSIG: u16 = 250;
    pub const IXFR: u16 = 251;
    pub const AXFR: u16 = 252;
    pub const ANY: u16 = 255;
}

/// A name of the zone, with records or without: then others are below it.
pub(crate) struct Node {
    pub name: At,
    /// Its sets of records.
    pub first: u32,
    pub sets: u16,
    /// The name above it.
    pub parent: u32,
    /// The highest name above where the zone ends: one with a delegation, this one included, or with DNAME.
    pub above: u32,
    /// `*` below it.
    pub wildcard: u32,
    /// Its place in the chain of NSEC3.
    pub nsec3: u32,
}

/// Records of a type at a name, with their signatures.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Set {
    pub rtype: u16,
    pub count: u16,
    pub signatures: u16,
    pub ttl: u32,
    /// Where the list has its records, and then the signatures.
    pub first: u32,
}

/// A zone that can be served.
pub struct Zone {
    pub(crate) apex: Box<[u8]>,
    pub(crate) hash: u32,
    pub(crate) arena: Arena,
    /// In the order of RFC 4034; the first is the zone's own name.
    pub(crate) nodes: Vec<Node>,
    pub(crate) table: HashTable<u32>,
    pub(crate) sets: Vec<Set>,
    pub(crate) records: Vec<At>,
    /// Names with NSEC records, in their order.
    pub(crate) nsec: Vec<u32>,
    pub(crate) nsec3: Option<Nsec3>,
    pub(crate) soa: Set,
    /// TTL of an answer that there is nothing (RFC 2308, section 5).
    pub(crate) negative_ttl: u32,
    pub(crate) serial: u32,
}

impl Zone {
    /// The zone's name, in wire format and lower case.
    pub fn apex(&self) -> &[u8] {
        &self.apex
    }

    /// Its name as text, with a dot at the end.
    pub fn name(&self) -> impl core::fmt::Display + '_ {
        name::Text(&self.apex)
    }

    /// The serial number of its SOA record.
    pub fn serial(&self) -> u32 {
        self.serial
    }

    /// How many names it has, with those that are there because of others below them.
    pub fn names(&self) -> usize {
        self.nodes.len()
    }

    /// How many records it has.
    pub fn records(&self) -> usize {
        self.records.len()
    }

    /// Whether it is signed.
    pub fn is_signed(&self) -> bool {
        self.soa.signatures > 0
    }

    /// How it denies what is not there: `NSEC` or `NSEC3`, if it is signed.
    pub fn denial(&self) -> Option<&'static str> {
        match (&self.nsec3, self.nsec.is_empty()) {
            (Some(_), _) => Some("NSEC3"),
            (None, false) => Some("NSEC"),
            (None, true) => None,
        }
    }

    /// Bytes of memory that it takes.
    pub fn memory(&self) -> usize {
        self.arena.bytes()
            + self.nodes.capacity() * size_of::<Node>()
            + self.table.allocation_size()
            + self.sets.capacity() * size_of::<Set>()
            + self.records.capacity() * size_of::<At>()
            + self.nsec.capacity() * size_of::<u32>()
            + self.nsec3.as_ref().map_or(0, Nsec3::bytes)
    }

    /// Whether its serial number is a later one than that of another version (RFC 1982): `Equal` if it is the same.
    /// `None` where the numbers are so far apart that neither is.
    pub fn compare_serial(&self, other: &Zone) -> Option<core::cmp::Ordering> {
        Serial(self.serial).partial_cmp(&Serial(other.serial))
    }

    /// Whether both have the same records in the same order.
    pub fn is_same(&self, other: &Zone) -> bool {
        self.apex == other.apex && self.sets == other.sets && self.arena == other.arena
    }

    pub(crate) fn name_of(&self, node: u32) -> &[u8] {
        self.arena.get(self.nodes[node as usize].name)
    }

    /// The node of a name in lower case, with its hash.
    pub(crate) fn find(&self, name: &[u8], hash: u32) -> Option<u32> {
        let is_it = |node: &u32| self.name_of(*node) == name;
        self.table.find(spread(hash), is_it).copied()
    }

    pub(crate) fn find_name(&self, name: &[u8]) -> Option<u32> {
        self.find(name, name::hash(name))
    }

    /// The node of a name, or of the nearest name above that there is, with the label that it begins with. The name is within
    /// the zone.
    pub(crate) fn closest(&self, name: &[u8], labels: &Labels) -> (u32, usize) {
        let apex = labels.count() - name::count(&self.apex);
        for index in 0..apex {
            if let Some(node) = self.find(&name[labels.start(index, name)..], labels.hash(index)) {
                return (node, index);
            }
        }
        (0, apex)
    }

    pub(crate) fn sets_of(&self, node: u32) -> &[Set] {
        let node = &self.nodes[node as usize];
        &self.sets[node.first as usize..node.first as usize + usize::from(node.sets)]
    }

    pub(crate) fn set(&self, node: u32, rtype: u16) -> Option<Set> {
        // A handful, in the order of their types.
        self.sets_of(node).iter().find(|set| set.rtype >= rtype).filter(|set| set.rtype == rtype).copied()
    }

    pub(crate) fn records_of(&self, set: Set) -> impl Iterator<Item = &[u8]> {
        let first = set.first as usize;
        self.records[first..first + usize::from(set.count)].iter().map(|at| self.arena.get(*at))
    }

    pub(crate) fn signatures_of(&self, set: Set) -> impl Iterator<Item = &[u8]> {
        let first = set.first as usize + usize::from(set.count);
        self.records[first..first + usize::from(set.signatures)].iter().map(|at| self.arena.get(*at))
    }
}

impl core::fmt::Debug for Zone {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Zone({} {})", self.name(), self.serial)
    }
}

/// What the table keeps of a hash: the lower bits find the place, the upper ones tell names apart.
pub(crate) fn spread(hash: u32) -> u64 {
    u64::from(hash) * 0x0001_0000_0001
}

//! Blocks of metadata: trees of 4 KiB nodes, whose leaves are arrays.

use alloc::boxed::Box;

use crate::layout::{BLOCK, CHUNK_BLOCKS, put, u32_at, u64_at};

const MAGIC: &[u8; 4] = b"SVnd";
/// Bytes of a node before its entries.
pub(crate) const HEADER: usize = 32;
/// Children of an inner node.
pub(crate) const FANOUT: usize = (BLOCK - HEADER) / 8;
/// The most levels of inner nodes: enough for all chunks in leaves of the fewest entries.
pub(crate) const MAX_LEVELS: u8 = 3;

/// Where a node is, and its checksum. Address 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ptr {
    pub(crate) address: u32,
    pub(crate) check: u32,
}

impl Ptr {
    pub(crate) const NONE: Ptr = Ptr { address: 0, check: 0 };

    pub(crate) fn is_none(self) -> bool {
        self.address == 0
    }

    pub(crate) fn encode(self) -> [u8; 8] {
        let mut bytes = [0; 8];
        put(&mut bytes, 0, &self.address.to_le_bytes());
        put(&mut bytes, 4, &self.check.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8], at: usize) -> Ptr {
        Ptr { address: u32_at(bytes, at), check: u32_at(bytes, at + 4) }
    }
}

/// A tree: its topmost node, and how many levels of inner nodes are above the leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Root {
    pub(crate) ptr: Ptr,
    pub(crate) levels: u8,
}

/// What a tree's leaves hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Chunks of a volume.
    Map = 1,
    /// Chunks of a volume, with the checksums of their blocks.
    CheckedMap = 2,
    /// Reference counts of blocks and chunks.
    Refs = 3,
    /// Volumes.
    Table = 4,
}

impl Kind {
    /// Bytes of an entry of a leaf.
    pub(crate) const fn entry(self) -> usize {
        match self {
            Kind::Map => 8,
            Kind::CheckedMap => 8 + 4 * CHUNK_BLOCKS,
            Kind::Refs => 2,
            Kind::Table => 256,
        }
    }

    /// Entries of a leaf.
    pub(crate) const fn leaf(self) -> u64 {
        ((BLOCK - HEADER) / self.entry()) as u64
    }

    /// Entries below a node of this level; leaves are of level 0.
    pub(crate) const fn span(self, level: u8) -> u64 {
        let mut span = self.leaf();
        let mut at = 0;
        while at < level {
            span *= FANOUT as u64;
            at += 1;
        }
        span
    }

    /// The levels of inner nodes that a tree of so many entries needs.
    pub(crate) const fn levels(self, entries: u64) -> u8 {
        let mut levels = 0;
        while levels < MAX_LEVELS && self.span(levels) < entries {
            levels += 1;
        }
        levels
    }

    /// The most nodes that a tree of so many entries has.
    pub(crate) const fn nodes(self, entries: u64) -> u64 {
        let mut nodes = 0;
        let mut level = 0;
        while level <= self.levels(entries) {
            nodes += entries.div_ceil(self.span(level));
            level += 1;
        }
        nodes
    }

    /// Where below a node of this level an entry is.
    pub(crate) const fn slot(self, level: u8, index: u64) -> usize {
        match level {
            0 => (index % self.leaf()) as usize,
            level => (index / self.span(level - 1) % FANOUT as u64) as usize,
        }
    }

    pub(crate) const fn is_map(self) -> bool {
        matches!(self, Kind::Map | Kind::CheckedMap)
    }
}

/// A chunk of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mapping {
    pub(crate) chunk: u32,
    /// How many snapshots there had been when it was mapped: it can be shared with later ones alone.
    pub(crate) born: u32,
}

/// The checksums of a chunk's blocks.
pub(crate) type Checks = [u32; CHUNK_BLOCKS];

#[derive(Clone, Debug)]
pub(crate) struct Node(Box<[u8; BLOCK]>);

impl Node {
    /// A node without entries, for those from `first` on.
    pub(crate) fn new(kind: Kind, level: u8, first: u64) -> Node {
        let mut bytes = Box::new([0; BLOCK]);
        put(&mut bytes[..], 0, MAGIC);
        put(&mut bytes[..], 4, &[kind as u8, level]);
        put(&mut bytes[..], 8, &first.to_le_bytes());
        Node(bytes)
    }

    /// A block that was read, if it is the node that is expected there.
    pub(crate) fn decode(bytes: Box<[u8; BLOCK]>, kind: Kind, level: u8, first: u64) -> Option<Node> {
        let node = Node(bytes);
        node.is(kind, level, first).then_some(node)
    }

    /// Whether it is that node.
    pub(crate) fn is(&self, kind: Kind, level: u8, first: u64) -> bool {
        let bytes = &self.0[..];
        bytes[..4] == *MAGIC && bytes[4] == kind as u8 && bytes[5] == level && u64_at(bytes, 8) == first
    }

    pub(crate) fn bytes(&self) -> &[u8; BLOCK] {
        &self.0
    }

    pub(crate) fn child(&self, slot: usize) -> Ptr {
        Ptr::decode(&self.0[..], HEADER + 8 * slot)
    }

    pub(crate) fn set_child(&mut self, slot: usize, ptr: Ptr) {
        put(&mut self.0[..], HEADER + 8 * slot, &ptr.encode());
    }

    /// The children that there are: slot and place.
    pub(crate) fn children(&self) -> impl Iterator<Item = (usize, Ptr)> + '_ {
        (0..FANOUT).map(|slot| (slot, self.child(slot))).filter(|(_, ptr)| !ptr.is_none())
    }

    pub(crate) fn count(&self, slot: usize) -> u16 {
        let at = HEADER + 2 * slot;
        u16::from_le_bytes([self.0[at], self.0[at + 1]])
    }

    pub(crate) fn set_count(&mut self, slot: usize, count: u16) {
        put(&mut self.0[..], HEADER + 2 * slot, &count.to_le_bytes());
    }

    pub(crate) fn mapping(&self, kind: Kind, slot: usize) -> Option<Mapping> {
        let at = HEADER + kind.entry() * slot;
        let chunk = u32_at(&self.0[..], at).checked_sub(1)?;
        Some(Mapping { chunk, born: u32_at(&self.0[..], at + 4) })
    }

    pub(crate) fn set_mapping(&mut self, kind: Kind, slot: usize, mapping: Option<Mapping>) {
        let at = HEADER + kind.entry() * slot;
        self.0[at..at + kind.entry()].fill(0);
        if let Some(Mapping { chunk, born }) = mapping {
            put(&mut self.0[..], at, &(chunk + 1).to_le_bytes());
            put(&mut self.0[..], at + 4, &born.to_le_bytes());
        }
    }

    /// Of a leaf of [`Kind::CheckedMap`].
    pub(crate) fn checks(&self, slot: usize) -> Checks {
        let at = HEADER + Kind::CheckedMap.entry() * slot + 8;
        core::array::from_fn(|block| u32_at(&self.0[..], at + 4 * block))
    }

    /// Of a leaf of [`Kind::CheckedMap`].
    pub(crate) fn set_checks(&mut self, slot: usize, checks: &Checks) {
        let at = HEADER + Kind::CheckedMap.entry() * slot + 8;
        for (block, check) in checks.iter().enumerate() {
            put(&mut self.0[..], at + 4 * block, &check.to_le_bytes());
        }
    }

    /// The bytes of an entry of a leaf.
    pub(crate) fn entry(&self, kind: Kind, slot: usize) -> &[u8] {
        let at = HEADER + kind.entry() * slot;
        &self.0[at..at + kind.entry()]
    }

    pub(crate) fn entry_mut(&mut self, kind: Kind, slot: usize) -> &mut [u8] {
        let at = HEADER + kind.entry() * slot;
        &mut self.0[at..at + kind.entry()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{MAX_CHUNKS, MAX_METADATA, MAX_VOLUMES};

    #[test]
    fn trees_are_high_enough() {
        assert!(Kind::CheckedMap.span(MAX_LEVELS) >= MAX_CHUNKS);
        assert!(Kind::Map.span(MAX_LEVELS) >= MAX_CHUNKS);
        assert!(Kind::Refs.span(MAX_LEVELS) >= MAX_CHUNKS + MAX_METADATA + Kind::Refs.leaf());
        assert!(Kind::Table.span(1) >= MAX_VOLUMES as u64);
        assert_eq!(Kind::Map.levels(508), 0);
        assert_eq!(Kind::Map.levels(509), 1);
        assert_eq!(Kind::Map.nodes(509), 3);
        assert_eq!(Kind::Map.nodes(0), 0);
    }
}

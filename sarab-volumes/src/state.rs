//! What a pool knows of itself while it is open.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::num::NonZeroUsize;

use async_lock::{Mutex, RwLock};
use event_listener::Event;
use lru::LruCache;

use crate::Error;
use crate::commit::Commits;
use crate::disks::Disks;
use crate::epoch::{Token, Withheld};
use crate::finish::Unfinished;
use crate::layout::{BLOCK, MAX_VOLUMES, Superblock};
use crate::node::{Kind, Node, Root};
use crate::record::Record;
use crate::space::MAX_PENDING;
use crate::tree::Repair;

/// Locks for chunks, by which writes that move the same chunk come one after the other.
const STRIPES: usize = 64;

/// Metadata in memory. What was changed since the last commit is only there.
pub(crate) struct Nodes {
    pub(crate) clean: LruCache<u32, Rc<Node>>,
    pub(crate) dirty: BTreeMap<u32, Rc<Node>>,
}

impl Nodes {
    pub(crate) fn get(&mut self, address: u32) -> Option<Rc<Node>> {
        self.dirty.get(&address).or_else(|| self.clean.get(&address)).cloned()
    }

    /// A node that has its place since the last commit, to be changed.
    pub(crate) fn dirty_mut(&mut self, address: u32) -> Result<&mut Node, Error> {
        let node = self.dirty.get_mut(&address).ok_or(Error::Damaged { what: "a block of metadata is used twice" })?;
        Ok(Rc::make_mut(node))
    }
}

/// A volume.
pub(crate) struct Entry {
    pub(crate) slot: u32,
    pub(crate) record: RefCell<Record>,
    /// Writes are under way, or a snapshot is taken.
    pub(crate) gate: RwLock<()>,
    /// The transaction that has changed it last.
    pub(crate) changed_in: Cell<u64>,
    pub(crate) handles: Cell<usize>,
    /// Its size, or what it is, has changed.
    pub(crate) event: Event,
    pub(crate) bad_blocks: Cell<u64>,
    /// It is deleted, and cannot be freed.
    pub(crate) is_stuck: Cell<bool>,
}

impl Entry {
    pub(crate) fn new(slot: u32, record: Record) -> Rc<Entry> {
        Rc::new(Entry {
            slot,
            record: RefCell::new(record),
            gate: RwLock::new(()),
            changed_in: Cell::new(0),
            handles: Cell::new(0),
            event: Event::new(),
            bad_blocks: Cell::new(0),
            is_stuck: Cell::new(false),
        })
    }
}

pub(crate) struct State {
    pub(crate) uuid: [u8; 16],
    /// Of the last commit.
    pub(crate) generation: u64,
    /// Which of the two superblocks is that one's.
    pub(crate) slot: usize,
    pub(crate) clock: u32,
    pub(crate) next_id: u64,
    pub(crate) refs: Root,
    pub(crate) table: Root,
    pub(crate) free_blocks: u32,
    pub(crate) free_chunks: u32,
    pub(crate) nodes: Nodes,
    pub(crate) volumes: BTreeMap<u32, Rc<Entry>>,
    /// Volumes whose records are to be written.
    pub(crate) changed: BTreeSet<u32>,
    /// What is to be added to the reference counts of blocks and chunks. Those in the tree are of the last commit.
    pub(crate) deltas: BTreeMap<u32, i32>,
    /// The transaction in which something was shared by one less for the last time.
    pub(crate) unshared_in: u64,
    pub(crate) withheld: Withheld,
    /// Chunks that were taken since the last commit.
    pub(crate) fresh: BTreeSet<u32>,
    /// Chunks that are taken while the ones that they replace are not yet free.
    pub(crate) exchanged: u64,
    /// Where to look next for something free: blocks, chunks.
    pub(crate) cursors: [u32; 2],
    /// Whether something may be free, for each leaf of the counts.
    pub(crate) hints: Vec<bool>,
    pub(crate) failed: bool,
    pub(crate) repairs: Vec<Repair>,
    pub(crate) repaired: u64,
    pub(crate) no_space: u64,
    /// Lines that were logged about damage.
    pub(crate) logged: u64,
}

impl State {
    /// The state that a superblock tells of; volumes are still missing.
    pub(crate) fn new(superblock: &Superblock, slot: usize, units: Units, cache: NonZeroUsize) -> State {
        State {
            uuid: superblock.uuid,
            generation: superblock.generation,
            slot,
            clock: superblock.clock,
            next_id: superblock.next_id,
            refs: superblock.refs,
            table: superblock.table,
            free_blocks: superblock.free_blocks,
            free_chunks: superblock.free_chunks,
            nodes: Nodes { clean: LruCache::new(cache), dirty: BTreeMap::new() },
            volumes: BTreeMap::new(),
            changed: BTreeSet::new(),
            deltas: BTreeMap::new(),
            unshared_in: 0,
            withheld: Withheld::new(units.blocks),
            fresh: BTreeSet::new(),
            exchanged: 0,
            cursors: [1, units.first_chunk],
            hints: vec![true; units.leaves() as usize],
            failed: false,
            repairs: Vec::new(),
            repaired: 0,
            no_space: 0,
            logged: 0,
        }
    }

    /// The transaction that is open.
    pub(crate) fn transaction(&self) -> u64 {
        self.generation + 1
    }

    pub(crate) fn is_changed(&self) -> bool {
        !(self.nodes.dirty.is_empty() && self.changed.is_empty() && self.deltas.is_empty())
    }

    pub(crate) fn touch(&mut self, entry: &Entry) {
        self.changed.insert(entry.slot);
        entry.changed_in.set(self.transaction());
    }

    pub(crate) fn by_name(&self, name: &str) -> Option<Rc<Entry>> {
        let is_it = |entry: &&Rc<Entry>| {
            let record = entry.record.borrow();
            record.name == name && !record.deleting
        };
        self.volumes.values().find(is_it).cloned()
    }

    /// A volume that is deleted and being freed.
    pub(crate) fn deleted(&self) -> Option<Rc<Entry>> {
        let is_it = |entry: &&Rc<Entry>| entry.record.borrow().deleting && !entry.is_stuck.get();
        self.volumes.values().find(is_it).cloned()
    }

    /// Chunks that are reserved and not taken.
    pub(crate) fn reserved(&self) -> u64 {
        self.volumes.values().map(|entry| entry.record.borrow().reserved()).sum()
    }

    /// Blocks that trees of thick volumes may need.
    pub(crate) fn reserved_blocks(&self) -> u64 {
        let records = self.volumes.values().map(|entry| entry.record.borrow());
        records.filter(|record| record.thick).map(|record| record.kind().nodes(record.chunks())).sum()
    }
}

/// How blocks and chunks are numbered where both are counted: blocks first, and chunks from the next leaf of counts on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Units {
    pub(crate) blocks: u32,
    pub(crate) first_chunk: u32,
    pub(crate) end: u32,
}

impl Units {
    pub(crate) fn new(blocks: u32, chunks: u32) -> Units {
        let first_chunk = blocks.next_multiple_of(Kind::Refs.leaf() as u32);
        Units { blocks, first_chunk, end: first_chunk + chunks }
    }

    /// Leaves of counts.
    pub(crate) fn leaves(self) -> u64 {
        u64::from(self.end).div_ceil(Kind::Refs.leaf())
    }
}

/// What all handles of a pool share.
pub(crate) struct Shared<D> {
    pub(crate) disks: Disks<D>,
    pub(crate) units: Units,
    pub(crate) state: RefCell<State>,
    /// Who changes metadata.
    pub(crate) meta: Mutex<()>,
    /// Changes of metadata and what belongs to them are under way, or a commit is.
    pub(crate) gate: RwLock<()>,
    pub(crate) stripes: [Mutex<()>; STRIPES],
    pub(crate) commits: Commits,
    pub(crate) unfinished: Rc<Unfinished>,
    /// A block is to be repaired.
    pub(crate) repairs: Event,
    /// A volume was deleted.
    pub(crate) deletions: Event,
    /// Something of a deleted volume is free, or none will be.
    pub(crate) freed: Event,
    pub(crate) handles: Cell<usize>,
    /// Changed nodes and counts after which a commit is due.
    pub(crate) limit: usize,
}

impl<D> Shared<D> {
    pub(crate) fn new(disks: Disks<D>, state: State, units: Units, cache_blocks: usize) -> Rc<Shared<D>> {
        Rc::new(Shared {
            disks,
            units,
            state: RefCell::new(state),
            meta: Mutex::new(()),
            gate: RwLock::new(()),
            stripes: core::array::from_fn(|_| Mutex::new(())),
            commits: Commits::default(),
            unfinished: Rc::default(),
            repairs: Event::new(),
            deletions: Event::new(),
            freed: Event::new(),
            handles: Cell::new(0),
            limit: cache_blocks / 2,
        })
    }

    /// A handle is dropped.
    pub(crate) fn leave(&self) {
        self.handles.set(self.handles.get() - 1);
        if self.handles.get() == 0 {
            self.commits.runner.notify(1);
        }
    }

    pub(crate) fn token(&self) -> Token {
        self.state.borrow().withheld.token()
    }

    pub(crate) fn stripe(&self, slot: u32, index: u64) -> &Mutex<()> {
        &self.stripes[(index.wrapping_add(u64::from(slot) * 7) % STRIPES as u64) as usize]
    }

    /// Blocks that a commit may need, for its own counts and for the table.
    pub(crate) fn commit_blocks(&self) -> u64 {
        // Each count that changes may be in a leaf of its own, and one more change may come on top.
        let counts = Kind::Refs.nodes(self.units.end.into()).min((self.limit + 2 * MAX_PENDING) as u64);
        counts + Kind::Table.nodes(MAX_VOLUMES as u64).min(2 + self.state.borrow().volumes.len() as u64)
    }
}

/// Blocks that fit into so many bytes.
pub(crate) fn blocks_of(bytes: usize) -> NonZeroUsize {
    NonZeroUsize::new(bytes / BLOCK).unwrap_or(NonZeroUsize::MIN)
}

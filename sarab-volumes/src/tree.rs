//! Trees of metadata: how they are read, and changed without a change of what the last commit has.

use alloc::rc::Rc;

use xen_blkif::BlockDevice;
use xen_hal::warning;

use crate::Error;
use crate::disks::Block;
use crate::epoch::Token;
use crate::node::{Kind, MAX_LEVELS, Mapping, Node, Ptr, Root};
use crate::state::{Entry, Shared};

/// Blocks that wait for their repair. What is found beyond those is found again when it is read again.
const MAX_REPAIRS: usize = 64;

/// A copy of a block of metadata that is to be written anew.
pub(crate) struct Repair {
    address: u32,
    copy: usize,
    bytes: Block,
    token: Token,
}

/// Which tree.
#[derive(Clone, Copy)]
pub(crate) enum Tree<'a> {
    /// Reference counts, by unit.
    Refs,
    /// Volumes, by slot.
    Table,
    /// A volume's chunks.
    Volume(&'a Entry),
}

/// Where a node is in a tree.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At {
    pub(crate) kind: Kind,
    pub(crate) level: u8,
    /// Its first entry.
    pub(crate) first: u64,
}

impl At {
    pub(crate) fn root(kind: Kind, root: Root) -> At {
        At { kind, level: root.levels, first: 0 }
    }

    /// The child in this slot. Not of a leaf.
    pub(crate) fn child(self, slot: usize) -> At {
        let level = self.level - 1;
        At { level, first: self.first + slot as u64 * self.kind.span(level), ..self }
    }
}

/// A chunk, and the leaf that says so.
pub(crate) struct Found {
    pub(crate) mapping: Mapping,
    pub(crate) leaf: Rc<Node>,
    pub(crate) slot: usize,
}

impl<D: BlockDevice> Shared<D> {
    pub(crate) fn root(&self, tree: Tree<'_>) -> (Kind, Root) {
        match tree {
            Tree::Refs => (Kind::Refs, self.state.borrow().refs),
            Tree::Table => (Kind::Table, self.state.borrow().table),
            Tree::Volume(entry) => {
                let record = entry.record.borrow();
                (record.kind(), record.root)
            }
        }
    }

    pub(crate) fn set_root(&self, tree: Tree<'_>, root: Root) {
        let mut state = self.state.borrow_mut();
        match tree {
            Tree::Refs => state.refs = root,
            Tree::Table => state.table = root,
            Tree::Volume(entry) => {
                entry.record.borrow_mut().root = root;
                state.touch(entry);
            }
        }
    }

    /// A node, from memory or from the disks.
    pub(crate) async fn node(&self, ptr: Ptr, at: At) -> Result<Rc<Node>, Error> {
        if let Some(node) = self.state.borrow_mut().nodes.get(ptr.address) {
            // Somebody may have made a tree of which a node has two places.
            return if node.is(at.kind, at.level, at.first) {
                Ok(node)
            } else {
                Err(Error::Damaged { what: "a block of metadata is used twice" })
            };
        }
        let node = Rc::new(self.load(ptr, at).await?);
        let mut state = self.state.borrow_mut();
        // Another may have loaded it meanwhile, but not changed: a change has another address.
        state.nodes.clean.put(ptr.address, node.clone());
        Ok(node)
    }

    /// A node from the disks: from its second copy where the first is damaged, which is then repaired.
    async fn load(&self, ptr: Ptr, at: At) -> Result<Node, Error> {
        let Ptr { address, check } = ptr;
        if address >= self.units.blocks || at.level > MAX_LEVELS {
            return Err(Error::Damaged { what: "a block of metadata is outside of its area" });
        }
        let mut failure = Error::Damaged { what: "both copies of a block of metadata" };
        for copy in [0, 1] {
            match self.disks.read_copy(address, copy).await {
                Ok(bytes) if self.disks.seed.block(address, &bytes) == check => {
                    if copy == 1 {
                        self.repair_later(address, 0, &bytes);
                    }
                    let node = Node::decode(bytes, at.kind, at.level, at.first);
                    return node.ok_or(Error::Damaged { what: "a block of metadata is of another tree" });
                }
                Ok(_) => {}
                Err(error) => failure = error,
            }
        }
        self.log_damage(|| {
            warning!("volumes: metadata block {} is damaged in both copies, or cannot be read: {}", address, failure);
        });
        Err(failure)
    }

    /// Has the runner write a copy anew. Nobody takes the block for anything else before that.
    pub(crate) fn repair_later(&self, address: u32, copy: usize, bytes: &Block) {
        let state = &mut *self.state.borrow_mut();
        if state.repairs.len() < MAX_REPAIRS && state.repairs.iter().all(|repair| repair.address != address) {
            let token = state.withheld.token();
            state.repairs.push(Repair { address, copy, bytes: bytes.clone(), token });
            self.repairs.notify(1);
        }
    }

    /// Repairs what was found damaged, without end.
    pub(crate) async fn repair(&self) {
        loop {
            let listener = self.repairs.listen();
            let next = self.state.borrow_mut().repairs.pop();
            let Some(Repair { address, copy, bytes, token }) = next else {
                listener.await;
                continue;
            };
            self.write_anew(address, copy, &bytes).await;
            drop(token);
        }
    }

    /// Writes a copy anew. Nobody takes the block for anything else meanwhile.
    pub(crate) async fn write_anew(&self, address: u32, copy: usize, bytes: &Block) -> bool {
        let outcome = self.disks.write_copy(address, copy, bytes).await;
        self.state.borrow_mut().repaired += u64::from(outcome.is_ok());
        self.log_damage(|| match outcome {
            Ok(()) => warning!("volumes: copy {} of metadata block {} was damaged: repaired", copy, address),
            Err(error) => {
                warning!(
                    "volumes: copy {} of metadata block {} is damaged: cannot repair it: {}",
                    copy,
                    address,
                    error
                );
            }
        });
        outcome.is_ok()
    }

    /// Logs the first lines, and of many more ever fewer.
    pub(crate) fn log_damage(&self, log: impl FnOnce()) {
        let mut state = self.state.borrow_mut();
        state.logged += 1;
        let logs = state.logged <= 8 || state.logged.is_power_of_two();
        drop(state);
        if logs {
            log();
        }
    }

    /// The leaf that has this entry, if there is one.
    pub(crate) async fn leaf(&self, kind: Kind, root: Root, index: u64) -> Result<Option<Rc<Node>>, Error> {
        let (mut ptr, mut at) = (root.ptr, At::root(kind, root));
        if at.level > MAX_LEVELS || index >= kind.span(at.level) {
            return Ok(None);
        }
        loop {
            if ptr.is_none() {
                return Ok(None);
            }
            let node = self.node(ptr, at).await?;
            if at.level == 0 {
                return Ok(Some(node));
            }
            let slot = kind.slot(at.level, index);
            (ptr, at) = (node.child(slot), at.child(slot));
        }
    }

    /// The chunk of a volume.
    pub(crate) async fn find(&self, entry: &Entry, index: u64) -> Result<Option<Found>, Error> {
        let (kind, root) = self.root(Tree::Volume(entry));
        let Some(leaf) = self.leaf(kind, root, index).await? else { return Ok(None) };
        let slot = kind.slot(0, index);
        match leaf.mapping(kind, slot) {
            Some(mapping) => self.unit(mapping.chunk).map(|_| Some(Found { mapping, leaf, slot })),
            None => Ok(None),
        }
    }

    /// The leaf of an entry, at a place where the last commit has nothing, and so all nodes above it. Those that are shared are copied:
    /// what is below is then shared by one more.
    ///
    /// With the metadata's lock alone.
    pub(crate) async fn leaf_mut(&self, tree: Tree<'_>, index: u64) -> Result<u32, Error> {
        let (kind, root) = self.root(tree);
        let mut at = At::root(kind, root);
        if at.level > MAX_LEVELS || index >= kind.span(at.level) {
            return Err(Error::Damaged { what: "a tree is not high enough" });
        }
        let mut parent = None;
        let mut ptr = root.ptr;
        loop {
            let address = self.own(tree, ptr, at).await?;
            self.link(tree, parent, address)?;
            if at.level == 0 {
                return Ok(address);
            }
            let slot = kind.slot(at.level, index);
            ptr = self.state.borrow_mut().nodes.dirty_mut(address)?.child(slot);
            parent = Some((address, slot));
            at = at.child(slot);
        }
    }

    /// A node's place that is the tree's own, and that the last commit has nothing in: a new one where it has no such.
    pub(crate) async fn own(&self, tree: Tree<'_>, ptr: Ptr, at: At) -> Result<u32, Error> {
        if ptr.is_none() {
            let address = self.take_block().await?;
            let node = Rc::new(Node::new(at.kind, at.level, at.first));
            self.state.borrow_mut().nodes.dirty.insert(address, node);
            return Ok(address);
        }
        let node = self.node(ptr, at).await?;
        // Nothing but volumes shares anything.
        let count = match tree {
            Tree::Volume(_) => self.count(ptr.address).await?,
            Tree::Refs | Tree::Table => 1,
        };
        if count == 1 && self.state.borrow().nodes.dirty.contains_key(&ptr.address) {
            return Ok(ptr.address);
        }
        let address = self.take_block().await?;
        let mut state = self.state.borrow_mut();
        if count > 1 {
            if at.level == 0 {
                for slot in 0..at.kind.leaf() as usize {
                    if let Some(mapping) = node.mapping(at.kind, slot) {
                        let unit = self.unit(mapping.chunk)?;
                        *state.deltas.entry(unit).or_default() += 1;
                    }
                }
            } else {
                node.children().for_each(|(_, child)| *state.deltas.entry(child.address).or_default() += 1);
            }
        }
        state.nodes.dirty.insert(address, node);
        drop(state);
        self.give(ptr.address, count);
        Ok(address)
    }

    /// Has a parent, or the root, name a node's new place. Its checksum is the commit's to add.
    pub(crate) fn link(&self, tree: Tree<'_>, parent: Option<(u32, usize)>, address: u32) -> Result<(), Error> {
        let ptr = if address == 0 { Ptr::NONE } else { Ptr { address, check: 0 } };
        match parent {
            None => {
                let (_, root) = self.root(tree);
                if root.ptr.address != address {
                    self.set_root(tree, Root { ptr, ..root });
                } else if let Tree::Volume(entry) = tree {
                    self.state.borrow_mut().touch(entry);
                }
            }
            Some((parent, slot)) => {
                let mut state = self.state.borrow_mut();
                let parent = state.nodes.dirty_mut(parent)?;
                if parent.child(slot).address != address {
                    parent.set_child(slot, ptr);
                }
            }
        }
        Ok(())
    }
}

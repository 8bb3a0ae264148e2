//! Commits: what has changed becomes what is on the disks, at once.

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::Cell;

use event_listener::Event;
use futures_util::future::join;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use xen_blkif::BlockDevice;
use xen_hal::warning;
use xenbus::yield_now;

use crate::Error;
use crate::disks::write_record;
use crate::layout::{Seed, Superblock};
use crate::node::{Kind, Node, Root};
use crate::state::{Entry, Nodes, Shared};
use crate::tree::Tree;

/// Blocks that are written at once.
const WRITES: usize = 16;
/// Counts that change before other tasks run.
const COUNTS_AT_ONCE: usize = 128;

/// Who waits for a commit, and the runner that makes it.
#[derive(Default)]
pub(crate) struct Commits {
    /// The transaction that somebody wants durable.
    wanted: Cell<u64>,
    /// What changes stands still while it is written.
    is_running: Cell<bool>,
    /// Attempts that have failed, and why the last one has.
    failures: Cell<u64>,
    failure: Cell<Option<Error>>,
    is_gone: Cell<bool>,
    pub(crate) count: Cell<u64>,
    /// Tells those who wait.
    done: Event,
    /// Tells the runner.
    pub(crate) runner: Event,
}

impl Commits {
    /// There is no runner any more.
    pub(crate) fn close(&self) {
        self.is_gone.set(true);
        self.done.notify(usize::MAX);
    }
}

/// Ends when the attempt does, also where that is dropped.
struct Running<'a>(&'a Cell<bool>);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

impl<D: BlockDevice> Shared<D> {
    /// Makes durable what was written, and the metadata that belongs to it: a volume's, or all. What several ask for at
    /// the same time is done once.
    pub(crate) async fn flush(&self, entry: Option<&Entry>) -> Result<(), Error> {
        let (target, is_changed, failed) = {
            let state = self.state.borrow();
            let target = match entry {
                Some(entry) => entry.changed_in.get(),
                None if state.is_changed() => state.transaction(),
                None => 0,
            };
            (target, target > state.generation, state.failed)
        };
        if failed && is_changed {
            return Err(Error::Failed);
        }
        if is_changed {
            // One that is under way may have flushed the disks before the last write.
            let was_running = self.commits.is_running.get();
            self.committed(target).await?;
            if !was_running {
                return Ok(());
            }
        }
        self.disks.flush().await
    }

    /// Waits for a commit of all that has changed so far.
    pub(crate) async fn commit(&self) -> Result<(), Error> {
        let target = {
            let state = self.state.borrow();
            if state.is_changed() { state.transaction() } else { state.generation }
        };
        self.committed(target).await
    }

    async fn committed(&self, target: u64) -> Result<(), Error> {
        let commits = &self.commits;
        let failures = commits.failures.get();
        loop {
            let listener = commits.done.listen();
            if self.state.borrow().generation >= target {
                return Ok(());
            }
            if commits.failures.get() != failures {
                return Err(commits.failure.get().unwrap_or(Error::Failed));
            }
            if commits.is_gone.get() {
                return Err(Error::Gone);
            }
            commits.wanted.set(commits.wanted.get().max(target));
            commits.runner.notify(1);
            listener.await;
        }
    }

    /// Makes commits as they are asked for, until nobody has the pool any more.
    pub(crate) async fn commit_on_demand(&self) {
        let commits = &self.commits;
        loop {
            let listener = commits.runner.listen();
            let is_over = self.handles.get() == 0 && self.unfinished.is_empty();
            let is_wanted = {
                let state = self.state.borrow();
                let is_left = is_over && state.is_changed() && !state.failed;
                commits.wanted.get() > state.generation || is_left
            };
            if !is_wanted {
                if is_over {
                    return;
                }
                listener.await;
                continue;
            }
            if let Err(error) = self.attempt().await {
                warning!("volumes: cannot commit metadata: {}", error);
                commits.failure.set(Some(error));
                commits.failures.set(commits.failures.get() + 1);
                commits.wanted.set(0);
                commits.done.notify(usize::MAX);
                if is_over {
                    return;
                }
            }
        }
    }

    /// Makes one commit.
    async fn attempt(&self) -> Result<(), Error> {
        let _gate = self.gate.write().await;
        let _meta = self.meta.lock().await;
        self.commits.is_running.set(true);
        let _running = Running(&self.commits.is_running);
        self.commit_now().await
    }

    /// Makes a commit, with the gate and the metadata's lock.
    pub(crate) async fn commit_now(&self) -> Result<(), Error> {
        if self.state.borrow().failed {
            return Err(Error::Failed);
        }
        self.apply().await?;
        let superblock = self.seal().await?;
        let nodes: Vec<_> =
            self.state.borrow().nodes.dirty.iter().map(|(address, node)| (*address, node.clone())).collect();
        stream::iter(&nodes)
            .map(|(address, node)| self.disks.write_copies(*address, node.bytes()))
            .buffer_unordered(WRITES)
            .try_collect::<()>()
            .await?;
        // The data that the new metadata tells of as well.
        self.disks.flush().await?;
        let slot = 1 - self.state.borrow().slot;
        if let Err(error) = self.write_superblock(slot, &superblock).await {
            // It may be there or not. What it tells of, and what the last one does, is not to be touched.
            self.state.borrow_mut().failed = true;
            warning!("volumes: pool takes no changes any more: a superblock could not be written: {}", error);
            return Err(error);
        }
        let state = &mut *self.state.borrow_mut();
        state.generation = superblock.generation;
        state.slot = slot;
        state.changed.clear();
        state.fresh.clear();
        for (address, node) in core::mem::take(&mut state.nodes.dirty) {
            state.nodes.clean.put(address, node);
        }
        state.withheld.committed();
        self.commits.count.set(self.commits.count.get() + 1);
        self.commits.done.notify(usize::MAX);
        Ok(())
    }

    async fn write_superblock(&self, slot: usize, superblock: &Superblock) -> Result<(), Error> {
        let [first, second] = self.disks.layout.superblock(slot);
        let record = superblock.encode();
        let list = &self.disks.list;
        let (one, other) = join(write_record(list, first, &record), write_record(list, second, &record)).await;
        one.and(other)?;
        self.disks.flush().await
    }

    /// Brings all changes into nodes that have places of their own.
    async fn apply(&self) -> Result<(), Error> {
        let changed: Vec<_> = self.state.borrow().changed.iter().copied().collect();
        for slot in changed {
            self.leaf_mut(Tree::Table, slot.into()).await?;
        }
        // To change a count takes blocks and frees others, which are counted, too: but each block of counts once.
        let mut done = 0;
        loop {
            let first = self.state.borrow().deltas.first_key_value().map(|(unit, delta)| (*unit, *delta));
            let Some((unit, delta)) = first else { return Ok(()) };
            let leaf = match delta {
                0 => None,
                _ => Some(self.leaf_mut(Tree::Refs, unit.into()).await?),
            };
            self.apply_one(unit, leaf)?;
            done += 1;
            if done % COUNTS_AT_ONCE == 0 {
                yield_now().await;
            }
        }
    }

    /// Adds to a count in its leaf, where there is something to add.
    fn apply_one(&self, unit: u32, leaf: Option<u32>) -> Result<(), Error> {
        let state = &mut *self.state.borrow_mut();
        let delta = state.deltas.remove(&unit).unwrap_or(0);
        if let Some(leaf) = leaf {
            let leaf = state.nodes.dirty_mut(leaf)?;
            let slot = Kind::Refs.slot(0, unit.into());
            let count = i64::from(leaf.count(slot)) + i64::from(delta);
            let count = u16::try_from(count).map_err(|_| Error::Damaged { what: "a reference count" })?;
            leaf.set_count(slot, count);
        }
        Ok(())
    }

    /// Has each node name the checksums of those below it, from the leaves to the superblock.
    async fn seal(&self) -> Result<Superblock, Error> {
        let seed = self.disks.seed;
        let mut sums = BTreeMap::new();
        let changed: Vec<_> = self.state.borrow().changed.iter().copied().collect();
        for slot in changed {
            let leaf = self.leaf_mut(Tree::Table, slot.into()).await?;
            let state = &mut *self.state.borrow_mut();
            let entry = state.volumes.get(&slot).cloned();
            if let Some(entry) = &entry {
                let mut record = entry.record.borrow_mut();
                record.root = sealed(&mut state.nodes, seed, record.root, &mut sums);
            }
            let bytes = state.nodes.dirty_mut(leaf)?.entry_mut(Kind::Table, Kind::Table.slot(0, slot.into()));
            match entry {
                None => bytes.fill(0),
                Some(entry) => entry.record.borrow().encode(bytes),
            }
        }
        let state = &mut *self.state.borrow_mut();
        state.table = sealed(&mut state.nodes, seed, state.table, &mut sums);
        state.refs = sealed(&mut state.nodes, seed, state.refs, &mut sums);
        Ok(Superblock {
            uuid: state.uuid,
            generation: state.transaction(),
            clock: state.clock,
            next_id: state.next_id,
            refs: state.refs,
            table: state.table,
            free_blocks: state.free_blocks,
            free_chunks: state.free_chunks,
            metadata: self.disks.layout.metadata,
            sizes: self.disks.layout.sizes.clone(),
        })
    }
}

/// A tree's root with its checksum, after those of all changed nodes below.
fn sealed(nodes: &mut Nodes, seed: Seed, root: Root, sums: &mut BTreeMap<u32, u32>) -> Root {
    let mut root = root;
    if let Some(check) = sum(nodes, seed, root.ptr.address, root.levels, sums) {
        root.ptr.check = check;
    }
    root
}

/// The checksum of a node that has changed.
fn sum(nodes: &mut Nodes, seed: Seed, address: u32, level: u8, sums: &mut BTreeMap<u32, u32>) -> Option<u32> {
    if let Some(sum) = sums.get(&address) {
        return Some(*sum);
    }
    let node: Rc<Node> = nodes.dirty.get(&address)?.clone();
    if level > 0 {
        let changed: Vec<_> = node.children().filter(|(_, child)| nodes.dirty.contains_key(&child.address)).collect();
        drop(node);
        for (slot, mut child) in changed {
            if let Some(check) = sum(nodes, seed, child.address, level - 1, sums) {
                child.check = check;
                nodes.dirty_mut(address).ok()?.set_child(slot, child);
            }
        }
    }
    let check = seed.block(address, nodes.dirty.get(&address)?.bytes());
    sums.insert(address, check);
    Some(check)
}

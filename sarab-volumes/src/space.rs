//! What is free: reference counts of blocks and chunks.

use xen_blkif::BlockDevice;
use xenbus::yield_now;

use crate::Error;
use crate::node::{Kind, Mapping};
use crate::state::{Entry, Shared};
use crate::tree::Tree;

/// Chunks that are kept for writes of volumes with checksums, which free a chunk for each that they take.
pub(crate) const SPARE_CHUNKS: u64 = 8;
/// Blocks that the change of one entry may need beyond what it returns.
const CHANGE_BLOCKS: u64 = 16;
/// Leaves that are looked through before other tasks run.
const LEAVES_AT_ONCE: u32 = 64;
/// Changes of counts that one change may cause: a leaf is copied that was shared.
pub(crate) const MAX_PENDING: usize = 2000;

/// What is to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// A chunk that is not reserved.
    Chunk,
    /// A chunk of those that the volume has reserved.
    Reserved,
    /// A chunk in place of one that is freed.
    Exchange,
    /// None: metadata is changed.
    Nothing,
    /// None: something is freed, which has to work when all is full.
    Freeing,
}

impl<D: BlockDevice> Shared<D> {
    /// A chunk, as it is counted.
    pub(crate) fn unit(&self, chunk: u32) -> Result<u32, Error> {
        let damaged = Error::Damaged { what: "a volume has a chunk that the pool has not" };
        let unit = self.units.first_chunk.checked_add(chunk).ok_or(damaged)?;
        if unit < self.units.end { Ok(unit) } else { Err(damaged) }
    }

    /// How often a block or chunk is used.
    pub(crate) async fn count(&self, unit: u32) -> Result<u32, Error> {
        let root = self.state.borrow().refs;
        let leaf = self.leaf(Kind::Refs, root, unit.into()).await?;
        let stored = leaf.map_or(0, |leaf| leaf.count(Kind::Refs.slot(0, unit.into())));
        let delta = self.state.borrow().deltas.get(&unit).copied().unwrap_or(0);
        match u32::try_from(i64::from(stored) + i64::from(delta)) {
            Ok(count @ 1..) => Ok(count),
            _ => Err(Error::Damaged { what: "something is in use that counts as free" }),
        }
    }

    /// Counts one use less of what was used `count` times. The last one frees it.
    pub(crate) fn give(&self, unit: u32, count: u32) {
        let state = &mut *self.state.borrow_mut();
        *state.deltas.entry(unit).or_default() -= 1;
        if count > 1 {
            state.unshared_in = state.transaction();
            return;
        }
        state.withheld.add(unit);
        if unit < self.units.blocks {
            state.free_blocks = state.free_blocks.saturating_add(1);
            state.nodes.dirty.remove(&unit);
            state.nodes.clean.pop(&unit);
        } else {
            state.free_chunks = state.free_chunks.saturating_add(1);
            state.fresh.remove(&(unit - self.units.first_chunk));
        }
    }

    /// Takes a block for metadata.
    pub(crate) async fn take_block(&self) -> Result<u32, Error> {
        let address = self.take(0, 1..self.units.blocks).await?.ok_or(Error::NoMetadataSpace)?;
        let mut state = self.state.borrow_mut();
        state.free_blocks = state.free_blocks.saturating_sub(1);
        state.nodes.clean.pop(&address);
        Ok(address)
    }

    /// Takes a chunk for data.
    pub(crate) async fn take_chunk(&self) -> Result<u32, Error> {
        let unit = self.take(1, self.units.first_chunk..self.units.end).await?.ok_or(Error::NoSpace)?;
        let chunk = unit - self.units.first_chunk;
        let mut state = self.state.borrow_mut();
        state.free_chunks = state.free_chunks.saturating_sub(1);
        state.fresh.insert(chunk);
        Ok(chunk)
    }

    /// Takes the next one of these that is free.
    async fn take(&self, which: usize, range: core::ops::Range<u32>) -> Result<Option<u32>, Error> {
        let per_leaf = Kind::Refs.leaf() as u32;
        let leaves = range.start / per_leaf..range.end.div_ceil(per_leaf);
        let cursor = self.state.borrow().cursors[which];
        let begin = (cursor / per_leaf).clamp(leaves.start, leaves.end - 1);
        // The first leaf comes twice: from the cursor on, and at the end as a whole.
        for step in 0..=leaves.len() as u32 {
            let leaf = leaves.start + (begin - leaves.start + step) % leaves.len() as u32;
            if step % LEAVES_AT_ONCE == LEAVES_AT_ONCE - 1 {
                yield_now().await;
            }
            if !self.state.borrow().hints[leaf as usize] {
                continue;
            }
            let root = self.state.borrow().refs;
            let node = self.leaf(Kind::Refs, root, u64::from(leaf * per_leaf)).await?;
            let first = if step == 0 { cursor.max(range.start) } else { range.start.max(leaf * per_leaf) };
            let state = &mut *self.state.borrow_mut();
            for unit in first.max(leaf * per_leaf)..range.end.min((leaf + 1) * per_leaf) {
                let stored = node.as_ref().map_or(0, |node| node.count((unit % per_leaf) as usize));
                if stored == 0
                    && state.deltas.get(&unit).is_none_or(|delta| *delta == 0)
                    && !state.withheld.contains(unit)
                {
                    *state.deltas.entry(unit).or_default() += 1;
                    state.cursors[which] = unit + 1;
                    return Ok(Some(unit));
                }
            }
            if step > 0 {
                state.hints[leaf as usize] = false;
            }
        }
        Ok(None)
    }

    /// Whether a chunk of a volume is not the volume's alone, where it is old enough to be a snapshot's as well.
    pub(crate) async fn is_shared(&self, entry: &Entry, index: u64, mapping: Mapping) -> Result<bool, Error> {
        {
            // What has been another's since the last commit is so again after a power cut.
            let state = self.state.borrow();
            if state.unshared_in == state.transaction() {
                return Ok(true);
            }
        }
        if self.count(self.unit(mapping.chunk)?).await? > 1 {
            return Ok(true);
        }
        let (kind, root) = self.root(Tree::Volume(entry));
        let (mut ptr, mut at) = (root.ptr, crate::tree::At::root(kind, root));
        loop {
            if self.count(ptr.address).await? > 1 {
                return Ok(true);
            }
            if at.level == 0 {
                return Ok(false);
            }
            let node = self.node(ptr, at).await?;
            let slot = kind.slot(at.level, index);
            (ptr, at) = (node.child(slot), at.child(slot));
            if ptr.is_none() {
                return Ok(false);
            }
        }
    }

    /// Whether there is room for a change: `false` where there will be after a commit.
    pub(crate) fn has_room(&self, need: Need) -> Result<bool, Error> {
        let commit_blocks = self.commit_blocks();
        let state = self.state.borrow();
        if state.failed {
            return Err(Error::Failed);
        }
        let blocks = u64::from(state.free_blocks);
        let needed = match need {
            Need::Freeing => commit_blocks + CHANGE_BLOCKS,
            Need::Reserved | Need::Exchange => 2 * (commit_blocks + CHANGE_BLOCKS),
            Need::Chunk | Need::Nothing => 2 * (commit_blocks + CHANGE_BLOCKS) + state.reserved_blocks(),
        };
        if blocks < needed {
            return Err(Error::NoMetadataSpace);
        }
        let taken = match need {
            Need::Chunk => 1 + SPARE_CHUNKS + state.reserved(),
            Need::Reserved | Need::Exchange => 1,
            Need::Nothing | Need::Freeing => 0,
        };
        let chunks = u64::from(state.free_chunks);
        if chunks < taken {
            // Those that are exchanged come back.
            return if chunks + state.exchanged < taken { Err(Error::NoSpace) } else { Ok(false) };
        }
        let withheld = &state.withheld;
        let is_due = state.nodes.dirty.len() > self.limit
            || state.deltas.len() > self.limit + MAX_PENDING
            || withheld.len() > 16 * (self.limit + MAX_PENDING);
        let chunk_now = taken == 0 || chunks > (withheld.len() - withheld.blocks()) as u64;
        Ok(!is_due && chunk_now && blocks.saturating_sub(withheld.blocks() as u64) >= needed)
    }

    /// Waits until there is room for a change. Without any lock, and without a token.
    pub(crate) async fn make_room(&self, need: Need) -> Result<(), Error> {
        loop {
            let freed = self.freed.listen();
            let listener = self.state.borrow().withheld.listen();
            let is_full = match self.has_room(need) {
                Ok(true) => return Ok(()),
                Ok(false) => None,
                Err(error @ (Error::NoSpace | Error::NoMetadataSpace)) => Some(error),
                Err(error) => return Err(error),
            };
            if let Some(error) = is_full {
                // What deleted volumes have is on its way back; the runner itself has to do with what there is.
                if need == Need::Freeing || self.state.borrow().deleted().is_none() {
                    return Err(error);
                }
                freed.await;
                continue;
            }
            self.release();
            let (is_changed, waits) = {
                let state = self.state.borrow();
                (state.is_changed(), state.withheld.waits_for_requests())
            };
            if is_changed {
                self.commit().await?;
            } else if waits {
                listener.await;
            } else if !self.has_room(need)? {
                return Err(Error::Damaged { what: "what is free is less than was counted" });
            }
        }
    }

    /// Lets others take what nobody needs any more.
    pub(crate) fn release(&self) {
        let state = &mut *self.state.borrow_mut();
        for unit in state.withheld.release() {
            if let Some(hint) = state.hints.get_mut((u64::from(unit) / Kind::Refs.leaf()) as usize) {
                *hint = true;
            }
        }
    }
}

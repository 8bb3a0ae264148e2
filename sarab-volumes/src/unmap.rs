//! How chunks of a volume are freed.

use alloc::vec::Vec;

use xen_blkif::BlockDevice;
use xenbus::yield_now;

use crate::Error;
use crate::node::{Ptr, Root};
use crate::state::{Entry, Shared};
use crate::tree::{At, Tree};

/// Holes that are passed before other tasks run.
const HOLES_AT_ONCE: usize = 64;

impl<D: BlockDevice> Shared<D> {
    /// The first chunk from `index` on, and below `end`, that is mapped.
    pub(crate) async fn next_mapped(&self, entry: &Entry, index: u64, end: u64) -> Result<Option<u64>, Error> {
        let mut index = index;
        let mut holes = 0;
        'from_the_root: while index < end {
            holes += 1;
            if holes % HOLES_AT_ONCE == 0 {
                yield_now().await;
            }
            let (kind, root) = self.root(Tree::Volume(entry));
            let (mut ptr, mut at) = (root.ptr, At::root(kind, root));
            if index >= kind.span(at.level) || ptr.is_none() {
                return Ok(None);
            }
            loop {
                let node = self.node(ptr, at).await?;
                let slot = kind.slot(at.level, index);
                if at.level == 0 {
                    let found = (slot..kind.leaf() as usize).find(|slot| node.mapping(kind, *slot).is_some());
                    index = at.first + found.map_or(kind.leaf(), |slot| slot as u64);
                    match found {
                        Some(_) => return Ok(Some(index).filter(|index| *index < end)),
                        None => continue 'from_the_root,
                    }
                }
                let Some((next, child)) = node.children().find(|(child, _)| *child >= slot) else {
                    index = at.first + kind.span(at.level);
                    continue 'from_the_root;
                };
                (ptr, at) = (child, at.child(next));
                index = index.max(at.first);
            }
        }
        Ok(None)
    }

    /// Frees the chunks from `from` on and below `end`, those of one leaf. Returns where to go on.
    ///
    /// With the metadata's lock.
    pub(crate) async fn unmap(&self, entry: &Entry, from: u64, end: u64) -> Result<Option<u64>, Error> {
        let Some(first) = self.next_mapped(entry, from, end).await? else { return Ok(None) };
        let leaf = self.leaf_mut(Tree::Volume(entry), first).await?;
        let (kind, _) = self.root(Tree::Volume(entry));
        let after = (first / kind.leaf() + 1) * kind.leaf();
        for index in first..end.min(after) {
            let slot = kind.slot(0, index);
            let mapping = self.state.borrow_mut().nodes.dirty_mut(leaf)?.mapping(kind, slot);
            let Some(mapping) = mapping else { continue };
            let unit = self.unit(mapping.chunk)?;
            let count = self.count(unit).await?;
            self.state.borrow_mut().nodes.dirty_mut(leaf)?.set_mapping(kind, slot, None);
            let mut record = entry.record.borrow_mut();
            record.mapped = record.mapped.saturating_sub(1);
            drop(record);
            self.give(unit, count);
        }
        self.drop_empty(entry, first)?;
        Ok(Some(after).filter(|after| *after < end))
    }

    /// Frees the leaf of an entry if it has nothing any more, and what is above it then. All of them are the tree's own.
    fn drop_empty(&self, entry: &Entry, index: u64) -> Result<(), Error> {
        let tree = Tree::Volume(entry);
        let (kind, root) = self.root(tree);
        let (mut at, mut address) = (At::root(kind, root), root.ptr.address);
        let mut path = Vec::new();
        loop {
            let slot = kind.slot(at.level, index);
            let parent = path.last().map(|(_, address, slot)| (*address, *slot));
            path.push((parent, address, slot));
            if at.level == 0 {
                break;
            }
            address = self.state.borrow_mut().nodes.dirty_mut(address)?.child(slot).address;
            at = at.child(slot);
        }
        let mut is_leaf = true;
        while let Some((parent, address, _)) = path.pop() {
            let is_empty = {
                let mut state = self.state.borrow_mut();
                let node = state.nodes.dirty_mut(address)?;
                match is_leaf {
                    true => (0..kind.leaf() as usize).all(|slot| node.mapping(kind, slot).is_none()),
                    false => node.children().next().is_none(),
                }
            };
            if !is_empty {
                break;
            }
            is_leaf = false;
            self.drop_node(tree, root, parent, address, 1)?;
        }
        Ok(())
    }

    /// Frees a part of all that a volume has. Returns whether that was the last.
    ///
    /// With the metadata's lock.
    pub(crate) async fn prune(&self, entry: &Entry) -> Result<bool, Error> {
        let tree = Tree::Volume(entry);
        let (kind, root) = self.root(tree);
        if root.ptr.is_none() {
            return Ok(true);
        }
        // From the root down to what can be dropped as a whole: what others have as well, or a leaf.
        let (mut ptr, mut at, mut parent) = (root.ptr, At::root(kind, root), None);
        loop {
            let count = self.count(ptr.address).await?;
            if count > 1 {
                break self.drop_node(tree, root, parent, ptr.address, count)?;
            }
            let node = self.node(ptr, at).await?;
            if at.level == 0 {
                // First all counts, then all changes: one that fails in between would be made twice.
                let mut units = Vec::new();
                for mapping in (0..kind.leaf() as usize).filter_map(|slot| node.mapping(kind, slot)) {
                    let unit = self.unit(mapping.chunk)?;
                    units.push((unit, self.count(unit).await?));
                }
                units.into_iter().for_each(|(unit, count)| self.give(unit, count));
                break self.drop_node(tree, root, parent, ptr.address, count)?;
            }
            let Some((slot, child)) = node.children().next() else {
                break self.drop_node(tree, root, parent, ptr.address, count)?;
            };
            let address = self.own(tree, ptr, at).await?;
            self.link(tree, parent, address)?;
            parent = Some((address, slot));
            (ptr, at) = (child, at.child(slot));
        }
        Ok(self.root(tree).1.ptr.is_none())
    }

    fn drop_node(
        &self,
        tree: Tree<'_>,
        root: Root,
        parent: Option<(u32, usize)>,
        address: u32,
        count: u32,
    ) -> Result<(), Error> {
        match parent {
            None => self.set_root(tree, Root { ptr: Ptr::NONE, ..root }),
            Some(_) => self.link(tree, parent, 0)?,
        }
        self.give(address, count);
        Ok(())
    }
}

//! Whether metadata is what it should be.

use alloc::vec;
use alloc::vec::Vec;

use xen_blkif::BlockDevice;
use xenbus::yield_now;

use crate::node::{Kind, Ptr, Root};
use crate::state::Shared;
use crate::tree::At;
use crate::{CheckReport, Error};

/// Counts that are kept at once: metadata is read once for so many blocks and chunks.
const WINDOW: usize = 1 << 20;
/// Nodes that are looked at before other tasks run.
const NODES_AT_ONCE: usize = 8;

/// What has been counted of a window.
struct Counts {
    first: u32,
    counts: Vec<u16>,
}

impl Counts {
    fn add(&mut self, unit: u32) {
        let count = unit.checked_sub(self.first).and_then(|at| self.counts.get_mut(at as usize));
        if let Some(count) = count {
            *count = count.saturating_add(1);
        }
    }
}

/// Blocks that were seen.
struct Seen(Vec<u64>);

impl Seen {
    fn insert(&mut self, address: u32) -> bool {
        let (word, bit) = (address as usize / 64, 1 << (address % 64));
        match self.0.get_mut(word) {
            Some(word) if *word & bit == 0 => {
                *word |= bit;
                true
            }
            _ => false,
        }
    }
}

impl<D: BlockDevice> Shared<D> {
    pub(crate) async fn check(&self) -> Result<CheckReport, Error> {
        let _gate = self.gate.write().await;
        let _meta = self.meta.lock().await;
        if self.state.borrow().is_changed() {
            self.commit_now().await?;
        }
        let mut report = CheckReport::default();
        let end = self.units.end as usize;
        for first in (0..end).step_by(WINDOW) {
            let counts = vec![0; WINDOW.min(end - first)];
            self.check_window(&mut Counts { first: first as u32, counts }, &mut report).await?;
        }
        let state = self.state.borrow();
        let free_blocks = u64::from(self.units.blocks - 1).checked_sub(report.metadata_blocks);
        let free_chunks = u64::from(self.disks.layout.chunks).checked_sub(report.chunks);
        report.wrong_counters += u64::from(free_blocks != Some(state.free_blocks.into()));
        report.wrong_counters += u64::from(free_chunks != Some(state.free_chunks.into()));
        Ok(report)
    }

    /// All trees: none has a node of another's, but volumes of volumes.
    fn roots(&self) -> Vec<(Kind, Root)> {
        let state = self.state.borrow();
        let volumes = state.volumes.values().map(|entry| {
            let record = entry.record.borrow();
            (record.kind(), record.root)
        });
        [(Kind::Refs, state.refs), (Kind::Table, state.table)].into_iter().chain(volumes).collect()
    }

    /// Calls `each` with all nodes, once for each place that names them, and with whether that is the first. Where it
    /// returns true, what is below is next.
    pub(crate) async fn walk(
        &self,
        mut each: impl AsyncFnMut(Ptr, At, bool) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        let mut seen = Seen(vec![0; (self.units.blocks as usize).div_ceil(64)]);
        let mut looked_at = 0;
        for (kind, root) in self.roots() {
            let mut next = Vec::from([(root.ptr, At::root(kind, root))]);
            while let Some((ptr, at)) = next.pop() {
                if ptr.is_none() {
                    continue;
                }
                looked_at += 1;
                if looked_at % NODES_AT_ONCE == 0 {
                    yield_now().await;
                }
                let is_first = seen.insert(ptr.address);
                if each(ptr, at, is_first).await? && is_first && at.level > 0 {
                    let node = self.node(ptr, at).await?;
                    next.extend(node.children().map(|(slot, child)| (child, at.child(slot))));
                }
            }
        }
        Ok(())
    }

    async fn check_window(&self, counts: &mut Counts, report: &mut CheckReport) -> Result<(), Error> {
        let is_first_window = counts.first == 0;
        self.walk(async |ptr, at, is_first| {
            counts.add(ptr.address);
            if !is_first {
                let is_outside = ptr.address >= self.units.blocks;
                report.damaged += u64::from(is_first_window && is_outside);
                return Ok(false);
            }
            let node = match self.node(ptr, at).await {
                Ok(node) => node,
                Err(Error::Damaged { .. }) => {
                    report.damaged += u64::from(is_first_window);
                    return Ok(false);
                }
                Err(error) => return Err(error),
            };
            if at.level == 0 && at.kind.is_map() {
                for mapping in (0..at.kind.leaf() as usize).filter_map(|slot| node.mapping(at.kind, slot)) {
                    match self.unit(mapping.chunk) {
                        Ok(unit) => counts.add(unit),
                        Err(_) => report.damaged += u64::from(is_first_window),
                    }
                }
            }
            Ok(true)
        })
        .await?;
        let root = self.state.borrow().refs;
        let mut leaf = None;
        for (at, counted) in counts.counts.iter().enumerate() {
            let unit = counts.first + at as u32;
            let slot = Kind::Refs.slot(0, unit.into());
            if slot == 0 || at == 0 {
                leaf = self.leaf(Kind::Refs, root, unit.into()).await?;
                yield_now().await;
            }
            let stored = leaf.as_ref().map_or(0, |leaf| leaf.count(slot));
            report.too_low += u64::from(stored < *counted);
            report.too_high += u64::from(stored > *counted);
            let used = u64::from(*counted > 0);
            match unit < self.units.blocks {
                true => report.metadata_blocks += used,
                false => report.chunks += used,
            }
        }
        if is_first_window {
            self.check_volumes(report).await?;
        }
        Ok(())
    }

    /// Compares how many chunks volumes say that they have.
    async fn check_volumes(&self, report: &mut CheckReport) -> Result<(), Error> {
        let volumes: Vec<_> = self.state.borrow().volumes.values().cloned().collect();
        for entry in volumes.iter().filter(|entry| !entry.record.borrow().deleting) {
            let (mut mapped, mut next) = (0, 0);
            let (chunks, said) = {
                let record = entry.record.borrow();
                (record.chunks(), record.mapped)
            };
            // A volume that is damaged has been counted.
            while let Ok(Some(index)) = self.next_mapped(entry, next, chunks).await {
                (mapped, next) = (mapped + 1, index + 1);
                if mapped % 1024 == 0 {
                    yield_now().await;
                }
            }
            report.wrong_counters += u64::from(mapped != said);
        }
        Ok(())
    }
}

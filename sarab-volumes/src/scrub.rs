//! Reading everything, to find what is damaged while there is something to do about it.

use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;

use xen_blkif::BlockDevice;

use crate::disks::Block;
use crate::finish::Finish;
use crate::layout::{BLOCK, BLOCK_SECTORS, CHUNK_BLOCKS, CHUNK_SECTORS, CHUNK_SIZE, SECTOR};
use crate::state::{Entry, Shared};
use crate::volume::Volume;
use crate::{Error, Scrub, ScrubReport};

/// Chunks between two reports of progress.
const CHUNKS_PER_REPORT: u64 = 256;

impl<D: BlockDevice + 'static> Shared<D> {
    pub(crate) async fn scrub(self: &Rc<Self>, mut tell: impl FnMut(Scrub)) -> Result<ScrubReport, Error> {
        let mut report = ScrubReport::default();
        self.scrub_metadata(&mut report).await?;
        let volumes: Vec<_> = self.state.borrow().volumes.values().cloned().collect();
        for entry in volumes {
            let is_due = {
                let record = entry.record.borrow();
                record.integrity && !record.deleting
            };
            if is_due {
                self.scrub_volume(&entry, &mut report, &mut tell).await?;
            }
        }
        Ok(report)
    }

    /// Compares both copies of all metadata, while it does not change.
    async fn scrub_metadata(self: &Rc<Self>, report: &mut ScrubReport) -> Result<(), Error> {
        let _gate = self.gate.write().await;
        let _meta = self.meta.lock().await;
        if self.state.borrow().is_changed() {
            self.commit_now().await?;
        }
        self.walk(async |ptr, _, is_first| {
            if !is_first {
                return Ok(false);
            }
            report.metadata_blocks += 1;
            let mut copies = [None, None];
            for (number, copy) in copies.iter_mut().enumerate() {
                let read = self.disks.read_copy(ptr.address, number).await.ok();
                *copy = read.filter(|bytes| self.disks.seed.block(ptr.address, bytes) == ptr.check);
            }
            match copies {
                [Some(_), Some(_)] => {}
                [None, None] => {
                    report.damaged += 1;
                    return Ok(false);
                }
                [Some(good), None] => report.repaired += u64::from(self.repair_now(ptr.address, 1, good).await),
                [None, Some(good)] => report.repaired += u64::from(self.repair_now(ptr.address, 0, good).await),
            }
            Ok(true)
        })
        .await
    }

    /// Repairs a copy, whether this future is polled so long or not.
    async fn repair_now(self: &Rc<Self>, address: u32, copy: usize, good: Block) -> bool {
        let (shared, token) = (self.clone(), self.token());
        let repair = async move {
            let is_repaired = shared.write_anew(address, copy, &good).await;
            drop(token);
            is_repaired
        };
        Finish::new(self.unfinished.clone(), repair).await
    }

    async fn scrub_volume(
        self: &Rc<Self>,
        entry: &Rc<Entry>,
        report: &mut ScrubReport,
        tell: &mut impl FnMut(Scrub),
    ) -> Result<(), Error> {
        // It is in use meanwhile: nobody deletes it.
        let volume = Volume::new(self, entry);
        let (mut next, mut reported) = (0, 0);
        loop {
            let total = volume.geometry().sectors;
            let token = self.token();
            let found = self.next_mapped(entry, next, total.div_ceil(CHUNK_SECTORS)).await;
            drop(token);
            let found = match found {
                // It has been counted with the metadata; what it tells of cannot be found.
                Err(Error::Damaged { .. }) => {
                    tell(Scrub::BadBlock { volume: volume.name(), sector: next * CHUNK_SECTORS });
                    return Ok(());
                }
                found => found?,
            };
            let Some(index) = found else {
                tell(Scrub::Progress { volume: volume.name(), done: total, total });
                return Ok(());
            };
            self.scrub_chunk(&volume, index, report, tell).await;
            next = index + 1;
            if next - reported >= CHUNKS_PER_REPORT {
                reported = next;
                tell(Scrub::Progress { volume: volume.name(), done: total.min(next * CHUNK_SECTORS), total });
            }
        }
    }

    async fn scrub_chunk(
        &self,
        volume: &Volume<D>,
        index: u64,
        report: &mut ScrubReport,
        tell: &mut impl FnMut(Scrub),
    ) {
        let begin = index * CHUNK_SECTORS;
        let sectors = volume.geometry().sectors.saturating_sub(begin).min(CHUNK_SECTORS);
        report.sectors += sectors;
        let mut bytes = vec![0; CHUNK_SIZE.min(sectors as usize * SECTOR)];
        if volume.read_bytes(begin, &mut bytes).await.is_ok() {
            return;
        }
        for block in 0..(CHUNK_BLOCKS as u64).min(sectors / BLOCK_SECTORS) {
            let sector = begin + block * BLOCK_SECTORS;
            if volume.read_bytes(sector, &mut bytes[..BLOCK]).await.is_err() {
                report.bad_blocks += 1;
                tell(Scrub::BadBlock { volume: volume.name(), sector });
            }
        }
    }
}

//! Reads of volumes with checksums.

use alloc::vec::Vec;

use futures_util::future::join_all;
use xen_blkif::{BlockDevice, Buffer, Completed, Error as DiskError};
use xen_hal::warning;

use crate::buffer::{copy, zero};
use crate::layout::{BLOCK, BLOCK_SECTORS, CHUNK_SECTORS, SECTOR};
use crate::state::{Entry, Shared};
use crate::tree::Found;
use crate::volume::{Piece, Run, of_disk, pieces};

/// Bad blocks of a volume of which each has a line in the log.
const MAX_LINES: u64 = 8;

impl<D: BlockDevice + 'static> Shared<D> {
    pub(crate) async fn read_checked(&self, entry: &Entry, sector: u64, buffer: D::Buffer) -> Completed<D::Buffer> {
        let is_whole = sector.is_multiple_of(BLOCK_SECTORS) && buffer.len().is_multiple_of(BLOCK);
        let (buffer, is_good) = match is_whole {
            true => self.read_at_once(entry, sector, buffer).await,
            false => (buffer, false),
        };
        if is_good {
            return (buffer, Ok(()));
        }
        let to = &buffer;
        let reads = pieces(sector, buffer.len()).map(async |piece| self.read_piece(entry, piece, to).await);
        let outcome = join_all(reads).await.into_iter().collect();
        (buffer, outcome)
    }

    /// Reads whole blocks straight into the buffer, where they lie side by side. Where that is not so, or anything is
    /// wrong, it has to be done with more care.
    async fn read_at_once(&self, entry: &Entry, sector: u64, buffer: D::Buffer) -> (D::Buffer, bool) {
        let _token = self.token();
        let mut chunks = Vec::new();
        for piece in pieces(sector, buffer.len()) {
            match self.find(entry, piece.index).await {
                Ok(Some(found)) => chunks.push((piece, found)),
                _ => return (buffer, false),
            }
        }
        let place = match self.run(entry, sector, buffer.len(), false).await {
            Ok((Run::At(place), len)) if len == buffer.len() => place,
            _ => return (buffer, false),
        };
        let (buffer, outcome) = self.read_at(place, buffer).await;
        let is_good = outcome.is_ok()
            && chunks.iter().all(|(piece, found)| {
                self.first_bad(found, piece.at / BLOCK, &buffer, piece.offset, piece.len).is_none()
            });
        (buffer, is_good)
    }

    /// Reads a part of a request, of one chunk, while nobody writes to that.
    async fn read_piece(&self, entry: &Entry, piece: Piece, to: &D::Buffer) -> Result<(), DiskError> {
        let begin = piece.index * CHUNK_SECTORS;
        let sector = begin + (piece.at / SECTOR) as u64;
        let _stripe = self.stripe(entry.slot, piece.index).lock().await;
        let _token = self.token();
        let found = self.find(entry, piece.index).await.map_err(|error| error.of_request("read", sector))?;
        let Some(found) = found else {
            zero(to, piece.offset, piece.len);
            return Ok(());
        };
        let first = piece.at / BLOCK;
        let blocks = (piece.at + piece.len).div_ceil(BLOCK) - first;
        let buffer = self.disks.list[0].buffer(blocks * BLOCK)?;
        let place = self.place(found.mapping.chunk, first * BLOCK).map_err(|error| error.of_request("read", sector))?;
        let (buffer, outcome) = self.read_at(place, buffer).await;
        outcome.map_err(|error| of_disk(error, "read", sector))?;
        if let Some(bad) = self.first_bad(&found, first, &buffer, 0, buffer.len()) {
            return Err(self.report_bad(entry, begin + bad as u64 * BLOCK_SECTORS));
        }
        copy(&buffer, piece.at - first * BLOCK, to, piece.offset, piece.len);
        Ok(())
    }

    /// Counts a bad block, and names it in the log.
    pub(crate) fn report_bad(&self, entry: &Entry, sector: u64) -> DiskError {
        let lines = entry.bad_blocks.get() + 1;
        entry.bad_blocks.set(lines);
        if lines <= MAX_LINES || lines.is_power_of_two() {
            let record = entry.record.borrow();
            warning!("volumes: volume {}: checksum error, 8 sectors from sector {}", record.name, sector);
        }
        DiskError::Failed { operation: "read", sector }
    }

    /// The first block of a chunk whose checksum is wrong. The buffer has them from `at` on, as many as `len` bytes are.
    pub(crate) fn first_bad(
        &self,
        found: &Found,
        first: usize,
        buffer: &D::Buffer,
        at: usize,
        len: usize,
    ) -> Option<usize> {
        let checks = found.leaf.checks(found.slot);
        let mut bytes = [0; BLOCK];
        (0..len / BLOCK).map(|number| (first + number, at + number * BLOCK)).find_map(|(block, at)| {
            buffer.read(at, &mut bytes);
            (self.disks.seed.data(found.mapping.chunk, block, &bytes) != checks[block]).then_some(block)
        })
    }
}

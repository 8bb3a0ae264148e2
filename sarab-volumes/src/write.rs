//! Writes that change what is mapped: to where nothing was, to what is shared, and all of volumes with checksums.

use xen_blkif::{BlockDevice, Buffer};

use crate::Error;
use crate::buffer::{copy, zero};
use crate::layout::{BLOCK, BLOCK_SECTORS, CHUNK_BLOCKS, CHUNK_SECTORS, CHUNK_SIZE, Place, SECTOR};
use crate::node::{Checks, Kind, Mapping};
use crate::space::Need;
use crate::state::{Entry, Shared};
use crate::tree::{Found, Tree};
use crate::volume::Piece;

impl Entry {
    /// Whether no snapshot can have a chunk, as far as its age says.
    pub(crate) fn is_exclusive(&self, mapping: Mapping) -> bool {
        mapping.born >= self.record.borrow().shared_before
    }
}

/// Whether it is done, or is to be tried again.
enum Attempt {
    Done,
    Again,
}

impl<D: BlockDevice + 'static> Shared<D> {
    /// Writes a part of a request, of one chunk. The caller has the volume's gate.
    pub(crate) async fn write_piece(&self, entry: &Entry, piece: Piece, from: &D::Buffer) -> Result<(), Error> {
        let _stripe = self.stripe(entry.slot, piece.index).lock().await;
        let (integrity, thick) = {
            let record = entry.record.borrow();
            (record.integrity, record.thick)
        };
        loop {
            let token = self.token();
            let found = self.find(entry, piece.index).await?;
            let need = match &found {
                None if thick => Need::Reserved,
                None => Need::Chunk,
                Some(found) if entry.is_exclusive(found.mapping) => {
                    if !integrity {
                        return self.write_in_place(piece, from, found.mapping.chunk).await;
                    }
                    match self.state.borrow().fresh.contains(&found.mapping.chunk) {
                        true => Need::Nothing,
                        false => Need::Exchange,
                    }
                }
                Some(_) => Need::Chunk,
            };
            drop((found, token));
            self.make_room(need).await?;
            let attempt = match need {
                Need::Nothing => self.rewrite(entry, piece, from).await?,
                need => self.relocate(entry, piece, from, need).await?,
            };
            if let Attempt::Done = attempt {
                return Ok(());
            }
        }
    }

    async fn write_in_place(&self, piece: Piece, from: &D::Buffer, chunk: u32) -> Result<(), Error> {
        let place = self.place(chunk, piece.at)?;
        let buffer = self.buffer(piece.len)?;
        copy(from, piece.offset, &buffer, 0, piece.len);
        self.write_at(place, buffer).await.1.map_err(|error| Error::Disk { disk: place.disk, error })
    }

    /// Where a byte of a chunk is.
    pub(crate) fn place(&self, chunk: u32, at: usize) -> Result<Place, Error> {
        let place = self.disks.layout.chunk(chunk);
        let place = place.ok_or(Error::Damaged { what: "a volume has a chunk that the pool has not" })?;
        Ok(Place { sector: place.sector + (at / SECTOR) as u64, ..place })
    }

    pub(crate) fn buffer(&self, len: usize) -> Result<D::Buffer, Error> {
        self.disks.list[0].buffer(len).map_err(|error| Error::Disk { disk: 0, error })
    }

    /// Gives a chunk another place, with what is to be written in it. The volume has it when that is there.
    async fn relocate(&self, entry: &Entry, piece: Piece, from: &D::Buffer, need: Need) -> Result<Attempt, Error> {
        let _gate = self.gate.read().await;
        let _token = self.token();
        let meta = self.meta.lock().await;
        if !self.has_room(need)? {
            return Ok(Attempt::Again);
        }
        let found = self.find(entry, piece.index).await?;
        match (&found, need) {
            (Some(found), Need::Chunk) if !self.is_shared(entry, piece.index, found.mapping).await? => {
                // The snapshots that had it are gone.
                self.renew(entry, piece.index, found.mapping).await?;
                return Ok(Attempt::Again);
            }
            (Some(_), Need::Reserved) | (None, Need::Exchange) => return Ok(Attempt::Again),
            _ => {}
        }
        let chunk = self.take_chunk().await?;
        let exchanged = u64::from(need == Need::Exchange);
        self.state.borrow_mut().exchanged += exchanged;
        drop(meta);
        let outcome = match self.fill(entry, piece, from, found.as_ref(), chunk).await {
            Ok(checks) => {
                let _meta = self.meta.lock().await;
                match self.has_room(Need::Freeing) {
                    Ok(true) => self.map(entry, piece.index, chunk, checks.as_ref()).await.map(|()| Attempt::Done),
                    Ok(false) => Ok(Attempt::Again),
                    Err(error) => Err(error),
                }
            }
            Err(error) => Err(error),
        };
        self.state.borrow_mut().exchanged -= exchanged;
        if !matches!(outcome, Ok(Attempt::Done)) {
            self.give(self.unit(chunk)?, 1);
        }
        outcome
    }

    /// Writes all of a new chunk: what was there, or zeroes, and a part of a request. A reader never sees what was in
    /// it before, and neither after a power cut, since it is mapped after that.
    async fn fill(
        &self,
        entry: &Entry,
        piece: Piece,
        from: &D::Buffer,
        found: Option<&Found>,
        chunk: u32,
    ) -> Result<Option<Checks>, Error> {
        let integrity = entry.record.borrow().integrity;
        let mut buffer = self.buffer(CHUNK_SIZE)?;
        let mut bad = 0;
        if piece.len < CHUNK_SIZE {
            match found {
                None => zero(&buffer, 0, CHUNK_SIZE),
                Some(found) => {
                    let place = self.place(found.mapping.chunk, 0)?;
                    let (read, outcome) = self.read_at(place, buffer).await;
                    outcome.map_err(|error| Error::Disk { disk: place.disk, error })?;
                    buffer = read;
                    if integrity {
                        bad = self.kept_bad(entry, piece, found, 0, &buffer, place)?;
                    }
                }
            }
        }
        copy(from, piece.offset, &buffer, piece.at, piece.len);
        let checks = integrity.then(|| {
            let mut checks = [0; CHUNK_BLOCKS];
            self.sum_blocks(chunk, 0, &buffer, &mut checks);
            // What was bad stays bad.
            for (_, check) in checks.iter_mut().enumerate().filter(|(block, _)| bad & (1 << block) != 0) {
                *check = !*check;
            }
            checks
        });
        let place = self.place(chunk, 0)?;
        let (_, outcome) = self.write_at(place, buffer).await;
        outcome.map_err(|error| Error::Disk { disk: place.disk, error })?;
        Ok(checks)
    }

    /// Which blocks of a chunk, of which the buffer holds those from `first` on, have a wrong checksum and are not
    /// written now. One that is written in part cannot be.
    fn kept_bad(
        &self,
        entry: &Entry,
        piece: Piece,
        found: &Found,
        first: usize,
        buffer: &D::Buffer,
        place: Place,
    ) -> Result<u32, Error> {
        let end = piece.at + piece.len;
        let mut bad = 0;
        for block in first..first + buffer.len() / BLOCK {
            let (from, to) = (block * BLOCK, (block + 1) * BLOCK);
            let is_overwritten = piece.at <= from && to <= end;
            if is_overwritten || self.first_bad(found, block, buffer, (block - first) * BLOCK, BLOCK).is_none() {
                continue;
            }
            if piece.at < to && from < end {
                let sector = piece.index * CHUNK_SECTORS + block as u64 * BLOCK_SECTORS;
                return Err(Error::Disk { disk: place.disk, error: self.report_bad(entry, sector) });
            }
            bad |= 1 << block;
        }
        Ok(bad)
    }

    /// Has a volume's chunk in a new place, and frees the old one.
    async fn map(&self, entry: &Entry, index: u64, chunk: u32, checks: Option<&Checks>) -> Result<(), Error> {
        let leaf = self.leaf_mut(Tree::Volume(entry), index).await?;
        let kind = entry.record.borrow().kind();
        let slot = kind.slot(0, index);
        let old = self.state.borrow_mut().nodes.dirty_mut(leaf)?.mapping(kind, slot);
        let old = match old {
            Some(old) => {
                let unit = self.unit(old.chunk)?;
                Some((unit, self.count(unit).await?))
            }
            None => None,
        };
        let mut state = self.state.borrow_mut();
        let born = state.clock;
        let leaf = state.nodes.dirty_mut(leaf)?;
        leaf.set_mapping(kind, slot, Some(Mapping { chunk, born }));
        if let Some(checks) = checks {
            leaf.set_checks(slot, checks);
        }
        drop(state);
        match old {
            Some((unit, count)) => self.give(unit, count),
            None => entry.record.borrow_mut().mapped += 1,
        }
        Ok(())
    }

    /// Notes that a chunk is the volume's alone again.
    async fn renew(&self, entry: &Entry, index: u64, mapping: Mapping) -> Result<(), Error> {
        let leaf = self.leaf_mut(Tree::Volume(entry), index).await?;
        let kind = entry.record.borrow().kind();
        let slot = kind.slot(0, index);
        let state = &mut *self.state.borrow_mut();
        let leaf = state.nodes.dirty_mut(leaf)?;
        let checks = (kind == Kind::CheckedMap).then(|| leaf.checks(slot));
        leaf.set_mapping(kind, slot, Some(Mapping { born: state.clock, ..mapping }));
        if let Some(checks) = checks {
            leaf.set_checks(slot, &checks);
        }
        Ok(())
    }

    /// Writes to a chunk of a volume with checksums that the last commit has not: in place, since no power cut leads
    /// back to it. No commit begins before the checksums are the new ones.
    async fn rewrite(&self, entry: &Entry, piece: Piece, from: &D::Buffer) -> Result<Attempt, Error> {
        let _gate = self.gate.read().await;
        let _token = self.token();
        let Some(found) = self.find(entry, piece.index).await? else { return Ok(Attempt::Again) };
        let chunk = found.mapping.chunk;
        if !entry.is_exclusive(found.mapping) || !self.state.borrow().fresh.contains(&chunk) {
            return Ok(Attempt::Again);
        }
        let blocks = piece.at / BLOCK..(piece.at + piece.len).div_ceil(BLOCK);
        let mut buffer = self.buffer(blocks.len() * BLOCK)?;
        let place = self.place(chunk, blocks.start * BLOCK)?;
        if piece.len < buffer.len() {
            let (read, outcome) = self.read_at(place, buffer).await;
            outcome.map_err(|error| Error::Disk { disk: place.disk, error })?;
            self.kept_bad(entry, piece, &found, blocks.start, &read, place)?;
            buffer = read;
        }
        copy(from, piece.offset, &buffer, piece.at - blocks.start * BLOCK, piece.len);
        let mut checks = [0; CHUNK_BLOCKS];
        self.sum_blocks(chunk, blocks.start, &buffer, &mut checks);
        let (_, outcome) = self.write_at(place, buffer).await;
        outcome.map_err(|error| Error::Disk { disk: place.disk, error })?;
        let _meta = self.meta.lock().await;
        let leaf = self.leaf_mut(Tree::Volume(entry), piece.index).await?;
        let slot = Kind::CheckedMap.slot(0, piece.index);
        let state = &mut *self.state.borrow_mut();
        let leaf = state.nodes.dirty_mut(leaf)?;
        // It may have been discarded meanwhile.
        if leaf.mapping(Kind::CheckedMap, slot).is_some_and(|now| now.chunk == chunk) {
            let mut all = leaf.checks(slot);
            all[blocks.clone()].copy_from_slice(&checks[blocks]);
            leaf.set_checks(slot, &all);
        }
        Ok(Attempt::Done)
    }

    /// The checksums of a chunk's blocks from `first` on, of which the buffer holds some.
    fn sum_blocks(&self, chunk: u32, first: usize, buffer: &D::Buffer, checks: &mut Checks) {
        let mut bytes = [0; BLOCK];
        for (number, check) in checks[first..first + buffer.len() / BLOCK].iter_mut().enumerate() {
            buffer.read(number * BLOCK, &mut bytes);
            *check = self.disks.seed.data(chunk, first + number, &bytes);
        }
    }

    /// Gives the whole chunks of a range back to the pool.
    pub(crate) async fn discard(&self, entry: &Entry, sector: u64, count: u64) -> Result<(), Error> {
        let _gate = entry.gate.read().await;
        let sectors = entry.record.borrow().sectors;
        let end = sector.saturating_add(count);
        // The last one of the volume may not be whole.
        let end = if end >= sectors { sectors.div_ceil(CHUNK_SECTORS) } else { end / CHUNK_SECTORS };
        let mut next = Some(sector.div_ceil(CHUNK_SECTORS)).filter(|first| *first < end);
        while let Some(from) = next {
            self.make_room(Need::Freeing).await?;
            let _gate = self.gate.read().await;
            let _meta = self.meta.lock().await;
            if self.has_room(Need::Freeing)? {
                next = self.unmap(entry, from, end).await?;
            }
        }
        Ok(())
    }
}

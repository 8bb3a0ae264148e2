//! A volume as a block device.

use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use futures_util::future::join_all;
use xen_blkif::{BlockDevice, Buffer, Completed, Discard, Error as DiskError, Geometry};

use crate::Error;
use crate::buffer::{copy, zero};
use crate::finish::Finish;
use crate::layout::{BLOCK, CHUNK_SECTORS, CHUNK_SIZE, Place, SECTOR};
use crate::state::{Entry, Shared};

/// A volume of a pool. Clones are the same volume, which is in use while there is one.
///
/// What is discarded in whole chunks of [`CHUNK_SIZE`] is given back to the pool, and reads as zeroes.
///
/// # Cancellation
///
/// A request that is dropped is finished by the pool's runner: it does not arrive at some later time.
pub struct Volume<D> {
    shared: Rc<Shared<D>>,
    entry: Rc<Entry>,
}

impl<D> Volume<D> {
    pub(crate) fn new(shared: &Rc<Shared<D>>, entry: &Rc<Entry>) -> Volume<D> {
        shared.handles.set(shared.handles.get() + 1);
        entry.handles.set(entry.handles.get() + 1);
        Volume { shared: shared.clone(), entry: entry.clone() }
    }

    /// Its name now.
    pub fn name(&self) -> String {
        self.entry.record.borrow().name.clone()
    }

    /// A number that no other volume of the pool has or will have. It stays with the volume when that is renamed.
    pub fn id(&self) -> u64 {
        self.entry.record.borrow().id
    }
}

impl<D> Clone for Volume<D> {
    fn clone(&self) -> Self {
        Volume::new(&self.shared, &self.entry)
    }
}

impl<D> Drop for Volume<D> {
    fn drop(&mut self) {
        self.entry.handles.set(self.entry.handles.get() - 1);
        self.shared.leave();
    }
}

impl<D> fmt::Debug for Volume<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let record = self.entry.record.borrow();
        f.debug_struct("Volume").field("name", &record.name).field("sectors", &record.sectors).finish()
    }
}

/// Where sectors are that lie side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Run {
    /// On a disk, for the volume alone where it is to be written.
    At(Place),
    /// Nowhere: they are zeroes.
    Zeroes,
    /// Where they cannot be written.
    Elsewhere,
}

/// A part of a request that is in one chunk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    /// The chunk of the volume.
    pub(crate) index: u64,
    /// Where in the chunk, and in the request's buffer, in bytes.
    pub(crate) at: usize,
    pub(crate) offset: usize,
    pub(crate) len: usize,
}

/// The pieces of a request.
pub(crate) fn pieces(sector: u64, len: usize) -> impl Iterator<Item = Piece> {
    let mut offset = 0;
    core::iter::from_fn(move || {
        let here = sector + (offset / SECTOR) as u64;
        let at = (here % CHUNK_SECTORS) as usize * SECTOR;
        let piece = Piece { index: here / CHUNK_SECTORS, at, offset, len: (CHUNK_SIZE - at).min(len - offset) };
        offset += piece.len;
        (piece.len > 0).then_some(piece)
    })
}

impl<D: BlockDevice + 'static> Shared<D> {
    /// Where the first sectors of a request are, and how many bytes lie there side by side.
    pub(crate) async fn run(&self, entry: &Entry, sector: u64, len: usize, write: bool) -> Result<(Run, usize), Error> {
        let mut whole: Option<(Run, usize)> = None;
        for piece in pieces(sector, len) {
            let run = match self.find(entry, piece.index).await? {
                None if write => Run::Elsewhere,
                None => Run::Zeroes,
                Some(found) if write && !entry.is_exclusive(found.mapping) => Run::Elsewhere,
                Some(found) => {
                    let place = self.disks.layout.chunk(found.mapping.chunk);
                    let place = place.ok_or(Error::Damaged { what: "a volume has a chunk that the pool has not" })?;
                    Run::At(Place { sector: place.sector + (piece.at / SECTOR) as u64, ..place })
                }
            };
            whole = match (whole, run) {
                (None, run) => Some((run, piece.len)),
                (Some((Run::At(begin), len)), Run::At(place))
                    if begin.disk == place.disk && begin.sector + (len / SECTOR) as u64 == place.sector =>
                {
                    Some((Run::At(begin), len + piece.len))
                }
                (Some((before, len)), run) if before == run && !matches!(run, Run::At(_)) => {
                    Some((before, len + piece.len))
                }
                (whole, _) => {
                    return Ok(whole.unwrap_or((Run::Zeroes, len)));
                }
            };
        }
        Ok(whole.unwrap_or((Run::Zeroes, len)))
    }

    /// Reads from a place into a buffer of the first disk's, which the request becomes where that is possible.
    pub(crate) async fn read_at(&self, place: Place, buffer: D::Buffer) -> Completed<D::Buffer> {
        let disk = &self.disks.list[place.disk];
        if place.disk == 0 {
            return disk.read(place.sector, buffer).await;
        }
        // A buffer is of the disk that made it: another's backend may have no way to its pages.
        let own = match disk.buffer(buffer.len()) {
            Ok(own) => own,
            Err(error) => return (buffer, Err(error)),
        };
        let (own, outcome) = disk.read(place.sector, own).await;
        if outcome.is_ok() {
            copy(&own, 0, &buffer, 0, buffer.len());
        }
        (buffer, outcome)
    }

    /// Writes a buffer of the first disk's to a place.
    pub(crate) async fn write_at(&self, place: Place, buffer: D::Buffer) -> Completed<D::Buffer> {
        let disk = &self.disks.list[place.disk];
        if place.disk == 0 {
            return disk.write(place.sector, buffer).await;
        }
        let own = match disk.buffer(buffer.len()) {
            Ok(own) => own,
            Err(error) => return (buffer, Err(error)),
        };
        copy(&buffer, 0, &own, 0, buffer.len());
        let (_, outcome) = disk.write(place.sector, own).await;
        (buffer, outcome)
    }

    async fn read(&self, entry: &Entry, sector: u64, buffer: D::Buffer) -> Completed<D::Buffer> {
        // What is read must not be another's by the time that it is read.
        let _token = self.token();
        let first = self.run(entry, sector, buffer.len(), false).await;
        match first {
            Err(error) => return (buffer, Err(error.of_request("read", sector))),
            Ok((Run::At(place), len)) if len == buffer.len() => {
                let (buffer, outcome) = self.read_at(place, buffer).await;
                return (buffer, outcome.map_err(|error| of_disk(error, "read", sector)));
            }
            Ok(_) => {}
        }
        let mut runs = Vec::new();
        let mut offset = 0;
        while offset < buffer.len() {
            let here = sector + (offset / SECTOR) as u64;
            let (run, len) = match self.run(entry, here, buffer.len() - offset, false).await {
                Ok(run) => run,
                Err(error) => return (buffer, Err(error.of_request("read", here))),
            };
            runs.push((run, offset, len));
            offset += len;
        }
        let to = &buffer;
        let reads = runs.into_iter().map(async |(run, offset, len)| {
            let Run::At(place) = run else {
                zero(to, offset, len);
                return Ok(());
            };
            let (part, outcome) = self.read_at(place, self.disks.list[0].buffer(len)?).await;
            outcome.map_err(|error| of_disk(error, "read", sector + (offset / SECTOR) as u64))?;
            copy(&part, 0, to, offset, len);
            Ok(())
        });
        let outcome = join_all(reads).await.into_iter().collect();
        (buffer, outcome)
    }

    /// Writes in place where that is possible.
    async fn write(&self, entry: &Entry, sector: u64, buffer: D::Buffer) -> Completed<D::Buffer> {
        // Nobody takes a snapshot meanwhile.
        let _gate = entry.gate.read().await;
        if !entry.record.borrow().integrity {
            let _token = self.token();
            match self.run(entry, sector, buffer.len(), true).await {
                Err(error) => return (buffer, Err(error.of_request("write", sector))),
                Ok((Run::At(place), len)) if len == buffer.len() => {
                    let (buffer, outcome) = self.write_at(place, buffer).await;
                    return (buffer, outcome.map_err(|error| of_disk(error, "write", sector)));
                }
                Ok(_) => {}
            }
        }
        let from = &buffer;
        let writes = pieces(sector, buffer.len()).map(async |piece| {
            self.write_piece(entry, piece, from)
                .await
                .map_err(|error| self.refused(error, "write", sector + (piece.offset / SECTOR) as u64))
        });
        let outcome = join_all(writes).await.into_iter().collect();
        (buffer, outcome)
    }

    /// What a writer is told.
    fn refused(&self, error: Error, operation: &'static str, sector: u64) -> DiskError {
        if matches!(error, Error::NoSpace | Error::NoMetadataSpace) {
            self.state.borrow_mut().no_space += 1;
        }
        match error {
            Error::Disk { error, .. } => of_disk(error, operation, sector),
            error => error.of_request(operation, sector),
        }
    }
}

/// A disk's error as one of a volume's.
pub(crate) fn of_disk(error: DiskError, operation: &'static str, sector: u64) -> DiskError {
    match error {
        DiskError::Gone | DiskError::OutOfMemory | DiskError::NoSpace | DiskError::PagesKept => error,
        _ => DiskError::Failed { operation, sector },
    }
}

impl<D: BlockDevice + 'static> BlockDevice for Volume<D> {
    type Buffer = D::Buffer;

    fn geometry(&self) -> Geometry {
        let record = self.entry.record.borrow();
        let unit = self.shared.disks.list.iter().map(|disk| disk.geometry().sector_size).fold(SECTOR as u32, u32::max);
        let discard = if record.read_only { None } else { Some(Discard::new(CHUNK_SIZE as u32)) };
        Geometry::plain(record.sectors)
            .with_sector_size(unit)
            .with_physical_sector_size(unit.max(BLOCK as u32))
            .with_read_only(record.read_only)
            .with_flush(true)
            .with_discard(discard)
    }

    fn buffer(&self, len: usize) -> Result<D::Buffer, DiskError> {
        let buffer = self.shared.disks.list[0].buffer(len)?;
        // What it holds has been on the disk, but maybe another volume's.
        zero(&buffer, 0, len);
        Ok(buffer)
    }

    /// Whoever has a request done with it sees nothing but that request's bytes.
    fn buffer_at(&self, _sector: u64, len: usize) -> Result<D::Buffer, DiskError> {
        self.shared.disks.list[0].buffer(len)
    }

    async fn read(&self, sector: u64, buffer: D::Buffer) -> Completed<D::Buffer> {
        if let Err(error) = self.geometry().check(sector, buffer.len()) {
            return (buffer, Err(error));
        }
        let integrity = self.entry.record.borrow().integrity;
        match integrity {
            true => self.shared.read_checked(&self.entry, sector, buffer).await,
            false => self.shared.read(&self.entry, sector, buffer).await,
        }
    }

    /// # Errors
    ///
    /// [`xen_blkif::Error::NoSpace`] where the pool is full, and what the disks say.
    async fn write(&self, sector: u64, buffer: D::Buffer) -> Completed<D::Buffer> {
        let geometry = self.geometry();
        if let Err(error) = geometry.check_writable().and_then(|()| geometry.check(sector, buffer.len())) {
            return (buffer, Err(error));
        }
        let (shared, entry) = (self.shared.clone(), self.entry.clone());
        Finish::new(self.shared.unfinished.clone(), async move { shared.write(&entry, sector, buffer).await }).await
    }

    async fn flush(&self) -> Result<(), DiskError> {
        self.shared.flush(Some(&self.entry)).await.map_err(|error| self.shared.refused(error, "flush", 0))
    }

    async fn discard(&self, sector: u64, count: u64, secure: bool) -> Result<(), DiskError> {
        let geometry = self.geometry();
        geometry.check_writable()?;
        geometry.check_sectors(sector, count)?;
        if secure {
            return Err(DiskError::Unsupported("discard securely"));
        }
        let (shared, entry) = (self.shared.clone(), self.entry.clone());
        let discard = async move {
            let outcome = shared.discard(&entry, sector, count).await;
            outcome.map_err(|error| shared.refused(error, "discard", sector))
        };
        Finish::new(self.shared.unfinished.clone(), discard).await
    }

    async fn changed(&self, known: &Geometry) -> Geometry {
        loop {
            let listener = self.entry.event.listen();
            let now = self.geometry();
            if now != *known {
                return now;
            }
            listener.await;
        }
    }
}

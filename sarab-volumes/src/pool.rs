//! A pool of volumes, as an application holds it.

use alloc::rc::Rc;
use alloc::string::ToString;
use alloc::vec::Vec;
use core::fmt;

use xen_blkif::BlockDevice;

use crate::finish::Finish;
use crate::layout::CHUNK_SECTORS;
use crate::record::{check_name, check_size};
use crate::state::Shared;
use crate::{
    CheckReport, Create, Error, FormatOptions, OpenOptions, Scrub, ScrubReport, Usage, Volume, VolumeInfo, open, runner,
};

/// Disks with volumes on them. Clones are the same pool.
///
/// Changes of volumes are durable when their function returns. One whose future is dropped is finished by the runner; after a power
/// cut it is there wholly or not at all.
pub struct Pool<D> {
    shared: Rc<Shared<D>>,
}

impl<D> Clone for Pool<D> {
    fn clone(&self) -> Self {
        self.shared.handles.set(self.shared.handles.get() + 1);
        Pool { shared: self.shared.clone() }
    }
}

impl<D> Drop for Pool<D> {
    fn drop(&mut self) {
        self.shared.leave();
    }
}

impl<D> fmt::Debug for Pool<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared.state.borrow();
        f.debug_struct("Pool").field("uuid", &state.uuid).field("generation", &state.generation).finish()
    }
}

impl<D: BlockDevice + 'static> Pool<D> {
    /// Makes an empty pool of these disks. `uuid` is what tells it from others: random bytes.
    ///
    /// # Errors
    ///
    /// [`Error::NotEmpty`] where a disk holds something and this is not forced, [`Error::UnsuitableDisk`],
    /// [`Error::Invalid`], and what the disks say.
    ///
    /// # Cancellation
    ///
    /// Dropped half-way, it leaves disks that are of no pool.
    pub async fn format(disks: &[D], uuid: [u8; 16], options: &FormatOptions) -> Result<(), Error> {
        open::format(disks, uuid, options).await
    }

    /// Opens the pool that is on these disks, in the order in which it was formatted. What is damaged in one copy of the
    /// metadata is repaired from the other, with a log line. The second value has to run as a task: it commits changes,
    /// and ends after the last handle of the pool and of its volumes.
    ///
    /// # Errors
    ///
    /// Where a disk is missing, of another pool or in another's place, the metadata is damaged in both copies, or a disk
    /// fails.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time.
    pub async fn open(
        disks: Vec<D>,
        options: &OpenOptions,
    ) -> Result<(Pool<D>, impl Future<Output = ()> + use<D>), Error> {
        let shared = open::open(disks, options).await?;
        shared.handles.set(1);
        Ok((Pool { shared: shared.clone() }, runner::run(shared)))
    }

    /// What tells this pool from others.
    pub fn uuid(&self) -> [u8; 16] {
        self.shared.state.borrow().uuid
    }

    /// How full it is.
    pub fn usage(&self) -> Usage {
        let state = self.shared.state.borrow();
        Usage {
            sectors: u64::from(self.shared.disks.layout.chunks) * CHUNK_SECTORS,
            free_sectors: u64::from(state.free_chunks) * CHUNK_SECTORS,
            reserved_sectors: state.reserved() * CHUNK_SECTORS,
            metadata_blocks: self.shared.units.blocks.into(),
            free_metadata_blocks: state.free_blocks.into(),
            volumes: state.volumes.values().filter(|entry| !entry.record.borrow().deleting).count(),
            commits: self.shared.commits.count.get(),
            repaired: state.repaired,
            no_space: state.no_space,
            failed: state.failed,
        }
    }

    /// Its volumes, by name.
    pub fn volumes(&self) -> Vec<VolumeInfo> {
        let state = self.shared.state.borrow();
        let name_of = |id: u64| {
            let origin = state.volumes.values().find(|entry| entry.record.borrow().id == id && id != 0)?;
            Some(origin.record.borrow().name.clone())
        };
        let living = state.volumes.values().filter(|entry| !entry.record.borrow().deleting);
        let mut all: Vec<_> = living
            .map(|entry| {
                let record = entry.record.borrow();
                VolumeInfo {
                    id: record.id,
                    name: record.name.clone(),
                    sectors: record.sectors,
                    mapped_sectors: record.mapped * CHUNK_SECTORS,
                    thick: record.thick,
                    integrity: record.integrity,
                    read_only: record.read_only,
                    origin: name_of(record.origin),
                    in_use: entry.handles.get() > 0,
                    bad_blocks: entry.bad_blocks.get(),
                }
            })
            .collect();
        all.sort_by(|one, other| one.name.cmp(&other.name));
        all
    }

    /// A volume to be read and written.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`].
    pub fn volume(&self, name: &str) -> Result<Volume<D>, Error> {
        let entry = self.shared.state.borrow().by_name(name).ok_or(Error::NotFound)?;
        Ok(Volume::new(&self.shared, &entry))
    }

    /// Carries out a change to its end, whether this future is polled so long or not, and makes it durable.
    async fn change(&self, change: impl AsyncFnOnce(&Shared<D>) -> Result<(), Error> + 'static) -> Result<(), Error> {
        let shared = self.shared.clone();
        let change = async move {
            change(&shared).await?;
            shared.commit().await
        };
        Finish::new(self.shared.unfinished.clone(), change).await
    }

    /// Creates a volume that reads as zeroes.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`], [`Error::Exists`], [`Error::TooManyVolumes`], [`Error::NoSpace`] where a thick volume does not
    /// fit, and what the disks say.
    ///
    /// # Cancellation
    ///
    /// The runner finishes it.
    pub async fn create(&self, name: &str, create: &Create) -> Result<(), Error> {
        check_name(name)?;
        check_size(create.sectors)?;
        let (name, create) = (name.to_string(), *create);
        self.change(async move |shared| shared.create(name, create).await).await
    }

    /// Makes a volume that holds what `origin` holds now, whatever is written to either later. It begins when what was
    /// asked to be written to `origin` before is written.
    ///
    /// # Errors
    ///
    /// As [`create`](Pool::create); [`Error::Invalid`] for thick volumes.
    ///
    /// # Cancellation
    ///
    /// The runner finishes it.
    pub async fn snapshot(&self, origin: &str, name: &str, writable: bool) -> Result<(), Error> {
        check_name(name)?;
        let (origin, name) = (origin.to_string(), name.to_string());
        self.change(async move |shared| shared.snapshot(&origin, name, writable).await).await
    }

    /// Changes a volume's name. Its handles stay what they are.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::Exists`], [`Error::Invalid`], and what the disks say.
    ///
    /// # Cancellation
    ///
    /// The runner finishes it.
    pub async fn rename(&self, name: &str, to: &str) -> Result<(), Error> {
        check_name(to)?;
        let (name, to) = (name.to_string(), to.to_string());
        self.change(async move |shared| shared.rename(&name, to).await).await
    }

    /// Gives a volume more sectors, which read as zeroes. Its handles notice ([`BlockDevice::changed`]).
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::Invalid`] where it were smaller, [`Error::NoSpace`] for a thick one, and what the
    /// disks say.
    ///
    /// # Cancellation
    ///
    /// The runner finishes it.
    pub async fn grow(&self, name: &str, sectors: u64) -> Result<(), Error> {
        check_size(sectors)?;
        let name = name.to_string();
        self.change(async move |shared| shared.grow(&name, sectors).await).await
    }

    /// Deletes a volume that nobody uses. Its name is free at once; its space is freed by and by, also after a power
    /// cut.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::InUse`], and what the disks say.
    ///
    /// # Cancellation
    ///
    /// The runner finishes it.
    pub async fn delete(&self, name: &str) -> Result<(), Error> {
        let name = name.to_string();
        self.change(async move |shared| shared.delete(&name).await).await?;
        self.shared.deletions.notify(1);
        Ok(())
    }

    /// Brings all that was written to any volume to the disks.
    ///
    /// # Errors
    ///
    /// What the disks say; [`Error::Failed`], [`Error::Gone`].
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time.
    pub async fn flush(&self) -> Result<(), Error> {
        self.shared.flush(None).await
    }

    /// Reads all metadata and compares reference counts and counters with it. Meanwhile writes that need space wait.
    ///
    /// # Errors
    ///
    /// What the disks say. What is wrong with the metadata is in the report.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time. While it is neither polled nor dropped, writes that need space wait.
    pub async fn check(&self) -> Result<CheckReport, Error> {
        self.shared.check().await
    }

    /// Reads all that volumes with checksums hold, and both copies of the metadata, of which a damaged one is repaired.
    /// `report` is told of bad blocks and of progress. Requests go on meanwhile; while metadata is read, writes that need space wait.
    ///
    /// # Errors
    ///
    /// Those of the pool as a whole. What is wrong is in the report.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time. While it is neither polled nor dropped, writes that need space may wait.
    pub async fn scrub(&self, report: impl FnMut(Scrub)) -> Result<ScrubReport, Error> {
        self.shared.scrub(report).await
    }
}

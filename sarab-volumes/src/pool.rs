//! A pool of volumes, as an application holds it.

use alloc::rc::Rc;
use alloc::vec::Vec;

use xen_blkif::BlockDevice;

use crate::{CheckReport, Create, Error, FormatOptions, OpenOptions, Scrub, ScrubReport, Usage, Volume, VolumeInfo};

/// Disks with volumes on them. Clones are the same pool.
///
/// Changes of volumes are durable when their function returns. A function that is dropped half-way may have made its
/// change or not; it is there wholly or not at all.
pub struct Pool<D> {
    disks: Rc<Vec<D>>,
}

impl<D> Clone for Pool<D> {
    fn clone(&self) -> Self {
        Pool { disks: self.disks.clone() }
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
    pub async fn format(_disks: &[D], _uuid: [u8; 16], _options: &FormatOptions) -> Result<(), Error> {
        Err(Error::Gone)
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
        _options: &OpenOptions,
    ) -> Result<(Pool<D>, impl Future<Output = ()> + use<D>), Error> {
        Ok((Pool { disks: Rc::new(disks) }, core::future::ready(())))
    }

    /// What tells this pool from others.
    pub fn uuid(&self) -> [u8; 16] {
        [0; 16]
    }

    /// How full it is.
    pub fn usage(&self) -> Usage {
        Usage::default()
    }

    /// Its volumes, by name.
    pub fn volumes(&self) -> Vec<VolumeInfo> {
        Vec::new()
    }

    /// A volume to be read and written.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`].
    pub fn volume(&self, _name: &str) -> Result<Volume<D>, Error> {
        Err(Error::NotFound)
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
    /// The volume is there or is not.
    pub async fn create(&self, _name: &str, _create: &Create) -> Result<(), Error> {
        Err(Error::Gone)
    }

    /// Makes a volume that holds what `origin` holds now, whatever is written to either later. What `origin` was asked
    /// to write before, and has not answered yet, is part of it; what was written is durable in it.
    ///
    /// # Errors
    ///
    /// As [`create`](Pool::create); [`Error::Invalid`] for thick volumes.
    ///
    /// # Cancellation
    ///
    /// The volume is there or is not.
    pub async fn snapshot(&self, _origin: &str, _name: &str, _writable: bool) -> Result<(), Error> {
        Err(Error::Gone)
    }

    /// Changes a volume's name. Its handles stay what they are.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::Exists`], [`Error::Invalid`], and what the disks say.
    ///
    /// # Cancellation
    ///
    /// It is done or not.
    pub async fn rename(&self, _name: &str, _to: &str) -> Result<(), Error> {
        Err(Error::Gone)
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
    /// It is done or not.
    pub async fn grow(&self, _name: &str, _sectors: u64) -> Result<(), Error> {
        Err(Error::Gone)
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
    /// It is done or not.
    pub async fn delete(&self, _name: &str) -> Result<(), Error> {
        Err(Error::Gone)
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
        Err(Error::Gone)
    }

    /// Reads all metadata and compares reference counts and counters with it. Meanwhile writes that need space wait.
    ///
    /// # Errors
    ///
    /// What the disks say. What is wrong with the metadata is in the report.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time.
    pub async fn check(&self) -> Result<CheckReport, Error> {
        Err(Error::Gone)
    }

    /// Reads all that volumes with checksums hold, and both copies of the metadata, of which a damaged one is repaired.
    /// `report` is told of bad blocks and of progress. Requests go on meanwhile.
    ///
    /// # Errors
    ///
    /// Those of the pool as a whole. What is wrong is in the report.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time.
    pub async fn scrub(&self, _report: impl FnMut(Scrub)) -> Result<ScrubReport, Error> {
        Err(Error::Gone)
    }
}

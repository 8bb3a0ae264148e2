#![doc = include_str!("../README.md")]
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod ext4;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod http;
mod path;
mod share;
mod source;
mod tar;
mod warning;
mod window;

use alloc::boxed::Box;
use alloc::rc::Rc;
use core::fmt;

use xen_blkif::Error;

pub use ext4::Damage;
use source::Source;
pub use tar::Problem as SparseProblem;
pub use warning::Warning;
use warning::Warnings;
use window::Window;
pub use xen_blkif::BlockDevice;

/// What a device holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// A tar archive, with so many files.
    Tar {
        /// How many, links included.
        files: usize,
    },
    /// A file system of the ext family.
    Ext4,
    /// A folder that another domain shares.
    Share,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Format::Tar { files: 1 } => f.write_str("a tar archive with 1 file"),
            Format::Tar { files } => write!(f, "a tar archive with {files} files"),
            Format::Ext4 => f.write_str("an ext4 file system"),
            Format::Share => f.write_str("a shared folder"),
        }
    }
}

/// Why a device cannot be used at all.
#[derive(Debug)]
#[non_exhaustive]
pub enum OpenError {
    /// It fails.
    Disk(Error),
    /// It has no bytes, or none but zeroes at its begin.
    Empty,
    /// It is neither a tar archive nor an ext4 file system.
    Unknown,
    /// It is an ext4 file system that cannot be read.
    Ext4(Damage),
    /// It is a tar archive whose later files replace folders, or go through links, and there is no memory to find out what is
    /// left of it.
    Memory {
        /// Bytes that the index may take.
        memory: usize,
    },
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::Disk(error) => error.fmt(f),
            OpenError::Empty => f.write_str("it is empty: neither a tar archive nor an ext4 file system"),
            OpenError::Unknown => f.write_str(
                "unknown format: expected a tar archive (tar -cf site.tar -C FOLDER .) or an ext4 file system",
            ),
            OpenError::Memory { memory } => write!(
                f,
                "files of the archive replace folders or go through links, and its index does not fit into {} KiB; give \
                 the domain more memory, or make the archive anew from the unpacked files",
                memory / 1024
            ),
            OpenError::Ext4(why) => write!(f, "cannot read the ext4 file system: {why}"),
        }
    }
}

impl core::error::Error for OpenError {}

impl From<ext4::Failure> for OpenError {
    fn from(failure: ext4::Failure) -> Self {
        match failure {
            ext4::Failure::Disk(error) => OpenError::Disk(error),
            ext4::Failure::Damage(damage) => OpenError::Ext4(damage),
        }
    }
}

impl From<Error> for OpenError {
    fn from(error: Error) -> Self {
        OpenError::Disk(error)
    }
}

/// Why a file cannot be read.
#[derive(Debug)]
#[non_exhaustive]
pub enum ReadError {
    /// The device fails.
    Disk(Error),
    /// The file system is not as it should be there.
    Ext4(Damage),
    /// The archive is not what it was when it was indexed.
    Changed,
    /// The server of the share refuses, or is gone.
    Share(xen_9pfs::front::Error),
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReadError::Disk(error) => error.fmt(f),
            ReadError::Ext4(why) => write!(f, "the file system: {why}"),
            ReadError::Share(error) => error.fmt(f),
            ReadError::Changed => f.write_str("the archive was changed while it is served"),
        }
    }
}

impl core::error::Error for ReadError {}

impl From<ext4::Failure> for ReadError {
    fn from(failure: ext4::Failure) -> Self {
        match failure {
            ext4::Failure::Disk(error) => ReadError::Disk(error),
            ext4::Failure::Damage(damage) => ReadError::Ext4(damage),
        }
    }
}

impl From<xen_9pfs::front::Error> for ReadError {
    fn from(error: xen_9pfs::front::Error) -> Self {
        ReadError::Share(error)
    }
}

impl From<Error> for ReadError {
    fn from(error: Error) -> Self {
        ReadError::Disk(error)
    }
}

/// The files of a device, or of a share.
pub struct Site<D: BlockDevice> {
    /// None of a share.
    source: Option<Rc<Source<D>>>,
    content: Content<D>,
    warnings: Warnings,
    piece: usize,
}

enum Content<D: BlockDevice> {
    Tar(Rc<Source<D>>, tar::Index),
    Ext4(Rc<ext4::FileSystem<D>>),
    Share(share::Folder),
}

impl<D: BlockDevice> Site<D> {
    /// Finds out what the device holds, and where its files are. Of an archive it keeps the places of as many files as
    /// `memory` bytes are enough for, about 16 for each; a [warning](Site::warnings) says how many were left out. A file
    /// system that was not unmounted takes so much for what is in its journal.
    ///
    /// # Errors
    ///
    /// Where nothing of it can be served.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time.
    ///
    /// # Examples
    ///
    /// ```
    /// use sarab_site::{Format, Site};
    /// use xen_blkif::BlockDevice;
    /// use xen_blkif::ramdisk::RamDisk;
    ///
    /// # let mut archive = tar::Builder::new(Vec::new());
    /// # let mut header = tar::Header::new_gnu();
    /// # header.set_size(6);
    /// # archive.append_data(&mut header, "index.html", &b"<html>"[..]).unwrap();
    /// # let archive = archive.into_inner().unwrap();
    /// # let xen = xen_sim::Xen::new(1);
    /// # let domain = xen.domain();
    /// # xen.run(async move {
    /// let disk = RamDisk::new(domain, archive.len() as u64 / 512)?;
    /// disk.write_bytes(0, &archive).await?;
    ///
    /// let site = Site::new(disk, 64 << 10).await?; // up to 4,096 files
    /// assert_eq!(site.format(), Format::Tar { files: 1 });
    /// let mut file = site.open("index.html").await?.expect("it is there");
    /// let mut bytes = [0; 100];
    /// assert_eq!(file.read(0, &mut bytes).await?, 6);
    /// assert!(site.open("missing").await?.is_none());
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub async fn new(disk: D, memory: usize) -> Result<Site<D>, OpenError> {
        if disk.geometry().sectors == 0 {
            return Err(OpenError::Empty);
        }
        let source = Rc::new(Source::new(disk));
        let mut window = Window::new(source.clone());
        let mut warnings = Warnings::default();
        if ext4::is_there(&mut window).await? {
            let content = Content::Ext4(Rc::new(ext4::FileSystem::load(source.clone(), memory).await?));
            return Ok(Site { source: Some(source), content, warnings, piece: window::LEN });
        }
        let content = Content::Tar(source.clone(), tar::Index::read(&mut window, memory, &mut warnings).await?);
        Ok(Site { source: Some(source), content, warnings, piece: window::LEN })
    }

    /// The files of a directory that another domain shares (9pfs), as they are at each moment: nothing is kept of them, so
    /// changes are seen at once. Symbolic links are followed as long as they lead to what is below it; with a server that
    /// follows them by itself, as xen-9pfsd, they lead where that lets them.
    ///
    /// It waits for a backend that is away; whoever does not want that asks [`Share::session`](xen_9pfs::front::Share::session)
    /// first.
    pub fn of_share(root: xen_9pfs::front::Dir) -> Site<D> {
        let content = Content::Share(share::Folder::new(root));
        Site { source: None, content, warnings: Warnings::default(), piece: window::LEN }
    }

    /// Has files read in pieces of up to so many bytes, for which each has memory of its own: 16 KiB
    /// otherwise. What reads much at once from many files needs fewer requests with larger ones.
    pub fn with_pieces_of(self, bytes: usize) -> Site<D> {
        Site { piece: bytes, ..self }
    }

    /// Keeps up to so many bytes of what was read last, in blocks of 16 KiB, for files of up to half of that; 64 MiB at
    /// most. Nothing is kept otherwise.
    pub fn with_cache_of(self, bytes: usize) -> Site<D> {
        if let Some(source) = &self.source {
            source.keep(bytes);
        }
        self
    }

    /// What the device holds.
    pub fn format(&self) -> Format {
        match &self.content {
            Content::Tar(_, index) => Format::Tar { files: index.len() },
            Content::Ext4(_) => Format::Ext4,
            Content::Share(_) => Format::Share,
        }
    }

    /// What is not served: the first few, and how many there are in all.
    pub fn warnings(&self) -> (&[Warning], usize) {
        (&self.warnings.first, self.warnings.count)
    }

    /// A regular file by its path, whose parts are separated by `/`; links are followed. `None` where there is none.
    ///
    /// # Errors
    ///
    /// Where the device fails.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time.
    pub async fn open(&self, path: &str) -> Result<Option<File<D>>, ReadError> {
        let Some(path) = path::clean(path.as_bytes()) else { return Ok(None) };
        Ok(match &self.content {
            // By itself: a server's futures, of which each connection has one, would all have room for it.
            Content::Tar(source, index) => Box::pin(index.find(source, &path, self.piece)).await?.map(|found| File {
                size: found.size,
                modified: found.modified,
                place: Place::Tar(found),
            }),
            Content::Ext4(system) => system.open(&path, self.piece).await?.map(|file| File {
                size: file.size(),
                modified: file.modified(),
                place: Place::Ext4(system.clone(), Box::new(file)),
            }),
            Content::Share(folder) => Box::pin(folder.open(&path, self.piece)).await?.map(|file| File {
                size: file.size,
                modified: file.modified,
                place: Place::Share(file),
            }),
        })
    }
}

/// A file that is read. It may outlive its site.
pub struct File<D: BlockDevice> {
    size: u64,
    modified: i64,
    place: Place<D>,
}

enum Place<D: BlockDevice> {
    Tar(Box<tar::OpenFile<D>>),
    Ext4(Rc<ext4::FileSystem<D>>, Box<ext4::OpenFile<D>>),
    Share(Box<share::OpenFile>),
}

impl<D: BlockDevice> File<D> {
    /// Its bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// When it was changed, in seconds since 1970.
    pub fn modified(&self) -> i64 {
        self.modified
    }

    /// Reads from byte `at` on; returns how many bytes came, which is 0 at the end alone.
    ///
    /// # Errors
    ///
    /// Where the device fails.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time.
    pub async fn read(&mut self, at: u64, to: &mut [u8]) -> Result<usize, ReadError> {
        let left = self.size.saturating_sub(at);
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(to.len());
        if len == 0 {
            return Ok(0);
        }
        match &mut self.place {
            Place::Tar(file) => file.read(at, &mut to[..len]).await,
            Place::Ext4(system, file) => Ok(system.read(file, at, &mut to[..len]).await?),
            // By itself, as above.
            Place::Share(file) => Ok(Box::pin(file.read(at, &mut to[..len])).await?),
        }
    }

    /// The bytes from byte `at` on that are in memory already, up to `most`; nothing where [`read`](File::read) has to be
    /// asked for them.
    pub fn at_hand(&mut self, at: u64, most: usize) -> Option<&[u8]> {
        let left = self.size.saturating_sub(at);
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(most);
        match &mut self.place {
            Place::Tar(file) => file.at_hand(at, most),
            Place::Ext4(system, file) => system.at_hand(file, at, most),
            // What it is may have changed.
            Place::Share(_) => None,
        }
    }

    /// Gives back the memory of what was read ahead. It is taken again when it is read from.
    pub fn pause(&mut self) {
        match &mut self.place {
            Place::Tar(file) => file.pause(),
            Place::Ext4(_, file) => file.pause(),
            Place::Share(file) => file.pause(),
        }
    }
}

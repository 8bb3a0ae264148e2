#![doc = include_str!("../README.md")]
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod ext4;
pub mod http;
mod tar;
mod window;

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use xen_blkif::{BlockDevice, Error};

use window::Window;

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
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Format::Tar { files: 1 } => f.write_str("a tar archive with 1 file"),
            Format::Tar { files } => write!(f, "a tar archive with {files} files"),
            Format::Ext4 => f.write_str("an ext4 file system"),
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
    Ext4(String),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::Disk(error) => error.fmt(f),
            OpenError::Empty => f.write_str("it is empty: neither a tar archive nor an ext4 file system"),
            OpenError::Unknown => f.write_str(
                "its format is not known: expected a tar archive (tar -cf site.tar -C FOLDER .) or an ext4 file system",
            ),
            OpenError::Ext4(why) => write!(f, "it is an ext4 file system that cannot be read: {why}"),
        }
    }
}

impl core::error::Error for OpenError {}

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
    Ext4(String),
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReadError::Disk(error) => error.fmt(f),
            ReadError::Ext4(why) => write!(f, "the file system: {why}"),
        }
    }
}

impl core::error::Error for ReadError {}

impl From<Error> for ReadError {
    fn from(error: Error) -> Self {
        ReadError::Disk(error)
    }
}

/// What of a device is not served.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Warning {
    /// A name that is no text, or leads out of the archive.
    Name {
        /// Where its header is, in bytes.
        at: u64,
        /// The name, as far as it is text.
        name: String,
    },
    /// A file that is longer than what is left of the device.
    Truncated {
        /// The file.
        name: String,
        /// Where it should end, in bytes.
        end: u64,
        /// Where the device ends.
        size: u64,
    },
    /// The archive ends without its end mark.
    NoEnd {
        /// Where the next header should be.
        at: u64,
    },
    /// What should be a header is none: nothing behind it is found.
    NoHeader {
        /// Where, in bytes.
        at: u64,
    },
    /// A file with holes, in GNU tar's own form.
    Sparse {
        /// The file.
        name: String,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Warning::Name { at, name } => {
                write!(f, "the name at byte {at}, {name:?}, is no text or leads out of the archive: left out")
            }
            Warning::Truncated { name, end, size } => {
                write!(
                    f,
                    "{name:?} ends at byte {end}, and the disk at {size}: left out; was the archive copied whole?"
                )
            }
            Warning::NoEnd { at } => write!(f, "no end mark at byte {at}: was the archive copied whole?"),
            Warning::NoHeader { at } => write!(f, "no tar header at byte {at}: what is behind it is not served"),
            Warning::Sparse { name } => {
                write!(f, "{name:?} has holes in GNU tar's form: left out; tar without --sparse stores it whole")
            }
        }
    }
}

/// The files of a device.
pub struct Site<D: BlockDevice> {
    disk: Rc<D>,
    content: Content<D>,
    warnings: Warnings,
    piece: usize,
}

enum Content<D: BlockDevice> {
    Tar(tar::Index),
    Ext4(ext4::FileSystem<D>),
}

/// The first of them, and how many there were.
#[derive(Debug, Default)]
struct Warnings {
    first: Vec<Warning>,
    count: usize,
}

impl Warnings {
    const MOST: usize = 16;

    fn add(&mut self, warning: Warning) {
        self.count += 1;
        if self.first.len() < Self::MOST {
            self.first.push(warning);
        }
    }
}

impl<D: BlockDevice> Site<D> {
    /// Finds out what the device holds, and where its files are.
    ///
    /// # Errors
    ///
    /// Where nothing of it can be served.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time.
    pub async fn new(disk: D) -> Result<Site<D>, OpenError> {
        if disk.geometry().sectors == 0 {
            return Err(OpenError::Empty);
        }
        let disk = Rc::new(disk);
        let mut window = Window::new(disk.clone());
        let mut warnings = Warnings::default();
        if ext4::is_there(&mut window).await? {
            let content = Content::Ext4(ext4::FileSystem::load(disk.clone()).await?);
            return Ok(Site { disk, content, warnings, piece: window::LEN });
        }
        let content = Content::Tar(tar::Index::read(&mut window, &mut warnings).await?);
        Ok(Site { disk, content, warnings, piece: window::LEN })
    }

    /// Has files read from an archive in pieces of up to so many bytes, for which each has memory of its own: 16 KiB
    /// otherwise. What reads much at once from many files needs fewer requests with larger ones.
    pub fn with_pieces_of(self, bytes: usize) -> Site<D> {
        Site { piece: bytes, ..self }
    }

    /// What the device holds.
    pub fn format(&self) -> Format {
        match &self.content {
            Content::Tar(index) => Format::Tar { files: index.len() },
            Content::Ext4(_) => Format::Ext4,
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
    pub async fn open(&self, path: &str) -> Result<Option<File<'_, D>>, ReadError> {
        let Some(path) = tar::clean(path.as_bytes()) else { return Ok(None) };
        Ok(match &self.content {
            Content::Tar(index) => index.find(&path).map(|entry| File {
                size: entry.size,
                modified: entry.modified as i64,
                place: Place::At(
                    entry.at,
                    Window::before(self.disk.clone(), entry.at.saturating_add(entry.size), self.piece),
                ),
            }),
            Content::Ext4(system) => system.open(&path).await?.map(|file| File {
                size: file.size(),
                modified: file.modified(),
                place: Place::Ext4(system, Box::new(file)),
            }),
        })
    }
}

/// A file that is read.
pub struct File<'a, D: BlockDevice> {
    size: u64,
    modified: i64,
    place: Place<'a, D>,
}

enum Place<'a, D: BlockDevice> {
    /// From this byte of the device on.
    At(u64, Window<D>),
    Ext4(&'a ext4::FileSystem<D>, Box<ext4::OpenFile>),
}

impl<D: BlockDevice> File<'_, D> {
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
            Place::At(start, window) => Ok(window.read(*start + at, &mut to[..len]).await?),
            Place::Ext4(system, file) => system.read(file, at, &mut to[..len]).await,
        }
    }
}

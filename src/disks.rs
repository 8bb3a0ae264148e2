//! The domain's disks.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use core::fmt;

use xen_blkif::front;
use xenstore_client::{Broken, Error};

use crate::App;
use crate::machine::XenPlatform;

/// A disk that another domain serves; see [`xen_blkif::front::Disk`].
pub type Disk = front::Disk<XenPlatform>;

pub use front::Options as DiskOptions;

/// Why there is no such disk.
#[derive(Debug)]
#[non_exhaustive]
pub enum DiskError {
    /// The domain has no store to find it in.
    NoStore(Broken),
    /// The store fails.
    Store(Error),
    /// No disk's name.
    Name(Box<str>),
    /// The toolstack has given the domain no such disk.
    NoDisk(Box<str>),
    /// The toolstack has given the domain no disk at all.
    None,
    /// It was removed, or its backend cannot serve it, before it could be used: the log says why.
    Gone(Box<str>),
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DiskError::NoStore(error) => write!(f, "disk: {error}"),
            DiskError::Store(error) => write!(f, "disk: {error}"),
            DiskError::Name(name) => write!(f, "disk `{name}`: expected xvda to xvdz, sda, hda or a number"),
            DiskError::NoDisk(name) => {
                write!(f, "disk {name}: not found; the xl file lists the disks (disk = [...])")
            }
            DiskError::None => f.write_str("the domain has no disk; its xl file lists them (disk = [...])"),
            DiskError::Gone(name) => write!(f, "disk {name}: refused by its backend, or removed"),
        }
    }
}

impl core::error::Error for DiskError {}

impl From<Broken> for DiskError {
    fn from(error: Broken) -> Self {
        DiskError::NoStore(error)
    }
}

impl From<Error> for DiskError {
    fn from(error: Error) -> Self {
        DiskError::Store(error)
    }
}

/// The number of a disk's name (docs/man/xen-vbd-interface.7.pandoc): a number stands for itself.
pub(crate) fn number(name: &str) -> Option<u32> {
    if let Ok(number) = name.parse() {
        return Some(number);
    }
    let (kind, letters) = name.split_at_checked(name.len().checked_sub(1)?)?;
    let letter = letters.bytes().next().filter(u8::is_ascii_lowercase)?;
    let index = u32::from(letter - b'a');
    match (kind, index) {
        ("xvd", 0..16) => Some(202 << 8 | index << 4),
        ("xvd", _) => Some(1 << 28 | index << 8),
        ("sd", 0..16) => Some(8 << 8 | index << 4),
        ("hd", 0..4) => Some([3, 22][index as usize / 2] << 8 | (index % 2) << 6),
        _ => None,
    }
}

impl App {
    /// The disk of a name (`xvda`), once it can be used. It is driven by a task of its own until its last handle is
    /// dropped. To be called once for each disk: handles can be cloned.
    ///
    /// # Errors
    ///
    /// Where there is no such disk, or it is removed before it can be used.
    ///
    /// # Cancellation
    ///
    /// Dropping the future closes the disk.
    pub async fn disk(&self, name: &str) -> Result<Disk, DiskError> {
        self.disk_with(name, DiskOptions::default()).await
    }

    /// As [`disk`](App::disk), with other options than the usual.
    ///
    /// # Errors
    ///
    /// As [`disk`](App::disk).
    ///
    /// # Cancellation
    ///
    /// Dropping the future closes the disk.
    pub async fn disk_with(&self, name: &str, options: DiskOptions) -> Result<Disk, DiskError> {
        let store = self.store()?;
        let number = number(name).ok_or_else(|| DiskError::Name(name.into()))?;
        let path = format!("device/vbd/{number}");
        if !store.exists(&path).await? {
            return Err(DiskError::NoDisk(name.into()));
        }
        let (disk, runner) = front::connect(&store, self.xen(), &path, options);
        // What ends it is in the log, and the requests that wait are told.
        self.spawn(async { drop(runner.await) }).detach();
        match disk.ready().await {
            Ok(_) => Ok(disk),
            Err(_) => Err(DiskError::Gone(name.into())),
        }
    }

    /// The disk with the least number, once it can be used; otherwise as [`disk`](App::disk).
    ///
    /// # Errors
    ///
    /// As [`disk`](App::disk), and where there is no disk.
    ///
    /// # Cancellation
    ///
    /// Dropping the future closes the disk.
    pub async fn first_disk(&self) -> Result<Disk, DiskError> {
        self.disk(&self.first_disk_name().await?).await
    }

    /// The name, a number, of the disk that [`first_disk`](App::first_disk) takes.
    ///
    /// # Errors
    ///
    /// As [`first_disk`](App::first_disk).
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time.
    pub async fn first_disk_name(&self) -> Result<String, DiskError> {
        let store = self.store()?;
        let names = match store.list("device/vbd").await {
            Ok(names) => names,
            Err(error) if error.errno() == Some(xen_hal::Errno::ENOENT) => return Err(DiskError::None),
            Err(error) => return Err(error.into()),
        };
        let first = names.iter().filter_map(|name| name.parse::<u32>().ok()).min().ok_or(DiskError::None)?;
        Ok(format!("{first}"))
    }
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn names_are_those_of_the_interface_document() {
        let known = [
            ("xvda", 51712),
            ("xvdb", 51728),
            ("xvdp", 51952),
            ("xvdq", 268439552),
            ("sda", 2048),
            ("hda", 768),
            ("hdc", 5632),
            ("51728", 51728),
        ];
        for (name, expected) in known {
            assert_eq!(number(name), Some(expected), "{name}");
        }
        for name in ["", "a", "xvd", "xvd1", "xvdA", "disk", "hde", "é", "xvdaé"] {
            assert_eq!(number(name), None, "{name}");
        }
    }
}

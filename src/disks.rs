//! The domain's disks.

use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::future::{Future, poll_fn};
use core::pin::{Pin, pin};
use core::task::Poll;

use embassy_time::{Duration, with_timeout};
use xen_blkif::{BadVdev, BlockDevice, Vdev, front};
use xen_hal::DomId;
use xenbus::State;
use xenstore_client::{Broken, Error, Store};

use crate::App;
use crate::machine::{XenPlatform, println};

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
    Name(BadVdev),
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
            DiskError::Name(name) => write!(f, "disk {name}"),
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

/// When the console is told what is waited for, and told again.
const TOLD_AFTER: [Duration; 3] = [Duration::from_secs(5), Duration::from_secs(60), Duration::from_secs(600)];
const CLASS: &str = "device/vbd";
/// Drives that are looked into while none of them has a medium.
const MAX_DRIVES: usize = 8;
/// How long a drive has to say whether it has one, before others are looked at.
const DRIVE_SECONDS: u64 = 5;

impl App {
    /// The disk of a name, once it can be used: `xvda`, `sda`, `xvda1` or any other [name of a disk](xen_blkif::Vdev). It is
    /// driven by a task of its own until its last handle is dropped. To be called once for each disk: handles can be cloned.
    ///
    /// A backend that does not come is waited for; after five seconds the console says so.
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
        let vdev: Vdev = name.parse().map_err(DiskError::Name)?;
        if !store.exists(&directory(vdev)).await? {
            return Err(DiskError::NoDisk(name.into()));
        }
        let disk = self.drive(&store, vdev, options);
        let tell = async |after: u64| tell(&store, vdev, "its backend", after).await;
        let (ready, told) = self.wait_and_tell(pin!(disk.ready()), tell).await?;
        match ready {
            Ok(_) if told => println!("disk {vdev}: its backend is connected"),
            Ok(_) => {}
            Err(_) => return Err(DiskError::Gone(name.into())),
        }
        Ok(disk)
    }

    /// The names of the domain's disks, in the order of their numbers: `xvda`, `xvdb`, `xvdaa`. Those of drives are among them.
    ///
    /// # Errors
    ///
    /// Where there is no store, or it fails.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time.
    pub async fn disk_names(&self) -> Result<Vec<String>, DiskError> {
        Ok(vdevs(&self.store()?).await?.iter().map(Vdev::to_string).collect())
    }

    /// The disk with the least number that has a medium, once it can be used; otherwise as [`disk`](App::disk). Where all are
    /// drives without one, such as an empty CD-ROM, it waits until one has, or another disk comes; after five seconds the
    /// console says so.
    ///
    /// # Errors
    ///
    /// As [`disk`](App::disk), and where there is no disk.
    ///
    /// # Cancellation
    ///
    /// Dropping the future closes the disk.
    pub async fn first_disk(&self) -> Result<Disk, DiskError> {
        self.first_disk_with(DiskOptions::default()).await
    }

    /// As [`first_disk`](App::first_disk), with other options than the usual.
    ///
    /// # Errors
    ///
    /// As [`first_disk`](App::first_disk).
    ///
    /// # Cancellation
    ///
    /// Dropping the future closes the disk.
    pub async fn first_disk_with(&self, options: DiskOptions) -> Result<Disk, DiskError> {
        let store = self.store()?;
        let tell = async |after: u64| match vdevs(&store).await?.first() {
            Some(vdev) => tell(&store, *vdev, "a medium", after).await,
            None => Ok(()),
        };
        let (choice, told) = self.wait_and_tell(pin!(self.choose(&store, options)), tell).await?;
        match choice? {
            Choice::Drive(disk) => {
                if told {
                    println!("disk {}: it has a medium", disk.name());
                }
                Ok(disk)
            }
            Choice::Disk(vdev) => self.disk_with(&vdev.to_string(), options).await,
        }
    }

    /// The first disk that is no drive, or a drive with a medium. Only a driver can tell whether a drive has one.
    async fn choose(&self, store: &Store, options: DiskOptions) -> Result<Choice, DiskError> {
        let mut watch = store.watch_any(CLASS).await?;
        let mut drives: Vec<(Vdev, Disk)> = Vec::new();
        loop {
            let vdevs = vdevs(store).await?;
            if vdevs.is_empty() {
                return Err(DiskError::None);
            }
            drives.retain(|(vdev, disk)| vdevs.contains(vdev) && !disk.has_ended());
            for vdev in vdevs {
                let backend = Backend::read(store, vdev).await?;
                if !backend.is_drive {
                    return Ok(Choice::Disk(vdev));
                }
                if drives.len() < MAX_DRIVES && drives.iter().all(|(known, _)| *known != vdev) {
                    let disk = self.drive(store, vdev, options);
                    // QEMU's backend does not begin without a medium.
                    let patience = Duration::from_secs(if backend.is_empty { 0 } else { DRIVE_SECONDS });
                    let _ready = with_timeout(patience, disk.ready()).await;
                    drives.push((vdev, disk));
                }
                if let Some(at) = drives.iter().position(|(known, disk)| *known == vdev && disk.geometry().sectors > 0)
                {
                    return Ok(Choice::Drive(drives.swap_remove(at).1));
                }
            }
            let mut changes: Vec<_> = drives
                .iter()
                .map(|(_, disk)| {
                    let known = disk.generation();
                    Box::pin(async move { disk.renewed(&known).await })
                })
                .collect();
            let changed = poll_fn(|cx| match pin!(watch.next()).poll(cx) {
                Poll::Ready(event) => Poll::Ready(event.is_some()),
                Poll::Pending if changes.iter_mut().any(|change| change.as_mut().poll(cx).is_ready()) => {
                    Poll::Ready(true)
                }
                Poll::Pending => Poll::Pending,
            });
            if !changed.await {
                return Err(store.broken().unwrap_or(Broken::Stopped).into());
            }
        }
    }

    /// Begins to drive a disk.
    fn drive(&self, store: &Store, vdev: Vdev, options: DiskOptions) -> Disk {
        let (disk, runner) = front::connect(store, self.xen(), &directory(vdev), options);
        // What ends it is in the log, and the requests that wait are told.
        self.spawn(async { drop(runner.await) }).detach();
        disk
    }

    /// Waits for something, and tells at its times how many seconds it has waited; whether it has told anything.
    async fn wait_and_tell<T>(
        &self,
        mut future: Pin<&mut impl Future<Output = T>>,
        tell: impl AsyncFn(u64) -> Result<(), Error>,
    ) -> Result<(T, bool), DiskError> {
        let mut waited = Duration::from_secs(0);
        for after in TOLD_AFTER {
            if let Ok(done) = with_timeout(after - waited, future.as_mut()).await {
                return Ok((done, waited.as_ticks() > 0));
            }
            waited = after;
            tell(after.as_secs()).await?;
        }
        Ok((future.await, true))
    }
}

fn directory(vdev: Vdev) -> String {
    format!("{CLASS}/{}", vdev.0)
}

/// The disks that the toolstack has given the domain, in the order of their numbers.
async fn vdevs(store: &Store) -> Result<BTreeSet<Vdev>, Error> {
    match store.list(CLASS).await {
        Ok(names) => Ok(names.iter().filter_map(|name| name.parse().ok().map(Vdev)).collect()),
        Err(error) if error.is_not_found() => Ok(BTreeSet::new()),
        Err(error) => Err(error),
    }
}

/// Prints what has been waited for, as the driver's log has it.
async fn tell(store: &Store, vdev: Vdev, what: &str, seconds: u64) -> Result<(), Error> {
    let Backend { domain, state, .. } = Backend::read(store, vdev).await?;
    let (domain, number, state) = (domain.0, state as u8, state.name());
    println!("disk {vdev}: waiting for {what} for {seconds} s (domain {domain}, state {number}, {state})");
    Ok(())
}

/// The disk that is taken.
enum Choice {
    /// It is not driven yet.
    Disk(Vdev),
    /// It is driven, and has a medium.
    Drive(Disk),
}

/// What the store says of a disk's other end.
struct Backend {
    domain: DomId,
    state: State,
    /// Whether its medium can be missing.
    is_drive: bool,
    /// Whether it certainly is.
    is_empty: bool,
}

impl Backend {
    async fn read(store: &Store, vdev: Vdev) -> Result<Backend, Error> {
        let own = directory(vdev);
        let path = text(store, &format!("{own}/backend")).await?;
        let domain = text(store, &format!("{own}/backend-id")).await?.parse().map_or(DomId(0), DomId);
        let state = text(store, &format!("{path}/state")).await?.parse().map_or(State::Unknown, State::from_number);
        let is_drive = text(store, &format!("{own}/device-type")).await? == "cdrom";
        // For QEMU's backend libxl writes the format and the file: `aio:`.
        let is_empty = is_drive && text(store, &format!("{path}/params")).await?.rsplit(':').next() == Some("");
        Ok(Backend { domain, state, is_drive, is_empty })
    }
}

/// What stands at a path; nothing where this domain may not read it.
async fn text(store: &Store, path: &str) -> Result<String, Error> {
    match store.get(path).await {
        Err(error) if error.is_broken() => Err(error),
        other => Ok(other.unwrap_or_default().unwrap_or_default()),
    }
}

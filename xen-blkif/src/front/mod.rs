//! blkfront: a disk that another domain serves.

mod active;
mod buffer;
mod connection;
mod driver;
mod jobs;
mod link;
mod queue;
mod request;
mod shared;

use alloc::rc::Rc;
use alloc::string::String;
use core::fmt;
use core::future::Future;

use xen_hal::{Memory, Xen};
use xenbus::{EndReason, Handle, RateLimit, frontend};
use xenstore_client::Store;

use crate::device::{BlockDevice, Completed, Error, Geometry};
use crate::vdev;
pub use buffer::Buffer;
use driver::Driver;
use queue::Kind;
use shared::Shared;
pub use shared::{Generation, Statistics};

/// How a disk is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// Use persistent grants where the backend offers them.
    pub persistent: bool,
    /// Most segments of a request, up to 256 (1 MiB); more than 11 where the backend knows indirect requests.
    pub max_segments: u16,
    /// Largest ring, as the power of two of its pages, where the backend takes such: 0 for 32 requests in flight, 4 for
    /// 512.
    pub max_ring_order: u8,
}

impl Default for Options {
    /// A ring of 64 requests at most: backends set memory aside for each.
    fn default() -> Self {
        Options { persistent: true, max_segments: 256, max_ring_order: 1 }
    }
}

impl Options {
    /// The same with [`persistent`](Options::persistent) as given.
    pub const fn with_persistent(mut self, persistent: bool) -> Options {
        self.persistent = persistent;
        self
    }

    /// The same with [`max_segments`](Options::max_segments) as given.
    pub const fn with_max_segments(mut self, max_segments: u16) -> Options {
        self.max_segments = max_segments;
        self
    }

    /// The same with [`max_ring_order`](Options::max_ring_order) as given.
    pub const fn with_max_ring_order(mut self, max_ring_order: u8) -> Options {
        self.max_ring_order = max_ring_order;
        self
    }
}

/// A disk. Clones are the same one; when the last is dropped, the driver closes the device and ends.
///
/// While the backend is away (a driver domain that is started again, a migration) requests wait, and are made again
/// when there is one. When the toolstack removes the device, or the backend does what it may not, they fail with
/// [`Error::Gone`].
pub struct Disk<G: Memory> {
    shared: Handle<Shared<G>>,
    name: Rc<str>,
}

/// Begins to drive the device whose frontend directory is `path`, such as `device/vbd/51712`. The future is the driver:
/// it has to run for the disk to work, and ends when the device is removed or the last handle dropped.
///
/// # Cancellation
///
/// Dropping the driver stops the device at once: pages that the backend still has stay out of use until it lets go.
///
/// # Examples
///
/// Both ends in the simulation:
///
/// ```
/// use xen_blkif::back::{self, Limits};
/// use xen_blkif::front::{self, Options};
/// use xen_blkif::ramdisk::RamDisk;
/// use xen_blkif::BlockDevice;
///
/// xen_sim::check("a disk", 5, |xen| {
///     let (guest, server, toolstack) = (xen.domain(), xen.domain(), xen.toolstack());
///     let (guest_store, server_store) = (guest.store(), server.store());
///     xen.run(async move {
///         let nodes = [("params", "ram"), ("mode", "w")];
///         toolstack.attach_with("vbd", guest.id(), server.id(), 51712, &nodes).await.unwrap();
///
///         let ram = RamDisk::new(server.clone(), 64).unwrap();
///         let xen = server.clone();
///         let serving = async move {
///             let open = async |_: &back::Attachment| Ok(ram.clone());
///             back::serve(&server_store, xen, Limits::default(), open, |_, _| {}).await
///         };
///         server.spawn(serving).detach();
///
///         let (disk, driver) = front::connect(&guest_store, guest.clone(), "device/vbd/51712", Options::default());
///         guest.spawn(driver).detach();
///         assert_eq!(disk.ready().await.unwrap().sectors, 64);
///         disk.write_bytes(3, &[9; 512]).await.unwrap();
///         let mut bytes = [0; 512];
///         disk.read_bytes(3, &mut bytes).await.unwrap();
///         assert_eq!(bytes, [9; 512]);
///     });
/// });
/// ```
pub fn connect<X: Xen>(
    store: &Store,
    xen: X,
    path: &str,
    options: Options,
) -> (Disk<X>, impl Future<Output = Result<EndReason, xenstore_client::Error>> + use<X>) {
    let shared = Rc::new(Shared::new(xen.clone()));
    let disk = Disk {
        shared: Handle::new(shared.clone()),
        name: vdev::name_of(path.rsplit('/').next().unwrap_or(path)).into(),
    };
    let (store, path) = (store.clone(), String::from(path));
    let runner = async move {
        // Also where the future is dropped: nobody is to wait for ever.
        let _end = End(shared.clone());
        let mut driver =
            Driver { shared: shared.clone(), xen: xen.clone(), options, lines: RateLimit::for_log_lines() };
        frontend(&store, xen, &path, &mut driver).await
    };
    (disk, runner)
}

struct End<G: Memory>(Rc<Shared<G>>);

impl<G: Memory> Drop for End<G> {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl<G: Memory> Disk<G> {
    /// Its name in the xl file, such as `xvda`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Waits until the disk can be used, and says what it is like.
    ///
    /// # Errors
    ///
    /// [`Error::Gone`] where the driver has ended, or the backend has failed.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time.
    pub async fn ready(&self) -> Result<Geometry, Error> {
        self.shared.status.ready().await.ok_or(Error::Gone)
    }

    /// What is connected now, for [`renewed`](Disk::renewed).
    pub fn generation(&self) -> Generation {
        self.shared.generation()
    }

    /// Whether its driver has ended, as where the device was removed: all requests fail.
    pub fn has_ended(&self) -> bool {
        self.shared.has_ended()
    }

    /// Waits until the disk is connected with another [`Generation`] than `known`: its backend has gone and come back, the
    /// medium was changed, the disk has grown. `false` where the driver has ended, as with a device that was removed: there
    /// will be none.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time.
    pub async fn renewed(&self, known: &Generation) -> bool {
        self.shared.status.changed(|| self.shared.is_renewed(known)).await
    }

    /// What the disk has done so far.
    pub fn statistics(&self) -> Statistics {
        self.shared.status.statistics().get()
    }

    async fn transfer(&self, kind: Kind, sector: u64, buffer: Buffer<G>) -> Completed<Buffer<G>> {
        use crate::device::Buffer as _;
        let checked = match self.ready().await {
            Ok(geometry) => match kind {
                Kind::Write => geometry.check_writable(),
                _ => Ok(()),
            }
            .and_then(|()| geometry.check(sector, buffer.len())),
            Err(error) => Err(error),
        };
        if checked.is_err() || buffer.is_empty() {
            return (buffer, checked);
        }
        let (buffer, outcome) = self.shared.submit(kind, sector, Some(buffer)).await;
        (buffer.expect("a job keeps its buffer"), outcome)
    }
}

impl<G: Memory> BlockDevice for Disk<G> {
    type Buffer = Buffer<G>;

    /// As the backend told it last; of no sectors before there was one.
    fn geometry(&self) -> Geometry {
        self.shared.status.info()
    }

    fn buffer(&self, len: usize) -> Result<Buffer<G>, Error> {
        Buffer::new(&self.shared.pool, len)
    }

    async fn read(&self, sector: u64, buffer: Buffer<G>) -> Completed<Buffer<G>> {
        self.transfer(Kind::Read, sector, buffer).await
    }

    async fn write(&self, sector: u64, buffer: Buffer<G>) -> Completed<Buffer<G>> {
        self.transfer(Kind::Write, sector, buffer).await
    }

    async fn flush(&self) -> Result<(), Error> {
        if !self.ready().await?.flush {
            return Err(Error::Unsupported("flush"));
        }
        self.shared.submit(Kind::Flush, 0, None).await.1
    }

    async fn discard(&self, sector: u64, count: u64, secure: bool) -> Result<(), Error> {
        let geometry = self.ready().await?;
        geometry.check_writable()?;
        geometry.check_sectors(sector, count)?;
        match geometry.discard {
            None => Err(Error::Unsupported("discard")),
            Some(discard) if secure && !discard.secure => Err(Error::Unsupported("discard securely")),
            Some(_) if count == 0 => Ok(()),
            Some(_) => self.shared.submit(Kind::Discard { sectors: count, secure }, sector, None).await.1,
        }
    }

    async fn changed(&self, known: &Geometry) -> Geometry {
        let status = &self.shared.status;
        status.changed(|| Some(status.info()).filter(|now| now != known)).await
    }
}

impl<G: Memory> Clone for Disk<G> {
    fn clone(&self) -> Self {
        Disk { shared: self.shared.clone(), name: self.name.clone() }
    }
}

impl<G: Memory> fmt::Debug for Disk<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").field("name", &self.name).field("geometry", &self.geometry()).finish()
    }
}

//! blkback: this domain's devices as disks of others.

mod driver;
mod guests;
mod persistent;
mod queue;
mod request;
mod worker;

use alloc::string::String;
use core::cell::RefCell;
use core::convert::Infallible;

use xen_hal::{DomId, Xen, warning};
use xenbus::{Counters, Device, End, Failure, RateLimit, backend, serve as serve_class};
use xenstore_client::Store;

use crate::device::BlockDevice;
use crate::vdev;
use driver::Driver;
use guests::Guests;
pub use request::BadRequest;

/// A device that the toolstack has attached to a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The guest.
    pub domain: DomId,
    /// The device's number among the guest's, such as 51712 for `xvda`.
    pub device: String,
    /// What the guest's xl file names as the disk's target (`target=` or the first word).
    pub params: String,
    /// Whether the guest may write.
    pub writable: bool,
    /// Whether the guest is to take it for a medium that can be removed.
    pub removable: bool,
    /// Whether the guest is to take it for a CD-ROM.
    pub cdrom: bool,
}

/// Bounds of what one guest may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes of requests that are worked on at once, over all disks of the guest. A request of more waits until it is
    /// alone in its queue.
    pub in_flight: usize,
    /// Queues that a disk may have, each with a ring of up to 16 pages of its own.
    pub queues: u32,
    /// Pages of the guest that stay mapped between its requests (persistent grants), over all its disks; 1056 of one.
    /// What goes beyond is copied by the hypervisor.
    pub persistent_grants: usize,
    /// The same for all guests together, who share it evenly. Where this domain has less address space for others'
    /// pages, fewer stay mapped: a guest always gets its rings.
    pub persistent_grants_total: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { in_flight: 4 << 20, queues: 4, persistent_grants: 2112, persistent_grants_total: 32768 }
    }
}

impl Limits {
    /// The same with [`in_flight`](Limits::in_flight) as given.
    pub const fn with_in_flight(mut self, in_flight: usize) -> Limits {
        self.in_flight = in_flight;
        self
    }

    /// The same with [`queues`](Limits::queues) as given.
    pub const fn with_queues(mut self, queues: u32) -> Limits {
        self.queues = queues;
        self
    }

    /// The same with [`persistent_grants`](Limits::persistent_grants) as given.
    pub const fn with_persistent_grants(mut self, persistent_grants: usize) -> Limits {
        self.persistent_grants = persistent_grants;
        self
    }

    /// The same with [`persistent_grants_total`](Limits::persistent_grants_total) as given.
    pub const fn with_persistent_grants_total(mut self, persistent_grants_total: usize) -> Limits {
        self.persistent_grants_total = persistent_grants_total;
        self
    }
}

/// What a disk has done for its guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub struct Statistics {
    /// Reads, writes, flushes (and barriers) and discards that the guest has asked for.
    pub reads: u64,
    /// See [`reads`](Statistics::reads).
    pub writes: u64,
    /// See [`reads`](Statistics::reads).
    pub flushes: u64,
    /// See [`reads`](Statistics::reads).
    pub discards: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Requests that were done together with the one before.
    pub merged: u64,
    /// Calls to the hypervisor that have copied data of requests.
    pub grant_copies: u64,
    /// Requests that were refused or failed.
    pub failures: u64,
    /// Notifications sent to the guest.
    pub notifications: u64,
}

/// Serves every disk that the toolstack wants of this domain, each to its guest.
///
/// `open` finds the device for one; its failure is what `xl` shows. A guest that connects again, as a kernel does after its
/// firmware, has that device still, unless the toolstack has changed the attachment: then the device is dropped, and `open`
/// asked again. `ended` hears of each disk's end and what it did.
///
/// # Errors
///
/// The store's: a device's own failures end that device alone, and go to the log and to its error node.
///
/// # Cancellation
///
/// Dropping it stops all disks at once.
///
/// # Examples
///
/// Every guest gets a disk of its own in memory, as large as its `target=` says (`target=16`, in MiB). [`front::connect`](
/// crate::front::connect) has an example of both ends.
///
/// ```
/// use xen_blkif::back::{self, Attachment, Limits};
/// use xen_blkif::ramdisk::RamDisk;
/// use xen_hal::{Errno, Xen};
/// use xenbus::Failure;
/// use xenstore_client::{Error, Store};
///
/// async fn serve<X: Xen>(store: &Store, xen: X) -> Result<(), Error> {
///     let open = async |attachment: &Attachment| {
///         let size: u64 = attachment.params.parse().map_err(|error| Failure::new(Errno::EINVAL, error))?;
///         RamDisk::new(xen.clone(), size << 11).map_err(|error| Failure::new(Errno::ENOMEM, error))
///     };
///     let ended = |attachment: &Attachment, done: back::Statistics| {
///         println!("{} of {}: {} reads, {} writes", attachment.device, attachment.domain, done.reads, done.writes);
///     };
///     back::serve(store, xen.clone(), Limits::default(), open, ended).await.map(|never| match never {})
/// }
/// ```
pub async fn serve<X: Xen, D: BlockDevice>(
    store: &Store,
    xen: X,
    limits: Limits,
    open: impl AsyncFn(&Attachment) -> Result<D, Failure>,
    ended: impl Fn(&Attachment, Statistics),
) -> Result<Infallible, xenstore_client::Error> {
    let guests = Guests::new(limits);
    let (open, ended, guests) = (&open, &ended, &guests);
    serve_class(store, xen.clone(), End::Backend, "vbd", |found| {
        let (store, xen) = (store.clone(), xen.clone());
        async move {
            let statistics = Counters::default();
            let mut driver = Driver {
                xen: xen.clone(),
                limits,
                guests,
                open,
                opened: None,
                advertised: None,
                statistics: &statistics,
                lines: RefCell::new(RateLimit::for_log_lines()),
            };
            let outcome = backend(&store, xen, &found.path, &mut driver).await;
            if let Some((attachment, _)) = driver.opened.take() {
                ended(&attachment, statistics.get());
            }
            if let Err(error) = outcome {
                warning!("{}: {}", found.path, error);
            }
        }
    })
    .await
}

impl Attachment {
    /// Its name in the guest's xl file, such as `xvda`.
    pub fn name(&self) -> String {
        vdev::name_of(&self.device)
    }

    async fn read(device: &Device) -> Result<Attachment, Failure> {
        let text = async |key: &str| Ok::<String, Failure>(device.get(key).await?.unwrap_or_default());
        Ok(Attachment {
            domain: device.other_domain(),
            device: device.id().into(),
            params: text("params").await?,
            writable: text("mode").await?.starts_with('w'),
            removable: text("removable").await? == "1",
            cdrom: text("device-type").await? == "cdrom",
        })
    }
}

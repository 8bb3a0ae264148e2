//! netback: this domain as the network of others.

mod chain;
mod credit;
mod device;
mod driver;
pub(crate) mod fuzzing;
mod packet;
mod pool;
mod port;
mod queue;
mod ready;
mod rings;

use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::convert::Infallible;
use core::net::IpAddr;
use core::time::Duration;

use xen_hal::{Clock, DomId, Xen, warning};
use xenbus::{End, Failure, Phase, RateLimit, backend, serve as serve_class};
use xenstore_client::Store;

pub use device::{Device, RxToken, TxToken};
use driver::Driver;
pub use packet::{Checksum, Packet};
use pool::Pool;
use port::Shared;
pub use port::{Port, PortRings, SendError};

/// A device that the toolstack has attached to a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The guest.
    pub domain: DomId,
    /// The interface's number among the guest's, from 0.
    pub device: String,
    /// The guest's address.
    pub mac: [u8; 6],
    /// The bridge that the guest's xl file names, or nothing.
    pub bridge: String,
    /// The guest's addresses, from `ip` in its xl file: of either family.
    pub addresses: Vec<IpAddr>,
    /// Bytes that the guest may send in a time, from `rate` in its xl file.
    pub rate: Option<(u64, Duration)>,
}

/// Bounds of the memory that one guest may use, in bytes: what packets cost besides their own bytes counts as well. And of the
/// pages that all guests share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Of the guest's packets that wait to be read; when they are as many, but for one more packet, the guest waits.
    pub from_guest: usize,
    /// Of packets that wait for the guest; what is more is dropped (XSA-392).
    pub to_guest: usize,
    /// Pages for large packets of all guests together, side by side, which are taken with the first such packet. What finds
    /// none is copied to the heap, which takes longer.
    pub pages: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { from_guest: 512 << 10, to_guest: 1 << 20, pages: 128 }
    }
}

impl Limits {
    /// The same with [`from_guest`](Limits::from_guest) as given.
    pub const fn with_from_guest(mut self, from_guest: usize) -> Limits {
        self.from_guest = from_guest;
        self
    }

    /// The same with [`to_guest`](Limits::to_guest) as given.
    pub const fn with_to_guest(mut self, to_guest: usize) -> Limits {
        self.to_guest = to_guest;
        self
    }

    /// The same with [`pages`](Limits::pages) as given.
    pub const fn with_pages(mut self, pages: usize) -> Limits {
        self.pages = pages;
        self
    }
}

/// What an interface has done for its guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub struct Statistics {
    /// Packets from the guest.
    pub from_guest: u64,
    /// Their bytes.
    pub from_guest_bytes: u64,
    /// Packets to the guest.
    pub to_guest: u64,
    /// Their bytes.
    pub to_guest_bytes: u64,
    /// Packets of the guest's that were refused.
    pub refused: u64,
    /// Packets for the guest that were dropped.
    pub dropped: u64,
    /// Calls to the hypervisor that have copied packets.
    pub grant_copies: u64,
    /// Copies in these calls: each within one page of the guest's, and one page here.
    pub copy_operations: u64,
    /// Notifications sent to the guest.
    pub notifications: u64,
}

/// Serves every interface that the toolstack wants of this domain. Each is given to `opened` as a [`Port`], whose failure
/// is what `xl` shows; it ends when its guest's interface does.
///
/// # Errors
///
/// The store's: an interface's own failures end that one alone, and go to the log and to its error node.
///
/// # Cancellation
///
/// Dropping it stops all interfaces at once.
///
/// # Examples
///
/// A hub: what one guest sends goes to all others.
///
/// ```
/// use std::cell::RefCell;
/// use std::rc::Rc;
/// use xen_hal::Xen;
/// use xen_netif::back::{self, Limits, Port};
/// use xenstore_client::{Error, Store};
///
/// async fn hub<X: Xen>(store: &Store, xen: X, spawn: impl Fn(core::pin::Pin<Box<dyn Future<Output = ()>>>)) -> Error {
///     let ports = Rc::new(RefCell::new(Vec::<Rc<Port>>::new()));
///     let opened = |port: Port| {
///         let (port, ports) = (Rc::new(port), ports.clone());
///         ports.borrow_mut().push(port.clone());
///         spawn(Box::pin(async move {
///             while let Some(packet) = port.receive().await {
///                 for other in ports.borrow().iter().filter(|other| !Rc::ptr_eq(other, &port)) {
///                     drop(other.send(packet.clone())); // one that takes nothing loses it
///                 }
///             }
///             ports.borrow_mut().retain(|other| !Rc::ptr_eq(other, &port));
///         }));
///         Ok(())
///     };
///     match back::serve(store, xen, Limits::default(), opened).await {
///         Err(error) => error,
///     }
/// }
/// ```
pub async fn serve<X: Xen>(
    store: &Store,
    xen: X,
    limits: Limits,
    opened: impl Fn(Port) -> Result<(), Failure>,
) -> Result<Infallible, xenstore_client::Error> {
    let opened = &opened;
    let pool = Rc::new(Pool::new(xen.clone(), limits.pages));
    serve_class(store, xen.clone(), End::Backend, "vif", |found| {
        let (store, xen, pool) = (store.clone(), xen.clone(), pool.clone());
        async move {
            let lines = RateLimit::for_log_lines();
            let mut driver = Driver { xen: xen.clone(), limits, pool, opened, shared: None, lines };
            let outcome = backend(&store, xen, &found.path, &mut driver).await;
            if let Some(shared) = driver.shared.take() {
                shared.disconnect(Phase::Gone);
            }
            if let Err(error) = outcome {
                warning!("{}: {}", found.path, error);
            }
        }
    })
    .await
}

/// Gives a port to the application.
fn open(
    attachment: Attachment,
    limits: Limits,
    clock: impl Clock + 'static,
    opened: &impl Fn(Port) -> Result<(), Failure>,
) -> Result<Rc<Shared>, Failure> {
    let shared = Rc::new(Shared::new(attachment, limits, move || clock.now()));
    opened(Port(shared.clone()))?;
    Ok(shared)
}

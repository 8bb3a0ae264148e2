//! netfront: a network interface that another domain serves.

mod device;
mod driver;
mod packets;
mod rx;
mod shared;
mod tx;

use alloc::rc::{Rc, Weak};
use alloc::string::String;
use core::fmt;
use core::future::Future;
use core::pin::pin;

use futures_util::future::{Either, select};
use xen_hal::{Memory, Xen};
use xenbus::{EndReason, Handle, Phase, RateLimit, frontend};
use xenstore_client::Store;

pub use device::{Device, RxToken, TxToken};
use driver::Driver;
pub(crate) use driver::mac_address;
pub use packets::Packets;
use shared::Shared;
pub use shared::Statistics;

use crate::offload::{FrameInfo, Offloads};

/// How an interface is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// Send and receive TCP in segments larger than the MTU, where the backend takes them.
    pub large_segments: bool,
    /// Leave checksums to the backend, where it makes them.
    pub checksums: bool,
    /// Pages for frames on their way out, at least 17.
    pub transmit_pages: usize,
    /// Pages for frames on their way in: a power of two, from 32 to 256.
    pub receive_pages: usize,
    /// Pages besides, which large frames take along where they are passed on ([`Packets`]): without them all are copied.
    pub spare_pages: usize,
    /// Let the backend drop multicast frames of groups that were not [joined](Interface::join).
    pub multicast_control: bool,
}

impl Default for Options {
    /// All that makes it fast, in about a megabyte.
    fn default() -> Self {
        Options {
            large_segments: true,
            checksums: true,
            transmit_pages: 128,
            receive_pages: 128,
            spare_pages: 0,
            multicast_control: false,
        }
    }
}

impl Options {
    /// The same with [`large_segments`](Options::large_segments) as given.
    pub const fn with_large_segments(mut self, large_segments: bool) -> Options {
        self.large_segments = large_segments;
        self
    }

    /// The same with [`checksums`](Options::checksums) as given.
    pub const fn with_checksums(mut self, checksums: bool) -> Options {
        self.checksums = checksums;
        self
    }

    /// The same with [`transmit_pages`](Options::transmit_pages) as given.
    pub const fn with_transmit_pages(mut self, transmit_pages: usize) -> Options {
        self.transmit_pages = transmit_pages;
        self
    }

    /// The same with [`receive_pages`](Options::receive_pages) as given.
    pub const fn with_receive_pages(mut self, receive_pages: usize) -> Options {
        self.receive_pages = receive_pages;
        self
    }

    /// The same with [`spare_pages`](Options::spare_pages) as given.
    pub const fn with_spare_pages(mut self, spare_pages: usize) -> Options {
        self.spare_pages = spare_pages;
        self
    }

    /// The same with [`multicast_control`](Options::multicast_control) as given.
    pub const fn with_multicast_control(mut self, multicast_control: bool) -> Options {
        self.multicast_control = multicast_control;
        self
    }

    /// Whether the backend may leave checksums to this end.
    fn accepts_blank(&self) -> bool {
        self.checksums
    }

    /// Whether the backend may leave large segments whole.
    fn accepts_segments(&self) -> bool {
        self.large_segments && self.checksums
    }

    /// Whether the backend was told that it may leave to this end what it has left.
    fn has_requested(&self, info: FrameInfo) -> bool {
        (!info.blank || self.accepts_blank()) && (info.gso.is_none() || self.accepts_segments())
    }
}

/// What an interface is like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub struct Info {
    /// Its address.
    pub mac: [u8; 6],
    /// Most bytes of an IP packet on the wire.
    pub mtu: u16,
    /// Whether TCP over IPv4 is sent in large segments.
    pub gso_v4: bool,
    /// Whether TCP over IPv6 is sent in large segments.
    pub gso_v6: bool,
    /// Whether the backend makes checksums over IPv4.
    pub checksum_v4: bool,
    /// Whether the backend makes checksums over IPv6.
    pub checksum_v6: bool,
}

impl Info {
    pub(crate) fn offloads(self) -> Offloads {
        let Info { mtu, gso_v4, gso_v6, checksum_v4, checksum_v6, .. } = self;
        Offloads { mtu, gso_v4, gso_v6, checksum_v4, checksum_v6 }
    }
}

/// The interface is gone: it was removed, or its backend cannot serve it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Gone;

impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the network interface is gone")
    }
}

impl core::error::Error for Gone {}

/// A network interface. Clones are the same one; when the last is dropped, and its [`Device`] too, the driver closes the
/// interface and ends.
///
/// While the backend is away the link is down, and what is sent is dropped, as on a wire.
pub struct Interface<G: Memory> {
    shared: Handle<Shared<G>>,
    name: Rc<str>,
}

/// Begins to drive the interface whose frontend directory is `path`, such as `device/vif/0`. The future is the driver: it
/// has to run for the interface to work, and ends when nobody uses the interface any more, or it was removed before it
/// could be used. One that is unplugged later has its link down until it is plugged in again; a stack expects it to have
/// the same address then.
///
/// # Cancellation
///
/// Dropping the driver stops the interface at once: pages that the backend still has stay out of use until it lets go.
///
/// # Panics
///
/// Where the options name no possible number of pages.
///
/// # Examples
///
/// ```
/// use core::error::Error;
/// use xen_hal::Xen;
/// use xen_netif::front::{self, Interface, Options};
/// use xenstore_client::Store;
///
/// /// An interface that is up. `spawn` runs its driver.
/// async fn first_interface<X: Xen>(
///     store: &Store,
///     xen: X,
///     spawn: impl FnOnce(core::pin::Pin<Box<dyn Future<Output = ()>>>),
/// ) -> Result<Interface<X>, Box<dyn Error>> {
///     let (interface, driver) = front::connect(store, xen, "device/vif/0", Options::default());
///     spawn(Box::pin(async { drop(driver.await) }));
///     let info = interface.ready().await?;
///     println!("{:02x?}, MTU {}", info.mac, info.mtu);
///     Ok(interface) // `interface.device()` is a driver for embassy-net
/// }
/// ```
pub fn connect<X: Xen>(
    store: &Store,
    xen: X,
    path: &str,
    options: Options,
) -> (Interface<X>, impl Future<Output = Result<EndReason, xenstore_client::Error>> + use<X>) {
    assert!(options.transmit_pages >= 17, "a frame takes up to 17 pages");
    assert!(options.receive_pages.is_power_of_two() && (32..=256).contains(&options.receive_pages), "32 to 256 pages");
    let clock = xen.clone();
    let shared = Rc::new(Shared::new(xen.clone(), options, move || clock.now()));
    let name = path.rsplit('/').next().unwrap_or(path).into();
    let interface = Interface { shared: Handle::new(shared.clone()), name };
    let (store, path) = (store.clone(), String::from(path));
    let runner = async move {
        // Also where the future is dropped: nobody is to wait for ever.
        let _end = End(shared.clone());
        let mut driver = Driver { shared: shared.clone(), xen: xen.clone(), lines: RateLimit::for_log_lines() };
        let status = &shared.status;
        loop {
            let ended = frontend(&store, xen.clone(), &path, &mut driver).await?;
            // What was unplugged may be plugged in again, for whoever still has it.
            let connections = status.statistics().get().connections;
            if ended != EndReason::Removed || status.users().is_empty() || connections == 0 {
                return Ok(ended);
            }
            shared.set_phase(Phase::Waiting);
            let state = alloc::format!("{path}/state");
            let plugged = store.wait_for(&state, |value| value.map(drop));
            if let Either::Right(((), _)) = select(pin!(plugged), pin!(status.users().gone())).await {
                return Ok(ended);
            }
        }
    };
    (interface, runner)
}

struct End<G: Memory>(Rc<Shared<G>>);

impl<G: Memory> Drop for End<G> {
    fn drop(&mut self) {
        self.0.disconnect(Phase::Gone);
    }
}

impl<G: Memory> Interface<G> {
    /// Its name in the frontend's directory: a number, from 0.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Waits until it can be used, and says what it is like.
    ///
    /// # Errors
    ///
    /// Where it was removed, or its backend cannot serve it.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time.
    pub async fn ready(&self) -> Result<Info, Gone> {
        self.shared.status.ready().await.ok_or(Gone)
    }

    /// What it is like; all zero before there was a backend.
    pub fn info(&self) -> Info {
        self.shared.status.info()
    }

    /// The driver for a network stack. One at a time is of use: frames go to whichever asks first.
    pub fn device(&self) -> Device<G> {
        Device { shared: self.shared.clone() }
    }

    /// Has the backend let a multicast group's frames through, where [`Options::multicast_control`] holds back others.
    /// Whether there was room to tell it; groups have to be joined again after a reconnection.
    pub fn join(&self, group: [u8; 6]) -> bool {
        self.shared.send_extra(crate::protocol::Extra::MulticastAdd(group))
    }

    /// Has the backend hold back a multicast group's frames again. Whether there was room to tell it.
    pub fn leave(&self, group: [u8; 6]) -> bool {
        self.shared.send_extra(crate::protocol::Extra::MulticastRemove(group))
    }

    /// What it has done so far.
    pub fn statistics(&self) -> Statistics {
        self.shared.status.statistics().get()
    }

    /// What shows how its rings stand, for whoever looks for a fault. It does not keep the interface open.
    pub fn rings(&self) -> Rings<G> {
        Rings(Rc::downgrade(self.shared.shared()))
    }
}

impl<G: Memory> Rings<G> {
    /// Whether the interface is still there.
    pub fn is_alive(&self) -> bool {
        self.0.strong_count() > 0
    }
}

/// An interface's rings, to be displayed.
pub struct Rings<G: Memory>(Weak<Shared<G>>);

impl<G: Memory> fmt::Display for Rings<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(shared) = self.0.upgrade() else { return f.write_str("closed") };
        let (tx, rx) = (shared.tx.borrow(), shared.rx.borrow());
        let (Some(tx), Some(rx)) = (tx.as_ref(), rx.as_ref()) else { return f.write_str("not connected") };
        write!(f, "tx {tx}; rx {rx}; {:?}", shared.status.statistics().get())
    }
}

impl<G: Memory> Clone for Interface<G> {
    fn clone(&self) -> Self {
        Interface { shared: self.shared.clone(), name: self.name.clone() }
    }
}

impl<G: Memory> fmt::Debug for Interface<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interface").field("name", &self.name).field("info", &self.info()).finish()
    }
}

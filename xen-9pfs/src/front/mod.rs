//! 9pfs frontend: a directory that another domain shares.

mod check;
mod connection;
mod dir;
mod driver;
mod error;
mod fid;
mod fids;
mod file;
mod metadata;
mod open_options;
mod ops;
mod path;
mod read_dir;
mod requests;
mod session;
mod shared;

use alloc::rc::Rc;
use alloc::string::String;
use core::fmt;
use core::future::Future;

use xen_hal::Xen;
use xenbus::{EndReason, Handle, Phase, RateLimit, frontend};
use xenstore_client::Store;

use crate::protocol::{NONUNAME, VERSION, VERSION_U};
pub use dir::Dir;
use driver::Driver;
pub use error::Error;
pub use file::{Cursor, File};
pub use metadata::{Changes, FileKind, Metadata, Space};
pub use open_options::OpenOptions;
pub use read_dir::{Entry, ReadDir};
pub use requests::MAX_REQUESTS;
use shared::Shared;
pub use shared::{Session, Statistics};

/// A dialect of 9P that one of Xen's servers speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum Dialect {
    /// 9P2000.L, QEMU's: all that files of Linux have.
    Linux,
    /// 9P2000.u, xen-9pfsd's. That one has no links, renames no file, removes no directory and changes no attributes.
    Unix,
}

impl Dialect {
    /// As servers call it.
    pub const fn version(self) -> &'static str {
        match self {
            Dialect::Linux => VERSION,
            Dialect::Unix => VERSION_U,
        }
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.version())
    }
}

/// How a share is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// Largest ring, as the power of two of its pages for both directions together, 1 to 9, where the backend takes
    /// such. A message is no longer than one direction.
    pub max_ring_order: u8,
    /// Most rings, 1 to 4, where the backend takes as many. A backend works on one request of each ring at a time.
    pub max_rings: u8,
    /// The dialect; `None` takes 9P2000.L where the server speaks it, and 9P2000.u otherwise.
    pub dialect: Option<Dialect>,
    /// The user's name, for the server. Neither of Xen's looks at it.
    pub uname: &'static str,
    /// The tree's name; the only one of Xen's backends has none.
    pub aname: &'static str,
    /// The user's number, or [`NONUNAME`]. QEMU's server gives new files to it.
    pub n_uname: u32,
}

impl Default for Options {
    /// One ring of 64 KiB, which has messages of 32 KiB at most; no user in particular, and the server's only tree.
    fn default() -> Self {
        Options::USUAL
    }
}

impl Options {
    /// What is [the default](Options::default), as a constant.
    pub const USUAL: Options =
        Options { max_ring_order: 4, max_rings: 1, dialect: None, uname: "", aname: "", n_uname: NONUNAME };

    /// The same with [`max_ring_order`](Options::max_ring_order) as given.
    pub const fn with_max_ring_order(mut self, max_ring_order: u8) -> Options {
        self.max_ring_order = max_ring_order;
        self
    }

    /// The same with [`max_rings`](Options::max_rings) as given.
    pub const fn with_max_rings(mut self, max_rings: u8) -> Options {
        self.max_rings = max_rings;
        self
    }

    /// The same with [`dialect`](Options::dialect) as given.
    pub const fn with_dialect(mut self, dialect: Dialect) -> Options {
        self.dialect = Some(dialect);
        self
    }

    /// The same with [`uname`](Options::uname) and [`n_uname`](Options::n_uname) as given.
    pub const fn with_user(mut self, uname: &'static str, n_uname: u32) -> Options {
        (self.uname, self.n_uname) = (uname, n_uname);
        self
    }

    /// The same with [`aname`](Options::aname) as given.
    pub const fn with_aname(mut self, aname: &'static str) -> Options {
        self.aname = aname;
        self
    }
}

/// A directory that another domain shares. Clones are the same one; when the last is dropped, and the last [`File`] and
/// [`Dir`] of it, the driver closes the device and ends.
///
/// While the backend is away, whoever begins something at the root waits. A backend that comes back knows nothing of the files
/// that were open: requests that the old one had fail with [`Error::Disconnected`], and the [`File`]s and [`Dir`]s of then with
/// [`Error::Stale`] ever after. They are to be opened again.
#[derive(Clone)]
pub struct Share {
    shared: Handle<Shared>,
}

/// Begins to drive the device whose frontend directory is `path`, such as `device/9pfs/0`. The future is the driver: it
/// has to run for the share to work, and ends when the device is removed or the last handle dropped.
///
/// # Cancellation
///
/// Dropping the driver stops the device at once: pages that the backend still has stay out of use until it lets go.
///
/// # Examples
///
/// ```
/// use xen_9pfs::front::{Error, Options, connect};
///
/// /// What a file of the first share has.
/// async fn greeting(guest: &xen_sim::Domain) -> Result<Vec<u8>, Error> {
///     let (share, driver) = connect(&guest.store(), guest.clone(), "device/9pfs/0", Options::default());
///     guest.spawn(driver).detach();
///     share.root().read("etc/greeting", 4096).await
/// }
/// ```
pub fn connect<X: Xen>(
    store: &Store,
    xen: X,
    path: &str,
    options: Options,
) -> (Share, impl Future<Output = Result<EndReason, xenstore_client::Error>> + use<X>) {
    let shared = Rc::new(Shared::new());
    let share = Share { shared: Handle::new(shared.clone()) };
    let (store, path) = (store.clone(), String::from(path));
    let runner = async move {
        // Also where the future is dropped: nobody is to wait for ever.
        let _end = End(shared.clone());
        let mut driver =
            Driver { shared: shared.clone(), xen: xen.clone(), options, lines: RateLimit::for_log_lines() };
        frontend(&store, xen, &path, &mut driver).await
    };
    (share, runner)
}

struct End(Rc<Shared>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.lose();
    }
}

impl Share {
    /// The directory that is shared.
    pub fn root(&self) -> Dir {
        Dir::root(&self.shared)
    }

    /// Waits until there is a session with the server, and says what was agreed on.
    ///
    /// # Errors
    ///
    /// Where the server speaks neither dialect or refuses ([`Error::UnknownVersion`], [`Error::SmallMsize`],
    /// [`Error::Refused`]), or the device is gone.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time.
    pub async fn ready(&self) -> Result<Session, Error> {
        self.shared.session().await
    }

    /// Waits until there is another session than `known`, or none, and says which.
    ///
    /// # Errors
    ///
    /// As [`ready`](Share::ready).
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time.
    pub async fn changed(&self, known: Option<Session>) -> Result<Option<Session>, Error> {
        let Shared { status, refused, .. } = &*self.shared;
        status
            .changed(|| match status.info() {
                _ if status.phase() == Phase::Gone => Some(Err(Error::Gone)),
                now if now != known => Some(Ok(now)),
                None => refused.get().map(Err),
                Some(_) => None,
            })
            .await
    }

    /// What was agreed on with the server, where there is a session.
    pub fn session(&self) -> Option<Session> {
        self.shared.status.info()
    }

    /// What the toolstack calls the share (`tag=` in the xl file); `None` before the driver has read it.
    pub fn tag(&self) -> Option<Rc<str>> {
        self.shared.tag.borrow().clone()
    }

    /// What the share has done so far.
    pub fn statistics(&self) -> Statistics {
        self.shared.status.statistics().get()
    }
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Share").field("tag", &self.tag()).field("session", &self.session()).finish()
    }
}

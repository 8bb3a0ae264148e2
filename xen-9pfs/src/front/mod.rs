//! 9pfs frontend: a directory that another domain shares.

mod connection;
mod driver;
mod requests;
mod shared;

use alloc::rc::Rc;
use alloc::string::String;
use core::fmt;
use core::future::Future;

use xen_hal::{Errno, Xen};
use xenbus::{EndReason, Handle, Phase, RateLimit, frontend};
use xenstore_client::Store;

use crate::protocol::{NONUNAME, Qid};
use driver::Driver;
pub use requests::MAX_REQUESTS;
use requests::{Answer, Request};
use shared::Shared;
pub use shared::Statistics;

/// How a share is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// Largest ring, as the power of two of its pages for both directions together, 1 to 9, where the backend takes
    /// such. A message is no longer than one direction.
    pub max_ring_order: u8,
}

impl Default for Options {
    /// 64 KiB: messages of 32 KiB at most.
    fn default() -> Self {
        Options { max_ring_order: 4 }
    }
}

impl Options {
    /// The same with [`max_ring_order`](Options::max_ring_order) as given.
    pub const fn with_max_ring_order(mut self, max_ring_order: u8) -> Options {
        self.max_ring_order = max_ring_order;
        self
    }
}

/// Why a request has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum Error {
    /// The server has refused it (`Rlerror`). The numbers are Linux's, of which Xen's are some.
    Refused(Errno),
    /// There is no session: [`Share::version`] begins one.
    NoVersion,
    /// The server does not speak 9P2000.L.
    UnknownVersion,
    /// The server takes messages of so many bytes only, which are fewer than 4096.
    SmallMsize(u32),
    /// The request is longer than the session's messages may be.
    TooLong {
        /// Most bytes of a message.
        msize: u32,
    },
    /// The connection has ended before the answer came: the server may have done it or not. The session is over.
    Disconnected,
    /// The device was removed, or its backend cannot be used.
    Gone,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Refused(errno) => write!(f, "9pfs: server returned {errno}"),
            Error::NoVersion => f.write_str("9pfs: no session; `version` begins one"),
            Error::UnknownVersion => f.write_str("9pfs: server returned an unknown version: expected 9P2000.L"),
            Error::SmallMsize(msize) => write!(f, "9pfs: server returned a msize < 4096: {msize}"),
            Error::TooLong { msize } => write!(f, "9pfs: request is longer than a message of {msize} bytes"),
            Error::Disconnected => f.write_str("9pfs: backend has disconnected"),
            Error::Gone => f.write_str("9pfs: device is gone"),
        }
    }
}

impl core::error::Error for Error {}

/// Who attaches to what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Attach<'a> {
    /// The user's name.
    pub uname: &'a str,
    /// The tree's name; the only one of Xen's backends has none.
    pub aname: &'a str,
    /// The user's number, or [`NONUNAME`].
    pub n_uname: u32,
}

impl Default for Attach<'_> {
    /// No user in particular, and the server's only tree.
    fn default() -> Self {
        Attach { uname: "", aname: "", n_uname: NONUNAME }
    }
}

impl<'a> Attach<'a> {
    /// The same with [`uname`](Attach::uname) and [`n_uname`](Attach::n_uname) as given.
    pub const fn with_user(mut self, uname: &'a str, n_uname: u32) -> Attach<'a> {
        (self.uname, self.n_uname) = (uname, n_uname);
        self
    }

    /// The same with [`aname`](Attach::aname) as given.
    pub const fn with_aname(mut self, aname: &'a str) -> Attach<'a> {
        self.aname = aname;
        self
    }
}

/// A directory that another domain shares. Clones are the same one; when the last is dropped, the driver closes the
/// device and ends.
///
/// While the backend is away, requests wait. A backend that comes back knows nothing of the session before: requests
/// that the old one had fail with [`Error::Disconnected`], and all others with [`Error::NoVersion`] until there is a
/// new session.
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
/// use xen_9pfs::front::{Attach, Error, Options, connect};
/// use xen_9pfs::protocol::Qid;
///
/// /// The root of the first share, for the user root.
/// async fn root(guest: &xen_sim::Domain) -> Result<Qid, Error> {
///     let (share, driver) = connect(&guest.store(), guest.clone(), "device/9pfs/0", Options::default());
///     guest.spawn(driver).detach();
///     share.version().await?;
///     share.attach(0, Attach::default().with_user("root", 0)).await
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
    /// Begins a session, and returns the most bytes that one of its messages has. What an earlier session had is over
    /// then, its fids too: the request waits until all others have their answers, and others wait for it.
    ///
    /// # Errors
    ///
    /// Where the server does not speak 9P2000.L or refuses, or there is none.
    ///
    /// # Cancellation
    ///
    /// A request that was not sent is taken back. The answer to one that was is not waited for, but counts: the session
    /// is a new one, and [`msize`](Share::msize) says so.
    pub async fn version(&self) -> Result<u32, Error> {
        match self.submit(Request::Version).await? {
            Answer::Version { msize } => Ok(msize),
            Answer::Attach { .. } => unreachable!("the driver compares the types"),
        }
    }

    /// Makes `fid` stand for the root of a tree, and says what the server knows that by.
    ///
    /// Up to [`MAX_REQUESTS`] requests are in flight at a time; others wait until one of these is over.
    ///
    /// # Errors
    ///
    /// Where the server refuses, as for a fid that is in use, there is no session, or no server.
    ///
    /// # Cancellation
    ///
    /// A request that was not sent is taken back. One that was sent is carried out: the answer is dropped when it
    /// comes, and the request's tag is not used again before. Whether `fid` is in use then is not known.
    pub async fn attach(&self, fid: u32, attach: Attach<'_>) -> Result<Qid, Error> {
        let Attach { uname, aname, n_uname } = attach;
        match self.submit(Request::Attach { fid, uname: uname.into(), aname: aname.into(), n_uname }).await? {
            Answer::Attach { qid } => Ok(qid),
            Answer::Version { .. } => unreachable!("the driver compares the types"),
        }
    }

    async fn submit(&self, request: Request) -> Result<Answer, Error> {
        let status = &self.shared.status;
        let check = || if status.phase() == Phase::Gone { Err(Error::Gone) } else { Ok(()) };
        self.shared.requests.submit(request, check, || status.notify()).await
    }

    /// Most bytes of a message of the session, where there is one.
    pub fn msize(&self) -> Option<u32> {
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
        f.debug_struct("Share").field("tag", &self.tag()).field("msize", &self.msize()).finish()
    }
}

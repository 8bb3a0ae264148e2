//! Directories that other domains share with this one (9pfs).
//!
//! A share is a line `p9=[ "tag=files,path=/srv/files,security_model=none" ]` in the xl file. Its files are read and written from
//! [`Share::root`] on:
//!
//! ```
//! use sarab::{App, println};
//! use sarab::shares::OpenOptions;
//!
//! /// Adds a line to a file of dom0's.
//! async fn log(app: App, line: &str) -> sarab::Result {
//!     let root = app.share("files").await?.root();
//!     let file = root.open_with("logs/guest.txt", &OpenOptions::new().write().create(0o644)).await?;
//!     file.write_all_at(file.metadata().await?.size, line.as_bytes()).await?;
//!
//!     let mut entries = root.read_dir("logs").await?;
//!     while let Some(entry) = entries.next().await? {
//!         println!("{}", entry.name().unwrap_or("?"));
//!     }
//!     Ok(())
//! }
//! ```

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::pin::pin;

use embassy_time::{Duration, with_timeout};
use xen_9pfs::front::connect;
use xenstore_client::{Broken, Error as StoreError, Store};

use crate::App;
use crate::machine::println;

pub use xen_9pfs::ErrorKind;
pub use xen_9pfs::front::{
    Changes, Cursor, Dialect, Dir, Entry, Error, File, FileKind, MAX_REQUESTS, Metadata, OpenOptions, Options, ReadDir,
    Session, Share, Space, Statistics,
};
pub use xen_9pfs::protocol::{Qid, Time};

/// Why there is no such share.
#[derive(Debug)]
#[non_exhaustive]
pub enum ShareError {
    /// The domain has no store to find it in.
    NoStore(Broken),
    /// The store fails.
    Store(StoreError),
    /// The toolstack has given the domain no such share; these it has.
    NoShare(Box<str>, Vec<String>),
    /// Its server cannot be used, or it was removed.
    Unusable(Box<str>, Error),
}

impl fmt::Display for ShareError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ShareError::NoStore(error) => write!(f, "share: {error}"),
            ShareError::Store(error) => write!(f, "share: {error}"),
            ShareError::NoShare(tag, others) if others.is_empty() => write!(
                f,
                "share {tag}: not found; the domain has none: its xl file lists them (p9 = [\"tag={tag},path=...\"])"
            ),
            ShareError::NoShare(tag, others) => {
                write!(f, "share {tag}: not found; the domain has {}", others.join(", "))
            }
            ShareError::Unusable(tag, error) => write!(f, "share {tag}: {error}"),
        }
    }
}

impl core::error::Error for ShareError {}

impl From<Broken> for ShareError {
    fn from(error: Broken) -> Self {
        ShareError::NoStore(error)
    }
}

impl From<StoreError> for ShareError {
    fn from(error: StoreError) -> Self {
        ShareError::Store(error)
    }
}

const CLASS: &str = "device/9pfs";
/// When the console is told what is waited for.
const TOLD_AFTER: Duration = Duration::from_secs(5);

impl App {
    /// The directory of another domain that the toolstack has given this tag (`p9=` in the xl file), once its server can be
    /// used. It is driven by a task of its own until its last handle is dropped. To be called once for each share: handles
    /// can be cloned.
    ///
    /// A backend that does not come is waited for; after five seconds the console says so. One that goes and comes again is
    /// connected to again.
    ///
    /// # Errors
    ///
    /// Where there is no such share, or its server speaks no dialect that is known here or refuses.
    ///
    /// # Cancellation
    ///
    /// Dropping the future closes the share.
    pub async fn share(&self, tag: &str) -> Result<Share, ShareError> {
        self.share_with(tag, Options::default()).await
    }

    /// As [`share`](App::share), with other options than the usual.
    ///
    /// # Errors
    ///
    /// As [`share`](App::share).
    ///
    /// # Cancellation
    ///
    /// Dropping the future closes the share.
    pub async fn share_with(&self, tag: &str, options: Options) -> Result<Share, ShareError> {
        let store = self.store()?;
        let found = tags(&store).await?;
        let Some((device, _)) = found.iter().find(|(_, known)| known == tag) else {
            return Err(ShareError::NoShare(tag.into(), found.into_iter().map(|(_, tag)| tag).collect()));
        };
        let (share, runner) = connect(&store, self.xen(), &format!("{CLASS}/{device}"), options);
        // What ends it is in the log, and the requests that wait are told.
        self.spawn(async { drop(runner.await) }).detach();
        {
            let mut ready = pin!(share.ready());
            let outcome = match with_timeout(TOLD_AFTER, ready.as_mut()).await {
                Ok(outcome) => outcome,
                Err(_) => {
                    println!("share {tag}: waiting for its backend for {} s", TOLD_AFTER.as_secs());
                    ready.await
                }
            };
            outcome.map_err(|error| ShareError::Unusable(tag.into(), error))?;
        }
        Ok(share)
    }

    /// The tags of all directories that other domains share with this one, in the order of their devices.
    ///
    /// # Errors
    ///
    /// Where there is no store, or it fails.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time.
    pub async fn shares(&self) -> Result<Vec<String>, ShareError> {
        Ok(tags(&self.store()?).await?.into_iter().map(|(_, tag)| tag).collect())
    }
}

/// The devices, by number, and their tags.
async fn tags(store: &Store) -> Result<Vec<(u32, String)>, StoreError> {
    let names = match store.list(CLASS).await {
        Ok(names) => names,
        Err(error) if error.is_not_found() => Vec::new(),
        Err(error) => return Err(error),
    };
    let mut devices: Vec<u32> = names.iter().filter_map(|name| name.parse().ok()).collect();
    devices.sort_unstable();
    let mut found = Vec::new();
    for device in devices {
        // A device that goes while it is looked at is none.
        if let Some(tag) = store.get::<String>(&format!("{CLASS}/{device}/tag")).await? {
            found.push((device, tag));
        }
    }
    Ok(found)
}

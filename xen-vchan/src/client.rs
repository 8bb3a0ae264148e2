//! The end that connects to a server.

use alloc::format;
use alloc::string::String;
use core::time::Duration;

use xen_hal::{DomId, Errno, GrantRef, PortNumber, Xen, warning};
use xenbus::RateLimit;
use xenstore_client::wire::Op;
use xenstore_client::{Broken, Error as StoreError, ErrorKind, Store, Tree};

use crate::channel::Channel;
use crate::error::SetupError;
use crate::layout::{self, End};
use crate::link::Origin;
use crate::memory::Memory;

/// Looks at a server's keys that are taken at once, and how often after these: the server can change them without end.
const LOOKS_AT_ONCE: u32 = 16;
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// How often keys that change while they are read are read again.
const MAX_TRIES: u32 = 8;

/// Connects to a server of another domain.
///
/// [`Server`](crate::Server) has an example.
pub struct Client<X: Xen> {
    xen: X,
    store: Store,
    place: Place,
    origin: Origin,
}

enum Place {
    /// In the server's own directory.
    Port(u32),
    Path(String),
}

impl<X: Xen> Client<X> {
    /// A client of `server`'s port `port`, at `/local/domain/<server>/data/vchan/<own number>/<port>`.
    pub fn new(xen: X, store: &Store, server: DomId, port: u32) -> Client<X> {
        let origin = Origin::new(End::Client, server, "");
        Client { xen, store: store.clone(), place: Place::Port(port), origin }
    }

    /// A client of a server at a path of the store that both ends agree upon.
    pub fn at(xen: X, store: &Store, server: DomId, path: &str) -> Client<X> {
        let origin = Origin::new(End::Client, server, path);
        Client { xen, store: store.clone(), place: Place::Path(path.into()), origin }
    }

    /// Waits until the server listens, and connects to it. What a server has left that is gone, or that has another
    /// client, is passed over, with a line in the log.
    ///
    /// It waits for as long as there is no server: who does not want that, drops the future.
    ///
    /// # Errors
    ///
    /// Where memory, address space or event channels are not to be had, the store refuses, or the server's page makes no
    /// sense.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time.
    pub async fn connect(&self) -> Result<Channel<X>, SetupError> {
        let mut looks = RateLimit::new(LOOKS_AT_ONCE, LOOK_INTERVAL);
        loop {
            let path = self.path().await?;
            // The key itself: its directory is not for this domain to see.
            let key = format!("{path}/event-channel");
            let mut watch = self.store.watch_any(&key).await?;
            loop {
                if watch.next().await.is_none() {
                    let broken = self.store.broken().unwrap_or(Broken::Stopped);
                    return Err(StoreError::new(Op::Watch, &key, ErrorKind::Broken(broken)).into());
                }
                self.xen.sleep_until(looks.next()).await;
                looks.take(self.xen.now());
                // A domain that was moved has another number, and then its keys are elsewhere.
                if self.path().await? != path {
                    break;
                }
                let Some((reference, port)) = self.read(&path).await? else { continue };
                match self.attach(&path, reference, port) {
                    Err(error) if error.is_stale() => {
                        if self.origin.allows_line(self.xen.now()) {
                            warning!("vchan {}: {}; waiting for a server", path, error);
                        }
                    }
                    outcome => return outcome,
                }
            }
        }
    }

    async fn path(&self) -> Result<String, StoreError> {
        match &self.place {
            Place::Path(path) => Ok(path.clone()),
            Place::Port(port) => {
                let own: DomId = self.store.read_as("domid").await?;
                Ok(format!("/local/domain/{}/data/vchan/{}/{port}", self.origin.peer.0, own.0))
            }
        }
    }

    /// Both keys as they were at one time, `None` as long as there are none.
    async fn read(&self, path: &str) -> Result<Option<(GrantRef, PortNumber)>, StoreError> {
        let keys = async |t: &Tree| -> Result<_, StoreError> {
            let reference: Option<GrantRef> = get(t, &format!("{path}/ring-ref")).await?;
            let port: Option<PortNumber> = get(t, &format!("{path}/event-channel")).await?;
            Ok(reference.zip(port))
        };
        match self.store.transaction_of(MAX_TRIES, async |t| keys(t).await).await {
            // Whoever changes them so often will do so once more, which wakes the watch.
            Err(StoreError { kind: ErrorKind::Contended { .. }, .. }) => Ok(None),
            other => other,
        }
    }

    fn attach(&self, path: &str, reference: GrantRef, number: PortNumber) -> Result<Channel<X>, SetupError> {
        let port = self
            .xen
            .bind_interdomain(self.origin.peer, number)
            .map_err(|error| SetupError::port(self.origin.peer, &error))?;
        let (memory, layout) = Memory::map(&self.xen, self.origin.peer, reference)?;
        if !layout::is_live(memory.page(), End::Server) {
            return Err(SetupError::Closed { peer: self.origin.peer });
        }
        let origin = self.origin.at(path);
        let channel = Channel::new(self.xen.clone(), (memory, layout), port, origin)?;
        channel.announce();
        Ok(channel)
    }
}

/// A key that may not be there yet, be empty, or be hidden from this domain as long as it is not there.
async fn get<T: xenstore_client::FromValue>(tree: &Tree, path: &str) -> Result<Option<T>, StoreError> {
    match tree.get::<T>(path).await {
        Err(error) if error.errno() == Some(Errno::EACCES) => Ok(None),
        Err(StoreError { kind: ErrorKind::Value { found, .. }, .. }) if found.is_empty() => Ok(None),
        other => other,
    }
}

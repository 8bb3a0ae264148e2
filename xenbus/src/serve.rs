//! All devices of a class, as they come and go.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::convert::Infallible;
use core::future::{Future, poll_fn};
use core::pin::{Pin, pin};
use core::task::Poll;
use core::time::Duration;

use futures_util::StreamExt;
use futures_util::future::{Either, select};
use futures_util::stream::FuturesUnordered;
use xen_hal::{Clock, DomId, warning};
use xen_ring::WaitQueue;
use xenstore_client::wire::Op;
use xenstore_client::{Broken, Error, ErrorKind, Store, Watch, WatchEvent};

use crate::backoff::Backoff;
use crate::state::{End, State};

/// A device that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiscoveredDevice {
    /// Its directory at this end, for [`frontend()`](crate::frontend()) or [`backend()`](crate::backend()).
    pub path: String,
    /// Its number in its class, as far as it has one: `51712` for `xvda`.
    pub id: String,
    /// For a backend: the domain that uses it.
    pub frontend: Option<DomId>,
}

/// The shortest time from one list of all devices to the next.
const LIST_INTERVAL: Duration = Duration::from_millis(100);
/// Devices that are begun or have ended, before other tasks have their turn.
const MAX_ROUNDS: usize = 32;

/// Runs `start` for each device of `class` that this domain has at one end, those that are there and those that come
/// while it runs, all side by side. A device whose future has ended is started again when the toolstack makes it again,
/// or where it still says that it is to begin; then with pauses that grow.
///
/// # Errors
///
/// Where the connection to the store is gone; it does not end otherwise.
///
/// # Cancellation
///
/// Dropping the future drops those of all devices.
pub async fn serve<F: Future<Output = ()>>(
    store: &Store,
    clock: impl Clock,
    end: End,
    class: &str,
    mut start: impl FnMut(DiscoveredDevice) -> F,
) -> Result<Infallible, Error> {
    let root = match end {
        End::Frontend => format!("device/{class}"),
        End::Backend => format!("backend/{class}"),
    };
    let devices = Devices { store, clock, root, end, known: RefCell::default(), queues: Queues::default() };
    let queues = &devices.queues;
    // Looking for devices is one of the futures: it waits for the store, and those of devices that are in use go on.
    let mut running: FuturesUnordered<Running<'_>> = FuturesUnordered::new();
    running.push(Box::pin(async { Outcome::Broken(devices.discover().await) }));
    poll_fn(|cx| {
        for _ in 0..MAX_ROUNDS {
            let found = queues.found.borrow_mut().pop_front();
            if let Some(path) = found {
                let future = start(discovered(&path, end));
                running.push(Box::pin(async move {
                    future.await;
                    Outcome::Ended(path)
                }));
                continue;
            }
            match running.poll_next_unpin(cx) {
                Poll::Ready(Some(Outcome::Ended(path))) => {
                    queues.ended.borrow_mut().push_back(path);
                    queues.waiting.wake_all();
                }
                Poll::Ready(Some(Outcome::Broken(error))) => return Poll::Ready(Err(error)),
                Poll::Ready(None) | Poll::Pending if queues.found.borrow().is_empty() => return Poll::Pending,
                Poll::Ready(None) | Poll::Pending => {}
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}

type Running<'a> = Pin<Box<dyn Future<Output = Outcome> + 'a>>;

/// How one of the futures has ended.
enum Outcome {
    /// A device's.
    Ended(String),
    /// The one that looks for devices.
    Broken(Error),
}

/// The queues between the two halves of [`serve`]. Each device is in them at most once.
#[derive(Default)]
struct Queues {
    found: RefCell<VecDeque<String>>,
    ended: RefCell<VecDeque<String>>,
    waiting: WaitQueue,
}

/// A device that was begun. One that has ended is remembered until its directory is gone.
#[derive(Default)]
struct DeviceEntry {
    running: bool,
    backoff: Backoff,
    /// When it is to begin again.
    due: Option<Duration>,
}

struct Devices<'a, C> {
    store: &'a Store,
    clock: C,
    root: String,
    end: End,
    known: RefCell<BTreeMap<String, DeviceEntry>>,
    queues: Queues,
}

impl<C: Clock> Devices<'_, C> {
    /// Finds devices that are to begin, until the connection to the store is gone.
    async fn discover(&self) -> Error {
        let mut watch = match self.store.watch(&self.root).await {
            Ok(watch) => watch,
            Err(error) => return error,
        };
        // When all devices may be listed, where something has changed that may concern any.
        let mut list_at: Option<Duration> = None;
        let mut next_list = Duration::ZERO;
        loop {
            let outcome = match self.next(&mut watch, list_at).await {
                Cause::Event(None) => {
                    let broken = self.store.broken().unwrap_or(Broken::Stopped);
                    return Error::new(Op::Watch, &self.root, ErrorKind::Broken(broken));
                }
                Cause::Event(Some(event)) => match device_of(&self.root, self.end, &event) {
                    Some(path) => self.check(path).await,
                    None => {
                        list_at = Some(next_list);
                        Ok(())
                    }
                },
                Cause::Ended(path) => {
                    if let Some(known) = self.known.borrow_mut().get_mut(&path) {
                        known.running = false;
                        known.backoff.disconnected(self.clock.now());
                    }
                    self.check(path).await
                }
                Cause::List => {
                    list_at = None;
                    let outcome = self.check_all().await;
                    next_list = self.clock.now().saturating_add(LIST_INTERVAL);
                    outcome
                }
                Cause::Due(path) => self.check(path).await,
            };
            match outcome {
                Err(error) if error.is_broken() => return error,
                // A directory that cannot be read is no reason to leave the other devices.
                Err(error) => warning!("{}: {}", self.root, error),
                Ok(()) => {}
            }
        }
    }

    /// Waits for something to be done.
    async fn next(&self, watch: &mut Watch, list_at: Option<Duration>) -> Cause {
        let ended = self.queues.waiting.wait_until(|| self.queues.ended.borrow_mut().pop_front());
        let due = self.known.borrow().iter().filter_map(|(path, known)| Some((known.due?, path.clone()))).min();
        let next = list_at.into_iter().chain(due.iter().map(|(at, _)| *at)).min();
        let time = async {
            match next {
                Some(at) => self.clock.sleep_until(at).await,
                None => core::future::pending().await,
            }
        };
        let event = match select(pin!(ended), pin!(select(pin!(watch.next()), pin!(time)))).await {
            Either::Left((path, _)) => return Cause::Ended(path),
            Either::Right((Either::Left((event, _)), _)) => return Cause::Event(event),
            Either::Right((Either::Right(_), _)) => (list_at, due),
        };
        match event {
            (Some(list), Some((due, path))) if due < list => Cause::Due(path),
            (None, Some((_, path))) => Cause::Due(path),
            _ => Cause::List,
        }
    }

    async fn check_all(&self) -> Result<(), Error> {
        let mut paths = list(self.store, &self.root, self.end).await?;
        // Those that are known may be gone.
        paths.extend(self.known.borrow().iter().filter(|(_, known)| !known.running).map(|(path, _)| path.clone()));
        for path in paths {
            self.check(path).await?;
        }
        Ok(())
    }

    /// Begins a device where its directory says so.
    async fn check(&self, path: String) -> Result<(), Error> {
        if self.known.borrow().get(&path).is_some_and(|known| known.running) {
            return Ok(());
        }
        let state = self.store.get::<State>(&format!("{path}/state")).await;
        let mut devices = self.known.borrow_mut();
        if let Some(known) = devices.get_mut(&path).filter(|_| state.is_err()) {
            known.due = None;
        }
        let state = state?;
        if state.is_none() {
            devices.remove(&path);
        }
        if state != Some(State::Initialising) {
            devices.entry(path).and_modify(|known| known.due = None);
            return Ok(());
        }
        let now = self.clock.now();
        let known = match devices.entry(path.clone()) {
            alloc::collections::btree_map::Entry::Vacant(entry) => entry.insert(DeviceEntry::default()),
            alloc::collections::btree_map::Entry::Occupied(entry) => {
                let known = entry.into_mut();
                let at = *known.due.get_or_insert_with(|| now.saturating_add(known.backoff.next_pause()));
                if now < at {
                    return Ok(());
                }
                known
            }
        };
        known.due = None;
        known.running = true;
        known.backoff.connected(now);
        self.queues.found.borrow_mut().push_back(path);
        Ok(())
    }
}

/// What leads to a look at devices.
enum Cause {
    /// A change at or below the class's directory; `None` once there will be none any more.
    Event(Option<WatchEvent>),
    /// A device's future has ended.
    Ended(String),
    /// A device is to begin again.
    Due(String),
    /// All devices are to be listed.
    List,
}

/// How many names lead from the class's directory to a device.
fn depth(end: End) -> usize {
    match end {
        End::Frontend => 1,
        End::Backend => 2,
    }
}

/// The device that an event is about, `None` where it may be any.
fn device_of(root: &str, end: End, event: &WatchEvent) -> Option<String> {
    if event.all {
        return None;
    }
    let names: Vec<&str> = event.path.strip_prefix(root)?.strip_prefix('/')?.split('/').collect();
    let device = names.get(..depth(end))?;
    Some(format!("{root}/{}", device.join("/")))
}

fn discovered(path: &str, end: End) -> DiscoveredDevice {
    let mut names = path.rsplit('/');
    let id = names.next().unwrap_or_default();
    let frontend = match end {
        End::Frontend => None,
        End::Backend => names.next().and_then(|name| name.parse().ok()),
    };
    DiscoveredDevice { path: path.into(), id: id.into(), frontend }
}

async fn names(store: &Store, path: &str) -> Result<Vec<String>, Error> {
    match store.list(path).await {
        Err(error) if error.is_not_found() => Ok(Vec::new()),
        other => other,
    }
}

async fn list(store: &Store, root: &str, end: End) -> Result<Vec<String>, Error> {
    let mut paths = Vec::from([String::from(root)]);
    for _ in 0..depth(end) {
        let mut below = Vec::new();
        for path in &paths {
            below.extend(names(store, path).await?.into_iter().map(|name| format!("{path}/{name}")));
        }
        paths = below;
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_lead_to_their_device() {
        let event = |path: &str| WatchEvent { path: path.into(), all: false };
        let front = |path| device_of("device/vbd", End::Frontend, &event(path));
        assert_eq!(front("device/vbd/51712/state").as_deref(), Some("device/vbd/51712"));
        assert_eq!(front("device/vbd/51712").as_deref(), Some("device/vbd/51712"));
        assert_eq!(front("device/vbd"), None);
        let back = |path| device_of("backend/vif", End::Backend, &event(path));
        assert_eq!(back("backend/vif/3/0/mac").as_deref(), Some("backend/vif/3/0"));
        assert_eq!(back("backend/vif/3"), None);
        let found = discovered("backend/vif/3/0", End::Backend);
        assert_eq!((&*found.id, found.frontend), ("0", Some(DomId(3))));
    }
}

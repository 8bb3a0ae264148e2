//! Networks that come and go.

use alloc::boxed::Box;
use alloc::collections::{BTreeSet, VecDeque};
use alloc::format;

use futures_util::stream::{self, Stream};
use xen_hal::Errno;
use xenstore_client::{Error, Store, Watch};

/// A network interface has come, or is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NetworkEvent {
    /// The toolstack has given the domain this interface: `vif/0`. [`App::network`](crate::App::network) takes it.
    Arrived(Box<str>),
    /// The toolstack has taken it away. A [`Network`](super::Network) of it has no carrier until one comes again.
    Lost(Box<str>),
}

pub(super) const CLASS: &str = "device/vif";

/// The numbers of the interfaces that there are, in their order.
pub(super) async fn numbers(store: &Store) -> Result<BTreeSet<u32>, Error> {
    match store.list(CLASS).await {
        Ok(names) => Ok(names.iter().filter_map(|name| name.parse().ok()).collect()),
        Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(BTreeSet::new()),
        Err(error) => Err(error),
    }
}

struct State {
    store: Store,
    watch: Watch,
    known: BTreeSet<u32>,
    events: VecDeque<NetworkEvent>,
}

impl State {
    async fn next(&mut self) -> Option<Result<NetworkEvent, Error>> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(Ok(event));
            }
            self.watch.next().await?;
            let now = match numbers(&self.store).await {
                Ok(now) => now,
                Err(error) => return Some(Err(error)),
            };
            let name = |number: &u32| Box::<str>::from(format!("vif/{number}"));
            self.events.extend(self.known.difference(&now).map(|number| NetworkEvent::Lost(name(number))));
            self.events.extend(now.difference(&self.known).map(|number| NetworkEvent::Arrived(name(number))));
            self.known = now;
        }
    }
}

/// Interfaces as they come and go; those that are there come first.
pub(super) async fn arrivals(store: Store) -> Result<impl Stream<Item = Result<NetworkEvent, Error>>, Error> {
    let watch = store.watch_any(CLASS).await?;
    let state = State { store, watch, known: BTreeSet::new(), events: VecDeque::new() };
    Ok(stream::unfold(state, async |mut state| state.next().await.map(|event| (event, state))))
}

//! The handle.

use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::future::poll_fn;
use core::ops::Deref;
use core::task::Poll;

use xen_hal::{Clock, DomId, StoreChannel};

use super::error::{Broken, Error, ErrorKind};
use super::events::Keep;
use super::link::{Link, Phase};
use super::runner::Runner;
use super::transaction::{self, Transaction};
use super::tree::Tree;
use super::watch::Watch;
use crate::wire::{self, Features, Op, Request};

/// Connects to the store: a handle, and the task that owns the ring, which is to be spawned. The clock tells how often the
/// server wants a new connection.
///
/// # Errors
///
/// [`Broken::Absent`] where the toolstack has made no connection for this domain.
pub fn connect<C: StoreChannel, K: Clock>(channel: C, clock: K) -> Result<(Store, Runner<C, K>), Broken> {
    let (page, port) = channel.open_store().ok_or(Broken::Absent)?;
    let link = Link::new();
    let runner = Runner::new(channel, clock, page, port, link.clone());
    Ok((Store { tree: Tree { link, transaction: 0, generation: None } }, runner))
}

/// A handle on the store. Clones are handles on the same connection, whose task ends when the last one is gone.
///
/// Everything of [`Tree`] is here: [`read`](Tree::read), [`write`](Tree::write), [`list`](Tree::list) and so on.
/// Requests are on their way together; up to 64 wait for their answers, more wait for a place.
pub struct Store {
    tree: Tree,
}

impl Clone for Store {
    fn clone(&self) -> Self {
        Store { tree: Tree { link: self.tree.link.clone(), transaction: 0, generation: None } }
    }
}

impl Deref for Store {
    type Target = Tree;

    fn deref(&self) -> &Tree {
        &self.tree
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // Perhaps it was the last one.
        self.tree.link.wake_runner();
    }
}

impl Store {
    /// Runs `body` in a transaction and commits it: its changes are made all at once, or not at all where it fails or
    /// is dropped.
    ///
    /// Where others have changed what it has read, it runs again, up to 1,000 times: it should change nothing but the
    /// store. Up to eight transactions are open at a time, more wait; a `body` that waits for another transaction may
    /// wait for ever.
    ///
    /// # Examples
    ///
    /// ```
    /// # let xen = xen_sim::Xen::new(1);
    /// # let store = xen.domain().store();
    /// # xen.run(async move {
    /// store.set("data/count", &1_u32).await?;
    /// store
    ///     .transaction(async |t| {
    ///         let count: u32 = t.read_as("data/count").await?;
    ///         t.set("data/count", &(count + 1)).await
    ///     })
    ///     .await?;
    /// assert_eq!(store.read("data/count").await?, b"2");
    /// # Ok::<(), xenstore_client::Error>(())
    /// # })?;
    /// # Ok::<(), xenstore_client::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// What `body` returns; [`ErrorKind::Contended`]; what the store says to begin and end.
    ///
    /// # Cancellation
    ///
    /// Dropping the future aborts the transaction, unless its end is on its way already.
    pub async fn transaction<T, E: From<Error>>(
        &self,
        body: impl AsyncFnMut(&Transaction) -> Result<T, E>,
    ) -> Result<T, E> {
        self.transaction_of(transaction::MAX_TRIES, body).await
    }

    /// [`transaction`](Store::transaction), which is given up after `tries`: for nodes of a peer, who can change them as
    /// fast as they are read.
    ///
    /// # Errors
    ///
    /// As [`transaction`](Store::transaction).
    ///
    /// # Cancellation
    ///
    /// As [`transaction`](Store::transaction).
    pub async fn transaction_of<T, E: From<Error>>(
        &self,
        tries: u32,
        body: impl AsyncFnMut(&Transaction) -> Result<T, E>,
    ) -> Result<T, E> {
        transaction::run(&self.tree.link, tries, body).await
    }

    /// Watches a node and all below it. The path may also be a special one, such as `@releaseDomain`.
    ///
    /// # Errors
    ///
    /// What the store says: `ENOSPC` or `E2BIG` where a quota is reached, `EACCES`.
    ///
    /// # Cancellation
    ///
    /// A future that is dropped leaves no watch behind.
    ///
    /// # Examples
    ///
    /// ```
    /// # let xen = xen_sim::Xen::new(1);
    /// # let store = xen.domain().store();
    /// # xen.run(async move {
    /// let mut watch = store.watch("data").await?;
    /// assert!(watch.next().await.is_some()); // the first event comes at once
    /// store.set("data/name", "web").await?;
    /// let event = watch.next().await.expect("the connection is up");
    /// assert_eq!(&*event.path, "data/name");
    /// # Ok::<(), xenstore_client::Error>(())
    /// # })?;
    /// # Ok::<(), xenstore_client::Error>(())
    /// ```
    pub async fn watch(&self, path: &str) -> Result<Watch, Error> {
        Watch::register(&self.tree.link, path, None, Keep::Paths).await
    }

    /// [`watch`](Store::watch) for who wants to know only that something has changed: all events are one, whatever they
    /// are about, so that a peer who writes without end takes no memory.
    ///
    /// # Errors
    ///
    /// As [`watch`](Store::watch).
    ///
    /// # Cancellation
    ///
    /// As [`watch`](Store::watch).
    pub async fn watch_any(&self, path: &str) -> Result<Watch, Error> {
        Watch::register(&self.tree.link, path, None, Keep::Nothing).await
    }

    /// Watches a node and what is at most `depth` levels below it, where the server offers that; otherwise it is as
    /// [`watch`](Store::watch). For special paths a depth of 1 adds the domain's number to the event's path.
    ///
    /// # Errors
    ///
    /// As [`watch`](Store::watch).
    ///
    /// # Cancellation
    ///
    /// As [`watch`](Store::watch).
    pub async fn watch_depth(&self, path: &str, depth: u32) -> Result<Watch, Error> {
        let depth = self.features().offers(Features::WATCH_DEPTH).then_some(depth);
        Watch::register(&self.tree.link, path, depth, Keep::Paths).await
    }

    /// Waits until `predicate` makes something of a node's value; the value is `None` where there is no such node.
    ///
    /// It looks at once and after each change, but not at every value that there was in between.
    ///
    /// # Errors
    ///
    /// As [`watch`](Store::watch) and [`read`](Tree::read).
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time.
    ///
    /// # Examples
    ///
    /// ```
    /// # let xen = xen_sim::Xen::new(1);
    /// # let store = xen.domain().store();
    /// # xen.run(async move {
    /// # let writer = store.clone();
    /// # let setting = async move { writer.set("data/ready", &true).await };
    /// let ready = store.wait_for("data/ready", |value| (value == Some(b"1")).then_some(()));
    /// # futures_util::future::try_join(ready, setting).await?;
    /// # Ok::<(), xenstore_client::Error>(())
    /// # })?;
    /// # Ok::<(), xenstore_client::Error>(())
    /// ```
    pub async fn wait_for<T>(
        &self,
        path: &str,
        mut predicate: impl FnMut(Option<&[u8]>) -> Option<T>,
    ) -> Result<T, Error> {
        let mut watch = self.watch_any(path).await?;
        loop {
            if watch.next().await.is_none() {
                let broken = self.broken().unwrap_or(Broken::Stopped);
                return Err(Error::new(Op::Watch, path, ErrorKind::Broken(broken)));
            }
            let value: Option<Vec<u8>> = self.get(path).await?;
            if let Some(found) = predicate(value.as_deref()) {
                return Ok(found);
            }
        }
    }

    /// A domain's own directory, `/local/domain/<domid>`.
    ///
    /// # Errors
    ///
    /// What the store says.
    ///
    /// # Cancellation
    ///
    /// As for all methods of [`Tree`].
    pub async fn domain_path(&self, domain: DomId) -> Result<String, Error> {
        self.query(Request::GetDomainPath { domain }, |payload| wire::text(payload).map(String::from)).await
    }

    /// Whether a domain has a connection to the store.
    ///
    /// # Errors
    ///
    /// What the store says: `EACCES` to most domains.
    ///
    /// # Cancellation
    ///
    /// As for all methods of [`Tree`].
    pub async fn is_introduced(&self, domain: DomId) -> Result<bool, Error> {
        self.query(Request::IsDomainIntroduced { domain }, wire::boolean).await
    }

    /// Ends all watches and transactions that the server has of this domain, also those of whoever ran before in it.
    /// Watches of this client end too: their streams go silent.
    ///
    /// # Errors
    ///
    /// `ENOSYS` from servers that do not know it; `control/platform-feature-xs_reset_watches` tells beforehand.
    ///
    /// # Cancellation
    ///
    /// As for all methods of [`Tree`].
    pub async fn reset_watches(&self) -> Result<(), Error> {
        self.command(Request::ResetWatches).await
    }

    /// What the server offers, as it answers itself; [`features`](Store::features) is what the ring page says.
    ///
    /// # Errors
    ///
    /// `ENOSYS` or `EACCES` from older servers; privilege is needed for another domain's.
    ///
    /// # Cancellation
    ///
    /// As for all methods of [`Tree`].
    pub async fn server_features(&self, domain: Option<DomId>) -> Result<Features, Error> {
        self.query(Request::GetFeature { domain }, |payload| wire::number(payload).map(Features)).await
    }

    /// Says what the server may offer to a domain. Privileged.
    ///
    /// # Errors
    ///
    /// `EACCES` without privilege, `ENOSYS` from older servers.
    ///
    /// # Cancellation
    ///
    /// As for all methods of [`Tree`].
    pub async fn set_server_features(&self, domain: DomId, features: Features) -> Result<(), Error> {
        self.command(Request::SetFeature { domain, features: features.0 }).await
    }

    /// The names of the server's quotas. Privileged.
    ///
    /// # Errors
    ///
    /// `EACCES` without privilege, `ENOSYS` from older servers.
    ///
    /// # Cancellation
    ///
    /// As for all methods of [`Tree`].
    pub async fn quotas(&self) -> Result<Vec<String>, Error> {
        let request = Request::GetQuota { domain: None, quota: None };
        self.query(request, |payload| {
            Ok(wire::text(payload)?.split(' ').filter(|name| !name.is_empty()).map(String::from).collect())
        })
        .await
    }

    /// A quota's value, of a domain or for new ones. Privileged.
    ///
    /// # Errors
    ///
    /// As [`quotas`](Store::quotas).
    ///
    /// # Cancellation
    ///
    /// As for all methods of [`Tree`].
    pub async fn quota(&self, domain: Option<DomId>, quota: &str) -> Result<u32, Error> {
        self.query(Request::GetQuota { domain, quota: Some(quota) }, wire::number).await
    }

    /// Sets a quota, of a domain or for new ones. Privileged.
    ///
    /// # Errors
    ///
    /// As [`quotas`](Store::quotas).
    ///
    /// # Cancellation
    ///
    /// As for all methods of [`Tree`].
    pub async fn set_quota(&self, domain: Option<DomId>, quota: &str, value: u32) -> Result<(), Error> {
        self.command(Request::SetQuota { domain, quota, value }).await
    }

    /// Tells the server of a domain's ring page and port. Privileged; so are the following.
    ///
    /// # Errors
    ///
    /// What the store says; `EACCES` without privilege.
    ///
    /// # Cancellation
    ///
    /// As for all methods of [`Tree`].
    pub async fn introduce(&self, domain: DomId, frame: u64, port: u32) -> Result<(), Error> {
        self.command(Request::Introduce { domain, frame, port }).await
    }

    /// Tells the server that a domain is gone.
    ///
    /// # Errors
    ///
    /// As [`introduce`](Store::introduce).
    ///
    /// # Cancellation
    ///
    /// As for all methods of [`Tree`].
    pub async fn release(&self, domain: DomId) -> Result<(), Error> {
        self.command(Request::Release { domain }).await
    }

    /// Tells the server that a suspended domain runs again.
    ///
    /// # Errors
    ///
    /// As [`introduce`](Store::introduce).
    ///
    /// # Cancellation
    ///
    /// As for all methods of [`Tree`].
    pub async fn resume(&self, domain: DomId) -> Result<(), Error> {
        self.command(Request::Resume { domain }).await
    }

    /// Gives `domain` the rights of `target`.
    ///
    /// # Errors
    ///
    /// As [`introduce`](Store::introduce).
    ///
    /// # Cancellation
    ///
    /// As for all methods of [`Tree`].
    pub async fn set_target(&self, domain: DomId, target: DomId) -> Result<(), Error> {
        self.command(Request::SetTarget { domain, target }).await
    }

    /// A command to the server itself, and what it prints.
    ///
    /// # Errors
    ///
    /// As [`introduce`](Store::introduce).
    ///
    /// # Cancellation
    ///
    /// As for all methods of [`Tree`].
    pub async fn control(&self, arguments: &[&str]) -> Result<String, Error> {
        self.query(Request::Control { arguments: arguments.to_vec() }, |payload| {
            Ok(String::from_utf8_lossy(payload.strip_suffix(b"\0").unwrap_or(payload)).into_owned())
        })
        .await
    }

    /// What the server offers by the ring page; nothing with older servers.
    pub fn features(&self) -> Features {
        self.tree.link.state.borrow().features
    }

    /// Why the connection is gone, where it is.
    pub fn broken(&self) -> Option<Broken> {
        match self.tree.link.state.borrow().phase {
            Phase::Broken(broken) => Some(broken),
            _ => None,
        }
    }

    /// Counts connections: it is another number after a resume from a saved image, when the domain may have another
    /// number and its devices have to connect again.
    pub fn generation(&self) -> u32 {
        self.tree.link.state.borrow().generation
    }

    /// Packets of the server that no request was waiting for; they are dropped.
    pub fn unexpected(&self) -> u64 {
        self.tree.link.state.borrow().unexpected
    }

    /// How many watches there are.
    pub fn watches(&self) -> usize {
        self.tree.link.state.borrow().watches.len()
    }

    /// Brings the connection to rest before a suspend: nothing new is sent, and what was is answered. Requests made
    /// from here on wait until [`Quiesced::resume`].
    ///
    /// # Errors
    ///
    /// Where there is no connection any more.
    ///
    /// # Cancellation
    ///
    /// Dropping the future lets the connection go on.
    pub async fn quiesce(&self) -> Result<Quiesced, Broken> {
        let link = &self.tree.link;
        if let Some(broken) = self.broken() {
            return Err(broken);
        }
        link.state.borrow_mut().phase = Phase::Quiesced;
        let quiet = Quiesced { link: link.clone() };
        poll_fn(|cx| {
            if let Phase::Broken(broken) = link.state.borrow().phase {
                return Poll::Ready(Err(broken));
            }
            if link.is_quiet() {
                return Poll::Ready(Ok(()));
            }
            link.state.borrow_mut().quiet = Some(cx.waker().clone());
            Poll::Pending
        })
        .await?;
        Ok(quiet)
    }
}

/// How the connection goes on after a suspend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// It is the same as before: the suspend was cancelled.
    Same,
    /// Page and port are new: the domain was restored. All watches are registered again and give an event each.
    New,
}

/// A connection at rest; dropping this lets it go on as it was.
#[must_use = "dropping it lets the connection go on at once"]
pub struct Quiesced {
    link: Rc<Link>,
}

impl Quiesced {
    /// Lets the connection go on.
    pub fn resume(self, restart: Restart) {
        if restart == Restart::New {
            self.link.state.borrow_mut().phase = Phase::Restart;
        }
    }
}

impl Drop for Quiesced {
    fn drop(&mut self) {
        {
            let mut state = self.link.state.borrow_mut();
            if state.phase == Phase::Quiesced {
                state.phase = Phase::Up;
            }
        }
        self.link.wake_runner();
    }
}

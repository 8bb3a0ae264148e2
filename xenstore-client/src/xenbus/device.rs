//! One end of a device: its two directories.

use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::{String, ToString};
use core::cell::{Cell, RefCell};
use core::fmt;
use core::pin::pin;
use core::time::Duration;

use futures_util::future::{Either, select};
use xen_hal::{Clock, DomId, Errno, information, warning};

use super::backoff::Pace;
use super::state::{End, State, is_legal};
use crate::text::printable;
use crate::{Error, FromValue, Path, Store, Tree, Watch, WatchEvent};

/// How long the other end has for its part of the closing handshake, as Linux waits.
const PATIENCE: Duration = Duration::from_secs(5);

/// One end of a device, with the directories of both.
#[derive(Clone)]
pub struct Device {
    store: Store,
    end: End,
    path: Box<str>,
    other: Path,
    other_domain: DomId,
    /// The state that this end has written last.
    last: Cell<State>,
    /// Keys of the other end that were complained of: a driver may come to read them again at any change.
    complaints: RefCell<BTreeSet<String>>,
    /// The device connects again and again: the log is spared the steps.
    quiet: Cell<bool>,
    /// Lines that the log was spared since it was told so last.
    spared: Cell<u32>,
    /// What was reported last.
    reported: RefCell<Option<Failure>>,
}

/// What came of a change of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a state that could not be reached is not to be acted upon"]
pub(super) enum Switched {
    Yes,
    /// The state is not what this end has written: somebody else is at work here, and nothing was changed.
    No,
    /// The directory is gone, and was not made again.
    Gone,
}

/// How a device's life ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The toolstack has removed the device, or asked for that.
    Removed,
    /// The driver has ended it; it can be begun anew.
    Stopped,
}

/// Why a device cannot be used, with key and value: what goes to the device's error node and to the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The number that the other end's administrator sees.
    pub errno: Errno,
    text: Box<str>,
}

impl Failure {
    /// A failure with its number and text. What a peer has put into the text cannot harm a log or a terminal, and what is
    /// longer than a line of a log should be is cut.
    pub fn new(errno: Errno, text: impl Into<Box<str>>) -> Failure {
        Failure { errno, text: printable(&text.into()) }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.text, self.errno.name())
    }
}

impl core::error::Error for Failure {}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::new(error.errno().unwrap_or(Errno::EIO), error.to_string())
    }
}

impl Device {
    /// Reads who the other end is; `None` where the directory is not there, or not whole.
    pub(super) async fn open(store: &Store, end: End, path: &str) -> Result<Option<Device>, Error> {
        let (name, domain) = match end {
            End::Frontend => ("backend", "backend-id"),
            End::Backend => ("frontend", "frontend-id"),
        };
        // In one transaction: the directory may be removed and made anew meanwhile, for another peer.
        let keys = store
            .transaction(async |t| -> Result<_, Error> {
                let other = t.get::<Path>(&format!("{path}/{name}")).await?;
                let other_domain = t.get::<DomId>(&format!("{path}/{domain}")).await?;
                let state = t.get::<State>(&format!("{path}/state")).await?;
                Ok((other, other_domain, state))
            })
            .await?;
        let (Some(other), Some(other_domain), Some(state)) = keys else { return Ok(None) };
        Ok(Some(Device {
            store: store.clone(),
            end,
            path: path.into(),
            other,
            other_domain,
            last: Cell::new(state),
            complaints: RefCell::default(),
            quiet: Cell::new(false),
            spared: Cell::new(0),
            reported: RefCell::default(),
        }))
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Which end this is.
    pub fn end(&self) -> End {
        self.end
    }

    /// This end's directory.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The other end's directory.
    pub fn other_path(&self) -> &str {
        &self.other
    }

    /// The domain at the other end.
    pub fn other_domain(&self) -> DomId {
        self.other_domain
    }

    /// The device's name in its class: the last part of its directory.
    pub fn id(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }

    /// Logs what is wrong with a key of the other end, once for each key.
    pub(super) fn complain(&self, key: &str, what: &str) {
        if self.complaints.borrow_mut().insert(key.into()) {
            warning!("{}: {}", self.path, printable(what));
        }
    }

    /// Whether the log is to be spared the steps of connections, and failures that it has already.
    pub(super) fn set_quiet(&self, quiet: bool) {
        self.quiet.set(quiet);
    }

    fn spare(&self) {
        self.spared.set(self.spared.get().saturating_add(1));
    }

    /// Says that the device pauses before it connects again, and what the log was spared until now.
    pub(super) fn announce_pause(&self, count: u32, pause: Duration) {
        warning!(
            "{}: connecting for the {}th time in a row, in {} ms ({} lines not logged)",
            self.path,
            count,
            pause.as_millis(),
            self.spared.take()
        );
        self.set_quiet(true);
    }

    /// The path of a node of this end.
    pub fn own(&self, key: &str) -> String {
        format!("{}/{key}", self.path)
    }

    /// The path of a node of the other end.
    pub fn other(&self, key: &str) -> String {
        format!("{}/{key}", self.other)
    }

    /// A node of this end, `None` where it is not there.
    ///
    /// # Errors
    ///
    /// As [`Tree::get`].
    pub async fn get<T: FromValue>(&self, key: &str) -> Result<Option<T>, Error> {
        self.store.get(&self.own(key)).await
    }

    /// A node of the other end, `None` where it is not there.
    ///
    /// # Errors
    ///
    /// As [`Tree::get`].
    pub async fn get_other<T: FromValue>(&self, key: &str) -> Result<Option<T>, Error> {
        self.store.get(&self.other(key)).await
    }

    /// This end's state; `None` where its directory is gone.
    pub(super) async fn state(&self) -> Result<Option<State>, Error> {
        self.get("state").await
    }

    /// The other end's state; `None` where its directory is gone, or hidden from this domain, which comes to the same.
    pub(super) async fn other_state(&self) -> Result<Option<State>, Error> {
        match self.get_other("state").await {
            Err(error) if error.errno() == Some(Errno::EACCES) => Ok(None),
            other => other,
        }
    }

    /// The state that this end has written last.
    pub(super) fn last(&self) -> State {
        self.last.get()
    }

    /// Goes to a state.
    pub(super) async fn switch(&self, to: State) -> Result<Switched, Error> {
        self.switch_with(to, async |_| Ok(())).await
    }

    /// Goes to a state, and writes what belongs to it in the same transaction.
    ///
    /// Where the directory was removed, or made anew by the toolstack, or the toolstack has asked a backend to close
    /// and it is about to do something else, nothing is written.
    pub(super) async fn switch_with(
        &self,
        to: State,
        mut write: impl AsyncFnMut(&Tree) -> Result<(), Error>,
    ) -> Result<Switched, Error> {
        let path = self.own("state");
        let last = self.last.get();
        let switched = self
            .store
            .transaction(async |t| -> Result<Switched, Error> {
                let Some(now) = t.get::<State>(&path).await? else { return Ok(Switched::Gone) };
                let asked = self.end == End::Backend && now == State::Closing;
                if !(now == last || asked) || !(now == to || is_legal(self.end, now, to)) {
                    return Ok(Switched::No);
                }
                write(t).await?;
                t.set(&path, &to).await?;
                Ok(Switched::Yes)
            })
            .await?;
        if switched == Switched::Yes {
            self.last.set(to);
            match self.quiet.get() {
                true => self.spare(),
                false => information!("{}: {}", self.path, to),
            }
        }
        Ok(switched)
    }

    /// Writes why the device cannot be used to the log and to `error/<directory>/error`, as number and text, where the
    /// toolstack's user looks for it (`xenbus_dev_error` in Linux).
    ///
    /// # Errors
    ///
    /// As [`Tree::write`].
    pub async fn report(&self, failure: &Failure) -> Result<(), Error> {
        let known = self.reported.replace(Some(failure.clone()));
        if self.quiet.get() && known.as_ref() == Some(failure) {
            self.spare();
            return Ok(());
        }
        warning!("{}: {}", self.path, failure);
        let home = match self.path.strip_prefix("/local/domain/").and_then(|rest| rest.split_once('/')) {
            Some((_, rest)) => rest,
            None => &self.path,
        };
        let text = format!("{} {}", failure.errno.number(), failure.text);
        match self.store.set(&format!("error/{home}/error"), &text).await {
            // Some toolstacks give guests no such directory; the log has it.
            Err(error) if matches!(error.errno(), Some(Errno::EACCES | Errno::ENOENT)) => Ok(()),
            other => other,
        }
    }

    /// For a backend: tells the toolstack that the device is set up, or why not (`hotplug-status`, `hotplug-error`).
    ///
    /// # Errors
    ///
    /// As [`Tree::write`].
    pub async fn set_hotplug_status(&self, outcome: Result<(), &Failure>) -> Result<(), Error> {
        self.store
            .transaction(async |t| -> Result<(), Error> {
                if !t.exists(&self.own("state")).await? {
                    return Ok(());
                }
                if let Err(failure) = outcome {
                    t.set(&self.own("hotplug-error"), &failure.to_string()).await?;
                }
                t.set(&self.own("hotplug-status"), if outcome.is_ok() { "connected" } else { "error" }).await
            })
            .await
    }
}

/// Watches on both ends of a device.
pub(super) struct Watches {
    own: Watch,
    other: Watch,
    pace: Pace,
}

impl Watches {
    pub(super) async fn new(device: &Device) -> Result<Watches, Error> {
        let own = device.store.watch_any(&device.path).await?;
        let other = device.store.watch_any(&device.other("state")).await?;
        Ok(Watches { own, other, pace: Pace::default() })
    }

    /// Waits until something may have changed at either end. What the toolstack changes in this end's directory is heard
    /// of at once, what the other end changes in its own only so often.
    pub(super) async fn next(&mut self, device: &Device, clock: &impl Clock) -> Result<(), Error> {
        let Watches { own, other, pace } = self;
        let changed = async {
            let next = pace.next();
            if clock.now() < next {
                clock.until(next).await;
            }
            let event = other.next().await;
            pace.take(clock.now());
            event
        };
        let event = match select(pin!(own.next()), pin!(changed)).await {
            Either::Left((event, _)) | Either::Right((event, _)) => event,
        };
        heard(device, event).await
    }

    /// Waits until something may have changed in this end's directory, or until `deadline`.
    pub(super) async fn own_before(
        &mut self,
        device: &Device,
        clock: &impl Clock,
        deadline: Duration,
    ) -> Result<(), Error> {
        match select(pin!(self.own.next()), clock.until(deadline)).await {
            Either::Left((event, _)) => heard(device, event).await,
            Either::Right(_) => Ok(()),
        }
    }

    /// Waits until something may have changed at either end; `false` where nothing has before `deadline`.
    pub(super) async fn next_before(
        &mut self,
        device: &Device,
        clock: &impl Clock,
        deadline: Duration,
    ) -> Result<bool, Error> {
        match select(pin!(self.next(device, clock)), clock.until(deadline)).await {
            Either::Left((event, _)) => event.map(|()| true),
            Either::Right(_) => Ok(false),
        }
    }

    /// Waits until `done` says so, but not longer than the closing handshake may take.
    pub(super) async fn until(
        &mut self,
        device: &Device,
        clock: &impl Clock,
        mut done: impl FnMut(Option<State>) -> bool,
    ) -> Result<(), Error> {
        let deadline = clock.now() + PATIENCE;
        loop {
            if done(device.other_state().await?) || device.state().await?.is_none() {
                return Ok(());
            }
            if !self.next_before(device, clock, deadline).await? {
                warning!("{}: the other end has not answered for {} s", device.path, PATIENCE.as_secs());
                return Ok(());
            }
        }
    }
}

async fn heard(device: &Device, event: Option<WatchEvent>) -> Result<(), Error> {
    match event {
        Some(_) => Ok(()),
        // The store itself says best what is wrong with it.
        None => device.store.read(&device.own("state")).await.map(drop),
    }
}

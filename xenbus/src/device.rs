//! One end of a device: its two directories.

use alloc::boxed::Box;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::Cell;
use core::fmt;
use core::ops::RangeInclusive;

use xen_hal::{DomId, Errno, information, warning};
use xenstore_client::{Error, ErrorKind, FromValue, Path, Store, Tree};

use crate::device_log::DeviceLog;
use crate::failure::{EndReason, Failure};
use crate::keys::Keys;
use crate::state::{End, State, is_legal};
use crate::stop::Stop;

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
    log: Rc<DeviceLog>,
}

impl Device {
    /// Reads who the other end is; `None` where the directory is not there, or not whole.
    pub(crate) async fn open(
        store: &Store,
        end: End,
        path: &str,
        log: &Rc<DeviceLog>,
    ) -> Result<Option<Device>, Error> {
        let (name, domain) = match end {
            End::Frontend => ("backend", "backend-id"),
            End::Backend => ("frontend", "frontend-id"),
        };
        // In one transaction: the directory may be removed and created again meanwhile, for another peer.
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
            log: log.clone(),
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

    /// What the log is told of it.
    pub(crate) fn log(&self) -> &Rc<DeviceLog> {
        &self.log
    }

    /// The path of a node of this end.
    pub fn own(&self, key: &str) -> String {
        format!("{}/{key}", self.path)
    }

    /// The path of a node of the other end.
    pub fn other(&self, key: &str) -> String {
        format!("{}/{key}", self.other)
    }

    /// What this end writes by `tree`: the store itself, or a transaction.
    pub fn keys<'a>(&'a self, tree: &'a Tree) -> Keys<'a> {
        Keys::new(&self.path, tree)
    }

    /// A node of this end, `None` where it is not there.
    ///
    /// # Errors
    ///
    /// As [`Tree::get`](xenstore_client::Tree::get).
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time.
    pub async fn get<T: FromValue>(&self, key: &str) -> Result<Option<T>, Error> {
        self.store.get(&self.own(key)).await
    }

    /// A node of this end that the device cannot do without.
    ///
    /// # Errors
    ///
    /// As [`Tree::get`](xenstore_client::Tree::get); and where there is no such key, which one.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time.
    pub async fn required<T: FromValue>(&self, key: &str) -> Result<T, Failure> {
        let missing = || Failure::new(Errno::EINVAL, format_args!("the toolstack has not written {}", self.own(key)));
        self.get(key).await?.ok_or_else(missing)
    }

    /// A number that the toolstack may have written, from `range`. What is no such number counts as `default`, with a
    /// warning: a slip of the administrator's is no reason to have no device.
    ///
    /// # Errors
    ///
    /// What the store says.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time.
    pub async fn number(&self, key: &str, range: RangeInclusive<u32>, default: u32) -> Result<u32, Error> {
        let Some(value) = self.get::<Vec<u8>>(key).await? else { return Ok(default) };
        if let Some(number) = u32::from_value(value.trim_ascii()).filter(|number| range.contains(number)) {
            return Ok(number);
        }
        let ErrorKind::Value { found, .. } = ErrorKind::value(u32::EXPECTED, &value) else { return Ok(default) };
        let (path, least, most) = (self.own(key), range.start(), range.end());
        let line = format!("{path} is {found:?}, not a number from {least} to {most}: using {default}");
        self.log.warn_once(&path, &line);
        Ok(default)
    }

    /// The failure for a node of this end with a value that is not what it has to be.
    pub fn unexpected(&self, key: &str, value: impl fmt::Display, expected: impl fmt::Display) -> Failure {
        Failure::new(Errno::EINVAL, format_args!("{} = {value}: expected {expected}", self.own(key)))
    }

    /// A node of the other end, `None` where it is not there.
    ///
    /// # Errors
    ///
    /// As [`Tree::get`](xenstore_client::Tree::get).
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time.
    pub async fn get_other<T: FromValue>(&self, key: &str) -> Result<Option<T>, Error> {
        self.store.get(&self.other(key)).await
    }

    /// This end's state; `None` where its directory is gone.
    pub(crate) async fn state(&self) -> Result<Option<State>, Error> {
        self.get("state").await
    }

    /// The other end's state; `None` where its directory is gone, or hidden from this domain, which amounts to the same.
    pub(crate) async fn other_state(&self) -> Result<Option<State>, Error> {
        match self.get_other("state").await {
            Err(error) if error.errno() == Some(Errno::EACCES) => Ok(None),
            other => other,
        }
    }

    /// The state that this end has written last.
    pub(crate) fn last(&self) -> State {
        self.last.get()
    }

    /// Goes to a state.
    pub(crate) async fn switch(&self, to: State) -> Result<(), Stop> {
        self.switch_with(to, async |_| Ok(())).await
    }

    /// Goes to a state; `false` where that could not be, which shows at the next look.
    pub(crate) async fn try_switch(&self, to: State) -> Result<bool, Error> {
        match self.switch(to).await {
            Err(Stop::Store(error)) => Err(error),
            outcome => Ok(outcome.is_ok()),
        }
    }

    /// Goes to a state, and writes what belongs to it in the same transaction.
    ///
    /// Nothing is written where the directory was removed, which ends the device's life; nor where it was made anew by
    /// the toolstack, or the toolstack has asked a backend to close and it is about to do something else: then the state
    /// is not what this end has written, and there is a new look to be taken.
    pub(crate) async fn switch_with(
        &self,
        to: State,
        mut write: impl AsyncFnMut(&Keys<'_>) -> Result<(), Error>,
    ) -> Result<(), Stop> {
        let path = self.own("state");
        let last = self.last.get();
        let stop = self
            .store
            .transaction(async |t| -> Result<Option<Stop>, Error> {
                let Some(now) = t.get::<State>(&path).await? else { return Ok(Some(Stop::Ended(EndReason::Removed))) };
                let asked = self.end == End::Backend && now == State::Closing;
                if !(now == last || asked) || !(now == to || is_legal(self.end, now, to)) {
                    return Ok(Some(Stop::Again));
                }
                write(&self.keys(t)).await?;
                t.set(&path, &to).await?;
                Ok(None)
            })
            .await?;
        if let Some(stop) = stop {
            return Err(stop);
        }
        self.last.set(to);
        if self.log.allows_step() {
            information!("{}: {}", self.path, to);
        }
        Ok(())
    }

    /// Writes why the device cannot be used to the log and to `error/<directory>/error`, as number and text, where the
    /// toolstack's user looks for it (`xenbus_dev_error` in Linux).
    ///
    /// # Errors
    ///
    /// As [`Tree::write`](xenstore_client::Tree::write).
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time: the log has the failure, the node may not.
    pub async fn report(&self, failure: &Failure) -> Result<(), Error> {
        if !self.log.is_news(failure) {
            return Ok(());
        }
        if self.log.allows_warning() {
            warning!("{}: {}", self.path, failure);
        }
        self.write_error(failure).await
    }

    /// As [`report`](Device::report), without the log.
    pub(crate) async fn write_error(&self, failure: &Failure) -> Result<(), Error> {
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
    /// As [`Tree::write`](xenstore_client::Tree::write).
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time: both nodes are written, or neither.
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

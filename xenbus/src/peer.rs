//! What the other end of a device has written.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::fmt;

use xen_hal::Errno;
use xenstore_client::{Error, ErrorKind, FromValue, Tree};

use crate::device::Device;
use crate::failure::Failure;
use crate::state::End;

/// The keys of a device's other end, as they were at one moment; see [`Device::read_peer`].
///
/// The other end may write anything, and at any time: what is read here is read once, and what is made of it goes by
/// what was read.
pub struct Peer<'a> {
    device: &'a Device,
    tree: &'a Tree,
    /// What is to be said of which keys, once it is certain that they were read together.
    complaints: &'a RefCell<Vec<(String, String)>>,
}

/// How often the other end may change what is being read before it counts as one that never stops.
const MAX_TRIES: u32 = 8;

impl Peer<'_> {
    /// A key's path.
    pub fn path(&self, key: &str) -> String {
        self.device.other(key)
    }

    /// A key that the other end need not have written.
    ///
    /// # Errors
    ///
    /// As [`Tree::get`].
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time.
    pub async fn get<T: FromValue>(&self, key: &str) -> Result<Option<T>, Error> {
        self.tree.get(&self.path(key)).await
    }

    /// A key that the device cannot do without.
    ///
    /// # Errors
    ///
    /// As [`get`](Peer::get); and where there is no such key, which one.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time.
    pub async fn required<T: FromValue>(&self, key: &str) -> Result<T, Failure> {
        let missing = || {
            let other_end = self.device.other_end();
            Failure::new(Errno::EINVAL, format_args!("the {other_end} has not written {}", self.path(key)))
        };
        self.get(key).await?.ok_or_else(missing)
    }

    /// Whether a feature is offered or asked for, such as `feature-sg`. What is no number says no, with a warning, as
    /// Linux's drivers take it.
    ///
    /// # Errors
    ///
    /// What the store says.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time.
    pub async fn flag(&self, key: &str) -> Result<bool, Error> {
        Ok(self.number(key, 0).await? != 0)
    }

    /// The failure for a key with a value that is not what it has to be.
    pub fn unexpected(&self, key: &str, value: impl fmt::Display, expected: impl fmt::Display) -> Failure {
        Failure::new(Errno::EINVAL, format_args!("{} = {value}: expected {expected}", self.path(key)))
    }

    /// A number that may be missing, such as a limit. What is no number counts as missing, with a warning.
    ///
    /// # Errors
    ///
    /// What the store says.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time.
    pub async fn number(&self, key: &str, default: u32) -> Result<u32, Error> {
        let Some(value) = self.get::<Vec<u8>>(key).await? else { return Ok(default) };
        match u32::from_value(value.trim_ascii()) {
            Some(number) => Ok(number),
            None => {
                let ErrorKind::Value { found, .. } = ErrorKind::value(u32::EXPECTED, &value) else {
                    return Ok(default);
                };
                let text = format!("{} = {found:?} is not a number, using {default}", self.path(key));
                self.complaints.borrow_mut().push((key.into(), text));
                Ok(default)
            }
        }
    }
}

impl Device {
    /// Reads what the other end has written: all of it as it was at one moment. `read` may run more than once.
    ///
    /// # Errors
    ///
    /// What `read` returns, what the store says; and where the other end keeps changing what is being read.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time.
    pub async fn read_peer<T>(&self, read: impl AsyncFn(&Peer<'_>) -> Result<T, Failure>) -> Result<T, Failure> {
        let complaints = RefCell::new(Vec::new());
        // What is wrong with the keys is certain only if they were read together: the transaction goes first.
        let outcome = self
            .store()
            .transaction_of(MAX_TRIES, async |tree| -> Result<Result<T, Failure>, Error> {
                complaints.borrow_mut().clear();
                Ok(read(&Peer { device: self, tree, complaints: &complaints }).await)
            })
            .await;
        let outcome = match outcome {
            Err(Error { kind: ErrorKind::Contended { tries }, .. }) => {
                let (other_end, path) = (self.other_end(), self.other_path());
                return Err(Failure::new(
                    Errno::EAGAIN,
                    format_args!("the {other_end} has changed {path} {tries} times"),
                ));
            }
            other => other?,
        };
        for (key, what) in complaints.take() {
            self.log().warn_once(&key, &format!("{}: {what}", self.path()));
        }
        outcome
    }

    fn other_end(&self) -> &'static str {
        match self.end() {
            End::Frontend => "backend",
            End::Backend => "frontend",
        }
    }
}

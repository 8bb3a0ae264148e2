//! What the toolstack asks of a domain as a whole: to shut down, reboot, suspend (`control/shutdown`), and the sysrq
//! keys (`control/sysrq`).
//!
//! Source: docs/misc/xenstore-paths.pandoc, "Domain Controlled Paths".

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::pin::pin;

use futures_util::future::{Either, select};
use xen_hal::warning;

use crate::text::printable;
use crate::wire::Op;
use crate::{Broken, Error, ErrorKind, Store, Watch};

const SHUTDOWN: &str = "control/shutdown";
const SYSRQ: &str = "control/sysrq";

/// A request to end, or to be saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Shutdown {
    /// End: `xl shutdown`.
    Poweroff,
    /// End, and be started again: `xl reboot`.
    Reboot,
    /// End without cutting the power, which is the same for a guest.
    Halt,
    /// Be saved or moved: `xl save`, `xl migrate`.
    Suspend,
    /// End as crashed.
    Crash,
}

impl Shutdown {
    /// All of them.
    pub const ALL: [Shutdown; 5] =
        [Shutdown::Poweroff, Shutdown::Reboot, Shutdown::Halt, Shutdown::Suspend, Shutdown::Crash];

    /// The word in the store.
    pub const fn name(self) -> &'static str {
        match self {
            Shutdown::Poweroff => "poweroff",
            Shutdown::Reboot => "reboot",
            Shutdown::Halt => "halt",
            Shutdown::Suspend => "suspend",
            Shutdown::Crash => "crash",
        }
    }

    fn from_value(value: &[u8]) -> Option<Shutdown> {
        Shutdown::ALL.into_iter().find(|request| request.name().as_bytes() == value)
    }
}

impl fmt::Display for Shutdown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What the toolstack asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Request {
    /// To end, or to be saved.
    Shutdown(Shutdown),
    /// A sysrq key: `xl sysrq`.
    Sysrq(char),
}

/// Listens to what the toolstack asks for.
///
/// # Examples
///
/// ```
/// use xenstore_client::control::{Control, Request, Shutdown};
/// use xenstore_client::{Error, Store};
///
/// /// Runs in a task of its own.
/// async fn listen(store: &Store) -> Result<Shutdown, Error> {
///     let mut control = Control::new(store).await?;
///     loop {
///         match control.next().await? {
///             Request::Shutdown(shutdown) => return Ok(shutdown),
///             Request::Sysrq(key) => println!("sysrq: {key}"),
///         }
///     }
/// }
/// ```
pub struct Control {
    store: Store,
    shutdown: Watch,
    sysrq: Watch,
    /// The connection on which was said what this domain understands.
    advertised: Option<u32>,
}

impl Control {
    /// Begins to listen.
    ///
    /// # Errors
    ///
    /// What the store says to the watches.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time.
    pub async fn new(store: &Store) -> Result<Control, Error> {
        let (shutdown, sysrq) = (store.watch(SHUTDOWN).await?, store.watch(SYSRQ).await?);
        let mut control = Control { store: store.clone(), shutdown, sysrq, advertised: None };
        control.advertise().await?;
        Ok(control)
    }

    /// Says what this domain understands, so that the toolstack does not wait in vain.
    async fn advertise(&mut self) -> Result<(), Error> {
        let generation = self.store.generation();
        if self.advertised == Some(generation) {
            return Ok(());
        }
        for feature in ["poweroff", "reboot", "halt", "suspend", "sysrq"] {
            match self.store.write(&alloc::format!("control/feature-{feature}"), b"1").await {
                // Toolstacks differ in which of these they let a domain write.
                Err(error) if error.errno().is_some() => {}
                other => other?,
            }
        }
        self.advertised = Some(generation);
        Ok(())
    }

    /// Waits for the next request. It is acknowledged when this returns: the toolstack takes it for granted that the
    /// domain acts on it.
    ///
    /// What is not understood is left as it is, for the toolstack to see.
    ///
    /// # Errors
    ///
    /// Where the store fails.
    ///
    /// # Cancellation
    ///
    /// Dropping the future between acknowledgement and return loses a request; let it run in a task of its own.
    pub async fn next(&mut self) -> Result<Request, Error> {
        loop {
            let event = match select(pin!(self.shutdown.next()), pin!(self.sysrq.next())).await {
                Either::Left((event, _)) => event.map(|_| true),
                Either::Right((event, _)) => event.map(|_| false),
            };
            let Some(shutdown) = event else {
                let broken = self.store.broken().unwrap_or(Broken::Stopped);
                return Err(Error::new(Op::Watch, SHUTDOWN, ErrorKind::Broken(broken)));
            };
            self.advertise().await?;
            let found = match shutdown {
                true => self.take(SHUTDOWN, Shutdown::from_value).await?.map(Request::Shutdown),
                false => self.take(SYSRQ, key).await?.map(Request::Sysrq),
            };
            if let Some(request) = found {
                return Ok(request);
            }
        }
    }

    /// Reads a node and empties it, where its value means something.
    async fn take<T>(&self, path: &str, read: impl Fn(&[u8]) -> Option<T>) -> Result<Option<T>, Error> {
        let taken = self
            .store
            .transaction(async |t| -> Result<_, Error> {
                let value: Vec<u8> = t.get(path).await?.unwrap_or_default();
                let found = read(&value);
                if found.is_some() {
                    t.write(path, b"").await?;
                }
                Ok((value, found))
            })
            .await;
        let (value, found) = match taken {
            Err(error) if !error.is_broken() => {
                // A domain at one of its quotas gets no transaction, or none ended. A request is heard all the same: what
                // is lost without one is a second request at the same moment.
                let value: Vec<u8> = self.store.get(path).await?.unwrap_or_default();
                let found = read(&value);
                if found.is_some()
                    && let Err(error) = self.store.write(path, b"").await
                {
                    if error.is_broken() {
                        return Err(error);
                    }
                    warning!("{}: not acknowledged: {}", path, error);
                }
                (value, found)
            }
            taken => taken?,
        };
        if found.is_none() && !value.is_empty() && value != [0] {
            warning!("{}: unknown request {}", path, printable(&String::from_utf8_lossy(&value)));
        }
        Ok(found)
    }
}

fn key(value: &[u8]) -> Option<char> {
    match value {
        [key @ b'!'..=b'~', ..] => Some(char::from(*key)),
        _ => None,
    }
}

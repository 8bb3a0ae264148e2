//! qrexec: services that dom0 and other qubes call in this one, and calls of services elsewhere.
//!
//! dom0's policy decides who may call what. [`Agent`] is what it talks to in a qube.

mod calls;
mod command;
mod control;
mod remote;
mod serve;
mod session;
mod streams;
#[cfg(test)]
mod tests;
pub mod wire;

use alloc::rc::Rc;
use alloc::string::String;
use core::fmt;
use core::time::Duration;

use xen_hal::{DomId, Xen};
use xen_vchan::SetupError;
use xenstore_client::Store;

pub use command::{BadCommand, Call, ExitCode, Request};
pub use remote::{Answer, Collected, RemoteCall, RemoteInput, RemoteOutput};
pub use session::{Input, Output, Session};

use control::{Over, Shared};
use wire::WireError;

/// Where dom0 looks for the agent, and how much it does at a time.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// The domain of the daemon: dom0.
    pub peer: DomId,
    /// The vchan port of the control channel: 512.
    pub port: u32,
    /// Calls that are served at a time: 16, a quarter of them for dom0 alone. As many more end with exit code 125; of any
    /// beyond these, dom0 is told that the channel is closed.
    pub max_calls: usize,
    /// Calls of this domain's that wait for dom0, at a time: 16.
    pub max_outgoing: usize,
    /// How long opening a data channel may take, and sending the end of a call: 120 s, since a qube may still be starting.
    pub patience: Duration,
}

impl Default for Options {
    fn default() -> Self {
        let patience = Duration::from_secs(120);
        Options { peer: DomId(0), port: 512, max_calls: 16, max_outgoing: 16, patience }
    }
}

/// The agent of a qube: a small handle, to be cloned into tasks that call services elsewhere.
///
/// # Examples
///
/// ```
/// use qubes::Agent;
/// use qubes::rexec::{Call, ExitCode, Options, Session};
/// use xen_hal::Xen;
///
/// /// `my.Echo` sends back what comes.
/// async fn service<X: Xen>(call: Call, session: &mut Session<X>) -> ExitCode {
///     if call.service() != Some("my.Echo") {
///         return ExitCode::NOT_FOUND;
///     }
///     let mut bytes = [0; 512];
///     loop {
///         match session.read(&mut bytes).await {
///             Ok(0) => return ExitCode::SUCCESS,
///             Ok(len) => match session.write(&bytes[..len]).await {
///                 Ok(()) => {}
///                 Err(_) => return ExitCode::FAILURE,
///             },
///             Err(_) => return ExitCode::FAILURE,
///         }
///     }
/// }
///
/// let xen = xen_sim::Xen::new(1);
/// let qube = xen.domain();
/// let (agent, runner) = Agent::new(qube.clone(), &qube.store(), Options::default(), service);
/// let serving = qube.spawn(runner);
/// xen.run(async move {
///     assert!(!agent.is_connected(), "there is no dom0 yet");
///     serving.cancel().await;
/// });
/// ```
pub struct Agent<X: Xen> {
    shared: Rc<Shared<X>>,
}

impl<X: Xen> Clone for Agent<X> {
    fn clone(&self) -> Self {
        Agent { shared: self.shared.clone() }
    }
}

impl<X: Xen + 'static> Agent<X> {
    /// A handle, and the runner that is to be spawned: it listens for dom0, calls `handler` for each call, several at a time,
    /// and goes on until it is dropped. When dom0's daemon ends it listens again; calls have channels of their own, and go on.
    ///
    /// `qubes.WaitForSession` succeeds without the handler. Where that returns [`ExitCode::NOT_FOUND`], the caller is told on
    /// standard error that there is no such service.
    ///
    /// # Cancellation
    ///
    /// A runner that is dropped closes all channels of calls that are served here. Calls of services elsewhere go on.
    pub fn new<H>(
        xen: X,
        store: &Store,
        options: Options,
        handler: H,
    ) -> (Agent<X>, impl Future<Output = ()> + use<X, H>)
    where
        H: AsyncFn(Call, &mut Session<X>) -> ExitCode + 'static,
    {
        let shared = Rc::new(Shared::new(xen, store, options));
        (Agent { shared: shared.clone() }, control::run(Over(shared), Rc::new(handler)))
    }

    /// Whether dom0's daemon is connected.
    pub fn is_connected(&self) -> bool {
        self.shared.version.get().is_some()
    }

    /// Waits until dom0's daemon is connected.
    ///
    /// # Errors
    ///
    /// [`CallError::Stopped`].
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time.
    pub async fn connected(&self) -> Result<(), CallError> {
        let shared = &self.shared;
        let look = || match (shared.version.get(), shared.is_over.get()) {
            (Some(_), _) => Some(Ok(())),
            (None, true) => Some(Err(CallError::Stopped)),
            (None, false) => None,
        };
        shared.waiters.wait(look).await
    }

    /// Calls a service, `SERVICE` or `SERVICE+ARGUMENT`, in the qube `target`, or where dom0's policy says for `dom0`,
    /// `@default` or `@dispvm`. Waits for dom0 to decide, and for the other end; before dom0's daemon has
    /// connected, it waits for that too.
    ///
    /// # Errors
    ///
    /// [`CallError::Refused`] if the policy refuses; [`CallError::BadTarget`] and [`CallError::BadService`] for names that
    /// cannot be; [`CallError::Busy`] if too many calls wait; others if dom0 or the service's end fails.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time. The service may have been started then, and finds nobody.
    pub async fn call(&self, target: &str, service: &str) -> Result<RemoteCall<X>, CallError> {
        let shared = &self.shared;
        if service.is_empty() || service.starts_with('+') || !service.bytes().all(|byte| is_name(byte) || byte == b'+')
        {
            return Err(CallError::BadService { service: service.into() });
        }
        if target.is_empty() || !target.bytes().all(|byte| is_name(byte) || b"@:".contains(&byte)) {
            return Err(CallError::BadTarget { target: target.into() });
        }
        if shared.is_over.get() {
            return Err(CallError::Stopped);
        }
        if shared.outgoing.borrow().len() >= shared.options.max_outgoing {
            return Err(CallError::Busy { max: shared.options.max_outgoing });
        }
        let call = PendingCall { shared, id: shared.outgoing.borrow_mut().add(target, service) };
        shared.connections.work.notify();
        let look = || match shared.outgoing.borrow_mut().take_outcome(call.id) {
            None if shared.is_over.get() => Some(Err(CallError::Stopped)),
            outcome => outcome,
        };
        shared.waiters.wait(look).await
    }
}

/// dom0 replaces all other bytes with `_`.
fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_-.".contains(&byte)
}

/// Somebody waits for the outcome.
struct PendingCall<'a, X: Xen> {
    shared: &'a Shared<X>,
    id: u64,
}

impl<X: Xen> Drop for PendingCall<'_, X> {
    fn drop(&mut self) {
        let call = self.shared.outgoing.borrow_mut().remove(self.id);
        // With nothing borrowed: it may be a channel that is open.
        drop(call);
        self.shared.waiters.wake();
    }
}

impl<X: Xen> fmt::Debug for Agent<X> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agent").field("version", &self.shared.version.get()).finish_non_exhaustive()
    }
}

/// Why a call in progress does not go on.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The other end has closed the channel, or is gone, before the end of what it was to send.
    Closed,
    /// The other end has not begun in time.
    Silent,
    /// The other end does not begin with its version.
    NoHello,
    /// The other end sends what cannot be.
    Wire(WireError),
    /// The vchan has failed.
    Channel(xen_vchan::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Closed => f.write_str("the other end has closed the qrexec channel"),
            Error::Silent => f.write_str("the other end of the qrexec channel has sent nothing in time"),
            Error::NoHello => f.write_str("the other end of the qrexec channel does not begin with its version"),
            Error::Wire(error) => error.fmt(f),
            Error::Channel(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for Error {}

impl From<xen_vchan::Error> for Error {
    fn from(error: xen_vchan::Error) -> Self {
        Error::Channel(error)
    }
}

impl From<WireError> for Error {
    fn from(error: WireError) -> Self {
        Error::Wire(error)
    }
}

/// Why a call of another domain's service has failed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CallError {
    /// dom0's policy, or the user, does not allow it, or the target could not be started.
    Refused,
    /// There can be no such target.
    BadTarget {
        /// The target.
        target: String,
    },
    /// There can be no such service.
    BadService {
        /// The service.
        service: String,
    },
    /// A name is too long for the version of dom0's daemon.
    Name(WireError),
    /// So many calls wait for dom0 already.
    Busy {
        /// How many.
        max: usize,
    },
    /// dom0's daemon has ended before it has decided.
    Disconnected,
    /// The other end has not connected in time.
    Timeout,
    /// The vchan cannot be opened.
    Setup(SetupError),
    /// The other end has not begun as it should.
    Session(Error),
    /// The agent's runner has ended.
    Stopped,
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use xenstore_client::printable;
        match self {
            CallError::Refused => {
                f.write_str("qrexec: dom0 has refused the call; see its policy in /etc/qubes/policy.d")
            }
            CallError::BadTarget { target } => {
                write!(f, "qrexec: \"{}\" is not a target: allowed are A-Z a-z 0-9 _ - . @ :", printable(target))
            }
            CallError::BadService { service } => {
                write!(f, "qrexec: \"{}\" is not a service: allowed are A-Z a-z 0-9 _ - . +", printable(service))
            }
            CallError::Name(error) => write!(f, "qrexec: {error}"),
            CallError::Busy { max } => write!(f, "qrexec: {max} calls wait for dom0; wait for some of them first"),
            CallError::Disconnected => f.write_str("qrexec: dom0's daemon has ended; call again"),
            CallError::Timeout => f.write_str("qrexec: the service's end has not connected in time"),
            CallError::Setup(error) => write!(f, "qrexec: {error}"),
            CallError::Session(error) => error.fmt(f),
            CallError::Stopped => f.write_str("qrexec: the runner has ended; spawn it, and keep its task"),
        }
    }
}

impl core::error::Error for CallError {}

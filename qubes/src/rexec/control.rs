//! The control channel: what dom0's daemon asks for, and is told.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::fmt;
use core::future::poll_fn;
use core::pin::{Pin, pin};
use core::task::Poll;
use core::time::Duration;

use futures_util::StreamExt;
use futures_util::future::{Either, select};
use futures_util::stream::FuturesUnordered;
use xen_hal::{Xen, information, warning};
use xen_vchan::{Channel, ReadHalf, Server, SetupError, WriteHalf};
use xenbus::RateLimit;
use xenstore_client::Store;

use super::calls::{Connections, Outgoing};
use super::remote::RemoteCall;
use super::streams::hello;
use super::wire::{Control, ControlDecoder, WireError};
use super::{Call, CallError, Error, ExitCode, Options, Session, serve};
use crate::waiting::{Waiters, within};

/// Bytes of each ring, as the original has them.
const RING: usize = 4096;
/// How long the daemon may take for its first message, and to read ours.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is done besides the control channel.
pub(super) type Work = Pin<Box<dyn Future<Output = ()>>>;

pub(super) struct Shared<X: Xen> {
    pub(super) xen: X,
    pub(super) store: Store,
    pub(super) options: Options,
    /// The version of the daemon that is connected.
    pub(super) version: Cell<Option<u32>>,
    pub(super) is_over: Cell<bool>,
    pub(super) connections: Rc<Connections>,
    pub(super) outgoing: RefCell<Outgoing<RemoteCall<X>>>,
    /// Who waits for a call's outcome, or for the daemon.
    pub(super) waiters: Waiters,
    /// To be begun.
    pub(super) work: RefCell<Vec<Work>>,
    /// Calls that are served, and that are told that there are too many.
    pub(super) serving: Rc<Cell<usize>>,
    pub(super) refusing: Rc<Cell<usize>>,
    pub(super) lines: RefCell<RateLimit>,
}

impl<X: Xen> Shared<X> {
    pub(super) fn new(xen: X, store: &Store, options: Options) -> Shared<X> {
        Shared {
            xen,
            store: store.clone(),
            options,
            version: Cell::new(None),
            is_over: Cell::new(false),
            connections: Rc::default(),
            outgoing: RefCell::default(),
            waiters: Waiters::default(),
            work: RefCell::default(),
            serving: Rc::default(),
            refusing: Rc::default(),
            lines: RefCell::new(RateLimit::for_log_lines()),
        }
    }

    /// Whether a line is logged that a peer can cause.
    pub(super) fn allows_line(&self) -> bool {
        self.lines.borrow_mut().allows(self.xen.now())
    }
}

/// Listens for the daemon, and serves calls.
pub(super) async fn run<X: Xen + 'static, H>(over: Over<X>, handler: Rc<H>)
where
    H: AsyncFn(Call, &mut Session<X>) -> ExitCode + 'static,
{
    let shared = over.0.clone();
    let mut control = pin!(listen(&shared, &handler));
    let mut work = FuturesUnordered::new();
    poll_fn(|cx| {
        loop {
            if control.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            work.extend(shared.work.take());
            while let Poll::Ready(Some(())) = work.poll_next_unpin(cx) {}
            // What was served may have begun something.
            if shared.work.borrow().is_empty() {
                return Poll::Pending;
            }
        }
    })
    .await;
}

/// When it is dropped, the runner has ended, even if it never began.
pub(super) struct Over<X: Xen>(pub(super) Rc<Shared<X>>);

impl<X: Xen> Drop for Over<X> {
    fn drop(&mut self) {
        self.0.is_over.set(true);
        self.0.version.set(None);
        let work = self.0.work.take();
        drop(work);
        self.0.waiters.wake();
    }
}

async fn listen<X: Xen + 'static, H>(shared: &Rc<Shared<X>>, handler: &Rc<H>)
where
    H: AsyncFn(Call, &mut Session<X>) -> ExitCode + 'static,
{
    let options = &shared.options;
    let server = Server::new(shared.xen.clone(), &shared.store, options.peer, options.port);
    let mut server = server.with_sizes(RING, RING).expect("there are such rings");
    loop {
        let stop = match server.accept().await {
            Ok(channel) => Connection { shared, handler }.follow(channel).await,
            Err(error) => {
                shared.xen.sleep(Duration::from_secs(5)).await;
                Stop::Setup(error)
            }
        };
        shared.version.set(None);
        shared.outgoing.borrow_mut().disconnected();
        shared.waiters.wake();
        if shared.allows_line() {
            warning!("qrexec: {}: {}; listening again", options.peer, stop);
        }
    }
}

struct Connection<'a, X: Xen, H> {
    shared: &'a Rc<Shared<X>>,
    handler: &'a Rc<H>,
}

impl<X: Xen + 'static, H> Connection<'_, X, H>
where
    H: AsyncFn(Call, &mut Session<X>) -> ExitCode + 'static,
{
    async fn follow(&self, channel: Channel<X>) -> Stop {
        match self.serve(channel).await {
            Ok(never) => match never {},
            Err(stop) => stop,
        }
    }

    async fn serve(&self, channel: Channel<X>) -> Result<core::convert::Infallible, Stop> {
        let shared = self.shared;
        let (mut reader, mut writer) = channel.split();
        let version = within(&shared.xen, PATIENCE, hello(&mut reader, &mut writer)).await.ok_or(Error::Silent)??;
        shared.version.set(Some(version));
        shared.waiters.wake();
        if shared.allows_line() {
            information!("qrexec: {} has connected, version {}", shared.options.peer, version);
        }
        let (mut decoder, mut bytes) = (ControlDecoder::default(), vec![0; RING]);
        loop {
            self.send(&mut writer, version).await?;
            let Some(len) = self.wait(&mut reader, &mut bytes).await? else { continue };
            if len == 0 {
                return Err(Stop::Session(Error::Closed));
            }
            decoder.push(&bytes[..len]);
            while let Some(message) = decoder.next_message()? {
                self.receive(message)?;
            }
        }
    }

    /// Sends all that is due.
    async fn send(&self, writer: &mut WriteHalf<X>, version: u32) -> Result<(), Stop> {
        let shared = self.shared;
        loop {
            let message = match shared.connections.next_message() {
                Some(message) => message.encode(version)?,
                None => match shared.outgoing.borrow_mut().next_message(version) {
                    Some(message) => message,
                    None => break,
                },
            };
            // A name can be longer than the ring.
            let sending = async {
                let mut rest = &message[..];
                while !rest.is_empty() {
                    let len = writer.write(rest).await?;
                    rest = &rest[len..];
                }
                Ok::<_, xen_vchan::Error>(())
            };
            within(&shared.xen, PATIENCE, sending).await.ok_or(Error::Silent)??;
        }
        // Some of them may have failed.
        shared.waiters.wake();
        Ok(())
    }

    async fn wait(&self, reader: &mut ReadHalf<X>, to: &mut [u8]) -> Result<Option<usize>, Stop> {
        let working = poll_fn(|cx| self.shared.connections.work.poll_notified(cx));
        match select(pin!(reader.read(to)), pin!(working)).await {
            Either::Left((len, _)) => Ok(Some(len?)),
            Either::Right(_) => Ok(None),
        }
    }

    fn receive(&self, message: Control) -> Result<(), Stop> {
        let shared = self.shared;
        match message {
            Control::Exec { connection, command } => serve::begin(shared, self.handler, connection, &command, false),
            Control::JustExec { connection, command } => serve::begin(shared, self.handler, connection, &command, true),
            Control::ServiceConnect { connection, ident } => {
                let data = shared.connections.begin(connection);
                let id = shared.outgoing.borrow_mut().answered(&ident);
                // Where nobody waits for it any more, dom0 is told that it is over.
                if let Some(id) = id {
                    let opening = serve::open_outgoing(shared.clone(), connection, data, id);
                    shared.work.borrow_mut().push(Box::pin(opening));
                }
            }
            Control::ServiceRefused { ident } => {
                let mut outgoing = shared.outgoing.borrow_mut();
                if let Some(id) = outgoing.answered(&ident) {
                    // Of a call, nothing is lost: it has no channel yet.
                    let _ = outgoing.finish(id, Err(CallError::Refused));
                }
                drop(outgoing);
                shared.waiters.wake();
            }
            Control::Hello { .. } | Control::Trigger { .. } | Control::Terminated(_) => return Err(Stop::Direction),
        }
        Ok(())
    }
}

/// Why a control channel has ended, or there was none.
#[derive(Debug)]
enum Stop {
    Setup(SetupError),
    Session(Error),
    /// A message that only an agent sends, or a second greeting.
    Direction,
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stop::Setup(error) => error.fmt(f),
            Stop::Session(error) => error.fmt(f),
            Stop::Direction => f.write_str("a message that only an agent sends, or a second greeting"),
        }
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Stop::Session(error)
    }
}

impl From<xen_vchan::Error> for Stop {
    fn from(error: xen_vchan::Error) -> Self {
        Stop::Session(error.into())
    }
}

impl From<WireError> for Stop {
    fn from(error: WireError) -> Self {
        Stop::Session(error.into())
    }
}

//! Data channels: calls that are served here, and the beginning of those that are served elsewhere.

use alloc::boxed::Box;
use alloc::format;
use alloc::rc::Rc;
use core::cell::Cell;
use core::pin::pin;

use futures_util::future::{Either, select};
use xen_hal::{DomId, Xen, warning};
use xen_vchan::{Channel, Client, Server};

use super::calls::Data;
use super::control::Shared;
use super::remote::RemoteCall;
use super::session::Session;
use super::streams;
use super::wire::Connection;
use super::{Call, CallError, Error, ExitCode};
use crate::waiting::within;

/// Bytes of each ring where this end is the server, as the original has them.
const RING: usize = 64 << 10;

/// dom0 asks for a command to be run.
pub(super) fn begin<X: Xen + 'static, H>(
    shared: &Rc<Shared<X>>,
    handler: &Rc<H>,
    connection: Connection,
    line: &str,
    is_just_exec: bool,
) where
    H: AsyncFn(Call, &mut Session<X>) -> ExitCode + 'static,
{
    let data = shared.connections.begin(connection);
    let call = Call::parse(line, is_just_exec).inspect_err(|error| {
        if shared.allows_line() {
            warning!("qrexec: \"{}\": {}", xenstore_client::printable(line), error);
        }
    });
    // A quarter is for dom0 alone: qubes whose calls do not end do not keep it from its own.
    let max = match shared.options.max_calls {
        all if connection.domain == u32::from(shared.options.peer.0) => all,
        all => all - all / 4,
    };
    let is_refused = shared.serving.get() >= max;
    if is_refused && shared.allows_line() {
        warning!("qrexec: {} calls are served already; another one is refused", max);
    }
    if is_refused && shared.refusing.get() >= max {
        return;
    }
    let (counted, call) = match is_refused {
        false => (Counted::new(&shared.serving), call.ok()),
        true => (Counted::new(&shared.refusing), None),
    };
    let (shared, handler) = (shared.clone(), handler.clone());
    let queue = shared.clone();
    let work = async move {
        let _counted = counted;
        if let Err(error) = serve(&shared, &*handler, connection, data, call, is_just_exec).await
            && shared.allows_line()
        {
            warning!("qrexec: call from d{}, port {}: {}", connection.domain, connection.port, error);
        }
    };
    queue.work.borrow_mut().push(Box::pin(work));
}

/// One of so many at a time.
struct Counted(Rc<Cell<usize>>);

impl Counted {
    fn new(count: &Rc<Cell<usize>>) -> Counted {
        count.set(count.get() + 1);
        Counted(count.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

async fn serve<X: Xen + 'static, H>(
    shared: &Rc<Shared<X>>,
    handler: &H,
    connection: Connection,
    data: Data,
    call: Option<Call>,
    is_just_exec: bool,
) -> Result<(), CallError>
where
    H: AsyncFn(Call, &mut Session<X>) -> ExitCode + 'static,
{
    let channel = connect(shared, connection).await?;
    let streams = streams::open(&shared.xen, channel).await.map_err(CallError::Session)?;
    let mut session = Session::new(streams);
    let patience = shared.options.patience;
    if is_just_exec {
        let code = if call.is_some() { ExitCode::SUCCESS } else { ExitCode::PROBLEM };
        let finishing = within(&shared.xen, patience, session.finish_detached(code));
        finishing.await.ok_or(CallError::Timeout)?.map_err(CallError::Session)?;
        drop(data);
        if let Some(call) = call {
            run(handler, call, &mut Session::detached()).await;
        }
        return Ok(());
    }
    let code = match call {
        Some(call) => run(handler, call, &mut session).await,
        None => ExitCode::PROBLEM,
    };
    let outcome = within(&shared.xen, patience, session.finish(code)).await.ok_or(CallError::Timeout)?;
    drop(data);
    match outcome {
        // Who does not wait for the end does not want to know it.
        Ok(()) | Err(Error::Channel(xen_vchan::Error::Closed)) => Ok(()),
        Err(error) => Err(CallError::Session(error)),
    }
}

async fn run<X: Xen, H>(handler: &H, call: Call, session: &mut Session<X>) -> ExitCode
where
    H: AsyncFn(Call, &mut Session<X>) -> ExitCode,
{
    // Asked for before each service that needs a desktop, of which there is none to wait for.
    if call.service() == Some("qubes.WaitForSession") {
        return ExitCode::SUCCESS;
    }
    let name = match call.service() {
        Some(name) => format!("service {name}"),
        None => "a shell".into(),
    };
    let code = handler(call, session).await;
    if code == ExitCode::NOT_FOUND {
        // A caller that is gone need not be told.
        let _ = session.write_error(format!("qrexec: {name} not available here\n").as_bytes()).await;
    }
    code
}

async fn connect<X: Xen>(shared: &Shared<X>, connection: Connection) -> Result<Channel<X>, CallError> {
    let client = Client::new(shared.xen.clone(), &shared.store, peer(connection)?, connection.port);
    let connecting = within(&shared.xen, shared.options.patience, client.connect());
    connecting.await.ok_or(CallError::Timeout)?.map_err(CallError::Setup)
}

fn peer(connection: Connection) -> Result<DomId, CallError> {
    u16::try_from(connection.domain)
        .map(DomId)
        .map_err(|_| CallError::BadTarget { target: format!("d{}", connection.domain) })
}

/// dom0 has accepted a call of this domain's: the service's end connects to us.
pub(super) async fn open_outgoing<X: Xen>(shared: Rc<Shared<X>>, connection: Connection, data: Data, id: u64) {
    let opening = pin!(accept(&shared, connection));
    // Who has asked may not want it any more.
    let abandoned = pin!(shared.waiters.wait(|| (!shared.outgoing.borrow().has(id)).then_some(())));
    let outcome = match select(opening, abandoned).await {
        Either::Left((outcome, _)) => outcome,
        Either::Right(_) => {
            withdraw(&shared, connection).await;
            return;
        }
    };
    let outcome = outcome.map(|streams| RemoteCall::new(streams, data));
    let unwanted = shared.outgoing.borrow_mut().finish(id, outcome);
    drop(unwanted);
    shared.waiters.wake();
}

async fn accept<X: Xen>(
    shared: &Shared<X>,
    connection: Connection,
) -> Result<(streams::Receiver<X>, streams::Sender<X>), CallError> {
    let mut server = server(shared, connection)?;
    let Some(outcome) = within(&shared.xen, shared.options.patience, server.accept()).await else {
        let _ = server.close().await;
        return Err(CallError::Timeout);
    };
    let channel = outcome.map_err(CallError::Setup)?;
    streams::open(&shared.xen, channel).await.map_err(CallError::Session)
}

/// Removes what the store has of a server that nobody waits for.
async fn withdraw<X: Xen>(shared: &Shared<X>, connection: Connection) {
    if let Ok(server) = server(shared, connection) {
        let _ = server.close().await;
    }
}

fn server<X: Xen>(shared: &Shared<X>, connection: Connection) -> Result<Server<X>, CallError> {
    let server = Server::new(shared.xen.clone(), &shared.store, peer(connection)?, connection.port);
    Ok(server.with_sizes(RING, RING).expect("there are such rings"))
}

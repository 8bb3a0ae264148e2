//! Connections: each task serves one after the other.

use alloc::rc::Rc;
use alloc::vec;
use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::pin::pin;
use core::task::{Poll, Waker};

use async_lock::Semaphore;
use futures_util::future::{Either, select};
use picoserve::io::{BaseWrite, ErrorType, Socket, Write};
use picoserve::mem::BorrowedCursor;
use picoserve::time::Timer;
use picoserve::{Config, EmbassyRuntime, Router, Timeouts};
use sarab::network::Network;
use sarab::network::stack::tcp::{self, TcpReader, TcpSocket, TcpWriter};
use sarab::time::{Duration, with_timeout};
use sarab::{App, Disk};
use sarab_site::Site;

use crate::NoSite;
use crate::content::TRANSFER;
use crate::metrics::Metrics;
use crate::pages::Pages;

/// How long answers in flight may take once the domain is to end.
pub const PATIENCE: Duration = Duration::from_secs(2);

const CONFIG: Config = Config::new(Timeouts {
    start_read_request: Duration::from_secs(10),
    persistent_start_read_request: Duration::from_secs(15),
    read_request: Duration::from_secs(5),
    write: Duration::from_secs(10),
})
.keep_connection_alive();

/// Longest request line and headers.
const REQUEST: usize = 4096;
const INCOMING: usize = 2048;

/// What all connections share.
pub struct Server {
    pub app: App,
    pub network: Network,
    pub disk: Option<Disk>,
    pub site: Result<Site<Disk>, NoSite>,
    pub metrics: Metrics,
    /// As many answers read from the disk at once as there is memory for.
    pub transfers: Semaphore,
    port: u16,
    /// Bytes on their way to each client.
    outgoing: usize,
    stopping: Cell<bool>,
    waiting: RefCell<vec::Vec<Waker>>,
}

impl Server {
    pub fn new(
        app: App,
        network: Network,
        port: u16,
        connections: usize,
        disk: Option<Disk>,
        site: Result<Site<Disk>, NoSite>,
    ) -> Server {
        // A third of what is free for what is on its way, and a third for what is read.
        let share = app.memory().free as usize / 3;
        let piece = (share / connections).saturating_sub(TRANSFER).clamp(16 << 10, 64 << 10);
        Server {
            app,
            network,
            disk,
            site: site.map(|site| site.with_pieces_of(piece)),
            metrics: Metrics::default(),
            transfers: Semaphore::new((share / (TRANSFER + piece)).clamp(1, connections)),
            port,
            outgoing: (share / connections).saturating_sub(REQUEST + INCOMING).clamp(2048, 64 << 10),
            stopping: Cell::new(false),
            waiting: RefCell::default(),
        }
    }

    /// Takes no more requests.
    pub fn stop(&self) {
        self.stopping.set(true);
        self.waiting.take().into_iter().for_each(Waker::wake);
    }

    async fn stopped(&self) {
        poll_fn(|cx| match self.stopping.get() {
            true => Poll::Ready(()),
            false => {
                self.waiting.borrow_mut().push(cx.waker().clone());
                Poll::Pending
            }
        })
        .await
    }
}

/// An answer that cannot be finished: its connection is cut.
#[derive(Default)]
pub struct Cut {
    cut: Cell<bool>,
    waker: Cell<Option<Waker>>,
}

impl Cut {
    /// Has the connection cut; does not return.
    pub async fn cut<T>(&self) -> T {
        self.cut.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
        core::future::pending().await
    }

    async fn wait(&self) {
        poll_fn(|cx| match self.cut.get() {
            true => Poll::Ready(()),
            false => {
                self.waker.set(Some(cx.waker().clone()));
                Poll::Pending
            }
        })
        .await
    }
}

/// Serves one connection after the other, until the domain is to end.
pub async fn serve(server: Rc<Server>) {
    let mut request = vec![0; REQUEST];
    let (mut incoming, mut outgoing) = (vec![0; INCOMING], vec![0; server.outgoing]);
    while !server.stopping.get() {
        let mut socket = TcpSocket::new(server.network.stack, &mut incoming, &mut outgoing);
        socket.set_nagle_enabled(false);
        match select(pin!(socket.accept(server.port)), pin!(server.stopped())).await {
            Either::Left((Ok(()), _)) => {}
            Either::Left((Err(_), _)) => continue,
            Either::Right(_) => return,
        }
        socket.set_keep_alive(Some(Duration::from_secs(30)));
        socket.set_timeout(Some(Duration::from_secs(45)));
        server.metrics.opened();
        let cut = Rc::new(Cut::default());
        let router = Router::from_service(Pages { server: server.clone(), cut: cut.clone() });
        let serving = picoserve::Server::new(&router, &CONFIG, &mut request)
            .with_graceful_shutdown(server.stopped(), PATIENCE)
            .serve(Borrowed(&mut socket));
        let finished = {
            let (serving, cut) = (pin!(serving), pin!(cut.wait()));
            matches!(select(serving, cut).await, Either::Left((Ok(_), _)))
        };
        if !finished {
            TcpSocket::abort(&mut socket);
            let _ = with_timeout(Duration::from_secs(1), socket.flush()).await;
        }
        server.metrics.closed();
    }
}

/// A socket that is still there after it was served.
struct Borrowed<'a, 's>(&'a mut TcpSocket<'s>);

impl<'s> Socket<EmbassyRuntime> for Borrowed<'_, 's> {
    type Error = tcp::Error;
    type ReadHalf<'a>
        = TcpReader<'a>
    where
        Self: 'a;
    type WriteHalf<'a>
        = Writer<'a>
    where
        Self: 'a;

    fn split(&mut self) -> (TcpReader<'_>, Writer<'_>) {
        let (reader, writer) = self.0.split();
        (reader, Writer(writer))
    }

    async fn abort<T: Timer<EmbassyRuntime>>(self, _: &Timeouts, _: &T) -> Result<(), picoserve::Error<tcp::Error>> {
        // What is said of a bad request has to reach the client.
        let _ = with_timeout(Duration::from_secs(1), self.0.flush()).await;
        TcpSocket::abort(self.0);
        let _ = with_timeout(Duration::from_secs(1), self.0.flush()).await;
        Ok(())
    }

    /// Says that nothing more comes, and waits for the client to say so.
    async fn shutdown<T: Timer<EmbassyRuntime>>(
        self,
        timeouts: &Timeouts,
        _: &T,
    ) -> Result<(), picoserve::Error<tcp::Error>> {
        self.0.close();
        let rest = async {
            let mut bytes = [0; 256];
            while self.0.read(&mut bytes).await.is_ok_and(|len| len > 0) {}
            self.0.flush().await
        };
        // Who does not take what is left has lost it.
        if !matches!(with_timeout(timeouts.read_request, rest).await, Ok(Ok(()))) {
            TcpSocket::abort(self.0);
        }
        Ok(())
    }
}

/// What is written leaves by itself. A socket's `flush` waits until the client has it, and after a response's header that
/// is until the client is tired of waiting for more.
struct Writer<'a>(TcpWriter<'a>);

impl ErrorType for Writer<'_> {
    type Error = tcp::Error;
}

impl BaseWrite for Writer<'_> {
    async fn write(&mut self, bytes: &[u8]) -> Result<usize, tcp::Error> {
        self.0.write(bytes).await
    }

    async fn flush(&mut self) -> Result<(), tcp::Error> {
        Ok(())
    }
}

impl Write for Writer<'_> {
    async fn write_with<F: FnOnce(BorrowedCursor<'_>) -> R, R>(&mut self, fill: F) -> Result<R, tcp::Error> {
        Write::write_with(&mut self.0, fill).await
    }
}

//! Connections: each task serves one after the other.

use alloc::rc::Rc;
use alloc::vec;
use core::future::poll_fn;
use core::pin::pin;
use core::task::Poll;

use embedded_io_async::{ErrorType, Read, Write};
use futures_util::future::{Either, select};
use sarab::network::Network;
use sarab::network::stack::tcp::{Error, TcpSocket};
use sarab::time::Duration;
use sarab::{App, Disk};
use sarab_http::{Connection, Limits, Pool, Stop, Stream};

use crate::pages::Pages;

/// Longest request line and headers.
pub const REQUEST: usize = 4096;
pub const INCOMING: usize = 2048;

/// A client that does not come to the end of its handshake, or that nobody is behind, gives its socket back after so long.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// What all connections share.
pub struct Server {
    pub app: App,
    pub network: Network,
    pub pages: Pages<Disk>,
    pub pool: Pool,
    pub stop: Stop,
    pub limits: Limits,
    pub port: u16,
    /// Bytes on their way to each client.
    pub outgoing: usize,
}

/// Serves one connection after the other, until the domain is to end.
pub async fn serve(server: Rc<Server>) {
    let mut request = vec![0; REQUEST];
    let (mut incoming, mut outgoing) = (vec![0; INCOMING], vec![0; server.outgoing]);
    while !server.stop.is_set() {
        let mut socket = TcpSocket::new(server.network.stack, &mut incoming, &mut outgoing);
        socket.set_nagle_enabled(false);
        socket.set_timeout(Some(HANDSHAKE));
        match select(pin!(socket.accept(server.port)), pin!(server.stop.wait())).await {
            Either::Left((Ok(()), _)) => {}
            Either::Left((Err(_), _)) | Either::Right(_) => return,
        }
        // The handshake took too long.
        if !socket.may_send() {
            server.pages.counters.gave_up();
            continue;
        }
        socket.set_keep_alive(Some(Duration::from_secs(30)));
        socket.set_timeout(Some(Duration::from_secs(45)));
        let seat = server.pool.enter().expect("there are as many places as tasks");
        server.pages.counters.opened();
        let connection = Connection {
            stream: &mut Tcp(&mut socket),
            buffer: &mut request,
            clock: server.app.clock(),
            seat: &seat,
            stop: &server.stop,
            limits: &server.limits,
        };
        let ended = connection.serve(&server.pages).await;
        server.pages.counters.closed(ended);
    }
}

/// A socket as a stream to a client.
struct Tcp<'a, 's>(&'a mut TcpSocket<'s>);

impl ErrorType for Tcp<'_, '_> {
    type Error = Error;
}

impl Read for Tcp<'_, '_> {
    async fn read(&mut self, to: &mut [u8]) -> Result<usize, Error> {
        self.0.read(to).await
    }
}

impl Write for Tcp<'_, '_> {
    async fn write(&mut self, bytes: &[u8]) -> Result<usize, Error> {
        self.0.write(bytes).await
    }

    async fn flush(&mut self) -> Result<(), Error> {
        self.0.flush().await
    }
}

impl Stream for Tcp<'_, '_> {
    async fn room(&mut self, wished: usize) -> Result<usize, Error> {
        let capacity = self.0.send_capacity();
        poll_fn(|cx| {
            if !self.0.may_send() {
                return Poll::Ready(Err(Error::ConnectionReset));
            }
            let room = capacity - self.0.send_queue();
            if room > 0 && room >= wished.min(capacity / 2) {
                return Poll::Ready(Ok(room));
            }
            // Something is under way: what waits for all of it is woken whenever some of it has arrived.
            let _ = pin!(self.0.flush()).poll(cx);
            Poll::Pending
        })
        .await
    }

    fn close(&mut self) {
        self.0.close();
    }

    fn abort(&mut self) {
        self.0.abort();
    }
}

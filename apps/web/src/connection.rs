//! Connections: each task serves one after the other.

use alloc::rc::Rc;
use alloc::vec;
use core::pin::pin;

use futures_util::future::{Either, select};
use sarab::network::Network;
use sarab::network::stack::tcp::TcpSocket;
use sarab::time::Duration;
use sarab::{App, Disk};
use sarab_http::{Connection, Limits, Pool, Stop, Tcp};

use crate::pages::Pages;
use crate::tls::{Tls, plain};

/// Longest request line and headers.
pub const REQUEST: usize = 4096;
pub const INCOMING: usize = 2048;

/// A client that does not come to the end of its handshake, or that nobody is behind, gives its socket back after so long.
pub const HANDSHAKE: Duration = Duration::from_secs(5);

/// What all connections share.
pub struct Server {
    pub app: App,
    pub network: Network,
    pub pages: Pages<Disk>,
    pub pool: Pool,
    pub stop: Stop,
    pub limits: Limits,
    pub port: u16,
    pub tls: Option<Rc<Tls>>,
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
        let ended = connection.serve(&plain(&server)).await;
        server.pages.counters.closed(ended);
    }
}

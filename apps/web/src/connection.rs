//! Connections: each task serves one after the other.

use alloc::rc::Rc;
use alloc::vec;
use core::net::{IpAddr, Ipv4Addr};
use core::pin::pin;

use futures_util::future::{Either, select};
use sarab::hal::Clock;
use sarab::network::Network;
use sarab::network::stack::tcp::TcpSocket;
use sarab::time::{Duration, with_timeout};
use sarab::{App, Disk};
use sarab_http::{Connection, Limits, Pool, Stop, Tcp};

use crate::clients::Clients;
use crate::log::Log;
use crate::pages::Pages;
use crate::session::Session;
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
    pub log: Option<Rc<Log>>,
    pub clients: Clients,
    pub pool: Pool,
    pub stop: Stop,
    pub limits: Limits,
    pub port: u16,
    #[cfg_attr(not(feature = "tls"), expect(dead_code, reason = "there is none"))]
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
        let client = client_of(&socket);
        let Some(visit) = server.clients.enter(client, server.app.clock().now()) else {
            server.pages.counters.turned_away();
            turn_away(&mut socket).await;
            continue;
        };
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
        let session = Session { pages: &server.pages, log: server.log.as_deref(), client, visit };
        let ended = connection.serve(&plain(&server, session)).await;
        server.pages.counters.closed(ended);
    }
}

/// The address of a client that is connected.
pub fn client_of(socket: &TcpSocket<'_>) -> IpAddr {
    socket.remote_endpoint().map_or(Ipv4Addr::UNSPECIFIED.into(), |remote| remote.addr.into())
}

/// What a client is told that has had too much.
const TOO_MANY: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

/// Ends a connection that a client may not have, and says so. Its request is not waited for.
async fn turn_away(socket: &mut TcpSocket<'_>) {
    let said = async {
        let _ = socket.write(TOO_MANY).await;
        socket.close();
        let _ = socket.flush().await;
    };
    if with_timeout(Duration::from_secs(1), said).await.is_err() {
        socket.abort();
    }
}

//! A web server: an interface, a TCP/IP stack, and HTTP by a crate that knows nothing of Xen.
//!
//! Its address comes by DHCP, or from the command line: `ip=10.0.0.2/24 gw=10.0.0.1`, and `ip6=auto` or
//! `ip6=fd00::2/64`. `port=8080` listens elsewhere than on 80. It answers ping, and ends when `xl shutdown` asks it to.

#![no_std]
#![no_main]

extern crate alloc;

use core::fmt;

use picoserve::response::fs::File;
use picoserve::routing::{get, get_service};
use sarab::network::{NetworkError, Stack};
use sarab::time::Duration;
use sarab::{App, ArgError, println};

/// Connections that are served at once.
const CONNECTIONS: usize = 96;
/// And what DHCP and names need.
const SOCKETS: usize = CONNECTIONS + 4;

const PAGE: File = File::html(include_str!("index.html"));
const CONFIG: picoserve::Config = picoserve::Config::new(picoserve::Timeouts {
    start_read_request: Duration::from_secs(10),
    persistent_start_read_request: Duration::from_secs(10),
    read_request: Duration::from_secs(5),
    write: Duration::from_secs(10),
})
.keep_connection_alive();

#[sarab::main]
async fn main(app: App) -> Result<(), Failure> {
    app.args().expect_only(&["ip", "gw", "dns", "ip6", "port"])?;
    let port = app.args().get_or("port", 80_u16)?;
    let network = app.network::<SOCKETS>().await?;
    for number in 0..CONNECTIONS {
        app.spawn(serve(network.stack, port, number)).detach();
    }
    println!("web: ready on port {port}");
    app.shutdown().await;
    println!("web: {:?}", network.interface.statistics());
    Ok(())
}

/// One connection after the other.
async fn serve(stack: Stack, port: u16, number: usize) -> picoserve::NoGracefulShutdown {
    let pages = picoserve::Router::new().route("/", get_service(PAGE)).route("/bytes", get(async || BYTES));
    let mut request = alloc::vec![0; 2048];
    let (mut incoming, mut outgoing) = (alloc::vec![0; 4096], alloc::vec![0; 16384]);
    picoserve::Server::new(&pages, &CONFIG, &mut request)
        .listen_and_serve(number, stack, port, &mut incoming, &mut outgoing)
        .await
}

/// As many as fill several packets, each telling where it is.
static BYTES: &[u8] = &{
    let mut bytes = [0_u8; 100_000];
    let mut at = 0;
    while at < bytes.len() {
        bytes[at] = (at % 251) as u8;
        at += 1;
    }
    bytes
};

/// Why the program ends with an error.
enum Failure {
    Argument(ArgError),
    Network(NetworkError),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Argument(error) => error.fmt(f),
            Failure::Network(error) => error.fmt(f),
        }
    }
}

impl From<ArgError> for Failure {
    fn from(error: ArgError) -> Self {
        Failure::Argument(error)
    }
}

impl From<NetworkError> for Failure {
    fn from(error: NetworkError) -> Self {
        Failure::Network(error)
    }
}

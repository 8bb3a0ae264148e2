//! A web server whose site is on its first disk: a tar archive, or an ext4 file system.
//!
//! What it teaches: a disk, a network and the store used together by many tasks; components of others on top of them (a
//! TCP/IP stack, HTTP, ext4) that know nothing of Xen; and ending in good order.
//!
//! `ip=dhcp` is usual; `ip=10.0.0.2/24 gw=10.0.0.1 dns=10.0.0.1`, `ip6=auto` or `ip6=fd00::2/64` say otherwise. `port=8080`
//! listens elsewhere than on 80, and `connections=256` are served at once. `/metrics` has counters in Prometheus' form.
//! `xl shutdown` lets answers in flight finish for two seconds.

#![no_std]
#![no_main]

extern crate alloc;

mod connection;
mod content;
mod metrics;
mod pages;

use alloc::rc::Rc;
use core::fmt;

use futures_util::future::join_all;
use sarab::block::BlockDevice;
use sarab::hal::Clock;
use sarab::network::NetworkError;
use sarab::time::{Duration, with_timeout};
use sarab::{App, ArgError, Disk, DiskError, println};
use sarab_site::{OpenError, Site};

use connection::{PATIENCE, Server};

/// Connections that may be asked for, and what DHCP and names need.
const MOST_CONNECTIONS: usize = 256;
const SOCKETS: usize = MOST_CONNECTIONS + 4;

#[sarab::main]
async fn main(app: App) -> Result<(), Failure> {
    app.args().expect_only(&["ip", "gw", "dns", "ip6", "port", "connections"])?;
    let port = app.args().get_or("port", 80_u16)?;
    let connections = app.args().get_or("connections", MOST_CONNECTIONS)?.clamp(1, MOST_CONNECTIONS);

    // Without a site it goes on: a page tells what is missing.
    let (disk, site) = match app.first_disk().await {
        Ok(disk) => (Some(disk.clone()), open(&disk).await),
        Err(error) => (None, Err(NoSite::Disk(error))),
    };
    if let Err(why) = &site {
        println!("web: no site: {why}");
    }

    let network = app.network::<SOCKETS>().await?;
    let server = Rc::new(Server::new(app, network.clone(), port, connections, disk, site));
    let tasks: alloc::vec::Vec<_> = (0..connections).map(|_| app.spawn(connection::serve(server.clone()))).collect();
    println!("web: ready on port {port}");

    let request = app.shutdown().await;
    let start = app.clock().now();
    server.stop();
    let ended = with_timeout(PATIENCE + Duration::from_millis(500), join_all(tasks)).await.is_ok();
    // The last packets have to leave before the interface goes.
    app.clock().sleep(core::time::Duration::from_millis(20)).await;
    println!(
        "web: asked to {request}; {} after {} ms; {}",
        if ended { "all connections ended" } else { "some connections were cut" },
        (app.clock().now() - start).as_millis(),
        server.metrics.summary()
    );
    Ok(())
}

/// Finds out what is on the disk, and tells of it.
async fn open(disk: &Disk) -> Result<Site<Disk>, NoSite> {
    let site = Site::new(disk.clone()).await.map_err(NoSite::Site)?;
    println!("web: {} on a disk of {} KiB", site.format(), disk.geometry().sectors / 2);
    let (warnings, count) = site.warnings();
    for warning in warnings {
        println!("web: {warning}");
    }
    if count > warnings.len() {
        println!("web: and {} more of the kind", count - warnings.len());
    }
    Ok(site)
}

/// Why there is nothing to serve.
pub enum NoSite {
    Disk(DiskError),
    Site(OpenError),
}

impl fmt::Display for NoSite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoSite::Disk(DiskError::None) => f.write_str(
                "the domain has no disk; its xl file gives it one (disk = ['format=raw,vdev=xvda,target=/site.tar'])",
            ),
            NoSite::Disk(error) => error.fmt(f),
            NoSite::Site(error) => write!(f, "the first disk: {error}"),
        }
    }
}

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

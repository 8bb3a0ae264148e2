//! A web server whose site is on its first disk: a tar archive, or an ext4 file system. Where the disk is taken away and another
//! one attached, it serves that. Without a disk, or with `share=TAG`, it serves a folder of another domain's (9pfs), as that is
//! at each moment.
//!
//! What it teaches: a disk, a network and the store used together by many tasks; components of others on top of them (a
//! TCP/IP stack, HTTP, a site's files) that know nothing of Xen; and ending in good order.
//!
//! `ip=dhcp` is usual; `ip=10.0.0.2/24 gw=10.0.0.1 dns=10.0.0.1`, `ip6=auto` or `ip6=fd00::2/64` say otherwise. `port=8080`
//! listens elsewhere than on 80, and `connections=256` are served at once. `/metrics` has counters in Prometheus' form.
//! `hosts=default` has a folder of the disk for each host, and `default` for others. `log=console` or `log=udp:10.0.0.5`
//! logs requests; `client-connections=32` and `client-rate=100` bound what one address may have at once and in a second.
//! With the feature `tls`, `https=443 cert=xvdb` serves HTTPS beside it (docs/https.md).
//! `xl shutdown` lets answers in flight finish for two seconds.

#![no_std]

extern crate alloc;

pub mod clients;
mod connection;
pub mod content;
pub mod counters;
pub mod current;
mod disk;
pub mod hosts;
pub mod log;
mod metrics;
pub mod pages;
pub mod parts;
pub mod ratelimit;
pub mod session;
mod share;
#[cfg_attr(not(feature = "tls"), path = "no_tls.rs")]
mod tls;
pub mod turns;

use alloc::boxed::Box;
use alloc::rc::Rc;

use futures_util::future::join_all;
use sarab::hal::Clock;
use sarab::time::{Duration, with_timeout};
use sarab::{App, Disk, FromArg, println};
use sarab_http::{Limits, Pool, Stop};

use clients::Clients;
use connection::{INCOMING, REQUEST, Server};
use content::{CHUNK, TRANSFER};
use current::Current;
use log::Log;
use metrics::Machine;
use pages::Pages;
use ratelimit::Ratelimit;
use turns::Turns;

/// Connections that may be asked for.
const MOST_CONNECTIONS: usize = 256;
/// Bytes that are given to a connection at once, where they are in memory.
const PIECE: usize = 32 << 10;
/// Memory that is not for files, however much there is.
const RESERVE: usize = 8 << 20;
/// How long the first answers wait for the disk.
const DISK_PATIENCE: Duration = Duration::from_secs(6);

/// What the guest does.
#[cfg_attr(feature = "guest", sarab::main)]
pub async fn main(app: App) -> sarab::Result {
    app.args().expect_only(&[
        "ip",
        "gw",
        "dns",
        "ip6",
        "gw6",
        "port",
        "connections",
        "hosts",
        "log",
        "client-connections",
        "client-rate",
        "https",
        "cert",
        "redirect",
        "hsts",
        "share",
    ])?;
    let Port(port) = app.args().get_or("port", Port(80))?;
    let tls = tls::from_args(app, port)?;
    let most = if tls.is_some() { tls::CONNECTIONS } else { MOST_CONNECTIONS };
    let secure = app.args().get_or("connections", most)?.clamp(1, MOST_CONNECTIONS);
    // With HTTPS, what comes without it is mostly sent there.
    let (plain, secure) = if tls.is_some() { ((secure / 4).max(1), secure) } else { (secure, 0) };
    let connections = plain + secure;

    let hosts = app.args().get("hosts")?.map(|Folder(name)| name);
    let log = app.args().get("log")?.map(|sink| Rc::new(Log::new(sink)));
    let clients = Clients::new(app.args().get_or("client-connections", 0)?, app.args().get_or("client-rate", 0)?);

    let (site, disk) = (Rc::<Current<Disk>>::default(), disk::InUse::default());
    app.spawn(share::keep(app, site.clone(), disk.clone())).detach();
    // Without a site it goes on: a page tells what is missing.
    let _late = with_timeout(DISK_PATIENCE, site.settled()).await;

    let network = app.network("vif").await?;
    // Beside the tasks, a third of what is free for what is on its way, and a third for what is read.
    let tasks = plain * future_of(connection::serve) + secure * (future_of(tls::serve) + tls::MEMORY);
    let share = (app.memory().free as usize).saturating_sub(tasks) / 3;
    let piece = (share / connections).saturating_sub(TRANSFER).clamp(16 << 10, 64 << 10);
    // Of the last third, what is beyond that may be needed for heads, look-ups and the network, is for files read again.
    let cache = share.saturating_sub(RESERVE) / 2;
    site.read_pieces_of(piece, cache);
    let mut limits = Limits::default();
    limits.piece = if cache > 0 { PIECE } else { CHUNK };
    let server = Rc::new(Server {
        app,
        network: network.clone(),
        pages: Pages {
            site,
            hosts,
            transfers: Turns::new((share / (TRANSFER + piece)).clamp(1, connections)),
            counters: Default::default(),
            messages: Ratelimit::default(),
            boundaries: Default::default(),
            host: Box::new(Machine { app, network: network.clone(), disk }),
        },
        log: log.clone(),
        clients,
        pool: Pool::new(connections),
        stop: Stop::new(),
        limits,
        port,
        tls,
        outgoing: (share / connections).saturating_sub(REQUEST + INCOMING).clamp(2048, 64 << 10),
    });
    let mut tasks: alloc::vec::Vec<_> = (0..plain).map(|_| app.spawn(connection::serve(server.clone()))).collect();
    tasks.extend((0..secure).map(|_| app.spawn(tls::serve(server.clone()))));
    if let Some(log) = log {
        app.spawn(log::write(log, network.stack)).detach();
    }
    let for_others = server.clone();
    app.spawn(async move { for_others.pool.make_room(&app.clock()).await }).detach();
    // What the limits above may come to, where the toolstack wants memory back.
    let transfers = share.min(connections * (TRANSFER + piece));
    app.keep_memory((transfers + connections * (server.outgoing + REQUEST + INCOMING)) as u64);
    println!("web: ready on port {port}");

    let request = app.shutdown().await;
    let start = app.clock().now();
    server.stop.set();
    let patience = Duration::from_millis(server.limits.stop.as_millis() as u64 + 500);
    let ended = with_timeout(patience, join_all(tasks)).await.is_ok();
    // The last packets have to leave before the interface goes.
    app.clock().sleep(core::time::Duration::from_millis(20)).await;
    println!(
        "web: asked to {request}; {} after {} ms; {}",
        if ended { "all connections ended" } else { "some connections were cut" },
        (app.clock().now() - start).as_millis(),
        server.pages.counters.summary()
    );
    Ok(())
}

/// Bytes of a task's future.
fn future_of<A, F>(_task: fn(A) -> F) -> usize {
    size_of::<F>()
}

/// A folder of the site: one name.
struct Folder(&'static str);

impl FromArg for Folder {
    const EXPECTED: &'static str = "the name of the folder for hosts that have none, such as default";

    fn from_arg(value: Option<&'static str>) -> Option<Self> {
        value.filter(|name| !name.is_empty() && !name.contains('/') && !matches!(*name, "." | "..")).map(Folder)
    }
}

/// A port that can be listened on.
struct Port(u16);

impl FromArg for Port {
    const EXPECTED: &'static str = "a port from 1 to 65535";

    fn from_arg(value: Option<&'static str>) -> Option<Self> {
        u16::from_arg(value).filter(|port| *port > 0).map(Port)
    }
}

//! A web server whose site is on its first disk: a tar archive, or an ext4 file system. Where the disk is taken away and another
//! one attached, it serves that.
//!
//! What it teaches: a disk, a network and the store used together by many tasks; components of others on top of them (a
//! TCP/IP stack, HTTP, a site's files) that know nothing of Xen; and ending in good order.
//!
//! `ip=dhcp` is usual; `ip=10.0.0.2/24 gw=10.0.0.1 dns=10.0.0.1`, `ip6=auto` or `ip6=fd00::2/64` say otherwise. `port=8080`
//! listens elsewhere than on 80, and `connections=256` are served at once. `/metrics` has counters in Prometheus' form.
//! With the feature `tls`, `https=443 cert=xvdb` serves HTTPS beside it (docs/https.md).
//! `xl shutdown` lets answers in flight finish for two seconds.

#![no_std]

extern crate alloc;

mod connection;
pub mod content;
pub mod counters;
pub mod current;
mod disk;
mod metrics;
pub mod pages;
pub mod ratelimit;
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

use connection::{INCOMING, REQUEST, Server};
use content::{CHUNK, TRANSFER};
use current::Current;
use metrics::Machine;
use pages::Pages;
use ratelimit::Ratelimit;
use turns::Turns;

/// Connections that may be asked for.
const MOST_CONNECTIONS: usize = 256;
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
        "https",
        "cert",
        "redirect",
        "hsts",
    ])?;
    let Port(port) = app.args().get_or("port", Port(80))?;
    let tls = tls::from_args(app, port)?;
    let most = if tls.is_some() { tls::CONNECTIONS } else { MOST_CONNECTIONS };
    let secure = app.args().get_or("connections", most)?.clamp(1, MOST_CONNECTIONS);
    // With HTTPS, what comes without it is mostly sent there.
    let (plain, secure) = if tls.is_some() { ((secure / 4).max(1), secure) } else { (secure, 0) };
    let connections = plain + secure;

    let (site, disk) = (Rc::<Current<Disk>>::default(), disk::InUse::default());
    app.spawn(disk::keep(app, site.clone(), disk.clone())).detach();
    // Without a site it goes on: a page tells what is missing.
    let _late = with_timeout(DISK_PATIENCE, site.settled()).await;

    let network = app.network("vif").await?;
    // Beside the tasks, a third of what is free for what is on its way, and a third for what is read.
    let tasks = plain * future_of(connection::serve) + secure * (future_of(tls::serve) + tls::MEMORY);
    let share = (app.memory().free as usize).saturating_sub(tasks) / 3;
    let piece = (share / connections).saturating_sub(TRANSFER).clamp(16 << 10, 64 << 10);
    site.read_pieces_of(piece);
    let mut limits = Limits::default();
    limits.piece = CHUNK;
    let server = Rc::new(Server {
        app,
        network: network.clone(),
        pages: Pages {
            site,
            transfers: Turns::new((share / (TRANSFER + piece)).clamp(1, connections)),
            counters: Default::default(),
            messages: Ratelimit::default(),
            host: Box::new(Machine { app, network, disk }),
        },
        pool: Pool::new(connections),
        stop: Stop::new(),
        limits,
        port,
        tls,
        outgoing: (share / connections).saturating_sub(REQUEST + INCOMING).clamp(2048, 64 << 10),
    });
    let mut tasks: alloc::vec::Vec<_> = (0..plain).map(|_| app.spawn(connection::serve(server.clone()))).collect();
    tasks.extend((0..secure).map(|_| app.spawn(tls::serve(server.clone()))));
    let for_others = server.clone();
    app.spawn(async move { for_others.pool.make_room(&app.clock()).await }).detach();
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

/// A port that can be listened on.
struct Port(u16);

impl FromArg for Port {
    const EXPECTED: &'static str = "a port from 1 to 65535";

    fn from_arg(value: Option<&'static str>) -> Option<Self> {
        u16::from_arg(value).filter(|port| *port > 0).map(Port)
    }
}

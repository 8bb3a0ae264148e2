//! An authoritative DNS server whose zones are on its first disk, or in a module: a tar archive, or an ext4 file system.
//!
//! What it teaches: datagrams and connections on one stack; a library that knows nothing of Xen between them; and what an
//! administrator changes while it runs, by commands, or by another disk.
//!
//! `dns.conf` on the disk says which zones there are (`config=` names another file, `zones=a.example,b.example` does without
//! one: their files are `a.example.zone` and `b.example.zone`). Commands on the console (`help` lists them) and in the store
//! (`data/dns/command`) read zones again, and tell secondaries. `ip=`, `gw=`, `ip6=` and `gw6=` are its addresses, `port=5353` listens
//! elsewhere than on 53, `tcp=32` connections are served at once, `metrics=9153` has counters in Prometheus' form.

#![no_std]

extern crate alloc;

mod control;
mod disk;
mod metrics;
mod notify;
mod server;
mod tcp;
mod udp;
mod zones;

use alloc::rc::Rc;

use rand_core::TryRng;
use sarab::hal::Clock;
use sarab::time::{Duration, with_timeout};
use sarab::{App, FromArg, println};
use sarab_dns::{Catalog, Config, Server};

use server::Dns;

/// Connections that may be asked for.
const MAX_CONNECTIONS: usize = 256;
/// How long the start waits for zones.
const PATIENCE: Duration = Duration::from_secs(6);

/// What the guest does.
#[cfg_attr(feature = "guest", sarab::main)]
pub async fn main(app: App) -> sarab::Result {
    let args = app.args();
    args.expect_only(&["ip", "gw", "dns", "ip6", "gw6", "port", "tcp", "config", "zones", "metrics"])?;
    let Port(port) = args.get_or("port", Port(53))?;
    let metrics = args.get::<Port>("metrics")?;
    let connections = args.get_or("tcp", 32)?.clamp(1, MAX_CONNECTIONS);

    let mut entropy = app.entropy()?;
    let seed = u128::from(entropy.try_next_u64()?) << 64 | u128::from(entropy.try_next_u64()?);
    let dns = Rc::new(Dns::new(app, Server::new(Config::default(), Catalog::new(), seed), connections));
    app.spawn(disk::keep(dns.clone())).detach();
    // Without zones it goes on: they may come later.
    let _late = with_timeout(PATIENCE, dns.settled()).await;

    let network = app.network("vif").await?;
    dns.network.replace(Some(network.clone()));
    app.spawn(udp::serve(dns.clone(), network.stack, port)).detach();
    for _ in 0..connections {
        app.spawn(tcp::serve(dns.clone(), network.stack, port)).detach();
    }
    if let Some(Port(port)) = metrics {
        metrics::serve(&dns, network.stack, port);
    }
    app.spawn(notify::run(dns.clone(), network.stack)).detach();
    app.spawn(control::console(dns.clone())).detach();
    app.spawn(control::store(dns.clone())).detach();
    let shown = dns.clone();
    app.on_sysrq('d', move || shown.status().lines().for_each(|line| println!("dns: {line}")));
    println!("dns: ready on port {port}");

    let request = app.shutdown().await;
    dns.stop.set(true);
    // The last packets have to leave before the interface goes.
    app.clock().sleep(core::time::Duration::from_millis(20)).await;
    println!("dns: asked to {request}; {}", dns.summary());
    Ok(())
}

/// A port that can be listened on.
struct Port(u16);

impl FromArg for Port {
    const EXPECTED: &'static str = "a port from 1 to 65535";

    fn from_arg(value: Option<&'static str>) -> Option<Self> {
        u16::from_arg(value).filter(|port| *port > 0).map(Port)
    }
}

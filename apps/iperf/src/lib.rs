//! An iperf3 server: `iperf3 -c ADDRESS` of any host measures TCP and UDP with it, in both directions (`-R`, `--bidir`),
//! with any number of streams up to 32.
//!
//! Addresses as in `web`: DHCP, or `ip=10.0.0.2/24`. `port=5201` is usual. `buffer=256K` is what each TCP stream may have
//! on its way; it takes that much memory, and is up to 4 MiB where there is memory for it. After each test it tells what that has cost.

#![no_std]

extern crate alloc;

pub mod protocol;
mod session;
mod tcp;
mod udp;

use core::fmt;

use futures_util::future::{Either, select};
use sarab::network::{Network, Statistics};
use sarab::platform::{self, Counters};
use sarab::{App, Size, println};

/// What the guest does.
#[cfg_attr(feature = "guest", sarab::main)]
pub async fn main(app: App) -> sarab::Result {
    let args = app.args();
    args.expect_only(&["ip", "gw", "dns", "ip6", "gw6", "port", "buffer"])?;
    let port = args.get_or("port", 5201_u16)?;
    let buffer = args.get::<Size>("buffer")?.map(|size| size.0.clamp(4 << 10, 16 << 20) as usize);
    let network = app.network("vif").await?;
    println!("iperf: ready on port {port}");
    let server = async {
        loop {
            let before = Costs::now(&network);
            match session::serve(app, network.stack, port, buffer).await {
                Ok(summary) => println!("iperf: {summary}; {}", Costs::now(&network).since(before)),
                Err(error) => println!("iperf: a test has ended: {error}"),
            }
        }
    };
    match select(core::pin::pin!(server), core::pin::pin!(app.shutdown())).await {
        Either::Left((never, _)) => never,
        Either::Right(_) => Ok(()),
    }
}

/// What was done so far.
#[derive(Clone, Copy)]
struct Costs {
    interface: Statistics,
    platform: Counters,
}

impl Costs {
    fn now(network: &Network) -> Costs {
        Costs { interface: network.interface.statistics(), platform: platform::counters() }
    }

    fn since(self, before: Costs) -> impl fmt::Display {
        fmt::from_fn(move |f| {
            let (new, old) = (self.interface, before.interface);
            let (sent, received) = (new.sent - old.sent, new.received - old.received);
            let bytes = new.sent_bytes - old.sent_bytes + new.received_bytes - old.received_bytes;
            let (frames, megabytes) = ((sent + received).max(1) as f64, bytes.max(1) as f64 / 1e6);
            write!(f, "{sent} frames out, {received} in; for each frame and megabyte:")?;
            let (after, before) = (self.platform, before.platform);
            for (name, count) in [
                ("notifications", new.notifications - old.notifications),
                ("events", after.events - before.events),
                ("hypercalls", after.hypercalls - before.hypercalls),
                ("copied frames", new.copied - old.copied),
                ("allocations", after.allocations - before.allocations),
            ] {
                let count = count as f64;
                write!(f, " {name} {:.3} {:.1},", count / frames, count / megabytes)?;
            }
            write!(f, " dropped {}", new.dropped - old.dropped + new.unsent - old.unsent)
        })
    }
}

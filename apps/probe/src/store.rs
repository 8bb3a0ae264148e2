//! The store: transactions against others, long directories, and how fast requests go.

use alloc::string::String;
use core::cell::Cell;
use core::time::Duration;

use futures_util::future::join_all;
use sarab::hal::Clock;
use sarab::store::Error;
use sarab::{App, platform, println};

use crate::checks::Checks;
use crate::text;

/// Adds one to the number at `path=`, `times=` over, each time in a transaction, once there is `data/go`.
pub async fn count(app: App, checks: &mut Checks) -> Result<(), String> {
    let path: &str = app.args().require("path").map_err(text)?;
    let times: u32 = app.args().require("times").map_err(text)?;
    let store = app.store().map_err(text)?;
    println!("count: ready");
    store.wait_for("data/go", |value| value.map(drop)).await.map_err(text)?;
    let tries = Cell::new(0);
    for _ in 0..times {
        let outcome = store
            .transaction(async |t| -> Result<(), Error> {
                tries.set(tries.get() + 1);
                let value: u32 = t.read_as(path).await?;
                t.set(path, &(value + 1)).await
            })
            .await;
        if let Err(error) = outcome {
            checks.check(false, error);
        }
    }
    println!("count: {times} in {} tries", tries.get());
    checks.equal(store.unexpected(), 0, "every answer had its question");
    Ok(())
}

/// Lists `path=` and says what it found.
pub async fn names(app: App) -> Result<(), String> {
    let path: &str = app.args().require("path").map_err(text)?;
    let store = app.store().map_err(text)?;
    let names = store.list(path).await.map_err(text)?;
    let sum: usize = names.iter().filter_map(|name| name.rsplit('-').next()?.parse::<usize>().ok()).sum();
    let short = store.list_short(path).await.err().and_then(|error| error.errno()).map_or("fits", |errno| errno.name());
    println!("names: {} names, sum {sum}, in one packet: {short}", names.len());
    Ok(())
}

/// Requests per second, one in flight and 32 in flight.
pub async fn bench(app: App) -> Result<(), String> {
    const TIME: Duration = Duration::from_secs(3);
    let store = app.store().map_err(text)?;
    store.set("data/bench", "a value of some length").await.map_err(text)?;
    for in_flight in [1, 32] {
        let before = platform::counters();
        let start = app.clock().now();
        let deadline = start + TIME;
        let count = Cell::new(0_u64);
        let outcomes = join_all((0..in_flight).map(async |_| -> Result<(), Error> {
            while app.clock().now() < deadline {
                store.read("data/bench").await?;
                count.set(count.get() + 1);
            }
            Ok(())
        }))
        .await;
        outcomes.into_iter().collect::<Result<(), Error>>().map_err(text)?;
        let elapsed = (app.clock().now() - start).as_micros() as u64;
        let after = platform::counters();
        let per_request = |now: u64, then: u64| (now - then) * 100 / count.get().max(1);
        println!(
            "bench: store-read in-flight={in_flight} per-second={} notifications-per-100={} hypercalls-per-100={}",
            count.get() * 1_000_000 / elapsed,
            per_request(after.notifications, before.notifications),
            per_request(after.hypercalls, before.hypercalls),
        );
    }
    Ok(())
}

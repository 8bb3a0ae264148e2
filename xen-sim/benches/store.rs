//! Requests to the store through client, ring and server of the simulation, in real time.

use divan::Bencher;
use divan::counter::ItemsCount;
use futures_util::future::join_all;
use xen_sim::Xen;

const REQUESTS: usize = 320;

fn main() {
    divan::main();
}

/// Reads of a short value, so many of them in flight at a time.
#[divan::bench(args = [1, 32])]
fn reads(bencher: Bencher<'_, '_>, in_flight: usize) {
    let xen = Xen::new(1);
    let store = xen.domain().store();
    let writer = store.clone();
    xen.run(async move { writer.write("data/bench", b"a value of some length").await }).expect("a node");
    bencher.counter(ItemsCount::new(REQUESTS)).bench_local(|| {
        let store = store.clone();
        xen.run(async move {
            join_all((0..in_flight).map(|_| async {
                for _ in 0..REQUESTS / in_flight {
                    store.read("data/bench").await.expect("the value");
                }
            }))
            .await;
        });
    });
    xen.end();
}

/// Transactions that read and write one node, one after the other.
#[divan::bench]
fn transactions(bencher: Bencher<'_, '_>) {
    let xen = Xen::new(1);
    let store = xen.domain().store();
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| {
        let store = store.clone();
        xen.run(async move {
            let outcome: Result<(), xenstore_client::Error> = store
                .transaction(async |t| {
                    let value = t.get::<u32>("data/n").await?.unwrap_or(0);
                    t.set("data/n", &(value + 1)).await
                })
                .await;
            outcome.expect("a transaction");
        });
    });
    xen.end();
}

//! What is behind a crate in a guest: the console, the clock, the executor.

use alloc::rc::Rc;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

use futures_util::future::join;
use sarab::App;
use sarab::hal::Clock;

use crate::Trial;

pub const ALL: &[Trial] = &[
    ("defmt", || {
        defmt::info!("a frame");
        true
    }),
    ("log", || {
        log::info!("log: a line");
        log::log_enabled!(log::Level::Info)
    }),
    ("tracing", || {
        tracing::info!(answer = 42, "tracing: an event");
        true
    }),
];

pub async fn asynchronous(app: App) -> Vec<(&'static str, bool)> {
    let mut outcomes = Vec::new();

    let (sender, receiver) = async_channel::bounded(1);
    let (sent, received) = join(sender.send(7), receiver.recv()).await;
    outcomes.push(("async-channel", sent.is_ok() && received == Ok(7)));

    let semaphore = async_lock::Semaphore::new(1);
    let held = semaphore.acquire().await;
    outcomes.push(("async-lock", semaphore.try_acquire().is_none()));
    drop(held);

    let event = Rc::new(event_listener::Event::<()>::new());
    let listener = event.listen();
    let task = app.spawn({
        let event = event.clone();
        async move { event.notify(1) }
    });
    listener.await;
    outcomes.push(("event-listener", task.await == 1));

    let chosen = embassy_futures::select::select(core::future::pending::<()>(), core::future::ready(1)).await;
    outcomes.push(("embassy-futures", matches!(chosen, embassy_futures::select::Either::Second(1))));

    let signal =
        Arc::new(embassy_sync::signal::Signal::<embassy_sync::blocking_mutex::raw::CriticalSectionRawMutex, u8>::new());
    app.spawn({
        let signal = signal.clone();
        async move { signal.signal(3) }
    })
    .detach();
    outcomes.push(("embassy-sync", signal.wait().await == 3));

    let before = app.clock().now();
    embassy_time::Timer::after(embassy_time::Duration::from_millis(20)).await;
    let passed = app.clock().now() - before;
    outcomes.push(("embassy-time", passed >= Duration::from_millis(20)));

    let mut from = &b"bytes"[..];
    let mut to = [0; 5];
    let read = embedded_io_async::Read::read_exact(&mut from, &mut to).await;
    outcomes.push(("embedded-io-async", read.is_ok() && to == *b"bytes"));

    let order = futures_util::future::join_all((0..3).map(|number| async move { number })).await;
    outcomes.push(("futures-util", order == [0, 1, 2]));
    outcomes
}

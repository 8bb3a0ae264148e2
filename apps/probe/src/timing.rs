//! Timers and clocks.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::time::Duration;

use sarab::hal::Clock;
use sarab::{App, println};

use crate::checks::Checks;

/// Timers of 1 ms to 5 s, started in mixed order, half of them by the platform's clock and half by embassy-time.
pub async fn timers(app: App, checks: &mut Checks) {
    const MILLISECONDS: [u64; 12] = [500, 1, 5000, 20, 2, 1000, 50, 5, 2000, 100, 10, 200];
    let fired = Rc::new(RefCell::new(Vec::new()));
    let mut tasks = Vec::new();
    // The toolstack is still busy with the domain's creation.
    app.clock().sleep(Duration::from_secs(1)).await;
    // Every task has set its timer before the first is due.
    let start = app.clock().now() + Duration::from_millis(50);
    for (index, milliseconds) in MILLISECONDS.into_iter().enumerate() {
        let fired = fired.clone();
        tasks.push(app.spawn(async move {
            let deadline = start + Duration::from_millis(milliseconds);
            match index % 2 {
                0 => app.clock().sleep_until(deadline).await,
                _ => sarab::time::Timer::at(sarab::time::Instant::from_micros(deadline.as_micros() as u64 + 1)).await,
            }
            fired.borrow_mut().push((milliseconds, app.clock().now().saturating_sub(start)));
        }));
    }
    for task in tasks {
        task.await;
    }
    let fired = fired.take();
    checks.check(fired.is_sorted_by_key(|(milliseconds, _)| *milliseconds), "timers fire in order");
    let mut lates = Vec::new();
    for (milliseconds, at) in fired.iter() {
        let deadline = Duration::from_millis(*milliseconds);
        let late = at.saturating_sub(deadline);
        println!("timer {milliseconds} ms: {} us late", late.as_micros());
        checks.check(*at >= deadline, format_args!("the timer of {milliseconds} ms does not fire early"));
        // The emulator itself is put off now and then, by more than any guest can make up for.
        checks.check(late < Duration::from_secs(1), format_args!("the timer of {milliseconds} ms fires soon"));
        lates.push(late);
    }
    lates.sort();
    // What the emulator's host does meanwhile shifts many, a coarse or late timer of ours would shift all.
    let quarter = lates[lates.len() / 4];
    checks.check(quarter < Duration::from_millis(5), format_args!("timers fire within 5 ms: {lates:?}"));
    let before = sarab::platform::counters();
    app.clock().sleep(Duration::from_millis(300)).await;
    let after = sarab::platform::counters();
    checks.check(after.sleeps - before.sleeps <= 4, format_args!("one sleep for one timer: {:?} {:?}", before, after));
}

/// Tells the wall clock whenever the console sends a line.
pub async fn clock(app: App) {
    println!("clock: ready");
    loop {
        let line = app.console().read_line(64).await;
        if line == "quit" {
            return;
        }
        println!("clock: {line} {} us, up {} us", app.clock().wall().as_micros(), app.clock().now().as_micros());
    }
}

//! The balloon: the domain has as much memory as the toolstack wants (`xl mem-set`), as far as it can do without.
//!
//! The toolstack writes `memory/target` (KiB, docs/misc/xenstore-paths.pandoc). It counts from `memory/static-max`, which
//! may have more in it than the memory map has RAM; Linux's drivers/xen/xen-balloon.c takes the difference off as well.

use core::cell::Cell;
use core::convert::Infallible;
use core::fmt::Display;
use core::future::{pending, poll_fn};
use core::pin::pin;
use core::task::Poll;
use core::time::Duration;

use xen_hal::{Clock, PAGE_SIZE, Reservation, ReservationSize};
use xenbus::yield_now;
use xenstore_client::wire::Op;
use xenstore_client::{Broken, Error, ErrorKind, Store};

use crate::machine::{Own, println};

const TARGET: &str = "memory/target";
const STATIC_MAX: &str = "memory/static-max";
const FEATURE: &str = "control/feature-balloon";
/// KiB in a page.
const PAGE_KIB: u64 = PAGE_SIZE as u64 / 1024;
/// Pages beside those in use that stay: a quarter of these, within bounds.
const SPARE: core::ops::RangeInclusive<u64> = 64..=2048;
/// How long to wait where a target cannot be reached, at first and at most.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(64)];

/// What the toolstack wants, and what the application says that it needs. In pages.
#[derive(Default)]
pub(crate) struct Balloon {
    target: Cell<Option<u64>>,
    /// What the application may use, of which it did not use all yet.
    kept: Cell<u64>,
}

impl Balloon {
    /// In bytes, where the toolstack has said it.
    pub(crate) fn target(&self) -> Option<u64> {
        self.target.get().map(|pages| pages * PAGE_SIZE as u64)
    }

    /// Keeps `more` bytes beside what is in use now.
    pub(crate) fn keep(&self, size: ReservationSize, more: u64) {
        let used = size.current - size.free;
        self.kept.set(self.kept.get().max(used).saturating_add(more.div_ceil(PAGE_SIZE as u64)));
    }

    /// The least that the domain can have now.
    fn floor(&self, size: ReservationSize) -> u64 {
        let used = size.current - size.free;
        (used + (used / 4).clamp(*SPARE.start(), *SPARE.end())).max(self.kept.get()).min(size.maximum)
    }
}

/// Follows the target until the store fails.
pub(crate) async fn run(store: Store, own: Own) {
    let domain = own.domain();
    let Err(error) = follow(&store, &own.xen(), &own.clock(), &domain.balloon).await;
    println!("balloon: {error}; the domain's memory stays as it is");
}

async fn follow(
    store: &Store,
    memory: &impl Reservation,
    clock: &impl Clock,
    balloon: &Balloon,
) -> Result<Infallible, Error> {
    let mut watch = store.watch(TARGET).await?;
    let (mut advertised, mut beside) = (None, None);
    loop {
        let generation = store.generation();
        if advertised.replace(generation) != Some(generation) {
            match store.write(FEATURE, b"1").await {
                // Toolstacks differ in whether they let a domain write this.
                Err(error) if error.errno().is_some() => {}
                other => other?,
            }
        }
        if beside.is_none() {
            // At the start alone: `xl mem-max` changes it, and the memory map stays.
            let most = pages(store, STATIC_MAX).await?;
            beside = Some(most.map_or(0, |most| most.saturating_sub(memory.size().maximum)));
        }
        let target = pages(store, TARGET).await?;
        balloon.target.set(target.map(|target| target.saturating_sub(beside.unwrap_or(0)).min(memory.size().maximum)));
        let ended = {
            let mut changed = pin!(watch.next());
            let mut adjusting = pin!(async {
                match balloon.target.get() {
                    Some(target) => adjust(target, memory, clock, balloon).await,
                    None => pending().await,
                }
            });
            poll_fn(|cx| match changed.as_mut().poll(cx) {
                Poll::Ready(event) => Poll::Ready(event.is_none()),
                Poll::Pending => {
                    let _never: Poll<Infallible> = adjusting.as_mut().poll(cx);
                    Poll::Pending
                }
            })
            .await
        };
        if ended {
            let broken = store.broken().unwrap_or(Broken::Stopped);
            return Err(Error::new(Op::Watch, TARGET, ErrorKind::Broken(broken)));
        }
    }
}

/// A number of KiB, in pages; `None` where there is none.
async fn pages(store: &Store, path: &str) -> Result<Option<u64>, Error> {
    match store.get::<u64>(path).await {
        Ok(kib) => Ok(kib.map(|kib| kib / PAGE_KIB)),
        // Not a number, or not to be read: nobody's wish.
        Err(error) if !error.is_broken() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Brings the domain's memory to `target` pages, and keeps trying where that cannot be.
async fn adjust(target: u64, memory: &impl Reservation, clock: &impl Clock, balloon: &Balloon) -> Infallible {
    let [first, longest] = PAUSES;
    let mut pause = first;
    let mut told = false;
    loop {
        let size = memory.size();
        let floor = balloon.floor(size);
        let (current, goal) = (size.current, target.max(floor));
        let done = match () {
            () if current > goal => memory.decrease((current - goal).min(size.free)),
            () if current < target => memory.increase(target - current),
            () if current == target => return pending().await,
            // Somewhere between the target and what is needed.
            () => Ok(0),
        };
        if matches!(done, Ok(1..)) {
            // A batch is up to 2 MiB; others have their turn.
            pause = first;
            yield_now().await;
            continue;
        }
        if !told {
            told = true;
            let reason: &dyn Display = match &done {
                Err(errno) => errno,
                Ok(_) if current > target => &"the application needs the rest",
                Ok(_) => &"the hypervisor gives no more (free memory of the host, xl mem-max)",
            };
            println!("balloon: {} KiB, target {} KiB: {reason}", current * PAGE_KIB, target * PAGE_KIB);
        }
        clock.sleep(pause).await;
        pause = (pause * 2).min(longest);
    }
}

//! All connections of a server, of which there are only so many: where all are taken, the one that has waited for its
//! client the longest makes room.

use alloc::boxed::Box;
use core::cell::{Cell, RefCell};
use core::future::{Future, poll_fn};
use core::task::{Poll, Waker};
use core::time::Duration;

use xen_hal::Clock;

use crate::wait::before;

/// A client may take so long for its part, however many others want to be served.
const TIMEOUT: Duration = Duration::from_secs(1);

/// So many connections.
///
/// # Examples
///
/// ```
/// use sarab_http::Pool;
///
/// let pool = Pool::new(2);
/// let (first, second) = (pool.enter(), pool.enter());
/// assert!(first.is_some() && second.is_some() && pool.enter().is_none());
/// drop(first);
/// assert_eq!(pool.free(), 1);
/// ```
#[derive(Debug)]
pub struct Pool {
    places: Box<[Place]>,
    free: Cell<usize>,
    /// Who wants to know that all are taken.
    watcher: RefCell<Option<Waker>>,
}

#[derive(Debug, Default)]
struct Place {
    taken: Cell<bool>,
    /// Since when it waits for its client.
    waiting: Cell<Option<Duration>>,
    evicted: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Pool {
    /// One of `places` connections.
    pub fn new(places: usize) -> Pool {
        let free = Cell::new(places);
        Pool { places: (0..places).map(|_| Place::default()).collect(), free, watcher: RefCell::default() }
    }

    /// A place for a connection, if there is one.
    pub fn enter(&self) -> Option<PoolGuard<'_>> {
        let place = self.places.iter().find(|place| !place.taken.get())?;
        place.taken.set(true);
        place.evicted.set(false);
        self.free.set(self.free.get() - 1);
        if self.free.get() == 0
            && let Some(watcher) = self.watcher.take()
        {
            watcher.wake();
        }
        Some(PoolGuard { pool: self, place })
    }

    /// Places that are free.
    pub fn free(&self) -> usize {
        self.free.get()
    }

    /// Whenever all places are taken, has the connection end that has waited for its client the longest, and for a second
    /// at least: so who sends and reads nothing cannot lock others out.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time; no place is made any more then.
    pub async fn make_room(&self, clock: &impl Clock) -> core::convert::Infallible {
        loop {
            poll_fn(|cx| match self.free.get() {
                0 => Poll::Ready(()),
                _ => {
                    *self.watcher.borrow_mut() = Some(cx.waker().clone());
                    Poll::Pending
                }
            })
            .await;
            let now = clock.now();
            let waiting = self.places.iter().filter(|place| !place.evicted.get());
            let longest =
                waiting.filter_map(|place| Some((place.waiting.get()?, place))).min_by_key(|(since, _)| *since);
            match longest {
                Some((since, place)) if now >= since + TIMEOUT => {
                    place.evicted.set(true);
                    if let Some(waker) = place.waker.take() {
                        waker.wake();
                    }
                    // It has to go before the next one is looked for.
                    clock.sleep(Duration::from_millis(10)).await;
                }
                Some((since, _)) => clock.sleep_until(since + TIMEOUT).await,
                None => clock.sleep(TIMEOUT).await,
            }
        }
    }
}

/// A connection's place, which is free again once this is dropped.
#[derive(Debug)]
pub struct PoolGuard<'a> {
    pool: &'a Pool,
    place: &'a Place,
}

impl PoolGuard<'_> {
    /// Waits for the client to do its part since `since`; nothing where others need the place more.
    pub(crate) async fn wait_since<T>(&self, since: Duration, future: impl Future<Output = T>) -> Option<T> {
        let evicted = poll_fn(|cx| match self.place.evicted.get() {
            true => Poll::Ready(()),
            false => {
                // Only while nothing is ready: what is said first is not of interest to anybody then.
                self.place.waiting.set(Some(since));
                *self.place.waker.borrow_mut() = Some(cx.waker().clone());
                Poll::Pending
            }
        });
        let _over = OnDrop(|| {
            self.place.waiting.set(None);
            self.place.waker.take();
        });
        before(evicted, future).await
    }
}

impl Drop for PoolGuard<'_> {
    fn drop(&mut self) {
        self.place.taken.set(false);
        self.pool.free.set(self.pool.free.get() + 1);
    }
}

struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

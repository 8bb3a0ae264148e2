//! All connections of a server, of which there are only so many: where all are taken, the one that has waited for its
//! client the longest makes room, or else the slowest one.

use alloc::boxed::Box;
use core::cell::{Cell, RefCell};
use core::future::{Future, poll_fn};
use core::task::{Poll, Waker};
use core::time::Duration;

use xen_hal::Clock;

use crate::wait::before;

/// A client may take so long for its part, however many others want to be served.
const TIMEOUT: Duration = Duration::from_secs(1);
/// And however many want to be served, a client keeps its place that takes so many bytes in a second, measured over so
/// long a time that it was waited for.
const MIN_RATE: u64 = 32 << 10;
const WINDOW: Duration = Duration::from_secs(5);

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
    /// Of its answer: bytes that were sent, and for how long the client was waited for, since its rate was known last.
    sent: Cell<usize>,
    waited: Cell<Duration>,
    /// Its rate, where that is less than it is to be.
    slow: Cell<Option<u64>>,
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
        place.begin_answer();
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
    /// at least; where there is none, the one of the slowest client, if that takes less than 32 KiB in a second. So who
    /// sends and reads nothing, or little, cannot lock others out.
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
            let waiting = self.places.iter().filter(|place| place.waiting.get().is_some() && !place.evicted.get());
            let longest = waiting.clone().min_by_key(|place| place.waiting.get());
            let due = longest.and_then(|place| place.waiting.get()).unwrap_or(now) + TIMEOUT;
            let slowest = waiting.filter(|place| place.slow.get().is_some()).min_by_key(|place| place.slow.get());
            match longest.filter(|_| now >= due).or(slowest) {
                Some(place) => {
                    place.evicted.set(true);
                    if let Some(waker) = place.waker.take() {
                        waker.wake();
                    }
                    // It has to go before the next one is looked for.
                    clock.sleep(Duration::from_millis(10)).await;
                }
                None => clock.sleep_until(due).await,
            }
        }
    }
}

impl Place {
    fn begin_answer(&self) {
        self.measure_anew();
        self.slow.set(None);
    }

    fn measure_anew(&self) {
        self.sent.set(0);
        self.waited.set(Duration::ZERO);
    }
}

/// A connection's place, which is free again once this is dropped.
#[derive(Debug)]
pub struct PoolGuard<'a> {
    pool: &'a Pool,
    place: &'a Place,
}

impl PoolGuard<'_> {
    /// Waits for the client to do its part since `since`; nothing where others need the place more. For what comes before
    /// requests, such as a handshake.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time, with the future that it waits for.
    pub async fn wait_since<T>(&self, since: Duration, future: impl Future<Output = T>) -> Option<T> {
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

    /// An answer begins. How fast the client was with an earlier one says nothing of this one, nor how long it took to
    /// ask for it.
    pub(crate) fn begin_answer(&self) {
        self.place.begin_answer();
    }

    /// So many bytes were sent to the client.
    pub(crate) fn sent(&self, bytes: usize) {
        self.place.sent.set(self.place.sent.get().saturating_add(bytes));
    }

    /// The client was waited for, for so long, to take what was sent.
    pub(crate) fn waited(&self, time: Duration) {
        let place = self.place;
        place.waited.set(place.waited.get() + time);
        if place.waited.get() >= WINDOW {
            let rate = place.sent.get() as u64 / place.waited.get().as_secs();
            place.slow.set((rate < MIN_RATE).then_some(rate));
            place.measure_anew();
        }
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

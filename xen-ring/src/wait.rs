//! Tasks that wait for a condition.

use alloc::vec::Vec;
use core::cell::RefCell;
use core::future::poll_fn;
use core::task::{Poll, Waker};

/// Any number of tasks that wait for a condition which others change.
///
/// What it holds is bounded by the futures that wait at the same time: each has one place, however often it is polled
/// and with whichever waker (combinators such as `FuturesUnordered` poll with wakers of their own), and gives it back
/// when it is done or dropped.
///
/// For one processor, as all of Sarab. `event-listener` would do the same with a lock, which without the standard
/// library is a spinlock that it holds while it wakes.
///
/// # Examples
///
/// ```
/// use std::cell::Cell;
/// use std::rc::Rc;
/// use xen_ring::WaitQueue;
///
/// let xen = xen_sim::Xen::new(1);
/// let (queue, value) = (Rc::new(WaitQueue::new()), Rc::new(Cell::new(None)));
/// let (waiting, seen) = (queue.clone(), value.clone());
/// let task = xen.domain().spawn(async move { waiting.wait_until(|| seen.get()).await });
/// xen.settle();
/// value.set(Some(7));
/// queue.wake_all();
/// assert_eq!(xen.run(task), 7);
/// ```
#[derive(Debug, Default)]
pub struct WaitQueue {
    places: RefCell<Places>,
}

#[derive(Debug, Default)]
struct Places {
    /// By the waiting future's place; those of nobody, and those that were woken, have none.
    wakers: Vec<Option<Waker>>,
    /// Places of nobody.
    free: Vec<usize>,
}

impl WaitQueue {
    /// A queue that nobody waits in.
    pub const fn new() -> WaitQueue {
        WaitQueue { places: RefCell::new(Places { wakers: Vec::new(), free: Vec::new() }) }
    }

    /// Waits until `condition` gives something. It is looked at when the future is polled, and after each
    /// [`wake_all`](WaitQueue::wake_all).
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time.
    pub async fn wait_until<T>(&self, mut condition: impl FnMut() -> Option<T>) -> T {
        let mut waiter = Waiter { queue: self, place: None };
        poll_fn(move |cx| match condition() {
            Some(value) => Poll::Ready(value),
            None => {
                waiter.register(cx.waker());
                Poll::Pending
            }
        })
        .await
    }

    /// Has all who wait look at their conditions.
    pub fn wake_all(&self) {
        let count = self.places.borrow().wakers.len();
        for place in 0..count {
            // Woken with nothing borrowed: a task that goes with its last waker may use the queue.
            let waker = self.places.borrow_mut().wakers.get_mut(place).and_then(Option::take);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    /// How many futures wait.
    pub fn len(&self) -> usize {
        let places = self.places.borrow();
        places.wakers.len() - places.free.len()
    }

    /// Whether no future waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A future's place in a queue.
struct Waiter<'a> {
    queue: &'a WaitQueue,
    /// `None` until it has had to wait.
    place: Option<usize>,
}

impl Waiter<'_> {
    fn register(&mut self, waker: &Waker) {
        let mut places = self.queue.places.borrow_mut();
        let place = match self.place {
            Some(place) => place,
            None => places.free.pop().unwrap_or_else(|| {
                places.wakers.push(None);
                places.wakers.len() - 1
            }),
        };
        self.place = Some(place);
        let slot = &mut places.wakers[place];
        if slot.as_ref().is_some_and(|known| known.will_wake(waker)) {
            return;
        }
        let displaced = slot.replace(waker.clone());
        drop(places);
        drop(displaced);
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let Some(place) = self.place else { return };
        let waker = {
            let mut places = self.queue.places.borrow_mut();
            let waker = places.wakers[place].take();
            places.free.push(place);
            waker
        };
        drop(waker);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::boxed::Box;
    use alloc::sync::Arc;
    use alloc::task::Wake;
    use alloc::vec;
    use core::cell::Cell;
    use core::future::Future;
    use core::pin::Pin;
    use core::sync::atomic::{AtomicUsize, Ordering};
    use core::task::Context;
    use proptest::prelude::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn poll<T>(future: &mut Pin<Box<dyn Future<Output = T> + '_>>, waker: &Waker) -> Poll<T> {
        future.as_mut().poll(&mut Context::from_waker(waker))
    }

    fn waits<'a>(queue: &'a WaitQueue, flag: &'a Cell<bool>) -> Pin<Box<dyn Future<Output = ()> + 'a>> {
        Box::pin(queue.wait_until(|| flag.get().then_some(())))
    }

    /// What combinators do: a waker of their own for each poll. And futures that are dropped before they are done.
    #[test]
    fn a_future_has_one_place_however_often_it_is_polled() {
        let (queue, flag) = (WaitQueue::new(), Cell::new(false));
        let mut future = waits(&queue, &flag);
        let tasks: vec::Vec<Arc<Woken>> = (0..1000).map(|_| Arc::default()).collect();
        for task in &tasks {
            assert!(poll(&mut future, &Waker::from(task.clone())).is_pending());
        }
        assert_eq!((queue.len(), queue.places.borrow().wakers.len()), (1, 1));
        queue.wake_all();
        let woken: vec::Vec<usize> = tasks.iter().map(|task| task.0.load(Ordering::Relaxed)).collect();
        assert_eq!((woken[999], woken.iter().sum::<usize>()), (1, 1), "the latest waker counts");
        for _ in 0..1000 {
            let mut dropped = waits(&queue, &flag);
            assert!(poll(&mut dropped, Waker::noop()).is_pending());
        }
        assert_eq!((queue.len(), queue.places.borrow().wakers.len()), (1, 2));
        flag.set(true);
        assert!(poll(&mut future, Waker::noop()).is_ready());
        drop(future);
        assert!(queue.is_empty());
    }

    std::thread_local! {
        static QUEUE: WaitQueue = const { WaitQueue::new() };
    }

    /// A task that ends with its last waker, and uses the same queue then.
    struct Uses;

    impl Wake for Uses {
        fn wake(self: Arc<Self>) {}
    }

    impl Drop for Uses {
        fn drop(&mut self) {
            QUEUE.with(|queue| {
                queue.wake_all();
                assert!(queue.len() < 2);
            });
        }
    }

    #[test]
    fn what_goes_with_a_waker_may_use_the_queue() {
        QUEUE.with(|queue| {
            let flag = Cell::new(false);
            let mut future = waits(queue, &flag);
            assert!(poll(&mut future, &Waker::from(Arc::new(Uses))).is_pending());
            // Displaced, woken, and dropped.
            assert!(poll(&mut future, &Waker::from(Arc::new(Uses))).is_pending());
            queue.wake_all();
            assert!(poll(&mut future, &Waker::from(Arc::new(Uses))).is_pending());
            drop(future);
            assert!(queue.is_empty());
        });
    }

    proptest! {
        /// Whatever waits, ends and is dropped in whichever order: all who wait are woken, and there are never more
        /// places than futures that waited at the same time.
        #[test]
        fn all_who_wait_are_woken(steps in prop::collection::vec((0_u8..4, any::<prop::sample::Index>()), 1..100)) {
            let (queue, flag) = (WaitQueue::new(), Cell::new(false));
            let mut waiting = vec::Vec::new();
            let mut most = 0;
            for (step, index) in steps {
                match step {
                    0 => {
                        let task = Arc::<Woken>::default();
                        let mut future = waits(&queue, &flag);
                        prop_assert!(poll(&mut future, &Waker::from(task.clone())).is_pending());
                        waiting.push((future, task));
                        most = most.max(waiting.len());
                    }
                    1 if !waiting.is_empty() => drop(waiting.swap_remove(index.index(waiting.len()))),
                    2 if !waiting.is_empty() => {
                        let index = index.index(waiting.len());
                        let (future, task) = &mut waiting[index];
                        *task = Arc::default();
                        prop_assert!(poll(future, &Waker::from(task.clone())).is_pending());
                    }
                    _ => {
                        queue.wake_all();
                        for (future, task) in &mut waiting {
                            prop_assert_eq!(task.0.swap(0, Ordering::Relaxed), 1);
                            prop_assert!(poll(future, &Waker::from(task.clone())).is_pending());
                        }
                    }
                }
                prop_assert_eq!(queue.len(), waiting.len());
                prop_assert!(queue.places.borrow().wakers.len() <= most);
            }
            flag.set(true);
            queue.wake_all();
            for (mut future, task) in waiting {
                prop_assert_eq!(task.0.load(Ordering::Relaxed), 1);
                prop_assert!(poll(&mut future, Waker::noop()).is_ready());
            }
            prop_assert!(queue.is_empty());
        }
    }
}

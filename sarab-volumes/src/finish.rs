//! Requests that are finished though whoever asked has gone: what is half-way to the disk must not arrive at some time,
//! when the place is another's.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::pin::Pin;
use core::task::{Context, Poll, Waker};

use futures_util::StreamExt;
use futures_util::future::{LocalBoxFuture, poll_fn};
use futures_util::stream::FuturesUnordered;

/// Where the runner finds them.
#[derive(Default)]
pub(crate) struct Unfinished {
    new: RefCell<Vec<LocalBoxFuture<'static, ()>>>,
    count: Cell<usize>,
    runner: RefCell<Option<Waker>>,
    is_closed: Cell<bool>,
}

impl Unfinished {
    pub(crate) fn push(&self, future: LocalBoxFuture<'static, ()>) {
        if self.is_closed.get() {
            return;
        }
        self.count.set(self.count.get() + 1);
        self.new.borrow_mut().push(future);
        if let Some(waker) = self.runner.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }

    /// Nobody finishes anything any more.
    pub(crate) fn close(&self) {
        self.is_closed.set(true);
        let dropped = self.new.take();
        drop(dropped);
    }

    /// Finishes all there are, without end. `each` is told how many are left.
    pub(crate) async fn run(&self, each: impl Fn()) {
        let mut running = FuturesUnordered::new();
        poll_fn(|cx| {
            *self.runner.borrow_mut() = Some(cx.waker().clone());
            loop {
                running.extend(self.new.take());
                match running.poll_next_unpin(cx) {
                    Poll::Ready(Some(())) => {
                        self.count.set(self.count.get() - 1);
                        each();
                    }
                    Poll::Ready(None) | Poll::Pending if self.new.borrow().is_empty() => return Poll::<()>::Pending,
                    _ => {}
                }
            }
        })
        .await;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count.get() == 0
    }
}

/// A request that the runner finishes where this future is dropped.
pub(crate) struct Finish<T: 'static> {
    future: Option<LocalBoxFuture<'static, T>>,
    home: Rc<Unfinished>,
}

impl<T: 'static> Finish<T> {
    pub(crate) fn new(home: Rc<Unfinished>, future: impl Future<Output = T> + 'static) -> Finish<T> {
        Finish { future: Some(Box::pin(future)), home }
    }
}

impl<T: 'static> Future for Finish<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let Some(future) = &mut self.future else { return Poll::Pending };
        let outcome = future.as_mut().poll(cx);
        if outcome.is_ready() {
            self.future = None;
        }
        outcome
    }
}

impl<T: 'static> Drop for Finish<T> {
    fn drop(&mut self) {
        if let Some(future) = self.future.take() {
            self.home.push(Box::pin(async move { drop(future.await) }));
        }
    }
}

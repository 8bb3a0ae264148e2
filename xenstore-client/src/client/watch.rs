//! Watches as streams.

use alloc::rc::Rc;
use core::pin::Pin;
use core::task::{Context, Poll};

use futures_util::Stream;

use super::call::call;
use super::error::Error;
use super::events::{Keep, WatchEvent, WatchState, token};
use super::link::{Link, Phase, Then, is_exists};
use crate::wire::Request;

/// A watch: a stream of [`WatchEvent`]s, which ends only when the connection to the store does.
///
/// Dropping it ends the watch. Equal events that wait to be read are one, and at most 64 wait, of 8 KiB.
pub struct Watch {
    link: Rc<Link>,
    id: u32,
}

impl Watch {
    pub(super) async fn register(link: &Rc<Link>, path: &str, depth: Option<u32>, keep: Keep) -> Result<Watch, Error> {
        let watch = Watch { link: link.clone(), id: link.new_watch(WatchState::new(path.into(), depth, keep)) };
        let token = token(watch.id);
        let request = Request::Watch { path, token: &token, depth };
        // Dropped from here on, the watch sends nothing by itself: that is left to the answer.
        let answer = call(link, &request, 0, None, Then::Unwatch(watch.id)).await;
        match answer {
            Err(error) if !is_exists(&error.kind) => {
                link.state.borrow_mut().watches.remove(watch.id);
                Err(error)
            }
            _ => {
                if let Some(state) = link.state.borrow_mut().watches.get_mut(watch.id) {
                    state.registered = true;
                }
                Ok(watch)
            }
        }
    }

    /// Waits for the next event; `None` once the connection to the store is gone.
    ///
    /// # Cancellation
    ///
    /// Dropping the future loses no event.
    pub async fn next(&mut self) -> Option<WatchEvent> {
        futures_util::StreamExt::next(self).await
    }
}

impl Stream for Watch {
    type Item = WatchEvent;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<WatchEvent>> {
        let mut state = self.link.state.borrow_mut();
        let broken = matches!(state.phase, Phase::Broken(_));
        let Some(watch) = state.watches.get_mut(self.id) else { return Poll::Ready(None) };
        if let Some(event) = watch.pop() {
            return Poll::Ready(Some(event));
        }
        if broken || watch.ended {
            return Poll::Ready(None);
        }
        let displaced = watch.waker.replace(cx.waker().clone());
        // Dropped with nothing borrowed: a task that goes with its last waker may use the store.
        drop(state);
        drop(displaced);
        Poll::Pending
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let path = {
            let mut state = self.link.state.borrow_mut();
            let Some(watch) = state.watches.get_mut(self.id) else { return };
            if !watch.registered {
                // The call that registers it is being dropped too, and knows what to do.
                watch.dropped = true;
                return;
            }
            state.watches.remove(self.id).map(|watch| watch.path)
        };
        if let Some(path) = path {
            let token = token(self.id);
            self.link.begin_detached(&Request::Unwatch { path: &path, token: &token }, 0, Then::Nothing);
        }
    }
}

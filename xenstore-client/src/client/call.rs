//! One request on its way.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::future::poll_fn;

use super::error::Error;
use super::link::{Link, Then, error, stale};
use crate::wire::Request;

/// A request that is to be sent, or was. Dropping it gives up its answer.
struct Pending<'a> {
    link: &'a Link,
    /// `None` before it is queued.
    id: Option<u32>,
    then: Then,
    done: bool,
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        match self.id {
            _ if self.done => {}
            Some(id) => self.link.abandon(id, self.then),
            None => self.link.finish_detached(self.then, None),
        }
    }
}

/// Sends a request and waits for its answer. Where the future is dropped before that, `then` says what a late answer
/// leads to; where
/// it is returned, an error too, that is the caller's business. With the payload comes the generation of the connection.
pub(super) async fn call(
    link: &Rc<Link>,
    request: &Request<'_>,
    transaction: u32,
    generation: Option<u32>,
    then: Then,
) -> Result<(Vec<u8>, u32), Error> {
    let mut pending = Pending { link, id: None, then, done: false };
    // The answer gives the place back.
    link.places.acquire().await.forget();
    let current = link.state.borrow().generation;
    let begun = match generation {
        Some(generation) if generation != current => Err(stale()),
        _ => link.begin(request, transaction),
    };
    let answer = match begun {
        Ok(id) => {
            pending.id = Some(id);
            poll_fn(|cx| link.poll_answer(id, cx.waker())).await
        }
        Err(kind) => {
            link.places.add_permits(1);
            Err(kind)
        }
    };
    pending.done = true;
    answer.map_err(|kind| error(request, kind))
}

//! What goes on in a pool whatever anybody asks for.

use alloc::rc::Rc;

use futures_util::future::{join3, select};
use xen_blkif::BlockDevice;
use xen_hal::warning;

use crate::Error;
use crate::space::Need;
use crate::state::{Entry, Shared};

/// Tells everybody that there is no runner any more.
struct Running<D>(Rc<Shared<D>>);

impl<D> Drop for Running<D> {
    fn drop(&mut self) {
        self.0.commits.close();
        self.0.unfinished.close();
    }
}

/// Runs until the last handle is dropped.
pub(crate) fn run<D: BlockDevice>(shared: Rc<Shared<D>>) -> impl Future<Output = ()> + use<D> {
    // Also of a runner that never ran.
    let running = Running(shared);
    async move { run_all(&running.0).await }
}

async fn run_all<D: BlockDevice>(shared: &Shared<D>) {
    let finish = shared.unfinished.run(|| {
        shared.commits.runner.notify(1);
    });
    let rest = join3(finish, shared.free_deleted(), shared.repair());
    select(core::pin::pin!(shared.commit_on_demand()), core::pin::pin!(rest)).await;
}

impl<D: BlockDevice> Shared<D> {
    /// Frees what deleted volumes have, also those that were deleted before the pool was opened.
    async fn free_deleted(&self) {
        loop {
            let listener = self.deletions.listen();
            let next = self.state.borrow().deleted();
            let Some(entry) = next else {
                listener.await;
                continue;
            };
            if let Err(error) = self.free_volume(&entry).await {
                warning!("volumes: cannot free the space of {}: {}", entry.record.borrow().name, error);
                entry.is_stuck.set(true);
            }
            self.freed.notify(usize::MAX);
        }
    }

    async fn free_volume(&self, entry: &Entry) -> Result<(), Error> {
        loop {
            self.make_room(Need::Freeing).await?;
            let _gate = self.gate.read().await;
            let _meta = self.meta.lock().await;
            if !self.has_room(Need::Freeing)? {
                continue;
            }
            let is_last = self.prune(entry).await?;
            self.freed.notify(usize::MAX);
            if is_last {
                let mut state = self.state.borrow_mut();
                state.volumes.remove(&entry.slot);
                state.touch(entry);
                return Ok(());
            }
        }
    }
}

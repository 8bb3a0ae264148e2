//! What goes on in a pool whatever anybody asks for.

use alloc::collections::BTreeSet;
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
pub(crate) async fn run<D: BlockDevice>(shared: Rc<Shared<D>>) {
    let running = Running(shared);
    let shared = &running.0;
    let finish = shared.unfinished.run(|| {
        shared.commits.runner.notify(1);
    });
    let rest = join3(finish, shared.free_deleted(), shared.repair());
    select(core::pin::pin!(shared.commit_on_demand()), core::pin::pin!(rest)).await;
}

impl<D: BlockDevice> Shared<D> {
    /// Frees what deleted volumes have, also those that were deleted before the pool was opened.
    async fn free_deleted(&self) {
        let mut stuck = BTreeSet::new();
        loop {
            let listener = self.deletions.listen();
            let next = {
                let state = self.state.borrow();
                let mut deleted = state.volumes.values().filter(|entry| entry.record.borrow().deleting);
                deleted.find(|entry| !stuck.contains(&entry.record.borrow().id)).cloned()
            };
            let Some(entry) = next else {
                listener.await;
                continue;
            };
            if let Err(error) = self.free_volume(&entry).await {
                let record = entry.record.borrow();
                warning!("volumes: cannot free the space of deleted volume {}: {}", record.name, error);
                stuck.insert(record.id);
            }
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
            if self.prune(entry).await? {
                let mut state = self.state.borrow_mut();
                state.volumes.remove(&entry.slot);
                state.touch(entry);
                return Ok(());
            }
        }
    }
}

//! Changes of volumes.

use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;

use xen_blkif::BlockDevice;

use crate::layout::MAX_VOLUMES;
use crate::node::{Kind, Node, Ptr, Root};
use crate::record::Record;
use crate::space::{Need, SPARE_CHUNKS};
use crate::state::{Entry, Shared};
use crate::{Create, Error};

impl<D: BlockDevice + 'static> Shared<D> {
    fn named(&self, name: &str) -> Result<Rc<Entry>, Error> {
        self.state.borrow().by_name(name).ok_or(Error::NotFound)
    }

    /// Adds a volume, with the metadata's lock.
    fn add(&self, record: Record) -> Result<(), Error> {
        let state = &mut *self.state.borrow_mut();
        if state.by_name(&record.name).is_some() {
            return Err(Error::Exists);
        }
        let slot = (0..MAX_VOLUMES as u32).find(|slot| !state.volumes.contains_key(slot));
        let slot = slot.ok_or(Error::TooManyVolumes)?;
        state.next_id += 1;
        let entry = Entry::new(slot, record);
        state.touch(&entry);
        state.volumes.insert(slot, entry);
        Ok(())
    }

    /// Whether a thick volume finds so many chunks more, and blocks for them.
    fn can_reserve(&self, kind: Kind, chunks: u64) -> Result<(), Error> {
        let commit_blocks = self.commit_blocks();
        let state = self.state.borrow();
        if u64::from(state.free_chunks) < chunks + state.reserved() + SPARE_CHUNKS {
            return Err(Error::NoSpace);
        }
        if u64::from(state.free_blocks) < kind.nodes(chunks) + state.reserved_blocks() + 4 * commit_blocks {
            return Err(Error::NoMetadataSpace);
        }
        Ok(())
    }

    pub(crate) async fn create(&self, name: String, create: Create) -> Result<(), Error> {
        loop {
            self.make_room(Need::Nothing).await?;
            let _gate = self.gate.read().await;
            let _meta = self.meta.lock().await;
            if !self.has_room(Need::Nothing)? {
                continue;
            }
            let Create { sectors, thick, integrity } = create;
            let (id, clock) = {
                let state = self.state.borrow();
                (state.next_id, state.clock)
            };
            let mut record = Record {
                id,
                name,
                sectors,
                root: Root::default(),
                mapped: 0,
                shared_before: clock,
                origin: 0,
                thick,
                integrity,
                read_only: false,
                deleting: false,
            };
            let (kind, chunks) = (record.kind(), record.chunks());
            record.root.levels = kind.levels(chunks);
            if thick {
                self.can_reserve(kind, chunks)?;
            }
            return self.add(record);
        }
    }

    pub(crate) async fn snapshot(&self, origin: &str, name: String, writable: bool) -> Result<(), Error> {
        loop {
            self.make_room(Need::Nothing).await?;
            let origin = self.named(origin)?;
            // What is being written is part of it, or comes after it.
            let _writes = origin.gate.write().await;
            let _gate = self.gate.read().await;
            let _meta = self.meta.lock().await;
            if !self.has_room(Need::Nothing)? {
                continue;
            }
            let mut record = origin.record.borrow().clone();
            if record.deleting {
                return Err(Error::NotFound);
            }
            if record.thick {
                return Err(Error::Invalid("a thick volume has no snapshots"));
            }
            let (id, clock) = {
                let state = self.state.borrow();
                (state.next_id, state.clock.checked_add(1))
            };
            let clock = clock.ok_or(Error::Invalid("the pool has had all snapshots that it can have"))?;
            record = Record { id, name, origin: record.id, shared_before: clock, read_only: !writable, ..record };
            let root = record.root.ptr;
            self.add(record)?;
            let state = &mut *self.state.borrow_mut();
            state.clock = clock;
            origin.record.borrow_mut().shared_before = clock;
            state.touch(&origin);
            if !root.is_none() {
                *state.deltas.entry(root.address).or_default() += 1;
            }
            return Ok(());
        }
    }

    pub(crate) async fn rename(&self, name: &str, to: String) -> Result<(), Error> {
        self.make_room(Need::Freeing).await?;
        let _gate = self.gate.read().await;
        let _meta = self.meta.lock().await;
        let entry = self.named(name)?;
        let mut state = self.state.borrow_mut();
        match state.by_name(&to) {
            Some(other) if !Rc::ptr_eq(&other, &entry) => return Err(Error::Exists),
            _ => {}
        }
        entry.record.borrow_mut().name = to;
        state.touch(&entry);
        Ok(())
    }

    pub(crate) async fn grow(&self, name: &str, sectors: u64) -> Result<(), Error> {
        loop {
            self.make_room(Need::Nothing).await?;
            let _gate = self.gate.read().await;
            let _meta = self.meta.lock().await;
            if !self.has_room(Need::Nothing)? {
                continue;
            }
            let entry = self.named(name)?;
            let grown = Record { sectors, ..entry.record.borrow().clone() };
            let before = entry.record.borrow().clone();
            if sectors < before.sectors {
                return Err(Error::Invalid("a volume cannot be made smaller"));
            }
            let kind = grown.kind();
            if grown.thick {
                self.can_reserve(kind, grown.chunks() - before.chunks())?;
            }
            let levels = kind.levels(grown.chunks());
            let mut blocks = Vec::new();
            if !before.root.ptr.is_none() {
                for _ in before.root.levels..levels {
                    blocks.push(self.take_block().await?);
                }
            }
            let mut root = before.root;
            let mut state = self.state.borrow_mut();
            for address in blocks {
                let mut node = Node::new(kind, root.levels + 1, 0);
                node.set_child(0, root.ptr);
                state.nodes.dirty.insert(address, Rc::new(node));
                root = Root { ptr: Ptr { address, check: 0 }, levels: root.levels + 1 };
            }
            root.levels = levels;
            let mut record = entry.record.borrow_mut();
            record.root = root;
            record.sectors = sectors;
            drop(record);
            state.touch(&entry);
            drop(state);
            entry.event.notify(usize::MAX);
            return Ok(());
        }
    }

    pub(crate) async fn delete(&self, name: &str) -> Result<(), Error> {
        self.make_room(Need::Freeing).await?;
        let entry = self.named(name)?;
        if entry.handles.get() > 0 {
            return Err(Error::InUse);
        }
        // What nobody waits for any more is written first.
        let _writes = entry.gate.write().await;
        let _gate = self.gate.read().await;
        let _meta = self.meta.lock().await;
        if entry.handles.get() > 0 {
            return Err(Error::InUse);
        }
        if entry.record.borrow().deleting {
            return Err(Error::NotFound);
        }
        entry.record.borrow_mut().deleting = true;
        self.state.borrow_mut().touch(&entry);
        Ok(())
    }
}

//! What the other processors of the machine do between two instructions of a task.
//!
//! In a thread of its own a simulated machine has one processor. So whenever a task has accessed memory that it shares, the
//! machine may have others act before the task goes on: tasks of other domains, and what a test gives a hostile domain for
//! a second processor.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};

use xen_hal::{DomId, Frame, GrantRef, PAGE_SIZE};
use xen_ring::hook::{self, Access};

use crate::domain::Domain;
use crate::world::World;

type Second = Box<dyn FnMut(&mut Accessed<'_>)>;

/// Who runs, and who runs beside it.
#[derive(Default)]
pub(crate) struct Processors {
    /// The domain of the task that runs.
    running: Cell<Option<DomId>>,
    /// Of how many accesses in a hundred another domain's task runs after one.
    pub(crate) interleave: Cell<u8>,
    /// A task runs in the middle of another's turn.
    nested: Cell<bool>,
    seconds: RefCell<BTreeMap<u16, Second>>,
    /// What the running task has done in its turn, and the most that any has.
    turn: Cell<u64>,
    longest_turn: Cell<u64>,
    /// What is told of each access of a domain's task.
    hook: OnceCell<hook::Hook>,
}

/// Memory that a domain shares, just accessed by another.
pub struct Accessed<'a> {
    /// The domain that has accessed it.
    pub by: DomId,
    /// Who grants the page, and the reference.
    pub granted: (DomId, GrantRef),
    /// Where in the page the bytes are.
    pub offset: usize,
    /// How many there are.
    pub len: usize,
    /// Whether they were written.
    pub write: bool,
    page: &'a [Cell<u8>],
}

impl Accessed<'_> {
    /// The word that was accessed.
    ///
    /// # Panics
    ///
    /// Where fewer than four bytes were.
    pub fn word(&self) -> u32 {
        let bytes = &self.page[self.offset..][..4];
        u32::from_le_bytes([bytes[0].get(), bytes[1].get(), bytes[2].get(), bytes[3].get()])
    }

    /// Changes the word that was accessed.
    ///
    /// # Panics
    ///
    /// As [`word`](Accessed::word).
    pub fn set_word(&mut self, value: u32) {
        self.write(self.offset, &value.to_le_bytes());
    }

    /// Changes bytes of the page.
    ///
    /// # Panics
    ///
    /// Where they are not all inside.
    pub fn write(&mut self, offset: usize, bytes: &[u8]) {
        for (to, from) in self.page[offset..][..bytes.len()].iter().zip(bytes) {
            to.set(*from);
        }
    }
}

impl Domain {
    /// Gives the domain a second processor: whenever another domain has accessed a page that both share, `act` runs before
    /// that domain does anything else. It may do nothing but change memory.
    pub fn second_processor(&self, act: impl FnMut(&mut Accessed<'_>) + 'static) {
        self.world().processors.seconds.borrow_mut().insert(self.id.0, Box::new(act));
    }

    /// Takes it away again.
    pub fn one_processor(&self) {
        let old = self.world().processors.seconds.borrow_mut().remove(&self.id.0);
        drop(old);
    }
}

/// Ends a task's turn, even by a panic.
struct Turn<'a> {
    processors: &'a Processors,
    before: (Option<DomId>, u64, Option<hook::Hook>),
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let (running, turn, hook) = std::mem::take(&mut self.before);
        self.processors.longest_turn.set(self.processors.longest_turn.get().max(self.processors.turn.get()));
        self.processors.running.set(running);
        self.processors.turn.set(turn);
        hook::set(hook);
    }
}

impl World {
    /// Runs a task of `domain`.
    pub(crate) fn run_task(self: &Rc<Self>, domain: Option<DomId>, run: impl FnOnce()) {
        let processors = &self.processors;
        let hook = domain.map(|_| processors.hook.get_or_init(|| self.hook()).clone());
        let _turn =
            Turn { processors, before: (processors.running.replace(domain), processors.turn.take(), hook::set(hook)) };
        run();
    }

    fn hook(self: &Rc<Self>) -> hook::Hook {
        let world: Weak<World> = Rc::downgrade(self);
        Rc::new(move |access| {
            if let Some(world) = world.upgrade() {
                world.accessed(access);
            }
        })
    }

    /// What the running task does counts: an access, a copy, a notification.
    pub(crate) fn count_work(&self) {
        self.processors.turn.set(self.processors.turn.get() + 1);
    }

    /// The most accesses to shared memory, copies and notifications that a task has made in one turn. So long all other
    /// tasks of its domain, and its timers and events, had to wait.
    pub(crate) fn longest_turn(&self) -> u64 {
        self.processors.longest_turn.get()
    }

    fn accessed(self: &Rc<Self>, access: Access) {
        self.count_work();
        let Some(running) = self.processors.running.get() else { return };
        if !self.processors.seconds.borrow().is_empty() {
            self.run_seconds(running, access);
        }
        // One at a time: a third task could be another of the first one's domain, which has one processor. And the store's
        // server may be in the middle of a request.
        if !self.processors.nested.get()
            && self.chance(self.processors.interleave.get())
            && self.server.try_borrow_mut().is_ok()
        {
            self.processors.nested.set(true);
            self.run_other(running);
            self.processors.nested.set(false);
        }
    }

    fn run_seconds(self: &Rc<Self>, running: DomId, access: Access) {
        let Some((frame, offset)) = self.memory.frame_at(access.address) else { return };
        let ids: Vec<u16> = self.processors.seconds.borrow().keys().copied().filter(|id| *id != running.0).collect();
        for id in ids {
            let Some(granted) = self.shared_by(frame, running, DomId(id)) else { continue };
            let page = self.memory.cells(frame);
            let len = access.len.min(PAGE_SIZE - offset);
            let mut accessed = Accessed { by: running, granted, offset, len, write: access.write, page };
            if let Some(act) = self.processors.seconds.borrow_mut().get_mut(&id) {
                act(&mut accessed);
            }
        }
    }

    /// The grant by which two domains share a page.
    fn shared_by(&self, frame: Frame, one: DomId, other: DomId) -> Option<(DomId, GrantRef)> {
        let domains = self.domains.borrow();
        [(one, other), (other, one)].into_iter().find_map(|(owner, peer)| {
            let grants = &domains.get(&owner.0)?.grants;
            let found = grants.iter().find(|(_, grant)| grant.leads_to(frame, peer))?;
            Some((owner, GrantRef(*found.0)))
        })
    }

    /// Has a task of another domain run in the middle of one of `running`'s.
    fn run_other(self: &Rc<Self>, running: DomId) {
        let chosen = {
            let mut ready = self.ready.lock().expect("one thread");
            let others: Vec<usize> = (0..ready.len())
                .filter(|index| ready[*index].metadata().is_some_and(|domain| domain != running))
                .collect();
            let chosen = self.random.borrow_mut().choice(others);
            chosen.map(|index| ready.swap_remove(index))
        };
        if let Some(runnable) = chosen {
            self.run_runnable(runnable);
        }
    }
}

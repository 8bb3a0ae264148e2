//! A domain: all of `xen-hal`'s traits in one handle.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::rc::{Rc, Weak};

use async_task::Task;
use xen_hal::{DomId, OutOfPages, Page, Pages, PeerGrants, StoreChannel};
use xen_ring::SharedPage;

use crate::events::{PortState, SimPort};
use crate::grants::GrantState;
use crate::memory::SimPage;
use crate::reservation::SimReservation;
use crate::store;
use crate::world::{Slot, World, Xen};

/// A domain of the simulated machine. A handle: clones are the same domain.
#[derive(Clone)]
pub struct Domain {
    pub(crate) world: Weak<World>,
    pub(crate) id: DomId,
}

pub(crate) struct DomainState {
    pub(crate) ports: BTreeMap<u32, PortState>,
    pub(crate) grants: BTreeMap<u32, GrantState>,
    /// What each peer has of its pages.
    pub(crate) peers: BTreeMap<DomId, PeerGrants>,
    pub(crate) tasks: Vec<Weak<RefCell<dyn Slot>>>,
    /// The ring page and this domain's port to the store, until they are taken.
    store: Option<(SimPage, u32)>,
    pub(crate) next_grant: u32,
    /// Pages of peers that it has mapped, and how many it can map.
    pub(crate) foreign: usize,
    pub(crate) address_space: usize,
    pub(crate) reservation: SimReservation,
}

/// What a domain has in use: what a test compares before and after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Open ports.
    pub ports: usize,
    /// Pages that are granted, including those that are still mapped after the grant was to end.
    pub grants: usize,
    /// How often peers have these mapped.
    pub mapped: usize,
    /// Watches that the store has for the domain.
    pub watches: usize,
    /// Transactions that the store has open for the domain.
    pub transactions: usize,
}

impl Domain {
    pub(crate) fn world(&self) -> Rc<World> {
        self.world.upgrade().expect("the machine is gone")
    }

    /// The machine that it runs on.
    ///
    /// # Panics
    ///
    /// Where that is gone.
    pub fn machine(&self) -> Xen {
        Xen(self.world())
    }

    pub(crate) fn create(world: &Rc<World>, id: DomId) -> Domain {
        let domain = Domain::new(world, id);
        world.server.borrow_mut().create_domain(id);
        domain.connect_store();
        domain
    }

    pub(crate) fn create_unserved(world: &Rc<World>, id: DomId) -> (Domain, SharedPage<SimPage>, SimPort) {
        let domain = Domain::new(world, id);
        let (page, port) = domain.make_store();
        (domain, SharedPage::new(page), port)
    }

    fn new(world: &Rc<World>, id: DomId) -> Domain {
        let state = DomainState {
            ports: BTreeMap::new(),
            grants: BTreeMap::new(),
            peers: BTreeMap::new(),
            tasks: Vec::new(),
            store: None,
            next_grant: 8,
            foreign: 0,
            address_space: usize::MAX,
            reservation: SimReservation::default(),
        };
        world.domains.borrow_mut().insert(id.0, state);
        Domain { world: Rc::downgrade(world), id }
    }

    /// Makes ring page and ports, and has the store's server serve them.
    fn connect_store(&self) {
        let (page, port) = self.make_store();
        store::serve(&self.world(), self.id, page, port);
    }

    /// Makes ring page and ports, and returns the server's end.
    fn make_store(&self) -> (SimPage, SimPort) {
        let world = self.world();
        let page = world.memory.allocate().expect("a page for the store's ring");
        let (near, far) = world.bind_pair(self.id, DomId::DOM0);
        let alias = world.memory.alias(page.frame());
        if let Some(state) = world.domains.borrow_mut().get_mut(&self.id.0) {
            state.store = Some((page, near));
        }
        (alias, SimPort::new(&world, DomId::DOM0, far))
    }

    /// Its number.
    pub fn id(&self) -> DomId {
        self.id
    }

    /// Starts a task of this domain. Dropping what is returned cancels it.
    pub fn spawn<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> Task<T, Option<DomId>> {
        self.world().spawn_in(self.id, future)
    }

    /// Connects to the store and spawns the task that talks to it.
    pub fn store(&self) -> xenstore_client::Store {
        let (store, runner) =
            xenstore_client::connect(self.clone(), self.clone()).expect("the connection was taken before");
        self.spawn(runner.run()).detach();
        store
    }

    /// Leaves the domain address space to map so many pages of peers at a time, at least those that are mapped.
    pub fn set_address_space(&self, pages: usize) {
        if let Some(state) = self.world().domains.borrow_mut().get_mut(&self.id.0) {
            state.address_space = pages.max(state.foreign);
        }
    }

    /// Pages of peers that it has mapped.
    pub fn mapped_pages(&self) -> usize {
        self.world().domains.borrow().get(&self.id.0).map_or(0, |state| state.foreign)
    }

    /// Whether it is there.
    pub fn is_alive(&self) -> bool {
        self.world().domains.borrow().contains_key(&self.id.0)
    }

    /// Ends the domain at once, whatever it is doing: what it has granted stays until its peers let go of it, and its
    /// nodes in the store stay until the toolstack removes them.
    pub fn destroy(&self) {
        let world = self.world();
        let Some(mut state) = world.domains.borrow_mut().remove(&self.id.0) else { return };
        for task in std::mem::take(&mut state.tasks) {
            if let Some(slot) = task.upgrade() {
                let clear = slot.borrow_mut().clear();
                clear();
            }
        }
        for (port, _) in std::mem::take(&mut state.ports) {
            world.close_remote(self.id, port);
        }
        world.grants_of_dead(&mut state);
        world.server.borrow_mut().release(self.id);
    }

    /// What happens to a domain that is saved and restored under the same number: its ports and grants are gone, its
    /// connection to the store is new, and what peers have mapped of it is what it was, and its memory no longer. To be
    /// followed by
    /// [`Quiesced::resume`](xenstore_client::Quiesced::resume).
    pub fn suspend_and_restore(&self) {
        let world = self.world();
        let ports: Vec<u32> = match world.domains.borrow().get(&self.id.0) {
            Some(state) => state.ports.keys().copied().collect(),
            None => return,
        };
        for port in ports {
            world.close(self.id, port);
        }
        world.leave_grants(self.id);
        world.server.borrow_mut().forget_connection(self.id);
        self.connect_store();
    }

    /// What it has in use.
    pub fn in_use(&self) -> Usage {
        let world = self.world();
        let domains = world.domains.borrow();
        let server = world.server.borrow();
        let (watches, transactions) = server.in_use(self.id);
        match domains.get(&self.id.0) {
            Some(state) => {
                let mapped = state.grants.values().map(|grant| grant.mapped).sum();
                Usage { ports: state.ports.len(), grants: state.grants.len(), mapped, watches, transactions }
            }
            None => Usage { ports: 0, grants: 0, mapped: 0, watches, transactions },
        }
    }
}

impl Pages for Domain {
    type Page = SimPage;

    fn alloc_page(&self) -> Result<SimPage, OutOfPages> {
        self.world().memory.allocate().ok_or(OutOfPages)
    }

    fn alloc_run(&self, count: usize, take: &mut dyn FnMut(SimPage)) -> Result<(), OutOfPages> {
        let run = self.world().memory.allocate_run(count).ok_or(OutOfPages)?;
        run.into_iter().for_each(take);
        Ok(())
    }
}

impl StoreChannel for Domain {
    type Page = SimPage;
    type Port = SimPort;

    fn open_store(&self) -> Option<(SimPage, SimPort)> {
        let world = self.world();
        let (page, port) = world.domains.borrow_mut().get_mut(&self.id.0)?.store.take()?;
        Some((page, SimPort::new(&world, self.id, port)))
    }
}

//! The machine: what is due, what is chosen next, and when it ends.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_task::{Builder, Runnable, Task};
use xen_hal::DomId;
use xen_ring::SharedPage;

use crate::allocation;
use crate::domain::{Domain, DomainState};
use crate::events::SimPort;
use crate::faults::Faults;
use crate::memory::{Memory, SimPage};
use crate::processors::Processors;
use crate::store::Server;
use crate::toolstack::Toolstack;

/// How long a step takes: time goes on also while something always happens.
const STEP: Duration = Duration::from_micros(1);
/// Simulated time before a run counts as stuck: longer than any time-out in it.
const MAX_TIME: Duration = Duration::from_secs(24 * 3600);

/// A Xen in one process, with dom0 and a store.
///
/// Nothing happens in it by itself: [`run`](Xen::run) takes step after step, each chosen from what Xen may do next by a
/// random number generator. The same seed chooses the same.
#[derive(Clone)]
pub struct Xen(pub(crate) Rc<World>);

pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) random: RefCell<fastrand::Rng>,
    pub(crate) memory: Rc<Memory>,
    pub(crate) domains: RefCell<BTreeMap<u16, DomainState>>,
    next_domain: Cell<u16>,
    pub(crate) ready: Arc<Mutex<Vec<Ready>>>,
    /// Events under way: domain and port.
    pub(crate) events: RefCell<Vec<(DomId, u32)>>,
    pub(crate) now: Cell<Duration>,
    timers: RefCell<BTreeMap<(Duration, u64), Waker>>,
    next_timer: Cell<u64>,
    steps: Cell<u64>,
    pub(crate) faults: RefCell<Faults>,
    pub(crate) server: Rc<RefCell<Server>>,
    pub(crate) toolstack: RefCell<Option<Toolstack>>,
    pub(crate) deferred: Cell<usize>,
    pub(crate) processors: Processors,
    budgets: Cell<Budgets>,
    /// What the thread had allocated before the machine.
    allocated: isize,
}

/// A task that can run, and its domain, unless it is the test's own.
pub(crate) type Ready = Runnable<Option<DomId>>;

/// What a run may cost at most, whatever peers do in it.
#[derive(Clone, Copy, Debug)]
pub struct Budgets {
    /// Bytes allocated on the heap at a time, by all domains together and the test.
    pub allocation: usize,
    /// Accesses to shared memory, copies and notifications of a task in one turn: all other tasks of its domain wait so
    /// long, and its timers and events.
    pub turn: u64,
    /// Steps of the machine in all: what takes more has no end.
    pub steps: u64,
}

impl Default for Budgets {
    fn default() -> Self {
        Budgets { allocation: 16 << 20, turn: 8192, steps: 20_000_000 }
    }
}

impl Xen {
    /// A machine with dom0 and a store, and nothing else.
    pub fn new(seed: u64) -> Xen {
        allocation::forget_peak();
        let allocated = allocation::now();
        let world = Rc::new(World {
            seed,
            random: RefCell::new(fastrand::Rng::with_seed(seed)),
            memory: Memory::new(),
            domains: RefCell::new(BTreeMap::new()),
            next_domain: Cell::new(0),
            ready: Arc::default(),
            events: RefCell::default(),
            now: Cell::default(),
            timers: RefCell::default(),
            next_timer: Cell::new(0),
            steps: Cell::new(0),
            faults: RefCell::default(),
            server: Rc::new(RefCell::new(Server::new())),
            toolstack: RefCell::default(),
            deferred: Cell::new(0),
            processors: Processors::default(),
            budgets: Cell::default(),
            allocated,
        });
        // Seeds differ in how often other domains act between two instructions, too.
        world.processors.interleave.set([0, 1, 5, 25][(seed % 4) as usize]);
        #[cfg(feature = "embassy-time")]
        crate::embassy_time::set_world(&world);
        let xen = Xen(world);
        let dom0 = xen.domain();
        assert_eq!(dom0.id(), DomId::DOM0);
        xen
    }

    /// A new domain, with what the toolstack writes to the store for each.
    pub fn domain(&self) -> Domain {
        let id = DomId(self.0.next_domain.replace(self.0.next_domain.get() + 1));
        Domain::create(&self.0, id)
    }

    /// A new domain whose store the test serves itself: the other end of its ring page, and the port to it.
    pub fn domain_and_server(&self) -> (Domain, SharedPage<SimPage>, SimPort) {
        let id = DomId(self.0.next_domain.replace(self.0.next_domain.get() + 1));
        Domain::create_unserved(&self.0, id)
    }

    /// A domain by its number.
    pub fn by_id(&self, id: DomId) -> Domain {
        Domain { world: Rc::downgrade(&self.0), id }
    }

    /// dom0.
    pub fn dom0(&self) -> Domain {
        self.by_id(DomId::DOM0)
    }

    /// The toolstack in dom0; the same each time. It has dom0's connection to the store.
    pub fn toolstack(&self) -> Toolstack {
        Toolstack::new(self)
    }

    /// The seed that everything is chosen by.
    pub fn seed(&self) -> u64 {
        self.0.seed
    }

    /// A random number below `limit`, from the same seed.
    pub fn random(&self, limit: u64) -> u64 {
        self.0.random.borrow_mut().u64(0..limit)
    }

    /// What is to go wrong from here on.
    pub fn set_faults(&self, faults: Faults) {
        *self.0.faults.borrow_mut() = faults;
    }

    /// The store's server, to be looked at.
    pub fn server(&self) -> Rc<RefCell<Server>> {
        self.0.server.clone()
    }

    /// Simulated time since the machine's start.
    pub fn now(&self) -> Duration {
        self.0.now.get()
    }

    /// Steps so far: the same number for the same seed.
    pub fn steps(&self) -> u64 {
        self.0.steps.get()
    }

    /// Pages in use on the whole machine, and grants that were dropped while the peer still mapped them.
    pub fn in_use(&self) -> (usize, usize) {
        (self.0.memory.used(), self.0.deferred.get())
    }

    /// The most bytes that the heap has held at a time since the machine was made, or since
    /// [`forget_peak`](Xen::forget_peak), beyond what it held before.
    pub fn peak_allocation(&self) -> usize {
        (allocation::peak() - self.0.allocated).max(0) as usize
    }

    /// Bytes that the heap holds now beyond what it held before the machine was made.
    pub fn allocation(&self) -> usize {
        (allocation::now() - self.0.allocated).max(0) as usize
    }

    /// Counts [`peak_allocation`](Xen::peak_allocation) from what the heap holds now.
    pub fn forget_peak(&self) {
        allocation::forget_peak();
    }

    /// The most accesses to shared memory, copies and notifications that a task has made in one turn.
    pub fn longest_turn(&self) -> u64 {
        self.0.longest_turn()
    }

    /// Other budgets than the usual ones.
    pub fn set_budgets(&self, budgets: Budgets) {
        self.0.budgets.set(budgets);
    }

    /// After how many of a hundred accesses to shared memory another domain's task runs before the task that has made it
    /// goes on, as on another processor. From the start it depends on the seed.
    pub fn set_interleaving(&self, percent: u8) {
        self.0.processors.interleave.set(percent);
    }

    /// Checks what the run has cost.
    ///
    /// # Panics
    ///
    /// Where it was more than the budgets.
    pub fn check_budgets(&self) {
        let (budgets, peak, turn) = (self.0.budgets.get(), self.peak_allocation(), self.longest_turn());
        assert!(peak <= budgets.allocation, "{peak} bytes were allocated at a time: more than {}", budgets.allocation);
        assert!(turn <= budgets.turn, "a task has kept its turn for {turn} accesses: more than {}", budgets.turn);
    }

    /// Runs the machine until `future` is ready.
    ///
    /// # Panics
    ///
    /// Where nothing can happen any more, or nothing new does.
    pub fn run<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> T {
        let mut task = self.0.spawn(None, future);
        let mut cx = Context::from_waker(Waker::noop());
        loop {
            // To ask is cheaper than to wait, which makes a waker known for each step.
            if task.is_finished()
                && let Poll::Ready(output) = Pin::new(&mut task).poll(&mut cx)
            {
                return output;
            }
            assert!(self.step(), "nothing can happen any more, and the test's main task still waits");
            let steps = self.0.budgets.get().steps;
            assert!(self.steps() < steps && self.now() < MAX_TIME, "no end after {} steps", self.steps());
        }
    }

    /// Runs the machine until nothing can happen any more but timers.
    pub fn settle(&self) {
        while !self.0.is_idle() {
            self.step();
            assert!(self.steps() < self.0.budgets.get().steps, "no rest after {} steps", self.steps());
        }
    }

    /// Ends all domains and with them all tasks, which may hold the machine itself.
    pub fn end(&self) {
        let ids: Vec<u16> = self.0.domains.borrow().keys().rev().copied().collect();
        for id in ids {
            self.by_id(DomId(id)).destroy();
        }
        self.0.clear();
    }

    /// Takes one step; `false` where there is none.
    fn step(&self) -> bool {
        let world = &self.0;
        world.steps.set(world.steps.get() + 1);
        world.now.set(world.now.get() + STEP);
        world.expire();
        world.spurious_event();
        let tasks = world.ready.lock().expect("one thread").len();
        let events = world.events.borrow().len();
        if tasks + events == 0 {
            return world.next_timer();
        }
        let choice = world.random.borrow_mut().usize(0..tasks + events);
        if choice < tasks {
            let runnable = world.ready.lock().expect("one thread").swap_remove(choice);
            world.run_runnable(runnable);
        } else {
            let (domain, port) = world.events.borrow_mut().swap_remove(choice - tasks);
            world.deliver(domain, port);
        }
        true
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.clear();
    }
}

impl World {
    /// Drops everything that can wake a task, and then the tasks.
    fn clear(&self) {
        let left = (self.domains.take(), self.timers.take(), self.toolstack.take());
        drop(left);
        *self.server.borrow_mut() = Server::new();
        // A task that nothing can wake is scheduled once more, to drop its future; that may drop others' wakers.
        loop {
            let ready = std::mem::take(&mut *self.ready.lock().expect("one thread"));
            if ready.is_empty() {
                return;
            }
            for runnable in ready {
                runnable.run();
            }
        }
    }

    fn spawn<T: 'static>(
        &self,
        domain: Option<DomId>,
        future: impl Future<Output = T> + 'static,
    ) -> Task<T, Option<DomId>> {
        let ready = self.ready.clone();
        let schedule = move |runnable| ready.lock().expect("one thread").push(runnable);
        let (runnable, task) = Builder::new().metadata(domain).spawn_local(move |_| future, schedule);
        runnable.schedule();
        task
    }

    pub(crate) fn run_runnable(self: &Rc<Self>, runnable: Ready) {
        let domain = *runnable.metadata();
        self.run_task(domain, || {
            runnable.run();
        });
    }

    /// Spawns a task that ends with its domain.
    pub(crate) fn spawn_in<T: 'static>(
        &self,
        id: DomId,
        future: impl Future<Output = T> + 'static,
    ) -> Task<T, Option<DomId>> {
        let slot: Rc<RefCell<Hold<T>>> = Rc::new(RefCell::new(Some(Box::pin(future))));
        if let Some(domain) = self.domains.borrow_mut().get_mut(&id.0) {
            domain.tasks.retain(|task| task.strong_count() > 0);
            let weak: Weak<RefCell<dyn Slot>> = Rc::downgrade(&slot) as Weak<RefCell<dyn Slot>>;
            domain.tasks.push(weak);
        } else {
            slot.borrow_mut().take();
        }
        self.spawn(Some(id), InDomain { slot })
    }

    fn is_idle(&self) -> bool {
        self.ready.lock().expect("one thread").is_empty() && self.events.borrow().is_empty()
    }

    pub(crate) fn set_timer(&self, at: Duration, waker: &Waker) {
        let number = self.next_timer.replace(self.next_timer.get() + 1);
        self.timers.borrow_mut().insert((at, number), waker.clone());
    }

    /// Wakes whose time has come.
    fn expire(&self) {
        loop {
            let due = {
                let mut timers = self.timers.borrow_mut();
                match timers.first_entry() {
                    Some(first) if first.key().0 <= self.now.get() => first.remove(),
                    _ => return,
                }
            };
            due.wake();
        }
    }

    /// Lets time go on to the next timer.
    fn next_timer(&self) -> bool {
        let first = self.timers.borrow_mut().pop_first();
        let Some(((at, _), waker)) = first else { return false };
        self.now.set(self.now.get().max(at));
        waker.wake();
        true
    }

    /// Whether something that happens in `percent` of all cases happens now.
    pub(crate) fn chance(&self, percent: u8) -> bool {
        percent > 0 && self.random.borrow_mut().u8(0..100) < percent
    }
}

/// A future, until its domain is destroyed.
type Hold<T> = Option<Pin<Box<dyn Future<Output = T>>>>;

/// A task's future in its domain, which ends when the domain is destroyed.
struct InDomain<T> {
    slot: Rc<RefCell<Hold<T>>>,
}

impl<T> Future for InDomain<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        // Taken out while it runs: it may destroy its own domain.
        let Some(mut future) = self.slot.borrow_mut().take() else { return Poll::Pending };
        let poll = future.as_mut().poll(cx);
        if poll.is_pending() {
            *self.slot.borrow_mut() = Some(future);
        }
        poll
    }
}

pub(crate) trait Slot {
    /// Takes the future out, to be dropped once nothing is borrowed.
    fn clear(&mut self) -> Box<dyn FnOnce()>;
}

impl<T: 'static> Slot for Hold<T> {
    fn clear(&mut self) -> Box<dyn FnOnce()> {
        let future = self.take();
        Box::new(move || drop(future))
    }
}

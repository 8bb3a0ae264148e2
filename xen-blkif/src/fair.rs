//! A device that several users share: each has its turn, however much the others ask for.

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use core::cell::RefCell;
use core::future::poll_fn;
use core::task::{Context, Poll, Waker};

use slab::Slab;
use xen_hal::PAGE_SIZE;

use crate::device::{BlockDevice, Buffer, Completed, Error, Geometry};

/// How many bytes of requests a user's turn has (deficit round robin, Shreedhar and Varghese 1995).
const QUANTUM: usize = 64 << 10;

/// Lets the requests of several users to a device in turn by bytes, a bounded amount at a time.
///
/// What the device holds already cannot be overtaken: so it is given no more than `window` bytes at once, and of what
/// waits, each user's gets the same share.
///
/// # Examples
///
/// ```
/// use xen_blkif::BlockDevice;
/// use xen_blkif::fair::Fair;
/// use xen_blkif::ramdisk::RamDisk;
///
/// # let xen = xen_sim::Xen::new(1);
/// # let domain = xen.domain();
/// # xen.run(async move {
/// let disk = RamDisk::new(domain, 64)?;
/// let fair = Fair::new(1 << 20);
/// let (one, other) = (fair.share(disk.clone()), fair.share(disk));
/// one.write_bytes(0, &[1; 512]).await?;
/// let mut bytes = [0; 512];
/// other.read_bytes(0, &mut bytes).await?;
/// assert_eq!(bytes, [1; 512]);
/// # Ok::<(), xen_blkif::Error>(())
/// # })?;
/// # Ok::<(), xen_blkif::Error>(())
/// ```
#[derive(Clone)]
pub struct Fair {
    state: Rc<RefCell<State>>,
}

struct State {
    window: usize,
    in_flight: usize,
    users: Slab<User>,
    /// The users who wait, in the order of their turns.
    turns: VecDeque<usize>,
    tickets: Slab<Ticket>,
}

#[derive(Default)]
struct User {
    waiting: VecDeque<usize>,
    deficit: usize,
}

struct Ticket {
    cost: usize,
    /// `None` once it is let in.
    waker: Option<Waker>,
}

impl Fair {
    /// With at most `window` bytes of requests in the device at once; a larger request is let in alone.
    pub fn new(window: usize) -> Fair {
        let state = State { window, in_flight: 0, users: Slab::new(), turns: VecDeque::new(), tickets: Slab::new() };
        Fair { state: Rc::new(RefCell::new(state)) }
    }

    /// One user's way to a device.
    pub fn share<D: BlockDevice>(&self, device: D) -> Share<D> {
        let user = self.state.borrow_mut().users.insert(User::default());
        Share { device, turn: Turn { state: self.state.clone(), user } }
    }
}

impl State {
    fn has_room(&self, cost: usize) -> bool {
        self.in_flight == 0 || self.in_flight + cost <= self.window
    }

    /// Lets in what there is room for.
    fn admit(&mut self) {
        while let Some(&key) = self.turns.front() {
            let user = &mut self.users[key];
            let Some(&ticket) = user.waiting.front() else {
                user.deficit = 0;
                self.turns.pop_front();
                continue;
            };
            let cost = self.tickets[ticket].cost;
            if self.in_flight > 0 && self.in_flight + cost > self.window {
                return;
            }
            if user.deficit < cost {
                user.deficit += QUANTUM;
                self.turns.rotate_left(1);
                continue;
            }
            user.deficit -= cost;
            user.waiting.pop_front();
            self.in_flight += cost;
            if let Some(waker) = self.tickets[ticket].waker.take() {
                waker.wake();
            }
        }
    }

    fn leave(&mut self, cost: usize) {
        self.in_flight -= cost;
        self.admit();
    }
}

/// A user's place among the others.
struct Turn {
    state: Rc<RefCell<State>>,
    user: usize,
}

impl Turn {
    async fn enter(&self, cost: usize) -> Entered<'_> {
        {
            let mut state = self.state.borrow_mut();
            if state.turns.is_empty() && state.has_room(cost) {
                state.in_flight += cost;
                return Entered { state: &self.state, cost };
            }
        }
        let mut waiting = Waiting { turn: self, cost, ticket: None };
        poll_fn(|cx| waiting.poll(cx)).await;
        waiting.ticket = None;
        Entered { state: &self.state, cost }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.state.borrow_mut();
        // Its requests borrow it: none waits any more.
        state.users.remove(self.user);
        state.turns.retain(|key| *key != self.user);
    }
}

/// A request that is to be let in.
struct Waiting<'a> {
    turn: &'a Turn,
    cost: usize,
    ticket: Option<usize>,
}

impl Waiting<'_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.turn.state.borrow_mut();
        let state = &mut *state;
        let Some(ticket) = self.ticket else {
            let ticket = state.tickets.insert(Ticket { cost: self.cost, waker: Some(cx.waker().clone()) });
            self.ticket = Some(ticket);
            let user = &mut state.users[self.turn.user];
            if user.waiting.is_empty() && !state.turns.contains(&self.turn.user) {
                state.turns.push_back(self.turn.user);
            }
            user.waiting.push_back(ticket);
            state.admit();
            return self.outcome(state, ticket);
        };
        if let Some(waker) = &mut state.tickets[ticket].waker {
            waker.clone_from(cx.waker());
        }
        self.outcome(state, ticket)
    }

    fn outcome(&self, state: &mut State, ticket: usize) -> Poll<()> {
        if state.tickets[ticket].waker.is_some() {
            return Poll::Pending;
        }
        state.tickets.remove(ticket);
        Poll::Ready(())
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        let mut state = self.turn.state.borrow_mut();
        let Ticket { cost, waker } = state.tickets.remove(ticket);
        if waker.is_some() {
            state.users[self.turn.user].waiting.retain(|other| *other != ticket);
            state.admit();
        } else {
            state.leave(cost);
        }
    }
}

/// A request that was let in.
struct Entered<'a> {
    state: &'a RefCell<State>,
    cost: usize,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.state.borrow_mut().leave(self.cost);
    }
}

/// One user's way to a device; see [`Fair::share`].
pub struct Share<D> {
    device: D,
    turn: Turn,
}

/// What a request takes of the device: its bytes, and as much as a page's for itself.
fn cost(len: usize) -> usize {
    len.saturating_add(PAGE_SIZE)
}

impl<D: BlockDevice> BlockDevice for Share<D> {
    type Buffer = D::Buffer;

    fn geometry(&self) -> Geometry {
        self.device.geometry()
    }

    fn buffer(&self, len: usize) -> Result<D::Buffer, Error> {
        self.device.buffer(len)
    }

    fn buffer_at(&self, sector: u64, len: usize) -> Result<D::Buffer, Error> {
        self.device.buffer_at(sector, len)
    }

    async fn read(&self, sector: u64, buffer: D::Buffer) -> Completed<D::Buffer> {
        let _entered = self.turn.enter(cost(buffer.len())).await;
        self.device.read(sector, buffer).await
    }

    async fn write(&self, sector: u64, buffer: D::Buffer) -> Completed<D::Buffer> {
        let _entered = self.turn.enter(cost(buffer.len())).await;
        self.device.write(sector, buffer).await
    }

    async fn flush(&self) -> Result<(), Error> {
        let _entered = self.turn.enter(cost(0)).await;
        self.device.flush().await
    }

    async fn discard(&self, sector: u64, count: u64, secure: bool) -> Result<(), Error> {
        let _entered = self.turn.enter(cost(0)).await;
        self.device.discard(sector, count, secure).await
    }

    async fn changed(&self, known: &Geometry) -> Geometry {
        self.device.changed(known).await
    }
}

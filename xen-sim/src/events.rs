//! Event channels.

use std::fmt;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use xen_hal::{DomId, EventChannelError, EventChannelErrorKind, EventChannels, Port, PortNumber};

use crate::domain::Domain;
use crate::world::World;

pub(crate) struct PortState {
    remote: Remote,
    pending: bool,
    waker: Option<Waker>,
    /// Tells a port from a later one with the same number.
    serial: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Remote {
    /// Open to this domain.
    Unbound(DomId),
    Bound(DomId, u32),
}

impl World {
    fn open_port(&self, id: DomId, remote: Remote) -> Option<u32> {
        let serial = self.random.borrow_mut().u64(..);
        let mut domains = self.domains.borrow_mut();
        let ports = &mut domains.get_mut(&id.0)?.ports;
        let number = (1..).find(|number| !ports.contains_key(number))?;
        ports.insert(number, PortState { remote, pending: false, waker: None, serial });
        Some(number)
    }

    /// A channel between two domains, as the toolstack makes it.
    pub(crate) fn bind_pair(&self, near: DomId, far: DomId) -> (u32, u32) {
        let near_port = self.open_port(near, Remote::Unbound(far)).expect("the domain is there");
        let far_port = self.open_port(far, Remote::Bound(near, near_port)).expect("the domain is there");
        self.set_remote(near, near_port, Remote::Bound(far, far_port));
        (near_port, far_port)
    }

    fn set_remote(&self, id: DomId, port: u32, remote: Remote) {
        if let Some(state) = self.domains.borrow_mut().get_mut(&id.0).and_then(|domain| domain.ports.get_mut(&port)) {
            state.remote = remote;
        }
    }

    /// Sends an event on its way to this end of a channel.
    fn send(&self, id: DomId, port: u32) {
        let mut events = self.events.borrow_mut();
        if !events.contains(&(id, port)) {
            events.push((id, port));
        }
    }

    pub(crate) fn deliver(&self, id: DomId, port: u32) {
        let waker = {
            let mut domains = self.domains.borrow_mut();
            let Some(state) = domains.get_mut(&id.0).and_then(|domain| domain.ports.get_mut(&port)) else { return };
            state.pending = true;
            state.waker.take()
        };
        waker.into_iter().for_each(Waker::wake);
    }

    pub(crate) fn spurious_event(&self) {
        let percent = self.faults.borrow().spurious_events;
        if !self.chance(percent) {
            return;
        }
        let chosen = {
            let domains = self.domains.borrow();
            let ports: Vec<_> =
                domains.iter().flat_map(|(id, domain)| domain.ports.keys().map(|port| (DomId(*id), *port))).collect();
            self.random.borrow_mut().choice(ports)
        };
        if let Some((id, port)) = chosen {
            self.send(id, port);
        }
    }

    /// Closes one end; the other is open again to the same domain.
    pub(crate) fn close(&self, id: DomId, port: u32) {
        let state = self.domains.borrow_mut().get_mut(&id.0).and_then(|domain| domain.ports.remove(&port));
        if state.is_some() {
            self.close_remote(id, port);
        }
        // Dropped with nothing borrowed: the last waker of a task may drop the task, and with it other ports.
        drop(state);
    }

    /// Tells the other end that this one is closed.
    pub(crate) fn close_remote(&self, id: DomId, port: u32) {
        for domain in self.domains.borrow_mut().values_mut() {
            for state in domain.ports.values_mut() {
                if state.remote == Remote::Bound(id, port) {
                    state.remote = Remote::Unbound(id);
                }
            }
        }
    }
}

impl EventChannels for Domain {
    type Error = SimEventChannelError;
    type Port = SimPort;

    fn alloc_unbound(&self, remote: DomId) -> Result<SimPort, SimEventChannelError> {
        let world = self.world();
        let percent = world.faults.borrow().ports;
        if world.chance(percent) {
            return Err(SimEventChannelError::NoPorts);
        }
        let port = world.open_port(self.id, Remote::Unbound(remote)).ok_or(SimEventChannelError::NoDomain)?;
        Ok(SimPort::new(&world, self.id, port))
    }

    fn bind_interdomain(&self, remote: DomId, remote_port: PortNumber) -> Result<SimPort, SimEventChannelError> {
        let world = self.world();
        let percent = world.faults.borrow().ports;
        if world.chance(percent) {
            return Err(SimEventChannelError::NoPorts);
        }
        {
            let domains = world.domains.borrow();
            let domain = domains.get(&remote.0).ok_or(SimEventChannelError::NoDomain)?;
            let state = domain.ports.get(&remote_port.0).ok_or(SimEventChannelError::Refused)?;
            if state.remote != Remote::Unbound(self.id) {
                return Err(SimEventChannelError::Refused);
            }
        }
        let bound = Remote::Bound(remote, remote_port.0);
        let port = world.open_port(self.id, bound).ok_or(SimEventChannelError::NoDomain)?;
        world.set_remote(remote, remote_port.0, Remote::Bound(self.id, port));
        // Whatever was rung before anybody listened.
        world.send(self.id, port);
        Ok(SimPort::new(&world, self.id, port))
    }
}

/// Why an event channel could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SimEventChannelError {
    /// As the faults have it.
    NoPorts,
    /// No such domain.
    NoDomain,
    /// The port is not open to this domain.
    Refused,
}

impl EventChannelError for SimEventChannelError {
    fn kind(&self) -> EventChannelErrorKind {
        match self {
            SimEventChannelError::NoPorts => EventChannelErrorKind::NoPorts,
            SimEventChannelError::NoDomain => EventChannelErrorKind::NoDomain,
            SimEventChannelError::Refused => EventChannelErrorKind::Refused,
        }
    }
}

impl fmt::Display for SimEventChannelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SimEventChannelError::NoPorts => "no port is free",
            SimEventChannelError::NoDomain => "no such domain",
            SimEventChannelError::Refused => "the port is not open to this domain",
        })
    }
}

impl std::error::Error for SimEventChannelError {}

/// An open port; dropping it closes it.
pub struct SimPort {
    world: Weak<World>,
    id: DomId,
    port: u32,
    serial: u64,
}

impl SimPort {
    pub(crate) fn new(world: &Rc<World>, id: DomId, port: u32) -> SimPort {
        let serial = world.domains.borrow().get(&id.0).and_then(|domain| domain.ports.get(&port)).map(|p| p.serial);
        SimPort { world: Rc::downgrade(world), id, port, serial: serial.unwrap_or(0) }
    }

    /// Runs `with` on the port's state, where it is still there.
    fn state<T>(&self, with: impl FnOnce(&mut PortState) -> T) -> Option<T> {
        let world = self.world.upgrade()?;
        let mut domains = world.domains.borrow_mut();
        let state = domains.get_mut(&self.id.0)?.ports.get_mut(&self.port)?;
        (state.serial == self.serial).then(|| with(state))
    }
}

impl Port for SimPort {
    fn number(&self) -> PortNumber {
        PortNumber(self.port)
    }

    fn notify(&self) {
        if let (Some(Remote::Bound(remote, port)), Some(world)) =
            (self.state(|state| state.remote), self.world.upgrade())
        {
            world.count_work();
            world.send(remote, port);
        }
    }

    fn is_bound(&self) -> bool {
        self.state(|state| matches!(state.remote, Remote::Bound(..))).unwrap_or(false)
    }

    fn is_current(&self) -> bool {
        self.state(|_| ()).is_some()
    }

    fn poll_wait(&self, cx: &mut Context<'_>) -> Poll<()> {
        let outcome = self.state(|state| match std::mem::take(&mut state.pending) {
            true => (true, None),
            false => match &state.waker {
                Some(known) if known.will_wake(cx.waker()) => (false, None),
                _ => (false, state.waker.replace(cx.waker().clone())),
            },
        });
        let (taken, displaced) = outcome.unwrap_or_default();
        displaced.into_iter().for_each(Waker::wake);
        if taken { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for SimPort {
    fn drop(&mut self) {
        if self.state(|_| ()).is_some()
            && let Some(world) = self.world.upgrade()
        {
            world.close(self.id, self.port);
        }
    }
}

//! Who has which device: one guest may write it, or several may read it.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::fmt;
use core::pin::pin;
use core::time::Duration;

use futures_util::future::{Either, select};
use sarab::block::Error;
use sarab::hal::{Clock, DomId};
use sarab::ring::WaitQueue;

use crate::devices::Id;

/// How long the requests of a guest that takes a device over wait for the guest that has it.
const HANDOVER: Duration = Duration::from_secs(30);

/// All that are attached. Clones are the same.
#[derive(Clone, Default)]
pub struct Holds {
    state: Rc<State>,
}

#[derive(Default)]
struct State {
    next: Cell<u64>,
    list: RefCell<Vec<Entry>>,
    released: WaitQueue,
}

struct Entry {
    number: u64,
    id: Id,
    /// The disk that it is a partition of.
    parent: Option<Id>,
    /// `None` is a command.
    domain: Option<DomId>,
    writes: bool,
}

impl Entry {
    /// Whether what one guest writes the other would see.
    fn collides(&self, other: &Entry) -> bool {
        let is_part = |part: &Entry, whole: &Entry| part.parent.as_ref() == Some(&whole.id);
        (self.writes || other.writes) && (self.id == other.id || is_part(self, other) || is_part(other, self))
    }
}

/// That a guest or a command has a device, until it is dropped.
pub struct Hold {
    holds: Holds,
    number: u64,
    granted: Cell<bool>,
    on_release: RefCell<Option<Release>>,
}

type Release = Box<dyn FnOnce()>;

/// What a guest or a command wants.
pub struct Wanted {
    pub id: Id,
    /// The disk that it is a partition of.
    pub parent: Option<Id>,
    pub writes: bool,
}

/// Who has a device that cannot be had twice: a guest, or a command.
pub struct Busy(Option<DomId>);

impl fmt::Display for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(domain) => write!(f, "domain {}", domain.0),
            None => f.write_str("a command"),
        }
    }
}

impl Holds {
    /// Takes a device; with `handover` also one that another guest has, which is then waited for.
    pub fn take(&self, device: Wanted, domain: Option<DomId>, handover: bool) -> Result<Hold, Busy> {
        let Wanted { id, parent, writes } = device;
        let number = self.state.next.replace(self.state.next.get() + 1);
        let entry = Entry { number, id, parent, domain, writes };
        let mut list = self.state.list.borrow_mut();
        let others = || list.iter().filter(|other| entry.collides(other));
        let granted = match others().next() {
            None => true,
            // What a command makes of the device, a guest has to be shown afterwards.
            Some(other) if handover && other.domain.is_some() && others().count() == 1 => false,
            Some(other) => return Err(Busy(other.domain)),
        };
        list.push(entry);
        Ok(Hold { holds: self.clone(), number, granted: Cell::new(granted), on_release: RefCell::default() })
    }

    /// Which guests have a device, and whether they write it.
    pub fn of(&self, id: &Id) -> Vec<(DomId, bool)> {
        let list = self.state.list.borrow();
        let own = list.iter().filter(|entry| entry.id == *id);
        own.filter_map(|entry| Some((entry.domain?, entry.writes))).collect()
    }

    /// Whether who was before is gone.
    fn is_first(&self, number: u64) -> bool {
        let list = self.state.list.borrow();
        let Some(own) = list.iter().find(|entry| entry.number == number) else { return true };
        !list.iter().any(|other| other.number < number && own.collides(other))
    }
}

impl Hold {
    /// Does something when the device is no longer held.
    pub fn on_release(&self, action: impl FnOnce() + 'static) {
        self.on_release.replace(Some(Box::new(action)));
    }

    /// Whether this guest may use the device.
    pub fn is_granted(&self) -> bool {
        self.granted.get()
    }

    /// Waits until this guest may use the device.
    pub async fn granted(&self, clock: &impl Clock) -> Result<(), Error> {
        if self.granted.get() {
            return Ok(());
        }
        let state = &self.holds.state;
        let free = pin!(state.released.wait_until(|| self.holds.is_first(self.number).then_some(())));
        let late = pin!(clock.sleep(HANDOVER));
        match select(free, late).await {
            Either::Left(_) => {
                self.granted.set(true);
                Ok(())
            }
            Either::Right(_) => Err(Error::Gone),
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let state = &self.holds.state;
        let mut list = state.list.borrow_mut();
        list.retain(|entry| entry.number != self.number);
        drop(list);
        state.released.wake_all();
        if let Some(action) = self.on_release.take() {
            action();
        }
    }
}

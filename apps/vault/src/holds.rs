//! Who has which device: one guest may write it, or several may read it.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::pin::pin;
use core::time::Duration;

use futures_util::future::{Either, select};
use sarab::block::Error;
use sarab::hal::{Clock, DomId};
use sarab::ring::WaitQueue;

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
    name: String,
    /// The disk that it is a partition of.
    parent: Option<String>,
    domain: DomId,
    writes: bool,
}

impl Entry {
    /// Whether what one guest writes the other would see.
    fn collides(&self, other: &Entry) -> bool {
        let is_part = |part: &Entry, whole: &Entry| part.parent.as_ref() == Some(&whole.name);
        (self.writes || other.writes) && (self.name == other.name || is_part(self, other) || is_part(other, self))
    }
}

/// That a guest has a device, until it is dropped.
pub struct Hold {
    holds: Holds,
    number: u64,
    granted: Cell<bool>,
    on_release: RefCell<Option<Release>>,
}

type Release = Box<dyn FnOnce(&str)>;

/// What a guest wants.
pub struct Wanted<'a> {
    pub name: &'a str,
    /// The disk that it is a partition of.
    pub parent: Option<&'a str>,
    pub writes: bool,
}

/// Who has a device that cannot be had twice.
pub struct Busy(pub DomId);

impl Holds {
    /// Takes a device; with `handover` also one that another guest has, which is then waited for.
    pub fn take(&self, device: Wanted<'_>, domain: DomId, handover: bool) -> Result<Hold, Busy> {
        let Wanted { name, parent, writes } = device;
        let number = self.state.next.replace(self.state.next.get() + 1);
        let entry = Entry { number, name: name.to_string(), parent: parent.map(ToString::to_string), domain, writes };
        let mut list = self.state.list.borrow_mut();
        let others = || list.iter().filter(|other| entry.collides(other));
        let granted = match others().next() {
            None => true,
            Some(_) if handover && others().count() == 1 => false,
            Some(other) => return Err(Busy(other.domain)),
        };
        list.push(entry);
        Ok(Hold { holds: self.clone(), number, granted: Cell::new(granted), on_release: RefCell::default() })
    }

    /// Who has a device.
    pub fn of(&self, name: &str) -> Vec<(DomId, bool)> {
        let list = self.state.list.borrow();
        list.iter().filter(|entry| entry.name == name).map(|entry| (entry.domain, entry.writes)).collect()
    }

    pub fn rename(&self, from: &str, to: &str) {
        let mut list = self.state.list.borrow_mut();
        list.iter_mut().filter(|entry| entry.name == from).for_each(|entry| entry.name = to.to_string());
    }

    /// Whether who was before is gone.
    fn is_first(&self, number: u64) -> bool {
        let list = self.state.list.borrow();
        let Some(own) = list.iter().find(|entry| entry.number == number) else { return true };
        !list.iter().any(|other| other.number < number && own.collides(other))
    }
}

impl Hold {
    /// Does something, with the device's name, when it is no longer held.
    pub fn on_release(&self, action: impl FnOnce(&str) + 'static) {
        self.on_release.replace(Some(Box::new(action)));
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
        let own = list.iter().position(|entry| entry.number == self.number).map(|index| list.remove(index));
        drop(list);
        state.released.wake_all();
        if let (Some(own), Some(action)) = (own, self.on_release.take()) {
            action(&own.name);
        }
    }
}

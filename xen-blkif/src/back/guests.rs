//! What guests have of this domain: each over all its disks, and all together.

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use xen_hal::{DomId, GrantError, GrantErrorKind, GrantTable, MapRequest, Memory};

use super::Limits;
use super::persistent::Persistent;

/// Most pages that stay mapped for one disk, as Linux's backend has it for a ring.
const MAX_PER_DISK: usize = 1056;

/// All guests of a backend.
pub(super) struct Guests<M: GrantTable> {
    limits: Limits,
    /// How many pages may stay mapped for all of them: less than the limit where the address space has proved too small
    /// for that.
    total: Cell<usize>,
    disks: RefCell<Vec<Disk<M>>>,
}

/// A disk that is connected.
struct Disk<M: GrantTable> {
    guest: DomId,
    in_flight: Rc<Cell<usize>>,
    persistent: Option<Rc<RefCell<Persistent<M>>>>,
}

impl<M: Memory> Guests<M> {
    pub(super) fn new(limits: Limits) -> Self {
        Guests { limits, total: Cell::new(limits.persistent_grants_total), disks: RefCell::default() }
    }

    /// A disk of a guest is connected; with `persistent`, pages of the guest's are to stay mapped.
    pub(super) fn join(&self, guest: DomId, persistent: bool) -> Share<'_, M> {
        let persistent = persistent.then(|| Rc::new(RefCell::new(Persistent::new())));
        let in_flight = {
            let mut disks = self.disks.borrow_mut();
            let of_guest = disks.iter().find(|disk| disk.guest == guest);
            let in_flight: Rc<Cell<usize>> = of_guest.map(|disk| disk.in_flight.clone()).unwrap_or_default();
            disks.push(Disk { guest, in_flight: in_flight.clone(), persistent: persistent.clone() });
            in_flight
        };
        self.divide();
        Share { guests: self, guest, persistent, in_flight, own: Cell::new(0) }
    }

    /// Maps pages that a device cannot do without. Those that stay mapped only to save time make way.
    pub(super) fn map(&self, memory: &M, requests: &[MapRequest]) -> Result<M::Mapping, M::Error> {
        loop {
            match memory.map(requests) {
                Err(error) if error.kind() == GrantErrorKind::NoAddressSpace && self.unmap_half() => {}
                outcome => return outcome,
            }
        }
    }

    /// The address space is too small for all that is mapped: half of what was kept is unmapped, and no more is kept than
    /// that. `false` where nothing was.
    pub(super) fn unmap_half(&self) -> bool {
        let mapped = |disk: &Disk<M>| disk.persistent.as_ref().map_or(0, |pages| pages.borrow().mapped());
        let mapped: usize = self.disks.borrow().iter().map(mapped).sum();
        if mapped == 0 {
            return false;
        }
        self.total.set(self.total.get().min(mapped / 2));
        self.divide();
        true
    }

    /// Gives each guest that has use for it the same share of what may stay mapped, and each of its disks the same of
    /// that.
    fn divide(&self) {
        let disks = self.disks.borrow();
        let sharing = || disks.iter().filter_map(|disk| Some((disk.guest, disk.persistent.as_ref()?)));
        let mut counts: BTreeMap<DomId, usize> = BTreeMap::new();
        sharing().for_each(|(guest, _)| *counts.entry(guest).or_default() += 1);
        for (guest, pages) in sharing() {
            let share = self.limits.persistent_grants.min(self.total.get() / counts.len());
            pages.borrow_mut().allow((share / counts[&guest]).min(MAX_PER_DISK));
        }
    }
}

/// What a disk has of its guest's share.
pub(super) struct Share<'a, M: Memory> {
    guests: &'a Guests<M>,
    pub(super) guest: DomId,
    /// The guest's pages that stay mapped, where it wants that.
    pub(super) persistent: Option<Rc<RefCell<Persistent<M>>>>,
    /// Bytes of requests that are worked on, of all disks of the guest.
    in_flight: Rc<Cell<usize>>,
    /// Of these, this disk's.
    own: Cell<usize>,
}

impl<M: Memory> Share<'_, M> {
    /// How many bytes more may be worked on.
    pub(super) fn room(&self) -> usize {
        self.guests.limits.in_flight.saturating_sub(self.in_flight.get())
    }

    pub(super) fn begin(&self, bytes: usize) {
        self.in_flight.set(self.in_flight.get() + bytes);
        self.own.set(self.own.get() + bytes);
    }

    pub(super) fn end(&self, bytes: usize) {
        self.in_flight.set(self.in_flight.get() - bytes);
        self.own.set(self.own.get() - bytes);
    }

    /// See [`Guests::unmap_half`].
    pub(super) fn unmap_half(&self) {
        self.guests.unmap_half();
    }
}

impl<M: Memory> Drop for Share<'_, M> {
    fn drop(&mut self) {
        // Also what was under way when the device was taken away.
        self.end(self.own.get());
        let guests = self.guests;
        let mut disks = guests.disks.borrow_mut();
        let own = |disk: &Disk<M>| match (&disk.persistent, &self.persistent) {
            (Some(one), Some(other)) => Rc::ptr_eq(one, other),
            (None, None) => disk.guest == self.guest,
            _ => false,
        };
        let left = disks.iter().position(own).map(|index| disks.swap_remove(index));
        drop(disks);
        drop(left);
        // There may be room for more again.
        let limit = guests.limits.persistent_grants_total;
        guests.total.set(guests.total.get().saturating_mul(2).clamp(limit / 16, limit));
        guests.divide();
    }
}

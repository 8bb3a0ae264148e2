//! A domain's memory reservation, in numbers: the pages that drivers use come from the machine's memory, whatever it is.

use xen_hal::{Errno, Reservation, ReservationSize};

use crate::domain::Domain;

/// Pages that one call changes at most, as a hypercall's batch.
const BATCH: u64 = 512;

pub(crate) struct SimReservation {
    size: ReservationSize,
    /// What the toolstack lets the domain have.
    limit: u64,
}

impl Default for SimReservation {
    /// 16 MiB, most of it free.
    fn default() -> SimReservation {
        SimReservation { size: ReservationSize { maximum: 4096, current: 4096, free: 4000 }, limit: u64::MAX }
    }
}

impl Domain {
    /// Says how much memory the domain has and how much of it is free, for what it asks of its
    /// [`Reservation`].
    ///
    /// # Panics
    ///
    /// Where `size` has more free than there is, or more than the maximum.
    pub fn set_reservation(&self, size: ReservationSize) {
        assert!(size.free <= size.current && size.current <= size.maximum, "{size:?}");
        self.with_reservation(|reservation| reservation.size = size);
    }

    /// Bounds the pages that the domain can have, as `xl mem-set` and the host's free memory do. What it has beyond that
    /// stays.
    pub fn limit_reservation(&self, pages: u64) {
        self.with_reservation(|reservation| reservation.limit = pages);
    }

    fn with_reservation<R>(&self, action: impl FnOnce(&mut SimReservation) -> R) -> Option<R> {
        self.world().domains.borrow_mut().get_mut(&self.id.0).map(|state| action(&mut state.reservation))
    }

    /// What is left of a call by the machine's faults; an error for nothing.
    fn reservation_fault(&self, pages: u64) -> Result<u64, Errno> {
        let world = self.world();
        let percent = world.faults.borrow().reservation;
        match world.chance(percent) {
            true if world.chance(50) => Err(Errno::ENOMEM),
            true => Ok(pages / 3),
            false => Ok(pages),
        }
    }
}

impl Reservation for Domain {
    fn size(&self) -> ReservationSize {
        self.with_reservation(|reservation| reservation.size).unwrap_or(ReservationSize {
            maximum: 0,
            current: 0,
            free: 0,
        })
    }

    fn decrease(&self, pages: u64) -> Result<u64, Errno> {
        let pages = self.reservation_fault(pages.min(BATCH))?;
        let take = |reservation: &mut SimReservation| {
            let done = pages.min(reservation.size.free);
            reservation.size.free -= done;
            reservation.size.current -= done;
            done
        };
        Ok(self.with_reservation(take).unwrap_or(0))
    }

    fn increase(&self, pages: u64) -> Result<u64, Errno> {
        let pages = self.reservation_fault(pages.min(BATCH))?;
        let give = |reservation: &mut SimReservation| {
            let most = reservation.limit.min(reservation.size.maximum);
            let done = pages.min(most.saturating_sub(reservation.size.current));
            reservation.size.free += done;
            reservation.size.current += done;
            done
        };
        Ok(self.with_reservation(give).unwrap_or(0))
    }
}

//! Event channels, with the two-level interface: all 4096 ports.
//!
//! A port's pending bit in the shared page is its state: an event is pending until a waiter takes it. An event that is
//! delivered masks its port until somebody waits again, so that a peer that rings without end costs one wake-up, not
//! the processor (XSA-332).

use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};
use core::task::{Context, Poll, Waker};

use xen_hal::{DomId, Errno, EventChannelError, EventChannelErrorKind, EventChannels, Port, PortNumber};

use crate::abi::{self, shared};
use crate::cell::Global;
use crate::{counters, hypercall, shared_info, traps};

/// Ports of a 64-bit domain with the two-level interface.
const PORTS: u32 = 4096;

static TABLE: Global<Table> = Global::new(Table { slots: Vec::new(), generation: 0, timer: None });

struct Table {
    /// By port number, as far as ports were opened.
    slots: Vec<Slot>,
    /// Counts resumes: ports from before one are gone.
    generation: u32,
    /// The port of VIRQ_TIMER, which the run loop serves itself.
    timer: Option<u32>,
}

#[derive(Clone, Default)]
struct Slot {
    open: bool,
    waker: Option<Waker>,
}

/// Masks everything and asks for upcalls. At start and after each resume.
pub(crate) fn init() -> Result<(), Errno> {
    let woken = {
        let mut table = TABLE.get();
        table.generation = table.generation.wrapping_add(1);
        table.timer = None;
        core::mem::take(&mut table.slots)
    };
    for word in 0..PORTS / 64 {
        mask_word(word).store(u64::MAX, Ordering::Relaxed);
    }
    hypercall::set_hvm_param(abi::HVM_PARAM_CALLBACK_IRQ, 2 << 56 | u64::from(traps::UPCALL_VECTOR))?;
    let timer = hypercall::evtchn_bind_virq(abi::VIRQ_TIMER)?;
    TABLE.get().timer = Some(timer);
    unmask(timer);
    // Whoever waited on a port from before must look around.
    woken.into_iter().filter_map(|slot| slot.waker).for_each(Waker::wake);
    Ok(())
}

fn pending_word(word: u32) -> &'static AtomicU64 {
    shared_info::quad(shared::EVTCHN_PENDING + word as usize * 8)
}

fn mask_word(word: u32) -> &'static AtomicU64 {
    shared_info::quad(shared::EVTCHN_MASK + word as usize * 8)
}

fn bit(port: u32) -> u64 {
    1 << (port % 64)
}

fn take_pending(port: u32) -> bool {
    let word = pending_word(port / 64);
    // The locked instruction is needed only where there is something to take.
    word.load(Ordering::SeqCst) & bit(port) != 0 && word.fetch_and(!bit(port), Ordering::SeqCst) & bit(port) != 0
}

fn mask(port: u32) {
    mask_word(port / 64).fetch_or(bit(port), Ordering::SeqCst);
}

fn unmask(port: u32) {
    mask_word(port / 64).fetch_and(!bit(port), Ordering::SeqCst);
}

/// Wakes the waiters of ports that became pending. Work is bounded by the number of open ports.
pub(crate) fn dispatch() {
    // The flag is cleared before the words are looked at, here or by the upcall's handler: an event that comes in
    // between sets both again.
    shared_info::clear_upcall();
    let selector = shared_info::quad(shared::PENDING_SEL);
    if selector.load(Ordering::SeqCst) == 0 {
        return;
    }
    counters::UPCALLS.add_one();
    let mut words = selector.swap(0, Ordering::SeqCst);
    while words != 0 {
        let word = words.trailing_zeros();
        words &= words - 1;
        let mut bits = pending_word(word).load(Ordering::SeqCst) & !mask_word(word).load(Ordering::SeqCst);
        while bits != 0 {
            let port = word * 64 + bits.trailing_zeros();
            bits &= bits - 1;
            deliver(port);
        }
    }
}

fn deliver(port: u32) {
    counters::EVENTS.add_one();
    let waker = {
        let mut table = TABLE.get();
        if table.timer == Some(port) {
            // The run loop looks at the clock after every dispatch.
            take_pending(port);
            return;
        }
        mask(port);
        table.slots.get_mut(port as usize).and_then(|slot| slot.waker.take())
    };
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// Opens event channels for this domain.
#[derive(Clone, Copy, Debug, Default)]
pub struct XenEventChannels;

impl XenEventChannels {
    /// Takes a port that the toolstack or the hypervisor has opened for this domain; `None` where there is no such port.
    pub(crate) fn adopt(self, port: u32) -> Option<XenPort> {
        if port >= PORTS {
            return None;
        }
        let mut table = TABLE.get();
        let index = port as usize;
        if table.slots.len() <= index {
            table.slots.resize(index + 1, Slot::default());
        }
        table.slots[index] = Slot { open: true, waker: None };
        Some(XenPort { port, generation: table.generation })
    }

    fn open(self, port: Result<u32, Errno>, remote: DomId) -> Result<XenPort, XenEventChannelError> {
        let port = port.map_err(|errno| XenEventChannelError { errno, remote })?;
        self.adopt(port).ok_or_else(|| {
            let _ = hypercall::evtchn_close(port);
            XenEventChannelError { errno: Errno::ENOSPC, remote }
        })
    }

    /// How many ports are open through this interface: leaks show here.
    pub fn open_ports(self) -> usize {
        TABLE.get().slots.iter().filter(|slot| slot.open).count()
    }

    /// What the hypervisor says of a port of this domain: an `EVTCHNSTAT_*` number, 0 for closed.
    pub fn status(self, port: PortNumber) -> Result<u32, Errno> {
        hypercall::evtchn_status(port.0)
    }
}

impl EventChannels for XenEventChannels {
    type Error = XenEventChannelError;
    type Port = XenPort;

    fn alloc_unbound(&self, remote: DomId) -> Result<XenPort, XenEventChannelError> {
        self.open(hypercall::evtchn_alloc_unbound(remote), remote)
    }

    fn bind_interdomain(&self, remote: DomId, remote_port: PortNumber) -> Result<XenPort, XenEventChannelError> {
        self.open(hypercall::evtchn_bind_interdomain(remote, remote_port.0), remote)
    }
}

/// The hypervisor refused to open an event channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XenEventChannelError {
    /// What the hypervisor answered.
    pub errno: Errno,
    /// The domain at the other end.
    pub remote: DomId,
}

impl EventChannelError for XenEventChannelError {
    fn kind(&self) -> EventChannelErrorKind {
        match self.errno {
            Errno::ENOSPC | Errno::ENOMEM => EventChannelErrorKind::NoPorts,
            Errno::ESRCH => EventChannelErrorKind::NoDomain,
            Errno::EINVAL | Errno::EPERM | Errno::EACCES => EventChannelErrorKind::Refused,
            _ => EventChannelErrorKind::Other,
        }
    }
}

impl fmt::Display for XenEventChannelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot open an event channel with {}: {}", self.remote, self.errno)?;
        match self.errno {
            // EVTCHNOP_alloc_unbound and EVTCHNOP_bind_interdomain say so of the domain's limit (xen/common/event_channel.c).
            Errno::ENOSPC => f.write_str("; max_event_channels= in the xl file bounds them"),
            _ => Ok(()),
        }
    }
}

impl core::error::Error for XenEventChannelError {}

/// An open port; dropping it closes it.
///
/// After a resume from suspend all ports are gone: a port from before neither rings nor gets events, and its waiter is
/// woken once to find that out from its driver.
#[derive(Debug)]
pub struct XenPort {
    port: u32,
    generation: u32,
}

impl Port for XenPort {
    fn number(&self) -> PortNumber {
        PortNumber(self.port)
    }

    fn notify(&self) {
        if self.is_current() {
            counters::NOTIFICATIONS.add_one();
            // The only failure left is a peer that is gone, which the contract leaves to other signs.
            let _ = hypercall::evtchn_send(self.port);
        }
    }

    fn is_bound(&self) -> bool {
        self.is_current() && hypercall::evtchn_status(self.port) == Ok(abi::EVTCHNSTAT_INTERDOMAIN)
    }

    fn is_current(&self) -> bool {
        TABLE.get().generation == self.generation
    }

    fn poll_wait(&self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.is_current() {
            return Poll::Pending;
        }
        if take_pending(self.port) {
            return Poll::Ready(());
        }
        let displaced = {
            let mut table = TABLE.get();
            let waker = &mut table.slots[self.port as usize].waker;
            match waker {
                Some(waker) if waker.will_wake(cx.waker()) => None,
                _ => waker.replace(cx.waker().clone()),
            }
        };
        if let Some(displaced) = displaced {
            displaced.wake();
        }
        unmask(self.port);
        // An event from before the unmasking made no upcall and never will: it must be looked for once more. The
        // locked instruction of `unmask` keeps the order.
        match take_pending(self.port) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}

impl Drop for XenPort {
    fn drop(&mut self) {
        if !self.is_current() {
            return;
        }
        mask(self.port);
        let _ = hypercall::evtchn_close(self.port);
        take_pending(self.port);
        let slot = core::mem::take(&mut TABLE.get().slots[self.port as usize]);
        // Dropped outside the borrow: the last waker of a task may drop the task, and with it other ports.
        drop(slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    #[repr(align(4096))]
    struct Page([u8; 4096]);

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What Xen does at an event, with no regard for masks: the worst that others can bring about.
    fn send(port: u32) {
        pending_word(port / 64).fetch_or(bit(port), Ordering::SeqCst);
        shared_info::quad(shared::PENDING_SEL).fetch_or(1 << (port / 64), Ordering::SeqCst);
        shared_info::byte(shared::UPCALL_PENDING).store(1, Ordering::SeqCst);
    }

    /// The one test that has the page and the table, which are the domain's alone.
    #[test]
    fn events_without_end_on_all_ports_wake_each_waiter_once_and_leave_the_timer_alone() {
        let page = Box::leak(Box::new(Page([0; 4096])));
        shared_info::PAGE.store(page.0.as_mut_ptr(), Ordering::Relaxed);
        (0..PORTS / 64).for_each(|word| mask_word(word).store(u64::MAX, Ordering::Relaxed));
        TABLE.get().timer = Some(0);
        unmask(0);
        assert!(XenEventChannels.adopt(PORTS).is_none() && XenEventChannels.adopt(u32::MAX).is_none());

        let tasks: Vec<(XenPort, Arc<Woken>)> =
            (1..PORTS).map(|port| (XenEventChannels.adopt(port).unwrap(), Arc::default())).collect();
        let wait = |(port, task): &(XenPort, Arc<Woken>)| {
            port.poll_wait(&mut Context::from_waker(&Waker::from(task.clone()))).is_ready()
        };
        assert!(!tasks.iter().any(wait));
        for round in 1..=3 {
            let before = counters::counters().events;
            // However often they ring, one look wakes each waiter once, and is over.
            for _ in 0..10 {
                (0..PORTS).for_each(send);
                dispatch();
                assert!(tasks.iter().all(|(_, task)| task.0.load(Ordering::Relaxed) == round));
                assert!(!take_pending(0), "the timer's event was taken");
            }
            assert!(!shared_info::upcall_is_due());
            // Nothing is done for a port without a waiting task.
            assert_eq!(counters::counters().events - before, u64::from(PORTS - 1) + 10);
            // One event for all the rings.
            assert!(tasks.iter().all(wait));
            assert!(!tasks.iter().any(wait));
        }
        // Ports that are closed without a hypervisor.
        tasks.into_iter().for_each(|(port, _)| core::mem::forget(port));
        TABLE.get().slots = Vec::new();
    }
}

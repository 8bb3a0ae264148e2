//! Frames on their way out: pages that the backend may read, in a circle, and the ring that tells of them.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::fmt;

use xen_hal::{Access, DomId, Errno, GrantRef, Memory, PAGE_SIZE};
use xen_ring::{BadProducer, FrontRing, GrantableRun, GrantedPages};
use xenbus::{Device, Failure};

use crate::Buffer;
use crate::area::Run;
use crate::protocol::{Extra, MAX_SLOTS, SLOTS, TxProtocol, TxRequest, TxSlot, TxStatus, tx_flags};

/// In failures.
const NAME: &str = "the transmit ring";

pub(super) struct Tx<G: Memory> {
    ring: FrontRing<TxProtocol>,
    memory: GrantedPages<G::Grant>,
    /// Granted for reading as long as it is there.
    area: GrantableRun<G::Grant>,
    /// The next page to be used, and how many are in use before it.
    head: usize,
    used: usize,
    /// In their order in the area.
    packets: VecDeque<Packet>,
    /// The first packet's number; they are counted.
    first: u32,
    /// By request id: the number of its packet.
    owners: Vec<Option<u32>>,
    free_ids: Vec<u16>,
}

struct Packet {
    /// Of the area; those included that were left out at its end.
    pages: usize,
    unanswered: u16,
    /// What the backend reads in pages of its own. They were granted for this, and are so until it has answered.
    granted: Option<Buffer>,
}

/// A place for a frame.
#[derive(Clone, Copy)]
pub(super) struct Place {
    page: usize,
    /// Pages left out before it.
    skipped: usize,
    len: usize,
}

impl Place {
    /// The same for a frame that has turned out shorter.
    pub(super) fn shortened(self, len: usize) -> Place {
        Place { len: len.min(self.len), ..self }
    }

    /// The frame's length in bytes.
    pub(super) fn len(&self) -> usize {
        self.len
    }
}

impl<G: Memory> Tx<G> {
    pub(super) fn new(memory: &G, device: &Device, pages: usize) -> Result<Tx<G>, Failure> {
        let full = |error: &dyn fmt::Display| Failure::new(Errno::ENOSPC, format_args!("{NAME}: {error}"));
        let peer = device.other_domain();
        let ring_memory = device.grant_ring(memory, NAME, 1)?;
        let mut area = GrantableRun::new(memory, pages).map_err(|error| full(&error))?;
        for index in 0..pages {
            area.page_mut(index).grant(memory, peer, Access::ReadOnly).map_err(|error| full(&error))?;
        }
        Ok(Tx {
            ring: FrontRing::new(TxProtocol, &ring_memory),
            memory: ring_memory,
            area,
            head: 0,
            used: 0,
            packets: VecDeque::new(),
            first: 0,
            owners: (0..SLOTS).map(|_| None).collect(),
            free_ids: (0..SLOTS as u16).rev().collect(),
        })
    }

    pub(super) fn memory(&self) -> &GrantedPages<G::Grant> {
        &self.memory
    }

    /// A place for a frame of this length, if there is room for it.
    pub(super) fn place(&self, len: usize) -> Option<Place> {
        let pages = len.div_ceil(PAGE_SIZE).max(1);
        // One more for what is extra.
        if self.ring.free() as usize <= pages || self.free_ids.len() < pages {
            return None;
        }
        let total = self.area.count();
        let (page, skipped) = match self.head + pages <= total {
            true => (self.head, 0),
            // Nothing is in use: the circle begins anew.
            false if self.used == 0 => (0, 0),
            false => (0, total - self.head),
        };
        (self.used + skipped + pages <= total).then_some(Place { page, skipped, len })
    }

    /// The bytes of a place.
    pub(super) fn bytes(&mut self, place: Place) -> &mut [u8] {
        self.area.bytes_mut(place.page * PAGE_SIZE, place.len).expect("granted for reading alone")
    }

    /// Sends the frame in a place that was just found.
    pub(super) fn send(&mut self, place: Place, flags: u16, extra: Option<Extra>) {
        let pages = place.len.div_ceil(PAGE_SIZE).max(1);
        let mut references = [GrantRef(0); MAX_SLOTS];
        for (index, reference) in references[..pages].iter_mut().enumerate() {
            *reference = self.area.reference(place.page + index).expect("granted as long as it is there");
        }
        self.push_slots(&references[..pages], 0, place.len, flags, extra);
        self.head = place.page + pages;
        self.used += place.skipped + pages;
        self.packets.push_back(Packet { pages: place.skipped + pages, unanswered: pages as u16, granted: None });
    }

    /// Sends a frame in pages of its own, which are the backend's to read until it has answered.
    ///
    /// # Errors
    ///
    /// The frame, where it has no such pages, or there is no room.
    pub(super) fn send_pages(
        &mut self,
        memory: &G,
        peer: DomId,
        mut frame: Buffer,
        flags: u16,
        extra: Option<Extra>,
    ) -> Result<(), Buffer> {
        let len = frame.len();
        if frame.offset().is_none() {
            return Err(frame);
        }
        let Some((run, range)) = frame.pages::<Run<G>>() else { return Err(frame) };
        let (first, end) = (range.start / PAGE_SIZE, range.end.div_ceil(PAGE_SIZE));
        let pages = end - first;
        let mut references = [GrantRef(0); MAX_SLOTS];
        // One more slot for what is extra.
        let room = pages < MAX_SLOTS && self.ring.free() as usize > pages && self.free_ids.len() >= pages;
        let granted = room
            && references.iter_mut().zip(first..end).all(|(reference, index)| {
                run.pages_mut().grant(index, memory, peer).map(|granted| *reference = granted).is_ok()
            });
        if !granted {
            // What was granted is of no use to anybody: it holds this frame alone, and ends with it.
            let _ = run.pages_mut().revoke();
            return Err(frame);
        }
        self.push_slots(&references[..pages], range.start % PAGE_SIZE, len, flags, extra);
        self.packets.push_back(Packet { pages: 0, unanswered: pages as u16, granted: Some(frame) });
        Ok(())
    }

    /// Slots of the next packet, whose bytes begin in the first page at `start`.
    fn push_slots(&mut self, pages: &[GrantRef], start: usize, len: usize, flags: u16, extra: Option<Extra>) {
        let number = self.first.wrapping_add(self.packets.len() as u32);
        let (mut offset, mut rest) = (start, len);
        for (index, reference) in pages.iter().enumerate() {
            let id = self.free_ids.pop().expect("there was room for it");
            self.owners[usize::from(id)] = Some(number);
            let own = rest.min(PAGE_SIZE - offset);
            rest -= own;
            let first = index == 0;
            let mut slot_flags = if first { flags } else { 0 };
            if index + 1 < pages.len() {
                slot_flags |= tx_flags::MORE_DATA;
            }
            if first && extra.is_some() {
                slot_flags |= tx_flags::EXTRA_INFO;
            }
            let size = if first { len } else { own } as u16;
            let offset = core::mem::take(&mut offset) as u16;
            self.push(TxRequest { reference: *reference, offset, flags: slot_flags, id, size }.into());
            if first && let Some(extra) = extra {
                self.push((extra, false).into());
            }
        }
    }

    /// Sends something extra by itself, with a request of no bytes; `false` where there is no room.
    pub(super) fn send_extra(&mut self, extra: Extra) -> bool {
        if self.ring.free() < 2 {
            return false;
        }
        let Some(id) = self.free_ids.pop() else { return false };
        self.owners[usize::from(id)] = Some(self.first.wrapping_add(self.packets.len() as u32));
        let reference = self.area.reference(0).expect("granted as long as it is there");
        self.push(TxRequest { reference, offset: 0, flags: tx_flags::EXTRA_INFO, id, size: 0 }.into());
        self.push((extra, false).into());
        self.packets.push_back(Packet { pages: 0, unanswered: 1, granted: None });
        true
    }

    fn push(&mut self, slot: TxSlot) {
        self.ring.push(&self.memory, &slot).expect("there was room for it");
    }

    /// Takes back what was sent; whether there was any. Counts frames that were refused in `refused`.
    pub(super) fn reap(&mut self, refused: &mut u64) -> Result<bool, Failure> {
        let mut any = false;
        while let Some(response) = self.ring.pop(&self.memory).map_err(broken)? {
            any = true;
            if response.status == TxStatus::Null {
                continue;
            }
            let Some(number) = self.owners.get_mut(usize::from(response.id)).and_then(Option::take) else {
                let text = format_args!("{NAME}: response references no pending request ({})", response.id);
                return Err(Failure::new(Errno::EIO, text));
            };
            self.free_ids.push(response.id);
            if response.status != TxStatus::Okay {
                *refused += 1;
            }
            let packet = &mut self.packets[number.wrapping_sub(self.first) as usize];
            packet.unanswered -= 1;
            if packet.unanswered == 0 {
                // Those after it may have been answered before it: pages return as soon as they can.
                packet.granted = None;
            }
            while self.packets.front().is_some_and(|packet| packet.unanswered == 0) {
                self.used -= self.packets.pop_front().map_or(0, |packet| packet.pages);
                self.first = self.first.wrapping_add(1);
            }
        }
        Ok(any)
    }

    /// How many slots the backend has.
    pub(super) fn outstanding(&self) -> u32 {
        self.ring.outstanding()
    }

    #[must_use = "a peer that is not notified may sleep for ever"]
    pub(super) fn publish(&mut self) -> bool {
        self.ring.publish(&self.memory)
    }

    /// As [`FrontRing::arm`].
    pub(super) fn arm(&mut self, after: u32) -> Result<bool, Failure> {
        self.ring.arm(&self.memory, after).map_err(broken)
    }
}

impl<G: Memory> fmt::Display for Tx<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (packets, used, total) = (self.packets.len(), self.used, self.area.count());
        write!(f, "{}, {packets} packets in {used} of {total} pages", self.ring.indices(&self.memory))
    }
}

fn broken(error: BadProducer) -> Failure {
    Failure::new(Errno::EIO, format_args!("{NAME}: {error}"))
}

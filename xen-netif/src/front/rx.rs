//! Frames on their way in: a page for each slot of the ring, which the backend fills, and which is this domain's alone
//! while a frame is read there.

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use xen_hal::{Access, DomId, Errno, Memory, PAGE_SIZE};
use xen_ring::{BadProducer, FrontRing, GrantedPages};
use xenbus::{Device, Failure};

use crate::Buffer;
use crate::area::{Area, Run};
use crate::buffer::Storage;
use crate::protocol::{Extra, Gso, MAX_SLOTS, RxProtocol, RxRequest, RxSlot, rx_flags};

/// Largest frame: an IP packet, the Ethernet header and a tag.
const MAX_BYTES: usize = 65535 + 18;
/// Slots of what is extra that a packet may have.
const MAX_EXTRAS: usize = 4;
/// Packets from this length on keep their pages; to copy less takes little.
const TAKEN_ALONG: usize = 2 * PAGE_SIZE;

/// In failures.
const NAME: &str = "the receive ring";

pub(super) struct Rx<G: Memory> {
    memory: GrantedPages<G::Grant>,
    ring: FrontRing<RxProtocol>,
    area: Rc<Area<G>>,
    /// Of the area's pages, how many may be away with packets.
    spare: usize,
    /// By page: whether the backend has it, or the packet that is there.
    busy: Vec<bool>,
    /// Pages that the backend has, in the order of their slots.
    posted: VecDeque<u16>,
    /// Where in the area the next one to be posted is looked for.
    next: usize,
    packet: Incoming,
    ready: bool,
    /// For packets whose bytes are not side by side.
    linear: Vec<u8>,
}

/// A packet as far as its slots were seen.
#[derive(Default)]
struct Incoming {
    /// The pages of its slots.
    pages: Vec<u16>,
    extras: usize,
    expected: Expected,
    /// The first slot's.
    flags: u16,
    /// How it is to be divided into segments.
    gso: Option<(Gso, u16)>,
    /// Where its bytes are in the area.
    parts: Vec<(usize, usize)>,
    len: usize,
    /// What there is of it is of no use.
    bad: bool,
    more_data: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Expected {
    #[default]
    First,
    Extra,
    Data,
}

/// A packet that is there.
pub(super) struct Frame<'a> {
    pub(super) bytes: &'a mut [u8],
    /// See [`rx_flags`].
    pub(super) flags: u16,
    /// How it is to be divided into segments.
    pub(super) gso: Option<(Gso, u16)>,
    /// All of it was copied, since its bytes were not side by side.
    pub(super) copied: bool,
}

/// A packet that is there, to be kept.
pub(super) struct Taken {
    pub(super) bytes: Buffer,
    /// See [`rx_flags`].
    pub(super) flags: u16,
    /// How it is to be divided into segments.
    pub(super) gso: Option<(Gso, u16)>,
    /// It was copied, since its bytes were not side by side.
    pub(super) copied: bool,
}

impl<G: Memory> Rx<G> {
    /// Grants pages for all slots, for a backend that is to come. Where there is memory for them there are `spare` pages more,
    /// which packets may take along.
    pub(super) fn new(memory: &G, device: &Device, pages: usize, spare: usize) -> Result<Rx<G>, Failure> {
        let ring_memory = device.grant_ring(memory, NAME, 1)?;
        let area = Area::new(memory, pages + spare)
            .or_else(|_| Area::new(memory, pages))
            .map_err(|error| Failure::new(Errno::ENOSPC, format_args!("{NAME}: {error}")))?;
        let peer = device.other_domain();
        let mut rx = Rx {
            ring: FrontRing::new(RxProtocol, &ring_memory),
            memory: ring_memory,
            spare: area.count() - pages,
            busy: vec![false; area.count()],
            posted: VecDeque::with_capacity(pages),
            next: 0,
            area,
            packet: Incoming::default(),
            ready: false,
            linear: Vec::new(),
        };
        for _ in 0..pages {
            rx.post(memory, peer)?;
        }
        // What is there when the backend comes needs no notification.
        let _ = rx.publish();
        Ok(rx)
    }

    pub(super) fn memory(&self) -> &GrantedPages<G::Grant> {
        &self.memory
    }

    /// Gives the backend a page for the next slot: the next in the area, so that packets lie side by side.
    fn post(&mut self, memory: &G, peer: DomId) -> Result<(), Failure> {
        let count = self.area.count();
        let free = (0..count).map(|step| (self.next + step) % count).filter(|index| !self.busy[*index]);
        let grant =
            |index| self.area.page(index, |page| page.grant(memory, peer, Access::ReadWrite)).map(|to| (index, to));
        // No more than the spare pages are away, but for those that a backend has kept.
        let Some((index, granted)) = { free }.find_map(grant) else { return Ok(()) };
        let reference = granted.map_err(|error| Failure::new(Errno::ENOSPC, format_args!("{NAME}: {error}")))?;
        let request = RxRequest { id: index as u16, reference };
        self.ring.push(&self.memory, &request).expect("there are no more pages than slots");
        self.busy[index] = true;
        self.posted.push_back(index as u16);
        self.next = index + 1;
        Ok(())
    }

    /// Whether a packet is there.
    pub(super) fn is_ready(&self) -> bool {
        self.ready
    }

    /// Takes slots until a packet is whole. Whether one is.
    pub(super) fn advance(&mut self, memory: &G, peer: DomId, dropped: &mut u64) -> Result<bool, Failure> {
        while !self.ready {
            let Some(slot) = self.ring.pop(&self.memory).map_err(broken)? else { return Ok(false) };
            let page = self.posted.pop_front().expect("a response for each request, which the ring checks");
            if !self.packet.add(page, slot)? {
                continue;
            }
            if self.packet.bad || self.packet.len == 0 {
                *dropped += 1;
                self.release(memory, peer)?;
            } else {
                self.ready = true;
            }
        }
        Ok(true)
    }

    /// Shows the packet that is there to `use_it`, and gives its pages back to the backend.
    pub(super) fn take<R>(
        &mut self,
        memory: &G,
        peer: DomId,
        use_it: impl FnOnce(Frame<'_>) -> R,
    ) -> (R, Result<(), Failure>) {
        let Incoming { flags, gso, len, .. } = self.packet;
        let outcome = match self.side_by_side() {
            Some((mut run, start)) => {
                use_it(Frame { bytes: &mut run.bytes_mut()[start..start + len], flags, gso, copied: false })
            }
            None => {
                let mut linear = core::mem::take(&mut self.linear);
                linear.resize(len, 0);
                self.copy(&mut linear);
                let outcome = use_it(Frame { bytes: &mut linear, flags, gso, copied: true });
                self.linear = linear;
                outcome
            }
        };
        (outcome, self.release(memory, peer))
    }

    /// Takes the packet that is there. A large one takes its pages along, where there are others for the backend.
    pub(super) fn take_along(&mut self, memory: &G, peer: DomId) -> (Taken, Result<(), Failure>) {
        let Incoming { flags, gso, len, .. } = self.packet;
        let (bytes, copied) = match self.side_by_side() {
            Some((run, start)) if len >= TAKEN_ALONG && self.area.away() <= self.spare => {
                (Buffer::in_pages(run.into(), start, len), false)
            }
            Some((run, start)) => (run.bytes()[start..start + len].to_vec().into(), false),
            None => {
                let mut bytes = vec![0; len];
                self.copy(&mut bytes);
                (bytes.into(), true)
            }
        };
        (Taken { bytes, flags, gso, copied }, self.release(memory, peer))
    }

    /// The packet's pages, where its bytes are side by side in them, and where they begin. Only what the backend cannot change
    /// any more may be looked at in place.
    ///
    /// A large segment has something extra in its second slot, whose page holds nothing: what the first page holds is moved
    /// there, in front of the third.
    fn side_by_side(&mut self) -> Option<(Run<G>, usize)> {
        let first = usize::from(*self.packet.pages.first()?);
        let consecutive = |(index, page): (usize, &u16)| usize::from(*page) == first + index;
        if !self.packet.pages.iter().enumerate().all(consecutive) {
            return None;
        }
        let parts = &self.packet.parts;
        let (start, len) = *parts.first()?;
        let gap =
            parts.get(1).map(|(second, _)| *second).filter(|second| *second == (start / PAGE_SIZE + 2) * PAGE_SIZE);
        let mut next = gap.unwrap_or(start + len);
        for (start, len) in &parts[1..] {
            if *start != next {
                return None;
            }
            next += len;
        }
        let mut run = self.area.take(first..first + self.packet.pages.len())?;
        let start = start - first * PAGE_SIZE;
        let Some(second) = gap else { return Some((run, start)) };
        let place = second - first * PAGE_SIZE - len;
        run.bytes_mut().copy_within(start..start + len, place);
        Some((run, place))
    }

    /// Copies the packet's bytes.
    fn copy(&self, to: &mut [u8]) {
        let mut rest = to;
        for (start, len) in &self.packet.parts {
            let (own, after) = core::mem::take(&mut rest).split_at_mut(*len);
            rest = after;
            let read = self.area.page(start / PAGE_SIZE, |page| page.read(start % PAGE_SIZE, own));
            read.expect("no packet has taken it along");
        }
    }

    /// The packet's slots are the backend's again.
    fn release(&mut self, memory: &G, peer: DomId) -> Result<(), Failure> {
        let Incoming { mut pages, mut parts, .. } = core::mem::take(&mut self.packet);
        for page in &pages {
            self.busy[usize::from(*page)] = false;
        }
        for _ in &pages {
            self.post(memory, peer)?;
        }
        pages.clear();
        parts.clear();
        self.packet = Incoming { pages, parts, ..Incoming::default() };
        self.ready = false;
        Ok(())
    }

    #[must_use = "a peer that is not notified may sleep for ever"]
    pub(super) fn publish(&mut self) -> bool {
        self.ring.publish(&self.memory)
    }

    /// As [`FrontRing::arm`], for the next response.
    pub(super) fn arm(&mut self) -> Result<bool, Failure> {
        self.ring.arm(&self.memory, 1).map_err(broken)
    }
}

impl<G: Memory> fmt::Display for Rx<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {} slots of a packet", self.ring.indices(&self.memory), self.packet.pages.len())
    }
}

impl Incoming {
    /// Takes the next slot, and its page. Whether the packet is whole with it.
    fn add(&mut self, page: u16, slot: RxSlot) -> Result<bool, Failure> {
        self.pages.push(page);
        if self.expected == Expected::Extra {
            self.extras += 1;
            let (extra, more) = slot.extra();
            match extra {
                Extra::Gso { size, protocol } => self.gso = Some((protocol, size)),
                Extra::MulticastAdd(_) | Extra::MulticastRemove(_) | Extra::Hash { .. } => {}
                // An unknown type.
                Extra::Other(_) => self.bad = true,
            }
            if self.extras > MAX_EXTRAS {
                return Err(Failure::new(Errno::EIO, "too many extra-info slots"));
            }
            if !more {
                self.expected = Expected::Data;
            }
            return Ok(!more && !self.more_data);
        }
        let response = slot.response();
        if self.expected == Expected::First {
            self.flags = response.flags;
        }
        let offset = usize::from(response.offset);
        match usize::try_from(response.status) {
            Ok(len) if offset + len <= PAGE_SIZE => {
                if self.parts.len() > MAX_SLOTS {
                    return Err(Failure::new(Errno::EIO, "too many slots"));
                }
                // Nothing may lie behind a page's last byte, which is the next page's first.
                if len > 0 {
                    self.parts.push((usize::from(page) * PAGE_SIZE + offset, len));
                }
                self.len += len;
                self.bad |= self.len > MAX_BYTES;
            }
            Ok(len) => {
                let text = format_args!("{NAME}: response crosses a page boundary, offset: {offset}, size: {len}");
                return Err(Failure::new(Errno::EIO, text));
            }
            Err(_) => self.bad = true,
        }
        self.more_data = response.flags & rx_flags::MORE_DATA != 0;
        let extra = self.expected == Expected::First && response.flags & rx_flags::EXTRA_INFO != 0;
        self.expected = if extra { Expected::Extra } else { Expected::Data };
        // A chain of bad slots has to end as well.
        if self.pages.len() > MAX_SLOTS + MAX_EXTRAS + 1 {
            return Err(Failure::new(Errno::EIO, "too many slots"));
        }
        Ok(!extra && !self.more_data)
    }
}

fn broken(error: BadProducer) -> Failure {
    Failure::new(Errno::EIO, format_args!("{NAME}: {error}"))
}

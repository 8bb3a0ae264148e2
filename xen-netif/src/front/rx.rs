//! Frames on their way in: a page for each slot of the ring, which the backend fills, and which is this domain's alone
//! while a frame is read there.

use alloc::vec::Vec;
use core::fmt;

use xen_hal::{Access, DomId, Errno, Memory, PAGE_SIZE};
use xen_ring::{BadProducer, FrontRing, GrantableRun, GrantedPages};
use xenbus::{Device, Failure};

use crate::protocol::{Extra, Gso, MAX_SLOTS, RxProtocol, RxRequest, RxSlot, rx_flags};

/// Largest frame: an IP packet, the Ethernet header and a tag.
const MAX_BYTES: usize = 65535 + 18;
/// Slots of what is extra that a packet may have.
const MAX_EXTRAS: u32 = 4;

/// In failures.
const NAME: &str = "the receive ring";

pub(super) struct Rx<G: Memory> {
    memory: GrantedPages<G::Grant>,
    ring: FrontRing<RxProtocol>,
    /// Slot `n` of the ring, wherever its index has come to, uses page `n` modulo their number.
    area: GrantableRun<G::Grant>,
    /// How many requests were made, and how many responses were taken and made requests of again.
    posted: u32,
    taken: u32,
    packet: Incoming,
    ready: bool,
    /// For packets whose bytes are not side by side.
    linear: Vec<u8>,
}

/// A packet as far as its slots were seen.
#[derive(Default)]
struct Incoming {
    /// Slots that it takes.
    slots: u32,
    extras: u32,
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

impl<G: Memory> Rx<G> {
    /// Grants all pages, for a backend that is to come.
    pub(super) fn new(memory: &G, device: &Device, pages: usize) -> Result<Rx<G>, Failure> {
        let ring_memory = device.grant_ring(memory, NAME, 1)?;
        let area = GrantableRun::new(memory, pages)
            .map_err(|error| Failure::new(Errno::ENOSPC, format_args!("{NAME}: {error}")))?;
        let peer = device.other_domain();
        let mut rx = Rx {
            ring: FrontRing::new(RxProtocol, &ring_memory),
            memory: ring_memory,
            area,
            posted: 0,
            taken: 0,
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

    /// Gives the backend the page of the next slot.
    fn post(&mut self, memory: &G, peer: DomId) -> Result<(), Failure> {
        let index = self.posted as usize % self.area.count();
        let granted = self.area.page_mut(index).grant(memory, peer, Access::ReadWrite);
        let reference = granted.map_err(|error| Failure::new(Errno::ENOSPC, format_args!("{NAME}: {error}")))?;
        let request = RxRequest { id: index as u16, reference };
        self.ring.push(&self.memory, &request).expect("there are no more pages than slots");
        self.posted = self.posted.wrapping_add(1);
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
            let index = self.taken.wrapping_add(self.packet.slots) as usize % self.area.count();
            if !self.packet.add(index, slot)? {
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
        // Only what the backend cannot change any more may be looked at in place.
        let mut own = true;
        for (start, _) in &self.packet.parts {
            own &= self.area.page_mut(start / PAGE_SIZE).revoke();
        }
        if own {
            self.close_gap();
        }
        let mut next = None;
        let side_by_side = self.packet.parts.iter().all(|(start, len)| {
            let fits = next.is_none_or(|next| next == *start);
            next = Some(start + len);
            fits
        });
        let start = self.packet.parts[0].0;
        let outcome = match own && side_by_side {
            true => {
                let bytes = self.area.bytes_mut(start, len).expect("all of it was taken back");
                use_it(Frame { bytes, flags, gso, copied: false })
            }
            false => {
                self.linear.resize(len, 0);
                let mut at = 0;
                for (start, len) in &self.packet.parts {
                    self.area.read(*start, &mut self.linear[at..at + len]);
                    at += len;
                }
                use_it(Frame { bytes: &mut self.linear, flags, gso, copied: true })
            }
        };
        (outcome, self.release(memory, peer))
    }

    /// A large segment has something extra in its second slot, whose page holds nothing: what the first page holds is
    /// moved there, in front of the third.
    fn close_gap(&mut self) {
        let [(first, len), (second, _), ..] = self.packet.parts[..] else { return };
        let gap = first / PAGE_SIZE + 1;
        if second != (gap + 1) * PAGE_SIZE || !self.area.page_mut(gap).revoke() {
            return;
        }
        let place = second - len;
        let bytes = self.area.bytes_mut(first, second - first).expect("all of it was taken back");
        bytes.copy_within(..len, place - first);
        self.packet.parts[0].0 = place;
    }

    /// The packet's slots are the backend's again.
    fn release(&mut self, memory: &G, peer: DomId) -> Result<(), Failure> {
        self.taken = self.taken.wrapping_add(self.packet.slots);
        for _ in 0..self.packet.slots {
            self.post(memory, peer)?;
        }
        let parts = core::mem::take(&mut self.packet.parts);
        self.packet = Incoming { parts, ..Incoming::default() };
        self.packet.parts.clear();
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
        write!(f, "{}, {} slots of a packet", self.ring.indices(&self.memory), self.packet.slots)
    }
}

impl Incoming {
    /// Takes the next slot, whose page is `index`. Whether the packet is whole with it.
    fn add(&mut self, index: usize, slot: RxSlot) -> Result<bool, Failure> {
        self.slots += 1;
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
                    self.parts.push((index * PAGE_SIZE + offset, len));
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
        if self.slots > MAX_SLOTS as u32 + MAX_EXTRAS + 1 {
            return Err(Failure::new(Errno::EIO, "too many slots"));
        }
        Ok(!extra && !self.more_data)
    }
}

fn broken(error: BadProducer) -> Failure {
    Failure::new(Errno::EIO, format_args!("{NAME}: {error}"))
}

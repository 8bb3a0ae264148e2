//! A guest's rings while it is connected: packets in and out of them, checked and copied.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use xen_hal::{CopyOp, DomId, Errno, GrantRef, GrantTable, Memory, PAGE_SIZE, Remote};
use xen_ring::{BackRing, BadProducer, SharedMapping};
use xenbus::Failure;

use super::chain::{Chain, Fatal};
use super::credit::Credit;
use super::packet::{Checksum, Packet};
use super::pool::Pool;
use super::port::Shared;
use super::queue;
use super::ready::{Guest, Ready};
use crate::Buffer;
use crate::checksum;
use crate::headers::Headers;
use crate::offload::can_segment;
use crate::protocol::{
    Extra, Gso, RxProtocol, RxRequest, RxResponse, TxProtocol, TxResponse, TxStatus, rx_flags, tx_flags,
};

/// Packets that are copied in one call to the hypervisor.
const AT_ONCE: usize = 64;
/// Bytes of pieces that are cut for one such call, but for one more piece.
const CUT_AT_ONCE: usize = 64 << 10;
/// Multicast groups that a guest may join (`XEN_NETBK_MCAST_MAX`).
const MAX_GROUPS: usize = 64;

pub(super) struct Rings<M: Memory> {
    pub(super) peer: DomId,
    pub(super) pool: Rc<Pool<M>>,
    pub(super) tx: BackRing<TxProtocol>,
    pub(super) tx_memory: SharedMapping<M::Mapping>,
    pub(super) rx: BackRing<RxProtocol>,
    pub(super) rx_memory: SharedMapping<M::Mapping>,
    pub(super) guest: Guest,
    /// What is on its way to the guest.
    pub(super) ready: Option<Ready>,
    /// The guest's requests that are used at the moment.
    pub(super) requests: Vec<RxRequest>,
}

/// Why slots cannot be taken.
enum Broken {
    Ring(BadProducer),
    Chain(Fatal),
}

impl From<Fatal> for Broken {
    fn from(fatal: Fatal) -> Self {
        Broken::Chain(fatal)
    }
}

impl From<Broken> for Failure {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Ring(error) => Failure::new(Errno::EIO, format_args!("the transmit ring: {error}")),
            Broken::Chain(error) => {
                Failure::new(Errno::EIO, format_args!("bad packet from the guest: {error} (EINVAL)"))
            }
        }
    }
}

/// The pieces of a copy between a page of the guest's and bytes here: neither may cross a page's end.
fn pieces(start: usize, offset: usize, len: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut at = 0;
    core::iter::from_fn(move || {
        let room = (PAGE_SIZE - (start + at) % PAGE_SIZE).min(PAGE_SIZE - (offset + at) % PAGE_SIZE).min(len - at);
        let piece = (at, room);
        at += room;
        (room > 0).then_some(piece)
    })
}

/// Copies for several packets, whose operations end at `ends`; tells of each packet whether all of it was copied.
fn copy(memory: &impl GrantTable, shared: &Shared, mut operations: Vec<CopyOp<'_>>, ends: Vec<usize>) -> Vec<bool> {
    let called = operations.is_empty() || memory.copy(&mut operations).is_ok();
    if !operations.is_empty() {
        shared.count(|statistics| {
            statistics.grant_copies += 1;
            statistics.copy_operations += operations.len() as u64;
        });
    }
    let mut start = 0;
    let copied = ends.into_iter().map(|end| {
        let own = core::mem::replace(&mut start, end)..end;
        called && operations[own].iter().all(|operation| operation.result().is_ok())
    });
    copied.collect()
}

impl<M: Memory> Rings<M> {
    /// Takes what the guest has sent; whether there was anything.
    pub(super) fn take(
        &mut self,
        memory: &M,
        shared: &Shared,
        credit: &mut Credit,
        now: Duration,
    ) -> Result<bool, Failure> {
        let mut chains = Vec::new();
        let mut held = 0;
        while chains.len() < AT_ONCE && credit.check(now).is_ok() && shared.accepts_more(chains.len(), held) {
            let next = || self.tx.pop(&self.tx_memory).map_err(Broken::Ring);
            let Some(chain) = Chain::take(next)? else { break };
            credit.spend(chain.len);
            held += queue::memory(chain.memory());
            chains.push(chain);
        }
        if chains.is_empty() {
            return Ok(false);
        }
        let wanted = |chain: &Chain| chain.bad.is_none() && chain.multicast.is_none();
        let mut packets: Vec<Buffer> = Vec::with_capacity(chains.len());
        packets.extend(chains.iter().map(|chain| match wanted(chain) {
            true => self.pool.buffer(chain.start(), chain.len),
            false => Buffer::default(),
        }));
        let mut operations = Vec::with_capacity(2 * chains.len());
        let mut ends = Vec::with_capacity(chains.len());
        for (chain, packet) in chains.iter().zip(&mut packets) {
            let mut rest = &mut packet[..];
            for slot in chain.slots.iter().filter(|_| wanted(chain)) {
                let (own, after) = rest.split_at_mut(slot.size.into());
                rest = after;
                let mut own = own;
                let start = own.as_ptr().addr();
                for (at, len) in pieces(start, slot.offset.into(), own.len()) {
                    let (piece, after) = own.split_at_mut(len);
                    own = after;
                    let offset = slot.offset + at as u16;
                    operations.push(CopyOp::read(Remote { peer: self.peer, reference: slot.reference, offset }, piece));
                }
            }
            ends.push(operations.len());
        }
        let copied = copy(memory, shared, operations, ends);
        for ((chain, mut bytes), copied) in chains.into_iter().zip(packets).zip(copied) {
            let status = match chain.multicast {
                Some((group, join)) => change_membership(shared, group, join),
                None if chain.bad.is_some() || !copied => TxStatus::Error,
                None => match checksum_state(&mut bytes, chain.slots[0].flags, chain.gso) {
                    Some(sum) => {
                        shared.deliver(Packet { bytes, checksum: sum, gso: chain.gso });
                        TxStatus::Okay
                    }
                    None => TxStatus::Error,
                },
            };
            if status == TxStatus::Error {
                shared.count(|statistics| statistics.refused += 1);
            }
            for (index, slot) in chain.slots.iter().enumerate() {
                self.tx.push(&self.tx_memory, &TxResponse { id: slot.id, status });
                for _ in 0..if index == 0 { chain.extras } else { 0 } {
                    self.tx.push(&self.tx_memory, &TxResponse { id: slot.id, status: TxStatus::Null });
                }
            }
        }
        shared.application.wake();
        Ok(true)
    }

    /// Gives the guest what waits for it, as far as it has room; whether it has taken anything.
    pub(super) fn give(&mut self, memory: &M, shared: &Shared) -> Result<bool, Failure> {
        let broken = |error: BadProducer| Failure::new(Errno::EIO, format_args!("the receive ring: {error}"));
        // Each with how many of the requests are its own and its predecessors'.
        let mut chosen: Vec<(Packet, usize)> = Vec::new();
        self.requests.clear();
        let mut room = self.rx.waiting(&self.rx_memory).map_err(broken)? as usize;
        let (mut looked_at, mut cut) = (0, 0);
        while chosen.len() < AT_ONCE && looked_at < AT_ONCE && cut < CUT_AT_ONCE {
            let Some(ready) = self.ready.take() else {
                let Some(packet) = shared.next_for_guest() else { break };
                looked_at += 1;
                self.ready = self.guest.adapt(packet);
                if self.ready.is_none() {
                    shared.has_left();
                    shared.count(|statistics| statistics.dropped += 1);
                }
                continue;
            };
            let slots = ready.slots() as usize;
            if slots > room {
                self.ready = Some(ready);
                break;
            }
            room -= slots;
            let whole = matches!(ready, Ready::Whole(_));
            let (packet, rest) = ready.take();
            if !whole {
                cut += packet.bytes.len();
            }
            if rest.is_none() {
                shared.has_left();
            }
            self.ready = rest;
            for _ in 0..slots {
                let request = self.rx.pop(&self.rx_memory).map_err(broken)?;
                self.requests.push(request.expect("the ring keeps what it has counted"));
            }
            chosen.push((packet, self.requests.len()));
        }
        if chosen.is_empty() {
            return Ok(false);
        }
        let mut operations = Vec::with_capacity(self.requests.len() + chosen.len());
        let mut ends = Vec::with_capacity(chosen.len());
        let mut start = 0;
        for (packet, end) in &chosen {
            let requests = &self.requests[core::mem::replace(&mut start, *end)..*end];
            let mut rest = &packet.bytes[..];
            let mut offset = first_offset(packet, requests);
            for page in pages(packet, requests) {
                let (bytes, after) = rest.split_at(rest.len().min(PAGE_SIZE - offset));
                rest = after;
                for (at, len) in pieces(bytes.as_ptr().addr(), offset, bytes.len()) {
                    let remote = Remote { peer: self.peer, reference: page, offset: (offset + at) as u16 };
                    operations.push(CopyOp::write(&bytes[at..at + len], remote));
                }
                offset = 0;
            }
            ends.push(operations.len());
        }
        let copied = copy(memory, shared, operations, ends);
        let mut start = 0;
        for ((packet, end), copied) in chosen.into_iter().zip(copied) {
            let given = copied && !packet.bytes.is_empty();
            respond(
                &mut self.rx,
                &self.rx_memory,
                &packet,
                &self.requests[core::mem::replace(&mut start, end)..end],
                given,
            );
            shared.count(|statistics| match given {
                true => {
                    statistics.to_guest += 1;
                    statistics.to_guest_bytes += packet.bytes.len() as u64;
                }
                false => statistics.dropped += 1,
            });
        }
        Ok(true)
    }

    /// How they stand.
    pub(super) fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tx {}; ", self.tx.indices(&self.tx_memory))?;
        write!(f, "rx {}, {} packets ready", self.rx.indices(&self.rx_memory), u32::from(self.ready.is_some()))
    }

    /// Slots that the next packet for the guest takes.
    pub(super) fn slots_needed(&self) -> u32 {
        self.ready.as_ref().map_or(1, Ready::slots)
    }
}

/// What is known of the checksum of a packet from a guest; `None` where it leaves work to others that cannot be done.
/// Linux drops such packets as well (`skb_checksum_setup`).
fn checksum_state(bytes: &mut [u8], flags: u16, gso: Option<(Gso, u16)>) -> Option<Checksum> {
    let blank = flags & tx_flags::CSUM_BLANK != 0;
    if !blank && gso.is_none() {
        return Some(if flags & tx_flags::DATA_VALIDATED != 0 { Checksum::Valid } else { Checksum::Present });
    }
    let headers = Headers::parse(bytes)?;
    if let Some((protocol, size)) = gso
        && !can_segment(bytes, &headers, protocol, size)
    {
        return None;
    }
    // Segmentation offload implies that the checksum is left blank, whatever the flags say.
    let there = if blank { checksum::is_present(bytes, &headers) } else { checksum::leave_blank(bytes, &headers) };
    there.then_some(Checksum::Blank)
}

/// Responds to the requests that a packet takes: with the packet, or with an error if it was dropped.
fn respond(
    rx: &mut BackRing<RxProtocol>,
    memory: &xen_ring::SharedMemory,
    packet: &Packet,
    requests: &[RxRequest],
    given: bool,
) {
    let mut rest = packet.bytes.len();
    let mut offset = first_offset(packet, requests);
    for (index, request) in requests.iter().enumerate() {
        if let Some((protocol, size)) = packet.gso.filter(|_| index == 1) {
            rx.push(memory, &(Extra::Gso { size, protocol }, false).into());
            continue;
        }
        let own = rest.min(PAGE_SIZE - offset);
        let offset = core::mem::take(&mut offset);
        rest -= own;
        let mut flags = if rest > 0 { rx_flags::MORE_DATA } else { 0 };
        if index == 0 {
            flags |= match packet.checksum {
                Checksum::Present => 0,
                Checksum::Valid => rx_flags::DATA_VALIDATED,
                Checksum::Blank => rx_flags::DATA_VALIDATED | rx_flags::CSUM_BLANK,
            };
            flags |= if packet.gso.is_some() { rx_flags::EXTRA_INFO } else { 0 };
        }
        let status = if given { own as i16 } else { TxStatus::Error.number() };
        rx.push(memory, &RxResponse { id: request.id, offset: offset as u16, flags, status }.into());
    }
}

/// Where in the guest's first page the packet begins: as it does here, where it has slots for that.
fn first_offset(packet: &Packet, requests: &[RxRequest]) -> usize {
    let fits = |offset: &usize| (offset + packet.bytes.len()).div_ceil(PAGE_SIZE) <= pages(packet, requests).count();
    packet.bytes.offset().filter(fits).unwrap_or(0)
}

/// The pages that a packet's bytes go to: all but the second slot, where that is extra info.
fn pages<'a>(packet: &Packet, requests: &'a [RxRequest]) -> impl Iterator<Item = GrantRef> + use<'a> {
    let extra = packet.gso.is_some();
    requests.iter().enumerate().filter(move |(index, _)| !(extra && *index == 1)).map(|(_, request)| request.reference)
}

/// The guest joins or leaves a group.
fn change_membership(shared: &Shared, group: [u8; 6], join: bool) -> TxStatus {
    let mut groups = shared.groups.borrow_mut();
    let Some(groups) = groups.as_mut() else { return TxStatus::Error };
    groups.retain(|known| *known != group);
    if join {
        if groups.len() >= MAX_GROUPS {
            return TxStatus::Error;
        }
        groups.push(group);
    }
    TxStatus::Okay
}

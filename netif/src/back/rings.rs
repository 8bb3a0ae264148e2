//! A guest's rings while it is connected: packets in and out of them, checked and copied.

use alloc::collections::VecDeque;
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use xen_hal::{CopyOp, DomId, Errno, GrantRef, GrantTable, PAGE_SIZE, Remote};
use xen_ring::{BackRing, BadProducer, SharedMapping};
use xenstore_client::xenbus::Failure;

use super::chain::{Chain, Fatal};
use super::port::{Packet, Shared, Sum};
use crate::checksum;
use crate::front::Memory;
use crate::headers::Headers;
use crate::protocol::{
    Extra, Gso, RxProtocol, RxRequest, RxResponse, TxProtocol, TxResponse, TxStatus, rx_flags, tx_flags,
};
use crate::segment::Cut;

/// Packets that are copied in one call to the hypervisor.
const AT_ONCE: usize = 64;
/// Multicast groups that a guest may join (`XEN_NETBK_MCAST_MAX`).
const MOST_GROUPS: usize = 64;

/// What a guest can take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Guest {
    pub(super) gather: bool,
    pub(super) gso_v4: bool,
    pub(super) gso_v6: bool,
    pub(super) blank_v4: bool,
    pub(super) blank_v6: bool,
}

pub(super) struct Rings<M: GrantTable> {
    pub(super) peer: DomId,
    pub(super) tx: BackRing<TxProtocol>,
    pub(super) tx_memory: SharedMapping<M::Mapping>,
    pub(super) rx: BackRing<RxProtocol>,
    pub(super) rx_memory: SharedMapping<M::Mapping>,
    pub(super) guest: Guest,
    /// What is on its way to the guest, in the form that it takes.
    pub(super) ready: VecDeque<Packet>,
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
            Broken::Ring(error) => Failure::new(Errno::EIO, format!("the transmit ring: {error}")),
            Broken::Chain(error) => Failure::new(Errno::EIO, format!("the guest sends {error} (EINVAL)")),
        }
    }
}

/// Bytes that the guest may send, and how many in a time.
pub(super) struct Credit {
    rate: Option<(u64, Duration)>,
    left: u64,
    since: Duration,
}

impl Credit {
    pub(super) fn new(rate: Option<(u64, Duration)>, now: Duration) -> Credit {
        Credit { rate, left: rate.map_or(u64::MAX, |(bytes, _)| bytes), since: now }
    }

    /// Whether the guest may send now; if not, from when on.
    pub(super) fn check(&mut self, now: Duration) -> Result<(), Duration> {
        let Some((bytes, time)) = self.rate else { return Ok(()) };
        if now >= self.since + time {
            (self.left, self.since) = (bytes, now);
        }
        if self.left > 0 { Ok(()) } else { Err(self.since + time) }
    }

    /// A packet may take more than is left: the largest has to get through as well.
    fn spend(&mut self, bytes: usize) {
        if self.rate.is_some() {
            self.left = self.left.saturating_sub(bytes as u64);
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
        let mut bytes = 0;
        while chains.len() < AT_ONCE
            && credit.check(now).is_ok()
            && shared.from_bytes.get() + bytes < shared.limits.from_guest
        {
            let next = || self.tx.pop(&self.tx_memory).map_err(Broken::Ring);
            let Some(chain) = Chain::take(next)? else { break };
            credit.spend(chain.len);
            bytes += chain.len;
            chains.push(chain);
        }
        if chains.is_empty() {
            return Ok(false);
        }
        let wanted = |chain: &Chain| chain.bad.is_none() && chain.multicast.is_none();
        let mut packets: Vec<Vec<u8>> =
            chains.iter().map(|chain| if wanted(chain) { vec![0; chain.len] } else { Vec::new() }).collect();
        let mut operations = Vec::new();
        let mut ends = Vec::new();
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
        let called = operations.is_empty() || memory.copy(&mut operations).is_ok();
        if !operations.is_empty() {
            shared.count(|statistics| statistics.grant_copies += 1);
        }
        let mut start = 0;
        let copied: Vec<bool> = ends
            .into_iter()
            .map(|end| {
                let own = core::mem::replace(&mut start, end)..end;
                called && operations[own].iter().all(|operation| operation.result().is_ok())
            })
            .collect();
        drop(operations);
        for ((chain, mut bytes), copied) in chains.into_iter().zip(packets).zip(copied) {
            let status = match chain.multicast {
                Some((group, join)) => membership(shared, group, join),
                None if chain.bad.is_some() || !copied => TxStatus::Error,
                None => {
                    let flags = chain.slots[0].flags;
                    let sum = match (flags & tx_flags::CSUM_BLANK != 0, flags & tx_flags::DATA_VALIDATED != 0) {
                        (true, _) => Sum::Blank,
                        // Who has it cut leaves the checksum to who cuts it, whatever he says.
                        (false, _) if chain.gso.is_some() => {
                            if let Some(headers) = Headers::parse(&bytes) {
                                checksum::leave_blank(&mut bytes, &headers);
                            }
                            Sum::Blank
                        }
                        (false, true) => Sum::Good,
                        (false, false) => Sum::There,
                    };
                    shared.deliver(Packet { bytes, sum, gso: chain.gso });
                    TxStatus::Okay
                }
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
        shared.wake_application();
        Ok(true)
    }

    /// Gives the guest what waits for it, as far as it has room; whether it has taken anything.
    pub(super) fn give(&mut self, memory: &M, shared: &Shared) -> Result<bool, Failure> {
        let broken = |error: BadProducer| Failure::new(Errno::EIO, format!("the receive ring: {error}"));
        let mut chosen: Vec<(Packet, Vec<RxRequest>)> = Vec::new();
        let mut room = self.rx.waiting(&self.rx_memory).map_err(broken)? as usize;
        while chosen.len() < AT_ONCE {
            if self.ready.is_empty() {
                let next = shared.to_guest.borrow_mut().pop_front();
                let Some(packet) = next else { break };
                shared.has_left(packet.bytes.len());
                self.adapt(packet);
            }
            let Some(packet) = self.ready.front() else { continue };
            let slots = slots(packet) as usize;
            if slots > room {
                break;
            }
            room -= slots;
            let packet = self.ready.pop_front().expect("it was just there");
            let mut requests = Vec::with_capacity(slots);
            for _ in 0..slots {
                requests.push(self.rx.pop(&self.rx_memory).map_err(broken)?.expect("they were counted"));
            }
            chosen.push((packet, requests));
        }
        if chosen.is_empty() {
            return Ok(false);
        }
        let mut operations = Vec::new();
        let mut ends = Vec::new();
        for (packet, requests) in &chosen {
            for (page, bytes) in pages(packet, requests).zip(packet.bytes.chunks(PAGE_SIZE)) {
                for (at, len) in pieces(bytes.as_ptr().addr(), 0, bytes.len()) {
                    let remote = Remote { peer: self.peer, reference: page, offset: at as u16 };
                    operations.push(CopyOp::write(&bytes[at..at + len], remote));
                }
            }
            ends.push(operations.len());
        }
        let called = memory.copy(&mut operations).is_ok();
        shared.count(|statistics| statistics.grant_copies += 1);
        let mut start = 0;
        let copied: Vec<bool> = ends
            .into_iter()
            .map(|end| {
                let own = core::mem::replace(&mut start, end)..end;
                called && operations[own].iter().all(|operation| operation.result().is_ok())
            })
            .collect();
        drop(operations);
        for ((packet, requests), copied) in chosen.into_iter().zip(copied) {
            self.respond(&packet, &requests, copied);
            shared.count(|statistics| match copied {
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
        write!(f, "rx {}, {} packets ready", self.rx.indices(&self.rx_memory), self.ready.len())
    }

    /// Slots that the next packet for the guest takes.
    pub(super) fn needed(&self) -> u32 {
        self.ready.front().map_or(1, slots)
    }

    fn respond(&mut self, packet: &Packet, requests: &[RxRequest], copied: bool) {
        let mut slots = requests.iter();
        let mut chunks = packet.bytes.chunks(PAGE_SIZE).peekable();
        let mut first = true;
        while let Some(chunk) = chunks.next() {
            let request = slots.next().expect("a slot for each page");
            let mut flags = if chunks.peek().is_some() { rx_flags::MORE_DATA } else { 0 };
            if first {
                flags |= match packet.sum {
                    Sum::There => 0,
                    Sum::Good => rx_flags::DATA_VALIDATED,
                    Sum::Blank => rx_flags::DATA_VALIDATED | rx_flags::CSUM_BLANK,
                };
                if packet.gso.is_some() {
                    flags |= rx_flags::EXTRA_INFO;
                }
            }
            let status = if copied { chunk.len() as i16 } else { -1 };
            self.rx.push(&self.rx_memory, &RxResponse { id: request.id, offset: 0, flags, status }.into());
            if first && let Some((protocol, size)) = packet.gso {
                slots.next();
                self.rx.push(&self.rx_memory, &(Extra::Gso { size, protocol }, false).into());
            }
            first = false;
        }
    }

    /// Makes of a packet what the guest takes.
    fn adapt(&mut self, mut packet: Packet) {
        let headers = Headers::parse(&packet.bytes);
        if let (Some((protocol, size)), Some(headers)) = (packet.gso, &headers) {
            let takes = match protocol {
                Gso::TcpV4 => self.guest.gso_v4 && self.guest.blank_v4,
                Gso::TcpV6 => self.guest.gso_v6 && self.guest.blank_v6,
                Gso::Other(_) => false,
            };
            if !(takes && self.guest.gather)
                && let Some(cut) = Cut::segments(&packet.bytes, headers, size)
            {
                for index in 0..cut.count() {
                    let mut bytes = vec![0; cut.len(index)];
                    cut.write(&packet.bytes, index, &mut bytes);
                    self.ready.push_back(Packet { bytes, sum: Sum::Good, gso: None });
                }
                return;
            }
        }
        if packet.sum == Sum::Blank
            && let Some(headers) = &headers
            && !(if headers.v6 { self.guest.blank_v6 } else { self.guest.blank_v4 })
        {
            checksum::complete(&mut packet.bytes, headers);
            packet.sum = Sum::Good;
        }
        // A guest without scatter and gather has one page for each.
        if !packet.bytes.is_empty() && (self.guest.gather || packet.bytes.len() <= PAGE_SIZE) {
            self.ready.push_back(packet);
        }
    }
}

/// Slots that a packet takes.
fn slots(packet: &Packet) -> u32 {
    packet.bytes.len().div_ceil(PAGE_SIZE) as u32 + u32::from(packet.gso.is_some())
}

/// The pages that a packet's bytes go to: all but the second slot, where that is what is extra.
fn pages<'a>(packet: &Packet, requests: &'a [RxRequest]) -> impl Iterator<Item = GrantRef> + use<'a> {
    let extra = packet.gso.is_some();
    requests.iter().enumerate().filter(move |(index, _)| !(extra && *index == 1)).map(|(_, request)| request.reference)
}

/// The guest joins or leaves a group.
fn membership(shared: &Shared, group: [u8; 6], join: bool) -> TxStatus {
    let mut groups = shared.groups.borrow_mut();
    let Some(groups) = groups.as_mut() else { return TxStatus::Error };
    groups.retain(|known| *known != group);
    if join {
        if groups.len() >= MOST_GROUPS {
            return TxStatus::Error;
        }
        groups.push(group);
    }
    TxStatus::Okay
}

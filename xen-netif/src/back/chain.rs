//! A guest's packets, slot by slot: everything is checked before it is used.

use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use xen_hal::PAGE_SIZE;

use crate::buffer::memory_of_pages;
use crate::headers::ETHERNET;
use crate::protocol::{Extra, Gso, MAX_SLOTS, TxRequest, TxSlot, tx_flags};

/// A packet of more slots than [`MAX_SLOTS`] is dropped; one of more than this breaks the device, as in Linux
/// (`fatal_skb_slots`).
const FATAL_SLOTS: usize = 20;
/// Known types of extra info.
const MAX_EXTRAS: usize = 4;

/// A packet's slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    /// Each with its own size, the first as well.
    pub(super) slots: Vec<TxRequest>,
    /// Slots of extra info.
    pub(super) extras: usize,
    pub(super) gso: Option<(Gso, u16)>,
    /// A multicast group, and whether the guest wants its frames.
    pub(super) multicast: Option<([u8; 6], bool)>,
    /// The packet's bytes.
    pub(super) len: usize,
    /// Why it is dropped.
    pub(super) bad: Option<BadPacket>,
}

/// Why a packet is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadPacket {
    Short,
    Slots,
    Size,
    Empty,
}

/// Why a guest's device cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fatal {
    Incomplete,
    Slots,
    Crossing { offset: u16, size: u16 },
    Extra(u8),
    Extras,
    Gso { size: u16, protocol: Gso },
}

impl fmt::Display for Fatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fatal::Incomplete => f.write_str("missing slots"),
            Fatal::Slots => write!(f, "more than {FATAL_SLOTS} slots"),
            Fatal::Crossing { offset, size } => write!(f, "cross page boundary, offset: {offset}, size: {size}"),
            Fatal::Extra(kind) => write!(f, "unknown extra-info type {kind}"),
            Fatal::Extras => f.write_str("too many extra-info slots"),
            Fatal::Gso { size, protocol } => write!(f, "bad GSO, size: {size}, type: {protocol:?}"),
        }
    }
}

impl Chain {
    /// Memory that the packet may take.
    pub(super) fn memory(&self) -> usize {
        match self.len > PAGE_SIZE {
            true => memory_of_pages((self.start() % PAGE_SIZE + self.len).next_multiple_of(PAGE_SIZE)),
            false => self.len,
        }
    }

    /// Where in a page the packet is best copied to: there all its slots are in one page each, if they are side by side in the
    /// guest as well. The first holds headers alone as a rule, and is anywhere.
    pub(super) fn start(&self) -> usize {
        match &self.slots[..] {
            [first, second, ..] => usize::from(second.offset) + PAGE_SIZE - usize::from(first.size) % PAGE_SIZE,
            [first] => first.offset.into(),
            [] => 0,
        }
    }

    /// Takes a packet's slots from `next`; `None` where there is none.
    pub(super) fn take<E: From<Fatal>>(
        mut next: impl FnMut() -> Result<Option<TxSlot>, E>,
    ) -> Result<Option<Chain>, E> {
        let Some(first) = next()? else { return Ok(None) };
        let first = first.request();
        // Most packets have one slot.
        let mut chain =
            Chain { slots: vec![first], extras: 0, gso: None, multicast: None, len: first.size.into(), bad: None };
        let mut more = first.flags & tx_flags::EXTRA_INFO != 0;
        while more {
            let (extra, follows) = next()?.ok_or(Fatal::Incomplete)?.extra();
            more = follows;
            chain.extras += 1;
            if chain.extras > MAX_EXTRAS {
                return Err(Fatal::Extras.into());
            }
            match extra {
                Extra::Gso { size, protocol: protocol @ (Gso::TcpV4 | Gso::TcpV6) } if size > 0 => {
                    chain.gso = Some((protocol, size));
                }
                Extra::Gso { size, protocol } => return Err(Fatal::Gso { size, protocol }.into()),
                Extra::MulticastAdd(group) => chain.multicast = Some((group, true)),
                Extra::MulticastRemove(group) => chain.multicast = Some((group, false)),
                Extra::Hash { .. } => {}
                Extra::Other(kind) => return Err(Fatal::Extra(kind).into()),
            }
        }
        let mut rest = 0;
        let mut last = first.flags;
        while last & tx_flags::MORE_DATA != 0 {
            let slot = next()?.ok_or(Fatal::Incomplete)?.request();
            if chain.slots.len() > FATAL_SLOTS {
                return Err(Fatal::Slots.into());
            }
            if usize::from(slot.offset) + usize::from(slot.size) > PAGE_SIZE {
                return Err(Fatal::Crossing { offset: slot.offset, size: slot.size }.into());
            }
            if slot.size == 0 {
                chain.bad = Some(BadPacket::Empty);
            }
            rest += usize::from(slot.size);
            last = slot.flags;
            chain.slots.push(slot);
        }
        // More after the first than every backend has to take.
        if chain.slots.len() > MAX_SLOTS + 1 {
            chain.bad = Some(BadPacket::Slots);
        }
        if chain.multicast.is_some() {
            return Ok(Some(chain));
        }
        match chain.len.checked_sub(rest) {
            None => chain.bad = Some(BadPacket::Size),
            Some(own) if usize::from(first.offset) + own > PAGE_SIZE => {
                return Err(Fatal::Crossing { offset: first.offset, size: own as u16 }.into());
            }
            Some(own) => chain.slots[0].size = own as u16,
        }
        if chain.len < ETHERNET {
            chain.bad = Some(BadPacket::Short);
        }
        Ok(Some(chain))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::VecDeque;
    use proptest::prelude::*;
    use xen_hal::GrantRef;

    fn slot(offset: u16, size: u16, flags: u16) -> TxSlot {
        TxRequest { reference: GrantRef(9), offset, flags, id: 3, size }.into()
    }

    fn take(slots: &[TxSlot]) -> (Result<Option<Chain>, Fatal>, usize) {
        let mut slots: VecDeque<_> = slots.iter().copied().collect();
        (Chain::take(|| Ok(slots.pop_front())), slots.len())
    }

    const MORE: u16 = tx_flags::MORE_DATA;
    const EXTRA: u16 = tx_flags::EXTRA_INFO;
    const GSO: Extra = Extra::Gso { size: 1448, protocol: Gso::TcpV4 };

    // The ideas of FreeBSD's netback_unit_tests.c, under its names.

    #[test]
    fn ring2pkt_emptyring() {
        assert_eq!(take(&[]), (Ok(None), 0));
    }

    #[test]
    fn ring2pkt_1req() {
        let (found, left) = take(&[slot(0, 100, 0), slot(0, 60, 0)]);
        let chain = found.unwrap().unwrap();
        assert_eq!((chain.slots.len(), chain.len, chain.extras, chain.bad, left), (1, 100, 0, None, 1));
    }

    #[test]
    fn ring2pkt_2req() {
        let chain = take(&[slot(0, 100, MORE), slot(8, 40, 0)]).0.unwrap().unwrap();
        assert_eq!((chain.slots[0].size, chain.slots[1].size, chain.len), (60, 40, 100));
    }

    #[test]
    fn ring2pkt_3req() {
        let chain = take(&[slot(0, 200, MORE), slot(8, 40, MORE), slot(4000, 50, 0)]).0.unwrap().unwrap();
        let sizes: Vec<_> = chain.slots.iter().map(|slot| slot.size).collect();
        assert_eq!((sizes, chain.len), (vec![110, 40, 50], 200));
    }

    #[test]
    fn ring2pkt_extra() {
        let chain = take(&[slot(0, 3000, MORE | EXTRA), (GSO, false).into(), slot(0, 40, 0)]).0.unwrap().unwrap();
        assert_eq!((chain.gso, chain.extras, chain.slots.len()), (Some((Gso::TcpV4, 1448)), 1, 2));
    }

    #[test]
    fn ring2pkt_partial() {
        assert_eq!(take(&[slot(0, 100, MORE)]).0, Err(Fatal::Incomplete));
        assert_eq!(take(&[slot(0, 100, EXTRA)]).0, Err(Fatal::Incomplete));
    }

    #[test]
    fn xsa_39_chains_without_end() {
        let chain = |count: usize| {
            let mut slots = vec![slot(0, 5000, MORE); count];
            slots.iter_mut().skip(1).for_each(|own| *own = slot(0, 100, MORE));
            *slots.last_mut().unwrap() = slot(0, 100, 0);
            slots
        };
        assert_eq!(take(&chain(19)).0.unwrap().unwrap().bad, None);
        assert_eq!(take(&chain(20)).0.unwrap().unwrap().bad, Some(BadPacket::Slots));
        assert_eq!(take(&chain(21)).0.unwrap().unwrap().bad, Some(BadPacket::Slots));
        assert_eq!(take(&chain(22)).0, Err(Fatal::Slots));
        let extras: Vec<_> =
            [slot(0, 100, EXTRA)].into_iter().chain((0..20).map(|_| TxSlot::from((GSO, true)))).collect();
        assert_eq!(take(&extras).0, Err(Fatal::Extras));
    }

    #[test]
    fn what_makes_no_sense() {
        let bad = |slots: &[TxSlot]| take(slots).0.unwrap().unwrap().bad;
        assert_eq!(bad(&[slot(0, 13, 0)]), Some(BadPacket::Short));
        assert_eq!(bad(&[slot(0, 0, 0)]), Some(BadPacket::Short));
        assert_eq!(bad(&[slot(0, 100, MORE), slot(0, 101, 0)]), Some(BadPacket::Size));
        // XSA-448: a fragment of nothing.
        assert_eq!(bad(&[slot(0, 100, MORE), slot(0, 0, 0)]), Some(BadPacket::Empty));
        assert_eq!(take(&[slot(4000, 97, 0)]).0, Err(Fatal::Crossing { offset: 4000, size: 97 }));
        assert_eq!(take(&[slot(0, 200, MORE), slot(4090, 7, 0)]).0, Err(Fatal::Crossing { offset: 4090, size: 7 }));
        for (size, protocol) in [(0, Gso::TcpV4), (1448, Gso::Other(0)), (1448, Gso::Other(7))] {
            let gso = Extra::Gso { size, protocol };
            assert_eq!(take(&[slot(0, 100, EXTRA), (gso, false).into()]).0, Err(Fatal::Gso { size, protocol }));
        }
        assert_eq!(take(&[slot(0, 100, EXTRA), (Extra::Other(9), false).into()]).0, Err(Fatal::Extra(9)));
    }

    proptest! {
        /// Whatever the slots hold, what is to be copied is inside of pages, and adds up.
        #[test]
        fn any_slots(words in prop::collection::vec((0_u16..5000, 0_u16..9000, 0_u16..16, any::<bool>()), 0..40)) {
            let slots: Vec<_> = words
                .iter()
                .map(|(offset, size, flags, extra)| match extra {
                    true => TxSlot::from((Extra::Gso { size: *size, protocol: Gso::TcpV6 }, flags % 2 == 0)),
                    false => slot(*offset, *size, *flags),
                })
                .collect();
            if let Ok(Some(chain)) = take(&slots).0
                && chain.bad.is_none() && chain.multicast.is_none()
            {
                let sum: usize = chain.slots.iter().map(|slot| usize::from(slot.size)).sum();
                prop_assert_eq!(sum, chain.len);
                for slot in &chain.slots {
                    prop_assert!(usize::from(slot.offset) + usize::from(slot.size) <= PAGE_SIZE);
                }
                prop_assert!(chain.len >= ETHERNET && chain.slots.len() <= MAX_SLOTS + 1);
            }
        }
    }
}

//! Fragments: only the first has ports, and the others follow it. Those that come before it wait for a moment. Nothing is put
//! together. Where there is no room, the interface with the most makes some.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::net::IpAddr;
use core::time::Duration;

use hashbrown::HashMap;
use siphasher::sip::SipHasher13;
use xen_netif::back::Packet;

use crate::InterfaceId;
use crate::flows::Tuple;

/// Packets whose fragments are on their way.
const MAX_KNOWN: usize = 1024;
/// How long the rest of a packet is waited for (RFC 8200, section 4.5, has 60 s; Linux 30 s for IPv4).
const LIFETIME: Duration = Duration::from_secs(30);
/// Fragments that came before their first, in bytes, and how long they wait for it.
const MAX_HELD_BYTES: usize = 64 << 10;
const MAX_HELD: usize = 64;
const PATIENCE: Duration = Duration::from_secs(1);

/// Which packet a fragment is a part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Whole {
    pub(crate) from: InterfaceId,
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) protocol: u8,
    pub(crate) id: u32,
}

struct Held {
    whole: Whole,
    packet: Packet,
    until: Duration,
}

#[derive(Default)]
pub(crate) struct Fragments {
    known: HashMap<Whole, Tuple, core::hash::BuildHasherDefault<SipHasher13>>,
    oldest: VecDeque<(Duration, Whole)>,
    held: VecDeque<Held>,
    held_bytes: usize,
    /// Fragments whose first did not come, or for which there was no room.
    pub(crate) dropped: u64,
}

impl Fragments {
    /// What the packet's first fragment was like.
    pub(crate) fn find(&self, whole: &Whole) -> Option<Tuple> {
        self.known.get(whole).copied()
    }

    /// The first fragment of a packet has passed: returns those that have waited for it.
    pub(crate) fn first(&mut self, whole: Whole, tuple: Tuple, now: Duration) -> Vec<Packet> {
        if self.known.insert(whole, tuple).is_none() {
            self.oldest.push_back((now + LIFETIME, whole));
            if self.oldest.len() > MAX_KNOWN {
                self.forget_one();
            }
        }
        let mut released = Vec::new();
        let mut rest = VecDeque::new();
        for held in core::mem::take(&mut self.held) {
            if held.whole == whole {
                self.held_bytes -= held.packet.bytes.len();
                released.push(held.packet);
            } else {
                rest.push_back(held);
            }
        }
        self.held = rest;
        released
    }

    fn forget_one(&mut self) {
        let greediest = shares(self.oldest.iter().map(|(_, whole)| (whole.from, 1))).max();
        let is_its = |(_, whole): &(Duration, Whole)| greediest.is_some_and(|(_, from)| whole.from == from);
        if let Some((_, oldest)) = self.oldest.iter().position(is_its).and_then(|index| self.oldest.remove(index)) {
            self.known.remove(&oldest);
        }
    }

    /// Keeps a fragment that came before the first.
    pub(crate) fn hold(&mut self, whole: Whole, packet: Packet, now: Duration) {
        let len = packet.bytes.len();
        while self.held.len() >= MAX_HELD || self.held_bytes + len > MAX_HELD_BYTES {
            self.dropped += 1;
            if !self.drop_held_of_another(whole.from) {
                return;
            }
        }
        self.held_bytes += len;
        self.held.push_back(Held { whole, packet, until: now + PATIENCE });
    }

    /// Drops the oldest of the interface that has the most, unless it is this one.
    fn drop_held_of_another(&mut self, wants: InterfaceId) -> bool {
        let all = self.held.iter().map(|held| (held.whole.from, held.packet.bytes.len() + MAX_HELD_BYTES / MAX_HELD));
        let own = shares(all.clone()).find_map(|(share, from)| (from == wants).then_some(share));
        let Some((_, greediest)) = shares(all).max().filter(|(share, _)| own.is_none_or(|own| *share > own)) else {
            return false;
        };
        let index = self.held.iter().position(|held| held.whole.from == greediest);
        let Some(held) = index.and_then(|index| self.held.remove(index)) else { return false };
        self.held_bytes -= held.packet.bytes.len();
        true
    }

    pub(crate) fn expire(&mut self, now: Duration) {
        while let Some(held) = self.held.front()
            && held.until <= now
        {
            self.held_bytes -= held.packet.bytes.len();
            self.held.pop_front();
            self.dropped += 1;
        }
        while let Some((until, whole)) = self.oldest.front()
            && *until <= now
        {
            self.known.remove(whole);
            self.oldest.pop_front();
        }
    }

    pub(crate) fn next(&self) -> Option<Duration> {
        let held = self.held.front().map(|held| held.until);
        held.into_iter().chain(self.oldest.front().map(|(until, _)| *until)).min()
    }
}

/// How much each interface has.
fn shares(all: impl Iterator<Item = (InterfaceId, usize)>) -> impl Iterator<Item = (usize, InterfaceId)> {
    let mut shares = BTreeMap::<InterfaceId, usize>::new();
    for (from, share) in all {
        *shares.entry(from).or_default() += share;
    }
    shares.into_iter().map(|(from, share)| (share, from))
}

//! The table of flows: found by what arrives, in a time that does not depend on how many there are; forgotten when they are
//! quiet; bounded, and shared out among those that begin them.

use alloc::vec::Vec;
use core::hash::{Hash, Hasher};
use core::net::IpAddr;
use core::time::Duration;

use hashbrown::{HashMap, HashTable};
use siphasher::sip::SipHasher13;
use slab::Slab;

use crate::InterfaceId;
use crate::nat::Mappings;
use crate::rewrite::Endpoints;
use crate::tcp::{Tcp, TcpState};

/// A flow's packets in one direction, as they arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// IP's number of the protocol.
    pub protocol: u8,
    /// Addresses and ports.
    pub endpoints: Endpoints,
}

impl Tuple {
    /// What answers to such packets are like.
    pub fn inverse(&self) -> Tuple {
        let Endpoints { source, destination, source_port, destination_port } = self.endpoints;
        Tuple {
            protocol: self.protocol,
            endpoints: Endpoints {
                source: destination,
                destination: source,
                source_port: destination_port,
                destination_port: source_port,
            },
        }
    }
}

/// Which way a flow's packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// As its first packet.
    Original = 0,
    /// As the answers to that.
    Reply = 1,
}

impl Direction {
    /// The other way.
    pub fn other(self) -> Direction {
        match self {
            Direction::Original => Direction::Reply,
            Direction::Reply => Direction::Original,
        }
    }
}

/// For how long a flow without packets is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// RFC 5382, REQ-5: transitory connections, at least 4 minutes.
    TcpOpening,
    /// At least 2 hours and 4 minutes.
    TcpEstablished,
    /// At least 4 minutes.
    TcpClosing,
    /// Nobody sends any more.
    TcpReset,
    /// Nobody has answered. RFC 4787, REQ-5: at least 2 minutes.
    UdpNew,
    /// Somebody has. RFC 4787, REQ-5: 5 minutes or more are recommended.
    Udp,
    /// A question to a name server, which has one answer: well-known ports may have less (RFC 4787, REQ-5 a).
    UdpShort,
    /// RFC 5508, REQ-1: at least 60 s.
    Icmp,
    /// Another protocol, without an answer and with one: as Linux has it.
    Other,
}

const CLASSES: usize = 9;

impl Class {
    /// The time.
    pub const fn timeout(self) -> Duration {
        Duration::from_secs(match self {
            Class::TcpOpening | Class::TcpClosing => 240,
            Class::TcpEstablished => 7440,
            Class::TcpReset => 10,
            Class::UdpNew => 120,
            Class::Udp => 300,
            Class::UdpShort => 30,
            Class::Icmp => 60,
            Class::Other => 600,
        })
    }
}

/// What is known of a flow's protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp(Tcp),
    /// UDP, ICMP or another.
    Other,
}

impl Protocol {
    /// How far a connection of TCP is.
    pub fn state(&self) -> Option<TcpState> {
        match self {
            Protocol::Tcp(tcp) => Some(tcp.state),
            Protocol::Other => None,
        }
    }
}

/// A flow.
#[derive(Clone, Debug)]
pub struct Flow {
    /// What its packets are like when they arrive, by [`Direction`]. They leave as the inverse of the other.
    pub tuples: [Tuple; 2],
    /// Where its packets arrive, by [`Direction`]. They leave where the other's arrive.
    pub interfaces: [InterfaceId; 2],
    /// Its protocol's state.
    pub protocol: Protocol,
    /// Whether there was an answer.
    pub is_answered: bool,
    /// Which rule let it through.
    pub rule: Option<u32>,
    /// By [`Direction`].
    pub packets: [u64; 2],
    /// By [`Direction`].
    pub bytes: [u64; 2],
    class: Class,
    expires: Duration,
    /// Among those of its class, by when they expire.
    timer: Links,
    /// Among those of its owner, by age.
    owner: Links,
}

#[derive(Clone, Copy, Debug)]
struct Links {
    previous: u32,
    next: u32,
}

const NONE: u32 = u32::MAX;
const UNLINKED: Links = Links { previous: NONE, next: NONE };

#[derive(Clone, Copy, Debug)]
struct List {
    first: u32,
    last: u32,
}

impl Default for List {
    fn default() -> List {
        List { first: NONE, last: NONE }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Owner {
    flows: List,
    count: usize,
}

/// Why a flow does not begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// The table is full, and no one else has more of it than who wants this one.
    Table,
    /// Its owner has as many as are allowed.
    Owner,
}

/// A flow's number.
pub type FlowId = u32;

/// All flows.
pub struct Flows {
    keys: (u64, u64),
    /// Of each flow both directions, as twice its number and the direction.
    index: HashTable<u32>,
    flows: Slab<Flow>,
    timers: [List; CLASSES],
    owners: HashMap<InterfaceId, Owner, core::hash::BuildHasherDefault<SipHasher13>>,
    capacity: usize,
    per_owner: usize,
    pub(crate) mappings: Mappings,
    /// Flows that were forgotten to make room.
    pub evicted: u64,
}

/// How many flows of an owner are looked at for one that nobody has answered.
const MAX_LOOKED_AT: usize = 32;

impl Flows {
    /// An empty table for so many flows. The keys have to be ones that nobody knows: whoever does can make it slow.
    pub fn new(capacity: usize, keys: (u64, u64)) -> Flows {
        Flows {
            keys,
            index: HashTable::new(),
            flows: Slab::new(),
            timers: [List::default(); CLASSES],
            owners: HashMap::default(),
            capacity,
            per_owner: usize::MAX,
            mappings: Mappings::default(),
            evicted: 0,
        }
    }

    /// Bytes that a flow takes, about: with its places in the index.
    pub const BYTES: usize = size_of::<Flow>() + 8 + 2 * 2 * 5;

    /// How many there may be of one owner.
    pub fn set_limit(&mut self, per_owner: usize) {
        self.per_owner = per_owner;
    }

    /// How many there may be.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// How many an interface's packets have begun.
    pub fn count_of(&self, owner: InterfaceId) -> usize {
        self.owners.get(&owner).map_or(0, |owner| owner.count)
    }

    #[inline]
    fn hash(keys: (u64, u64), tuple: &Tuple) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(keys.0, keys.1);
        let Endpoints { source, destination, source_port, destination_port } = tuple.endpoints;
        let ports = u64::from(source_port) << 24 | u64::from(destination_port) << 8 | u64::from(tuple.protocol);
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                hasher.write_u64(u64::from(source.to_bits()) << 32 | u64::from(destination.to_bits()));
            }
            (source, destination) => (source, destination).hash(&mut hasher),
        }
        hasher.write_u64(ports);
        hasher.finish()
    }

    /// The flow whose packets arrive so, and which way they go.
    #[inline]
    pub fn find(&self, tuple: &Tuple) -> Option<(FlowId, Direction)> {
        let flows = &self.flows;
        let found = self.index.find(Flows::hash(self.keys, tuple), |&entry| {
            flows[(entry >> 1) as usize].tuples[(entry & 1) as usize] == *tuple
        })?;
        Some((found >> 1, if found & 1 == 0 { Direction::Original } else { Direction::Reply }))
    }

    /// A flow.
    pub fn get(&self, id: FlowId) -> Option<&Flow> {
        self.flows.get(id as usize)
    }

    /// A flow, to be changed: but for its tuples.
    pub(crate) fn get_mut(&mut self, id: FlowId) -> Option<&mut Flow> {
        self.flows.get_mut(id as usize)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (FlowId, &Flow)> {
        self.flows.iter().map(|(id, flow)| (id as u32, flow))
    }

    /// Adds a flow. Where there is no room, one of who has the most makes it: the oldest of those without an answer, or
    /// the oldest; unless that is who wants this one.
    ///
    /// # Errors
    ///
    /// If there is no room for it.
    pub(crate) fn insert(
        &mut self,
        tuples: [Tuple; 2],
        interfaces: [InterfaceId; 2],
        protocol: Protocol,
        class: Class,
        now: Duration,
    ) -> Result<FlowId, Full> {
        let owner = interfaces[0];
        let own = self.count_of(owner);
        if own >= self.per_owner {
            return Err(Full::Owner);
        }
        if self.flows.len() >= self.capacity {
            self.make_room(owner, own)?;
        }
        let flow = Flow {
            tuples,
            interfaces,
            protocol,
            is_answered: false,
            rule: None,
            packets: [0; 2],
            bytes: [0; 2],
            class,
            expires: now + class.timeout(),
            timer: UNLINKED,
            owner: UNLINKED,
        };
        let id = self.flows.insert(flow) as u32;
        let (keys, flows) = (self.keys, &self.flows);
        for direction in 0..2 {
            let hash = Flows::hash(keys, &tuples[direction as usize]);
            self.index.insert_unique(hash, id << 1 | direction, |&entry| {
                Flows::hash(keys, &flows[(entry >> 1) as usize].tuples[(entry & 1) as usize])
            });
        }
        push(&mut self.timers[class as usize], &mut self.flows, id, |flow| &mut flow.timer);
        self.mappings.add(&tuples);
        let owner = self.owners.entry(owner).or_default();
        owner.count += 1;
        push(&mut owner.flows, &mut self.flows, id, |flow| &mut flow.owner);
        Ok(id)
    }

    fn make_room(&mut self, wants: InterfaceId, own: usize) -> Result<(), Full> {
        let greediest = self.owners.iter().max_by_key(|(_, owner)| owner.count);
        let Some((_, owner)) = greediest.filter(|(id, owner)| **id != wants && owner.count > own) else {
            return Err(Full::Table);
        };
        let first = owner.flows.first;
        let mut id = first;
        for _ in 0..MAX_LOOKED_AT {
            let Some(flow) = self.flows.get(id as usize) else { break };
            if !flow.is_answered {
                break;
            }
            id = flow.owner.next;
        }
        let id = if self.flows.contains(id as usize) { id } else { first };
        self.remove(id);
        self.evicted += 1;
        Ok(())
    }

    /// A packet of the flow has passed: it is remembered for longer.
    #[inline]
    pub(crate) fn touch(&mut self, id: FlowId, class: Class, now: Duration) {
        let Some(flow) = self.flows.get_mut(id as usize) else { return };
        let before = core::mem::replace(&mut flow.class, class);
        flow.expires = now + class.timeout();
        unlink(&mut self.timers[before as usize], &mut self.flows, id, |flow| &mut flow.timer);
        push(&mut self.timers[class as usize], &mut self.flows, id, |flow| &mut flow.timer);
    }

    /// Forgets a flow.
    pub(crate) fn remove(&mut self, id: FlowId) -> Option<Flow> {
        let flow = self.flows.get(id as usize)?;
        let (tuples, class, owner) = (flow.tuples, flow.class, flow.interfaces[0]);
        for direction in 0..2 {
            let hash = Flows::hash(self.keys, &tuples[direction as usize]);
            if let Ok(entry) = self.index.find_entry(hash, |&entry| entry == id << 1 | direction) {
                entry.remove();
            }
        }
        unlink(&mut self.timers[class as usize], &mut self.flows, id, |flow| &mut flow.timer);
        if let Some(known) = self.owners.get_mut(&owner) {
            unlink(&mut known.flows, &mut self.flows, id, |flow| &mut flow.owner);
            known.count -= 1;
            if known.count == 0 {
                self.owners.remove(&owner);
            }
        }
        let flow = self.flows.try_remove(id as usize)?;
        self.mappings.remove(&flow);
        Some(flow)
    }

    /// Forgets those whose time is over, at most `max` at once. Whether there may be more.
    pub(crate) fn expire(&mut self, now: Duration, max: usize) -> bool {
        let mut left = max;
        for class in 0..CLASSES {
            while let Some(flow) = self.flows.get(self.timers[class].first as usize)
                && flow.expires <= now
            {
                if left == 0 {
                    return true;
                }
                left -= 1;
                self.remove(self.timers[class].first);
            }
        }
        false
    }

    /// When the next is forgotten.
    pub fn next(&self) -> Option<Duration> {
        self.timers.iter().filter_map(|list| Some(self.flows.get(list.first as usize)?.expires)).min()
    }

    /// Forgets those that are not to be kept.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&Flow) -> bool) -> usize {
        let gone: Vec<u32> = self.iter().filter(|(_, flow)| !keep(flow)).map(|(id, _)| id).collect();
        for id in &gone {
            self.remove(*id);
        }
        gone.len()
    }
}

#[inline]
fn push(list: &mut List, flows: &mut Slab<Flow>, id: u32, links: impl Fn(&mut Flow) -> &mut Links) {
    let last = core::mem::replace(&mut list.last, id);
    match flows.get_mut(last as usize) {
        Some(flow) => links(flow).next = id,
        None => list.first = id,
    }
    *links(&mut flows[id as usize]) = Links { previous: last, next: NONE };
}

#[inline]
fn unlink(list: &mut List, flows: &mut Slab<Flow>, id: u32, links: impl Fn(&mut Flow) -> &mut Links) {
    let Links { previous, next } = *links(&mut flows[id as usize]);
    match flows.get_mut(previous as usize) {
        Some(flow) => links(flow).next = next,
        None => list.first = next,
    }
    match flows.get_mut(next as usize) {
        Some(flow) => links(flow).previous = previous,
        None => list.last = previous,
    }
}

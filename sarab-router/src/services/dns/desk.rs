//! Who asks for what: answers that are known are given at once, and each other question is asked of the servers once, however
//! many wait for it. Nothing here does input or output, or reads a clock.

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::net::IpAddr;
use core::time::Duration;

use super::cache::Cache;
use super::message::{
    ANY, AXFR, Body, FORMERR, IN, IXFR, Key, NOERROR, NOTIMP, Parsed, Query, REFUSED, SERVFAIL, Transport,
};
use super::names::Names;
use super::{Config, Counters};

/// How long it is remembered that no server gives an answer (RFC 9520, section 3.2).
const FAILURE_SECONDS: u32 = 5;

/// What comes of a client's message.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked {
    /// This is the answer.
    Reply(Vec<u8>),
    /// The servers are to be asked this, and [`Desk::finish`] to be called with what they say.
    Start(Rc<Key>),
    /// The servers are asked already.
    Wait,
    /// Nothing is to be done: the message is no question, or the client waits for its answer already.
    Nothing,
}

/// What the servers say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Records, which hold for so many seconds.
    Found(Body, u32),
    /// None has an answer: the last response code.
    Failed(u16),
}

struct Asker<P> {
    client: IpAddr,
    transport: Transport,
    query: Query,
    path: P,
}

/// The questions that clients wait for, and what is known. `P` is the way back to a client.
pub struct Desk<P> {
    pub(super) config: Config,
    pub(super) names: Names,
    pub(super) counters: Counters,
    cache: Cache,
    lookups: BTreeMap<Rc<Key>, Vec<Asker<P>>>,
    /// How many questions of each client wait.
    clients: BTreeMap<IpAddr, usize>,
    waiting: usize,
}

impl<P: PartialEq> Desk<P> {
    /// One with random numbers of its own for its tables.
    pub fn new(config: Config, names: Names, secret: (u64, u64)) -> Desk<P> {
        Desk {
            cache: Cache::new(config.cache_bytes, secret),
            config,
            names,
            counters: Counters::default(),
            lookups: BTreeMap::new(),
            clients: BTreeMap::new(),
            waiting: 0,
        }
    }

    /// Takes a client's message.
    pub fn ask(&mut self, message: &[u8], client: IpAddr, transport: Transport, path: P, now: Duration) -> Asked {
        match transport {
            Transport::Udp => self.counters.udp_queries += 1,
            Transport::Tcp => self.counters.tcp_queries += 1,
        }
        let query = match Query::parse(message) {
            Parsed::Query(query) => query,
            Parsed::Reply(reply, rcode) => {
                self.counters.malformed += u64::from(rcode == FORMERR);
                self.counters.refused += u64::from(rcode == NOTIMP);
                return Asked::Reply(reply);
            }
            Parsed::Nothing => {
                self.counters.malformed += 1;
                return Asked::Nothing;
            }
        };
        if let Some(reply) = self.known(&query, transport, now) {
            return Asked::Reply(reply);
        }
        self.queue(Asker { client, transport, query, path })
    }

    /// What can be said without a server.
    fn known(&mut self, query: &Query, transport: Transport, now: Duration) -> Option<Vec<u8>> {
        // Zones are not transferred, and types from 128 on are no types of records but for what DNS itself does.
        let is_refused = query.class() != IN || matches!(query.rtype(), AXFR | IXFR | 41 | 128..=250 | 253 | 254 | 0);
        if is_refused {
            self.counters.refused += 1;
            return Some(query.error(REFUSED));
        }
        if query.rtype() == ANY {
            self.counters.local += 1;
            return Some(query.answer(&any(), 0, transport));
        }
        if let Some(body) = self.names.answer(query) {
            self.counters.local += 1;
            return Some(self.write(query, &body, 0, transport));
        }
        if let Some((body, age)) = self.cache.get(&query.key, now) {
            self.counters.cached += 1;
            return Some(self.write(query, &body, age, transport));
        }
        if !query.wants_recursion() {
            self.counters.refused += 1;
            return Some(query.error(REFUSED));
        }
        None
    }

    fn write(&mut self, query: &Query, body: &Body, age: u32, transport: Transport) -> Vec<u8> {
        let reply = query.answer(body, age, transport);
        self.counters.truncated += u64::from(reply.get(2).is_some_and(|flags| flags & 2 != 0));
        reply
    }

    /// Has a question wait.
    fn queue(&mut self, asker: Asker<P>) -> Asked {
        let running = self.lookups.get(&asker.query.key);
        let is_known = |other: &Asker<P>| {
            (other.client, other.query.id) == (asker.client, asker.query.id) && other.path == asker.path
        };
        if running.is_some_and(|askers| askers.iter().any(is_known)) {
            return Asked::Nothing;
        }
        let own = self.clients.get(&asker.client).copied().unwrap_or(0);
        let is_full = running.is_none() && self.lookups.len() >= self.config.max_lookups;
        if is_full || own >= self.config.max_per_client || self.waiting >= self.config.max_waiting {
            self.counters.limited += 1;
            return Asked::Reply(asker.query.error(SERVFAIL));
        }
        *self.clients.entry(asker.client).or_insert(0) += 1;
        self.waiting += 1;
        if let Some(askers) = self.lookups.get_mut(&asker.query.key) {
            self.counters.shared += 1;
            askers.push(asker);
            return Asked::Wait;
        }
        self.counters.lookups += 1;
        let key = Rc::new(asker.query.key.clone());
        self.lookups.insert(key.clone(), Vec::from([asker]));
        Asked::Start(key)
    }

    /// The answers to all who wait for a question.
    pub fn finish(&mut self, key: &Rc<Key>, outcome: Outcome, now: Duration) -> Vec<(P, Vec<u8>)> {
        let (body, seconds) = match outcome {
            Outcome::Found(body, seconds) => (body, seconds),
            Outcome::Failed(rcode) => {
                self.counters.failed += 1;
                let rcode = if rcode == NOERROR { SERVFAIL } else { rcode & 15 };
                (
                    Body { rcode, is_authoritative: false, counts: [0; 3], records: [].into(), ttls: [].into() },
                    FAILURE_SECONDS,
                )
            }
        };
        let body = Rc::new(body);
        self.cache.put(key, body.clone(), seconds, now);
        let askers = self.lookups.remove(key).unwrap_or_default();
        askers
            .into_iter()
            .map(|asker| {
                self.forget(asker.client);
                let reply = self.write(&asker.query, &body, 0, asker.transport);
                (asker.path, reply)
            })
            .collect()
    }

    fn forget(&mut self, client: IpAddr) {
        self.waiting -= 1;
        if let Some(count) = self.clients.get_mut(&client) {
            *count -= 1;
            if *count == 0 {
                self.clients.remove(&client);
            }
        }
    }

    /// Forgets who waits.
    pub fn abandon(&mut self) {
        self.lookups.clear();
        self.clients.clear();
        self.waiting = 0;
    }

    /// Forgets what servers have said.
    pub fn clear_cache(&mut self) {
        self.cache.clear();
    }

    /// How many questions wait, and of how many lookups.
    pub fn waiting(&self) -> (usize, usize) {
        (self.waiting, self.lookups.len())
    }

    pub(super) fn counters(&self) -> Counters {
        let (entries, bytes) = self.cache.usage();
        Counters { cache_entries: entries as u64, cache_bytes: bytes as u64, ..self.counters }
    }
}

/// The answer to a question for all types (RFC 8482, section 4.2): a record HINFO that says why there is no more.
fn any() -> Body {
    // The name is a pointer to the question's.
    let records = [&[0xc0, 12, 0, 13, 0, 1, 0, 0, 0x0e, 0xcd, 0, 9, 7][..], b"RFC8482", &[0]].concat();
    Body { rcode: NOERROR, is_authoritative: false, counts: [1, 0, 0], records: records.into(), ttls: [6].into() }
}

//! What each client may have, by its address: connections at once, and requests in a second.

use alloc::vec::Vec;
use core::cell::RefCell;
use core::net::IpAddr;
use core::time::Duration;

/// Addresses that are remembered. Those with a connection are, and there are fewer connections.
const MAX_CLIENTS: usize = 1024;

/// A client: an address of IPv4, or the first 64 bits of one of IPv6, of which one client may have all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    V4([u8; 4]),
    V6([u8; 8]),
}

impl Key {
    fn new(address: IpAddr) -> Key {
        match address.to_canonical() {
            IpAddr::V4(address) => Key::V4(address.octets()),
            IpAddr::V6(address) => Key::V6(*address.octets().first_chunk().expect("an address has 16 bytes")),
        }
    }
}

/// What a client has.
struct Client {
    key: Key,
    connections: usize,
    /// Requests that it may make, in thousandths, at `since`.
    requests: u64,
    since: Duration,
}

/// All clients.
pub struct Clients {
    /// In no order: all are looked at for each request.
    known: RefCell<Vec<Client>>,
    /// 0 stands for no limit.
    connections: usize,
    rate: u64,
}

impl Clients {
    /// With so many connections for each, and so many requests in a second, of which those of two seconds may come at
    /// once; 0 for as many as there are.
    pub fn new(connections: usize, rate: u32) -> Clients {
        Clients { known: RefCell::default(), connections, rate: u64::from(rate) * 1000 }
    }

    /// Addresses that are remembered.
    pub fn known(&self) -> usize {
        self.known.borrow().len()
    }

    /// Does something with a client that has a connection.
    fn with<T>(&self, key: Key, act: impl FnOnce(&mut Client) -> T) -> Option<T> {
        self.known.borrow_mut().iter_mut().find(|client| client.key == key).map(act)
    }

    /// A connection of a client; nothing where it has as many as it may have, or makes them faster than requests.
    pub fn enter(&self, address: IpAddr, now: Duration) -> Option<Visit<'_>> {
        let key = Key::new(address);
        if self.connections == 0 && self.rate == 0 {
            return Some(Visit { clients: self, key: None });
        }
        let mut known = self.known.borrow_mut();
        let place = match known.iter().position(|client| client.key == key) {
            Some(place) => place,
            None => {
                if known.len() >= MAX_CLIENTS {
                    // Who was gone the longest is as good as new.
                    let gone = known.iter().enumerate().filter(|(_, client)| client.connections == 0);
                    let oldest = gone.min_by_key(|(_, client)| client.since)?.0;
                    known.swap_remove(oldest);
                }
                known.push(Client { key, connections: 0, requests: self.rate * 2, since: now });
                known.len() - 1
            }
        };
        let client = &mut known[place];
        if self.connections > 0 && client.connections >= self.connections || !client.may_begin(self.rate, now) {
            return None;
        }
        client.connections += 1;
        Some(Visit { clients: self, key: Some(key) })
    }
}

impl Client {
    /// What it may do by now.
    fn refill(&mut self, rate: u64, now: Duration) {
        let passed = now.saturating_sub(self.since).as_millis().min(10_000) as u64;
        if passed > 0 {
            self.requests = (self.requests + passed * rate / 1000).min(rate * 2);
            self.since = now;
        }
    }

    /// Whether a connection of its own could have a request answered.
    fn may_begin(&mut self, rate: u64, now: Duration) -> bool {
        self.refill(rate, now);
        rate == 0 || self.requests >= 1000
    }

    fn take(&mut self, rate: u64, now: Duration) -> bool {
        let may = self.may_begin(rate, now);
        if may && rate > 0 {
            self.requests -= 1000;
        }
        may
    }
}

/// A client's connection, until this is dropped.
pub struct Visit<'a> {
    clients: &'a Clients,
    key: Option<Key>,
}

impl Visit<'_> {
    /// Whether another request may be answered.
    pub fn request(&self, now: Duration) -> bool {
        let Some(key) = self.key else { return true };
        self.clients.with(key, |client| client.take(self.clients.rate, now)).unwrap_or(true)
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.clients.with(key, |client| client.connections -= 1);
        }
    }
}

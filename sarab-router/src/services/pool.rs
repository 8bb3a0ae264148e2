//! Which client has which address: those that were fixed, and for the others one that follows from the MAC, so that a client
//! has the same one after a restart of the gate too.

use alloc::collections::{BTreeMap, VecDeque};
use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use siphasher::sip::SipHasher13;
use smoltcp::wire::{Ipv4Cidr, Ipv6Cidr};

use super::{Mac, frame};

/// Clients that a pool has addresses for, unless something else is said.
pub const MAX_CLIENTS: usize = 4096;

/// A client's addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// Of IPv4.
    pub v4: Option<Ipv4Addr>,
    /// Of IPv6.
    pub v6: Option<Ipv6Addr>,
}

impl Addresses {
    fn iter(self) -> impl Iterator<Item = IpAddr> + Clone {
        self.v4.map(IpAddr::V4).into_iter().chain(self.v6.map(IpAddr::V6))
    }
}

/// Why a client has no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PoolError {
    /// All addresses of the network are taken.
    Exhausted(Ipv4Cidr),
    /// All of the IPv6 network are.
    ExhaustedV6(Ipv6Cidr),
    /// There are as many clients as the pool takes.
    TooMany(usize),
    /// The fixed address is another client's, or the gate's.
    Taken(IpAddr),
}

impl fmt::Display for PoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PoolError::Exhausted(network) => write!(f, "all addresses of {network} are taken"),
            PoolError::ExhaustedV6(network) => write!(f, "all addresses of {network} are taken"),
            PoolError::TooMany(max) => write!(f, "there are addresses for {max} clients already"),
            PoolError::Taken(address) => write!(f, "{address} is another client's, or the gate's"),
        }
    }
}

impl core::error::Error for PoolError {}

/// The addresses of a gate's clients.
///
/// # Examples
///
/// ```
/// use sarab_router::services::pool::Pool;
///
/// let mut pool = Pool::new(7);
/// pool.set_v4("10.1.0.0/24".parse().unwrap());
/// pool.reserve([10, 1, 0, 1].into());
/// let first = pool.assign([0, 0x16, 0x3e, 0, 0, 1]).unwrap();
/// assert_eq!(pool.assign([0, 0x16, 0x3e, 0, 0, 1]), Ok(first));
/// ```
#[derive(Clone, Debug)]
pub struct Pool {
    seed: u64,
    max: usize,
    v4: Option<Ipv4Cidr>,
    v6: Option<Ipv6Cidr>,
    fixed: BTreeMap<Mac, Addresses>,
    clients: BTreeMap<Mac, Addresses>,
    /// Whose each address is; `None` for the gate's.
    taken: BTreeMap<IpAddr, Option<Mac>>,
    /// Addresses that clients had, the oldest first.
    released: VecDeque<(Mac, Ipv4Addr)>,
}

impl Pool {
    /// One without networks. Clients have the same addresses as with another pool of the same seed.
    pub fn new(seed: u64) -> Pool {
        Pool {
            seed,
            max: MAX_CLIENTS,
            v4: None,
            v6: None,
            fixed: BTreeMap::new(),
            clients: BTreeMap::new(),
            taken: BTreeMap::new(),
            released: VecDeque::new(),
        }
    }

    /// The network of the clients that have no fixed address. Those that have addresses keep them.
    pub fn set_v4(&mut self, network: Ipv4Cidr) {
        self.v4 = Some(network);
    }

    /// The same for IPv6. With a prefix of up to 64 bits an address ends in the MAC (EUI-64).
    pub fn set_v6(&mut self, network: Ipv6Cidr) {
        self.v6 = Some(network);
    }

    /// At most so many clients.
    pub fn set_max_clients(&mut self, max: usize) {
        self.max = max;
    }

    /// An address that no client is given: one of the gate's.
    pub fn reserve(&mut self, address: IpAddr) {
        self.taken.entry(address).or_insert(None);
    }

    /// Gives a client the addresses that it is to have, at the latest when it is next assigned. It may have only one of them
    /// fixed.
    ///
    /// # Errors
    ///
    /// An address is another client's or the gate's, or there are too many clients. Then nothing has changed.
    pub fn fix(&mut self, mac: Mac, addresses: Addresses) -> Result<(), PoolError> {
        if self.fixed.len() >= self.max && !self.fixed.contains_key(&mac) {
            return Err(PoolError::TooMany(self.max));
        }
        for address in addresses.iter() {
            if self.taken.get(&address).is_some_and(|owner| *owner != Some(mac)) {
                return Err(PoolError::Taken(address));
            }
        }
        self.free(mac);
        self.clients.remove(&mac);
        self.take(mac, addresses);
        self.fixed.insert(mac, addresses);
        Ok(())
    }

    /// Forgets what was fixed for a client, which is not assigned any more.
    pub fn unfix(&mut self, mac: Mac) {
        self.free(mac);
        self.fixed.remove(&mac);
        self.clients.remove(&mac);
    }

    /// A client's addresses: those that it has, or that are fixed, or else some that nobody has.
    ///
    /// # Errors
    ///
    /// A network has no address left, or there are too many clients.
    pub fn assign(&mut self, mac: Mac) -> Result<Addresses, PoolError> {
        if let Some(addresses) = self.clients.get(&mac) {
            return Ok(*addresses);
        }
        if self.clients.len() >= self.max {
            return Err(PoolError::TooMany(self.max));
        }
        let fixed = self.fixed.get(&mac).copied().unwrap_or_default();
        let v4 = match (fixed.v4, self.v4) {
            (Some(address), _) => Some(address),
            (None, Some(network)) => Some(self.find_v4(mac, network).ok_or(PoolError::Exhausted(network))?),
            (None, None) => None,
        };
        let v6 = match (fixed.v6, self.v6) {
            (Some(address), _) => Some(address),
            (None, Some(network)) => Some(self.find_v6(mac, network).ok_or(PoolError::ExhaustedV6(network))?),
            (None, None) => None,
        };
        let addresses = Addresses { v4, v6 };
        self.take(mac, addresses);
        self.clients.insert(mac, addresses);
        Ok(addresses)
    }

    /// A client is gone. Its addresses are given to others when there are no better ones, unless they are fixed.
    pub fn release(&mut self, mac: Mac) {
        let Some(addresses) = self.clients.get(&mac).copied() else { return };
        self.free(mac);
        self.clients.remove(&mac);
        let fixed = self.fixed.get(&mac).copied().unwrap_or_default();
        self.take(mac, fixed);
        if let Some(address) = addresses.v4.filter(|address| fixed.v4 != Some(*address)) {
            if self.released.len() >= self.max {
                self.released.pop_front();
            }
            self.released.push_back((mac, address));
        }
    }

    /// Whose an address is.
    pub fn client_of(&self, address: IpAddr) -> Option<Mac> {
        self.taken.get(&address).copied().flatten()
    }

    /// The clients that have addresses, and these.
    pub fn iter(&self) -> impl Iterator<Item = (Mac, Addresses)> + '_ {
        self.clients.iter().map(|(mac, addresses)| (*mac, *addresses))
    }

    /// Nothing is the client's any more.
    fn free(&mut self, mac: Mac) {
        let known = [self.clients.get(&mac), self.fixed.get(&mac)];
        for addresses in known.into_iter().flatten() {
            for address in addresses.iter() {
                self.taken.remove(&address);
            }
        }
    }

    /// Addresses are a client's now.
    fn take(&mut self, mac: Mac, addresses: Addresses) {
        for address in addresses.iter() {
            self.taken.insert(address, Some(mac));
        }
        self.released.retain(|(_, address)| Some(*address) != addresses.v4);
    }

    fn hash(&self, mac: Mac) -> u64 {
        SipHasher13::new_with_keys(self.seed, 0).hash(&mac)
    }

    /// Linear probing from where the MAC points. What was released to others is taken last, the oldest of it first.
    fn find_v4(&self, mac: Mac, network: Ipv4Cidr) -> Option<Ipv4Addr> {
        let (first, count) = hosts(network);
        let is_in = |address: Ipv4Addr| u64::from(address.to_bits().wrapping_sub(first)) < count;
        let is_free = |address: Ipv4Addr| !self.taken.contains_key(&address.into());
        if let Some((_, address)) = self.released.iter().rfind(|(owner, address)| *owner == mac && is_in(*address))
            && is_free(*address)
        {
            return Some(*address);
        }
        let start = self.hash(mac) % count.max(1);
        // Each address that is passed over is in one of the two, so that there are not many steps in a large network.
        let steps = count.min((self.taken.len() + self.released.len() + 1) as u64);
        let unused = (0..steps)
            .map(|step| Ipv4Addr::from_bits(first.wrapping_add(((start + step) % count) as u32)))
            .find(|address| is_free(*address) && !self.released.iter().any(|(_, released)| released == address));
        let oldest =
            || self.released.iter().map(|(_, address)| *address).find(|address| is_in(*address) && is_free(*address));
        unused.or_else(oldest)
    }

    fn find_v6(&self, mac: Mac, network: Ipv6Cidr) -> Option<Ipv6Addr> {
        let len = u32::from(network.prefix_len());
        let host_mask = u128::MAX.checked_shr(len).unwrap_or(0);
        let base = network.address().to_bits() & !host_mask;
        let start = match len {
            0..=64 => frame::eui64(mac).into(),
            _ => u128::from(self.hash(mac)),
        };
        // Zero is the routers' (RFC 4291, section 2.6.1), but where the network is one address.
        (0..=self.taken.len() as u128 + 1)
            .map(|step| start.wrapping_add(step) & host_mask)
            .filter(|host| *host != 0 || host_mask == 0)
            .map(|host| Ipv6Addr::from_bits(base | host))
            .find(|address| !self.taken.contains_key(&(*address).into()))
    }
}

/// The first address that a host of a network can have, and how many there are.
fn hosts(network: Ipv4Cidr) -> (u32, u64) {
    let len = network.prefix_len();
    let base = network.network().address().to_bits();
    match len {
        // All of them (RFC 3021).
        31 | 32 => (base, 1 << (32 - len)),
        _ => (base.wrapping_add(1), (1_u64 << (32 - len)) - 2),
    }
}

#[cfg(test)]
mod tests;

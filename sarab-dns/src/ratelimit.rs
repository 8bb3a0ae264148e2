//! How many answers of a kind a network gets (response rate limiting).

use alloc::boxed::Box;
use alloc::vec;
use core::net::IpAddr;

use crate::answer::Kind;

/// Networks and kinds of answers that are counted at the same time; of those that share a place, the one that asks more stays.
const PLACES: usize = 4096;

/// What becomes of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Send,
    Drop,
    /// An empty one, which says that TCP may be used.
    Slip,
}

#[derive(Clone, Copy, Default)]
struct Place {
    /// Whom it counts for.
    key: u64,
    /// The second.
    second: u32,
    count: u32,
    /// Of the second before; more than is allowed counts on.
    dropped: u32,
}

pub(crate) struct Limiter {
    places: Box<[Place]>,
    /// With which places are chosen, so that nobody can aim at another's.
    seed: u64,
}

/// The network that a client is in: /24 of IPv4, /56 of IPv6.
fn network(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(address) => u64::from(address.to_bits() >> 8) | 1 << 60,
        IpAddr::V6(address) => (address.to_bits() >> 72) as u64,
    }
}

fn mix(state: u64, value: u64) -> u64 {
    let state = (state ^ value).wrapping_mul(0xff51_afd7_ed55_8ccd);
    state ^ (state >> 32)
}

impl Limiter {
    pub fn new(seed: u64) -> Limiter {
        Limiter { places: vec![Place::default(); PLACES].into(), seed }
    }

    /// Counts an answer of so many that are allowed in a second; every `slip`th beyond is replaced by an empty one. `subject` is
    /// the hash of the name asked for, or of the zone where there is no such name, so that random names count together.
    pub fn check(&mut self, client: IpAddr, kind: Kind, subject: u32, now: u32, rate: u32, slip: u32) -> Verdict {
        let key = mix(mix(mix(self.seed, network(client)), u64::from(subject)), kind as u64 + 1);
        let place = &mut self.places[key as usize % PLACES];
        if place.key != key {
            // Somebody else's place, who still has a claim to it.
            if place.second == now && place.count > rate / 2 {
                return Verdict::Send;
            }
            *place = Place { key, second: now, ..Place::default() };
        }
        if place.second != now {
            // Who goes on in spite of being limited stays so; a second without too many frees it.
            place.count = match now.wrapping_sub(place.second) {
                1 => place.count.saturating_sub(rate).min(rate),
                _ => 0,
            };
            place.second = now;
        }
        place.count = place.count.saturating_add(1);
        if place.count <= rate {
            return Verdict::Send;
        }
        place.dropped = place.dropped.wrapping_add(1);
        match slip {
            0 => Verdict::Drop,
            slip if place.dropped.is_multiple_of(slip) => Verdict::Slip,
            _ => Verdict::Drop,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_gets_so_many_and_others_are_not_touched() {
        let mut limiter = Limiter::new(7);
        let mut count = |address: [u8; 4], kind, now| {
            let mut seen = [0; 3];
            for _ in 0..100 {
                seen[limiter.check(address.into(), kind, 5, now, 10, 2) as usize] += 1;
            }
            seen
        };
        assert_eq!(count([192, 0, 2, 1], Kind::Positive, 1), [10, 45, 45]);
        // Another host of the network.
        assert_eq!(count([192, 0, 2, 200], Kind::Positive, 1)[0], 0);
        assert_eq!(count([192, 0, 3, 1], Kind::Positive, 1)[0], 10);
        assert_eq!(count([192, 0, 2, 1], Kind::NoName, 1)[0], 10);
        // It does not stop, and gets none in the next second, then some.
        assert_eq!(count([192, 0, 2, 1], Kind::Positive, 2)[0], 0);
        assert_eq!(count([192, 0, 2, 1], Kind::Positive, 9)[0], 10);
    }

    #[test]
    fn networks_of_ipv6_are_of_56_bits() {
        let one: IpAddr = "2001:db8:0:ff::1".parse().unwrap();
        let two: IpAddr = "2001:db8:0:aa::2".parse().unwrap();
        let other: IpAddr = "2001:db8:0:1ff::1".parse().unwrap();
        assert_eq!(network(one), network(two));
        assert_ne!(network(one), network(other));
    }
}

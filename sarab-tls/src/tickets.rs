//! Session tickets: what a client shows to go on with a session (RFC 8446 section 4.6.1, RFC 5077). The server keeps nothing of a
//! session; the ticket holds it, encrypted.

use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use chacha20poly1305::ChaCha20Poly1305;
use chacha20poly1305::aead::{AeadInOut, KeyInit};
use rustls::server::ProducesTickets;
use spin::Mutex;
use zeroize::Zeroizing;

use crate::provider::random;
use crate::time::WallClock;

/// So long new tickets are made with one key; for as long again they are accepted.
const ROTATION: Duration = Duration::from_secs(6 * 60 * 60);

const NAME: usize = 16;
const NONCE: usize = 12;
const TAG: usize = 16;

struct Key {
    name: [u8; NAME],
    cipher: ChaCha20Poly1305,
    since: Duration,
}

impl Key {
    fn new(since: Duration) -> Option<Key> {
        let key = Zeroizing::new(random::<32>().ok()?);
        Some(Key { name: random().ok()?, cipher: ChaCha20Poly1305::new((&*key).into()), since })
    }
}

struct Keys {
    current: Key,
    previous: Option<Key>,
}

pub(crate) struct Tickets {
    keys: Mutex<Keys>,
    clock: WallClock,
}

impl Tickets {
    /// `None` where there are no random numbers.
    pub(crate) fn new(clock: WallClock) -> Option<Tickets> {
        let current = Key::new(clock.now())?;
        Some(Tickets { keys: Mutex::new(Keys { current, previous: None }), clock })
    }

    /// Has new keys made where the present ones are too old, or from a time to come.
    fn rotate(&self, keys: &mut Keys) {
        let now = self.clock.now();
        let age = now.checked_sub(keys.current.since);
        if age.is_some_and(|age| age < ROTATION) {
            return;
        }
        if let Some(new) = Key::new(now) {
            let old = core::mem::replace(&mut keys.current, new);
            keys.previous = age.is_some_and(|age| age < ROTATION * 2).then_some(old);
        }
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tickets")
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        ROTATION.as_secs() as u32
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let mut keys = self.keys.lock();
        self.rotate(&mut keys);
        let key = &keys.current;
        let nonce = random::<NONCE>().ok()?;
        let mut ticket = Vec::with_capacity(NAME + NONCE + plain.len() + TAG);
        ticket.extend_from_slice(&key.name);
        ticket.extend_from_slice(&nonce);
        ticket.extend_from_slice(plain);
        let sealed = &mut ticket[NAME + NONCE..];
        let tag = key.cipher.encrypt_inout_detached(&nonce.into(), &key.name, sealed.into()).ok()?;
        ticket.extend_from_slice(&tag);
        Some(ticket)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_first_chunk::<NAME>()?;
        let (nonce, rest) = rest.split_first_chunk::<NONCE>()?;
        let (sealed, tag) = rest.split_last_chunk::<TAG>()?;
        let mut keys = self.keys.lock();
        self.rotate(&mut keys);
        // Names are no secret.
        let key = [Some(&keys.current), keys.previous.as_ref()].into_iter().flatten().find(|key| key.name == *name)?;
        let mut plain = sealed.to_vec();
        key.cipher.decrypt_inout_detached(&(*nonce).into(), name, (&mut plain[..]).into(), &(*tag).into()).ok()?;
        Some(plain)
    }
}

#[cfg(test)]
mod tests {
    use alloc::sync::Arc;
    use core::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn keys_rotate_and_old_tickets_end() {
        let now = Arc::new(AtomicU64::new(1_800_000_000));
        let clock = now.clone();
        let tickets = Tickets::new(WallClock::new(move || Duration::from_secs(clock.load(Ordering::Relaxed)))).unwrap();
        let first = tickets.encrypt(b"a session").unwrap();
        assert_eq!(tickets.decrypt(&first).unwrap(), b"a session");
        assert!(!first.windows(9).any(|window| window == b"a session"), "a ticket tells nothing");
        for index in 0..first.len() {
            let mut damaged = first.clone();
            damaged[index] ^= 1;
            assert_eq!(tickets.decrypt(&damaged), None, "byte {index} is protected");
            assert_eq!(tickets.decrypt(&first[..index]), None, "{index} bytes of it are nothing");
        }
        now.fetch_add(ROTATION.as_secs(), Ordering::Relaxed);
        let second = tickets.encrypt(b"another").unwrap();
        assert_ne!(first[..NAME], second[..NAME], "the key is a new one");
        assert!(tickets.decrypt(&first).is_some(), "one key before is known");
        now.fetch_add(ROTATION.as_secs(), Ordering::Relaxed);
        assert!(tickets.decrypt(&first).is_none());
        assert!(tickets.decrypt(&second).is_some());
        now.fetch_add(3 * ROTATION.as_secs(), Ordering::Relaxed);
        assert!(tickets.decrypt(&second).is_none(), "a key that was not used is no younger for it");
        let third = tickets.encrypt(b"third").unwrap();
        now.fetch_sub(10, Ordering::Relaxed);
        assert!(tickets.decrypt(&third).is_none(), "a clock that went back says nothing of a key's age");
    }
}

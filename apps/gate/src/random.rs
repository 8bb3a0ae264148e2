//! Numbers that nobody can guess: ports and keys depend on them.

use alloc::rc::Rc;
use core::cell::Cell;
use core::hash::Hasher;

use rand_core::TryRng;
use sarab::hal::Clock;
use sarab::{App, Entropy};
use siphasher::sip::SipHasher24;

/// The processor's numbers and what a host has given, both of which it takes to guess one. Clones share what was given.
#[derive(Clone)]
pub struct Random {
    entropy: Entropy,
    key: Rc<Cell<(u64, u64)>>,
    count: Rc<Cell<u64>>,
}

impl Random {
    pub fn new(app: App) -> sarab::Result<Random> {
        let mut entropy = app.entropy()?;
        let key = (entropy.try_next_u64()?, app.clock().now().as_nanos() as u64);
        Ok(Random { entropy, key: Rc::new(Cell::new(key)), count: Rc::default() })
    }

    /// Takes something that is not known to others.
    #[cfg_attr(not(feature = "qubes"), expect(dead_code))]
    pub fn mix(&self, secret: &[u8]) {
        let half = |which: u8| {
            let mut hasher = self.hasher();
            hasher.write_u8(which);
            hasher.write(secret);
            hasher.finish()
        };
        self.key.set((half(0), half(1)));
    }

    /// The same, for a library.
    pub fn source(&self) -> impl FnMut() -> u64 + 'static {
        let mut own = self.clone();
        move || own.next()
    }

    pub fn next(&mut self) -> u64 {
        let count = self.count.get();
        self.count.set(count.wrapping_add(1));
        let mut hasher = self.hasher();
        hasher.write_u64(count);
        hasher.write_u64(self.entropy.try_next_u64().unwrap_or_default());
        hasher.finish()
    }

    fn hasher(&self) -> SipHasher24 {
        let (first, second) = self.key.get();
        SipHasher24::new_with_keys(first, second)
    }
}

//! Random numbers: the processor's, the toolstack's and the application's, mixed.
//!
//! What everybody gets is the output of ChaCha20, whose key is replaced at each use: a later look at memory does not show what was
//! given before ("fast key erasure"). The key comes from RDSEED and from RDRAND, whichever there are, and from
//! [`add_entropy`]. Each use adds fresh numbers of the processor's, so two domains that were restored from one image do not give the
//! same.

use core::arch::x86_64::{_rdrand64_step, _rdseed64_step, _rdtsc};
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use chacha20::ChaCha20Rng;
use rand_core::{Rng, SeedableRng, TryCryptoRng, TryRng};

/// How often an instruction is tried that has no number ready; Intel's guide calls ten failures a broken device.
const TRIES: usize = 32;
/// A key, in numbers of the processor's.
const WORDS: usize = 4;
const KEY: usize = WORDS * 8;

/// A generator of random numbers for keys, seeded by the processor: RDSEED and RDRAND, whichever there are.
#[derive(Clone, Copy, Debug)]
pub struct Entropy {
    source: Source,
}

/// There are no random numbers to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntropyError {
    /// The processor has, or the `cpuid=` line of the xl file leaves, neither RDSEED nor RDRAND.
    NoInstruction,
    /// The instruction is there but delivers nothing.
    Exhausted,
}

impl fmt::Display for EntropyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            EntropyError::NoInstruction => {
                "no source of random numbers: this processor offers neither RDSEED nor RDRAND to the domain"
            }
            EntropyError::Exhausted => "no random numbers: the processor's generator delivers none",
        })
    }
}

impl core::error::Error for EntropyError {}

impl Entropy {
    /// Finds the processor's generators, and seeds the generator at the first call.
    ///
    /// # Errors
    ///
    /// If the processor offers the domain neither RDSEED nor RDRAND, and [`add_entropy`] has not given 32 bytes either.
    pub fn new() -> Result<Entropy, EntropyError> {
        let source = Source::find();
        if !SEEDED.load(Ordering::Relaxed) {
            let (mut seed, mut rand) = ([0; KEY], [0; KEY]);
            match (source.seed(&mut seed)?, source.rand(&mut rand)?) {
                (false, false) => return Err(EntropyError::NoInstruction),
                (has_seed, has_rand) => {
                    // One after the other: neither can undo what the other brought.
                    has_seed.then(|| add(&seed));
                    has_rand.then(|| add(&rand));
                    SEEDED.store(true, Ordering::Relaxed);
                }
            }
        }
        Ok(Entropy { source })
    }
}

/// Adds random bytes from elsewhere to what the domain's generator has: a seed of the toolstack's in a module or in the store, or what
/// a disk has kept. They are not trusted alone: whoever knows them knows nothing of what the generator gives. Where the processor has no
/// generator, 32 bytes or more at once seed it all the same; then they have to be secret, and new at each boot.
pub fn add_entropy(bytes: &[u8]) {
    add(bytes);
    if bytes.len() >= KEY {
        SEEDED.store(true, Ordering::Relaxed);
    }
}

/// The key of the next output, in four words. Atomics for the host's threads: a guest has one.
static STATE: [AtomicU64; WORDS] = [const { AtomicU64::new(0) }; WORDS];
static SEEDED: AtomicBool = AtomicBool::new(false);

fn load() -> [u8; KEY] {
    let mut key = [0; KEY];
    for (word, bytes) in STATE.iter().zip(key.chunks_mut(8)) {
        bytes.copy_from_slice(&word.load(Ordering::Relaxed).to_le_bytes());
    }
    key
}

fn store(key: [u8; KEY]) {
    for (word, bytes) in STATE.iter().zip(key.chunks_exact(8)) {
        word.store(u64::from_le_bytes(bytes.try_into().unwrap_or_default()), Ordering::Relaxed);
    }
}

fn add(bytes: &[u8]) {
    store(absorb(load(), bytes));
}

/// Each piece is added to what the key before it gives, which its author does not know. So no piece takes anything away.
fn absorb(mut key: [u8; KEY], bytes: &[u8]) -> [u8; KEY] {
    for piece in bytes.chunks(KEY) {
        let mut rng = ChaCha20Rng::from_seed(key);
        rng.fill_bytes(&mut key);
        key.iter_mut().zip(piece).for_each(|(byte, new)| *byte ^= new);
    }
    key
}

/// Output, and the key for the next one.
fn give(key: [u8; KEY], to: &mut [u8]) -> [u8; KEY] {
    let mut rng = ChaCha20Rng::from_seed(key);
    let mut next = [0; KEY];
    rng.fill_bytes(&mut next);
    rng.fill_bytes(to);
    next
}

/// Which instructions the processor has.
#[derive(Clone, Copy, Debug)]
struct Source {
    seed: bool,
    rand: bool,
}

impl Source {
    fn find() -> Source {
        let cpuid = raw_cpuid::CpuId::new();
        Source {
            seed: cpuid.get_extended_feature_info().is_some_and(|info| info.has_rdseed()),
            rand: cpuid.get_feature_info().is_some_and(|info| info.has_rdrand()),
        }
    }

    /// Fills a key with RDSEED. Whether there is one.
    fn seed(self, to: &mut [u8; KEY]) -> Result<bool, EntropyError> {
        if self.seed {
            // SAFETY: the processor has the instruction.
            draw(to, || unsafe { rdseed() })?;
        }
        Ok(self.seed)
    }

    /// Fills a key with RDRAND. Whether there is one.
    fn rand(self, to: &mut [u8; KEY]) -> Result<bool, EntropyError> {
        if self.rand {
            // SAFETY: the processor has the instruction.
            draw(to, || unsafe { rdrand() })?;
        }
        Ok(self.rand)
    }

    /// Something that was never there before: numbers where there are some, and the time.
    fn fresh(self) -> Result<[u8; KEY], EntropyError> {
        let mut fresh = [0; KEY];
        if !self.rand(&mut fresh)? && !self.seed(&mut fresh)? {
            // SAFETY: every 64-bit processor has the instruction, and Xen lets guests use it.
            let time = unsafe { _rdtsc() };
            fresh[..8].copy_from_slice(&time.to_le_bytes());
        }
        Ok(fresh)
    }
}

fn draw(to: &mut [u8; KEY], number: impl Fn() -> Option<u64>) -> Result<(), EntropyError> {
    for bytes in to.chunks_mut(8) {
        let mut tries = 0;
        let value = loop {
            if let Some(value) = number() {
                break value;
            }
            tries += 1;
            if tries == TRIES {
                return Err(EntropyError::Exhausted);
            }
            core::hint::spin_loop();
        };
        bytes.copy_from_slice(&value.to_le_bytes());
    }
    Ok(())
}

#[target_feature(enable = "rdseed")]
fn rdseed() -> Option<u64> {
    let mut value = 0;
    (_rdseed64_step(&mut value) == 1).then_some(value)
}

#[target_feature(enable = "rdrand")]
fn rdrand() -> Option<u64> {
    let mut value = 0;
    (_rdrand64_step(&mut value) == 1).then_some(value)
}

impl TryRng for Entropy {
    type Error = EntropyError;

    fn try_next_u32(&mut self) -> Result<u32, EntropyError> {
        self.try_next_u64().map(|value| value as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, EntropyError> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, dst: &mut [u8]) -> Result<(), EntropyError> {
        let key = absorb(load(), &self.source.fresh()?);
        store(give(key, dst));
        Ok(())
    }
}

impl TryCryptoRng for Entropy {}

/// Of `rand_core` 0.9.
impl rand_core_0_9::TryRngCore for Entropy {
    type Error = EntropyError;

    fn try_next_u32(&mut self) -> Result<u32, EntropyError> {
        TryRng::try_next_u32(self)
    }

    fn try_next_u64(&mut self) -> Result<u64, EntropyError> {
        TryRng::try_next_u64(self)
    }

    fn try_fill_bytes(&mut self, dst: &mut [u8]) -> Result<(), EntropyError> {
        TryRng::try_fill_bytes(self, dst)
    }
}

impl rand_core_0_9::TryCryptoRng for Entropy {}

/// Of `rand_core` 0.6.
///
/// # Panics
///
/// All but `try_fill_bytes` panic where the processor's generator delivers nothing: this version has no errors for them.
impl rand_core_0_6::RngCore for Entropy {
    fn next_u32(&mut self) -> u32 {
        TryRng::try_next_u32(self).unwrap_or_else(|error| panic!("{error}"))
    }

    fn next_u64(&mut self) -> u64 {
        TryRng::try_next_u64(self).unwrap_or_else(|error| panic!("{error}"))
    }

    fn fill_bytes(&mut self, dst: &mut [u8]) {
        TryRng::try_fill_bytes(self, dst).unwrap_or_else(|error| panic!("{error}"));
    }

    fn try_fill_bytes(&mut self, dst: &mut [u8]) -> Result<(), rand_core_0_6::Error> {
        let code = rand_core_0_6::Error::CUSTOM_START;
        TryRng::try_fill_bytes(self, dst)
            .map_err(|error| core::num::NonZeroU32::MIN.saturating_add(code - 1 + error as u32).into())
    }
}

impl rand_core_0_6::CryptoRng for Entropy {}

/// The source of the crate `getrandom`, 0.3 and 0.4, for guests that are compiled with
/// `--cfg getrandom_backend="custom"`.
#[cfg(feature = "guest")]
mod custom {
    use getrandom::Error;

    use super::*;

    /// # Safety
    ///
    /// `len` bytes at `dest` can be written; they may be uninitialized.
    // SAFETY: the name is getrandom's for this function, with this signature (getrandom 0.4, "Custom backend"; 0.3 has
    // the same, with an error of the same layout).
    #[unsafe(no_mangle)]
    unsafe extern "Rust" fn __getrandom_v03_custom(dest: *mut u8, len: usize) -> Result<(), Error> {
        // SAFETY: as the caller promises; zeroed first, since a slice is of initialized bytes.
        let bytes = unsafe {
            dest.write_bytes(0, len);
            core::slice::from_raw_parts_mut(dest, len)
        };
        let mut entropy = Entropy::new().map_err(|_| Error::UNSUPPORTED)?;
        entropy.try_fill_bytes(bytes).map_err(|_| Error::UNEXPECTED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_added_takes_anything_away() {
        let secret = absorb([0; KEY], &[7; KEY]);
        // Whoever adds what the key shows, in the hope to have it become zero, adds it to another one.
        assert_ne!(absorb(secret, &secret), [0; KEY]);
        assert_ne!(absorb(secret, &[1; KEY]), absorb(secret, &[2; KEY]));
        assert_ne!(absorb(secret, &[1; KEY + 1]), absorb(secret, &[1; KEY]));
        assert_ne!(absorb([0; KEY], b"a"), absorb([0; KEY], b"b"));
    }

    #[test]
    fn what_was_given_is_not_to_be_had_from_the_key_that_is_left() {
        let (mut first, mut second, mut again) = ([0; 100], [0; 100], [0; 100]);
        let key = give([3; KEY], &mut first);
        let next = give(key, &mut second);
        assert_ne!(first, second);
        assert_ne!(key, next);
        assert!(!first.windows(KEY).any(|window| window == key), "the next key is not part of the output");
        give([3; KEY], &mut again);
        assert_eq!(first, again, "it depends on the key alone");
    }

    #[test]
    fn numbers_differ() {
        add_entropy(b"something");
        let Ok(mut entropy) = Entropy::new() else { return };
        let mut seen = alloc::collections::BTreeSet::new();
        for _ in 0..1000 {
            assert!(seen.insert(entropy.try_next_u64().unwrap()));
        }
        let ones: u32 = seen.iter().map(|number| number.count_ones()).sum();
        assert!((31_000..33_000).contains(&ones), "{ones} of 64000 bits are set");
    }
}

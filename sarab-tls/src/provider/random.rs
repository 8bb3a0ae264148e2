//! Random numbers: the crate `getrandom`'s.

use rand_core::{TryCryptoRng, TryRng};
use rustls::crypto::{GetRandomFailed, SecureRandom};

/// So many random bytes.
///
/// # Errors
///
/// Where the machine has no source of random numbers.
pub fn random<const N: usize>() -> Result<[u8; N], getrandom::Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}

/// The generator as rustls and the signatures of RSA ask for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Random;

impl SecureRandom for Random {
    fn fill(&self, to: &mut [u8]) -> Result<(), GetRandomFailed> {
        getrandom::fill(to).map_err(|_| GetRandomFailed)
    }
}

impl TryRng for Random {
    type Error = getrandom::Error;

    fn try_next_u32(&mut self) -> Result<u32, getrandom::Error> {
        random().map(u32::from_le_bytes)
    }

    fn try_next_u64(&mut self) -> Result<u64, getrandom::Error> {
        random().map(u64::from_le_bytes)
    }

    fn try_fill_bytes(&mut self, to: &mut [u8]) -> Result<(), getrandom::Error> {
        getrandom::fill(to)
    }
}

impl TryCryptoRng for Random {}

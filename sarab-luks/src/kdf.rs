//! Keys from passphrases and key files.

use alloc::boxed::Box;
use alloc::vec::Vec;

use argon2::{Algorithm, Argon2, Block, Params, Version};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Sha256, Sha512};
use xenbus::yield_now;
use zeroize::Zeroizing;

use crate::error::{Cost, Error};
use crate::hash::Hash;
use crate::options::{Kdf, Limits};
use crate::stack::wiped;

/// Iterations of PBKDF2 before other tasks have their turn: about a millisecond.
const ITERATIONS: u32 = 2048;

/// Bytes of the longest digest.
const MAX_LEN: usize = 64;

/// Bytes that are all zero, or an error where the domain does not have so many.
pub(crate) fn zeroed(len: usize) -> Result<Zeroizing<Vec<u8>>, Error> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).map_err(|_| Error::OutOfMemory { kib: len.div_ceil(1024) as u64 })?;
    bytes.resize(len, 0);
    Ok(Zeroizing::new(bytes))
}

/// Checks that a derivation stays within the limits.
pub(crate) fn check(kdf: &Kdf, keyslot: Option<u8>, limits: &Limits) -> Result<(), Error> {
    let check = |cost, asked, limit| match asked <= limit {
        true => Ok(()),
        false => Err(Error::TooCostly { keyslot, cost, asked, limit }),
    };
    match kdf {
        Kdf::Argon2id(cost) | Kdf::Argon2i(cost) => {
            let work = u64::from(cost.memory_kib) * u64::from(cost.passes);
            check(Cost::Argon2Memory, cost.memory_kib.into(), limits.argon2_memory_kib.into())?;
            check(Cost::Argon2Work, work, limits.argon2_work_kib)
        }
        Kdf::Pbkdf2 { iterations, .. } => {
            check(Cost::Pbkdf2Iterations, u64::from(*iterations), limits.pbkdf2_iterations.into())
        }
    }
}

/// Derives `key` from a passphrase.
///
/// # Cancellation
///
/// May be dropped at any time. Argon2 is done in one go.
pub(crate) async fn derive(kdf: &Kdf, passphrase: &[u8], salt: &[u8], key: &mut [u8]) -> Result<(), Error> {
    let (algorithm, cost) = match kdf {
        Kdf::Argon2id(cost) => (Algorithm::Argon2id, cost),
        Kdf::Argon2i(cost) => (Algorithm::Argon2i, cost),
        Kdf::Pbkdf2 { hash, iterations } => {
            pbkdf2(*hash, passphrase, salt, *iterations, key).await;
            return Ok(());
        }
    };
    let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(key.len()));
    let params = params.map_err(|_| Error::Metadata { object: "keyslots", problem: "invalid costs of Argon2" })?;
    let count = params.block_count();
    let mut blocks: Zeroizing<Vec<Block>> = Zeroizing::new(Vec::new());
    blocks.try_reserve_exact(count).map_err(|_| Error::OutOfMemory { kib: cost.memory_kib.into() })?;
    blocks.resize(count, Block::new());
    let argon2 = Argon2::new(algorithm, Version::V0x13, params);
    wiped(|| argon2.hash_password_into_with_memory(passphrase, salt, key, &mut blocks[..]))
        .map_err(|_| Error::Metadata { object: "keyslots", problem: "invalid salt or key size for Argon2" })
}

/// PBKDF2 (RFC 8018, 5.2) in steps: the crate of that name has no way to let other tasks run.
///
/// # Cancellation
///
/// May be dropped at any time.
pub(crate) async fn pbkdf2(hash: Hash, passphrase: &[u8], salt: &[u8], iterations: u32, key: &mut [u8]) {
    match hash {
        Hash::Sha256 => pbkdf2_with::<Hmac<Sha256>>(passphrase, hash.len(), salt, iterations, key).await,
        Hash::Sha512 => pbkdf2_with::<Hmac<Sha512>>(passphrase, hash.len(), salt, iterations, key).await,
    }
}

async fn pbkdf2_with<M: Mac + KeyInit + Clone>(
    passphrase: &[u8],
    len: usize,
    salt: &[u8],
    iterations: u32,
    key: &mut [u8],
) {
    // On the heap, so that they do not move with the future.
    let prf = wiped(|| Box::new(M::new_from_slice(passphrase).expect("HMAC takes keys of any length")));
    let mut last = Box::new(Zeroizing::new([0; MAX_LEN]));
    let last = &mut last[..len];
    for (index, part) in key.chunks_mut(len).enumerate() {
        let number = (index as u32 + 1).to_be_bytes();
        wiped(|| last.copy_from_slice(&prf.clone().chain_update(salt).chain_update(number).finalize().into_bytes()));
        part.copy_from_slice(&last[..part.len()]);
        let mut left = iterations - 1;
        while left > 0 {
            let count = left.min(ITERATIONS);
            wiped(|| iterate(&*prf, last, part, count));
            left -= count;
            yield_now().await;
        }
    }
}

fn iterate<M: Mac + Clone>(prf: &M, last: &mut [u8], part: &mut [u8], count: u32) {
    for _ in 0..count {
        last.copy_from_slice(&prf.clone().chain_update(&*last).finalize().into_bytes());
        part.iter_mut().zip(&*last).for_each(|(key, last)| *key ^= last);
    }
}

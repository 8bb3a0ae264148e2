//! The anti-forensic splitter: a key as much longer material, all of which is needed to get it back (LUKS1 On-Disk
//! Format Specification, 2.4).

use alloc::vec::Vec;

use sha2::{Digest, Sha256, Sha512};
use zeroize::{Zeroize, Zeroizing};

use crate::hash::Hash;

/// Stripes of the material, always as many.
pub(crate) const STRIPES: usize = 4000;

/// Gets the key back from `material`, whose stripes are as long as `key`.
pub(crate) fn merge(material: &[u8], hash: Hash, key: &mut [u8]) {
    key.fill(0);
    let mut stripes = material.chunks_exact(key.len());
    let last = stripes.next_back();
    for stripe in stripes {
        xor(key, stripe);
        diffuse(key, hash);
    }
    if let Some(last) = last {
        xor(key, last);
    }
}

/// Makes material of a key in `material`, whose stripes but the last hold random bytes.
pub(crate) fn split(key: &[u8], hash: Hash, material: &mut [u8]) {
    let mut sum = Zeroizing::new(Vec::from(key));
    sum.fill(0);
    let mut stripes = material.chunks_exact_mut(key.len());
    let last = stripes.next_back();
    for stripe in stripes {
        xor(&mut sum, stripe);
        diffuse(&mut sum, hash);
    }
    if let Some(last) = last {
        last.copy_from_slice(key);
        xor(last, &sum);
    }
}

fn xor(to: &mut [u8], from: &[u8]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to ^= from);
}

fn diffuse(bytes: &mut [u8], hash: Hash) {
    for (index, block) in bytes.chunks_mut(hash.len()).enumerate() {
        let index = (index as u32).to_be_bytes();
        match hash {
            Hash::Sha256 => digest::<Sha256>(&index, block),
            Hash::Sha512 => digest::<Sha512>(&index, block),
        }
    }
}

fn digest<H: Digest>(index: &[u8], block: &mut [u8]) {
    let mut digest = H::new_with_prefix(index).chain_update(&*block).finalize();
    block.copy_from_slice(&digest[..block.len()]);
    digest.as_mut_slice().zeroize();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_split_is_merged() {
        for hash in [Hash::Sha256, Hash::Sha512] {
            let key: Vec<u8> = (0..64).collect();
            let mut material: Vec<u8> = (0..64 * 50_u32).map(|index| ((index * index) >> 3) as u8).collect();
            split(&key, hash, &mut material);
            let mut merged = [0; 64];
            merge(&material, hash, &mut merged);
            assert_eq!(merged[..], key);
            // Of each part that is hashed by itself.
            material[0] ^= 1;
            material[32] ^= 1;
            merge(&material, hash, &mut merged);
            assert!(merged.iter().zip(&key).filter(|(merged, key)| merged == key).count() < 8, "all of it is needed");
        }
    }
}

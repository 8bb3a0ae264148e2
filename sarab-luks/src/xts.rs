//! AES-256 in XTS mode (IEEE 1619), with sector numbers as tweaks: `aes-xts-plain64`.

use aes::Aes256;
use aes::cipher::{Array, BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};

/// Bytes of the two keys.
pub(crate) const KEY_SIZE: usize = 64;
/// The most bytes of a sector, and what is worked on at once.
pub(crate) const MAX_SECTOR: usize = 4096;
/// The least bytes of a sector, in which tweaks are counted.
pub(crate) const MIN_SECTOR: usize = 512;

const BLOCK: usize = 16;

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Encrypt,
    Decrypt,
}

/// Both ciphers' round keys, which their destructors clear.
pub(crate) struct Xts {
    data: Aes256,
    tweak: Aes256,
}

impl Xts {
    pub(crate) fn new(key: &[u8; KEY_SIZE]) -> Xts {
        let (halves, _) = key.as_chunks::<32>();
        Xts {
            data: Aes256::new(Array::cast_from_core(&halves[0])),
            tweak: Aes256::new(Array::cast_from_core(&halves[1])),
        }
    }

    /// Works on sectors of `sector_size` bytes, 512 to 4096 and a power of two, of which the first has the tweak `tweak`:
    /// tweaks count units of 512 bytes, whatever the size of sectors.
    ///
    /// # Panics
    ///
    /// Where `bytes` are not whole sectors.
    pub(crate) fn apply(&self, direction: Direction, tweak: u64, sector_size: usize, bytes: &mut [u8]) {
        assert!(bytes.len().is_multiple_of(sector_size));
        for (index, chunk) in bytes.chunks_mut(MAX_SECTOR).enumerate() {
            let first = tweak.wrapping_add((index * MAX_SECTOR / MIN_SECTOR) as u64);
            self.apply_chunk(direction, first, sector_size, chunk);
        }
    }

    fn apply_chunk(&self, direction: Direction, first: u64, sector_size: usize, bytes: &mut [u8]) {
        let count = bytes.len() / sector_size;
        let mut starts = [[0; BLOCK]; MAX_SECTOR / MIN_SECTOR];
        for (index, start) in starts[..count].iter_mut().enumerate() {
            let number = first.wrapping_add((index * sector_size / MIN_SECTOR) as u64);
            start[..8].copy_from_slice(&number.to_le_bytes());
        }
        self.tweak.encrypt_blocks(Array::cast_slice_from_core_mut(&mut starts[..count]));

        let mut tweaks = [0_u128; MAX_SECTOR / BLOCK];
        let blocks = sector_size / BLOCK;
        for (start, tweaks) in starts[..count].iter().zip(tweaks.chunks_exact_mut(blocks)) {
            let mut tweak = u128::from_le_bytes(*start);
            for place in tweaks {
                *place = tweak;
                tweak = double(tweak);
            }
        }

        let (data, _) = bytes.as_chunks_mut::<BLOCK>();
        xor(data, &tweaks);
        match direction {
            Direction::Encrypt => self.data.encrypt_blocks(Array::cast_slice_from_core_mut(data)),
            Direction::Decrypt => self.data.decrypt_blocks(Array::cast_slice_from_core_mut(data)),
        }
        xor(data, &tweaks);
    }
}

fn xor(blocks: &mut [[u8; BLOCK]], with: &[u128]) {
    for (block, with) in blocks.iter_mut().zip(with) {
        *block = (u128::from_le_bytes(*block) ^ with).to_le_bytes();
    }
}

/// Multiplies by x in GF(2^128), modulo x^128 + x^7 + x^2 + x + 1.
fn double(tweak: u128) -> u128 {
    (tweak << 1) ^ ((tweak >> 127) * 0x87)
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    }

    /// IEEE 1619-2007, appendix B, vector 10: the bytes 0 to 255 twice, as a sector.
    #[test]
    fn it_is_the_standards() {
        let key = hex("2718281828459045235360287471352662497757247093699959574966967627\
                       3141592653589793238462643383279502884197169399375105820974944592");
        let xts = Xts::new(key[..].try_into().unwrap());
        let plain: Vec<u8> = (0..512).map(|index| index as u8).collect();
        let mut bytes = plain.clone();
        xts.apply(Direction::Encrypt, 0xff, 512, &mut bytes);
        let begin = "1c3b3a102f770386e4836c99e370cf9bea00803f5e482357a4ae12d414a3e63b\
                     5d31e276f8fe4a8d66b317f9ac683f44680a86ac35adfc3345befecb4bb188fd";
        assert_eq!(bytes[..64], hex(begin));
        xts.apply(Direction::Decrypt, 0xff, 512, &mut bytes);
        assert_eq!(bytes, plain);
    }

    /// Sectors of 4096 bytes count as eight, and a run of sectors is what the sectors are alone.
    #[test]
    fn tweaks_count_512_bytes() {
        let xts = Xts::new(&core::array::from_fn(|index| index as u8 * 3));
        for sector_size in [512, 1024, 2048, 4096] {
            let plain: Vec<u8> = (0..4 * 4096_u32).map(|index| (index % 251) as u8).collect();
            let mut whole = plain.clone();
            xts.apply(Direction::Encrypt, 1000, sector_size, &mut whole);
            for (index, sector) in plain.chunks(sector_size).enumerate() {
                let mut alone = sector.to_vec();
                let tweak = 1000 + (index * sector_size / 512) as u64;
                xts.apply(Direction::Encrypt, tweak, sector_size, &mut alone);
                assert_eq!(alone, whole[index * sector_size..][..sector_size]);
                assert_eq!(alone, slow(&xts, tweak, sector));
            }
        }
    }

    /// As the standard writes it, a block after the other.
    fn slow(xts: &Xts, number: u64, sector: &[u8]) -> Vec<u8> {
        let mut tweak = [0; 16];
        tweak[..8].copy_from_slice(&number.to_le_bytes());
        xts.tweak.encrypt_block(Array::cast_from_core_mut(&mut tweak));
        let mut all = Vec::new();
        for block in sector.chunks(16) {
            let mut block: [u8; 16] = core::array::from_fn(|at| block[at] ^ tweak[at]);
            xts.data.encrypt_block(Array::cast_from_core_mut(&mut block));
            all.extend(block.iter().zip(tweak).map(|(block, tweak)| block ^ tweak));
            let mut carry = 0;
            for byte in &mut tweak {
                let next = *byte >> 7;
                *byte = *byte << 1 | carry;
                carry = next;
            }
            tweak[0] ^= 0x87 * carry;
        }
        all
    }
}

//! Denial by hashes (RFC 5155).

use alloc::boxed::Box;
use alloc::vec::Vec;

use sha1::{Digest, Sha1};

/// Iterations that are served: each question about what is not there costs two hashes of so many rounds. RFC 9276 asks for 0.
pub(crate) const MAX_ITERATIONS: u16 = 150;

pub(crate) type Hash = [u8; 20];

/// What hashes are made with, and the chain of them.
pub(crate) struct Nsec3 {
    pub iterations: u16,
    pub salt: Box<[u8]>,
    /// Sorted; with the number of the set.
    pub chain: Vec<(Hash, u32)>,
}

impl Nsec3 {
    /// The hash of a name in lower case (section 5).
    pub fn hash(&self, name: &[u8]) -> Hash {
        let mut digest: Hash = Sha1::new().chain_update(name).chain_update(&self.salt).finalize().into();
        for _ in 0..self.iterations {
            digest = Sha1::new().chain_update(digest).chain_update(&self.salt).finalize().into();
        }
        digest
    }

    /// The place of the entry of this hash.
    pub fn matching(&self, hash: &Hash) -> Option<usize> {
        self.chain.binary_search_by(|(known, _)| known.cmp(hash)).ok()
    }

    /// The place of the entry that covers a hash which has none; the last one covers what is before the first.
    pub fn covering(&self, hash: &Hash) -> Option<usize> {
        match self.chain.binary_search_by(|(known, _)| known.cmp(hash)) {
            // Another name of the same hash, which nobody can make on purpose.
            Ok(at) => Some(at),
            Err(0) => self.chain.len().checked_sub(1),
            Err(at) => Some(at - 1),
        }
    }

    pub fn bytes(&self) -> usize {
        self.chain.capacity() * size_of::<(Hash, u32)>()
    }
}

const DIGITS: &[u8; 32] = b"0123456789abcdefghijklmnopqrstuv";

/// The label of a hash in base32hex (RFC 4648, section 7), with its length.
pub(crate) fn label(hash: &Hash) -> [u8; 33] {
    let mut label = [32; 33];
    for (chunk, digits) in hash.chunks(5).zip(label[1..].chunks_mut(8)) {
        let bits = chunk.iter().fold(0u64, |bits, byte| (bits << 8) | u64::from(*byte));
        for (index, digit) in digits.iter_mut().enumerate() {
            *digit = DIGITS[(bits >> (35 - 5 * index)) as usize & 31];
        }
    }
    label
}

/// The hash that a label in lower case has.
pub(crate) fn from_label(label: &[u8]) -> Option<Hash> {
    let mut hash = [0; 20];
    if label.len() != 32 {
        return None;
    }
    for (digits, chunk) in label.chunks(8).zip(hash.chunks_mut(5)) {
        let mut bits = 0u64;
        for digit in digits {
            bits = (bits << 5) | DIGITS.iter().position(|known| known == digit)? as u64;
        }
        chunk.copy_from_slice(&bits.to_be_bytes()[3..]);
    }
    Some(hash)
}

/// Algorithm, iterations and salt of the data of an NSEC3 or NSEC3PARAM record (sections 3.2 and 4.2); its flags do not count.
pub(crate) fn parameters(data: &[u8]) -> Option<(u8, u16, &[u8])> {
    let [algorithm, _, high, low, len, rest @ ..] = data else { return None };
    Some((*algorithm, u16::from_be_bytes([*high, *low]), rest.get(..usize::from(*len))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 5155, appendix A.
    #[test]
    fn hashes_are_those_of_the_rfc() {
        let nsec3 = Nsec3 { iterations: 12, salt: [0xaa, 0xbb, 0xcc, 0xdd].into(), chain: Vec::new() };
        for (name, expected) in [
            (&b"\x07example\0"[..], b"0p9mhaveqvm6t7vbl5lop2u3t2rp3tom"),
            (b"\x01a\x07example\0", b"35mthgpgcu1qg68fab165klnsnk3dpvl"),
            (b"\x01*\x01w\x07example\0", b"r53bq7cc2uvmubfu5ocmm6pers9tk9en"),
        ] {
            let hash = nsec3.hash(name);
            assert_eq!(&label(&hash)[1..], expected);
            assert_eq!(from_label(expected), Some(hash));
        }
        assert_eq!(from_label(b"0p9mhaveqvm6t7vbl5lop2u3t2rp3tow"), None);
    }
}

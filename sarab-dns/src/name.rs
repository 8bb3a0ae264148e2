//! Names in wire format, uncompressed and in lower case: labels with their lengths, to the root's.

use core::cmp::Ordering;
use core::fmt;

/// Most bytes of a name (RFC 1035, section 2.3.4).
pub(crate) const MAX_NAME: usize = 255;
/// Most labels that so many bytes have.
const MAX_LABELS: usize = 127;

/// A name's labels, and hashes of what is from each of them on, which do not depend on case.
pub(crate) struct Labels {
    count: usize,
    starts: [u8; MAX_LABELS],
    hashes: [u32; MAX_LABELS + 1],
}

const PRIME: u64 = 0x517c_c1b7_2722_0a95;
const ROOT: u64 = 0x9e37_79b9_7f4a_7c15;

fn fold(state: u64, label: &[u8]) -> u64 {
    let mut state = (state ^ label.len() as u64).wrapping_mul(PRIME);
    for chunk in label.chunks(4) {
        let word = chunk.iter().fold(0u64, |word, byte| (word << 8) | u64::from(byte.to_ascii_lowercase()));
        state = (state.rotate_left(23) ^ word).wrapping_mul(PRIME);
    }
    state
}

fn finish(state: u64) -> u32 {
    ((state ^ (state >> 29)).wrapping_mul(PRIME) >> 32) as u32
}

impl Labels {
    /// Of a name that is valid.
    pub fn of(name: &[u8]) -> Labels {
        let mut labels = Labels { count: 0, starts: [0; MAX_LABELS], hashes: [0; MAX_LABELS + 1] };
        let mut at = 0;
        while let Some(len @ 1..) = name.get(at).copied() {
            labels.starts[labels.count] = at as u8;
            labels.count += 1;
            at += 1 + usize::from(len);
        }
        let mut state = ROOT;
        labels.hashes[labels.count] = finish(state);
        for index in (0..labels.count).rev() {
            let start = usize::from(labels.starts[index]);
            let len = usize::from(name[start]);
            state = fold(state, &name[start + 1..start + 1 + len]);
            labels.hashes[index] = finish(state);
        }
        labels
    }

    /// How many, without the root's.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Where a label begins, and with it a name that the whole one is below; the last is the root.
    pub fn start(&self, index: usize, name: &[u8]) -> usize {
        if index < self.count { usize::from(self.starts[index]) } else { name.len() - 1 }
    }

    /// The hash of what begins with a label.
    pub fn hash(&self, index: usize) -> u32 {
        self.hashes[index]
    }
}

/// The hash of a whole name.
pub(crate) fn hash(name: &[u8]) -> u32 {
    Labels::of(name).hash(0)
}

/// The name above; `None` for the root.
pub(crate) fn parent(name: &[u8]) -> Option<&[u8]> {
    match name.first() {
        None | Some(0) => None,
        Some(len) => name.get(1 + usize::from(*len)..),
    }
}

/// Whether a name is this one or below it.
pub(crate) fn is_within(name: &[u8], above: &[u8]) -> bool {
    let mut rest = name;
    loop {
        if rest.len() <= above.len() {
            return rest == above;
        }
        match parent(rest) {
            Some(next) => rest = next,
            None => return false,
        }
    }
}

/// How many labels a name has, without the root's.
pub(crate) fn count(name: &[u8]) -> usize {
    core::iter::successors(Some(name), |name| parent(name)).count() - 1
}

/// The order of RFC 4034, section 6.1.
pub(crate) fn compare(left: &[u8], right: &[u8]) -> Ordering {
    let (one, other) = (Labels::starts_of(left), Labels::starts_of(right));
    let label = |name: &'_ [u8], at: u8| -> (usize, usize) {
        let at = usize::from(at);
        (at + 1, at + 1 + usize::from(name[at]))
    };
    for (first, second) in one.iter().rev().zip(other.iter().rev()) {
        let (from, to) = label(left, *first);
        let (begin, end) = label(right, *second);
        match left[from..to].cmp(&right[begin..end]) {
            Ordering::Equal => {}
            order => return order,
        }
    }
    one.len().cmp(&other.len())
}

impl Labels {
    fn starts_of(name: &[u8]) -> heapless::Vec<u8, MAX_LABELS> {
        let mut starts = heapless::Vec::new();
        let mut at = 0;
        while let Some(len @ 1..) = name.get(at).copied() {
            // A valid name has no more.
            let _ = starts.push(at as u8);
            at += 1 + usize::from(len);
        }
        starts
    }
}

/// A name as text, with the dot at its end.
pub(crate) struct Text<'a>(pub &'a [u8]);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        if rest.len() <= 1 {
            return f.write_str(".");
        }
        while let Some(next) = parent(rest) {
            for byte in &rest[1..rest.len() - next.len()] {
                match byte {
                    b'.' | b'"' | b';' | b'\\' | b'(' | b')' | b'@' | b'$' => write!(f, "\\{}", *byte as char)?,
                    0x21..=0x7e => write!(f, "{}", *byte as char)?,
                    _ => write!(f, "\\{byte:03}")?,
                }
            }
            f.write_str(".")?;
            rest = next;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;
    use alloc::vec::Vec;

    use super::*;

    fn wire(text: &str) -> Vec<u8> {
        let mut name = Vec::new();
        for label in text.split('.').filter(|label| !label.is_empty()) {
            name.push(label.len() as u8);
            name.extend_from_slice(label.as_bytes());
        }
        name.push(0);
        name
    }

    #[test]
    fn order_is_that_of_rfc_4034() {
        let sorted =
            ["example", "a.example", "yljkjljk.a.example", "z.a.example", "zabc.a.example", "z.example", "*.z.example"];
        for (index, first) in sorted.iter().enumerate() {
            for (place, second) in sorted.iter().enumerate() {
                assert_eq!(compare(&wire(first), &wire(second)), index.cmp(&place), "{first} {second}");
            }
        }
    }

    #[test]
    fn suffixes_have_the_hash_of_their_own() {
        let name = wire("www.a-long-label.example.org");
        let labels = Labels::of(&name);
        assert_eq!(labels.count(), 4);
        for index in 0..=4 {
            assert_eq!(labels.hash(index), hash(&name[labels.start(index, &name)..]));
        }
        assert!(is_within(&name, &wire("example.org")) && is_within(&name, &name) && is_within(&name, &[0]));
        assert!(!is_within(&name, &wire("ample.org")) && !is_within(&wire("org"), &name));
        assert_eq!((count(&name), count(&[0])), (4, 0));
        assert_eq!(Text(&name).to_string(), "www.a-long-label.example.org.");
    }
}

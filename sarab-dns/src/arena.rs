//! Bytes of names and records, without a copy when it grows.

use alloc::vec::Vec;

/// Bytes of a chunk, unless something larger begins it.
const CHUNK: usize = 1 << 16;

/// Where something is: the chunk's number, and the place in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct At(u32);

/// Each thing is a length of two bytes, and so many bytes.
#[derive(Default, PartialEq, Eq)]
pub(crate) struct Arena {
    chunks: Vec<Vec<u8>>,
}

impl Arena {
    /// Keeps these, which are 65,535 at most. `None` where all places are given out.
    pub fn push(&mut self, bytes: &[u8]) -> Option<At> {
        let len = u16::try_from(bytes.len()).ok()?.to_be_bytes();
        let need = bytes.len() + 2;
        if self.chunks.last().is_none_or(|last| last.capacity() - last.len() < need || last.len() >= CHUNK) {
            if self.chunks.len() >= CHUNK {
                return None;
            }
            // The first one is small: many zones are.
            let least = if self.chunks.is_empty() { 1 << 12 } else { CHUNK };
            self.chunks.push(Vec::with_capacity(need.max(least)));
        }
        let number = self.chunks.len() - 1;
        let chunk = &mut self.chunks[number];
        let at = At(((number as u32) << 16) | chunk.len() as u32);
        chunk.extend_from_slice(&len);
        chunk.extend_from_slice(bytes);
        Some(at)
    }

    pub fn get(&self, at: At) -> &[u8] {
        let place = (at.0 & 0xffff) as usize;
        let chunk = &self.chunks[(at.0 >> 16) as usize];
        let len = usize::from(u16::from_be_bytes([chunk[place], chunk[place + 1]]));
        &chunk[place + 2..place + 2 + len]
    }

    /// Bytes of memory that it takes.
    pub fn bytes(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.capacity() + size_of::<Vec<u8>>()).sum()
    }

    /// Gives back what nothing was put into.
    pub fn shrink(&mut self) {
        if let Some(last) = self.chunks.last_mut() {
            last.shrink_to_fit();
        }
        self.chunks.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_pushed_is_found() {
        let mut arena = Arena::default();
        let lens = [0, 1, 5, 4000, 65_535, 3, 65_530, 65_535, 17];
        let places: Vec<_> = lens.iter().map(|len| arena.push(&alloc::vec![*len as u8; *len]).unwrap()).collect();
        for (at, len) in places.iter().zip(lens) {
            assert_eq!(arena.get(*at), alloc::vec![len as u8; len]);
        }
        assert_eq!(arena.push(&[0; 65_536]), None);
    }
}
